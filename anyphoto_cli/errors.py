"""The two ways in which anyphoto says no, each one line that a user can act on."""

from __future__ import annotations


def one_line(text: str) -> str:
    """Text from files and names, safe to print: control and direction characters are shown, not obeyed."""
    unsafe = {"\u202a", "\u202b", "\u202c", "\u202d", "\u202e", "\u2066", "\u2067", "\u2068", "\u2069"}
    return "".join(c if (c.isprintable() or c == " ") and c not in unsafe else repr(c)[1:-1] for c in text)


class AnyPhotoError(Exception):
    """A refusal. Its text is one line: where, what, what to do.

    file, field: where it is wrong, as the user knows it (`trip.json`, `faces[1].landmarks`); either may be "".
    what: what is wrong. remedy: what to do about it, a sentence, or "".
    """

    exit_code = 1

    def __init__(self, what: str, *, file: object = "", field: str = "", remedy: str = "") -> None:
        self.what, self.file, self.field, self.remedy = what, str(file), field, remedy
        super().__init__(str(self))

    def __str__(self) -> str:
        where = [part for part in (self.file, self.field) if part]
        line = ": ".join([*where, self.what])
        return one_line(f"{line}. {self.remedy}" if self.remedy else line)

    def __reduce__(self) -> tuple[object, ...]:
        """Whole on its way from a worker process."""
        return _again, (type(self), self.what, self.file, self.field, self.remedy)

    def at(self, *, file: object, field: str) -> AnyPhotoError:
        """The same refusal, told from the file and field that led to it."""
        what = f"{self.file}: {self.what}" if self.file else self.what
        return type(self)(what, file=file, field=field, remedy=self.remedy)


class InputError(AnyPhotoError):
    """The input is wrong; nothing was done. Exit code 2."""

    exit_code = 2


class EnvironmentFault(AnyPhotoError):
    """The machine lacks something: a package, a model, memory, disk. Exit code 1."""

    exit_code = 1


class PictureFault(EnvironmentFault):
    """One picture cannot be made with these weights and this precision; others may be. Exit code 1."""


def _again(kind: type[AnyPhotoError], what: str, file: str, field: str, remedy: str) -> AnyPhotoError:
    return kind(what, file=file, field=field, remedy=remedy)
