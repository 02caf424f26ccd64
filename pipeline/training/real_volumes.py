"""Networks side by side on whole real heads, through the path that the node runs.

Heads without a stroke as they are, and with outlines painted in: as 0.4.0 painted lesions ("old"), and as
acute strokes look on real FLAIR ("acute"). Every network gets the same painted images.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from pipeline.errors import PipelineError
from pipeline.evaluate.lesions import DETECTION_SHARE
from pipeline.evaluate.overlap import count_overlap
from pipeline.geometry import voxel_volume_mm3
from pipeline.plan import Recipe
from pipeline.records import PipelineResult, Volume
from pipeline.training.implant import add_lesion, paint_outline, prepare_head
from pipeline.training.measure_real import combinations_of, run_case
from pipeline.training.problem import TrainingProblem
from pipeline.training.real_cases import RealCase, further_cases, ms_cases, single_cases
from pipeline.training.synthesis.fields import Dice
from pipeline.training.volumes import resample

Mask = npt.NDArray[np.bool_]

PLAIN = "plain"
OTHER = "other"
"""A head without a stroke, but with another disease that looks like one."""
LOOKS = ("old", "acute")
HALO_MM = 4.0
"""False volume so near to a painted lesion is its halo, not another finding."""
RIM_MM = 6.0
"""False volume so near to the edge of the brain mask lies at the brain's surface."""
ATTEMPTS = 20
"""How many outlines are tried for one copy of a head: not all fall on tissue."""


@dataclass(frozen=True)
class VolumeRow:
    """What one network answered on one head.

    Attributes
    ----------
    look
        "plain", "other", "old" or "acute".
    roles
        The images that were sent: "t1+flair", "flair" or "t1".
    halo_ml, rim_ml, inner_ml
        False volume within `HALO_MM` of the painted lesion; of the rest, that within `RIM_MM` of the edge of
        the brain mask, and that further inside.
    findings
        "0.83:2.410:1 0.41:0.052:0": of each lesion the network's mean probability, its volume in ml, and
        whether it is a painted one (a tenth of its voxels).
    refused
        The node's sentence when it did not answer, else empty.
    """

    head: str
    look: str
    outline: str
    roles: str
    network: str
    truth_ml: float = 0.0
    found_ml: float = 0.0
    dice: float = 0.0
    halo_ml: float = 0.0
    rim_ml: float = 0.0
    inner_ml: float = 0.0
    processor_s: float = 0.0
    findings: str = ""
    refused: str = ""

    @property
    def false_ml(self) -> float:
        """All volume that is no painted lesion."""
        return self.halo_ml + self.rim_ml + self.inner_ml


def read_heads(data: Path) -> list[RealCase]:
    """Return the real heads with a T1 or a FLAIR that no training saw.

    Raises
    ------
    TrainingProblem
        The folder holds none.
    """
    cases = itertools.chain(ms_cases(data), further_cases(data), single_cases(data))
    if heads := [case for case in cases if "t2" not in case.images]:
        return heads
    raise TrainingProblem(f"{data} holds no real head: needed are folders such as ms-longitudinal")


def take_people(heads: Sequence[RealCase]) -> list[RealCase]:
    """Return one study of each person without a stroke, one with two images where there is one."""
    ordered = sorted(heads, key=lambda case: len(case.images))
    return list({case.name.partition("-study")[0]: case for case in ordered if case.stroke_free}.values())


def measure_plain(
    cases: Sequence[RealCase], recipes: Mapping[str, Recipe], images: Sequence[str]
) -> Iterator[VolumeRow]:
    """Yield the rows of the heads as they are; `images` are the combinations to send ("t1+flair")."""
    for name in images:
        for case in cases:
            yield from _ask_networks(case, PLAIN if case.stroke_free else OTHER, "", recipes, [name])


def measure_painted(
    cases: Sequence[RealCase],
    recipes: Mapping[str, Recipe],
    images: Sequence[str],
    maps: Sequence[Path],
    copies: int,
) -> Iterator[VolumeRow]:
    """Yield the rows of `copies` outlines in each head, each outline in both looks, copy by copy."""
    cases = [case for case in cases if any("+".join(roles) in images for roles in combinations_of(case))]
    prepared = [prepare_head(next(iter(recipes.values())), case) for case in cases] if copies else []
    for copy in range(copies):
        for number, (case, head) in enumerate(zip(cases, prepared, strict=True)):
            for attempt in range(ATTEMPTS):
                seed = 100_000 * copy + 1000 * number + attempt
                outline = maps[Dice(seed).integer(len(maps))]
                painted = {
                    look: paint_outline(head, outline, Dice(seed), acute=look == "acute") for look in LOOKS
                }
                if all(lesion is not None for lesion in painted.values()):
                    break
            else:
                continue
            for look, lesion in painted.items():
                assert lesion is not None
                with_lesion = add_lesion(case, head, *lesion, name=case.name)
                yield from _ask_networks(with_lesion, look, outline.name.partition("_")[0], recipes, images)


