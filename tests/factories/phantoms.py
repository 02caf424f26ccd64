"""Volumes that are no heads (phantoms, other body parts, noise), and what happens to real heads, for the gate that tells them apart."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

import numpy as np
from scipy import ndimage

from pipeline.geometry import axial_affine
from pipeline.records import Array, Volume

SHAPE = (80, 112, 112)
SPACING_MM = 2.0
TISSUE = 400.0

Maker = Callable[[np.random.Generator], Array]


def make_volume(array: Array, spacing_mm: float = SPACING_MM) -> Volume:
    """Return an axial volume around the origin of the patient's space."""
    affine = axial_affine(array.shape, (spacing_mm,) * 3, np.zeros(3))
    return Volume(np.ascontiguousarray(array, dtype=np.float32), affine, "1.2.3")


def draw_phantom(name: str, seed: int) -> Volume:
    """Return one of `PHANTOMS`; sizes, noise and shading vary with the seed."""
    return make_volume(np.maximum(PHANTOMS[name](np.random.default_rng([seed, sum(name.encode())])), 0))


def _millimetres() -> tuple[Array, Array, Array]:
    grids = np.meshgrid(*(SPACING_MM * (np.arange(size) - (size - 1) / 2) for size in SHAPE), indexing="ij")
    return grids[0], grids[1], grids[2]


def _scan(signal: Array, random: np.random.Generator, noise: float | None = None) -> Array:
    """Return a magnitude image: smooth coil shading, a soft edge and Rician noise of 1 to 8 % of the tissue."""
    shading = ndimage.zoom(
        random.normal(0, 1, (3, 3, 3)), np.array(SHAPE) / 3, order=3, grid_mode=True, mode="nearest"
    )
    signal = ndimage.gaussian_filter(signal, 0.5) * np.exp(random.uniform(0, 0.25) * shading)
    level = TISSUE * (random.uniform(0.01, 0.08) if noise is None else noise)
    return np.hypot(signal + random.normal(0, level, SHAPE), random.normal(0, level, SHAPE))


def _cylinder(random: np.random.Generator, along: int) -> Array:
    axes = _millimetres()
    radius, half = random.uniform(55, 100), random.uniform(60, 100)
    across = [axis for number, axis in enumerate(axes) if number != along]
    inside = (np.hypot(*across) < radius) & (np.abs(axes[along]) < half)
    return _scan(TISSUE * inside, random)


def _ellipsoid(random: np.random.Generator, radii: tuple[float, float, float]) -> Array:
    """Return an ellipsoid of one signal, with the bright or dark middle of a dielectric resonance."""
    z, y, x = _millimetres()
    distance = np.sqrt((z / radii[0]) ** 2 + (y / radii[1]) ** 2 + (x / radii[2]) ** 2)
    return _scan(
        TISSUE
        * (distance < 1)
        * (1 + random.uniform(-0.3, 0.5) * np.cos(np.clip(distance, 0, 1) * np.pi / 2)),
        random,
    )


def _sphere(random: np.random.Generator) -> Array:
    radius = random.uniform(55, 95)
    return _ellipsoid(random, (radius, radius, radius))


def _head_shaped(random: np.random.Generator) -> Array:
    return _ellipsoid(random, (random.uniform(60, 72), random.uniform(78, 92), random.uniform(62, 74)))


def _shell(random: np.random.Generator) -> Array:
    """Return a fluid-filled head mould: a ring of fat, dark bone and one inside of one signal."""
    z, y, x = _millimetres()
    distance = np.sqrt((z / 76) ** 2 + (y / 92) ** 2 + (x / 76) ** 2) * random.uniform(0.95, 1.05)
    return _scan(TISSUE * ((distance < 0.88) + 1.3 * ((distance > 0.94) & (distance < 1))), random)


def _bottle(random: np.random.Generator) -> Array:
    """Return a bottle of water, half full, with an air line and a neck, and a lot of noise."""
    z, y, x = _millimetres()
    body = (np.hypot(x, z) < random.uniform(45, 70)) & (np.abs(y) < random.uniform(70, 100))
    neck = (np.hypot(x, z) < 15) & (y > 0)
    return _scan(TISSUE * ((body | neck) & (z < random.uniform(10, 60))), random, random.uniform(0.05, 0.25))


