"""What a radiologist sees: results in Orthanc, opened in OHIF in a real (headless) browser, judged by the pixels on the screen.

The lesion is planted in the image as its only bright spot, so the place where the overlay belongs is read off the screenshot of the
image alone: neither our code nor the viewer is asked where it should be. Screenshots stay in pytest's folder of the run.
"""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from importlib import import_module
from importlib.util import find_spec
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from scipy import ndimage

from dicomnode.results.build import build_answer
from dicomnode.results.verify.gate import verify_answer
from dicomnode.settings.config import ResultForm
from pipeline.records import RegionShare
from tests.factories.dicom import Blob
from tests.factories.listening import eventually
from tests.factories.orthanc import DICOMWEB_PLUGIN, Orthanc, running_orthanc
from tests.factories.results import Answered, answered_study, followed
from tests.factories.viewer import require_parts, serve_viewer

Pixels = npt.NDArray[np.int16]

# As `.ci/run` lays it out: `npm pack @ohif/app`, unpacked.
OHIF = Path(__file__).resolve().parents[2] / ".ohif" / "package" / "dist"
# The window that leaves nothing but the lesions: all else in the phantom is darker (tests/factories/dicom.py).
WINDOW = {"WindowCenter": "2100", "WindowWidth": "300"}
# The viewport without the words in its corners.
CLIP = {"x": 400.0, "y": 130.0, "width": 730.0, "height": 700.0}
STUDIES: dict[str, dict[str, Any]] = {
    "256 columns, axial": {"plane": "axial", "shape": (30, 256, 256), "spacing_mm": (6.0, 0.8, 0.8)},
    "230 columns, sagittal": {"plane": "sagittal", "shape": (30, 230, 230), "spacing_mm": (6.0, 0.9, 0.9)},
    "53 columns, oblique": {
        "plane": "axial",
        "shape": (30, 61, 53),
        "spacing_mm": (6.0, 3.6, 3.6),
        "tilt_deg": 14,
    },
}


@dataclass
class Screen:
    """A page of the viewer and what it complained of."""

    page: Any
    folder: Path
    complaints: list[str] = field(default_factory=list)

    def open(self, url: str, study: str) -> None:
        """Open a study and wait until its image is drawn."""
        self.complaints.clear()
        self.page.goto(f"{url}/viewer?StudyInstanceUIDs={study}")
        self.page.locator("[data-cy=study-browser-thumbnail]").first.wait_for(timeout=90_000)
        drawn = "() => globalThis.cornerstone?.getRenderingEngines()?.[0]?.getViewports()?.[0]?.getImageData?.() != null"
        self.page.wait_for_function(drawn, timeout=90_000)

    def double_click(self, modality: str) -> None:
        """Open a series that has no picture of its own, as one does with the mouse."""
        self.page.locator("[data-cy=study-browser-thumbnail-no-image]", has_text=modality).first.dblclick(
            timeout=60_000
        )

    def open_document(self, modality: str, words: str) -> None:
        """Open a series by the mouse until these words of it are shown: on a busy machine the page may miss a click."""
        shown = self.page.get_by_text(words).first
        for _ in range(6):
            self.double_click(modality)
            if eventually(shown.is_visible, timeout_s=30):
                return
        self.look("document-that-never-appeared")
        raise AssertionError(
            f"{words!r} never appeared; {self.folder} has the screen, complaints: {self.complaints}"
        )

    def show_slice(self, index: int) -> None:
        """Scroll to a slice (from 0, in the order of the viewer)."""
        self.page.evaluate(
            "async index => { await cornerstone.getRenderingEngines()[0].getViewports()[0].setImageIdIndex(index);"
            # The image is drawn in the next frame, and what lies on it in the one after that.
            "for (let frame = 0; frame < 6; frame++) await new Promise(done => requestAnimationFrame(done)); }",
            index,
        )
        self.page.wait_for_timeout(300)

    def instance_of_slice(self, index: int) -> str:
        """Return the SOP Instance UID of the image that the viewer shows as this slice."""
        script = (
            "index => { const one = cornerstone.getRenderingEngines()[0].getViewports()[0];"
            "return cornerstone.metaData.get('instance', one.getImageIds()[index]).SOPInstanceUID; }"
        )
        uid: str = self.page.evaluate(script, index)
        return uid

    def look(self, name: str) -> Pixels:
        """Return the middle of the viewport as (row, column, RGB) and keep the whole screen as a file."""
        self.page.screenshot(path=str(self.folder / f"{name}.png"))
        shot = self.page.screenshot(clip=CLIP)
        return np.asarray(Image.open(io.BytesIO(shot)).convert("RGB")).astype(np.int16)