def _ask_networks(
    case: RealCase, look: str, outline: str, recipes: Mapping[str, Recipe], images: Sequence[str]
) -> Iterator[VolumeRow]:
    for roles in combinations_of(case):
        if "+".join(roles) not in images:
            continue
        for network, recipe in recipes.items():
            row = VolumeRow(case.name, look, outline, "+".join(roles), network)
            began = time.process_time()
            try:
                result = run_case(case, roles, recipe)
            except PipelineError as problem:
                yield replace(row, refused=str(problem))
                continue
            row = replace(row, processor_s=time.process_time() - began)
            yield score_volume(row, case if look in LOOKS else None, result)


def score_volume(row: VolumeRow, painted: RealCase | None, result: PipelineResult) -> VolumeRow:
    """Return the row with its volumes; `painted` is None for a head without a lesion."""
    marked = result.labels.array > 0
    spacing = np.linalg.norm(result.labels.affine[:3, :3], axis=0).tolist()
    voxel_ml = voxel_volume_mm3(result.labels.affine) / 1000
    truth = np.zeros_like(marked) if painted is None else _truth_on(result.labels, painted, result)
    halo = np.zeros_like(marked)
    if truth.any():
        halo = ndimage.distance_transform_edt(~truth, spacing) <= HALO_MM
    rim = ndimage.distance_transform_edt(result.brain_mask.array > 0, spacing) <= RIM_MM
    wrong = marked & ~truth
    overlap = count_overlap(marked, truth)
    return replace(
        row,
        truth_ml=overlap.true * voxel_ml,
        found_ml=overlap.predicted * voxel_ml,
        dice=overlap.dice,
        halo_ml=float((wrong & halo).sum()) * voxel_ml,
        rim_ml=float((wrong & ~halo & rim).sum()) * voxel_ml,
        inner_ml=float((wrong & ~halo & ~rim).sum()) * voxel_ml,
        findings=_list_findings(result, truth),
    )


def _list_findings(result: PipelineResult, truth: Mask) -> str:
    """Return mean probability, volume and truth of every lesion of a result."""
    voxel_ml, findings = voxel_volume_mm3(result.labels.affine) / 1000, []
    for lesion in result.lesions:
        share = truth[result.labels.array == lesion.label].mean()
        volume_ml, right = lesion.voxel_count * voxel_ml, int(share >= DETECTION_SHARE)
        findings.append(f"{lesion.mean_probability:.4f}:{volume_ml:.4f}:{right}")
    return " ".join(findings)


def _truth_on(labels: Volume, painted: RealCase, result: PipelineResult) -> Mask:
    if painted.lesion is None:
        raise ValueError(f"{painted.name} has no lesion to compare with")
    link = np.linalg.inv(painted.links[result.reference_role]).astype(np.float64)
    grid = (labels.affine, labels.array.shape)
    return resample(painted.lesion, *grid, smooth=False, target_to_source=link) >= 0.5


def describe_rows(rows: Sequence[VolumeRow]) -> str:
    """Return the tables in Markdown: false volume of plain heads, then painted lesions."""
    return "\n\n".join(
        ["### Heads without a stroke", _plain_table(rows), "### Painted lesions", _painted_table(rows)]
    )


def _plain_table(rows: Sequence[VolumeRow]) -> str:
    lines = [
        (
            "| images | network | heads | false ml: median | worst | "
            "at the brain's surface, mean | inside, mean | refused |"
        ),
        "|---|---|---|---|---|---|---|---|",
    ]
    for (roles, network), group in _group(row for row in rows if row.look == PLAIN):
        answered = [row for row in group if not row.refused]
        if answered:
            worst = max(answered, key=lambda row: row.found_ml)
            lines.append(
                f"| {roles} | {network} | {len(answered)} | "
                f"{np.median([row.found_ml for row in answered]):.1f} | "
                f"{worst.found_ml:.1f} ({worst.head}) | {np.mean([row.rim_ml for row in answered]):.1f} | "
                f"{np.mean([row.inner_ml for row in answered]):.1f} | {len(group) - len(answered)} |"
            )
    return "\n".join(lines)


def _painted_table(rows: Sequence[VolumeRow]) -> str:
    lines = [
        (
            "| look | images | network | lesions | mean Dice | median Dice | found | median bias | "
            "false ml, mean: halo | at the surface | inside |"
        ),
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for look in LOOKS:
        for (roles, network), group in _group(row for row in rows if row.look == look and not row.refused):
            dices = [row.dice for row in group]
            bias = np.median([row.found_ml / row.truth_ml - 1 for row in group if row.truth_ml > 0])
            cells = [
                look, roles, network, str(len(group)), f"{np.mean(dices):.2f}", f"{np.median(dices):.2f}",
                f"{np.mean([dice > 0 for dice in dices]):.2f}", f"{100 * bias:+.0f} %",
                *(
                    f"{np.mean([getattr(row, kind) for row in group]):.1f}"
                    for kind in ("halo_ml", "rim_ml", "inner_ml")
                ),
            ]  # fmt: skip
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _group(rows: Iterator[VolumeRow]) -> list[tuple[tuple[str, str], list[VolumeRow]]]:
    groups: dict[tuple[str, str], list[VolumeRow]] = {}
    for row in rows:
        groups.setdefault((row.roles, row.network), []).append(row)
    return sorted(groups.items())
