"""What report and page say of a certainty: calibrated and on whom, or not; and that a wrong one does not leave."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from dicomnode.errors import ResultRejected
from dicomnode.results.build import build_answer
from dicomnode.results.provenance import describe_algorithm
from dicomnode.results.records import EncodedResult
from dicomnode.results.verify.companions import read_lines
from dicomnode.results.verify.content import concept, walk_content
from dicomnode.results.verify.gate import read_back, verify_answer
from dicomnode.results.words import codes
from dicomnode.results.words.language import LANGUAGES
from dicomnode.results.words.narrative import narrate
from dicomnode.settings.config import Language, ResultForm
from pipeline.measure.certainty import measure_certainty
from pipeline.records import Calibration, Lesion, PipelineResult
from tests.factories.results import Answered, answered_study

FITTED = Calibration(0.937, 0.384, -1.419, 309, 89, "FLAIR slices of people with an acute stroke")
SENTENCES: dict[Language, str] = {
    "en": "Certainty is calibrated: the share of lesions like this one that were right, by 309 lesions marked in 89 people.",
    "de": "Sicherheit ist kalibriert: Anteil richtiger unter gleichartigen Läsionen, nach 309 markierten Läsionen bei 89 Personen.",
    "fr": "La certitude est calibrée : part de lésions semblables qui étaient justes, d'après 309 lésions marquées chez 89 personnes.",
    "es": "La certeza está calibrada: proporción de lesiones similares que eran correctas, según 309 lesiones marcadas en 89 personas.",
}  # fmt: skip
ON_WHOM = (
    "certainty calibrated on 309 marked lesions in 89 people (FLAIR slices of people with an acute stroke)"
)


def calibrate(result: PipelineResult) -> PipelineResult:
    """Return the result as the pipeline has it with the calibration in its plan."""
    lesions = []
    for lesion in result.lesions:
        volume_ml = next(item.value for item in lesion.measurements if item.name == "volume")
        certainty = measure_certainty(lesion.mean_probability, volume_ml, FITTED)
        others = (item for item in lesion.measurements if item.name != "certainty")
        lesions.append(replace(lesion, measurements=(*others, certainty)))
    return replace(result, plan=replace(result.plan, calibration=FITTED), lesions=tuple(lesions))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Answered:
    grid = {"shape": (16, 48, 40), "spacing_mm": (12.0, 4.0, 5.0)}
    return answered_study(tmp_path_factory.mktemp("study"), roles=("flair",), flair=grid)


def answer(study: Answered, *kinds: str) -> list[EncodedResult]:
    context = replace(study.context, forms=(ResultForm(objects=kinds),))  # type: ignore[arg-type]
    results = build_answer(context, study.volume, study.result, ())
    verify_answer(results, context, study.volume, study.result)
    return results


@pytest.fixture(scope="module")
def calibrated(plain: Answered) -> Answered:
    return replace(plain, result=calibrate(plain.result))


@pytest.fixture(scope="module")
def objects(calibrated: Answered) -> dict[str, EncodedResult]:
    return {item.kind: item for item in answer(calibrated, "seg", "sr", "pdf")}


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_words_say_in_every_language_whether_a_certainty_is_calibrated(
    language: Language, plain: Answered, calibrated: Answered
) -> None:
    calibrated_words, plain_words = (
        narrate(study.result, (), language, {"name": "n", "version": "1"}).technique
        for study in (calibrated, plain)
    )

    assert SENTENCES[language] in calibrated_words
    assert SENTENCES[language] not in plain_words
    assert len(calibrated_words) == len(plain_words)


def test_the_report_codes_a_calibrated_certainty(
    calibrated: Answered, objects: dict[str, EncodedResult]
) -> None:
    report = read_back(objects["sr"])

    words = [item.TextValue for item in walk_content(report) if item.ValueType == "TEXT"]
    assert any(SENTENCES["en"] in text for text in words)
    assert ON_WHOM in words
    stated = [
        (
            float(item.MeasuredValueSequence[0].NumericValue),
            [below.ConceptCodeSequence[0].CodeValue for below in item.ContentSequence],
        )
        for item in walk_content(report)
        if concept(item) == codes.CERTAINTY_OF_FINDING.value
    ]
    lesions = calibrated.result.lesions
    assert stated == [(pytest.approx(100 * lesion.certainty, rel=1e-5), ["calibrated"]) for lesion in lesions]
    assert all(lesion.certainty != lesion.mean_probability for lesion in lesions)


def test_the_page_shows_the_calibrated_certainty(
    calibrated: Answered, objects: dict[str, EncodedResult]
) -> None:
    page = " ".join(read_lines(read_back(objects["pdf"]).EncapsulatedDocument))

    assert SENTENCES["en"] in page
    assert ON_WHOM in page
    for lesion in calibrated.result.lesions:
        assert f"{100 * lesion.certainty:.0f} %" in page


def test_results_without_a_calibration_say_that_there_is_none(plain: Answered) -> None:
    assert describe_algorithm(plain.result.plan).parameters["certainty"] == "not calibrated"


def forget(lesion: Lesion) -> Lesion:
    others = (item for item in lesion.measurements if item.name != "calibrated_certainty")
    return replace(lesion, measurements=(*others, measure_certainty(lesion.mean_probability, 1.0, None)))


def twice(lesion: Lesion) -> Lesion:
    volume_ml = next(item.value for item in lesion.measurements if item.name == "volume")
    others = (item for item in lesion.measurements if item.name != "calibrated_certainty")
    return replace(lesion, measurements=(*others, measure_certainty(lesion.certainty, volume_ml, FITTED)))


@pytest.mark.parametrize("change", [forget, twice])
def test_a_calibration_that_was_forgotten_or_applied_twice_does_not_leave(
    change: Callable[[Lesion], Lesion], calibrated: Answered, objects: dict[str, EncodedResult]
) -> None:
    result = calibrated.result
    wrong = replace(result, lesions=tuple(change(lesion) for lesion in result.lesions))

    with pytest.raises(ResultRejected, match="its certainty is not the calibrated_certainty"):
        verify_answer(
            [objects["seg"], objects["sr"]],
            replace(calibrated.context, forms=(ResultForm(objects=("seg", "sr")),)),
            calibrated.volume,
            wrong,
        )
