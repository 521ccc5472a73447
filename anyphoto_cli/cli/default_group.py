"""A group with a default: `anyphoto layout FILE` is `anyphoto layout check FILE`."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperGroup


class DefaultGroup(TyperGroup):
    """Set `default` in a subclass (`default_group("check")`): the sub-command taken when the first word is none."""

    default = ""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the default in front, unless a sub-command, help, or a misspelt sub-command stands there."""
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            close = get_close_matches(args[0], list(self.commands), 1)
            if close and not Path(args[0]).exists():
                ctx.fail(f"No such command {args[0]!r}. Did you mean {close[0]!r}?")
            args = [self.default, *args]
        return super().parse_args(ctx, args)


def default_group(default: str, help: str) -> typer.Typer:
    """A Typer app whose `default` sub-command needs no naming."""
    cls = type("DefaultGroup", (DefaultGroup,), {"default": default})
    return typer.Typer(
        cls=cls,
        add_completion=False,
        no_args_is_help=True,
        help=help,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
