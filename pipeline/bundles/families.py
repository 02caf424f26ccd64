"""The tables of a manifest that belong to one family: `[triplanar]`, `[proposal]`, `[ensemble]`; and the files that each family needs."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import MISSING, fields
from typing import Any

from pipeline.errors import BundleError
from pipeline.segmenters.ensemble.spec import RULES, EnsembleSpec
from pipeline.segmenters.proposal3d.spec import COARSE_GRAPH, PROPOSAL_GRAPH, ProposalSpec
from pipeline.segmenters.triplanar.spec import PLANE_GRAPHS, PLANES, TriplanarSpec

GRAPH = "model.onnx"
FAMILIES = ("patch3d", "triplanar", "proposal3d", "ensemble")
TABLES = {"triplanar": "triplanar", "proposal3d": "proposal", "ensemble": "ensemble"}
"""Family to the name of its table."""


FamilySpec = TriplanarSpec | ProposalSpec | EnsembleSpec


def find_files_problem(family: str, names: Collection[str], *, coarse: bool) -> str:
    """Return what is wrong with the graphs that a manifest lists for a family; empty when they are right."""
    if family == "patch3d":
        right = GRAPH in names and all(re.fullmatch(r"fold-[0-9]+\.onnx", name) for name in set(names) - {GRAPH})
        return "" if right else f"must list {GRAPH}, and fold-1.onnx and so on"
    if family == "ensemble":
        return "an ensemble has no graphs of its own" if names else ""
    wanted = list(PLANE_GRAPHS.values()) if family == "triplanar" else [GRAPH, PROPOSAL_GRAPH]
    allowed = {*wanted, COARSE_GRAPH} if family == "proposal3d" else set(wanted)
    if family == "proposal3d" and coarse:
        wanted = [*wanted, COARSE_GRAPH]
    right = set(wanted) <= set(names) <= allowed
    return "" if right else f"the family {family} needs {', '.join(wanted)}"


def read_family(family: str, values: Mapping[str, Any], where: str) -> FamilySpec | None:
    """Read a family's table out of a whole manifest; `where` names the manifest in messages.

    Raises
    ------
    BundleError
        The table is missing or another family's, or a key is missing, unknown or wrong; the message names it.
    """
    for owner, table in TABLES.items():
        if (table in values) != (owner == family):
            raise _problem(where, table, f"this table and the family {owner} belong together")
    if family not in TABLES:
        return None
    table = TABLES[family]
    given = values[table]
    if not isinstance(given, dict):
        raise _problem(where, table, f"must be a table, got {given!r}")
    kind = {"triplanar": TriplanarSpec, "proposal": ProposalSpec, "ensemble": EnsembleSpec}[table]
    known = {each.name: each.default is MISSING for each in fields(kind)}
    for key in (*sorted(set(given) - set(known)), *(key for key, required in known.items() if required and key not in given)):
        raise _problem(where, f"{table}.{key}", "is not known" if key in given else "is missing")
    for key, value in given.items():
        if reason := _CHECKS[key](value):
            raise _problem(where, f"{table}.{key}", f"{reason}, got {value!r}")
    spec: FamilySpec = kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in given.items()})
    return spec


def _problem(where: str, key: str, what: str) -> BundleError:
    return BundleError(f"{where}: {key}: {what}", code="model-manifest-invalid")


def _share(value: Any) -> str:
    return "" if type(value) is float and 0.0 < value < 1.0 else "must lie between 0 and 1"


def _patch(value: Any) -> str:
    right = isinstance(value, list) and len(value) == 3 and all(type(size) is int and size > 0 for size in value)
    return "" if right else "needs 3 positive whole numbers"


def _plane_thresholds(value: Any) -> str:
    right = isinstance(value, dict) and set(value) == set(PLANES) and not any(_share(level) for level in value.values())
    return "" if right else f"needs a number between 0 and 1 for each of {', '.join(PLANES)}"


def _members(value: Any) -> str:
    right = isinstance(value, dict) and len(value) > 1
    name, digest = r"[A-Za-z0-9][A-Za-z0-9._+-]*/[A-Za-z0-9][A-Za-z0-9._+-]*", "[0-9a-f]{64}"
    right = right and all(re.fullmatch(name, key) and isinstance(each, str) and re.fullmatch(digest, each) for key, each in value.items())
    return "" if right else 'needs at least two bundles, "name/version" to SHA-256'


_CHECKS = {
    "thresholds": _plane_thresholds,
    "patch": _patch,
    "threshold": _share,
    "smallest_pixels": lambda value: "" if type(value) is int and value > 0 else "must be a positive whole number",
    "area_change": _share,
    "head_iou": _share,
    "box_iou": _share,
    "coarse": lambda value: "" if isinstance(value, bool) else "must be true or false",
    "coarse_threshold": _share,
    "rule": lambda value: "" if value in RULES else f"must be one of {', '.join(RULES)}",
    "members": _members,
}
