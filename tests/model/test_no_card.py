"""What a card would refuse, on a machine without one: tensors of two devices in one operation, and waiting for the card
before the backward pass is launched. Tensors there have no numbers, so what is computed is not looked at.
"""

import json
import os
import subprocess
import sys

import pytest

from benchmarks import no_card
from tests.conftest import ROOT

pytestmark = pytest.mark.skipif(bool(no_card.why_not()), reason=no_card.why_not())
MODES = ("full", "offload", "hoisted", "group", "fp8")
REFUSED = {
    "two devices": "FakeTensorDeviceMismatchError", "a number": "HostWaits: for a number",
    "to the host": "HostWaits: for (2,) of the card", "from ordinary memory": "HostWaits: until",
    "into the card": "HostWaits: until", "nothing": "nothing",
}  # fmt: skip


@pytest.fixture(scope="module")
def came_to():
    """Case -> what it came to; all in one process."""
    cases = [["trained", False], ["trained", True], *(["rendered", mode] for mode in MODES)]
    cases += [["steps_of", guided] for guided in (False, True)]
    cases += [["refused", what] for what in REFUSED]
    command = [sys.executable, "-m", "tests.model.on_no_card", json.dumps(cases)]
    done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    return {tuple(case): outcome for case, outcome in zip(cases, found, strict=True)}


def test_training_mixes_no_devices_and_waits_for_nothing_before_the_backward_pass(came_to):
    assert came_to["trained", False] == [5, True]
    assert came_to["trained", True].startswith("HostWaits: for a number")


@pytest.mark.parametrize("mode", MODES)
def test_every_memory_mode_renders_on_the_card_alone(came_to, mode):
    device, shape, most = came_to["rendered", mode]
    assert device == "cuda:0"
    assert shape == [1, 3, 64, 96]
    assert most < came_to["rendered", "full"][2] or mode == "full"


@pytest.mark.parametrize("guided", [False, True])
def test_from_step_to_step_nothing_waits(came_to, guided):
    assert came_to["steps_of", guided] == [0, 1, 2]


@pytest.mark.parametrize("what", REFUSED)
def test_such_a_card_refuses_what_it_should(came_to, what):
    assert came_to["refused", what].startswith(REFUSED[what])
