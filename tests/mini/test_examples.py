"""The examples for who has no checkout."""

import tomllib

import pytest

from anyphoto_cli.errors import EnvironmentFault
from anyphoto_cli.layout.check import check_layout
from anyphoto_cli.layout.schema import load_layout
from anyphoto_cli.mini import examples
from tests.conftest import ROOT


def test_examples_are_those_of_the_checkout_and_stay_what_a_user_made_of_them(run, tmp_path):
    out = tmp_path / "examples"
    code, said, err = run("mini", "examples", "-o", out)
    assert (
        code == 0 and said == f"anyphoto generate {out}/three_friends.json\nanyphoto generate {out}/two_friends.json\n"
    )
    written = sorted(file.relative_to(out) for file in out.rglob("*.*"))
    assert len(written) == 5 and all(
        (out / name).read_bytes() == (ROOT / "examples" / name).read_bytes() for name in written
    )
    assert [len(check_layout(load_layout(out / name)).faces) for name in examples.LAYOUTS] == [3, 2]
    (out / "drawn_people" / "mia.png").unlink()
    assert run("mini", "examples", "-o", out)[0] == 0 and (out / "drawn_people" / "mia.png").is_file()
    (out / "two_friends.json").write_text("{}")
    code, said, err = run("mini", "examples", "-o", out)
    assert code == 2 and "two_friends.json: --out: exists and is another one" in err and not said
    assert (out / "two_friends.json").read_text() == "{}"


def test_the_package_brings_what_the_command_writes(tmp_path, monkeypatch):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    brought = project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    names = [*examples.LAYOUTS, examples.PORTRAITS]
    assert brought == {f"examples/{name}": f"anyphoto_cli/mini/example_layouts/{name}" for name in names}
    monkeypatch.setattr(examples, "__file__", str(tmp_path / "a" / "b" / "c.py"))
    with pytest.raises(EnvironmentFault, match="did not come with this package. Install anyphoto again"):
        examples.write_examples(tmp_path / "out")
