"""Bundles of known answer of the families that need several graphs or several bundles."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx

from tests.factories.onnx import lesion_manifest, threshold_graph, write_family_bundle

NEVER = 99.0
"""A level that no voxel reaches."""
BRIGHT = 1.66
PATCH = [80, 96, 80]
REGION = [48, 48, 48]
PROPOSAL = {
    "patch": PATCH,
    "threshold": 0.5,
    "smallest_pixels": 4,
    "area_change": 0.2,
    "head_iou": 0.7,
    "box_iou": 0.7,
    "coarse": True,
    "coarse_threshold": 0.5,
}


def _bright(level: float, patch: list[int], channels: int = 2) -> onnx.ModelProto:
    return threshold_graph([0.0] * (channels - 1) + [1.0], level, patch, slope=4.0)


def write_triplanar(models: Path, levels: Mapping[str, float], **changes: Any) -> Path:
    """Write a bundle whose planes call lesion what is brighter than their level in FLAIR."""
    thresholds = dict.fromkeys(("axial", "coronal", "sagittal"), 0.5)
    manifest = lesion_manifest(**{"name": "known-planes", "family": "triplanar", **changes})
    manifest.setdefault("triplanar", {"thresholds": thresholds})
    return write_family_bundle(
        models, {f"model-{plane}.onnx": _bright(level, PATCH) for plane, level in levels.items()}, manifest
    )


def write_proposal(models: Path, *, proposal: float, coarse: float, **changes: Any) -> Path:
    """Write a bundle whose slices and coarse pass propose what is brighter than their level, and whose 3D network takes what is bright."""
    manifest = lesion_manifest(
        name="known-regions", family="proposal3d", input__patch=REGION, proposal=dict(PROPOSAL)
    )
    for path, value in changes.items():
        section, key = path.split("__")
        manifest[section][key] = value
    graphs = {
        "model.onnx": _bright(BRIGHT, REGION),
        "model-proposal.onnx": _bright(proposal, PATCH),
        "model-coarse.onnx": _bright(coarse, PATCH),
    }
    return write_family_bundle(models, graphs, manifest)


def write_ensemble(
    models: Path,
    members: Mapping[str, str],
    rule: str = "average",
    asked: Mapping[str, Any] | None = None,
    **changes: Any,
) -> Path:
    """Write an ensemble of bundles that lie in `models` ("name/version" to SHA-256)."""
    manifest = lesion_manifest(**{"name": "known-ensemble", "family": "ensemble", **changes})
    manifest["ensemble"] = {"rule": rule, "members": dict(members)}
    if asked is not None:
        manifest["ensemble"]["asked"] = dict(asked)
    return write_family_bundle(
        models, {}, {key: value for key, value in manifest.items() if key not in ("preprocess", "window")}
    )
