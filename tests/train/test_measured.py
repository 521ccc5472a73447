"""What the benchmarks measure is what they say."""

import pytest

from benchmarks.train import as_named
from tests.model.flux import transformer


@pytest.mark.parametrize("name", ["ours", "naive", "naive, full checkpointing"])
def test_a_case_leaves_the_model_as_it_found_it(name):
    """Pictures were once rendered with the mask of the case before them."""
    model = transformer()
    with pytest.raises(RuntimeError), as_named(name, model):
        assert (model.attention == "masked") == name.startswith("naive")
        assert model.gradient_checkpointing == name.endswith("checkpointing")
        raise RuntimeError("out of memory")
    assert model.attention == "auto" and model.fused is None and not model.gradient_checkpointing