def _gel(random: np.random.Generator) -> Array:
    """Return a gel with vials of other signal, as for relaxometry."""
    z, y, x = _millimetres()
    signal = TISSUE * ((np.hypot(y, x) < 90) & (np.abs(z) < 75)).astype(float)
    for angle in np.arange(0, 2 * np.pi, np.pi / random.integers(3, 7)):
        vial = np.hypot(y - 55 * np.sin(angle), x - 55 * np.cos(angle)) < random.uniform(8, 18)
        signal[vial & (np.abs(z) < 60)] = TISSUE * random.uniform(0.1, 1.8)
    return _scan(signal, random)


def _grid(random: np.random.Generator) -> Array:
    """Return a quality phantom with inserts: a slab of grid, wedges, rows of holes."""
    z, y, x = _millimetres()
    inside = (np.hypot(y, x) < 95) & (np.abs(z) < 74)
    period = random.uniform(12, 24)
    bars = ((np.mod(x, period) < 3) | (np.mod(y, period) < 3)) & (np.abs(z) < 20)
    holes = (np.mod(x, 10) < 4) & (np.mod(y, 10) < 4) & (np.abs(z - 45) < 12) & (np.hypot(x, y) < 40)
    return _scan(TISSUE * (inside & ~bars & ~holes), random)


def _box(random: np.random.Generator) -> Array:
    axes = _millimetres()
    inside = np.logical_and.reduce([np.abs(axis) < random.uniform(50, 76) for axis in axes])
    return _scan(TISSUE * inside, random)


def _abdomen(random: np.random.Generator) -> Array:
    """Return a trunk: fat, muscle, liver, spleen, kidneys, a spine and gas."""
    z, y, x = _millimetres()
    trunk = np.hypot(x / 108, y / random.uniform(75, 95))
    signal = TISSUE * (1.5 * (trunk < 1) - 0.9 * (trunk < 0.88))
    signal[(np.hypot((x + 45) / 48, (y + 5) / 55) < 1) & (z > -40)] = 0.9 * TISSUE
    signal[np.sqrt(((x - 60) / 25) ** 2 + ((y - 20) / 30) ** 2 + ((z - 20) / 45) ** 2) < 1] = 0.7 * TISSUE
    for side in (-1, 1):
        signal[np.sqrt(((x - side * 45) / 18) ** 2 + ((y - 35) / 18) ** 2 + ((z + 20) / 45) ** 2) < 1] = (
            1.1 * TISSUE
        )
    signal[np.hypot(x, y - 50) < 18] = TISSUE * (1 + 0.3 * np.sign(np.sin(z / 5)))[np.hypot(x, y - 50) < 18]
    gas = ndimage.gaussian_filter(random.normal(0, 1, SHAPE), 5)
    signal[(gas > 1.5 * gas.std()) & (trunk < 0.8) & (y < 20)] = 0.1 * TISSUE
    return _scan(signal, random)


def _spine(random: np.random.Generator) -> Array:
    """Return a neck and its spine: soft tissue, vertebrae, discs, the cord in its fluid."""
    z, y, x = _millimetres()
    neck = np.hypot(x / random.uniform(60, 80), y / random.uniform(60, 75))
    signal = TISSUE * (1.4 * (neck < 1) - 0.8 * (neck < 0.9))
    bodies = (np.hypot(x / 16, (y - 5) / 13) < 1) & (np.mod(z, 22) < 17)
    signal[bodies] = 1.2 * TISSUE
    signal[np.hypot(x / 12, (y - 28) / 9) < 1] = 0.3 * TISSUE
    signal[np.hypot(x / 7, (y - 28) / 5) < 1] = TISSUE
    return _scan(signal, random)


def _legs(random: np.random.Generator) -> Array:
    _, y, x = _millimetres()
    signal = np.zeros(SHAPE)
    for side in (-1, 1):
        leg = np.hypot(x - side * 55, y) / random.uniform(42, 52)
        signal += TISSUE * (1.5 * (leg < 1) - 0.9 * (leg < 0.85) + 0.7 * (leg < 0.25))
    return _scan(signal, random)


