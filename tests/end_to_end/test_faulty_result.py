"""A result object that is wrong never leaves: the study gets a failure report, the administrator an alert, and a replay the right answer."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable, Iterator
from typing import Any

import pydicom
import pytest
from pydicom.dataset import Dataset
from structlog.testing import capture_logs

from dicomnode import answer, flow
from dicomnode.audit.events import SERIOUS_FAILURE, SUCCESS, AuditEvent
from dicomnode.commands.story import story
from dicomnode.results.build import build_answer
from dicomnode.results.records import EncodedResult
from dicomnode.simulator.author import derive_uid, write_series
from tests.factories.head import head_series, study_uid
from tests.factories.results import texts_of
from tests.factories.whole_node import WholeNode, whole_node

UID = study_uid("faulty result")
Spoil = Callable[[Dataset], None]


def mirrored(seg: Dataset) -> None:
    """Swap left and right, as an encoder with its own idea of orientation would."""
    frames = seg.pixel_array[..., ::-1]
    seg.PixelData = pydicom.pixels.utils.pack_bits(frames)


def without_a_type_1_attribute(seg: Dataset) -> None:
    del seg.SegmentSequence[0].SegmentAlgorithmType


def with_a_tracking_uid_of_its_own(seg: Dataset) -> None:
    seg.SegmentSequence[0].TrackingUID = derive_uid("somebody else's lesion")


def of_another_image(seg: Dataset) -> None:
    for frame in seg.PerFrameFunctionalGroupsSequence:
        frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID = derive_uid(
            "no such image"
        )


FAULTS: dict[str, tuple[str, Spoil]] = {
    "mirrored mask": ("seg", mirrored),
    "type 1 attribute missing": ("seg", without_a_type_1_attribute),
    "tracking UID differs from the report's": ("seg", with_a_tracking_uid_of_its_own),
    "points to an image that is not there": ("seg", of_another_image),
    "report of another patient": ("sr", lambda report: setattr(report, "PatientID", "SOMEBODY-ELSE")),
}


class Bench:
    """A node that has answered nothing yet; its encoder can be told to make a fault."""

    def __init__(self, node: WholeNode, patch: pytest.MonkeyPatch) -> None:
        self.node, self.audited = node, list[AuditEvent]()
        self.fault: tuple[str, Spoil] | None = None
        node.place = dataclasses.replace(node.place, audit=self.audited.append)
        found: list[Any] = []
        run_pipeline = answer.run_pipeline

        def run_once(*arguments: Any) -> Any:
            # The same images: what was found the first time is found again.
            if not found:
                found.append(run_pipeline(*arguments))
            return found[0]

        patch.setattr(answer, "run_pipeline", run_once)
        patch.setattr(answer, "build_answer", self.build)

    def build(self, *arguments: Any) -> tuple[EncodedResult, ...]:
        made = build_answer(*arguments)
        return tuple(
            self.spoilt(item) if self.fault and item.kind == self.fault[0] else item for item in made
        )

    def spoilt(self, item: EncodedResult) -> EncodedResult:
        assert self.fault is not None
        dataset = pydicom.dcmread(io.BytesIO(item.data))
        self.fault[1](dataset)
        buffer = io.BytesIO()
        dataset.save_as(buffer, enforce_file_format=True)
        assert buffer.getvalue() != item.data
        return dataclasses.replace(item, data=buffer.getvalue())

    def answer(self) -> list[Any]:
        """Answer the study (again); return what was logged."""
        if self.node.history(UID)["jobs"][-1]["state"] == "done":
            self.node.ledger.jobs.retry(UID, self.node.place.now(), rerun=True)
        with capture_logs() as logged:
            self.node.work()
        return logged


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp("faulty")
    with whole_node(folder) as node, pytest.MonkeyPatch.context() as patch:
        made = Bench(node, patch)
        node.push(write_series(head_series("flair", "faulty result"), folder / "flair"))
        while flow.index_instances(node.place):
            pass
        yield made


@pytest.mark.parametrize("name", FAULTS)
def test_a_faulty_object_never_leaves_and_somebody_is_told(bench: Bench, name: str) -> None:
    bench.fault = FAULTS[name]
    bench.audited.clear()
    logged = bench.answer()

    arrived = bench.node.arrived(UID)
    assert set(arrived) == {"SR"}
    assert not list((bench.node.place.layout.root / "results").rglob("seg*"))
    (job,) = bench.node.history(UID)["jobs"]
    uid = job["results"][-1]["SOPInstanceUID"]
    [report] = [one for one in arrived["SR"] if uid == one.SOPInstanceUID]
    assert "Reason code: result-verification-failed" in texts_of(report)
    assert any(job["reason"] in text for text in texts_of(report))
    assert report.PatientID == "SIM-0001"
    assert (job["state"], job["outcome"], job["detail"]["code"]) == (
        "done",
        "failed",
        "result-verification-failed",
    )
    why = "\n".join(story(bench.node.ledger.history.of_study(UID)))
    assert "Revision 1: done, failed" in why

    alerts = [line for line in logged if line["event"] == "study_failed"]
    assert [(alert["log_level"], alert["study_instance_uid"]) for alert in alerts] == [("error", UID)]
    assert alerts[0]["reason"] == job["reason"]
    processed = [event for event in bench.audited if event.kind == "study-processed"]
    assert [(event.outcome, event.detail) for event in processed] == [(SERIOUS_FAILURE, "failed")]


def test_once_the_fault_is_gone_a_replay_gives_the_right_answer(bench: Bench) -> None:
    bench.fault = None
    bench.audited.clear()
    logged = bench.answer()

    assert set(bench.node.arrived(UID)) == {"SR", "SEG"}
    assert bench.node.history(UID)["jobs"][-1]["outcome"] == "lesions"
    assert [line for line in logged if line["event"] == "study_failed"] == []
    assert [event.outcome for event in bench.audited if event.kind == "study-processed"] == [SUCCESS]
