"""Images that come after the answer: a new revision with results of its own; the same images again: nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset

from dicomnode.simulator.author import write_series
from tests.factories.head import head_series, study_uid
from tests.factories.whole_node import whole_node

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

UID = study_uid("late")


def uids(arrived: dict[str, list[Dataset]]) -> set[str]:
    return {str(instance.SOPInstanceUID) for instances in arrived.values() for instance in instances}


def report_of(job: dict[str, Any]) -> str:
    (uid,) = {file["SOPInstanceUID"] for file in job["results"] if file["kind"] == "sr"}
    return str(uid)


def predecessors(report: Dataset) -> list[str]:
    return [
        item.ReferencedSOPInstanceUID
        for study in report.get("PredecessorDocumentsSequence", [])
        for series in study.ReferencedSeriesSequence
        for item in series.ReferencedSOPSequence
    ]


def test_a_late_flair_reopens_the_study_and_a_resend_does_not(tmp_path: Path) -> None:
    t1 = write_series(head_series("t1", "late"), tmp_path / "t1")
    flair = write_series(head_series("flair", "late"), tmp_path / "flair")
    with whole_node(tmp_path) as node:
        node.push(t1)
        node.work()
        early, early_uids = node.history(UID), uids(node.arrived(UID))

        node.push(flair)
        node.work()
        late, all_uids = node.history(UID), uids(node.arrived(UID))

        assert set(node.push([*t1, *flair])) == {0x0000}
        node.work()
        resent = node.history(UID)
        node.ledger.jobs.retry(UID, node.place.now(), rerun=True)
        node.work()
        again = node.history(UID)["jobs"][-1]
        reports = {str(report.SOPInstanceUID): report for report in node.arrived(UID)["SR"]}

    assert [(job["state"], job["detail"]["used"]) for job in early["jobs"]] == [("done", ["t1"])]
    assert [(job["revision"], job["state"]) for job in late["jobs"]] == [(1, "superseded"), (2, "done")]
    assert late["jobs"][1]["detail"]["used"] == ["flair", "t1"]
    assert late["jobs"][0]["results"] == early["jobs"][0]["results"]
    first, second = ({file["SOPInstanceUID"] for file in job["results"]} for job in late["jobs"])
    assert not first & second
    assert (early_uids, all_uids) == (first, first | second)
    assert predecessors(reports[report_of(late["jobs"][0])]) == []
    assert predecessors(reports[report_of(late["jobs"][1])]) == [report_of(late["jobs"][0])]
    # Asked for once more after that, it is the same report, not one that replaces itself.
    assert (again["revision"], report_of(again)) == (2, report_of(late["jobs"][1]))
    assert late["deliveries"][: len(early["deliveries"])] == early["deliveries"]
    assert {delivery["state"] for delivery in late["deliveries"]} == {"sent"}
    assert (resent["jobs"], resent["deliveries"]) == (late["jobs"], late["deliveries"])
    assert len(set(node.archive.received)) == len(all_uids)


def test_a_slice_that_came_truncated_and_comes_again_whole_is_used(tmp_path: Path) -> None:
    flair = write_series(head_series("flair", "late"), tmp_path / "flair")
    whole = flair[16].read_bytes()
    flair[16].write_bytes(whole[:-2500])
    with whole_node(tmp_path) as node:
        node.push(flair)
        node.work()
        flair[16].write_bytes(whole)
        node.push(flair)
        node.work()
        first, second = node.history(UID)["jobs"]

    assert first["detail"]["code"] == "missing-slices"
    assert (second["state"], second["detail"]["used"]) == ("done", ["flair"])
    assert "instances-unreadable" not in {finding["code"] for finding in second["detail"]["findings"]}
