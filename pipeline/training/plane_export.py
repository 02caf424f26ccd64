"""From the three planes' averaged weights to a triplanar bundle at 1 mm.

Graphs with Float16 weights, manifest, card.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from pipeline.bundles.bundle import Bundle
from pipeline.segmenters.families import load_bundle
from pipeline.segmenters.triplanar.spec import PLANE_GRAPHS, PLANES, TriplanarSpec
from pipeline.training.build import Network, build_network
from pipeline.training.bundle_writer import BUNDLES, BundleText, Numbers, write_card, write_manifest
from pipeline.training.network import count_parameters
from pipeline.training.onnx_graph import store_as_float16, write_onnx
from pipeline.training.planar_network import ResidualBlock
from pipeline.training.synthesis.subject import FINE_GRID
from pipeline.training.train_planes import plane_architecture

MINIMUM_VOLUME_MM3 = 50.0
SLICES_AT_ONCE = 2
"""How many slices a graph takes."""


@dataclass(frozen=True)
class PlaneCuts:
    """Where the planes' answer is cut.

    Attributes
    ----------
    planes
        Threshold of each plane, which the bundle moves onto `common`.
    common
        Default threshold of the combined probability.
    thresholds, peaks
        By channel combination.
    rule
        "vote" or "average".
    """

    planes: Mapping[str, float]
    common: float = 0.5
    thresholds: Mapping[str, float] | None = None
    peaks: Mapping[str, float] | None = None
    minimum_volume_mm3: float = MINIMUM_VOLUME_MM3
    rule: str = "average"


@dataclass(frozen=True)
class PlaneProvenance:
    """What the manifest says of the training: a few words for every result, a longer text, and numbers."""

    trained_on: str
    data: str
    facts: Mapping[str, Any]


def read_average(path: Path, plane: str) -> Network:
    """Return one plane's network with the averaged weights of a file.

    It is in evaluation mode, with batch normalisation folded.
    """
    content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    # The first run kept bare weights; later ones keep whole checkpoints.
    average: dict[str, Tensor] = content.get("average", content)
    widths = tuple(
        average[f"encode.{level}.first.weight"].shape[0]
        for level in range(sum(name.startswith("up.") for name in average) // 2 + 1)
    )
    network = build_network(plane_architecture(plane, widths))
    network.load_state_dict(average)
    return fold_normalisation(network.eval())


def fold_normalisation(network: Network) -> Network:
    """Fold every batch normalisation of a planar network into the convolution before it, in place.

    The answers stay the same.
    """
    for block in network.modules():
        if isinstance(block, ResidualBlock):
            block.first = fuse_conv_bn_eval(block.first, _as_norm(block.norms[0]))
            block.second = fuse_conv_bn_eval(block.second, _as_norm(block.norms[1]))
            block.norms = nn.ModuleList([nn.Identity(), nn.Identity()])
    return network


def _as_norm(module: nn.Module) -> nn.BatchNorm2d:
    if not isinstance(module, nn.BatchNorm2d):
        raise TypeError("the normalisation is folded already")
    return module


def export_planes(
    averages: Mapping[str, Path],
    models: Path,
    *,
    version: str,
    cuts: PlaneCuts,
    provenance: PlaneProvenance,
    measured: Mapping[str, float] | None = None,
    sections: Mapping[str, str] | None = None,
) -> Bundle:
    """Write `models/stroke-lesion-triplanar/<version>/` and return it as the node would load it."""
    folder = models / BUNDLES["planes"].name / version
    folder.mkdir(parents=True, exist_ok=True)
    for plane, name in PLANE_GRAPHS.items():
        with tempfile.TemporaryDirectory() as scratch:
            shape = TriplanarSpec({}, slices=SLICES_AT_ONCE).shape_of(name, FINE_GRID.shape)
            full = write_onnx(read_average(averages[plane], plane), shape, Path(scratch) / "full.onnx")
        onnx.save(store_as_float16(full), folder / name)
    write_texts(folder, cuts, provenance, measured or {}, sections or {})
    return load_bundle(folder)


def write_texts(
    folder: Path,
    cuts: PlaneCuts,
    provenance: PlaneProvenance,
    measured: Mapping[str, float],
    sections: Mapping[str, str],
) -> None:
    """Write the manifest and the card of the graphs that lie in `folder`."""
    text = replace(
        BUNDLES["planes"],
        trained_on=provenance.trained_on,
        data=provenance.data,
        minimum_volume_mm3=cuts.minimum_volume_mm3,
    )
    architecture = plane_architecture(PLANES[0])
    facts = dict(provenance.facts) | {
        "parameters_of_each_plane": count_parameters(build_network(architecture))
    }
    numbers = Numbers(
        folder.name,
        architecture.channels,
        FINE_GRID.shape,
        FINE_GRID.spacing_mm,
        cuts.common,
        cuts.thresholds or dict.fromkeys(_combinations(text), cuts.common),
        facts,
        {},
        measured,
        cuts.peaks or {},
    )
    write_manifest(
        folder,
        text,
        numbers,
        ("triplanar", {"thresholds": dict(cuts.planes), "rule": cuts.rule, "slices": SLICES_AT_ONCE}),
    )
    write_card(folder, text, numbers, sections)


def _combinations(text: BundleText) -> Sequence[str]:
    return ["+".join(combination) for combination in text.accepts]
