"""The last gate for pictures, page and key objects.

What they show and whom they name, read back from their bytes.
"""

from __future__ import annotations

import re
import unicodedata
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from pydicom.dataset import Dataset

from dicomnode.errors import ResultRejected
from dicomnode.records import SourceSeries
from dicomnode.results.verify.content import concept, walk_content
from dicomnode.results.verify.source import texts_of
from dicomnode.settings.config import Language
from pipeline.geometry import spacing_mm
from pipeline.records import Array, PipelineResult

_MARK = "not for primary diagnosis"
_YELLOW = (255, 220, 0)
_COLORED = 60
_TOLERANCE_PIXELS = 4.0
_ON_THE_PAGE = ("PatientName", "PatientID", "PatientBirthDate", "AccessionNumber")
# A second, small table of words, on purpose: what the builders' table calls a slice must be one here.
_WARNING: Mapping[Language, str] = {
    "en": _MARK,
    "de": "nicht für die Primärdiagnose",
    "fr": "ne pas utiliser pour le diagnostic primaire",
    "es": "no apto para el diagnóstico primario",
}
_SLICE: Mapping[Language, str] = {
    "en": r"Slice (\d+) of (\d+)",
    "de": r"Schicht (\d+) von (\d+)",
    "fr": r"Coupe (\d+) sur (\d+)",
    "es": r"Corte (\d+) de (\d+)",
}


def check_mark(dataset: Dataset) -> None:
    """Refuse an object whose series does not say what it is not for."""
    if _MARK not in dataset.SeriesDescription:
        raise ResultRejected(f"the series of the {dataset.Modality} object does not say that it is {_MARK}")


def check_pictures(
    objects: Sequence[Dataset],
    result: PipelineResult | None,
    series: SourceSeries | None,
    language: Language,
) -> None:
    """Refuse pictures without the warning in their pixels, or with outlines away from their slice's lesions.

    Parameters
    ----------
    result, series
        None when the pictures are a notice.
    """
    frames = [frame for dataset in objects for frame in _frames(dataset)]
    # A picture is a square with the warning in a band below it.
    side = int(objects[0].Columns)
    if not all(len(frame) > side and (frame[side:] == _YELLOW).all(axis=-1).any() for frame in frames):
        raise ResultRejected("a picture does not bear the warning")
    slices = _stated_slices(objects, 0 if result is None else len(result.labels.array), _SLICE[language])
    if len(frames) != 1 + len(slices):
        raise ResultRejected(f"the number of pictures is {len(frames)} instead of {1 + len(slices)}")
    if result is None or series is None:
        return
    if bool(slices) != bool(result.lesions) or (slices and _main_slice(result) not in slices):
        raise ResultRejected("the pictures do not show the slice in which the largest lesion is largest")
    for index, frame in zip(slices, frames[1:], strict=True):
        _check_outlines(frame[:side], result.labels.array[index], spacing_mm(result.labels.affine)[1:])
    referenced_uids = {
        str(image.ReferencedSOPInstanceUID)
        for dataset in objects
        for image in dataset.get("SourceImageSequence", [])
    }
    if (
        referenced_uids != {series.frames[index].SOPInstanceUID for index in slices}
        and len({frame.path for frame in series.frames}) > 1
    ):
        raise ResultRejected("the pictures name other images than those that they show")


def check_pdf(dataset: Dataset, language: Language) -> None:
    """Refuse a page that is no PDF, or does not bear what identifies the patient in the header.

    The page must also bear the warning.
    """
    data = bytes(dataset.EncapsulatedDocument)[: int(dataset.EncapsulatedDocumentLength)]
    if not data.startswith(b"%PDF-") or not data.rstrip().endswith(b"%%EOF"):
        raise ResultRejected("the page is not a whole PDF file")
    lines = read_lines(data)
    for keyword in _ON_THE_PAGE:
        text = "\\".join(texts_of(dataset, keyword))
        is_same = _COMPARISONS.get(keyword, _is_same_text)
        if text and not any(is_same(line, text) for line in lines):
            raise ResultRejected(f"the page does not bear the {keyword} of the header")
    if not any(_WARNING[language] in line for line in lines):
        raise ResultRejected("the page does not bear the warning")


def check_key_objects(dataset: Dataset, segmentation: Dataset, series: SourceSeries) -> None:
    """Refuse key objects that point to something else than images of the reference series and their SEG."""
    images = {frame.SOPInstanceUID for frame in series.frames}
    named = [
        str(item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID)
        for item in walk_content(dataset)
        if "ReferencedSOPSequence" in item
    ]
    if (
        segmentation.SOPInstanceUID not in named
        or len(named) < 2
        or not set(named) <= {*images, str(segmentation.SOPInstanceUID)}
    ):
        raise ResultRejected("the key objects are not the key images and their segmentation")
    evidence = {
        str(instance.ReferencedSOPInstanceUID)
        for study in dataset.CurrentRequestedProcedureEvidenceSequence
        for series in study.ReferencedSeriesSequence
        for instance in series.ReferencedSOPSequence
    }
    if evidence != set(named):
        raise ResultRejected("the key objects' evidence differs from what they point to")
    if concept(dataset) != "113000":
        raise ResultRejected("the key objects are not titled Of Interest")


