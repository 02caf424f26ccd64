"""How closely torch, ONNX Float32 and ONNX with Float16 weights agree.

The same cases through all of them, tested for equivalence.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.evaluate.equivalence import Equivalence, paired_tost
from pipeline.evaluate.overlap import count_overlap
from pipeline.training.build import Network
from pipeline.training.network import Exportable
from pipeline.training.onnx_graph import open_session, run_session

SLAB_SLICES = 2
MARGIN = 1e-3
"""Difference of mean Dice that does not matter."""
SMALLEST_MASK_ML = 1.0
"""Below this a few voxels of edge are a large share of the mask, so mask-against-mask Dice says little."""

Float = npt.NDArray[np.float32]
Bool = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class ProofCase:
    """One input (channel, slice, row, column), its truth (slice, row, column), and how it was drawn."""

    seed: int
    combination: str
    threshold: float
    image: Float
    truth: Bool


@dataclass(frozen=True)
class CaseAgreement:
    """One case: Dice against the truth of each form of the network, and how far the forms are apart.

    Attributes
    ----------
    difference_float32, difference_float16
        Largest probability difference from torch in double precision.
    difference_forms
        Largest probability difference of torch Float32 from ONNX Float32.
    masks
        Dice between the Float32 and the Float16 mask; NaN when the Float32 mask is small.
    """

    seed: int
    combination: str
    dice_torch: float
    dice_float32: float
    dice_float16: float
    difference_float32: float
    difference_float16: float
    difference_forms: float
    masks: float


@dataclass(frozen=True)
class Agreement:
    """The cases together, as the manifest and the card state them.

    Attributes
    ----------
    max_difference_float32, max_difference_float16, max_difference_forms
        The largest over all cases, see `CaseAgreement`.
    dice_change_mean, dice_change_worst
        Change of the Dice against the truth, Float16 against Float32 weights, absolute.
    mask_dice_worst
        Smallest Dice between the two masks, over cases where the Float32 mask is not small; 1 when there is
        none.
    size_ratio
        Bytes of the Float16 file over bytes of the Float32 file.
    tost_p_float32, tost_p_float16
        p-value of the paired TOST on Dice, torch Float32 against each ONNX file, margin `MARGIN`.
    """

    cases: int
    max_difference_float32: float
    max_difference_float16: float
    max_difference_forms: float
    dice_change_mean: float
    dice_change_worst: float
    mask_dice_worst: float
    size_ratio: float
    tost_p_float32: float
    tost_p_float16: float


class SlabConvolution(nn.Module):
    """A convolution that is computed a few slices at a time, with the same result to the last bit.

    In double precision torch unfolds the whole input before it multiplies, 27 times its size; most of the
    time went into asking for that memory.
    """

    def __init__(self, convolution: nn.Conv3d) -> None:
        super().__init__()
        self.convolution = convolution

    def forward(self, x: Tensor) -> Tensor:
        """Return what the convolution returns."""
        weight, bias = self.convolution.weight, self.convolution.bias
        around = [int(n) for n in self.convolution.padding for _ in range(2)]
        padded = functional.pad(x, around[::-1])
        reach = weight.shape[2] - 1
        starts = range(0, padded.shape[2] - reach, SLAB_SLICES)
        return torch.cat(
            [functional.conv3d(padded[:, :, n : n + SLAB_SLICES + reach], weight, bias) for n in starts],
            dim=2,
        )


def in_slabs(network: nn.Module) -> nn.Module:
    """Replace in place every convolution without stride by one in slabs; return the network."""
    for name, child in network.named_children():
        if isinstance(child, nn.Conv3d) and child.stride == (1, 1, 1) and child.kernel_size != (1, 1, 1):
            setattr(network, name, SlabConvolution(child))
        else:
            in_slabs(child)
    return network


def compare_case(
    double: torch.nn.Module,
    single: torch.nn.Module,
    sessions: tuple[object, object],
    case: ProofCase,
    voxel_ml: float,
) -> CaseAgreement:
    """Run one case through torch in double and in single precision, ONNX Float32 and ONNX Float16."""
    image = torch.from_numpy(case.image[None])
    with torch.inference_mode():
        exact = double(image.double()).numpy()[0, 0]
        plain = single(image).numpy()[0, 0]
    wide, narrow = (run_session(session, case.image) for session in sessions)
    masks = [answer >= case.threshold for answer in (plain, wide, narrow)]
    small = masks[1].sum() * voxel_ml <= SMALLEST_MASK_ML
    return CaseAgreement(
        seed=case.seed,
        combination=case.combination,
        dice_torch=count_overlap(masks[0], case.truth).dice,
        dice_float32=count_overlap(masks[1], case.truth).dice,
        dice_float16=count_overlap(masks[2], case.truth).dice,
        difference_float32=float(np.abs(wide - exact).max()),
        difference_float16=float(np.abs(narrow - exact).max()),
        difference_forms=float(np.abs(wide - plain).max()),
        masks=float("nan") if small else count_overlap(masks[1], masks[2]).dice,
    )


def compare(
    network: Network,
    full: onnx.ModelProto,
    half: onnx.ModelProto,
    cases: Iterable[ProofCase],
    voxel_ml: float,
) -> list[CaseAgreement]:
    """Run every case through all forms of one network."""
    single = Exportable(copy.deepcopy(network)).eval()
    double = in_slabs(Exportable(copy.deepcopy(network)).double().eval())
    sessions = open_session(full), open_session(half)
    return [compare_case(double, single, sessions, case, voxel_ml) for case in cases]


def summarise(rows: Sequence[CaseAgreement], size_ratio: float) -> Agreement:
    """Return what the manifest says about the cases."""
    changes = [abs(row.dice_float16 - row.dice_float32) for row in rows]
    masks = [row.masks for row in rows if not np.isnan(row.masks)]
    full, half = prove_equivalence(rows)
    return Agreement(
        cases=len(rows),
        max_difference_float32=max(row.difference_float32 for row in rows),
        max_difference_float16=max(row.difference_float16 for row in rows),
        max_difference_forms=max(row.difference_forms for row in rows),
        dice_change_mean=float(np.mean(changes)),
        dice_change_worst=max(changes),
        mask_dice_worst=min(masks, default=1.0),
        size_ratio=size_ratio,
        tost_p_float32=full.p_value,
        tost_p_float16=half.p_value,
    )


def prove_equivalence(rows: Sequence[CaseAgreement]) -> tuple[Equivalence, Equivalence]:
    """Return the paired TOST of torch Float32 against ONNX Float32, and against ONNX with Float16 weights."""
    torch_dice = [row.dice_torch for row in rows]
    return (
        paired_tost(torch_dice, [row.dice_float32 for row in rows], MARGIN),
        paired_tost(torch_dice, [row.dice_float16 for row in rows], MARGIN),
    )
