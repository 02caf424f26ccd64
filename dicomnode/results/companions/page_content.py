"""What the page of a PDF report says of a result."""

from __future__ import annotations

from collections.abc import Sequence

from dicomnode.results.companions.page import PageContent
from dicomnode.results.parts import AnswerParts
from dicomnode.results.provenance import describe_algorithm
from dicomnode.results.segments import segment_color
from dicomnode.results.words.language import phrase
from dicomnode.results.words.sentences import plain_ascii
from dicomnode.settings.config import Language

_ROWS = 12
_COLUMNS = ("number", "side", "region", "volume", "long-axis", "certainty")


def describe_result(parts: AnswerParts) -> PageContent:
    """Return the page of a result with lesions, or of one without."""
    narrative, result, language = parts.narrative, parts.result, parts.context.language
    sentences = [narrative.impression, *narrative.quality, *narrative.series]
    hidden = len(result.lesions) - _ROWS
    if hidden > 0:
        sentences.append(phrase("row.more-rows" if hidden > 1 else "row.more-row", language, count=hidden))
    heads = tuple(phrase(f"column.{name}", language) for name in _COLUMNS)
    rows = [
        (row.number, row.side, row.region, row.volume, row.long_axis, row.certainty)
        for row in narrative.rows[:_ROWS]
    ]
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
        phrase("title.lesions", language), sentences, [heads, *rows] if rows else (), small_print, colors
    )


def page_of_refusal(sentences: Sequence[str], language: Language) -> PageContent:
    """Return the page of a study that was not analysed, or not to the end."""
    absence = phrase("limits.no-absence", language)
    return PageContent(phrase("title.not-analysed", language), sentences, (), (absence,))
