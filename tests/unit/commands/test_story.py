"""What `status` and `why` print: studies, and what can be of no study, each under its own name."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from dicomnode.commands.story import NO_STUDY, find_study, retry, show_status, show_why, status_rows, story
from dicomnode.errors import NodeError
from dicomnode.settings.config import Config, parse_config
from dicomnode.states import Outcome
from tests.factories.ledger import STUDY, LedgerStory, header, new_ledger, received

REASON = "identity-missing: StudyInstanceUID is absent or not a UID"


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return parse_config({"storage": {"root": str(tmp_path), "minimum_free_mb": 1}})


@pytest.fixture
def told(config: Config) -> Iterator[LedgerStory]:
    """A ledger with one answered study, and three instances of no study by one sender, next to it in time."""
    ledger = new_ledger(config.storage.root)
    line = LedgerStory(ledger)
    line.encoded()
    for number in (71, 72, 73):
        ledger.instances.add(received(number, at=12.0))
    for instance_id, _ in ledger.instances.unindexed(10):
        ledger.instances.record_unreadable(instance_id, REASON, 13.0)
    yield line
    ledger.close()


def test_status_has_a_line_for_what_can_be_of_no_study(told: LedgerStory) -> None:
    stray, study = sorted(status_rows(told.ledger), key=lambda row: row[3] != NO_STUDY)
    assert (stray[0], stray[2], stray[3], stray[5]) == (received(73).SOPInstanceUID, "3", NO_STUDY, REASON)
    assert (study[0], study[2], study[3]) == (STUDY, "2", "encoded")


def test_no_study_shows_what_is_not_its_own(told: LedgerStory) -> None:
    history = told.ledger.history.of_study(STUDY)
    assert history is not None
    assert REASON not in "\n".join(story(history))
    assert history.unreadable == ()


def test_why_says_what_an_instance_of_no_study_is(
    told: LedgerStory, config: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    show_why(config, received(72).SOPInstanceUID, as_json=False)
    printed = capsys.readouterr().out
    assert received(72).SOPInstanceUID in printed
    assert REASON in printed
    assert "SCANNER at 10.0.0.7" in printed
    assert received(71).SOPInstanceUID not in printed
    show_why(config, received(72).SOPInstanceUID, as_json=True)
    (stray,) = json.loads(capsys.readouterr().out)["without_study"]
    assert (stray["SOPInstanceUID"], stray["reason"]) == (received(72).SOPInstanceUID, REASON)


def test_json_lists_every_instance_of_no_study_and_every_damaged_file(
    told: LedgerStory, config: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    (config.storage.spool / "aside").mkdir(parents=True)
    (config.storage.spool / "aside" / "damaged.dcm").write_bytes(b"noise")
    show_status(config, as_json=True)
    shown = json.loads(capsys.readouterr().out)
    assert {line["SOPInstanceUID"] for line in shown["without_study"]} == {
        received(number).SOPInstanceUID for number in (71, 72, 73)
    }
    assert [Path(path).name for path in shown["set_aside"]] == ["damaged.dcm"]
    assert shown["health"]["without_study"] == 3
    show_status(config, as_json=False)
    assert "set aside" in capsys.readouterr().out


def test_retry_of_an_instance_of_no_study_says_what_it_is(told: LedgerStory, config: Config) -> None:
    with pytest.raises(NodeError, match="can be of no study"):
        retry(config, received(72).SOPInstanceUID, as_json=False)
    with pytest.raises(NodeError, match="has not received it"):
        find_study(told.ledger, "2.25.404")


def test_why_names_series_in_full_and_counts_what_is_used(told: LedgerStory) -> None:
    """Six instances whose first versions could not be read are six instances, not none with six next to them."""
    ledger, study = told.ledger, "2.25.7"
    for number in range(81, 87):
        ledger.instances.add(received(number, at=100.0))
    for instance_id, _ in ledger.instances.unindexed(10):
        ledger.instances.record_unreadable(
            instance_id, "truncated: the file ends before the pixel data", 101.0, StudyInstanceUID=study
        )
    for number in range(81, 87):
        ledger.instances.add(received(number, content="whole", at=102.0))
    for instance_id, instance in ledger.instances.unindexed(10):
        number = int(instance.SOPInstanceUID.rsplit(".", 1)[1])
        ledger.instances.record_header(instance_id, replace(header(number), StudyInstanceUID=study), 103.0)
    history = ledger.history.of_study(study)
    assert history is not None
    lines = list(story(history))
    assert "  series 1 MR 't1 sag': 6 instances" in lines
    assert f"    {STUDY}.1" in lines


def test_an_answer_that_leaves_doubt_is_shown_as_undetermined(told: LedgerStory) -> None:
    job = told.ledger.jobs.retry(STUDY, 200.0, rerun=True)
    assert told.ledger.jobs.claim("work", 201.0, 60.0) is not None
    told.conclude(job, Outcome.UNDETERMINED, "No lesion found, but a FLAIR is missing.", 202.0)
    row = next(row for row in status_rows(told.ledger) if row[0] == STUDY)
    assert (row[4], row[5]) == ("undetermined", "No lesion found, but a FLAIR is missing.")
