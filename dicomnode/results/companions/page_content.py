"""What the page of a PDF report says of a result."""

from __future__ import annotations

from collections.abc import Sequence

from dicomnode.results.companions.page import PageContent
from dicomnode.results.parts import AnswerParts
from dicomnode.results.provenance import describe_algorithm
from dicomnode.results.segments import segment_color
from dicomnode.results.words.sentences import (
    NO_ABSENCE,
    describe_lesions,
    describe_place,
    describe_remarks,
    plain_ascii,
)

_ROWS = 12
_REMARKS = 6


def describe_result(parts: AnswerParts) -> PageContent:
    """Return the page of a result with lesions, or of one without."""
    result, plans, findings = parts.result, parts.plans, parts.findings
    series = [plain_ascii(finding.message) for finding in findings if finding.code == "series-used"]
    remarks = describe_remarks([finding for finding in findings if finding.code != "series-used"])
    # The first sentence is the total; single lesions stand in the table.
    sentences = [*describe_lesions(result, 0, 0)[:1], *series, *remarks[:_REMARKS]]
    hidden = len(result.lesions) - _ROWS
    if hidden > 0:
        sentences.append(
            f"The table shows the {_ROWS} largest lesions; {hidden} more are in the structured report."
        )
    if len(remarks) > _REMARKS:
        sentences.append(f"{len(remarks) - _REMARKS} more remarks are in the structured report.")
    segment_of = {lesion.label: plan.number for plan in plans for lesion in plan.lesions}
    heads = [("Lesion (segment)", "Volume", "Long axis in plane", "Centre, scanner mm")]
    rows = [
        (
            f"{lesion.label} ({segment_of[lesion.label]})",
            f"{next(item.value for item in lesion.measurements if item.name == 'volume'):.2f} ml",
            f"{lesion.long_axis.length_mm:.1f} mm",
            describe_place(lesion.centroid_lps_mm),
        )
        for lesion in result.lesions[:_ROWS]
    ]
    colors = [segment_color(segment_of[lesion.label]) for lesion in result.lesions[:_ROWS]]
    networks = [f"{model.name} {model.version}: {plain_ascii(model.statement)}" for model in result.models]
    numbers = (
        f"{name} {value}"
        for name, value in describe_algorithm(result.plan).parameters.items()
        if name != "statement"
    )
    networks.append(f"Lesions: {', '.join(numbers)}")
    return PageContent("Stroke lesion report", sentences, heads + rows if rows else (), networks, colors)


def page_of_refusal(sentences: Sequence[str]) -> PageContent:
    """Return the page of a study that was not analysed, or not to the end."""
    return PageContent("Stroke lesion report: not analysed", sentences, (), (NO_ABSENCE,))
