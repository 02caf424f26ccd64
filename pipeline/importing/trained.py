"""A trained nnU-Net read whole: plans and every fold's weights, each held against the other."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.importing.archive import Results
from pipeline.importing.checkpoint import read_checkpoint_v2, read_pickle, read_weights_v1
from pipeline.importing.plans import Plans, read_plans_v1, read_plans_v2
from pipeline.importing.problem import ImportProblem
from pipeline.records import Array

_TRAINERS_V2 = (
    r"nnUNetTrainer(DA5(ord0|Segord0|_10epochs|ord0_DA5)?|DAOrd0|NoDA|NoMirroring|_onlyMirror01(_1500ep)?|"
    r"_noDummy2DDA|NoDummy2DDA|CELoss(_5epochs)?|DiceCELoss_noSmooth|DiceLoss|TopkLoss|TopK10Loss|"
    r"DiceTopK10Loss|CosAnneal|_warmup[a-z0-9_]*|NoDeepSupervision|Adam|Adan|Adam[a-zA-Z0-9]*|"
    r"Vanilla[a-zA-Z0-9]*|_probabilisticOversampling[a-z0-9_]*|_[0-9]+epochs?(_NoMirroring)?)?"
)
"""The package's own trainers that change training only.

Batch normalisation and competition trainers change the network.
"""
_TRAINERS_V1 = (
    r"nnUNetTrainerV2(_noMirroring|_fp32|_DDP|_DP|_warmup|_Adam[a-zA-Z0-9_]*|_Loss_[a-zA-Z0-9_]*|"
    r"_noDataAugmentation|_noDeepSupervision|_insaneDA|_DA[0-9]?|_lReLU[a-zA-Z_0-9]*|_SGD_[a-zA-Z0-9_]*|"
    r"_cycleAtEnd[0-9]*|_reduceMomentumDuringTraining|_[0-9]+epochs)?"
)


@dataclass(frozen=True, eq=False)
class Trained:
    """Plans, and fold name to weights.

    `mirror_axes` are the plans' (transposed) axes, three of them also for a 2D network.
    """

    plans: Plans
    folds: Mapping[str, Mapping[str, Array]]
    trainer: str
    mirror_axes: tuple[int, ...]


def read_trained(results: Results) -> Trained:
    """Read a result folder.

    Raises
    ------
    ImportProblem
        Something is missing, foreign or not supported; the message names it.
    """
    return _read_v2(results) if results.version == 2 else _read_v1(results)


def _read_v2(results: Results) -> Trained:
    checkpoints = {fold: read_checkpoint_v2(path) for fold, path in results.folds.items()}
    first = next(iter(checkpoints.values()))
    for fold, checkpoint in checkpoints.items():
        if (checkpoint.configuration, checkpoint.trainer, checkpoint.mirror_axes) != (
            first.configuration,
            first.trainer,
            first.mirror_axes,
        ):
            raise ImportProblem(
                f"fold {fold} was trained as {checkpoint.trainer} {checkpoint.configuration}, another "
                f"as {first.trainer} {first.configuration}"
            )
    if not re.fullmatch(_TRAINERS_V2, first.trainer):
        raise ImportProblem(
            f"the trainer {first.trainer!r} is not one of nnU-Net's own that leave the network as planned"
        )
    plans = read_plans_v2(
        _json(results.folder / "plans.json"), _json(results.folder / "dataset.json"), first.configuration
    )
    _check_axes(first.mirror_axes, plans)
    mirror = tuple(axis + (1 if plans.planar else 0) for axis in first.mirror_axes)
    return Trained(
        plans, {fold: checkpoint.arrays for fold, checkpoint in checkpoints.items()}, first.trainer, mirror
    )


def _read_v1(results: Results) -> Trained:
    content = read_pickle(results.folder / "plans.pkl")
    if not isinstance(content, dict):
        raise ImportProblem("plans.pkl holds no plans")
    # .../3d_fullres/Task111_x/nnUNetTrainerV2__nnUNetPlansv2.1/fold_2
    folder_names = [folder.name for folder in (results.folder, *results.folder.parents)]
    if any("cascade" in folder_name.lower() for folder_name in folder_names[:3]):
        raise ImportProblem("this is the second stage of a cascade, which is not supported")
    trainer = _trainer_v1(results)
    if not re.fullmatch(_TRAINERS_V1, trainer):
        raise ImportProblem(
            f"the trainer {trainer!r} is not one of nnU-Net v1's own that leave the network as planned"
        )
    stages = sorted(content.get("plans_per_stage", {}))
    if not stages:
        raise ImportProblem("plans.pkl has no stages (plans_per_stage)")
    plans = read_plans_v1(content, stages[0] if "3d_lowres" in folder_names[:3] else stages[-1])
    mirror = () if "noMirroring" in trainer else ((1, 2) if plans.planar else (0, 1, 2))
    return Trained(
        plans, {fold: read_weights_v1(path) for fold, path in results.folds.items()}, trainer, mirror
    )


def _trainer_v1(results: Results) -> str:
    """Return the trainer that the checkpoint names, else the one in the folder's name."""
    beside = next(iter(results.folds.values()))
    described = beside.with_name(beside.name + ".pkl")
    if described.is_file():
        content: Any = read_pickle(described)
        if isinstance(content, dict) and content.get("name"):
            return str(content["name"])
    return results.folder.name.split("__")[0]


def _check_axes(axes: tuple[int, ...], plans: Plans) -> None:
    if not set(axes) <= set(range(2 if plans.planar else 3)):
        raise ImportProblem(f"the checkpoint mirrors along the axes {axes}, which its network does not have")


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        raise ImportProblem(f"{path.name} cannot be read: {problem}") from None
    if not isinstance(content, dict):
        raise ImportProblem(f"{path.name} holds no table")
    return content
