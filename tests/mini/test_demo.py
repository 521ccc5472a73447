"""The demo: what it benches, and how long it says it took, over calls that were cut off."""

import pytest

from anyphoto_cli.cli import mini
from anyphoto_cli.errors import InputError
from anyphoto_cli.mini import commands, demo, shipped


@pytest.fixture
def ran(monkeypatch):
    """What was run; each takes ten seconds, of a clock that stands still otherwise."""
    ran, clock = [], [0.0]

    def ten_seconds(out, words):
        ran.append(words)
        clock[0] += 10
        if words[0] == "preprocess" and sum(one[0] == "preprocess" for one in ran) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(demo, "run_command", ten_seconds)
    monkeypatch.setattr(demo.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(demo, "write_layouts", lambda *_: None)
    monkeypatch.setattr(demo, "save_untrained", lambda like, folder: folder)
    monkeypatch.setattr(demo, "page", lambda out, told: repr(told).encode())
    return ran


def test_the_seconds_of_all_calls_count_until_a_command_is_through(tmp_path, ran):
    with pytest.raises(KeyboardInterrupt):
        demo.run_demo(tmp_path)
    took = dict(demo.run_demo(tmp_path).commands)
    assert [seconds for command, seconds in took.items() if "preprocess " in command] == [20]
    assert {seconds for command, seconds in took.items() if "preprocess " not in command} == {10}
    assert dict(demo.run_demo(tmp_path).commands) == took  # looked at again, nothing was made


def test_the_table_has_what_a_gain_is_told_against(tmp_path, ran):
    with pytest.raises(KeyboardInterrupt):
        demo.run_demo(tmp_path)
    demo.run_demo(tmp_path)
    benched = {words[words.index("-o") + 1]: words for words in ran if words[0] == "bench"}
    assert list(benched) == list(demo._ROWS) == ["alone", "nothing-learned", "as-it-came", "trained"]
    assert str(shipped.adapter_folder()) in benched["as-it-came"] and "untrained" in benched["nothing-learned"]
    assert demo._ROWS["trained"].format(steps=40) == "40 steps later"


def test_what_it_cannot_do_is_refused_before_anything_is_made(tmp_path, run):
    (tmp_path / "file").write_text("mine")
    for words, line in (
        (("-o", tmp_path / "a", "--steps", 0), "Error: --steps: 0 is not 1 or more"),
        (("-o", tmp_path / "file"), f"Error: {tmp_path}/file: --out: is no folder. Name a new one"),
    ):
        code, _, err = run("mini", "demo", *words)
        assert code == 2 and err.strip() == line and not (tmp_path / "a").exists()


def test_other_steps_than_it_began_with_are_told_before_a_command_runs(tmp_path, ran):
    with pytest.raises(KeyboardInterrupt):
        demo.run_demo(tmp_path, 40)
    demo.run_demo(tmp_path, 30)  # nothing is trained yet
    (tmp_path / "run").mkdir()
    before = len(ran)
    with pytest.raises(InputError, match="steps: this run began with 30, now it is 40. Go on with what it began with"):
        demo.run_demo(tmp_path, 40)
    assert len(ran) == before
    demo.run_demo(tmp_path, 30)


def test_damaged_seconds_are_told_before_a_command_runs(tmp_path, ran):
    (tmp_path / "seconds.json").write_text("{")
    with pytest.raises(InputError, match=r"seconds.json: cannot be read \(JSONDecodeError\)"):
        demo.run_demo(tmp_path)
    assert not ran


def test_a_command_that_is_interrupted_keeps_what_it_has_done(tmp_path, monkeypatch):
    """It was killed where it stood, beside the Ctrl-C that it had heard itself."""
    script = "trap 'touch kept; exit 1' TERM; echo begun >&2; while :; do sleep .02; done"
    real = commands.Popen
    monkeypatch.setattr(commands, "Popen", lambda words, **more: real(["sh", "-c", script], **more))
    monkeypatch.setattr(commands, "HEARD_S", 0.05)

    def interrupted(line):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        commands.run_command(tmp_path, ("train",), said=interrupted)
    assert (tmp_path / "kept").is_file()


def test_libraries_are_hushed_before_a_model_is_opened(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(mini.console, "hush_libraries", lambda verbose: said.append("hushed"))
    monkeypatch.setattr(demo, "run_demo", lambda out, *_, **__: said.append("ran") or demo.Done(out, ()))
    assert mini.demo(tmp_path) == 0 and said == ["hushed", "ran"]
