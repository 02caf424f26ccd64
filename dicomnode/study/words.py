"""Reading names of series: one spelling for all scripts, and what the words of `vocabulary` say in it.

Nothing here looks at numbers. A negated word says the opposite ("PRE GAD", "ohne KM", "造影前"); "with and
without" says nothing.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from functools import lru_cache
from typing import Literal

from dicomnode.study.vocabulary import VOCABULARY

AgentWords = Literal["with", "without", "both", ""]

# Letters that Unicode does not decompose into a base letter and an accent.
_PLAIN_LETTERS = str.maketrans(
    {"ł": "l", "ø": "o", "æ": "ae", "œ": "oe", "ı": "i", "đ": "d", "ð": "d", "þ": "th", "’": "'"}
)
# Signs that carry meaning and would be lost with the punctuation. "w/o", "s/c" and the like, then "+C",
# "KM-", "+/-".
_SIGNS = (
    (re.compile(r"([tr]2w?)\*(?!\w)"), r"\1star "),
    (re.compile(r"^\W*(fat|water|in ?phase|out ?phase) ?:"), r" dixon \1 "),
    (re.compile(r"\+ ?/ ?[-−–]"), " agentboth "),
    (re.compile(r"\bw ?/ ?wo\b|\bw ?/ ?w ?/ ?o\b|\bw ?& ?w/? ?o\b|\bc ?/ ?s ?/? ?c\b"), " w wo "),
    (re.compile(r"\b(?:w ?/ ?o|w\.o\.)(?=\W|\d|$)"), " without "),
    (re.compile(r"\b[so]\s?/\s?(?=c|gd|gad|km|mdc|kontr)"), " without "),
    (re.compile(r"\b[cw] ?/ ?(?=c|gd|gad|km|mdc|kontr)"), " with "),
    (re.compile(r"\bc ?/ ?c\b"), " with contrast "),
    (re.compile(r"\+ ?(?:c|k|gd|gad\w*|km|cm|mdc|civ|dota\w*|contr\w*|kontr\w*)(?![a-z])"), " agentplus "),
    (
        re.compile(r"(?<![a-z0-9])(?:c|gd|gad\w*|km|cm|mdc|kontrast|contrast\w*) ?\+(?![a-z0-9])"),
        " agentplus ",
    ),
    (re.compile(r"(?<![a-z0-9])(?:c|gd|gad\w*|km|cm|mdc) ?[-−–](?=\s|$|\))"), " agentminus "),
    (re.compile(r"(?<=[\s(_])[-−–] ?(?:c|gd|gad|km|cm|mdc|contrast)(?![a-z])"), " agentminus "),
    (re.compile(r"\bm\.? ?d\.? ?c\b\.?"), " mdc "),
    (re.compile(r"\bc\.e\.|\bк/у\b|\bс к ?/ ?у\b"), " ку "),
)
# Cyrillic Te and Latin T look alike, and both are typed.
_LOOKALIKES = re.compile(r"т(?=[12])")
_FUSED = re.compile(
    r"(?<![^\W_])(t[12]w?|flair|mprage|bravo|vibe|tfe|space|ax|axial|sag|cor|tra)"
    r"(?=(?:post|pre|gd|gad|km|ce(?![a-z])|mdc|contrast|kontrast|nativ|flair|mprage|tse|se(?![a-z])"
    r"|fs(?![a-z])))"
)
# What may stand between a negation and the agent's word: "ohne i.v. KM", "senza il mezzo di contrasto".
_FILLERS = (
    r"(?:(?:i|v|iv|the|any|de|di|d|du|do|da|del|della|il|la|le|el|o|a|des|den|der|dem|of|mezzo|medio|meio|"
    r"produit|agent|t1|t1w) ){0,3}"
)
_SCRIPT_WITHOUT_BLANKS = re.compile(r"[\u0600-\u06ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")
_NEGATION = re.compile(
    r" (?:no|non|not|without|ohne|sans|sin|senza|sem|zonder|bez|utan|uden|без|kein|keine) $"
)
_BETWEEN_SCRIPTS = re.compile(
    r"(?<=[a-z0-9])(?=[\u0400-\u04ff\u0600-\u06ff\u3040-\u9fff\uac00-\ud7af])"
    r"|(?<=[\u0400-\u04ff\u0600-\u06ff\u3040-\u9fff\uac00-\ud7af])(?=[a-z0-9])"
)
_WITHOUT_AT_END = re.compile(r" (?:without|w o|wo) $")
_AFTER_ALONE = re.compile(r" (?:post|postc|postcontrast|postkm|postgado) ")


@lru_cache(maxsize=4096)
def normalise(text: str) -> str:
    """Return a name in one spelling.

    Lower case, no accents, half-width, tokens with single blanks around them.

    "Ｔ１_MPRAGE＋Ｃ" and "t1 mprage +c" become the same; the result begins and ends with a blank.
    """
    folded = unicodedata.normalize("NFKC", text).replace("ToF", "tof")
    folded = re.sub(r"(?<=[a-z])(?=[A-Z][A-Za-z])", " ", folded).casefold()
    folded = "".join(
        letter for letter in unicodedata.normalize("NFD", folded) if not unicodedata.combining(letter)
    )
    folded = unicodedata.normalize("NFC", folded).translate(_PLAIN_LETTERS)
    folded = _LOOKALIKES.sub("t", folded)
    for pattern, replacement in _SIGNS:
        folded = pattern.sub(replacement, folded)
    folded = re.sub(r"[^\w]+|_", " ", folded)
    folded = _BETWEEN_SCRIPTS.sub(" ", folded)
    folded = _FUSED.sub(r"\1 ", folded)
    return f" {' '.join(folded.split())} "


@lru_cache(maxsize=4096)
def concepts_of(text: str) -> frozenset[str]:
    """Return the concepts of the vocabulary that a name speaks of.

    Negated ones are left out ("without diffusion").
    """
    name = normalise(text)
    return frozenset(concept for concept, pattern in _patterns().items() if _is_affirmed(pattern, name))


@lru_cache(maxsize=4096)
def agent_words_of(text: str) -> AgentWords:
    """Return whether a name says that a contrast agent was given.

    "with", "without", "both" (says nothing), "" (silent).
    """
    name = _patterns()["no agent meant"].sub(" ", normalise(text))
    if _patterns()["with and without"].search(name):
        return "both"
    negated = _negated_agent().sub(" ", name)
    plain = (
        negated != name or bool(_WITHOUT_AT_END.search(name)) or bool(_patterns()["plain"].search(negated))
    )
    remaining = _patterns()["plain"].sub(" ", negated)
    enhanced = bool(_patterns()["agent"].search(remaining) or _AFTER_ALONE.search(remaining))
    if plain and enhanced:
        return "both"
    return "with" if enhanced else "without" if plain else ""


def denies_agent(text: str) -> bool:
    """Return whether the value of an element for the agent says that there was none.

    Examples are "none", "ohne KM", "0" and "なし".
    """
    name = normalise(text)
    if agent_words_of(text) == "without" or not name.strip():
        return True
    denials = (
        _words_of("denial before")
        | _words_of("denial after")
        | _words_of("plain")
        | {"0", "n", "na", "n a", "nein", "non", "0ml", "0 ml"}
    )
    return name.strip() in denials


def _is_affirmed(pattern: re.Pattern[str], name: str) -> bool:
    return any(not _NEGATION.search(name[: match.start()]) for match in pattern.finditer(name))


@lru_cache(maxsize=1)
def _patterns() -> dict[str, re.Pattern[str]]:
    words: dict[str, list[str]] = defaultdict(list)
    for term in VOCABULARY:
        words[term.concept].extend(term.words)
    return {
        concept: re.compile("|".join(_expression(word) for word in sorted(listed, key=len, reverse=True)))
        for concept, listed in words.items()
    }


def _words_of(concept: str) -> frozenset[str]:
    return frozenset(
        normalise(word).strip() for term in VOCABULARY if term.concept == concept for word in term.words
    )


@lru_cache(maxsize=1)
def _negated_agent() -> re.Pattern[str]:
    """Match an agent's word together with what denies it, before it or behind it."""
    agent = _patterns()["agent"].pattern
    before, behind = _words_of("denial before"), _words_of("denial after")
    latin = _alternatives(word for word in before if not _SCRIPT_WITHOUT_BLANKS.search(word))
    joined = _alternatives(word for word in before if _SCRIPT_WITHOUT_BLANKS.search(word))
    return re.compile(
        f"(?<= )(?:{latin}) {_FILLERS}(?:{agent})|(?:{joined}) ?(?:{agent})|(?:{agent}) "
        f"?(?:{_alternatives(behind)})(?![a-z])"
    )


def _alternatives(words: Iterable[str]) -> str:
    return "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True))


def _expression(word: str) -> str:
    """Return the regular expression of a word of the table.

    Blanks around tokens are looked at, not consumed.
    """
    start, end = word.startswith("*"), word.endswith("*")
    literal = word.strip()
    core = normalise(literal.strip("*")).strip()
    escaped = re.escape(core).replace("\\ ", " ?" if _SCRIPT_WITHOUT_BLANKS.search(core) else " ")
    if _SCRIPT_WITHOUT_BLANKS.search(core):
        return escaped
    return f"{'' if start else '(?<= )'}{escaped}{'' if end else '(?= )'}"
