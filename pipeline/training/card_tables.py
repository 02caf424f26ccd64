"""Scores as a manifest and a card hold them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path


def cuts_of(table: Mapping[str, Mapping[str, float]]) -> tuple[dict[str, float], dict[str, float]]:
    """Return the thresholds of a table of scores, and its peaks where there are some."""
    return {name: row["threshold"] for name, row in table.items()}, {
        name: row["peak"] for name, row in table.items() if row["peak"] > 0
    }


def flatten(table: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Return the scores as one flat table for the manifest."""
    return {
        f"synthetic_{name.replace('+', '_')}_{key}": value
        for name, row in table.items()
        for key, value in row.items()
    }


def score_table(table: Mapping[str, Mapping[str, float]]) -> str:
    """Return the scores as Markdown: one row for each figure, one column for each combination."""
    names = list(table)
    keys = list(dict.fromkeys(key for row in table.values() for key in row))
    lines = ["| figure | " + " | ".join(names) + " |", "| --- |" + " --- |" * len(names)]
    for key in keys:
        cells = [f"{table[n][key]:.2f}" if key in table[n] else "" for n in names]
        lines.append(f"| {key.replace('_', ' ')} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def read_sections(path: Path | None) -> dict[str, str]:
    """Read the card's further parts from a JSON file (heading to Markdown)."""
    return {} if path is None else dict(json.loads(path.read_text()))
