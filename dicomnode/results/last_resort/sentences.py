"""Sentences of the report of last resort, in letters that its header allows.

They come from the table that all results share. It is data and is read here without the code of the other
reports. A table that cannot be read costs the language, not the report.
"""

from __future__ import annotations

import tomllib
import unicodedata
from collections.abc import Mapping
from functools import cache
from pathlib import Path

_TABLE = Path(__file__).resolve().parents[1] / "words" / "sentences.toml"
# Rows as they stand in the table; used where it cannot be read.
ENGLISH: Mapping[str, str] = {
    "refusal.refused": "This study was not analysed for stroke lesions.",
    "refusal.failed": "The analysis for stroke lesions failed on this study.",
    "refusal.details": "{sentence}",
    "refusal.reason-code": "Reason code: {code}",
    "limits.warning": "AI result, not for primary diagnosis.",
    "limits.no-absence": "Absence of a segmentation does not mean absence of a lesion.",
    "identity-remark.unreadable": "The patient's attributes could not be read.",
    "identity-remark.twice": (
        "{keyword} was left empty: the image has it more than once, with different values."
    ),
    "identity-remark.no-value": (
        "{keyword} was left empty: what the image has there is not a value of this element."
    ),
}
_ENCODINGS: Mapping[bytes, str] = {b"ISO_IR 100": "latin-1", b"ISO_IR 192": "utf-8"}
_GERMAN = str.maketrans({"\u00e4": "ae", "\u00f6": "oe", "\u00fc": "ue", "\u00c4": "Ae", "\u00d6": "Oe"})


def write_sentence(row: str, language: str, **values: str) -> str:
    """Return a row of the table with its values; in English where the table's row cannot be used."""
    try:
        return _read_table()[row][language].format(**values)
    except (LookupError, ValueError, TypeError, AttributeError):
        return ENGLISH[row].format(**values)


def encode_text(text: str, character_set: bytes) -> bytes:
    """Return one line as bytes of a Specific Character Set; as ASCII where that is not a simple one."""
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    encoding = _ENCODINGS.get(character_set.strip(b"\0 "))
    if encoding == "utf-8" or (encoding and _fits(line, encoding)):
        return line.encode(encoding, "replace")
    bare = unicodedata.normalize("NFKD", line.translate(_GERMAN).replace("\u00df", "ss"))
    kept_letters = "".join(letter for letter in bare if not unicodedata.combining(letter))
    return kept_letters.encode("ascii", "replace")


def _fits(text: str, encoding: str) -> bool:
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True


@cache
def _read_table() -> Mapping[str, Mapping[str, str]]:
    try:
        sections = tomllib.loads(_TABLE.read_text(encoding="utf-8"))
        return {f"{section}.{name}": row for section, rows in sections.items() for name, row in rows.items()}
    except (OSError, ValueError, AttributeError):
        return {}
