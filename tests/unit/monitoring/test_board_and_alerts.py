"""The shipped alert rules and the board: they load, and every figure and label that they name is exported."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from dicomnode.ledger.figures import SEPARATOR
from dicomnode.ledger.shown import Health
from dicomnode.monitoring.metrics import Exporter, render
from dicomnode.monitoring.snapshot import Disk, Snapshot
from scripts import grafana_board

# Everything has happened once, so that every family has a sample.
SNAPSHOT = Snapshot(
    now=100.0,
    health=Health(
        jobs={"ready": 1},
        deliveries={"due": 1},
        destinations={},
        instances={},
        without_study=0,
        conflicts=0,
        studies=1,
        oldest_waiting_since=None,
        oldest_ready_since=1.0,
        oldest_undelivered_since=None,
    ),
    failing=(),
    figures={
        "refusals": {f"association_rejected{SEPARATOR}calling AE title not recognized": 1.0},
        "step_seconds_bucket": {f"segment{SEPARATOR}3": 1.0},
        "step_seconds_sum": {"segment": 2.0},
        "answer_seconds_bucket": {f"lesions{SEPARATOR}60": 1.0},
        "answer_seconds_sum": {"lesions": 40.0},
        "alive": {"receive": 95.0, "work": 96.0},
    },
    destinations=("pacs",),
    certificates={"tls.certificate": 12.5},
    disk=Disk(2, 3, 1),
    open_studies=1,
    maximum_open_studies=2,
)
# A name of ours with the braces that may follow it.
_SELECTOR = re.compile(r"\b(dicomnode_[a-z_]+)(?:\{([^}]*)\})?")
_GROUPED = re.compile(r"\bby \(([a-z_, ]+)\)")


def exported() -> dict[str, dict[str, set[str]]]:
    """Sample name -> label -> values, as Prometheus would read them."""
    names: dict[str, dict[str, set[str]]] = {}
    for family in Exporter(SNAPSHOT).collect():
        for sample in family.samples:
            labels = names.setdefault(sample.name, {})
            for label, value in sample.labels.items():
                labels.setdefault(label, set()).add(value)
    return names


def problems_of(query: str) -> Iterator[str]:
    """What a query names that is not exported."""
    names = exported()
    selectors = _SELECTOR.findall(query)
    if not selectors and "up{" not in query:
        yield f"no figure of ours in {query!r}"
    for name, matchers in selectors:
        if name not in names:
            yield f"{name} is not exported"
            continue
        for label, value in re.findall(r'([a-z_]+)="([^"]*)"', matchers):
            if value not in names[name].get(label, set()):
                yield f"{name} has no {label}={value!r}"
    grouped = {label for labels in _GROUPED.findall(query) for label in labels.split(", ")}
    known = {label for name, _ in selectors if name in names for label in names[name]}
    yield from (f"no label {label!r} in {query!r}" for label in grouped - known)


def alert_rules(repo_root: Path) -> list[dict[str, object]]:
    page = yaml.safe_load((repo_root / "config" / "monitoring" / "alerts.yml").read_text(encoding="utf-8"))
    return [rule for group in page["groups"] for rule in group["rules"]]


def test_every_figure_and_label_of_the_alert_rules_is_exported(repo_root: Path) -> None:
    rules = alert_rules(repo_root)

    assert len(rules) >= 10
    assert [problem for rule in rules for problem in problems_of(str(rule["expr"]))] == []
    for rule in rules:
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
        labels = set(re.findall(r"\$labels\.([a-z_]+)", json.dumps(rule["annotations"])))
        known = {label for name, _ in _SELECTOR.findall(str(rule["expr"])) for label in exported()[name]}
        assert labels <= known, rule["alert"]


def test_the_board_is_current_and_every_figure_and_label_of_it_is_exported(repo_root: Path) -> None:
    text = (repo_root / "config" / "monitoring" / "grafana.json").read_text(encoding="utf-8")
    board = json.loads(text)
    queries = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    legends = {
        label
        for panel in board["panels"]
        for target in panel["targets"]
        for label in re.findall(r"\{\{([a-z_]+)\}\}", target["legendFormat"])
    }

    assert text == grafana_board.render(), "run `python -m scripts.grafana_board`"
    assert len(queries) >= 10
    assert [problem for query in queries for problem in problems_of(query)] == []
    assert legends <= {label for labels in exported().values() for label in labels}
    places = [tuple(panel["gridPos"].values()) for panel in board["panels"]]
    assert len(set(places)) == len(places) == len({panel["id"] for panel in board["panels"]})


@pytest.mark.parametrize(
    "query",
    [
        "dicomnode_instance_received_total",
        'dicomnode_jobs{state="finished"}',
        "sum by (host) (dicomnode_jobs)",
        "node_load1",
    ],
)
def test_the_check_can_fail(query: str) -> None:
    assert list(problems_of(query))


def test_the_page_names_every_family_and_no_other(repo_root: Path) -> None:
    page = (repo_root / "docs" / "monitoring.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(dicomnode_[a-z_]+)`", page))
    families = {
        f"{family.name}_total" if family.type == "counter" else family.name
        for family in Exporter(SNAPSHOT).collect()
    }

    assert named == families
    assert render(SNAPSHOT).startswith(b"# HELP dicomnode_")
