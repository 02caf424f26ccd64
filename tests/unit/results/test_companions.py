"""Pictures, page and key objects: what they show and whom they name, in every script; and that a wrong one does not leave."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image, ImageDraw, features
from pydicom.dataset import Dataset

from dicomnode.errors import ResultRejected
from dicomnode.results.build import build_answer, build_refusal, encode
from dicomnode.results.companions.key_pictures import direction_letters
from dicomnode.results.companions.lettering import NOT_DRAWN, choose_font, draw_text
from dicomnode.results.companions.pdf import PageImage, TextLine, as_seen, write_pdf
from dicomnode.results.records import EncodedResult
from dicomnode.results.verify.companions import check_pdf, read_lines
from dicomnode.results.verify.gate import read_back, verify_answer, verify_refusal
from dicomnode.settings.config import Language, ResultForm
from dicomnode.states import Outcome
from tests.factories.results import Answered, answered_study

EVERYTHING = ResultForm(objects=("seg", "sr", "pictures", "pdf", "ko"))
SMALL = {"shape": (10, 40, 53), "spacing_mm": (15.0, 4.0, 4.25)}
NAMES: dict[str, tuple[str | list[str], str]] = {
    "Latin 1": ("ISO_IR 100", "Müller^Jörg"),
    "Latin 2": ("ISO_IR 101", "Żółć^Łukasz"),
    "Turkish": ("ISO_IR 148", "ĞÜŞİÖÇ^ığüşöç"),
    "Cyrillic": ("ISO_IR 144", "Люксембург^Роза"),
    "Greek": ("ISO_IR 126", "Διονύσιος^Α"),
    "Arabic": ("ISO_IR 127", "قباني^لنزار"),
    "Hebrew": ("ISO_IR 138", "שרון^דבורה"),
    "Thai": ("ISO_IR 166", "นามสกุล^ชื่อ"),
    "Japanese": (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう"),
    "Japanese, half width": (["ISO 2022 IR 13", "ISO 2022 IR 87"], "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう"),
    "Korean": (["", "ISO 2022 IR 149"], "Hong^Gildong=洪^吉洞=홍^길동"),
    "Chinese, GB18030": ("GB18030", "Wang^XiaoDong=王^小东"),
    "Chinese, GBK": ("GBK", "Zhang^XiaoDong=张^小东"),
    "UTF-8": ("ISO_IR 192", "Wang^XiaoDong=王^小東"),
}
# How each stands on the page.
WRITTEN = {
    "Latin 1": "Müller, Jörg",
    "Latin 2": "Żółć, Łukasz",
    "Turkish": "ĞÜŞİÖÇ, ığüşöç",
    "Cyrillic": "Люксембург, Роза",
    "Greek": "Διονύσιος, Α",
    "Arabic": "قباني, لنزار",
    "Hebrew": "שרון, דבורה",
    "Thai": "นามสกุล, ชื่อ",
    "Japanese": "Yamada, Tarou (山田 太郎; やまだ たろう)",
    "Japanese, half width": "ﾔﾏﾀﾞ, ﾀﾛｳ (山田 太郎; やまだ たろう)",
    "Korean": "Hong, Gildong (洪 吉洞; 홍 길동)",
    "Chinese, GB18030": "Wang, XiaoDong (王 小东)",
    "Chinese, GBK": "Zhang, XiaoDong (张 小东)",
    "UTF-8": "Wang, XiaoDong (王 小東)",
}


def in_form(answered: Answered, form: ResultForm) -> Answered:
    return replace(answered, context=replace(answered.context, forms=(form,)))


def answer(answered: Answered) -> tuple[EncodedResult, ...]:
    results = build_answer(answered.context, answered.volume, answered.result, ())
    verify_answer(results, answered.context, answered.volume, answered.result)
    return results


@pytest.fixture(scope="module")
def answered(tmp_path_factory: pytest.TempPathFactory) -> Answered:
    return in_form(
        answered_study(tmp_path_factory.mktemp("study"), roles=("flair",), flair=SMALL), EVERYTHING
    )


@pytest.fixture(scope="module")
def results(answered: Answered) -> tuple[EncodedResult, ...]:
    return answer(answered)


@pytest.mark.parametrize("script", NAMES)
def test_the_name_is_the_same_in_source_outlines_report_and_page(tmp_path: Path, script: str) -> None:
    SpecificCharacterSet, name = NAMES[script]
    study = in_form(answered_study(tmp_path, roles=("flair",), flair=SMALL), EVERYTHING)
    for path in tmp_path.rglob("*.dcm"):
        dataset = pydicom.dcmread(path)
        dataset.SpecificCharacterSet, dataset.PatientName = SpecificCharacterSet, name
        dataset.save_as(path)
    assert str(pydicom.dcmread(study.context.template).PatientName) == name

    datasets = {item.kind: read_back(item) for item in answer(study)}

    assert {kind: str(dataset.PatientName) for kind, dataset in datasets.items()} == dict.fromkeys(
        datasets, name
    )
    assert as_seen(WRITTEN[script]) in read_lines(datasets["pdf"].EncapsulatedDocument)


@pytest.mark.tools
def test_another_reader_finds_each_name_on_the_page(
    tmp_path: Path, require_tool: Callable[[str], str]
) -> None:
    page = Image.new("RGB", (1240, 1754), (255, 255, 255))
    names = [name for _, name in NAMES.values()]
    path = tmp_path / "page.pdf"
    lines = [TextLine(80, 100 + 50 * row, 28, name) for row, name in enumerate(names)]
    path.write_bytes(write_pdf([PageImage(page, lines)], 150, "Names", "D:20260101"))

    seen = subprocess.run(
        [require_tool("pdftotext"), str(path), "-"], capture_output=True, text=True, check=True
    ).stdout

    # It marks where the direction turns (U+202A to U+202C); the letters are what was written.
    assert [line.strip("\u202a\u202b\u202c\x0c") for line in seen.splitlines() if line.strip()] == names


@pytest.mark.skipif(
    not features.check("fribidi"),
    reason="scripts that run from the right need the system's FriBiDi to be drawn",
)
@pytest.mark.parametrize("script", NAMES)
def test_each_name_can_be_drawn(script: str) -> None:
    image = Image.new("L", (900, 60))

    assert draw_text(ImageDraw.Draw(image), (5, 5), NAMES[script][1], 28, 255)  # type: ignore[arg-type]
    assert np.asarray(image).any()


def test_a_letter_that_no_font_has_is_not_drawn_as_a_box() -> None:
    image = Image.new("RGB", (300, 60))

    assert choose_font("Ꭰ", 28) is None
    expected = Image.new("RGB", (300, 60))
    draw_text(ImageDraw.Draw(expected), (5, 5), NOT_DRAWN, 28, (255, 255, 255))

    assert not draw_text(ImageDraw.Draw(image), (5, 5), "Name Ꭰ", 28, (255, 255, 255))
    assert np.array_equal(np.asarray(image), np.asarray(expected))


def test_an_answer_is_marked_in_header_and_pixels(results: tuple[EncodedResult, ...]) -> None:
    datasets = {item.kind: read_back(item) for item in results}

    assert all(
        "AI result, not for primary diagnosis" in dataset.SeriesDescription for dataset in datasets.values()
    )
    assert datasets["pictures"].BurnedInAnnotation == "NO"
    assert datasets["pdf"].BurnedInAnnotation == "YES"
    lines = read_lines(datasets["pdf"].EncapsulatedDocument)
    assert lines[0] == "AI result, not for primary diagnosis."
    assert any(line.startswith("Left-sided lesion of ") for line in lines)
    assert {"left", "right"} <= set(lines)


def test_pictures_show_the_slices_that_they_name(
    answered: Answered, results: tuple[EncodedResult, ...]
) -> None:
    many = read_back(next(item for item in results if item.kind == "pictures"))
    single = [
        read_back(item)
        for item in answer(in_form(answered, replace(EVERYTHING, pictures="single-frame")))
        if "pictures" in item.kind
    ]

    assert many.NumberOfFrames == len(single) == 3
    assert np.array_equal(many.pixel_array, np.stack([dataset.pixel_array for dataset in single]))
    assert len({dataset.SOPInstanceUID for dataset in single}) == 3
    assert len({dataset.SeriesInstanceUID for dataset in single}) == 1
    named = [dataset.SourceImageSequence[0].ReferencedSOPInstanceUID for dataset in single[1:]]
    assert len(set(named)) == 2
    for dataset, uid in zip(single[1:], named, strict=True):
        index = [frame.SOPInstanceUID for frame in answered.context.sources[0].frames].index(uid)
        assert f"Slice {index + 1} of 10" in dataset.ImageComments


def test_key_objects_point_to_what_was_found(answered: Answered, results: tuple[EncodedResult, ...]) -> None:
    datasets = {item.kind: read_back(item) for item in results}
    pointed = [
        item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID
        for item in datasets["ko"].ContentSequence
        if "ReferencedSOPSequence" in item
    ]

    assert pointed[-1] == datasets["seg"].SOPInstanceUID
    assert set(pointed[:-1]) == {
        image.ReferencedSOPInstanceUID for image in datasets["pictures"].SourceImageSequence
    }


@pytest.mark.parametrize("plane", ["sagittal", "coronal"])
def test_companions_of_any_plane_and_of_multi_frame_sources_hold(tmp_path: Path, plane: str) -> None:
    t1 = {
        "plane": plane,
        "shape": (30, 48, 53),
        "spacing_mm": (5.0, 4.0, 4.0),
        "multiframe": plane == "coronal",
        "reverse": plane == "sagittal",
    }

    assert len(answer(in_form(answered_study(tmp_path, roles=("t1",), t1=t1), EVERYTHING))) == 5


def test_a_study_without_lesions_is_answered_by_page_and_picture_too(tmp_path: Path) -> None:
    results = answer(in_form(answered_study(tmp_path, found=False), EVERYTHING))

    assert [item.kind for item in results] == ["pictures", "pdf", "sr"]
    assert any(
        "No stroke lesion found." in line for line in read_lines(read_back(results[1]).EncapsulatedDocument)
    )


def test_a_refusal_is_answered_by_page_and_picture_too(answered: Answered) -> None:
    context = replace(answered.context, sources=())
    results = build_refusal(
        context, "slice-missing", "The FLAIR has a gap after slice 7; send it again.", (), Outcome.REFUSED
    )
    verify_refusal(results, context)

    assert sorted(item.kind for item in results) == ["pdf", "pictures", "sr"]
    page = read_back(next(item for item in results if item.kind == "pdf"))
    assert "The FLAIR has a gap after slice 7; send it again." in read_lines(page.EncapsulatedDocument)


# What stands on page, pictures and key images in each language: heads, warning, caption.
SHOWN: dict[Language, tuple[str, str, str, str]] = {
    "de": ("Geburtsdatum", "03.02.1950", "Nur für die Forschung.", "Schicht "),
    "fr": ("Date de naissance", "03/02/1950", "Réservé à la recherche.", "Coupe "),
    "es": ("Fecha de nacimiento", "03/02/1950", "Solo para investigación.", "Corte "),
}


@pytest.mark.parametrize(
    "language", ["de", pytest.param("fr", marks=pytest.mark.slow), pytest.param("es", marks=pytest.mark.slow)]
)
def test_page_and_pictures_speak_the_language_of_the_report(tmp_path: Path, language: Language) -> None:
    study = in_form(answered_study(tmp_path, roles=("flair",), flair=SMALL), EVERYTHING)
    for path in tmp_path.rglob("*.dcm"):
        dataset = pydicom.dcmread(path)
        dataset.PatientName, dataset.PatientBirthDate, dataset.PatientSex = "Roe^Jane", "19500203", "F"
        dataset.save_as(path)
    study = replace(study, context=replace(study.context, language=language))
    datasets = {item.kind: read_back(item) for item in answer(study)}
    lines = read_lines(datasets["pdf"].EncapsulatedDocument)

    head, date, research, slice_word = SHOWN[language]
    assert lines[lines.index(head) + 1] == date
    assert "Roe, Jane" in lines
    assert any(research in line for line in lines)
    assert datasets["pictures"].ImageComments.count(slice_word) == 2
    english = {"Patient ID", "Birth date", "Sex", "Accession number", "Study date", "Side", "Montage"}
    shown = {*lines, *re.split(r"[;,.] ", datasets["pictures"].ImageComments)}
    assert not english & shown
    assert not [text for text in shown if "not for primary" in text]


def test_the_gate_sees_a_birth_date_that_is_not_the_header_s(
    answered: Answered, results: tuple[EncodedResult, ...]
) -> None:
    page = read_back(next(item for item in results if item.kind == "pdf"))
    check_pdf(page, "en")

    page.PatientBirthDate = "19991231"

    with pytest.raises(ResultRejected, match="PatientBirthDate of the header"):
        check_pdf(page, "en")
    page.PatientBirthDate, page.PatientName = None, "Somebody^Else"
    with pytest.raises(ResultRejected, match="PatientName of the header"):
        check_pdf(page, "en")


def test_the_same_input_gives_the_same_companions(
    answered: Answered, results: tuple[EncodedResult, ...]
) -> None:
    assert [item.data for item in answer(answered)] == [item.data for item in results]


def test_sides_are_named_by_the_direction_of_an_axis() -> None:
    affine = np.diag([1.0, 1.0, -1.0, 1.0])

    assert [direction_letters(affine, axis) for axis in (0, 1, 2)] == [("R", "L"), ("A", "P"), ("H", "F")]


def mirror_pictures(dataset: Dataset) -> None:
    dataset.PixelData = np.ascontiguousarray(dataset.pixel_array[:, :, ::-1]).tobytes()


def wipe_warning(dataset: Dataset) -> None:
    pixels = dataset.pixel_array.copy()
    pixels[0, -28:] = 0
    dataset.PixelData = pixels.tobytes()


def swap_slices(dataset: Dataset) -> None:
    pixels = dataset.pixel_array
    dataset.PixelData = pixels[[0, 2, 1]].tobytes()


def name_another_image(dataset: Dataset) -> None:
    dataset.SourceImageSequence[0].ReferencedSOPInstanceUID = "1.2.3"


def another_patient_on_the_page(dataset: Dataset) -> None:
    page = PageImage(Image.new("RGB", (124, 175)), [TextLine(1, 1, 1, "ELSE^SOMEBODY")])
    data = write_pdf([page], 15, "x", "D:2026")
    dataset.EncapsulatedDocument, dataset.EncapsulatedDocumentLength = (
        data + b"\0" * (len(data) % 2),
        len(data),
    )


def cut_the_page(dataset: Dataset) -> None:
    dataset.EncapsulatedDocumentLength = 1000


def point_elsewhere(dataset: Dataset) -> None:
    for item in dataset.ContentSequence:
        if "ReferencedSOPSequence" in item:
            item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID = "1.2.3"


def forget_the_mark(dataset: Dataset) -> None:
    dataset.SeriesDescription = "Stroke lesions"


@pytest.mark.parametrize(
    ("kind", "fault", "words"),
    [
        ("pictures", mirror_pictures, "outlines of a picture|bear the warning"),
        ("pictures", swap_slices, "outlines of a picture"),
        ("pictures", wipe_warning, "bear the warning"),
        ("pictures", name_another_image, "not of this study"),
        ("pictures", forget_the_mark, "does not say"),
        ("pdf", another_patient_on_the_page, "PatientName of the header"),
        ("pdf", cut_the_page, "whole PDF"),
        ("pdf", forget_the_mark, "does not say"),
        ("ko", point_elsewhere, "not of this study"),
        ("ko", forget_the_mark, "does not say"),
    ],
)
def test_a_wrong_companion_does_not_leave(
    answered: Answered,
    results: tuple[EncodedResult, ...],
    kind: str,
    fault: Callable[[Dataset], None],
    words: str,
) -> None:
    dataset = read_back(next(item for item in results if item.kind == kind))
    fault(dataset)
    changed = [encode(kind, dataset) if item.kind == kind else item for item in results]

    with pytest.raises(ResultRejected, match=words):
        verify_answer(changed, answered.context, answered.volume, answered.result)