def _fruit(random: np.random.Generator) -> Array:
    """Return a melon: a rind, flesh in segments and a wet middle with seeds."""
    z, y, x = _millimetres()
    distance = np.sqrt((z / 70) ** 2 + (y / 85) ** 2 + (x / 75) ** 2) * random.uniform(0.95, 1.1)
    segments = 1 + 0.15 * np.cos(random.integers(5, 11) * np.arctan2(y, x))
    signal = TISSUE * (0.5 * (distance < 1) + 0.4 * (distance < 0.9) * segments + 0.3 * (distance < 0.45))
    seeds = ndimage.gaussian_filter(random.normal(0, 1, SHAPE), 1.5)
    signal[(seeds > 2 * seeds.std()) & (distance < 0.45)] = 0.3 * TISSUE
    return _scan(signal, random)


def _blobs(random: np.random.Generator) -> Array:
    """Return random smooth tissue of two signals within an ellipsoid of a brain's size."""
    z, y, x = _millimetres()
    inside = np.sqrt((z / 65) ** 2 + (y / 85) ** 2 + (x / 68) ** 2) < 1
    texture = ndimage.gaussian_filter(random.normal(0, 1, SHAPE), random.uniform(2, 6))
    return _scan(TISSUE * inside * (1 + 0.35 * np.sign(texture)), random)


def _noise(random: np.random.Generator) -> Array:
    return _scan(np.zeros(SHAPE), random, 0.3)


def _speckle(random: np.random.Generator) -> Array:
    return 40 * np.abs(ndimage.gaussian_filter(random.normal(0, 1, SHAPE), random.uniform(1, 5))) * 100


def _empty(random: np.random.Generator) -> Array:
    image = np.zeros(SHAPE)
    image[tuple(random.integers(0, SHAPE))] = 1.0
    return image


PHANTOMS: Mapping[str, Maker] = {
    "cylinder": functools.partial(_cylinder, along=0),
    "lying-cylinder": functools.partial(_cylinder, along=1),
    "sphere": _sphere,
    "head-shaped": _head_shaped,
    "head-mould": _shell,
    "bottle": _bottle,
    "gel": _gel,
    "grid": _grid,
    "box": _box,
    "abdomen": _abdomen,
    "spine": _spine,
    "legs": _legs,
    "fruit": _fruit,
    "blobs": _blobs,
    "noise": _noise,
    "speckle": _speckle,
    "empty": _empty,
}
"""Name to maker: (slice, row, column) signal of 2 mm voxels."""


def _with_lesion(image: Volume, brain: Array, random: np.random.Generator) -> Volume:
    """Plant a lesion of up to half a hemisphere: 35 to 55 mm around a point of one side, dark or bright."""
    points = _points_mm(image)
    middle = points[brain].mean(axis=0)
    centre = middle + np.array(
        [random.choice([-1, 1]) * random.uniform(25, 45), random.uniform(-40, 40), random.uniform(-10, 25)]
    )
    inside = brain & (np.linalg.norm(points - centre, axis=-1) < random.uniform(35, 55))
    median = float(np.median(image.array[brain]))
    grain = random.normal(1, 0.05, image.array.shape)
    return image.with_array(
        np.where(inside, random.choice([0.3, 1.7]) * median * grain, image.array).astype(np.float32)
    )


def _operated(image: Volume, brain: Array, random: np.random.Generator) -> Volume:
    """Take away skull, scalp and some brain on one side, as after a hemicraniectomy."""
    points = _points_mm(image)
    middle = points[brain].mean(axis=0)
    side = random.choice([-1, 1])
    gone = (side * (points[..., 0] - middle[0]) > random.uniform(42, 55)) & (points[..., 2] > middle[2] - 30)
    return image.with_array(np.where(gone, 0, image.array).astype(np.float32))


def _child(image: Volume, brain: Array, random: np.random.Generator) -> Volume:
    del brain
    affine = image.affine.copy()
    affine[:3] *= random.uniform(0.82, 0.92)
    return Volume(image.array, affine, image.frame_of_reference_uid)


def _tilted(image: Volume, brain: Array, random: np.random.Generator) -> Volume:
    """Turn the head: up to 25 degrees of nod, 15 of yaw and of roll."""
    del brain
    nod, yaw, roll = np.radians([random.uniform(-25, 25), random.uniform(-15, 15), random.uniform(-15, 15)])
    turn = np.eye(4)
    for angle, (first, second) in ((nod, (1, 2)), (yaw, (0, 1)), (roll, (0, 2))):
        step = np.eye(4)
        step[first, first] = step[second, second] = np.cos(angle)
        step[first, second], step[second, first] = -np.sin(angle), np.sin(angle)
        turn = step @ turn
    return Volume(image.array, turn @ image.affine, image.frame_of_reference_uid)


