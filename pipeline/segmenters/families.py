"""The one table of the families of networks: a row a family. And the bundles, read with all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.bundles import bundle as bundles
from pipeline.bundles import reader
from pipeline.bundles.bundle import Bundle
from pipeline.bundles.family import Family
from pipeline.bundles.manifest import Manifest
from pipeline.inference.session import open_network
from pipeline.journal import Journal
from pipeline.records import NetworkPlan
from pipeline.segmenters.case import Answer, Case, Channels
from pipeline.segmenters.coverage import answer_uncovered
from pipeline.segmenters.ensemble import segment as ensemble
from pipeline.segmenters.ensemble import spec as ensemble_spec
from pipeline.segmenters.nnunet import segment as nnunet
from pipeline.segmenters.nnunet import spec as nnunet_spec
from pipeline.segmenters.patch3d import segment as patch3d
from pipeline.segmenters.patch3d import spec as patch3d_spec
from pipeline.segmenters.proposal3d import segment as proposal3d
from pipeline.segmenters.proposal3d import spec as proposal3d_spec
from pipeline.segmenters.triplanar import segment as triplanar
from pipeline.segmenters.triplanar import spec as triplanar_spec

Infer = Callable[[Bundle, Channels, NetworkPlan], tuple[Answer, dict[str, Any]]]
Segment = Callable[[Bundle, Case, NetworkPlan, Journal], Answer]


@dataclass(frozen=True)
class Segmenter:
    """One family: how it reads its share of a manifest, and what answers a case.

    Attributes
    ----------
    infer
        Answers from channels that were resampled, corrected and normalised as all families do it.
    segment
        Answers from the case itself, for a family that prepares the images in its own way.
    """

    family: Family
    infer: Infer | None = None
    segment: Segment | None = None


def _segment_ensemble(bundle: Bundle, case: Case, plan: NetworkPlan, journal: Journal) -> Answer:
    return ensemble.segment_members(bundle, case, plan, journal, segment_case)


SEGMENTERS: Mapping[str, Segmenter] = {
    "patch3d": Segmenter(patch3d_spec.FAMILY, infer=patch3d.infer),
    "triplanar": Segmenter(triplanar_spec.FAMILY, infer=triplanar.infer),
    "proposal3d": Segmenter(proposal3d_spec.FAMILY, infer=proposal3d.infer),
    "ensemble": Segmenter(ensemble_spec.FAMILY, segment=_segment_ensemble),
    "nnunet": Segmenter(nnunet_spec.FAMILY, segment=nnunet.segment_case),
}
"""`Manifest.segmenter` to its row."""
FAMILIES: Mapping[str, Family] = {name: row.family for name, row in SEGMENTERS.items()}


def segment_case(bundle: Bundle, case: Case, plan: NetworkPlan, journal: Journal) -> Answer:
    """Return the lesion probability of one case on the network's own grid, and how far its passes agree.

    Raises
    ------
    PipelineError
        The image is empty, a network cannot be run or answers with NaN or infinite values.
    """
    row = SEGMENTERS[bundle.segmenter]
    if row.segment is not None:
        return row.segment(bundle, case, plan, journal)
    channels = patch3d.prepare_case(bundle, case, plan, journal)
    with journal.step("infer") as parameters:
        answer, inference = infer_channels(bundle, channels, plan)
        parameters.update(inference)
    return answer_uncovered(
        bundle,
        case,
        channels,
        answer,
        lambda rest_channels: infer_channels(bundle, rest_channels, plan)[0],
        journal,
    )


def infer_channels(bundle: Bundle, channels: Channels, plan: NetworkPlan) -> tuple[Answer, dict[str, Any]]:
    """Return a network's answer from channels that are prepared already, and how it was run.

    Raises
    ------
    BundleError
        A graph is not as the manifest says, or answers with NaN or infinite values.
    """
    infer = SEGMENTERS[bundle.segmenter].infer
    if infer is None:
        raise TypeError(f"{bundle.name} prepares its images in its own way")
    return infer(bundle, channels, plan)


def open_networks(bundle: Bundle, threads: int, provider: str) -> None:
    """Open every graph of a bundle and its members, as the first case would; they stay open for the next."""
    for name in bundle.graphs:
        open_network(bundle, threads, name, provider)
    for member in bundle.members:
        open_networks(member, threads, provider)


def read_manifest(path: Path) -> Manifest:
    """Read one manifest of any family; see `reader.read_manifest`."""
    return reader.read_manifest(path, FAMILIES)


def load_bundle(folder: Path) -> Bundle:
    """Read and check one bundle of any family; see `bundles.load_bundle`."""
    return bundles.load_bundle(folder, FAMILIES)


def list_bundles(models_dir: Path) -> list[Bundle]:
    """Return every bundle below `models_dir`; see `bundles.list_bundles`."""
    return bundles.list_bundles(models_dir, FAMILIES)


def find_bundle(models_dir: Path, name: str) -> Bundle:
    """Return the bundle "name/version", or the newest version of "name"; see `bundles.find_bundle`."""
    return bundles.find_bundle(models_dir, name, FAMILIES)
