"""What libraries say is kept from results, and nothing of the process is left changed."""

import sys
import threading
import warnings

import pytest

from anyphoto_cli.files.images import read_picture
from anyphoto_cli.files.quiet import without_prints
from tests.conftest import small_layout


def in_threads(count, work):
    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)


def test_prints_of_one_thread_are_kept_away_and_those_of_others_are_not(capsys):
    inside, said = threading.Event(), threading.Event()

    def other():
        inside.wait(10)
        print("from beside")
        said.set()

    thread = threading.Thread(target=other)
    thread.start()
    with without_prints(sys.stderr):
        inside.set()
        said.wait(10)
        print("from a library")
    thread.join()
    print("after")
    told = capsys.readouterr()
    assert told.out == "from beside\nafter\n" and told.err == "from a library\n"


def test_models_opened_by_several_threads_leave_stdout_alone():
    from anyphoto_cli import open_faces

    before = sys.stdout
    for _ in range(3):
        in_threads(3, lambda: open_faces("mini"))
        assert sys.stdout is before


def test_pictures_read_by_several_threads_leave_warnings_alone(tmp_path):
    small_layout(tmp_path)

    def read():
        for _ in range(20):
            read_picture(tmp_path / "ana.png")

    with warnings.catch_warnings():
        warnings.resetwarnings()
        in_threads(4, read)
        assert [one[3].pattern for one in warnings.filters if one[3]] == [r"PIL\."] and len(warnings.filters) == 1
        with pytest.warns(UserWarning, match="mine"):
            warnings.warn("mine", stacklevel=1)
