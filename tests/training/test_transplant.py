"""Lesion transplants: the blend solves Poisson's equation, and a moved lesion stays inside the brain."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from scipy import ndimage
from torch import Tensor

from pipeline.training.synthesis.deformation import draw_coordinates
from pipeline.training.synthesis.fields import Dice, Grid, blur
from pipeline.training.synthesis.lesions import LesionShape, draw_procedural, find_tissue
from pipeline.training.synthesis.subject import synthesise_lesion_case
from pipeline.training.synthesis.tissue import Brain, draw_brain
from pipeline.training.synthesis.transplant import Donor, blend, draw_transplant
from tests.training.test_synthesis import SMALL

SPACING = (2.0, 1.0, 3.0)
EVERYWHERE = torch.ones(20, 24, 18, dtype=torch.bool)


def smooth(seed: int) -> Tensor:
    """Return a smooth random image."""
    return 1.0 + 5.0 * blur(Dice(seed).normal(20, 24, 18), (2.0, 2.0, 2.0))


@pytest.fixture
def region() -> Tensor:
    """A lopsided blob away from the edges of the grid."""
    return (blur(Dice(3).normal(20, 24, 18), (2.0, 2.0, 2.0)) > 0.02) & torch.nn.functional.pad(
        torch.ones(14, 18, 12), (3,) * 6
    ).bool()


def laplacian(image: Tensor) -> Tensor:
    """Return the discrete Laplacian by finite differences, without the code that is tested."""
    total = torch.zeros_like(image)
    for axis, size in enumerate(SPACING):
        total += (image.roll(1, axis) + image.roll(-1, axis) - 2 * image) / size**2
    return total


def test_without_gradients_in_the_patch_the_blend_is_harmonic(region: Tensor) -> None:
    image = smooth(1).double()

    blended = blend(image, torch.full_like(image, 5.0), region, EVERYWHERE, SPACING)

    assert int(region.sum()) > 300
    assert float(laplacian(blended)[region].abs().max()) < 1e-4
    assert float(laplacian(image)[region].abs().max()) > 0.1
    # What is harmonic has no extremum inside.
    ring = torch.from_numpy(ndimage.binary_dilation(region.numpy())) & ~region
    assert (
        float(image[ring].min()) - 1e-4
        <= float(blended[region].min())
        <= float(blended[region].max())
        <= float(image[ring].max()) + 1e-4
    )


def test_the_blend_has_the_gradients_of_the_patch(region: Tensor) -> None:
    image, patch = smooth(1).double(), smooth(2).double()

    blended = blend(image, patch, region, EVERYWHERE, SPACING)

    inner = torch.from_numpy(ndimage.binary_erosion(region.numpy()))
    assert int(inner.sum()) > 20
    assert torch.allclose(laplacian(blended)[inner], laplacian(patch)[inner], atol=1e-4)


def test_a_patch_that_is_only_brighter_changes_nothing(region: Tensor) -> None:
    image = smooth(1)

    # Continuous over the border: what the patch is brighter all round is taken away.
    assert torch.allclose(blend(image, image + 3.0, region, EVERYWHERE, SPACING), image, atol=1e-4)


def test_outside_the_region_nothing_changes(region: Tensor) -> None:
    image = smooth(1)
    before = image.clone()

    blended = blend(image, smooth(2), region, EVERYWHERE, SPACING)

    assert torch.equal(blended[~region], image[~region])
    assert not torch.allclose(blended[region], image[region], atol=0.01)
    assert torch.equal(image, before)


def test_fluid_beside_the_region_does_not_darken_it() -> None:
    image = torch.ones(20, 24, 18)
    image[:, :8] = 0.1
    region = torch.zeros_like(EVERYWHERE)
    region[6:14, 8:16, 5:13] = True

    kept = blend(image, torch.ones_like(image), region, image > 0.5, SPACING)
    pulled = blend(image, torch.ones_like(image), region, EVERYWHERE, SPACING)

    assert torch.allclose(kept, image, atol=1e-4)
    assert float(pulled[region].min()) < 0.7


def test_a_region_that_touches_nothing_takes_the_patch_as_it_is() -> None:
    image, patch = smooth(1), smooth(2)

    blended = blend(image, patch, EVERYWHERE, EVERYWHERE, SPACING)

    assert torch.allclose(blended, patch)


def make_brain(anatomy: Any, seed: int) -> tuple[Brain, Dice]:
    dice = Dice(seed)
    return draw_brain(anatomy, draw_coordinates(anatomy, SMALL, dice), SMALL, dice), dice


def test_a_moved_lesion_lies_in_the_brain_at_its_own_or_the_mirrored_place(anatomy: Any) -> None:
    brain, _ = make_brain(anatomy, 20)
    other, draws = make_brain(anatomy, 21)
    shape = draw_procedural(other, SMALL, draws, 40.0, at_mm=(20.0, 10.0, 35.0))
    assert shape is not None
    image = torch.where(shape.mask, 0.2, 1.0)
    sides = set()
    for seed in range(6):
        transplant = draw_transplant(
            brain, Donor(other, (shape,), {"t1": image, "flair": 2 - image}), SMALL, Dice(seed)
        )
        assert transplant is not None
        mask, region = transplant.shape.mask, transplant.region
        middle = brain.positions[mask].mean(dim=0)
        sides.add(float(torch.sign(middle[2])))

        assert not (mask & (brain.ventricle_mm <= 0)).any()
        assert float((mask & find_tissue(brain)).sum()) > 0.6 * float(mask.sum())
        assert not (region & ~brain.inside).any()
        assert not (mask & ~region).any()
        assert int(region.sum()) > 1.5 * int(mask.sum())
        # A deformed copy, less what falls on fluid.
        assert 0.3 * shape.volume_ml < transplant.shape.volume_ml < 1.6 * shape.volume_ml
        assert abs(float(middle[0]) - 20) < 20
        assert abs(abs(float(middle[2])) - 35) < 20
        # Its own contrast came along, in both images.
        blended = blend(
            torch.ones(SMALL.shape), transplant.patches["t1"], region, transplant.held, SMALL.spacing_mm
        )
        assert float(blended[mask].mean()) < 0.6
        assert float(transplant.patches["flair"][mask].mean()) > 1.4
    assert sides == {-1.0, 1.0}


def test_a_donor_that_does_not_fit_is_left_out(anatomy: Any) -> None:
    brain, dice = make_brain(anatomy, 20)
    other, _ = make_brain(anatomy, 21)
    outside = ~other.inside & (torch.arange(SMALL.shape[0]) < 3)[:, None, None]
    shape = LesionShape(outside, torch.zeros(SMALL.shape), 1.0, "procedural")

    assert (
        draw_transplant(brain, Donor(other, (shape,), {"t1": torch.ones(SMALL.shape)}), SMALL, dice) is None
    )


def test_a_share_of_nothing_changes_no_seed_and_a_share_of_all_is_repeatable(anatomy: Any) -> None:
    seed = 2
    plain, none = (
        synthesise_lesion_case(anatomy, seed, (), SMALL),
        synthesise_lesion_case(anatomy, seed, (), SMALL, 0.0),
    )
    first, again = (synthesise_lesion_case(anatomy, seed, (), SMALL, 1.0) for _ in range(2))

    assert [shape.source for shape in first.lesions] == ["transplant of procedural"]
    assert torch.equal(first.label, first.lesions[0].mask)
    assert torch.equal(plain.image, none.image)
    assert torch.equal(first.image, again.image)
    assert torch.equal(first.label, again.label)
    assert not torch.equal(first.label, plain.label)
    assert torch.isfinite(first.image).all()


def test_every_anisotropic_grid_can_be_blended() -> None:
    grid = Grid((8, 6, 5), (5.0, 6.0, 4.0))
    region = torch.zeros(grid.shape, dtype=torch.bool)
    region[2:6, 1:5, 1:4] = True
    ramp = torch.arange(8.0)[:, None, None].expand(grid.shape).clone()

    # A straight line is harmonic on any grid.
    assert torch.allclose(
        blend(ramp, torch.zeros(grid.shape), region, torch.ones_like(region), grid.spacing_mm),
        ramp,
        atol=1e-4,
    )
