"""What is done as a whole although a signal comes, also where the system has no mask for signals (Windows)."""

import signal
import threading

import pytest

from anyphoto_cli.runtime.signals import STOPPING, raised_later, signals_wait


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
