"""The pages as an administrator and a researcher use them: a whole node (`dicomnode serve`), Chromium, and the demo study.

Where the lesions are planted is known, so the outline's pixels are judged by the truth. Screenshots stay in pytest's folder of the run and,
where CI is set, in `.artefacts/pages`; `viewer.png` among them is the picture of the README (docs/pictures).
"""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from PIL import Image

from dicomnode.commands.demo import DEMO_STUDY, STUDY_UID, _truth_on_flair, write_study
from dicomnode.network.sender import send_files
from dicomnode.settings.config import DestinationSettings
from dicomnode.simulator.archive import Archive
from dicomnode.simulator.author import derive_uid
from dicomnode.web.slices import lesion_color
from dicomnode.web.users import UserRole, write_user
from tests.factories.viewer import require_parts

PASSWORD = "correct horse battery"
# As `.ci/run` lays it out: `npm pack axe-core`, unpacked.
ROOT = Path(__file__).resolve().parents[2]
AXE = ROOT / ".axe" / "package" / "axe.min.js"
ARTEFACTS = ROOT / ".artefacts" / "pages"

EARLIER_UID = derive_uid("demo", "earlier study")
# What people read first, besides the usual; the probability map for the viewer's heat.
OBJECTS = '["auto", "probability", "pdf", "summary"]'
# Notes every state that a row of the list shows; gone when the page is loaded anew.
IN_ORDER = ("waiting for images", "queued", "being computed", "being delivered")
WATCH = """() => {
  window.statesShown = [];
  const note = () => {
    const tag = document.querySelector("#list td .tag");
    if (tag && window.statesShown.at(-1) !== tag.textContent) window.statesShown.push(tag.textContent);
  };
  new MutationObserver(note).observe(document.body, { childList: true, subtree: true });
}"""


@dataclass
class Served:
    """A node with its pages, and a browser's page that is logged in."""

    folder: Path
    process: subprocess.Popen[bytes]
    page: Any
    address: str
    archive_port: int
    complaints: list[str]

    def port(self) -> int:
        return int(json.loads((self.folder / "node" / "receive.json").read_text())["port"])

    def look(self, name: str) -> None:
        self.page.screenshot(path=str(self.folder / f"{name}.png"), full_page=True)

    def configure(self, more: str = "") -> None:
        """Write the node's configuration, with more tables at its end."""
        (self.folder / "dicomnode.toml").write_text(
            f'[network]\nport = 0\n[storage]\nroot = "{self.folder / "node"}"\n'
            "minimum_free_mb = 1\nresume_free_mb = 1\n"
            '[pipeline]\nlesion_model = "stroke-lesion-2mm"\nbias_correction = false\n'
            "[delivery]\nbackoff_first_s = 800\nconfirm_first_s = 0\n"
            f'[web]\nenabled = true\nport = 0\nusers = "{self.folder / "users"}"\n'
            '[[destinations]]\nname = "pacs"\nae_title = "ARCHIVE"\nhost = "127.0.0.1"\n'
            f"port = {self.archive_port}\nobjects = {OBJECTS}\n{more}"
        )

    def reload(self, rules: str, sentence: str) -> None:
        """Change the rules as an administrator does; wait until the audit trail shows that sentence of it."""
        self.configure(rules)
        self.process.send_signal(signal.SIGHUP)
        row = self.page.locator("tr", has_text="configuration-changed").filter(has_text=sentence)
        end = time.monotonic() + 120
        while time.monotonic() < end:
            self.page.goto(f"{self.address}/audit")
            if row.count():
                return
            self.page.wait_for_timeout(500)
        raise AssertionError(f"no configuration-changed with {sentence!r} in the audit trail")

    def send(self, files: list[Path], calling_ae: str) -> None:
        node = DestinationSettings(name="node", ae_title="DICOMNODE", host="127.0.0.1", port=self.port())
        outcomes = send_files(files, node, calling_ae=calling_ae, timeout_s=60)
        assert {outcome.status for outcome in outcomes} == {0}


def keep_picture(page: Any, path: Path) -> None:
    """Keep the picture of the README: what is seen of the viewer at first, in 256 colours."""
    page.evaluate("scrollTo(0, 0)")
    picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    picture.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)
    assert path.stat().st_size < 200_000


def free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return int(bound.getsockname()[1])


