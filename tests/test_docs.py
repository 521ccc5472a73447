"""What the pages say is so."""

import json
import re
import shlex

import anyphoto_cli
from anyphoto_cli.config.method import MethodConfig
from anyphoto_cli.config.preprocess import PreprocessConfig
from anyphoto_cli.config.train import DataConfig, LossConfig, TrainConfig
from anyphoto_cli.generate.png_metadata import read_record
from anyphoto_cli.layout.schema import Layout, LayoutFace, parse_layout
from tests.conftest import ROOT

PAGES = {page.name: page.read_text() for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]}


def test_every_public_name_and_key_is_documented_and_resolves():
    for name in anyphoto_cli.__all__[1:]:
        assert getattr(anyphoto_cli, name) is not None
        assert name in PAGES["api.md"], name
    for key in MethodConfig.model_fields:
        assert f"| `{key}` |" in PAGES["method.md"], key
    for key in [*Layout.model_fields, *LayoutFace.model_fields]:
        assert f"`{key}`" in PAGES["layout.md"], key


def test_descriptions_in_the_method_page_are_the_code_s():
    for key, field in MethodConfig.model_fields.items():
        assert field.description in PAGES["method.md"], key


def test_every_key_of_preprocess_is_in_its_table():
    for key, field in PreprocessConfig.model_fields.items():
        assert re.search(
            rf"^\| `{key}` \| .* \| {re.escape(field.description)} \|$", PAGES["preprocess.md"], re.MULTILINE
        ), key


def test_every_key_of_train_is_in_its_table():
    parts = [("", TrainConfig), ("data.", DataConfig), ("loss.", LossConfig)]
    for path, model in parts:
        for key, field in model.model_fields.items():
            if key not in ("data", "loss", "method"):
                assert f"| `{path}{key}` | " in PAGES["train.md"] and field.description in PAGES["train.md"], key


def test_commands_in_the_pages_exist(run):
    """Every `anyphoto ...` line of a code block names a command and options that its --help knows."""
    found = 0
    for text in PAGES.values():
        for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL):
            for line in block.splitlines():
                words = shlex.split(line, comments=True)
                if not words or words[0] != "anyphoto":
                    continue
                found += 1
                group = words[1] in ("layout", "mini", "bench", "faces") or (
                    words[1] == "train" and words[2] in ("init", "preview", "presets", "plot", "sweep")
                )
                command = words[1:3] if group else [words[1], "run"] if words[1] == "train" else words[1:2]
                help_text = run(*command, "--help")[1]
                for option in (w for w in words if w.startswith("-")):
                    assert option in help_text, (line, option)
    assert found >= 6


def test_the_readme_s_layout_is_valid(tmp_path):
    [block] = re.findall(r"```json\n(.*?)```", PAGES["README.md"], re.DOTALL)
    assert len(parse_layout(json.loads(block), tmp_path / "readme.json").faces) == 2


def test_links_lead_somewhere():
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\((?!http|#)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), (page.name, target)


def test_the_example_renders_from_its_own_pictures(run, tmp_path, face_pack_folder, monkeypatch):
    """By a pack for photos too, though the default base brings an adapter for drawn faces."""
    example = ROOT / "examples" / "two_people.json"
    code, out, err = run("layout", "check", example)
    assert code == 0 and "Warning" not in err and "240 tokens" in out
    monkeypatch.delenv("ANYPHOTO_GENERATE_MODEL")
    code, _, err = run("generate", example, "--face-pack", face_pack_folder, "-o", tmp_path, "--steps", "1", "-q")
    assert code == 0 and "The adapter that came with mini is left out" in err, err
    assert read_record(tmp_path / "two_people_seed7.png")["adapter"] is None
