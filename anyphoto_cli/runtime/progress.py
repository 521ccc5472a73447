"""What long work tells whoever watches; the command line draws it, a library user may ignore it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # numpy would make every --help wait
    from anyphoto_cli.types import Picture


class Listener:
    """Hears about progress. Every method may be overridden; this one says nothing."""

    def notice(self, text: str) -> None:
        """One sentence the user should read: a choice made, a licence, a limit."""

    def caution(self, text: str) -> None:
        """One sentence on something that will likely not come out as meant."""

    def stage(self, text: str) -> None:
        """What is being done now, when it takes a while: loading, hashing."""

    def work(self, label: str, total: int, done: int = 0) -> None:
        """Counted work begins; `done` of it was done before. Ends with `end`."""

    def done(self, count: int, told: str = "") -> None:
        """So much more of it is done; told: what there is to say about all of it so far."""

    def begin(self, pictures: int, steps: int) -> None:
        """How many pictures will be rendered, and denoising steps in all of them."""

    def step(self) -> None:
        """One denoising step is done."""

    wants_preview = False
    """Whether `preview` is to be called, which costs a little at every step."""

    def preview(self, picture: Picture) -> None:
        """[H/8, W/8, 3]: about what the picture under way is going to be."""

    def picture(self, path: Path, skipped: bool) -> None:
        """A picture is finished, or was finished before."""

    def end(self) -> None:
        """No more steps, or no more of this work, will follow."""


class Passing(Listener):
    """Passes everything on to another listener; for who wants to hear one thing on its way."""

    def __init__(self, inner: Listener) -> None:
        self.inner = inner
        self.wants_preview = inner.wants_preview

    def notice(self, text: str) -> None:
        """Passed on."""
        self.inner.notice(text)

    def caution(self, text: str) -> None:
        """Passed on."""
        self.inner.caution(text)

    def stage(self, text: str) -> None:
        """Passed on."""
        self.inner.stage(text)

    def work(self, label: str, total: int, done: int = 0) -> None:
        """Passed on."""
        self.inner.work(label, total, done)

    def done(self, count: int, told: str = "") -> None:
        """Passed on."""
        self.inner.done(count, told)

    def begin(self, pictures: int, steps: int) -> None:
        """Passed on."""
        self.inner.begin(pictures, steps)

    def step(self) -> None:
        """Passed on."""
        self.inner.step()

    def preview(self, picture: Picture) -> None:
        """Passed on."""
        self.inner.preview(picture)

    def picture(self, path: Path, skipped: bool) -> None:
        """Passed on."""
        self.inner.picture(path, skipped)

    def end(self) -> None:
        """Passed on."""
        self.inner.end()
