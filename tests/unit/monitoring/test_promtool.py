"""Prometheus's own tool judges the shipped alert rules and the figures, and each alert is made to fire."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from dicomnode.monitoring.metrics import render
from tests.factories.viewer import require_parts
from tests.unit.monitoring.test_board_and_alerts import SNAPSHOT, alert_rules

pytestmark = pytest.mark.tools

# Alert -> (series, its values minute by minute) that it is there for, and the labels that it then carries besides the severity.
FIRING: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    "NodeNotScraped": ({'up{job="dicomnode"}': "0x180"}, {"job": "dicomnode"}),
    "ProcessSilent": ({'dicomnode_process_silent_seconds{side="work"}': "0+60x180"}, {"side": "work"}),
    "ProcessRestarts": ({'dicomnode_process_starts_total{side="work"}': "0+1x180"}, {"side": "work"}),
    "WorkerRestarts": ({"dicomnode_worker_restarts_total": "0+1x180"}, {}),
    "StudiesFail": ({'dicomnode_studies_answered_total{outcome="failed"}': "0+1x180"}, {"outcome": "failed"}),
    "StudiesWait": ({'dicomnode_oldest_seconds{kind="ready"}': "0+60x180"}, {"kind": "ready"}),
    "AnswersSlow": (
        {
            'dicomnode_answer_seconds_bucket{le="600"}': "0+1x180",
            'dicomnode_answer_seconds_bucket{le="1800"}': "0+4x180",
            'dicomnode_answer_seconds_bucket{le="+Inf"}': "0+4x180",
        },
        {},
    ),
    "SendersRefused": ({"dicomnode_open_studies": "60x180", "dicomnode_open_studies_limit": "50x180"}, {}),
    "CallersRefused": (
        {'dicomnode_refused_total{event="association_rejected",reason="called AE"}': "0+5x180"},
        {"reason": "called AE"},
    ),
    "DestinationDown": (
        {'dicomnode_destination_down_seconds{destination="pacs"}': "0+60x180"},
        {"destination": "pacs"},
    ),
    "ResultsGivenUp": (
        {'dicomnode_deliveries_total{destination="pacs",outcome="given_up"}': "0+1x180"},
        {"destination": "pacs", "outcome": "given_up"},
    ),
    "DiskFull": (
        {
            'dicomnode_disk_bytes{kind="free"}': "1000-5x180",
            'dicomnode_disk_bytes{kind="minimum_free"}': "300x180",
        },
        {},
    ),
    "CertificateEnds": (
        {'dicomnode_certificate_expires_seconds{setting="tls.certificate"}': "2600000-600x180"},
        {"setting": "tls.certificate"},
    ),
}


@pytest.fixture(scope="module")
def promtool() -> str:
    path = shutil.which("promtool")
    require_parts({"promtool (Debian: prometheus)": path})
    return str(path)


def run(*command: str, content: bytes = b"") -> str:
    finished = subprocess.run(command, input=content, capture_output=True, check=False, timeout=120)
    output = (finished.stdout + finished.stderr).decode()
    assert finished.returncode == 0, output
    return output


def test_the_alert_rules_are_rules(promtool: str, repo_root: Path) -> None:
    path = repo_root / "config" / "monitoring" / "alerts.yml"

    assert f"SUCCESS: {len(alert_rules(repo_root))} rules found" in run(promtool, "check", "rules", str(path))


def test_the_figures_are_named_and_described_as_prometheus_wants_it(promtool: str) -> None:
    assert run(promtool, "check", "metrics", content=render(SNAPSHOT)) == ""


def test_every_alert_fires_when_its_time_has_come_and_not_before(
    promtool: str, repo_root: Path, tmp_path: Path
) -> None:
    rules = {str(rule["alert"]): rule for rule in alert_rules(repo_root)}
    assert set(FIRING) == set(rules), "say by which figures the new alert fires"
    tests: list[dict[str, Any]] = []
    for name, (series, labels) in FIRING.items():
        annotations: dict[str, str] = dict(rules[name]["annotations"])  # type: ignore[call-overload]
        summary = annotations["summary"]
        for label, value in labels.items():
            summary = summary.replace(f"{{{{ $labels.{label} }}}}", value)
        alert = {
            "exp_labels": labels | rules[name]["labels"],  # type: ignore[operator]
            "exp_annotations": annotations | {"summary": summary},
        }
        tests.append(
            {
                "interval": "1m",
                "input_series": [{"series": key, "values": values} for key, values in series.items()],
                "alert_rule_test": [
                    {"eval_time": "0m", "alertname": name, "exp_alerts": []},
                    {"eval_time": "150m", "alertname": name, "exp_alerts": [alert]},
                ],
            }
        )
    path = tmp_path / "test.yml"
    files = [str(repo_root / "config" / "monitoring" / "alerts.yml")]
    path.write_text(yaml.safe_dump({"rule_files": files, "evaluation_interval": "1m", "tests": tests}))

    assert "SUCCESS" in run(promtool, "test", "rules", str(path))
