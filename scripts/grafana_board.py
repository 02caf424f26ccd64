"""Write config/monitoring/grafana.json, the example board: `python -m scripts.grafana_board`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

TARGET = Path(__file__).resolve().parent.parent / "config" / "monitoring" / "grafana.json"

_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
# Title, unit, and (query, legend) of each line; two panels a row.
PANELS: tuple[tuple[str, str, tuple[tuple[str, str], ...]], ...] = (
    (
        "Instances received a second",
        "ops",
        (("sum by (kind) (rate(dicomnode_instances_received_total[5m]))", "{{kind}}"),),
    ),
    (
        "Studies by state",
        "short",
        (("dicomnode_jobs", "{{state}}"),),
    ),
    (
        "Answers an hour",
        "short",
        (("sum by (outcome) (increase(dicomnode_studies_answered_total[1h]))", "{{outcome}}"),),
    ),
    (
        "Last image to answer: median, and 19 of 20",
        "s",
        (
            ("histogram_quantile(0.5, sum by (le) (rate(dicomnode_answer_seconds_bucket[1h])))", "median"),
            ("histogram_quantile(0.95, sum by (le) (rate(dicomnode_answer_seconds_bucket[1h])))", "95 %"),
        ),
    ),
    (
        "Mean seconds of each step",
        "s",
        (
            (
                (
                    "sum by (step) (rate(dicomnode_step_seconds_sum[1h])) / sum by (step) "
                    "(rate(dicomnode_step_seconds_count[1h]))"
                ),
                "{{step}}",
            ),
        ),
    ),
    (
        "Turned away an hour, by reason",
        "short",
        (("sum by (event, reason) (increase(dicomnode_refused_total[1h]))", "{{event}}: {{reason}}"),),
    ),
    (
        "Deliveries an hour",
        "short",
        (
            (
                "sum by (destination, outcome) (increase(dicomnode_deliveries_total[1h]))",
                "{{destination}}: {{outcome}}",
            ),
        ),
    ),
    (
        "Destinations that take nothing",
        "s",
        (("dicomnode_destination_down_seconds", "{{destination}}"),),
    ),
    (
        "Deliveries by state",
        "short",
        (("dicomnode_delivery_queue", "{{state}}"),),
    ),
    (
        "Oldest study that waits",
        "s",
        (("dicomnode_oldest_seconds", "{{kind}}"),),
    ),
    (
        "Disk",
        "bytes",
        (("dicomnode_disk_bytes", "{{kind}}"),),
    ),
    (
        "Silence of the processes",
        "s",
        (("dicomnode_process_silent_seconds", "{{side}}"),),
    ),
    (
        "Restarts an hour",
        "short",
        (
            ("sum by (side) (increase(dicomnode_process_starts_total[1h]))", "{{side}}"),
            ("increase(dicomnode_worker_restarts_total[1h])", "workers"),
        ),
    ),
    (
        "Certificates end in",
        "s",
        (("dicomnode_certificate_expires_seconds", "{{setting}}"),),
    ),
)


def board() -> dict[str, Any]:
    """Return the board as Grafana imports it."""
    source_variable = {
        "name": "datasource",
        "label": "Data source",
        "type": "datasource",
        "query": "prometheus",
    }
    return {
        "title": "Stroke-lesion PACS node",
        "uid": "dicomnode",
        "schemaVersion": 39,
        "time": {"from": "now-24h", "to": "now"},
        "refresh": "30s",
        "templating": {"list": [source_variable]},
        "panels": [_panel(number, *panel) for number, panel in enumerate(PANELS)],
    }


def _panel(number: int, title: str, unit: str, lines: tuple[tuple[str, str], ...]) -> dict[str, Any]:
    return {
        "id": number + 1,
        "title": title,
        "type": "timeseries",
        "datasource": _SOURCE,
        "gridPos": {"x": 12 * (number % 2), "y": 8 * (number // 2), "w": 12, "h": 8},
        "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
        "targets": [
            {"refId": letter, "datasource": _SOURCE, "expr": query, "legendFormat": legend}
            for letter, (query, legend) in zip("ABC", lines, strict=False)
        ],
    }


def render() -> str:
    """Return the file."""
    return json.dumps(board(), indent=2) + "\n"


if __name__ == "__main__":
    TARGET.write_text(render(), encoding="utf-8")
    print(f"wrote {TARGET}")