def _thick(image: Volume, brain: Array, random: np.random.Generator) -> Volume:
    """Average slices to about 6 to 8 mm."""
    del brain
    step = float(np.linalg.norm(image.affine[:3, 0]))
    factor = max(1, round(random.uniform(6, 8) / step))
    count = len(image.array) // factor
    affine = image.affine.copy()
    affine[:3, 3] += affine[:3, 0] * (factor - 1) / 2
    affine[:3, 0] *= factor
    array = image.array[: count * factor].reshape(count, factor, *image.array.shape[1:]).mean(axis=1)
    return Volume(np.ascontiguousarray(array, dtype=np.float32), affine, image.frame_of_reference_uid)


def _low_field(image: Volume, brain: Array, random: np.random.Generator) -> Volume:
    """Blur to 2.5 mm, average slices to 5 mm and add 6 to 10 % of noise: what 0.064 T gives."""
    sizes = np.linalg.norm(image.affine[:3, :3], axis=0)
    blurred = image.with_array(ndimage.gaussian_filter(image.array, 1.1 / sizes).astype(np.float32))
    return _add_noise(blurred, brain, random.uniform(0.06, 0.1), random)


def _noisy(image: Volume, brain: Array, random: np.random.Generator) -> Volume:
    return _add_noise(image, brain, random.uniform(0.1, 0.2), random)


def _shaded(image: Volume, brain: Array, random: np.random.Generator) -> Volume:
    """Multiply by the field of a surface coil: 2 to 4 times brighter at one side."""
    points = _points_mm(image)
    middle = points[brain].mean(axis=0)
    way = random.normal(0, 1, 3)
    reach = (points - middle) @ (way / np.linalg.norm(way)) / 80
    return image.with_array((image.array * np.exp(reach * random.uniform(0.35, 0.7))).astype(np.float32))


def _without_top(image: Volume, brain: Array, random: np.random.Generator) -> Volume:
    planes = np.flatnonzero(brain.any(axis=(1, 2)))
    end = planes[0] + round(random.uniform(0.75, 0.9) * len(planes))
    return Volume(np.ascontiguousarray(image.array[:end]), image.affine, image.frame_of_reference_uid)


def _without_bottom(image: Volume, brain: Array, random: np.random.Generator) -> Volume:
    planes = np.flatnonzero(brain.any(axis=(1, 2)))
    start = planes[0] + round(random.uniform(0.1, 0.25) * len(planes))
    affine = image.affine.copy()
    affine[:3, 3] += affine[:3, 0] * start
    return Volume(np.ascontiguousarray(image.array[start:]), affine, image.frame_of_reference_uid)


def _points_mm(image: Volume) -> Array:
    index = np.moveaxis(np.indices(image.array.shape), 0, -1)
    points: Array = index @ image.affine[:3, :3].T + image.affine[:3, 3]
    return points


def _add_noise(image: Volume, brain: Array, level: float, random: np.random.Generator) -> Volume:
    sigma = level * float(np.median(image.array[brain]))
    shape = image.array.shape
    return image.with_array(
        np.hypot(image.array + random.normal(0, sigma, shape), random.normal(0, sigma, shape)).astype(
            np.float32
        )
    )


HEAD_VARIANTS: Mapping[str, Callable[[Volume, Array, np.random.Generator], Volume]] = {
    "large-lesion": _with_lesion,
    "operated": _operated,
    "child": _child,
    "tilted": _tilted,
    "thick-slices": _thick,
    "low-field": _low_field,
    "noisy": _noisy,
    "shaded": _shaded,
    "without-top": _without_top,
    "without-bottom": _without_bottom,
}
"""Name to what becomes of a head in axial canonical order; the second argument is its brain (bool, on the same grid)."""


def vary_head(name: str, image: Volume, brain: Array, seed: int) -> Volume:
    """Return a head after one of `HEAD_VARIANTS`, drawn with the seed."""
    return HEAD_VARIANTS[name](image, brain, np.random.default_rng([seed, sum(name.encode())]))
