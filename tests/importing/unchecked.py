"""An import without its comparison with torch, for tests that compare with something else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pipeline.bundles.bundle import Bundle
from pipeline.importing.parity import Parity
from pipeline.importing.weights import FLOAT16, FLOAT32, Choice


def unchecked(wanted: str, install: Callable[[str], Bundle], *_: Any, **__: Any) -> Choice:
    """Stand in for `choose_weights` where the comparison with torch is not what is tested: takes the weights that are asked for."""
    kept = {"float16": FLOAT16, "float32": FLOAT32}[wanted]
    install(kept)
    return Choice(kept, "asked for", (Parity("none", "nothing", kept, 0.0, 0.0, 0.0, 0),))
