"""What is done as a whole although a signal comes, also where the system has no mask for signals (Windows)."""

import signal
import subprocess
import sys
import threading
from contextlib import suppress

import psutil
import pytest

from anyphoto_cli.runtime.signals import (
    STOPPING,
    Terminated,
    come_through,
    raised_later,
    signals_wait,
    terminate_as_exception,
)


@pytest.mark.parametrize("waiting", [signals_wait, lambda: raised_later(STOPPING)], ids=["masked", "without masks"])
def test_ctrl_c_comes_after_the_block(waiting):
    before, done = signal.getsignal(signal.SIGINT), []
    with pytest.raises(KeyboardInterrupt), waiting():
        signal.raise_signal(signal.SIGINT)
        done.append("the block")
    assert done == ["the block"]
    assert signal.getsignal(signal.SIGINT) is before


def test_a_block_in_a_block_without_masks_waits_for_the_outer_one():
    done = []
    with pytest.raises(KeyboardInterrupt), raised_later(STOPPING):
        with raised_later((signal.SIGINT,)):
            signal.raise_signal(signal.SIGINT)
        done.append("the outer block")
    assert done == ["the outer block"]


def test_without_masks_threads_leave_the_handlers_alone():
    seen = []

    def work():
        with raised_later(STOPPING):
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGINT)]


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize(("number", "raised"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)])
def test_what_a_library_swallows_comes_through(number, raised, fails):
    """Whether it goes on then as if nothing were, or fails since its processes heard the signal, too."""
    with terminate_as_exception():
        before = signal.getsignal(signal.SIGINT)
        with pytest.raises(raised), come_through(60):
            with suppress(BaseException):
                signal.raise_signal(number)
            if fails:
                raise RuntimeError("Engine core initialization failed")
        assert signal.getsignal(signal.SIGINT) is before


def test_what_is_ignored_stays_so():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with come_through(0.01):
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
            signal.raise_signal(signal.SIGINT)
            threading.Event().wait(0.1)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_without_a_signal_errors_are_what_they_are():
    with pytest.raises(RuntimeError, match="no such model"), come_through(60):
        raise RuntimeError("no such model")


def test_a_library_that_waits_on_after_ctrl_c_is_ended_by_force_with_its_children():
    code = """
import subprocess, sys, time
from anyphoto_cli.runtime.signals import come_through
with come_through(.2):
    child = subprocess.Popen(["sleep", "600"])
    while True:
        try:
            print(child.pid, flush=True)
            time.sleep(600)
        except BaseException: pass
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as run:
        child = int(run.stdout.readline())
        run.send_signal(signal.SIGINT)
        told = run.communicate(timeout=30)[1]
    assert run.returncode == 130 and told == (
        "SIGINT: ended by force. What is finished is kept; run the same command to go on\n"
    )
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE
