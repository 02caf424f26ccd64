"""A number with its noun, as an English sentence has it: "1 image", "2 images"."""

from __future__ import annotations


def counted(number: float, singular: str, plural: str | None = None) -> str:
    """Return a number and what is counted, in the singular for one.

    Parameters
    ----------
    number
        How many there are. A number that is not whole is written with at most six digits.
    singular
        The words after the number where it is one. They may go on to the verb: "image was left out".
    plural
        The words after any other number; without them `singular` takes an s.
    """
    words = singular if number == 1 else plural or f"{singular}s"
    return f"{number:g} {words}" if isinstance(number, float) else f"{number} {words}"
