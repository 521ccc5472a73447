# `make` alone lists what there is. `make demo` and `make test` do their own set-up.
PYTHON ?= python3
VENV   ?= .venv
# What it was made with: `make test` after `make install TORCH=torch EXTRAS=gpu,dev` changes nothing.
-include $(VENV)/.made-with
TORCH  ?= torch==2.13.0
EXTRAS ?= dev
OUT    ?= out/demo
BIN    := $(VENV)/bin

# Wheels that pip is told to find (find-links) win; elsewhere uv picks the CPU or CUDA build of torch for this machine.
FIND_LINKS    := $(shell $(PYTHON) -m pip config list 2>/dev/null | sed -n "s/.*find-links='\(.*\)'/\1/p" | head -1)
TORCH_BACKEND ?= auto
UV = $(if $(FIND_LINKS),UV_FIND_LINKS="$(FIND_LINKS)",UV_TORCH_BACKEND=$(TORCH_BACKEND)) \
     $(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python

# Other settings, another stamp: what was installed with those before is no install of these.
STAMP := $(VENV)/.installed-$(shell printf '%s' '$(TORCH) $(EXTRAS) $(TORCH_BACKEND)' | cksum | cut -d' ' -f1)

.PHONY: help install demo test test-lowest test-slow lint fix mini mini-report ablation benchmarks clean

help:  ## This list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

install: $(STAMP)  ## Make .venv and install the package with its development tools

$(STAMP): pyproject.toml Makefile
	@test -x $(BIN)/uv || { echo "Making $(VENV) ..."; $(PYTHON) -m venv $(VENV) && $(BIN)/python -m pip install --quiet uv; }
	@echo "Installing anyphoto and its dependencies into $(VENV) (about 2 GB; a minute or two) ..."
	@$(UV) "$(TORCH)" -e ".[$(EXTRAS)]"
	@rm -f $(VENV)/.installed-* && touch $@
	@printf 'TORCH ?= %s\nEXTRAS ?= %s\nTORCH_BACKEND ?= %s\n' '$(TORCH)' '$(EXTRAS)' '$(TORCH_BACKEND)' > $(VENV)/.made-with

demo: install  ## Photos, shards, training, pictures and scores in the small world, in minutes; prints the page to open
	@$(BIN)/anyphoto layout preview examples/two_friends.json --face-pack mini -o $(OUT)/two_friends_layout.png
	@$(BIN)/anyphoto generate examples/two_friends.json -o $(OUT)
	@$(BIN)/anyphoto mini demo -o $(OUT)/life

test: install  ## Run the tests, on four cores at most
	@$(BIN)/python -m pytest -n logical --maxprocesses 4 --dist worksteal

LOWEST_TORCH = $(shell sed -n 's/.*"torch>=\([0-9.]*\),.*/torch==\1.*/p' pyproject.toml)

test-lowest:  ## The tests with the lowest versions that pyproject.toml allows, in .venv-lowest
	@$(MAKE) --no-print-directory test VENV=.venv-lowest TORCH="$(LOWEST_TORCH)" UV_RESOLUTION=lowest-direct

test-slow: install  ## What takes minutes: real photos learnt by heart, a small ablation from photos to scores
	@$(BIN)/python -m pytest -m slow

# What the standard library has on this system and not on another; the full check again for each would take minutes.
ELSEWHERE = $(BIN)/mypy --config-file= --python-version 3.11 --follow-imports=skip --ignore-missing-imports \
	--check-untyped-defs -p anyphoto_cli

lint: install  ## ruff, mypy, the import direction, and what macOS and Windows lack
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/lint-imports
	@$(BIN)/ruff check --preview --select PLW1514 .  # text is UTF-8 wherever it is read, on Windows, too
	@for system in darwin win32; do \
		told=$$($(ELSEWHERE) --platform $$system --cache-dir .mypy_cache/$$system); \
		if [ $$? -gt 1 ] || echo "$$told" | grep "Module has no attribute"; then echo "$$system: $$told" | tail -1; exit 1; fi; done

fix: install  ## Let ruff mend what it can
	@$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

mini: install  ## Train the models of the small world again (hours; resumable; MINI="--minutes 9 --device cuda" and the like)
	@$(BIN)/python -m anyphoto_cli.mini.pretrain $(MINI)

mini-report: install  ## Measure the shipped small models; write their card and pictures
	@$(BIN)/python -m anyphoto_cli.mini.report

ablation: install  ## Train and score the paper's ablations in the small world (hours; resumable; ABLATION="--seeds 0 --minutes 60")
	@$(BIN)/python -m anyphoto_cli.mini.ablation $(ABLATION)

benchmarks: install  ## Measure, print a table, write docs/performance/
	@$(BIN)/python -m benchmarks

clean:  ## Remove .venv, caches and rendered pictures
	rm -rf $(VENV) out .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