@pytest.fixture(scope="module")
def viewer_files() -> Path:
    require_parts(
        {
            "OHIF (npm pack @ohif/app, unpacked in .ohif)": (OHIF / "index.html").is_file(),
            "Orthanc with its DICOMweb plug-in": DICOMWEB_PLUGIN.is_file(),
            "chromium": shutil.which("chromium"),
            "playwright": find_spec("playwright"),
        }
    )
    return OHIF


@pytest.fixture(scope="module")
def archive(viewer_files: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    program = shutil.which("Orthanc") or "/usr/sbin/Orthanc"
    with running_orthanc(program, tmp_path_factory.mktemp("orthanc")) as orthanc:
        yield orthanc


@pytest.fixture(scope="module")
def url(viewer_files: Path, archive: Orthanc) -> Iterator[str]:
    with serve_viewer(viewer_files, archive.http_port) as address:
        yield address


@pytest.fixture(scope="module")
def screen(viewer_files: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Screen]:
    api = import_module("playwright.sync_api")
    flags = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
    with api.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=flags)
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        # The viewer's guided tour comes up at a moment of its own and lies over all that is to be clicked.
        page.add_init_script("localStorage.setItem('shownTours', JSON.stringify(['basicViewerTour']))")
        seen = Screen(page, tmp_path_factory.mktemp("screens"))
        page.on(
            "console",
            lambda message: seen.complaints.append(message.text) if message.type == "error" else None,
        )
        page.on("pageerror", lambda error: seen.complaints.append(str(error)))
        yield seen
        browser.close()


def upload_study(archive: Orthanc, folder: Path, **flair: Any) -> Answered:
    """Put a study and its results, as a destination with `segmentation = "auto"` gets them, into the archive."""
    # The report also tells what became of lesions since an earlier study; two of them are not there any more.
    study = followed(
        answered_study(folder, roles=("flair",), flair={**flair, "overrides": WINDOW}, seed=folder.name)
    )
    study = replace(study, context=replace(study.context, forms=(ResultForm(segmentation="auto"),)))
    results = build_answer(study.context, study.volume, study.result, ())
    verify_answer(results, study.context, study.volume, study.result)
    for path in sorted(folder.rglob("*.dcm")):
        archive.upload(path.read_bytes())
    for item in results:
        archive.upload(item.data)
    return study


