"""The pages of the PDF: no word stands on another, nothing leaves the page, colours are those of the outlines."""

from __future__ import annotations

import itertools
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw
from pydicom.dataset import Dataset

from dicomnode.results.companions.lettering import draw_text, load_font, wrap_text
from dicomnode.results.companions.page import SIZES, PageContent, Paper, draw_pages
from dicomnode.results.companions.pdf import PageImage, TextLine, write_pdf
from dicomnode.results.segments import segment_color
from dicomnode.results.verify.companions import read_lines
from dicomnode.results.words.person import describe_person

HEADS = ("Number", "Side", "Region", "Volume", "Long axis in plane", "Certainty")
REGIONS = ("frontal", "frontal, insula and basal ganglia", "periventricular white matter", "brain stem")
SENTENCE = (
    "Left frontal and insular lesion of 38 ml, right occipital lesion of 11 ml, small right periventricular "
    "lesion. New since 2026-03-01: none."
)
Box = tuple[int, int, int, int]


def patient(name: str = "Musterfrau^Erika") -> Dataset:
    identity = Dataset()
    identity.PatientName, identity.PatientID, identity.PatientBirthDate = name, "4711", "19530101"
    identity.PatientSex, identity.AccessionNumber, identity.StudyDate = "F", "A-12", "20261129"
    return identity


def content_of(lesions: int, words: int = 1, identity: Dataset | None = None) -> PageContent:
    rows = [
        (str(n), "left" if n % 2 else "right", REGIONS[n % 4], f"{90 / n:.1f} ml", f"{60 / n:.1f} mm", "0.83")
        for n in range(1, lesions + 1)
    ]
    colors = [segment_color(number) for number in range(1, lesions + 1)]
    small_print = ["stroke-lesion-ensemble 0.3.0: trained on synthetic data. For research use only. " * 3]
    return PageContent(
        "Stroke lesion report",
        [SENTENCE] * words,
        describe_person(identity or patient(), "en"),
        "en",
        [HEADS, *rows],
        small_print,
        colors,
    )


def ink_box(line: TextLine, size: tuple[int, int]) -> Box | None:
    """Where a line's own letters are, drawn alone on an empty page."""
    alone = Image.new("L", size)
    draw_text(ImageDraw.Draw(alone), (line.left, line.baseline - line.size), line.text, int(line.size), 255)  # type: ignore[arg-type]
    return alone.getbbox()


def overlapping(page: PageImage) -> list[tuple[str, str]]:
    boxes = [(line.text, ink_box(line, page.image.size)) for line in page.lines]
    return [
        (first, second)
        for (first, a), (second, b) in itertools.combinations(boxes, 2)
        if a and b and max(a[0], b[0]) < min(a[2], b[2]) and max(a[1], b[1]) < min(a[3], b[3])
    ]


@pytest.mark.parametrize("paper", ["A4", "Letter"])
@pytest.mark.parametrize("lesions", [3, 12])
def test_no_word_stands_on_another_or_leaves_the_page(paper: Paper, lesions: int) -> None:
    width, height = SIZES[paper]
    picture = Image.new("RGB", (768, 768), (60, 60, 60))

    pages = draw_pages(content_of(lesions), picture, paper)

    assert len(pages) <= 2
    texts = [line.text for page in pages for line in page.lines]
    assert [text for text in texts if text.isdecimal() and len(text) < 3] == [
        str(n) for n in range(1, lesions + 1)
    ]
    for page in pages:
        assert page.image.size == (width, height)
        assert overlapping(page) == []
        for line in page.lines:
            left, top, right, bottom = ink_box(line, page.image.size) or (80, 80, 80, 80)
            assert (left >= 78, right <= width - 78) == (True, True), line.text
            assert (top >= 0, bottom <= height) == (True, True), line.text


def test_the_check_sees_words_that_overlap() -> None:
    lines = [TextLine(80, 100, 22, "Left frontal"), TextLine(140, 104, 22, "Right occipital")]

    assert overlapping(PageImage(Image.new("RGB", SIZES["A4"]), lines)) == [
        ("Left frontal", "Right occipital")
    ]


def test_what_does_not_fit_goes_to_the_next_page_with_the_warning_on_each() -> None:
    pages = draw_pages(content_of(40, words=12), Image.new("RGB", (768, 768)), "Letter")

    assert len(pages) >= 2
    texts = [[line.text for line in page.lines] for page in pages]
    assert all(page[0] == "AI result, not for primary diagnosis." for page in texts)
    assert {str(number) for number in range(1, 41)} <= set(itertools.chain(*texts))
    assert [overlapping(page) for page in pages] == [[]] * len(pages)
    read = read_lines(write_pdf(pages, 150, "Report", "D:20261129"))
    assert read == list(itertools.chain(*texts))


def test_the_impression_is_the_first_sentence_and_each_row_has_the_colour_of_its_outline() -> None:
    (page,) = draw_pages(content_of(3), None)
    texts = [line.text for line in page.lines]

    impression = next(text for text in texts if text.startswith("Left frontal"))
    assert texts.index(impression) < texts.index("Number") < texts.index("1")
    pixels = np.asarray(page.image)
    for number in (1, 2, 3):
        (line,) = [entry for entry in page.lines if entry.text == str(number)]
        row = pixels[int(line.baseline) - 10, 80:120]
        assert (row == segment_color(number)).all(axis=1).any()


@pytest.mark.parametrize("name", ["X" * 64, "W" * 63, "山田^太郎" * 12, "Ꭰ" * 60])
def test_a_name_of_any_length_stays_whole_and_on_the_page(name: str) -> None:
    pages = draw_pages(content_of(3, identity=patient(name)), None)

    line = pages[0].lines[[entry.text for entry in pages[0].lines].index("Patient") + 1]
    assert line.text.replace(", ", "").replace(" ", "") == name.replace("^", "")
    left, _, right, _ = ink_box(line, pages[0].image.size) or (0, 0, 0, 0)
    assert 250 < left < right <= SIZES["A4"][0]
    assert overlapping(pages[0]) == []


@pytest.mark.parametrize(
    "text", ["one two three four", "Donaudampfschifffahrtsgesellschaft" * 3, "", "山田太郎" * 30]
)
def test_wrapped_lines_are_no_wider_than_asked_and_lose_no_letter(text: str) -> None:
    lines = wrap_text(text, 22, 200)

    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    if text.isascii():
        assert max(load_font(22).getlength(line) for line in lines) <= 200


@pytest.mark.tools
@pytest.mark.parametrize(("paper", "points"), [("A4", "595.2 x 841.92"), ("Letter", "612 x 792")])
def test_another_reader_sees_the_pages_in_their_size(
    paper: Paper, points: str, tmp_path: Path, require_tool: Callable[[str], str]
) -> None:
    path = tmp_path / "report.pdf"
    pages = draw_pages(content_of(12), Image.new("RGB", (768, 768)), paper)
    path.write_bytes(write_pdf(pages, 150, "Report", "D:20261129"))

    described = subprocess.run(
        [require_tool("pdfinfo"), str(path)], capture_output=True, text=True, check=True
    ).stdout

    assert re.search(rf"Pages:\s+{len(pages)}\n", described)
    assert re.search(rf"Page size:\s+{re.escape(points)} pts", described)
