"""Five archives that are hard to deal with, one real answer: how each ends is read from what `dicomnode why` prints."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.uid import (
    Comprehensive3DSRStorage,
    ImplicitVRLittleEndian,
    MultiFrameTrueColorSecondaryCaptureImageStorage,
    SegmentationStorage,
)

from dicomnode.simulator.archive import Archive
from dicomnode.simulator.author import write_series
from dicomnode.simulator.manners import Manners
from tests.factories.head import head_series, study_uid
from tests.factories.whole_node import WholeNode, whole_node

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

UID = study_uid("bad destinations")
DELIVERY = {"confirm_first_s": 0, "confirm_tries": 2, "resends": 1, "timeout_s": 10, "index_wait_s": 0}


class Story:
    """What `why` said before and after the archives recovered; the clock is set by hand."""

    def __init__(self, node: WholeNode, archives: dict[str, Archive], config: Path) -> None:
        self.node, self.archives, self._config = node, archives, config
        # It stands still while the node works: on a busy machine a second try would come before the first is told of.
        self.clock = time.time() + 600.0
        node.place = dataclasses.replace(node.place, now=lambda: self.clock)
        self.first = self.later = ""

    def tell(self) -> str:
        """Run `dicomnode why` as its user would."""
        command = [sys.executable, "-m", "dicomnode", "why", UID, "--config", str(self._config)]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout

    def kept(self, name: str) -> dict[str, str]:
        """Return SOP class -> transfer syntax of what an archive has of the study."""
        instances = [dcmread(path) for path in self.archives[name].files]
        assert {instance.StudyInstanceUID for instance in instances} <= {UID}
        return {
            str(instance.SOPClassUID): str(instance.file_meta.TransferSyntaxUID) for instance in instances
        }


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    folder = tmp_path_factory.mktemp("bad")
    archives = {
        "NOSEG": Archive(
            folder / "noseg", ae_title="NOSEG", refuse={SegmentationStorage}, manners=Manners(find="image")
        ),
        "IMPLICIT": Archive(
            folder / "implicit", ae_title="IMPLICIT", implicit_only=True, manners=Manners(find="image")
        ),
        "FULL": Archive(folder / "full", ae_title="FULL", answer=0xA700, manners=Manners(commitment="same")),
        "BREAKS": Archive(
            folder / "breaks", ae_title="BREAKS", manners=Manners(find="image", breaks_off_at=1)
        ),
        "LIES": Archive(folder / "lies", ae_title="LIES", manners=Manners(keeps_nothing=True, find="series")),
    }
    flair = write_series(head_series("flair", "bad destinations"), folder / "flair")
    with ExitStack() as stack:
        for archive in archives.values():
            stack.enter_context(archive)
        node = stack.enter_context(whole_node(folder, tuple(archives.values()), delivery=DELIVERY))
        config = folder / "dicomnode.toml"
        config.write_text(f"[storage]\nroot = {json.dumps(str(node.config.storage.root))}\n")
        story = Story(node, archives, config)
        node.push(flair)
        node.work()
        story.first = story.tell()
        archives["FULL"].answer = 0x0000
        for _ in range(4):
            story.clock += 60
            node.work()
        story.later = story.tell()
        yield story


def line(text: str, kind: str, name: str) -> str:
    """Return the line on the newest delivery of a result to a destination."""
    return re.findall(rf"^  {re.escape(kind)} to {name}: (.*)$", text, re.MULTILINE)[-1]


def test_one_that_refuses_seg_gets_pictures_and_the_report_and_it_is_said(story: Story) -> None:
    remark = "to NOSEG: it does not accept Segmentation Storage: Multi-frame True Color Secondary Capture Image Storage goes there instead"
    assert remark in story.first
    assert line(story.first, "pictures", "NOSEG").startswith("confirmed (1 try) the peer lists it (query)")
    assert line(story.first, "sr", "NOSEG").startswith("confirmed (1 try)")
    assert not re.search("^  seg to NOSEG", story.later, re.MULTILINE)
    assert set(story.kept("NOSEG")) == {
        Comprehensive3DSRStorage,
        MultiFrameTrueColorSecondaryCaptureImageStorage,
    }


def test_one_that_takes_implicit_only_gets_it_in_that(story: Story) -> None:
    assert (
        "to IMPLICIT: it accepts Implicit VR Little Endian only, so objects are sent in that" in story.first
    )
    for kind in ("seg", "sr"):
        assert line(story.first, kind, "IMPLICIT").startswith("confirmed (1 try) the peer lists it (query)")
    assert story.kept("IMPLICIT") == {
        SegmentationStorage: ImplicitVRLittleEndian,
        Comprehensive3DSRStorage: ImplicitVRLittleEndian,
    }


def test_one_that_is_full_is_tried_until_it_recovers(story: Story) -> None:
    for kind in ("seg", "sr"):
        before = line(story.first, kind, "FULL")
        assert re.match(r"due \(1 try, next try [-0-9]+ [:0-9]+\) 0xA700: out of resources", before), before
        after = line(story.later, kind, "FULL")
        assert after.startswith(
            "confirmed (2 tries) the peer committed itself to keep it (storage commitment)"
        ), after
    assert len(story.archives["FULL"].files) == 2


def test_one_that_breaks_off_in_the_middle_of_an_object_gets_it_whole_later(story: Story) -> None:
    before = line(story.first, "seg", "BREAKS")
    assert re.match(r"due \(1 try, next try .*\) .*broke the association off", before), before
    assert line(story.later, "seg", "BREAKS").startswith("confirmed (2 tries) the peer lists it (query)")
    assert line(story.later, "sr", "BREAKS").startswith("confirmed")
    # Nothing of the half object was answered, or kept.
    assert sorted(story.archives["BREAKS"].received) == sorted(
        path.stem for path in story.archives["BREAKS"].files
    )
    sent = {
        str(dcmread(story.node.place.layout.root / result["path"]).SOPInstanceUID)
        for result in results(story)
    }
    assert {path.stem for path in story.archives["BREAKS"].files} == sent


def test_one_that_says_success_and_keeps_nothing_is_found_out(story: Story) -> None:
    for kind in ("seg", "sr"):
        after = line(story.later, kind, "LIES")
        assert after.startswith("given_up ("), after
        assert "sent again 1 time" in after
        assert after.endswith("the peer answered success and does not list it (query); sent 2 times")
    assert story.kept("LIES") == {}
    assert len(story.archives["LIES"].received) == 4
    assert "delivery-given-up: destination=LIES" in story.later


def test_the_good_one_beside_them_has_everything_at_once(story: Story) -> None:
    for kind in ("seg", "sr"):
        assert line(story.first, kind, "pacs").startswith("sent (1 try)")
    assert len(story.node.archive.received) == 2
    # One liar keeps the study from counting as done.
    assert "Revision 1: encoded, lesions" in story.later


def results(story: Story) -> list[dict[str, str]]:
    """Return what was frozen and goes to an archive that takes all."""
    return [
        result for result in story.node.history(UID)["jobs"][-1]["results"] if result["kind"] in ("seg", "sr")
    ]
