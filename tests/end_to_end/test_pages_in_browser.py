"""The pages as an administrator and a researcher use them: a whole node (`dicomnode serve`), Chromium, and the demo study.

Where the lesions are planted is known, so the outline's pixels are judged by the truth. Screenshots stay in pytest's folder of the run.
"""

from __future__ import annotations

import io
import json
import os
import shutil
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
from dicomnode.web.slices import lesion_color
from dicomnode.web.users import UserRole, write_user
from tests.factories.viewer import require_parts

PASSWORD = "correct horse battery"
# As `.ci/run` lays it out: `npm pack axe-core`, unpacked.
AXE = Path(__file__).resolve().parents[2] / ".axe" / "package" / "axe.min.js"


@dataclass
class Served:
    """A node with its pages, and a browser's page that is logged in."""

    folder: Path
    page: Any
    address: str
    archive_port: int
    complaints: list[str]

    def port(self) -> int:
        return int(json.loads((self.folder / "node" / "receive.json").read_text())["port"])

    def look(self, name: str) -> None:
        self.page.screenshot(path=str(self.folder / f"{name}.png"), full_page=True)


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
    archive_port = free_port()
    config = folder / "dicomnode.toml"
    config.write_text(
        f'[network]\nport = 0\n[storage]\nroot = "{folder / "node"}"\nminimum_free_mb = 1\nresume_free_mb = 1\n'
        '[pipeline]\nlesion_model = "stroke-lesion-2mm"\nbias_correction = false\n'
        "[delivery]\nbackoff_first_s = 800\nconfirm_first_s = 0\n"
        f'[web]\nenabled = true\nport = 0\nusers = "{folder / "users"}"\n'
        f'[[destinations]]\nname = "pacs"\nae_title = "ARCHIVE"\nhost = "127.0.0.1"\nport = {archive_port}\n'
    )
    with (folder / "log").open("wb") as log:
        command = [sys.executable, "-P", "-m", "dicomnode", "serve", "--config", str(config)]
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    try:
        address = wait_for(folder / "node" / "web.json", process)["address"].rstrip("/")
        wait_for(folder / "node" / "receive.json", process)
        with import_module("playwright.sync_api").sync_playwright() as driver:
            browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 1200, "height": 900})
            complaints: list[str] = []
            page.on(
                "console",
                lambda message: complaints.append(message.text) if message.type == "error" else None,
            )
            page.on("pageerror", lambda error: complaints.append(str(error)))
            yield Served(folder, page, address, archive_port, complaints)
            browser.close()
    finally:
        process.terminate()
        process.wait(60)


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
        with np.load(DEMO_STUDY) as study:
            files = write_study(study, served.folder / "study")
        node = DestinationSettings(name="node", ae_title="DICOMNODE", host="127.0.0.1", port=served.port())
        assert {
            outcome.status for outcome in send_files(files, node, calling_ae="SCANNER", timeout_s=60)
        } == {0}

        # Nobody loads the page anew: it refreshes itself.
        page.get_by_text("150 in 2 series").wait_for(timeout=60_000)
        served.look("1-arriving")
        page.locator("td .tag.lesions").wait_for(timeout=600_000)
        served.look("1-answered")

    def test_2_the_outline_lies_on_the_planted_lesion(self, served: Served) -> None:
        page = served.page
        page.goto(f"{served.address}/studies/{STUDY_UID}")
        page.get_by_text("Open the viewer").click()
        page.locator("#role").wait_for(timeout=120_000)
        page.get_by_role("button", name="Lesion 1").click()
        page.wait_for_timeout(1500)
        served.look("2-viewer")
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

    def test_3_retry_a_delivery_that_failed(self, served: Served) -> None:
        page = served.page
        page.goto(f"{served.address}/studies/{STUDY_UID}")
        page.locator("td .tag.due").first.wait_for(timeout=60_000)
        with Archive(served.folder / "pacs", port=served.archive_port):
            page.get_by_role("link", name="Retry").click()
            page.get_by_role("button", name="Retry").click()
            page.locator("td .tag.confirmed, td .tag.sent").first.wait_for(timeout=90_000)
            served.look("3-delivered")

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

    def test_5_no_page_has_a_serious_fault_of_accessibility(self, served: Served) -> None:
        assert served.complaints == []
        if not AXE.is_file():
            if os.environ.get("CI"):
                pytest.fail("axe-core is not here (.axe); CI must have it", pytrace=False)
            pytest.skip("axe-core is not here: npm pack axe-core, unpacked in .axe")
        study = f"/studies/{STUDY_UID}"
        faults = {}
        for path in (
            "/",
            study,
            f"{study}/viewer",
            f"{study}/orders/retry",
            "/uploads",
            "/statistics",
            "/node",
            "/audit",
        ):
            served.page.goto(f"{served.address}{path}")
            served.page.wait_for_timeout(300)
            served.page.evaluate(AXE.read_text(encoding="utf-8"))
            found = served.page.evaluate("axe.run()")["violations"]
            serious = [
                (fault["id"], [node["target"] for node in fault["nodes"]][:3])
                for fault in found
                if fault["impact"] in ("serious", "critical")
            ]
            if serious:
                faults[path] = serious
        assert faults == {}
