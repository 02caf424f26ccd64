"""How a bundle's answers compare with those of the network that it was made of.

Whole cases through both, before it is installed.

The original is the checkpoint's weights run by torch, by the same walk that wrote the graph: that proves
export, rounding and runtime. That walk and case rules are nnU-Net's is proved by the tests against its own
predictor, and for each checkpoint by the strict reading of its weights: every one must be used, and none may
be missing. Mirroring is left out here: it repeats the same network up to eight times.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy import ndimage

from pipeline.bundles.bundle import Bundle
from pipeline.counts import counted
from pipeline.importing.problem import ImportProblem
from pipeline.importing.reference import reference_network
from pipeline.importing.trained import Trained
from pipeline.inference.session import Folds
from pipeline.records import Array, FloatArray
from pipeline.segmenters.nnunet.segment import Window, predict_array, window_of
from pipeline.segmenters.nnunet.spec import NnUNetSpec

SMALL_CASES = 5
"""Synthetic cases of one tile; with the one of two tiles enough pairs for a test."""

Case = tuple[str, FloatArray, tuple[float, float, float]]
"""Name, array (channel, slice, row, column), voxel size in mm."""


@dataclass(frozen=True)
class Parity:
    """How one case compares.

    Differences of the lesion probability, of the masks at one half (1 - Dice), and the original's lesion
    voxels.
    """

    case: str
    reference: str
    weights: str
    mean_difference: float
    largest_difference: float
    mask_difference: float
    voxels: int

    def within(self, mean: float, mask: float) -> bool:
        """Whether the differences are below both limits."""
        return self.mean_difference < mean and self.mask_difference < mask

    def words(self) -> str:
        """Say where the case differs."""
        return (
            f"the probability differs by {self.mean_difference:.1e} on average and the masks by "
            f"{self.mask_difference:.1e} on the case {self.case}"
        )

    def row(self) -> str:
        """Return the numbers as a row of a Markdown table."""
        numbers = (
            f"{self.mean_difference:.1e} | {self.largest_difference:.1e} | "
            f"{self.mask_difference:.1e} | {self.voxels}"
        )
        return f"| {self.case} | {self.reference} | {self.weights} | {numbers} |"


@dataclass(frozen=True, eq=False)
class Original:
    """The checkpoint's network and the conventions that it is run by."""

    trained: Trained
    spec: NnUNetSpec
    window: Window


def original_answer(original: Original, case: Case) -> FloatArray:
    """Return the lesion probability by the original weights."""
    _, array, spacing = case
    networks = [
        reference_network(original.trained.plans.layout, arrays) for arrays in original.trained.folds.values()
    ]
    return predict_array(networks, _unmirrored(original.spec), original.window, array, spacing)[0]


def answer_of(bundle: Bundle, case: Case, threads: int) -> FloatArray:
    """Return the lesion probability by a bundle, ONNX Runtime on the CPU."""
    if not isinstance(bundle.family_spec, NnUNetSpec):
        raise ImportProblem(f"{bundle.name} is no nnU-Net")
    _, array, spacing = case
    return predict_array(
        Folds(bundle, threads), _unmirrored(bundle.family_spec), window_of(bundle), array, spacing
    )[0]


def _unmirrored(spec: NnUNetSpec) -> NnUNetSpec:
    return replace(spec, mirror_axes=())


def compare(
    case: str, reference: str, ours: FloatArray, theirs: FloatArray, *, weights: str = "Float32"
) -> Parity:
    """Compare two probability maps of one shape."""
    apart = np.abs(ours.astype(np.float64) - theirs)
    first, second = ours >= 0.5, theirs >= 0.5
    total = int(first.sum()) + int(second.sum())
    mask = 0.0 if total == 0 else 1.0 - 2.0 * int((first & second).sum()) / total
    return Parity(case, reference, weights, float(apart.mean()), float(apart.max()), mask, int(second.sum()))


def choose_cases(paths: Sequence[Path], spec: NnUNetSpec, window: Window) -> list[Case]:
    """Return the user's cases, or synthetic ones.

    Raises
    ------
    ImportProblem
        A file is no case, or has another number of channels.
    """
    cases = [_read_case(path) for path in paths]
    for name, array, _ in cases:
        if array.ndim != 4 or len(array) != len(spec.schemes):
            raise ImportProblem(
                f"the case {name} has the shape {array.shape}; (channel, slice, row, column) with "
                f"{counted(len(spec.schemes), 'channel')} is needed"
            )
    return cases or list(synthetic_cases(spec, window))


def synthetic_cases(spec: NnUNetSpec, window: Window) -> Iterator[Case]:
    """Yield cases smaller than a patch and one with two tiles.

    Smooth texture in an egg, a brighter ball inside it.
    """
    yield "synthetic, two tiles", *_synthetic(spec, window, long=1.3, coarser=0.9, seed=0)
    for seed in range(1, SMALL_CASES + 1):
        yield f"synthetic {seed}", *_synthetic(spec, window, long=0.8, coarser=1.3, seed=seed)


def _synthetic(
    spec: NnUNetSpec, window: Window, long: float, coarser: float, seed: int
) -> tuple[FloatArray, tuple[float, float, float]]:
    """Return an image `long` patches long on its last axis, 0.8 on the others.

    Its voxels are `coarser` times those of the network.
    """
    sizes = [
        max(6, round(size * factor / coarser))
        for size, factor in zip(window.patch, (0.8, 0.8, long), strict=True)
    ]
    steps = [size * coarser for size in window.spacing_mm]
    if spec.planar:
        sizes[0], steps[0] = 6, 5.0
    back = [spec.transpose.index(axis) for axis in range(3)]
    array = _egg(tuple(sizes[axis] for axis in back), len(spec.schemes), seed)
    return array, (steps[back[0]], steps[back[1]], steps[back[2]])


def _egg(shape: tuple[int, ...], channels: int, seed: int) -> FloatArray:
    rng = np.random.default_rng(20261121 + seed)
    axes = np.meshgrid(*[np.linspace(-1.1, 1.1, n) for n in shape], indexing="ij")
    inside = sum(axis**2 for axis in axes) < 1
    ball = sum((axis - centre) ** 2 for axis, centre in zip(axes, (0.2, -0.3, 0.1), strict=True)) < 0.1
    texture = np.stack([ndimage.gaussian_filter(rng.normal(size=shape), 1.5) for _ in range(channels)])
    answer: Array = (inside * (100 + 60 * texture + 60 * ball)).astype(np.float32)
    return answer


def _read_case(path: Path) -> Case:
    try:
        with np.load(path, allow_pickle=False) as content:
            first, second, third = (float(size) for size in content["spacing"])
            return path.stem, content["array"].astype(np.float32), (first, second, third)
    except (OSError, KeyError, ValueError) as problem:
        raise ImportProblem(f"{path} is no case (NumPy file with `array` and `spacing`): {problem}") from None
