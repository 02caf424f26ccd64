"""The proof of a bundle of planes at 1 mm: torch, a Float32 graph and the shipped graph on the same slices.

A case is what a graph takes at once: a few neighbouring slices of one plane of a seeded synthetic head,
through the largest section of its lesion.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import onnx
import torch
from onnx import numpy_helper

from pipeline.bundles.bundle import Bundle
from pipeline.bundles.manifest import MANIFEST
from pipeline.evaluate.equivalence import Equivalence, paired_tost
from pipeline.segmenters.families import load_bundle
from pipeline.segmenters.triplanar.spec import PLANE_GRAPHS, PLANES
from pipeline.training.agreement import MARGIN, CaseAgreement, ProofCase, compare
from pipeline.training.build import Network, build_network
from pipeline.training.checkpoint import CheckpointError
from pipeline.training.onnx_graph import write_plane_graph
from pipeline.training.planar_network import fold_normalisation
from pipeline.training.plane_schedule import plane_architecture
from pipeline.training.proof import PROOF_SEED
from pipeline.training.real_slices import RealSlice
from pipeline.training.score_slices import SMALLEST_PX, score_slice
from pipeline.training.slice_answers import answer_slices, cut_slice
from pipeline.training.synthesis.anatomy import load_anatomy
from pipeline.training.synthesis.subject import FINE_GRID, Case, synthesise_acute_case
from pipeline.training.tasks import keep_channels


def read_planes(bundle: Bundle) -> dict[str, Network]:
    """Return the networks of a bundle's planes with the shipped weights, widened from Float16.

    Raises
    ------
    CheckpointError
        A graph does not hold the weights of one of our planes.
    """
    return {plane: _read_plane(bundle, plane) for plane in PLANES}


def _read_plane(bundle: Bundle, plane: str) -> Network:
    graph = onnx.load_from_string(bundle.graph_bytes(PLANE_GRAPHS[plane])).graph
    weights = {
        tensor.name.removesuffix("_float16").removeprefix("network."): torch.from_numpy(
            numpy_helper.to_array(tensor).astype("float32")
        )
        for tensor in graph.initializer
    }
    widths = tuple(
        weights[name].shape[0]
        for name in sorted(weights)
        if name.startswith("encode.") and "first.weight" in name
    )
    other_side = sum(name.startswith("other_side.") for name in weights)
    architecture = plane_architecture(plane, widths, other_side)
    network = build_network(architecture).eval()
    fold_normalisation(network)
    expected = network.state_dict()
    # The coarser outputs serve the training alone.
    missing = [name for name in expected if name not in weights and not name.startswith("heads.1.")]
    if missing or any(name in expected and weights[name].shape != expected[name].shape for name in weights):
        raise CheckpointError(
            f"{PLANE_GRAPHS[plane]} holds no network of {architecture}: "
            f"{missing[0] if missing else 'a weight'} is missing or of another shape"
        )
    network.load_state_dict(weights, strict=False)
    return network


def run_planes(
    bundle: Bundle,
    networks: Mapping[str, Network],
    count: int,
    report: Callable[[str], None] = lambda line: None,
) -> tuple[list[CaseAgreement], float]:
    """Run each plane's network in torch, as a Float32 graph and as the shipped graph.

    Return the rows of `count` cases, the planes in turn, and the files' size ratio.
    """
    cases: dict[str, list[ProofCase]] = {plane: [] for plane in PLANES}
    for number, (plane, case) in enumerate(_draw_cases(bundle, count), start=1):
        report(f"{bundle.name}: case {number} of {count}")
        cases[plane].append(case)
    rows, sizes = [], [0, 0]
    for plane, network in networks.items():
        name = PLANE_GRAPHS[plane]
        with tempfile.TemporaryDirectory(prefix="dicomnode-proof-") as scratch:
            full = write_plane_graph(network, bundle.patch_of(name), Path(scratch) / "full.onnx")
        half = onnx.load_from_string(bundle.graph_bytes(name))
        report(f"{bundle.name}: {name}")
        rows += compare(network, full, half, cases[plane], FINE_GRID.voxel_ml)
        sizes = [sizes[0] + len(half.SerializeToString()), sizes[1] + len(full.SerializeToString())]
    return rows, sizes[0] / sizes[1]


def _draw_cases(bundle: Bundle, count: int) -> Iterator[tuple[str, ProofCase]]:
    """Yield each plane's slices of one seeded head after the other, the combinations in turn."""
    anatomy, combinations = load_anatomy(), ["+".join(roles) for roles in bundle.input.accepts]
    for number in range(0, count, len(PLANES)):
        seed = PROOF_SEED + number // len(PLANES)
        combination = combinations[(number // len(PLANES)) % len(combinations)]
        head = synthesise_acute_case(anatomy, seed)
        for plane in PLANES[: count - number]:
            yield plane, _cut_case(bundle, head, plane, combination, seed)


def _cut_case(bundle: Bundle, head: Case, plane: str, combination: str, seed: int) -> ProofCase:
    axis = PLANES.index(plane)
    depth = bundle.patch_of(PLANE_GRAPHS[plane])[axis]
    areas = head.label.movedim(axis, 0).flatten(1).sum(dim=1)
    largest = int(areas.argmax()) if bool(areas.any()) else len(areas) // 2
    start = min(largest, len(areas) - depth)
    image = keep_channels(head.image, bundle.channels, combination).narrow(axis + 1, start, depth)
    truth = head.label.narrow(axis, start, depth) & (image != 0).any(dim=0)
    threshold = bundle.output.threshold_for(combination.split("+"))
    return ProofCase(seed, f"{plane} {combination}", threshold, image.numpy(), truth.numpy())


def weigh_slices(
    bundle: Bundle, networks: Mapping[str, Network], slices: Sequence[RealSlice], threads: int = 1
) -> Equivalence:
    """Test whether Float32 weights and the shipped Float16 weights outline real slices equally well.

    Both are answered as `score-slices` does. Returned is the paired TOST on the Dice of each slice with at
    least `SMALLEST_PX` px of lesion, Float32 minus Float16, margin `MARGIN`.
    """
    with tempfile.TemporaryDirectory(prefix="dicomnode-proof-") as scratch:
        folder = Path(scratch) / bundle.name / bundle.version
        folder.mkdir(parents=True)
        manifest = (bundle.folder / MANIFEST).read_text(encoding="utf-8")
        for plane, network in networks.items():
            name = PLANE_GRAPHS[plane]
            write_plane_graph(network, bundle.patch_of(name), folder / name)
            digest = hashlib.sha256((folder / name).read_bytes()).hexdigest()
            manifest = manifest.replace(bundle.graphs[name], digest)
        (folder / MANIFEST).write_text(manifest, encoding="utf-8")
        (folder / "CARD.md").write_text("Float32 weights.\n", encoding="utf-8")
        full, half = (_score_form(form, slices, threads) for form in (load_bundle(folder), bundle))
    return paired_tost(full, half, MARGIN)


def _score_form(form: Bundle, slices: Sequence[RealSlice], threads: int) -> list[float]:
    """Return the Dice of each slice with enough of a lesion."""
    return [
        score_slice(item, cut_slice(form, answer)).dice
        for item, answer in zip(slices, answer_slices(form, slices, threads), strict=True)
        if item.mask.sum() >= SMALLEST_PX
    ]
