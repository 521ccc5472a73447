"""Where anyphoto keeps what it makes for itself."""

from __future__ import annotations

import os
from pathlib import Path


def anyphoto_home() -> Path:
    """$ANYPHOTO_HOME, else the user's cache folder."""
    if home := os.environ.get("ANYPHOTO_HOME"):
        return Path(home).expanduser()
    from platformdirs import user_cache_path

    return user_cache_path("anyphoto")