def centroids(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """Return the middle (row, column) of every spot, from top to bottom."""
    spots, count = ndimage.label(mask)
    assert count > 0
    middles: npt.NDArray[np.float64] = np.array(ndimage.center_of_mass(mask, spots, range(1, count + 1)))
    return middles


def is_white(pixels: Pixels) -> npt.NDArray[np.bool_]:
    white: npt.NDArray[np.bool_] = pixels.min(axis=-1) > 127
    return white


def is_colored(pixels: Pixels) -> npt.NDArray[np.bool_]:
    """Return where a segment's colour lies, filled or outlined; grey has none."""
    colored: npt.NDArray[np.bool_] = pixels.max(axis=-1) - pixels.min(axis=-1) > 40
    return colored


@pytest.mark.tools
@pytest.mark.timeout(400)
@pytest.mark.parametrize("name", STUDIES)
def test_outlines_lie_on_the_lesion_and_the_report_shows_its_measurements(
    archive: Orthanc, url: str, screen: Screen, tmp_path: Path, name: str
) -> None:
    study = upload_study(archive, tmp_path, **STUDIES[name])
    labels = study.result.labels.array
    best = int((labels == 1).sum(axis=(1, 2)).argmax())
    screen.open(url, study.context.StudyInstanceUID)
    shown = [screen.instance_of_slice(index) for index in range(len(labels))]
    index = shown.index(study.context.sources[0].frames[best].SOPInstanceUID)
    screen.show_slice(index)
    planted = is_white(screen.look(f"{name}-image"))

    screen.double_click("SEG")
    screen.page.get_by_role("button", name="Yes").click(timeout=120_000)
    screen.page.wait_for_timeout(500)
    screen.show_slice(index)
    overlay = is_colored(screen.look(f"{name}-outlines"))

    # Pixels of the screen; one of the image is three to fourteen of them.
    assert centroids(overlay) == pytest.approx(centroids(planted), abs=2)
    assert 0.9 < overlay.sum() / planted.sum() < 1.5
    assert screen.complaints == []

    screen.open_document("SR", "Long axis")
    words = screen.page.locator("[data-cy=viewport-pane]").inner_text()
    line = screen.look(f"{name}-report")
    longest = max(study.result.lesions, key=lambda lesion: lesion.long_axis.length_mm).long_axis.length_mm
    assert f"{longest:.2f} mm" in words
    assert is_colored(line).any()
    assert screen.complaints == []


LABELS = """() => [...document.querySelectorAll('svg g text')].map(text => {
    const box = text.getBoundingClientRect();
    return [text.textContent, box.left, box.top, box.right, box.bottom]; })"""


def labels_of(screen: Screen) -> list[tuple[str, float, float, float, float]]:
    """Return each label that is drawn on the image: its words and its box on the screen."""
    return [tuple(row) for row in screen.page.evaluate(LABELS) if row[0].strip()]


def overlap(
    first: tuple[str, float, float, float, float], second: tuple[str, float, float, float, float]
) -> bool:
    return first[1] < second[3] and second[1] < first[3] and first[2] < second[4] and second[2] < first[4]


# Side by side in one slice at one height: both labels would lie on the same spot.
CROWDED = (Blob((24, 10, 0), (6, 6, 5)), Blob((4, 10, 0), (5, 5, 5)), Blob((20, -34, 0), (4, 4, 5)))


def lesions_at(count: int) -> tuple[Blob, ...]:
    """Return lesions apart from each other, four in a slice at the most, of different size."""
    places = [(x, y, z) for z in (-18, 0, 18) for x, y in ((30, 30), (-30, 22), (30, -22), (-30, -34))]
    return tuple(Blob(place, (8 - 0.2 * n, 8 - 0.3 * n, 6)) for n, place in enumerate(places[:count]))


def printed_labels(screen: Screen, study: Answered) -> list[str]:
    """Open the report, look at every slice that it draws on, and return the words of all labels on them."""
    screen.open_document("Stroke lesion report", "Long axis")
    instances = [screen.instance_of_slice(index) for index in range(len(study.volume.array))]
    printed = []
    for index in sorted({lesion.long_axis.slice_index for lesion in study.result.lesions}):
        screen.show_slice(instances.index(study.context.sources[0].frames[index].SOPInstanceUID))
        labels = labels_of(screen)
        screen.look(f"labels-{len(study.result.lesions)}-{index}")
        assert not any(overlap(*pair) for pair in combinations(labels, 2))
        printed += [words for words, *_ in labels]
    return printed


def upload_labelled(archive: Orthanc, folder: Path, lesions: tuple[Blob, ...], seed: str) -> Answered:
    """Put a study with these lesions, its results and a report to read into the archive."""
    study = answered_study(
        folder,
        roles=("flair",),
        flair={"plane": "axial", "shape": (30, 256, 256), "spacing_mm": (6.0, 0.8, 0.8)},
        lesions=lesions,
        seed=seed,
    )
    assert len(study.result.lesions) == len(lesions)
    lesions_with_region = tuple(
        replace(lesion, regions=(RegionShare("frontal", lesion.laterality, 1.0),))
        for lesion in study.result.lesions
    )
    study = replace(study, result=replace(study.result, lesions=lesions_with_region))
    form = ResultForm(objects=("seg", "sr", "summary"))
    study = replace(study, context=replace(study.context, forms=(form,)))
    results = build_answer(study.context, study.volume, study.result, ())
    verify_answer(results, study.context, study.volume, study.result)
    for data in [*(path.read_bytes() for path in folder.rglob("*.dcm")), *(item.data for item in results)]:
        archive.upload(data)
    return study


@pytest.mark.tools
@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_label_without_room_is_left_out_instead_of_printed_over_another_one(
    archive: Orthanc, url: str, screen: Screen, tmp_path: Path
) -> None:
    study = upload_labelled(archive, tmp_path, CROWDED, "labels-crowded")

    screen.open(url, study.context.StudyInstanceUID)
    printed = printed_labels(screen, study)

    assert [words.partition(" ")[0] for words in printed if words[0].isdigit()] == ["3", "1"]
    assert screen.complaints == []


@pytest.mark.tools
@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("count", [1, 3, 12])
def test_no_two_labels_overlap_and_the_report_to_read_begins_with_the_impression(
    archive: Orthanc, url: str, screen: Screen, tmp_path: Path, count: int
) -> None:
    study = upload_labelled(archive, tmp_path, lesions_at(count), f"labels-{count}")

    screen.open(url, study.context.StudyInstanceUID)
    printed = printed_labels(screen, study)
    # What is printed may be shortened where room is scarce; side and region stay.
    for lesion in study.result.lesions:
        label = f"{lesion.label} {lesion.laterality.capitalize()} frontal"
        assert sum(words.startswith((f"{label}, ", f"{label}: ")) for words in printed) == 1
    assert screen.complaints == []

    screen.open_document(" ml (AI, ", "Diagnostic Imaging Report")
    words = screen.page.locator("[data-cy=viewport-pane]").inner_text()
    screen.look(f"summary-{count}")
    title, text = words.split("\n", 1)
    assert title.replace("\xa0", " ") == "1. Diagnostic Imaging Report"
    # The first words below the title are those of the impression; OHIF leaves out the headings.
    beginning = f"{count} lesions, " if count > 4 else "Left frontal lesion of "
    assert text.startswith(beginning)
    assert text.index(beginning) < text.index("1. Left frontal: ") < text.index("Outlined automatically")
