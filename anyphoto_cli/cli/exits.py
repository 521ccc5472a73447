"""How a run ends: one line for what went wrong, and the exit code that says so to scripts."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from typer.exceptions import Abort, TyperException

from anyphoto_cli.cli import bars
from anyphoto_cli.errors import AnyPhotoError, one_line
from anyphoto_cli.runtime.signals import GO_ON, Terminated, terminate_as_exception

INTERRUPTED, TERMINATED = 130, 143
_YES = frozenset({"1", "true", "t", "yes", "y", "on"})
"""What typer takes for a flag that is set."""


def exit_code_of(run: Callable[[], Any], arguments: Sequence[str]) -> int:
    """Run a command line; print what ended it, as a line or (--json) as one document. No traceback for known faults."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # names in other scripts must print under LC_ALL=C too
            stream.reconfigure(errors="backslashreplace")
    as_json = "--json" in arguments or os.environ.get("ANYPHOTO_JSON", "").lower() in _YES
    try:
        Path.cwd()
    except OSError:  # torch could not be loaded there, and says so in words of its own
        return _fail("the current folder is gone. Change into one that is there", 1, as_json, None)
    try:
        with terminate_as_exception(), bars.taken_away():
            code = run()
    except AnyPhotoError as error:
        return _fail(str(error), error.exit_code, as_json, error)
    except TyperException as error:
        if error.__class__.__name__ == "NoArgsIsHelpError":
            print(error.format_message())
            return 2
        return _fail(error.format_message(), 2, as_json, None)
    except Abort:
        return _fail("Aborted", INTERRUPTED, as_json, None)
    except Terminated:
        return _fail(f"Terminated. {GO_ON}", TERMINATED, as_json, None)
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    except SystemExit as ended:
        if isinstance(ended.__context__, OSError):  # who read along has read enough; rich and click call that 1
            return 0
        return ended.code if isinstance(ended.code, int) else 1
    except OSError as error:
        told = f"the machine refused: {error}"
        with suppress(OSError):  # a full disk behind stdout, say
            code = _fail(told, 1, as_json, None)
            sys.stdout.flush()
            return code
        return _fail(told, 1, as_json=False, error=None)
    if code == INTERRUPTED:
        return _fail(f"Interrupted. {GO_ON}", code, as_json, None)
    return code if isinstance(code, int) else 0


def _fail(line: str, code: int, as_json: bool, error: AnyPhotoError | None) -> int:
    if as_json:
        parts = {"file": error.file, "field": error.field} if error else {"file": "", "field": ""}
        print(json.dumps({"error": {"code": code, "message": line, **parts}}))
    else:
        print(f"Error: {one_line(line)}", file=sys.stderr)
    return code