def read_lines(data: bytes) -> list[str]:
    """Return the lines of our own PDF's text layer, page by page, as they are seen from left to right."""
    packed = re.findall(rb"/FlateDecode /Length (\d+) >>\nstream\n", data)
    starts = [match.end() for match in re.finditer(rb"/FlateDecode /Length \d+ >>\nstream\n", data)]
    streams = [
        zlib.decompress(data[start : start + int(length)])
        for start, length in zip(starts, packed, strict=True)
    ]
    fonts = [_read_map(stream) for stream in streams if b"begincmap" in stream]
    contents = [stream.decode("ascii") for stream in streams if stream.startswith(b"q ")]
    return [
        _read_line(line, fonts) for content in contents for line in content.splitlines() if " Tm " in line
    ]


def _read_line(line: str, fonts: Sequence[Mapping[int, str]]) -> str:
    runs = re.findall(r"/F(\d+) \S+ Tf <([0-9a-f]*)> Tj", line)
    return "".join(fonts[int(font)][code] for font, codes in runs for code in bytes.fromhex(codes))


def _read_map(stream: bytes) -> dict[int, str]:
    entries = re.findall(rb"^<([0-9a-f]{2})> <([0-9a-f]{4,})>$", stream, flags=re.MULTILINE)
    return {
        int(code, 16): bytes.fromhex(letter.decode("ascii")).decode("utf-16-be") for code, letter in entries
    }


def _is_same_text(line: str, text: str) -> bool:
    """Return whether a line is a text.

    The letters of scripts that run from the right may stand in the order in which they are seen.
    """
    if line == text:
        return True
    return any(unicodedata.bidirectional(letter) in ("R", "AL") for letter in text) and Counter(
        line
    ) == Counter(text)


def _is_same_name(line: str, name: str) -> bool:
    """Return whether a line has the letters and digits of a name, whatever the marks between them."""
    return _letters(line) == _letters(name)


def _letters(text: str) -> Counter[str]:
    """Return how often each character stands in a text; punctuation, symbols and spaces are left out."""
    return Counter(letter for letter in text if unicodedata.category(letter)[0] not in "PSZC")


def _is_same_date(line: str, date: str) -> bool:
    """Return whether a line is a date (YYYYMMDD), its year first or last; other text stands as it is."""
    year, month, day = date[:4], date[4:6], date[6:]
    numbers = re.findall(r"\d+", line)
    written = numbers in ([year, month, day], [day, month, year]) and not re.search(r"[^\W\d]", line)
    return line == date or written


_COMPARISONS = {"PatientName": _is_same_name, "PatientBirthDate": _is_same_date}


def _stated_slices(objects: Sequence[Dataset], slice_count: int, pattern: str) -> list[int]:
    """Return the slices that the captions name, counted from 0."""
    stated = [match for dataset in objects for match in re.findall(pattern, str(dataset.ImageComments))]
    if any(int(count) != slice_count or not 1 <= int(number) <= slice_count for number, count in stated):
        raise ResultRejected("a picture names a slice that the image does not have")
    return [int(number) - 1 for number, _ in stated]


def _main_slice(result: PipelineResult) -> int:
    """Return the slice with the most voxels of the lesion with the most voxels; of equals, the first."""
    sizes = np.bincount(result.labels.array.ravel())[1:]
    return int((result.labels.array == 1 + int(sizes.argmax())).sum(axis=(1, 2)).argmax())


def _frames(dataset: Dataset) -> Array:
    pixels: Array = dataset.pixel_array
    return pixels.reshape(-1, int(dataset.Rows), int(dataset.Columns), 3)


def _check_outlines(picture: Array, labels: Array, pixel_mm: tuple[float, float]) -> None:
    """Hold the box around all coloured pixels against the box around all lesions of the slice."""
    # Two by two: along an axis of three values the reductions of numpy take twenty times as long.
    red, green, blue = np.moveaxis(picture, -1, 0)
    brightest = np.maximum(np.maximum(red, green), blue)
    darkest = np.minimum(np.minimum(red, green), blue)
    colored = np.argwhere(brightest - darkest > _COLORED)
    if not len(colored):
        raise ResultRejected("a picture of a lesion has no outline")
    size_mm = np.array(labels.shape) * pixel_mm
    scale = picture.shape[0] / size_mm.max()
    margin = (np.array(picture.shape[:2]) - size_mm * scale) / 2
    inside = np.argwhere(labels)
    first, last = (
        inside.min(axis=0) * pixel_mm * scale + margin,
        (inside.max(axis=0) + 1) * pixel_mm * scale + margin,
    )
    off = max(np.abs(colored.min(axis=0) - first).max(), np.abs(colored.max(axis=0) + 1 - last).max())
    if off > _TOLERANCE_PIXELS:
        raise ResultRejected("the outlines of a picture do not lie on the lesions")
