"""The table of sentences (`sentences.toml`), and how each language writes numbers and lists.

The table is read once. Dates are written by it as well.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from datetime import date
from functools import cache
from importlib.resources import files
from typing import get_args

from dicomnode.errors import ResultRejected
from dicomnode.settings.config import Language

LANGUAGES: tuple[Language, ...] = get_args(Language)
_AND: Mapping[Language, str] = {"en": "and", "de": "und", "fr": "et", "es": "y"}
_DATE: Mapping[Language, str] = {"en": "%Y-%m-%d", "de": "%d.%m.%Y", "fr": "%d/%m/%Y", "es": "%d/%m/%Y"}
# RFC 5646, as the report names its own language (CID 5000).
LANGUAGE_NAMES: Mapping[Language, str] = {"en": "English", "de": "German", "fr": "French", "es": "Spanish"}
SMALL_ML = 1.0
"""Below this a lesion is called small."""


@cache
def load_table() -> Mapping[str, Mapping[str, str]]:
    """Return the table: "section.row" to language to sentence."""
    text = (files("dicomnode.results.words") / "sentences.toml").read_text(encoding="utf-8")
    return {
        f"{section}.{name}": row
        for section, rows in tomllib.loads(text).items()
        for name, row in rows.items()
    }


def phrase(key: str, language: Language, **values: object) -> str:
    """Return a sentence of the table with its values.

    Raises
    ------
    ResultRejected
        The table has no such row.
    """
    row = load_table().get(key, {})
    if language not in row:
        raise ResultRejected(
            f"there is no sentence {key!r} in {language!r}; add it to dicomnode/results/words/sentences.toml"
        )
    return row[language].format(**values)


def has_phrase(key: str, language: Language) -> bool:
    """Return whether the table has a row in a language."""
    return language in load_table().get(key, {})


def write_number(value: float, digits: int, language: Language) -> str:
    """Return a number with the language's decimal mark.

    >>> write_number(38.24, 1, "en"), write_number(38.24, 1, "de")
    ('38.2', '38,2')
    """
    text = f"{value:.{digits}f}"
    return text if language == "en" else text.replace(".", ",")


def write_ml(value: float, language: Language) -> str:
    """Return a volume with its unit: one decimal from 1 ml on, else two."""
    return f"{write_number(value, 1 if value >= SMALL_ML else 2, language)} ml"


def write_round_ml(value: float, language: Language) -> str:
    """Return a volume as one says it: whole millilitres from 10 on."""
    return f"{write_number(value, 0 if value >= 9.95 else 1, language)} ml"


def write_percent(value: float, language: Language, digits: int = 0) -> str:
    """Return a share as percent.

    >>> write_percent(80.2, "en")
    '80 %'
    """
    return f"{write_number(value, digits, language)} %"


def write_date(value: str, language: Language) -> str:
    """Return a DICOM date (YYYYMMDD) as the language writes dates; anything else as it is.

    >>> write_date("20260301", "de"), write_date("1950", "de")
    ('01.03.2026', '1950')
    """
    match = re.fullmatch(r"(\d{4})-?(\d\d)-?(\d\d)", value.strip())
    if match is None:
        return value
    try:
        return date(*(int(number) for number in match.groups())).strftime(_DATE[language])
    except ValueError:
        return value


def join_words(words: Sequence[str], language: Language) -> str:
    """Return a list as a sentence has it.

    >>> join_words(["frontal", "parietal", "insular"], "es")
    'frontal, parietal e insular'
    """
    if len(words) < 2:
        return "".join(words)
    conjunction = _AND[language]
    if language == "es" and re.match(r"h?[ií]", words[-1], flags=re.IGNORECASE):
        conjunction = "e"
    return f"{', '.join(words[:-1])} {conjunction} {words[-1]}"


def begin_sentence(text: str) -> str:
    """Return a text with a capital first letter."""
    return text[:1].upper() + text[1:]
