"""Everything that speaks DICOM or runs a service. Read `dicomnode/flow.py` first.

For Python programs: `segment`, `evaluate` and `load_bundle` (docs/python.md). They are imported when they are
first asked for, so that the processes of the node stay light.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dicomnode.api import Result, evaluate, load_bundle, segment

__version__ = "0.5.0"
__all__ = ["Result", "evaluate", "load_bundle", "segment"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module("dicomnode.api"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
