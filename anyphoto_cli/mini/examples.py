"""The example layouts of drawn people, for who has the package and no checkout: `anyphoto mini examples`."""

from __future__ import annotations

from pathlib import Path

from anyphoto_cli.errors import EnvironmentFault, InputError
from anyphoto_cli.files.commit import committed

LAYOUTS = ("three_friends.json", "two_friends.json")
PORTRAITS = "drawn_people"


def write_examples(out: Path) -> list[Path]:
    """Write LAYOUTS and their references below `out`; returns the layouts. What is there already stays.

    Raises InputError where another file has such a name, EnvironmentFault where the package came without them.
    """
    source = _source()
    names = [*LAYOUTS, *(f"{PORTRAITS}/{file.name}" for file in sorted((source / PORTRAITS).glob("*.png")))]
    contents = {name: (source / name).read_bytes() for name in names}
    for name, content in contents.items():
        if (out / name).exists() and not ((out / name).is_file() and (out / name).read_bytes() == content):
            remedy = "Name another folder with -o"
            raise InputError("exists and is another one", file=out / name, field="--out", remedy=remedy)
    for name, content in contents.items():
        if not (out / name).exists():
            with committed(out / name) as file:
                file.write(content)
    return [out / name for name in LAYOUTS]


def _source() -> Path:
    """In an installed package beside this file, in a checkout its examples/."""
    for folder in (Path(__file__).parent / "example_layouts", Path(__file__).parents[2] / "examples"):
        if all((folder / name).is_file() for name in LAYOUTS):
            return folder
    raise EnvironmentFault("the examples did not come with this package", remedy="Install anyphoto again")
