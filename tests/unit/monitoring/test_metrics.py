"""Metrics and health from a ledger that is filled by its own verbs; the text is read back by another parser."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from dicomnode.errors import RetryLater
from dicomnode.ledger.ledger import Ledger
from dicomnode.monitoring.pages import Page, respond
from dicomnode.monitoring.snapshot import look
from dicomnode.records import Conclusion, ResultFile
from dicomnode.settings.config import Config, parse_config
from dicomnode.states import DeliveryState, Outcome
from tests.factories.ledger import SEG, header, new_ledger, received

NOW = 1_000_000.0


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = new_ledger(tmp_path)
    yield opened
    opened.close()


@pytest.fixture
def config(tmp_path: Path) -> Config:
    destinations = [{"name": name, "ae_title": "A", "host": "h", "port": 1} for name in ("pacs", "spare")]
    return parse_config(
        {"storage": {"root": str(tmp_path), "minimum_free_mb": 1}, "destinations": destinations}
    )


def samples(page: Page) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    assert (page.status, page.content_type.split(";")[0]) == (200, "text/plain")
    families = list(text_string_to_metric_families(page.body.decode()))
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def value(page: Page, name: str, **labels: str) -> float:
    return samples(page)[f"dicomnode_{name}", tuple(sorted(labels.items()))]


def metrics(config: Config, ledger: Ledger, now: float = NOW) -> Page:
    return respond("/metrics", config, ledger, now)


def open_study(ledger: Ledger, number: int, at: float) -> int:
    """Receive one image of a study of its own, and return its job."""
    study = f"2.25.{number}"
    ledger.instances.add(received(number, at=at))
    ((instance_id, _),) = ledger.instances.unindexed(10)
    ledger.instances.record_header(instance_id, header(number, study), at)
    (job,) = (job for job in ledger.jobs.waiting() if job.StudyInstanceUID == study)
    return job.id


def finish(ledger: Ledger, number: int, outcome: Outcome, now: float, **detail: Any) -> None:
    """Answer a study 40 s after its image came, with one result for the PACS."""
    job_id = open_study(ledger, number, now - 40)
    ledger.jobs.mark_ready(job_id, "complete", {}, now - 30)
    job = ledger.jobs.claim("work", now, 60)
    assert job is not None
    uid = f"2.25.7.{number}"
    file = ResultFile("seg", f"results/{number}", "0" * 64, uid, SEG, "2.25.70")
    made = Conclusion(outcome, "the reason", [file], {"pacs": ["seg"]}, detail)
    ledger.jobs.finish(job.id, "work", made, now)


def test_counts_are_those_of_the_ledger_and_retention_takes_nothing_back(
    config: Config, ledger: Ledger
) -> None:
    assert ledger.instances.add(received(1, at=NOW - 40)) == "new"
    steps = [
        {"name": "segment", "seconds": 2.5, "cached": False},
        {"name": "segment", "seconds": 500.0, "cached": False},
        {"name": "register", "seconds": 0.05, "cached": True},
    ]
    finish(ledger, 1, Outcome.LESIONS, NOW, steps=steps)
    finish(ledger, 2, Outcome.REFUSED, NOW)
    page = metrics(config, ledger)

    assert value(page, "instances_received_total", kind="duplicate") == 1
    assert value(page, "instances_received_total", kind="new") == 2
    assert value(page, "studies_answered_total", outcome="lesions") == 1
    assert value(page, "studies_answered_total", outcome="failed") == 0
    assert value(page, "step_seconds_count", step="segment") == 2
    assert value(page, "step_seconds_sum", step="segment") == 502.5
    assert value(page, "step_seconds_bucket", step="segment", le="3") == 1
    assert value(page, "step_seconds_bucket", step="segment", le="+Inf") == 2
    assert ("dicomnode_step_seconds_count", (("step", "register"),)) not in samples(page)
    assert value(page, "answer_seconds_count", outcome="lesions") == 1
    assert value(page, "jobs", state="encoded") == 2


def test_deliveries_are_counted_by_destination_and_one_that_takes_nothing_is_down(
    config: Config, ledger: Ledger
) -> None:
    finish(ledger, 1, Outcome.LESIONS, NOW - 900)
    for delivery in ledger.deliveries.claim("me", NOW - 900, 60, 10):
        ledger.deliveries.record(delivery.id, DeliveryState.DUE, "away", NOW - 600, NOW - 500)
    down = metrics(config, ledger)
    for delivery in ledger.deliveries.claim("me", NOW - 400, 60, 10):
        ledger.deliveries.record(delivery.id, DeliveryState.SENT, "0x0000", NOW - 300)
    up = metrics(config, ledger)

    assert value(down, "destination_down_seconds", destination="pacs") == 600
    assert value(down, "destination_down_seconds", destination="spare") == 0
    assert value(up, "destination_down_seconds", destination="pacs") == 0
    assert value(up, "deliveries_total", destination="pacs", outcome="failed_try") >= 1
    assert value(up, "deliveries_total", destination="pacs", outcome="sent") >= 1
    assert value(up, "deliveries_total", destination="spare", outcome="given_up") == 0


def test_odd_labels_are_escaped_and_nothing_is_not_a_number(config: Config, ledger: Ledger) -> None:
    odd = 'he said "no"\nand \\ left|twice'
    ledger.figures.add({("refusals", f"connection_cut|{odd}"): 2})

    page = metrics(config, ledger)

    assert value(page, "refused_total", event="connection_cut", reason=odd) == 2
    assert not any(math.isnan(number) for number in samples(page).values())


@pytest.mark.parametrize(
    ("path", "change", "wrong"),
    [
        ("/healthz", {}, set()),
        ("/readyz", {}, set()),
        ("/healthz", {"receive": 100.0}, {"receive"}),
        ("/healthz", {"work": None}, {"work"}),
        ("/readyz", {"minimum_free_mb": 2**40}, {"disk"}),
        ("/healthz", {"minimum_free_mb": 2**40}, set()),
        ("/readyz", {"open": 3}, {"queue"}),
        ("/readyz", {"open": 3, "work": 61.0}, {"queue", "work"}),
    ],
)
def test_health_and_readiness_name_what_is_wrong(
    tmp_path: Path, ledger: Ledger, path: str, change: dict[str, Any], wrong: set[str]
) -> None:
    storage = {
        "root": str(tmp_path),
        "minimum_free_mb": change.get("minimum_free_mb", 1),
        "resume_free_mb": 2**41,
    }
    config = parse_config({"storage": storage, "network": {"maximum_open_studies": 2}})
    for side in ("receive", "work"):
        silent_s = change.get(side, 5.0)
        if silent_s is not None:
            ledger.figures.put("alive", side, NOW - silent_s)
    for number in range(change.get("open", 0)):
        open_study(ledger, number + 1, NOW)

    page = respond(path, config, ledger, NOW)

    checks = json.loads(page.body)["checks"]
    assert {name for name, words in checks.items() if words != "ok"} == wrong
    assert page.status == (503 if wrong else 200)


def test_a_ledger_that_is_locked_is_not_well_and_no_traceback(
    config: Config, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    def locked() -> None:
        raise RetryLater("the ledger is not available: database is locked")

    monkeypatch.setattr(ledger.history, "health", locked)

    pages = {
        path: respond(path, config, ledger, NOW) for path in ("/metrics", "/healthz", "/readyz", "/other")
    }
    assert {path: page.status for path, page in pages.items()} == {
        "/metrics": 503,
        "/healthz": 503,
        "/readyz": 503,
        "/other": 404,
    }
    assert all(b"Traceback" not in page.body for page in pages.values())


def test_no_patient_data_is_among_the_metrics(config: Config, ledger: Ledger) -> None:
    finish(ledger, 1, Outcome.FAILED, NOW, steps=[])
    body = metrics(config, ledger).body.decode()

    assert "2.25." not in body
    assert "Secret" not in body


def test_the_snapshot_holds_what_the_pages_need(config: Config, ledger: Ledger) -> None:
    snapshot = look(config, ledger, NOW)

    assert snapshot.disk is not None
    assert snapshot.disk.total_bytes >= snapshot.disk.free_bytes > 0
    assert (snapshot.open_studies, snapshot.destinations) == (0, ("pacs", "spare"))
