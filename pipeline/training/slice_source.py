"""The slices that the planes learn from: real ones, and ones of synthetic volumes at any position."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pipeline.training.graft import graft_lesion
from pipeline.training.network import PLANES
from pipeline.training.plane_schedule import SHAPES, PlaneSchedule
from pipeline.training.problem import TrainingProblem
from pipeline.training.real_slices import RealSlice
from pipeline.training.slice_augment import centre_columns, fit_shape, vary_slices
from pipeline.training.volume_pool import VolumePool, open_volume, scale_volume


class SliceSource:
    """Draws batches of one plane.

    Real slices of people to train on, and slices of the pool's volumes at any position.
    """

    def __init__(
        self, slices: list[RealSlice], pool: VolumePool, schedule: PlaneSchedule, generator: torch.Generator
    ) -> None:
        self.real = {plane: [item for item in slices if item.plane == plane] for plane in PLANES}
        self.with_lesion = {
            plane: [item for item in group if item.mask.any()] for plane, group in self.real.items()
        }
        for plane, group in self.with_lesion.items():
            if schedule.real_share > 0 and not group:
                raise TrainingProblem(f"no {plane} slice of a person to train on shows a lesion")
        self.pool, self.schedule, self.generator = pool, schedule, generator
        self._paths: list[Path] = []
        self._occupied: dict[Path, dict[str, tuple[list[int], list[int]]]] = {}

    def refresh(self) -> int:
        """Look for new volumes; returns how many there are."""
        self._paths = self.pool.paths()
        return len(self._paths)

    def draw(self, plane: str) -> tuple[Tensor, Tensor]:
        """Return images (sample, 2, row, column) and masks (sample, 1, row, column), varied."""
        real = round(self.schedule.batch * self.schedule.real_share)
        drawn = [
            self._draw_real(plane) if index < real else self._draw_synthetic(plane)
            for index in range(self.schedule.batch)
        ]
        images, masks = vary_slices(
            torch.stack([image for image, _ in drawn]),
            torch.stack([mask for _, mask in drawn]),
            self.generator,
        )
        # Networks that compare the two sides see slices as the node cuts them: the image in the middle. The
        # sagittal one is trained on the same kind of slices.
        return centre_columns(images, masks, self.generator) if self.schedule.other_side else (images, masks)

    def _integer(self, high: int) -> int:
        return int(torch.randint(high, (), generator=self.generator))

    def _chance(self, probability: float) -> bool:
        return float(torch.rand((), generator=self.generator)) < probability

    def _draw_real(self, plane: str) -> tuple[Tensor, Tensor]:
        group = self.with_lesion[plane] if self._chance(self.schedule.lesion_share) else self.real[plane]
        image, mask = self._fit(group[self._integer(len(group))])
        if self._chance(self.schedule.graft_share):
            image, mask = self._graft(plane, image, mask)
        return image, mask

    def _fit(self, item: RealSlice) -> tuple[Tensor, Tensor]:
        """Return (2, row, column) with an empty T1, and (1, row, column), as large as the plane's slices."""
        flair = torch.from_numpy(np.ascontiguousarray(item.image))[None]
        both = torch.cat((torch.zeros_like(flair), flair, torch.from_numpy(item.mask)[None].float()))
        both = fit_shape(both, SHAPES[item.plane], self.generator)
        return both[:2], both[2:]

    def _graft(self, plane: str, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return a slice with the lesion of another person to train on, from the same plane."""
        group = self.with_lesion[plane]
        donor, outline = self._fit(group[self._integer(len(group))])
        if plane != "sagittal" and self._chance(0.5):
            donor, outline = donor.flip(-1), outline.flip(-1)
        flair, mask = graft_lesion(image[1], mask[0], donor[1], outline[0], self.generator)
        return torch.stack((image[0], flair)), mask[None]

    def _draw_synthetic(self, plane: str) -> tuple[Tensor, Tensor]:
        path = self._paths[self._integer(len(self._paths))]
        volume = open_volume(path)
        axis = 1 + PLANES[plane]
        if path not in self._occupied:
            self._occupied[path] = _occupied(volume)
        brain, lesion = self._occupied[path][plane]
        numbers = lesion if lesion and self._chance(self.schedule.lesion_share) else brain
        packed = np.ascontiguousarray(np.take(volume, numbers[self._integer(len(numbers))], axis=axis))
        image, mask = torch.from_numpy(scale_volume(packed[:2])), torch.from_numpy(packed[2:]).float()
        if not self._chance(self.schedule.t1_share):
            image[0] = 0.0
            if self._chance(self.schedule.graft_share / 2):
                image, mask = self._graft(plane, image, mask)
        # What the remaining channels do not show cannot be asked for.
        return image, mask * (image > 0).any(dim=0)


def _occupied(volume: np.ndarray) -> dict[str, tuple[list[int], list[int]]]:
    """Return for each plane the numbers of the slices with enough brain, and of those through a lesion."""
    flair, label = volume[1], volume[2]
    result = {}
    for plane, axis in PLANES.items():
        others = tuple(other for other in range(3) if other != axis)
        brain, lesion = (flair > 8).sum(axis=others), label.sum(axis=others)
        result[plane] = (np.flatnonzero(brain > 300).tolist(), np.flatnonzero(lesion > 3).tolist())
    return result