def wait_for(path: Path, process: subprocess.Popen[bytes], timeout_s: float = 120) -> dict[str, Any]:
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        assert process.poll() is None, "the node ended"
        if path.is_file() and path.read_text():
            return dict(json.loads(path.read_text()))
        time.sleep(0.2)
    raise AssertionError(f"{path.name} did not appear")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    require_parts({"chromium": shutil.which("chromium"), "playwright": find_spec("playwright")})
    folder = tmp_path_factory.mktemp("pages")
    write_user(folder / "users", "anna", UserRole.ADMINISTRATOR, PASSWORD)
    with (folder / "log").open("wb") as log:
        served = Served(folder, None, None, "", free_port(), [])  # type: ignore[arg-type]
        served.configure()
        config = folder / "dicomnode.toml"
        command = [sys.executable, "-P", "-m", "dicomnode", "serve", "--config", str(config)]
        served.process = process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    try:
        served.address = wait_for(folder / "node" / "web.json", process)["address"].rstrip("/")
        wait_for(folder / "node" / "receive.json", process)
        with import_module("playwright.sync_api").sync_playwright() as driver:
            browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
            served.page = page = browser.new_page(viewport={"width": 1200, "height": 900})
            page.on(
                "console", lambda line: served.complaints.append(line.text) if line.type == "error" else None
            )
            page.on("pageerror", lambda error: served.complaints.append(str(error)))
            yield served
            browser.close()
    finally:
        process.terminate()
        process.wait(60)
        if os.environ.get("CI"):
            shutil.rmtree(ARTEFACTS, ignore_errors=True)
            ARTEFACTS.mkdir(parents=True)
            for picture in folder.glob("*.png"):
                shutil.copy(picture, ARTEFACTS)


