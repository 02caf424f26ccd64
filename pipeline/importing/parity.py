"""Whether a bundle answers as the network that it was made of: whole cases through both, before it is installed.

The original is the checkpoint's weights run by torch in double precision, by the same walk that wrote the graph: that proves export, rounding and
runtime. That walk and case rules are nnU-Net's is proved by the tests against its own predictor, and for each checkpoint by the strict reading
of its weights: every one must be used, and none may be missing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage

from pipeline.bundle import Bundle
from pipeline.importing.problem import ImportProblem
from pipeline.importing.reference import reference_network
from pipeline.importing.trained import Trained
from pipeline.inference.session import open_network
from pipeline.nnunet_manifest import NnUNetSpec
from pipeline.records import Array, FloatArray
from pipeline.segmenters.nnunet import Window, predict_array, window_of

LARGEST_MEAN = 1e-3
LARGEST_MASK = 5e-3
"""Limits for a bundle with Float16 weights; Float32 stays below a hundredth of them."""

Case = tuple[str, FloatArray, tuple[float, float, float]]
"""Name, array (channel, slice, row, column), voxel size in mm."""


@dataclass(frozen=True)
class Parity:
    """How one case compares: differences of the lesion probability, and of the masks at one half (1 - Dice)."""

    case: str
    reference: str
    mean_difference: float
    largest_difference: float
    mask_difference: float

    def row(self) -> str:
        """Return the numbers as a row of a Markdown table."""
        numbers = f"{self.mean_difference:.1e} | {self.largest_difference:.1e} | {self.mask_difference:.1e}"
        return f"| {self.case} | {self.reference} | {numbers} |"


def check_parity(bundle: Bundle, trained: Trained, cases: Sequence[Path] = ()) -> tuple[Parity, ...]:
    """Compare the bundle with the original on cases of the user's, or on synthetic ones.

    Raises
    ------
    ImportProblem
        They differ by more than the limits; the message has the numbers.
    """
    spec = bundle.nnunet
    if spec is None:
        raise ImportProblem(f"{bundle.name} is no nnU-Net")
    window = window_of(bundle)
    networks = [open_network(bundle, 1, name) for name in bundle.graphs]
    originals = [reference_network(trained.plans.layout, arrays) for arrays in trained.folds.values()]
    found = []
    for name, array, spacing in [_read_case(path) for path in cases] or list(synthetic_cases(spec, window)):
        ours, _ = predict_array(networks, spec, window, array, spacing)
        theirs, _ = predict_array([_narrow(each) for each in originals], spec, window, array, spacing)
        found.append(compare(name, "torch, double precision", ours, theirs))
    for each in found:
        if each.mean_difference > LARGEST_MEAN or each.mask_difference > LARGEST_MASK:
            raise ImportProblem(
                f"the bundle does not answer as the original: on the {each.case} case the probability differs by {each.mean_difference:.1e} "
                f"on average and the masks by {each.mask_difference:.1e} (limits {LARGEST_MEAN:g} and {LARGEST_MASK:g}); nothing was installed"
            )
    return tuple(found)


def compare(case: str, reference: str, ours: FloatArray, theirs: FloatArray) -> Parity:
    """Compare two probability maps of one shape."""
    apart = np.abs(ours.astype(np.float64) - theirs)
    first, second = ours >= 0.5, theirs >= 0.5
    total = int(first.sum()) + int(second.sum())
    mask = 0.0 if total == 0 else 1.0 - 2.0 * int((first & second).sum()) / total
    return Parity(case, reference, float(apart.mean()), float(apart.max()), mask)


def synthetic_cases(spec: NnUNetSpec, window: Window) -> Iterator[Case]:
    """Yield a case smaller than a patch and one with more than one tile: smooth texture in an egg, a brighter ball inside it."""
    for name, factor, coarser in (("small", 0.8, 1.3), ("large", 1.3, 0.9)):
        sizes = [max(6, round(size * factor / coarser)) for size in window.patch]
        steps = [size * coarser for size in window.spacing_mm]
        if spec.planar:
            sizes[0], steps[0] = 6, 5.0
        back = [spec.transpose.index(axis) for axis in range(3)]
        array = _egg(tuple(sizes[axis] for axis in back), len(spec.schemes))
        yield name, array, (steps[back[0]], steps[back[1]], steps[back[2]])


def _egg(shape: tuple[int, ...], channels: int) -> FloatArray:
    rng = np.random.default_rng(20261121)
    axes = np.meshgrid(*[np.linspace(-1.1, 1.1, n) for n in shape], indexing="ij")
    inside = sum(axis**2 for axis in axes) < 1
    ball = sum((axis - place) ** 2 for axis, place in zip(axes, (0.2, -0.3, 0.1), strict=True)) < 0.1
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


def _narrow(network: Callable[[FloatArray], Array]) -> Callable[[FloatArray], FloatArray]:
    return lambda patch: network(patch).astype(np.float32)
