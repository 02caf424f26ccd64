"""Keep what libraries say out of what commands print.

pydicom quotes the values that it warns of, and they are patients'.
"""

from __future__ import annotations

import logging
import warnings
from typing import Any

_LIBRARIES = ("pydicom", "pynetdicom", "highdicom", "dicom2nifti")


def silence_libraries() -> None:
    """Drop Python's warnings and the libraries' messages.

    `log.configure_logging` hears them again, without their text.
    """
    warnings.showwarning = _drop
    for name in _LIBRARIES:
        library = logging.getLogger(name)
        library.addHandler(logging.NullHandler())
        library.propagate = False


def _drop(*_arguments: Any, **_named: Any) -> None:
    """Print nothing."""
