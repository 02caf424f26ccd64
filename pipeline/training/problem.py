"""The error of the training rooms: something that the user can mend.

The message names it and says what to do.
"""

from __future__ import annotations


class TrainingProblem(ValueError):
    """A file, a folder, a device or a setting cannot be used as it is."""