@pytest.mark.tools
@pytest.mark.timeout(900)
class TestInOrder:
    """One story: each test goes on where the one before stopped."""

    def test_1_log_in_and_watch_a_study_arrive_and_be_answered(self, served: Served) -> None:
        page = served.page
        page.goto(f"{served.address}/")
        page.fill("#name", "anna")
        page.fill("#password", PASSWORD)
        page.click("main button")
        page.get_by_text("No study has come yet").wait_for()
        page.evaluate(WATCH)
        with np.load(DEMO_STUDY) as study:
            files = write_study(study, served.folder / "study")

        # The scanner pauses in the middle of the T1.
        served.send(files[:75], "SCANNER")
        page.get_by_text("75 of 116 slices are there").wait_for(timeout=60_000)
        served.look("1-arriving")
        served.send(files[75:], "SCANNER")
        page.get_by_text("150 in 2 series").wait_for(timeout=60_000)
        page.locator("td .tag.lesions").wait_for(timeout=600_000)
        served.look("1-answered")

        # One page has shown all of it: it was never loaded anew, and its states came in order.
        states = page.evaluate("window.statesShown")
        assert states is not None, "the page was loaded anew"
        # What was computed ahead is hardly ever seen being computed.
        assert [state for state in IN_ORDER if state in states] == states
        assert (states[0], states[-1]) == ("waiting for images", "being delivered")

    def test_2_the_outline_lies_on_the_planted_lesion(self, served: Served) -> None:
        page = served.page
        page.goto(f"{served.address}/studies/{STUDY_UID}")
        page.get_by_text("Open the viewer").click()
        page.locator("#role").wait_for(timeout=120_000)
        page.get_by_role("button", name="Lesion 1").click()
        self.wait_until_drawn(page)
        served.look("2-viewer")
        keep_picture(page, served.folder / "viewer.png")
        image = page.locator("[data-plane=axial] img")
        answer = page.request.get(f"{served.address}{image.get_attribute('src')}")
        drawn = np.asarray(Image.open(io.BytesIO(answer.body())).convert("RGB"))
        index = int(page.locator("[data-plane=axial] input").input_value())

        # The demo's FLAIR is axial: its slices, rows and columns are those of the picture.
        with np.load(DEMO_STUDY) as study:
            truth = _truth_on_flair(study)[index] == 1
        outline = np.argwhere((drawn == lesion_color(1)).all(axis=-1)) / drawn.shape[:2]
        planted = np.argwhere(truth) / truth.shape
        assert len(outline) > 50
        assert np.abs(outline.mean(axis=0) - planted.mean(axis=0)).max() < 0.05
        assert np.abs(outline.min(axis=0) - planted.min(axis=0)).max() < 0.06
        assert np.abs(outline.max(axis=0) - planted.max(axis=0)).max() < 0.06

        # A click on the lesion cuts the other planes there; without outlines none of its colour is left.
        middle_row, middle_column = planted.mean(axis=0)
        box = image.bounding_box()
        side = box["width"] / max(drawn.shape[:2])
        image.click(
            position={
                "x": box["width"] / 2 + (middle_column - 0.5) * drawn.shape[1] * side,
                "y": box["height"] / 2 + (middle_row - 0.5) * drawn.shape[0] * side,
            }
        )
        for plane, fraction in (("coronal", middle_row), ("sagittal", middle_column)):
            slider = page.locator(f"[data-plane={plane}] input")
            count = int(slider.get_attribute("max")) + 1
            assert abs(int(slider.input_value()) - fraction * count) <= 2, plane
        page.uncheck("#outlines")
        self.wait_until_drawn(page)
        answer = page.request.get(f"{served.address}{image.get_attribute('src')}")
        bare = np.asarray(Image.open(io.BytesIO(answer.body())).convert("RGB"))
        assert not (bare == lesion_color(1)).all(axis=-1).any()

    def wait_until_drawn(self, page: Any) -> None:
        # Not `wait_for_function`: it evaluates a string, which the pages' policy forbids.
        drawn = "[...document.querySelectorAll('.plane img')].every(i => i.complete && i.naturalWidth > 1)"
        for _ in range(300):
            page.wait_for_timeout(200)
            if page.evaluate(drawn):
                break
        page.wait_for_timeout(1000)
        assert page.evaluate(drawn)

    def test_3_retry_a_delivery_that_failed(self, served: Served) -> None:
        page = served.page
        page.goto(f"{served.address}/studies/{STUDY_UID}")
        page.locator("td .tag.due").first.wait_for(timeout=60_000)
        with Archive(served.folder / "pacs", port=served.archive_port) as archive:
            page.get_by_role("link", name="Retry").click()
            page.get_by_role("button", name="Retry").click()
            page.locator("td .tag.confirmed, td .tag.sent").first.wait_for(timeout=90_000)
            served.look("3-delivered")
            assert {"SEG", "SR"} <= {str(pydicom.dcmread(file).Modality) for file in archive.files}

    def test_4_upload_a_zip_and_download_the_seg(self, served: Served) -> None:
        page = served.page
        packed = served.folder / "study.zip"
        with zipfile.ZipFile(packed, "w") as archive:
            for file in sorted((served.folder / "study").rglob("*.dcm")):
                archive.write(file, file.name + file.parent.name)
        page.goto(f"{served.address}/uploads")
        page.set_input_files("#files", str(packed))
        page.click("#send")
        page.get_by_text("Open the viewer").wait_for(timeout=600_000)
        served.look("4-upload")
        with page.expect_download() as download:
            page.get_by_role("link", name="seg.dcm").click()
        assert pydicom.dcmread(download.value.path()).Modality == "SEG"

    def test_5_a_rule_is_changed_and_reloaded(self, served: Served) -> None:
        page = served.page
        served.reload('[[rules]]\nname = "research"\nstation = "("\n', "not a regular expression")
        page.goto(f"{served.address}/node/settings")
        assert '"rules": []' in page.locator("pre").inner_text(), "a wrong rule changes nothing"

        # Of these studies the node keeps the results for itself.
        rule = '[[rules]]\nname = "research"\ncalling_ae = ["RESEARCH"]\ndestinations = []\n'
        served.reload(rule, "web: applied: rules")
        served.reload(rule, "work: applied: rules")
        served.look("5-audit")
        page.goto(f"{served.address}/node/settings")
        assert '"research"' in page.locator("pre").inner_text()

        # The same patient, a year before, from the other machine.
        with np.load(DEMO_STUDY) as study:
            files = write_study(study, served.folder / "earlier", EARLIER_UID)
        for file in files:
            dataset = pydicom.dcmread(file)
            dataset.StudyDate = "20250105"
            dataset.save_as(file)
        served.send(files, "RESEARCH")
        page.goto(f"{served.address}/")
        row = page.locator("tr", has_text=EARLIER_UID)
        row.locator(".tag.lesions").wait_for(timeout=600_000)
        page.goto(f"{served.address}/studies/{EARLIER_UID}")
        page.get_by_text("research: answered by it").wait_for()
        page.get_by_role("heading", name="Results").wait_for()
        assert page.get_by_role("heading", name="Deliveries").count() == 0
        served.look("5-by-rule")

    def test_6_the_earlier_study_is_shown_next_to_it(self, served: Served) -> None:
        page = served.page
        page.goto(f"{served.address}/studies/{STUDY_UID}/viewer")
        page.get_by_role("link", name="Show the earlier study").click()
        page.locator("section[aria-label='Earlier study']").wait_for(timeout=120_000)
        page.get_by_role("button", name="Lesion 1").first.click()
        self.wait_until_drawn(page)
        served.look("6-earlier")

        slices = [
            page.locator("section.case").nth(number).locator("[data-plane=axial] input").input_value()
            for number in (0, 1)
        ]
        assert slices[0] == slices[1], "both move"
        assert page.locator("section.case img").count() == 6

    def test_7_every_page_in_light_and_dark_on_a_desk_and_on_a_tablet(self, served: Served) -> None:
        assert served.complaints == []
        require_parts({"axe-core (.axe: npm pack axe-core)": AXE.is_file()})
        faults = {}
        for name, path in self.paths(served).items():
            for scheme, width in (("light", 1200), ("dark", 834)):
                served.page.set_viewport_size({"width": width, "height": 1112})
                served.page.emulate_media(color_scheme=scheme)
                served.page.goto(f"{served.address}{path}")
                served.page.wait_for_timeout(800)
                served.look(f"7-{name}-{scheme}")
                serious = self.serious_faults(served.page)
                if served.page.evaluate("document.documentElement.scrollWidth > innerWidth"):
                    serious.append(("wider than the window", []))
                if serious:
                    faults[f"{path}, {scheme}, {width} px"] = serious
        assert faults == {}
        # A page that is not there is a page of ours too; the browser notes it as an error.
        assert all("404" in line for line in served.complaints)

    def paths(self, served: Served) -> dict[str, str]:
        """Return a path of every kind of page."""
        study = f"/studies/{STUDY_UID}"
        served.page.goto(f"{served.address}{study}")
        report = served.page.get_by_role("link", name="Read").first.get_attribute("href")
        served.page.goto(f"{served.address}/uploads")
        upload = served.page.locator("#uploads a").first.get_attribute("href")
        return {
            "studies": "/",
            "no-study": "/?state=failed",
            "study": study,
            "viewer": f"{study}/viewer",
            "earlier": f"{study}/viewer?beside=true",
            "order": f"{study}/orders/retry",
            "report": report,
            "uploads": "/uploads",
            "upload": upload,
            "statistics": "/statistics",
            "node": "/node",
            "settings": "/node/settings",
            "audit": "/audit",
            "problem": "/studies/1.2.3",
        }

    def serious_faults(self, page: Any) -> list[tuple[str, list[Any]]]:
        page.evaluate(AXE.read_text(encoding="utf-8"))
        return [
            (fault["id"], [node["target"] for node in fault["nodes"]][:3])
            for fault in page.evaluate("axe.run()")["violations"]
            if fault["impact"] in ("serious", "critical")
        ]

    def test_8_a_study_that_is_removed_and_a_log_out(self, served: Served) -> None:
        page = served.page
        page.set_viewport_size({"width": 1200, "height": 900})
        # The page is open; from now on the node answers as it does when the study is removed.
        page.goto(f"{served.address}/studies/{EARLIER_UID}")
        gone = page.request.get(f"{served.address}/studies/1.2.3")
        page.route("**/studies/*", lambda route: route.fulfill(status=gone.status, body=gone.text()))
        page.get_by_text("This is not here any more").wait_for(timeout=30_000)
        served.look("8-removed")
        page.unroute("**/studies/*")
        page.goto(f"{served.address}/")
        page.get_by_role("button", name="Log out").click()
        page.locator("#password").wait_for()
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            served.look(f"8-login-{scheme}")
            if AXE.is_file():
                assert self.serious_faults(page) == []
        page.goto(f"{served.address}/studies/{STUDY_UID}")
        assert "/login" in page.url
