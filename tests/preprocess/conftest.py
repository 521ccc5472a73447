"""Drawn photos and a run on them, made once."""

import pytest

from tests.preprocess import fakes
from tests.preprocess.runs import fake_run


@pytest.fixture(scope="session")
def drawn(tmp_path_factory):
    """Coloured squares for the stand-in models of `fakes`."""
    fakes.register()
    return fakes.draw_photos(tmp_path_factory.mktemp("squares"))


@pytest.fixture(scope="session")
def whole(drawn, tmp_path_factory):
    """An uninterrupted run on them."""
    out = tmp_path_factory.mktemp("whole") / "out"
    fake_run(drawn, out)
    return out
