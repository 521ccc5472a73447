"""How `make mini`, `make ablation` and `make mini-report` end: with a line and an exit code, as `anyphoto` does."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from anyphoto_cli.errors import AnyPhotoError, InputError
from anyphoto_cli.runtime.signals import GO_ON, Terminated

CUT_OFF = 3
"""The exit code of work that was ended in time and goes on when it is asked for again: no error."""


@contextmanager
def ended_in_a_line() -> Iterator[None]:
    """Raises SystemExit for a refusal, Ctrl-C (130), or SIGTERM (143) where that is an exception. Else it stays what it
    is: processes of a stage end, saved, once they see that the one that started them is gone.
    """
    try:
        yield
    except AnyPhotoError as error:
        _end(f"{'' if error.exit_code == CUT_OFF else 'Error: '}{error}", error.exit_code)
    except KeyboardInterrupt:
        _end(f"Interrupted. {GO_ON}", 130)
    except Terminated:
        _end(f"Terminated. {GO_ON}", 143)


def _end(line: str, code: int) -> None:
    print(line, file=sys.stderr)
    sys.exit(code)


def refuse_below(least: int, option: str, value: float | None) -> None:
    """Raises InputError for a value that is smaller; None is one that was not given."""
    if value is not None and not value >= least:
        raise InputError(f"{value} is not {least} or more", field=option)
