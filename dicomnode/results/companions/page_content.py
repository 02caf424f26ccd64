"""What the page of a PDF report says of a result."""

from __future__ import annotations

from collections.abc import Sequence

from pydicom.dataset import Dataset

from dicomnode.results.companions.page import PageContent
from dicomnode.results.parts import AnswerParts
from dicomnode.results.provenance import describe_algorithm
from dicomnode.results.segments import segment_color
from dicomnode.results.words.language import phrase
from dicomnode.results.words.narrative import LesionRow
from dicomnode.results.words.person import describe_person
from dicomnode.results.words.sentences import plain_ascii
from dicomnode.settings.config import Language

_ROWS = 12
# What only some results have: a comparison with an earlier study, the site's atlas of territories.
_COLUMNS = ("number", "side", "region", "territory", "volume", "long-axis", "change", "certainty")
_OPTIONAL = frozenset({"territory", "change"})


def describe_result(parts: AnswerParts, identity: Dataset) -> PageContent:
    """Return the page of a result with lesions, or of one without.

    Parameters
    ----------
    identity
        The patient's and study's attributes, decoded.
    """
    narrative, result, language = parts.narrative, parts.result, parts.context.language
    sentences = [narrative.impression, *narrative.quality, *narrative.series]
    hidden = len(result.lesions) - _ROWS
    if hidden > 0:
        sentences.append(phrase("row.more-rows" if hidden > 1 else "row.more-row", language, count=hidden))
    columns = [
        name for name in _COLUMNS if name not in _OPTIONAL or any(_cell(row, name) for row in narrative.rows)
    ]
    heads = [phrase(f"column.{name}", language) for name in columns]
    rows = [[_cell(row, name) for name in columns] for row in narrative.rows[:_ROWS]]
    segment_of = {lesion.label: plan.number for plan in parts.plans for lesion in plan.lesions}
    colors = [segment_color(segment_of[lesion.label]) for lesion in result.lesions[:_ROWS]]
    networks = [f"{model.name} {model.version}: {plain_ascii(model.statement)}" for model in result.models]
    numbers = (
        f"{name} {value}"
        for name, value in describe_algorithm(result.plan).parameters.items()
        if name != "statement"
    )
    small_print = [*narrative.technique, *networks, ", ".join(numbers)]
    return PageContent(
        phrase("title.lesions", language),
        sentences,
        describe_person(identity, language),
        language,
        [heads, *rows] if rows else (),
        small_print,
        colors,
    )


def page_of_refusal(sentences: Sequence[str], identity: Dataset, language: Language) -> PageContent:
    """Return the page of a study that was not analysed, or not to the end."""
    return PageContent(
        phrase("title.not-analysed", language),
        sentences,
        describe_person(identity, language),
        language,
        small_print=(phrase("limits.no-absence", language),),
    )


def _cell(row: LesionRow, column: str) -> str:
    text: str = getattr(row, column.replace("-", "_"))
    return text
