"""Kinds of stroke by where the whole lesion lies, from a person's lesion map in MNI space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from pipeline.measure.regions.choice import choose_region_map
from pipeline.measure.regions.region_map import REGIONS, RegionMap
from pipeline.training.real_slices import subject_of
from pipeline.training.score_slices import SMALLEST_PX, SliceScore
from pipeline.training.synthesis.lesion_maps import LesionMap, read_map

DEEP_REGIONS = ("basal-ganglia", "thalamus", "periventricular")
LOW_REGIONS = ("cerebellum", "brain-stem")
KINDS = ("cortical", "deep", "infratentorial")


def kind_of(outline: LesionMap, regions: RegionMap) -> str:
    """Return where most of a lesion lies: below the tentorium, deep, or elsewhere.

    Deep: the deep nuclei and the white matter beside the ventricles.

    Elsewhere is called cortical: the lobes and the insula, their white matter included.
    """
    voxels = torch.nonzero(outline.mask[0]).numpy() + np.array(outline.origin_mm)
    # Template coordinates run to the head, to posterior and to the left; MNI's are RAS.
    numbers = regions.regions_at(voxels[:, ::-1] * np.array([-1.0, -1.0, 1.0]))
    shares = {
        "deep": np.isin(numbers, [REGIONS.index(name) for name in DEEP_REGIONS]).mean(),
        "infratentorial": np.isin(numbers, [REGIONS.index(name) for name in LOW_REGIONS]).mean(),
    }
    shares["cortical"] = 1.0 - sum(shares.values())
    return max(KINDS, key=lambda kind: float(shares[kind]))


def sort_people(maps: Sequence[Path]) -> dict[int, str]:
    """Return the kind of each person's lesion, by the person's number."""
    regions = choose_region_map()
    return {subject_of(path): kind_of(read_map(path), regions) for path in maps}


def describe_kinds(scores: Sequence[SliceScore], kinds: Mapping[int, str]) -> str:
    """Return the table in Markdown of slices with a lesion, by the kind of the person's lesion."""
    lines = [
        "| kind | people | slices | mean Dice | median Dice | found |",
        "|---|---|---|---|---|---|",
    ]
    for kind in KINDS:
        group = [
            score for score in scores if kinds.get(score.subject) == kind and score.true_px >= SMALLEST_PX
        ]
        if group:
            dices = [score.dice for score in group]
            shares = (np.mean(dices), np.median(dices), np.mean([score.common_px > 0 for score in group]))
            cells = [kind, str(len({score.subject for score in group})), str(len(group))]
            lines.append(f"| {' | '.join([*cells, *(f'{share:.2f}' for share in shares)])} |")
    return "\n".join(lines)
