"""How a slice is varied before a 2D network sees it.

Position, thickness, window, bias, noise, edge of the brain mask, mirror.

Real slices come from three fixed planes of one registered space. Without these variations a network learns
the planes instead of strokes.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.training.synthesis.subject import INTENSITY_CEILING


def fit_shape(values: Tensor, shape: tuple[int, int], generator: torch.Generator, jitter: int = 6) -> Tensor:
    """Return (..., row, column) padded with zeros or cut to `shape`.

    It is centred up to a random offset of `jitter` pixels.
    """
    for axis, size in ((-2, shape[0]), (-1, shape[1])):
        room = size - values.shape[axis]
        middle = room // 2 + int(torch.randint(-jitter, jitter + 1, (), generator=generator))
        before = min(max(middle, min(room, 0)), max(room, 0))
        after = room - before
        pads = [0, 0, 0, 0]
        pads[0 if axis == -1 else 2], pads[1 if axis == -1 else 3] = before, after
        values = F.pad(values, pads)
    return values


def vary_slices(images: Tensor, masks: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Vary a batch.

    Parameters
    ----------
    images
        (sample, channel, row, column), multiples of the brain's median, 0 outside the brain.
    masks
        (sample, 1, row, column), 0 or 1.

    Returns
    -------
    tuple
        The same shapes, the images clipped to 0..3.
    """
    images, masks = _move(images, masks, generator)
    varied = [_vary_intensity(image, generator) for image in images]
    return torch.stack(varied).clamp_(0.0, INTENSITY_CEILING), masks


def centre_columns(
    images: Tensor, masks: Tensor, generator: torch.Generator, jitter: int = 2
) -> tuple[Tensor, Tensor]:
    """Move each slice along its columns until its image is in the middle, up to `jitter` pixels.

    Shapes are those of `vary_slices`.
    """
    columns = images.shape[-1]
    occupied = (images > 0.02).any(dim=1).any(dim=1)
    moved_images, moved_masks = [], []
    for image, mask, filled in zip(images, masks, occupied, strict=True):
        places = filled.nonzero()[:, 0]
        offset = (columns - int(places[0]) - int(places[-1]) - 1) // 2 if len(places) else 0
        offset += int(torch.randint(-jitter, jitter + 1, (), generator=generator))
        moved_images.append(_shift(image, offset))
        moved_masks.append(_shift(mask, offset))
    return torch.stack(moved_images), torch.stack(moved_masks)


def _shift(values: Tensor, offset: int) -> Tensor:
    """Return (..., column) moved to the right by `offset`, with zeros behind it."""
    return F.pad(values, (offset, -offset))


def _uniform(low: float, high: float, generator: torch.Generator) -> float:
    return low + (high - low) * float(torch.rand((), generator=generator))


def _chance(probability: float, generator: torch.Generator) -> bool:
    return float(torch.rand((), generator=generator)) < probability


def _move(images: Tensor, masks: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Turn, scale, shear a little, and mirror columns half of the time.

    It turns up to 12 degrees, half of the slices up to 4, and scales by 0.88 to 1.14 along each axis.
    """
    matrices = []
    rows, columns = images.shape[-2:]
    for _ in range(len(images)):
        most = 4.0 if _chance(0.5, generator) else 12.0
        angle = math.radians(_uniform(-most, most, generator))
        scale_row, scale_column = (_uniform(0.88, 1.14, generator) for _ in range(2))
        mirror = -1.0 if _chance(0.5, generator) else 1.0
        shear = _uniform(-0.06, 0.06, generator)
        cosine, sine, aspect = math.cos(angle), math.sin(angle), rows / columns
        # grid_sample's first coordinate runs along the columns, both from -1 to 1.
        matrices.append(
            [
                [mirror * cosine * scale_column, (-sine * scale_row + shear) * aspect, 0.0],
                [mirror * sine * scale_column / aspect, cosine * scale_row, 0.0],
            ]
        )
    grid = F.affine_grid(torch.tensor(matrices), list(images.shape), align_corners=False)
    moved = F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    outlines = F.grid_sample(masks, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return moved, (outlines > 0.5).float()


def _vary_intensity(image: Tensor, generator: torch.Generator) -> Tensor:
    """Return one image (channel, row, column) as another scanner, window and brain mask would give it."""
    brain = (image > 0.02).any(dim=0, keepdim=True).float()
    if _chance(0.35, generator):
        image = _thicken(
            image, int(torch.randint(1, 3, (), generator=generator)), _uniform(2.0, 6.0, generator), generator
        )
    if _chance(0.3, generator):
        image = _blur(image, _uniform(0.4, 1.1, generator))
    rows, columns = image.shape[-2:]
    for channel in range(len(image)):
        values = image[channel]
        if not bool((values > 0).any()):
            continue
        bias = torch.rand((1, 1, 4, 4), generator=generator) * 2 - 1
        field = F.interpolate(bias, size=(rows, columns), mode="bicubic", align_corners=True)[0, 0]
        values = values * torch.exp(_uniform(0.0, 0.2, generator) * field)
        values = values.clamp_min(0.0) ** _uniform(0.85, 1.18, generator) * _uniform(0.9, 1.12, generator)
        if _chance(0.5, generator):
            # A display window saturates what is bright.
            values = values.clamp_max(_uniform(1.4, 2.4, generator))
        values = values + _uniform(0.0, 0.035, generator) * torch.randn(values.shape, generator=generator)
        image = torch.cat((image[:channel], values[None], image[channel + 1 :]))
    if _chance(0.3, generator):
        # The mask of another extractor leaves out a rim of brain.
        brain = _erode(brain, generator)
    return image.clamp_min(0.0) * brain


def _erode(brain: Tensor, generator: torch.Generator) -> Tensor:
    width = 3 if _chance(0.6, generator) else 5
    return 1.0 - F.max_pool2d((1.0 - brain)[None], width, stride=1, padding=width // 2)[0]


def _thicken(image: Tensor, axis: int, step: float, generator: torch.Generator) -> Tensor:
    """Average over slabs of `step` pixels along one in-plane axis and interpolate back.

    As thick slices across this plane do.
    """
    count = image.shape[axis]
    slabs = max(8, round(count / step))
    size = (slabs, image.shape[2]) if axis == 1 else (image.shape[1], slabs)
    thick = F.interpolate(image[None], size=size, mode="area")
    mode = "bilinear" if _chance(0.8, generator) else "nearest"
    return F.interpolate(thick, size=image.shape[1:], mode=mode)[0]


def _blur(image: Tensor, sigma: float) -> Tensor:
    index = torch.arange(-3, 4, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (index / sigma) ** 2)
    kernel = kernel / kernel.sum()
    channels = image.shape[0]
    across = F.conv2d(
        image[None], kernel.reshape(1, 1, -1, 1).expand(channels, 1, -1, 1), padding=(3, 0), groups=channels
    )
    return F.conv2d(
        across, kernel.reshape(1, 1, 1, -1).expand(channels, 1, 1, -1), padding=(0, 3), groups=channels
    )[0]
