"""`anyphoto`: every command's name and one-line help. A command's module is imported when it is called."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup

DOCS = "Documentation: README.md and docs/"
COMMANDS = {
    "preprocess": "Turn photos and known faces into captioned training shards.",
    "train": "Train location LoRA and identity projector on such shards.",
    "export": "Write a trained adapter as a model folder with its card, or upload it to the hub.",
    "generate": "Render pictures from layout files.",
    "verify": "Hold pictures against a layout: likeness, place, who is missing, extra, swapped.",
    "provenance": "Say what a picture knows of how it was made, and whether it was changed since.",
    "bench": "Score pictures by MultiID-Bench; published rows and ours in one table.",
    "layout": "Make, check and preview layout files.",
    "faces": "Measure from which cosine on a face pack takes two faces for one person's.",
    "mini": "Draw photos and reference faces of the small world that the embedded model knows.",
    "doctor": "Say what this machine has and lacks, and what mends it.",
}
TEXTS = ("--prompt",)
"""Options that may be told an empty text."""


class Deferred(TyperCommand):
    """Stands in for a command until it is called, so that `--help` imports nothing heavy."""

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        """The context of the real command."""
        module = import_module(f"anyphoto_cli.cli.{self.name}")
        return typer.main.get_command(module.app).make_context(*args, **kwargs)


class DeferredGroup(TyperGroup):
    """The commands of `COMMANDS`, each deferred."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = {name: Deferred(name, help=text) for name, text in COMMANDS.items()}


app = typer.Typer(
    cls=DeferredGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # the list of commands answers at once; typer's rich help alone costs 60 ms to import
    # Every option can stand in the environment: ANYPHOTO_GENERATE_STEPS=8.
    context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "ANYPHOTO"},
    epilog="Start with: anyphoto mini examples, then: anyphoto generate examples/three_friends.json --annotate\n\n"
    f"{DOCS}",
)


def _show_version(asked: bool) -> None:
    if asked:
        from anyphoto_cli import __version__

        typer.echo(f"anyphoto {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            "-V",
            callback=_show_version,
            is_eager=True,
            allow_from_autoenv=False,
            help="Print the version.",
        ),
    ] = False,
) -> None:
    """Several real people, from one reference face each, at chosen places in one generated picture."""


def refuse_empty_words(arguments: list[str]) -> None:
    """An empty word is mostly a shell variable without a value; as a path it would mean the current folder.

    Raises InputError. Texts may be empty.
    """
    from anyphoto_cli.errors import InputError

    for before, word in zip(["", *arguments], arguments, strict=False):
        option, is_one, value = word.partition("=") if word.startswith("--") else (word, "", "")
        if (word == "" and before not in TEXTS) or (is_one and not value and option not in TEXTS):
            shown = option if is_one else before
            field = shown if shown.startswith("-") else "arguments"
            raise InputError("an empty word is no value", field=field, remedy="Has a shell variable no value?")


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run a command line and exit: 0 done, 1 environment fault, 2 bad input, 3 done with a finding, 130/143 signals."""
    arguments = sys.argv[1:] if arguments is None else arguments
    from anyphoto_cli.cli.exits import exit_code_of

    def run() -> object:
        refuse_empty_words(arguments)
        return app(arguments, prog_name="anyphoto", standalone_mode=False)

    sys.exit(exit_code_of(run, arguments))


if __name__ == "__main__":
    main()
