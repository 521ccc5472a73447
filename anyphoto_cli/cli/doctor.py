"""`anyphoto doctor`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import typer

from anyphoto_cli.cli import console
from anyphoto_cli.cli.app import DOCS
from anyphoto_cli.cli.options import Json, Verbose

if TYPE_CHECKING:
    from anyphoto_cli.doctor import Finding

app = typer.Typer(add_completion=False, context_settings={"help_option_names": ["-h", "--help"]})
_MARK = {"ok": ("✓", "green"), "note": ("·", "default"), "missing": ("–", "yellow"), "broken": ("✗", "red")}


@app.command(epilog=f"Examples: anyphoto doctor   |   anyphoto doctor --json\n\n{DOCS}")
def doctor(as_json: Json = False, verbose: Verbose = False) -> int:
    """What this machine has, what is missing, and the command that mends it. Exit code 1 when something is broken."""
    console.hush_libraries(verbose)
    from anyphoto_cli.doctor import examine

    findings = examine()
    broken = any(finding.status == "broken" for finding in findings)
    if as_json:
        console.document({"healthy": not broken, "findings": [asdict(finding) for finding in findings]})
    else:
        _print(findings)
    return 1 if broken else 0


def _print(findings: list[Finding]) -> None:
    from rich.console import Console
    from rich.text import Text

    screen, section = Console(highlight=False, soft_wrap=True), ""
    for finding in findings:
        if finding.section != section:
            section = finding.section
            screen.print(Text(f"\n{section}", style="bold"))
        mark, colour = _MARK[finding.status]
        screen.print(Text(f"  {mark} ", style=colour) + Text(finding.text))
        if finding.remedy:
            screen.print(Text(f"      → {finding.remedy}", style="cyan"))
