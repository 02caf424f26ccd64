"""The table of sentences is whole, and each language's report is valid, true and written in letters that it can carry."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from string import Formatter
from typing import get_args

import pydicom
import pytest
from pydicom.dataset import Dataset

from dicomnode.errors import ResultRejected
from dicomnode.records import Finding
from dicomnode.results.build import build_answer
from dicomnode.results.verify.companions import read_lines
from dicomnode.results.verify.content import concept
from dicomnode.results.verify.gate import read_back, verify_answer
from dicomnode.results.words.language import LANGUAGES, load_table
from dicomnode.results.words.remarks import series_remarks
from dicomnode.settings.config import Language, ResultForm
from dicomnode.study.choice import SeriesSummary
from pipeline.records import RegionName, RegionShare, TerritoryShare
from tests.factories.results import Answered, answered_study, followed, texts_of

FORM = ResultForm(objects=("seg", "sr", "summary"))


def fields_of(sentence: str) -> set[str]:
    return {name for _, name, _, _ in Formatter().parse(sentence) if name}


def test_every_row_has_every_language_with_the_same_values() -> None:
    for key, row in load_table().items():
        expected = set(LANGUAGES) - {"en"} if key.startswith("remark.") else set(LANGUAGES)
        assert set(row) == expected, key
        named = [fields_of(sentence) for sentence in row.values()]
        assert all(fields == named[0] for fields in named) or key.startswith("remark."), key
        assert all(fields <= {"image", "value"} for fields in named) or not key.startswith("remark."), key
        assert row.get("en", "").isascii(), key
        # Plain style: short sentences in every language.
        for sentence in row.values():
            assert all(len(part.split()) <= 25 for part in re.split(r"[.;:]", sentence)), sentence


def test_every_region_has_its_words() -> None:
    for region in get_args(RegionName):
        assert {f"region.{region}", f"region-of-lesion.{region}"} <= set(load_table())


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Answered:
    study = answered_study(
        tmp_path_factory.mktemp("study"),
        roles=("flair",),
        flair={"shape": (16, 48, 40), "spacing_mm": (12.0, 4.0, 5.0)},
    )
    first, second = study.result.lesions
    shares = (RegionShare("frontal", "left", 0.7), RegionShare("insula", "left", 0.3))
    lesions = (replace(first, regions=shares), second)
    return followed(replace(study, result=replace(study.result, lesions=lesions)))


EXPECTED: dict[Language, tuple[str, str]] = {
    "en": (
        "Left frontal and insular lesion of 6.2 ml, right-sided lesion of 2.4 ml. New since 2026-01-05: lesion 2.",
        "1 Left frontal, 6.2 ml",
    ),
    "de": (
        "L\u00e4sion links frontal und insul\u00e4r (6,2 ml), L\u00e4sion rechts (2,4 ml). Neu seit 05.01.2026: L\u00e4sion 2.",
        "1 Links frontal, 6,2 ml",
    ),
    "fr": (
        (
            "L\u00e9sion frontale et insulaire \u00e0 gauche (6,2 ml), l\u00e9sion \u00e0 droite (2,4 ml). "
            "Nouvelles depuis le 05/01/2026 : l\u00e9sion 2."
        ),
        "1 Frontal (gauche), 6,2 ml",
    ),
    "es": (
        "Lesi\u00f3n frontal e insular izquierda (6,2 ml), lesi\u00f3n derecha (2,4 ml). Nuevas desde el 05/01/2026: lesi\u00f3n 2.",
        "1 Frontal (izquierdo), 6,2 ml",
    ),
}


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_impression_is_the_first_text_in_every_language(study: Answered, language: Language) -> None:
    context = replace(study.context, language=language, forms=(FORM,))
    results = build_answer(context, study.volume, study.result, ())
    verify_answer(results, context, study.volume, study.result)

    impression, label = EXPECTED[language]
    by_kind = {item.kind: read_back(item) for item in results}
    assert by_kind["seg"].SegmentSequence[0].SegmentLabel == label
    for kind in ("sr", "summary"):
        first = by_kind[kind].ContentSequence[0]
        assert concept(first) == "121073"
        assert str(first.TextValue).startswith(impression)
    # The text to read is short.
    assert len(by_kind["summary"].ContentSequence) < 30


def test_territories_stand_in_sentence_table_and_codes(study: Answered) -> None:
    first, second = study.result.lesions
    artery = ("17232001", "SCT", "Middle cerebral artery")
    shares = (TerritoryShare(1, "Left MCA", 0.81, artery), TerritoryShare(2, "Left ACA", 0.19))
    result = replace(study.result, lesions=(replace(first, territories=shares), second))
    form = ResultForm(objects=("seg", "sr", "pdf"))
    context = replace(study.context, forms=(form,))

    results = build_answer(context, study.volume, result, ())
    verify_answer(results, context, study.volume, result)

    by_kind = {item.kind: read_back(item) for item in results}
    texts = texts_of(by_kind["sr"])
    assert sum("territory Left MCA 81 %, Left ACA 19 %" in text for text in texts) == 1
    sites = [code.CodeValue for code in codes_of(by_kind["sr"], "363698007")]
    # In the group of the segment and in that of its line; a territory without a code is in the words only.
    assert sites.count("17232001") == 2
    lines = read_lines(by_kind["pdf"].EncapsulatedDocument)
    assert "Territory" in lines
    assert "Left MCA" in " ".join(lines)
    with pytest.raises(ResultRejected, match="regions of a lesion"):
        verify_answer(results, context, study.volume, study.result)


def codes_of(item: Dataset, name: str) -> list[Dataset]:
    """Return the coded values below an item that stand under a concept."""
    below = [code for child in item.get("ContentSequence", []) for code in codes_of(child, name)]
    is_named = "ConceptCodeSequence" in item and concept(item) == name
    return [*item.ConceptCodeSequence, *below] if is_named else below


def test_letters_that_the_sources_character_set_lacks_turn_the_object_into_utf_8(tmp_path: Path) -> None:
    study = answered_study(
        tmp_path, roles=("flair",), flair={"shape": (16, 48, 40), "spacing_mm": (12.0, 4.0, 5.0)}
    )
    for path in tmp_path.rglob("*.dcm"):
        dataset = pydicom.dcmread(path)
        dataset.SpecificCharacterSet = "ISO_IR 144"
        dataset.PatientName = "\u041b\u044e\u043ace\u043c\u0431yp\u0433"
        dataset.save_as(path)
    context = replace(study.context, language="de", forms=(FORM,))

    results = build_answer(context, study.volume, study.result, ())

    verify_answer(results, context, study.volume, study.result)
    sets = {item.kind: str(read_back(item).SpecificCharacterSet) for item in results}
    assert sets["sr"] == sets["summary"] == "ISO_IR 192"


def test_the_sentence_on_a_series_is_read_as_the_chooser_writes_it() -> None:
    summary = SeriesSummary("1.2.3", 2, "T2 FLAIR", "2026-01-05 09:02:00", "axial", 4.8, 34)
    finding = Finding("series-used", "info", f"The FLAIR is {summary.sentence}.")

    assert series_remarks([finding], "de") == [
        'FLAIR: Serie 2 "T2 FLAIR", aufgenommen 05.01.2026, axial, 34 Schichten, Abstand 4,8 mm.'
    ]
    of_several = SeriesSummary("1.2.3/2", 3, "T1 3D", "2026-01-05 09:02:00", "axial", 3.0, 48, 2)
    assert series_remarks([Finding("series-used", "info", f"The T1 is {of_several.sentence}.")], "en") == [
        'T1: stack 2 of series 3 "T1 3D", acquired 2026-01-05, axial, 48 slices, 3.0 mm apart.'
    ]
