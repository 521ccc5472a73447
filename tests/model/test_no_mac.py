"""What an Apple GPU has not, by torch's own table of operators, on a machine without one: nothing that we ask of it."""

import json
import os
import subprocess
import sys

import pytest

from benchmarks import no_card
from tests.conftest import ROOT

pytestmark = pytest.mark.skipif(bool(no_card.why_not()), reason=no_card.why_not())
RENDERED = [
    ("full", "auto", {"true_cfg_scale": 2.0, "negative_prompt": "fog"}), ("full", "split", {"cache_threshold": 0.1}),
    ("hoisted", "masked", {"weak": True}), ("group", "split", {"weak": True}),
]  # fmt: skip
REFUSED = {
    "float64": "torch.float64 by aten::_to_copy", "from the host": "torch.float64 by aten::_to_copy",
    "an operator": "linalg_eig has no MPS", "one inside": "linalg_lstsq.out has no MPS",
    "flash": "_scaled_dot_product_flash_attention has no MPS",
}  # fmt: skip


@pytest.fixture(scope="module")
def came_to():
    """Case, as JSON -> what it came to; all in one process."""
    cases = [["decoded"], ["trained"], *(["rendered", *how] for how in RENDERED)]
    cases += [["refused", what] for what in (*REFUSED, "nothing")]
    command = [sys.executable, "-m", "tests.model.on_no_mac", json.dumps(cases)]
    done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    return {json.dumps(case): outcome for case, outcome in zip(cases, found, strict=True)}


@pytest.mark.parametrize("how", RENDERED, ids=str)
def test_a_picture_asks_for_nothing_that_mps_has_not(came_to, how):
    missing, asked = came_to[json.dumps(["rendered", *how])]
    assert missing == {}
    assert {"aten::_scaled_dot_product_attention_math_for_mps", "aten::convolution"} <= set(asked)


def test_latents_and_tiles_ask_for_nothing_that_mps_has_not(came_to):
    missing, asked = came_to[json.dumps(["decoded"])]
    assert missing == {} and "aten::convolution" in asked


def test_training_asks_for_nothing_that_mps_has_not(came_to):
    missing, asked = came_to[json.dumps(["trained"])]
    assert missing == {}
    wanted = {"grid_sampler_2d_backward", "convolution_backward", "_foreach_lerp_.Scalar", "_local_scalar_dense"}
    assert {f"aten::{name}" for name in wanted} <= set(asked)


@pytest.mark.parametrize("what", REFUSED)
def test_what_mps_has_not_is_seen(came_to, what):
    assert REFUSED[what] in came_to[json.dumps(["refused", what])][0]


def test_what_mps_has_is_not_refused(came_to):
    assert came_to[json.dumps(["refused", "nothing"])][0] == {}
