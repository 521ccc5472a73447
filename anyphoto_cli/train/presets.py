"""The paper's ablations as changes to a configuration. Tables 2, A and B.

The paper names row a of Table 2 "Base (ROI)" and says no more. We read it as: tokens that say where, never who.
"""

from __future__ import annotations

from typing import Any

from anyphoto_cli.errors import InputError

PRESETS: dict[str, tuple[str, dict[str, Any]]] = {
    "full": ("everything; the paper's method", {}),
    "base-roi": (
        "places alone: tokens of zeros, nobody's reference, no modulation, no identity loss (Table 2 a as we read it)",
        {
            "method.identity": False,
            "method.modulation": False,
            "loss.face_weight": 0.0,
            "data.replacement": "fixed",
            "data.replacement_max": 0.0,
        },
    ),
    "location": (
        "location tokens alone, no modulation, no replacement, no identity loss (Table 2 b)",
        {"method.modulation": False, "loss.face_weight": 0.0, "data.replacement": "fixed", "data.replacement_max": 0.0},
    ),
    "modulation": (
        "location tokens and modulation, no replacement, no identity loss (Table 2 c)",
        {"loss.face_weight": 0.0, "data.replacement": "fixed", "data.replacement_max": 0.0},
    ),
    "no-face-loss": ("without the identity loss (Table 2 d)", {"loss.face_weight": 0.0}),
    "no-modulation": ("without modulation (Table 2 e)", {"method.modulation": False}),
    "all-visible": ("identities attend to each other (Table A)", {"method.isolation": False}),
    "fixed-replacement": ("another photo half of the time from the start (Table B)", {"data.replacement": "fixed"}),
}


def preset(name: str) -> dict[str, Any]:
    """Dotted keys and values. Raises InputError for an unknown name."""
    if name not in PRESETS:
        known = ", ".join(PRESETS)
        raise InputError(f"{name!r} is no preset", field="--preset", remedy=f"Presets: {known}")
    return dict(PRESETS[name][1])
