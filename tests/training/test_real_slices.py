"""Real slices: whose they are, which way round they lie, what is refused, how they are varied and scored. Made slices stand in for real ones."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.segmenters.families import load_bundle
from pipeline.training.real_slices import (
    SPLITS,
    RealSlice,
    SliceError,
    maps_of,
    read_slices,
    split_of,
    subjects_of,
)
from pipeline.training.score_slices import (
    area_correlation,
    describe_scores,
    find_contrast,
    median_bias,
    score_slice,
)
from pipeline.training.slice_answers import answer_slices, cut_slice
from pipeline.training.slice_augment import fit_shape, vary_slices
from tests.factories.families import BRIGHT, NEVER, write_ensemble, write_triplanar
from tests.factories.onnx import known_lesion_bundle
from tests.factories.slices import SHAPES, write_slices

pytestmark = pytest.mark.train
PEOPLE = tuple(range(1, 41))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_slices(tmp_path_factory.mktemp("slices"), PEOPLE)


def test_people_are_split_once_and_never_shared(folder: Path) -> None:
    people = {split: {item.subject for item in read_slices(folder, split)} for split in SPLITS}

    assert set().union(*people.values()) == set(PEOPLE)
    assert sum(map(len, people.values())) == len(PEOPLE)
    counts = [split_of(number) for number in range(10_000)]
    assert counts.count("train") / 10_000 == pytest.approx(0.8, abs=0.02)
    assert counts.count("decide") / 10_000 == pytest.approx(0.1, abs=0.02)


def test_only_the_maps_of_people_to_train_on_are_drawn(folder: Path) -> None:
    maps = [Path(f"bwsrsub-{number}_lesion.nii.gz") for number in (*PEOPLE, 9001, 9002)] + [
        Path("atlas.nii.gz")
    ]

    chosen = maps_of("train", maps, subjects_of(folder))

    numbers = [int(path.name[8:].split("_")[0]) for path in chosen]
    assert numbers == [number for number in PEOPLE if split_of(number) == "train"]


def test_slices_lie_as_a_volume_does(folder: Path) -> None:
    """The made head has its mark in front, on the left and at the top: small row, large column, last slice of a volume."""
    slices = {item.plane: item for item in read_slices(folder) if item.subject == 1}

    def place(item: RealSlice) -> tuple[float, float]:
        rows, columns = np.nonzero(item.image > 2.0)
        return float(rows.mean() / item.image.shape[0]), float(columns.mean() / item.image.shape[1])

    front, left = place(slices["axial"])
    assert front < 0.5 < left
    top, left = place(slices["coronal"])
    assert min(top, left) > 0.5
    top, front = place(slices["sagittal"])
    assert top > 0.5 > front


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"mask": np.zeros((40, 5, 5), bool)}, "do not belong together"),
        ({"image": np.zeros((40, 5), np.uint8)}, "do not belong together"),
        ({"image": np.zeros((40, *SHAPES["axial"]), np.float32)}, "do not belong together"),
        ({"subject": np.array(["7"] * 40)}, "person 7 stands in it twice"),
        ({"subject": np.array(["x"] * 40)}, "no number"),
    ],
)
def test_slices_of_another_form_are_refused_by_name(
    change: dict[str, np.ndarray], word: str, tmp_path: Path
) -> None:
    folder = write_slices(tmp_path, PEOPLE)
    with np.load(folder / "axial.npz") as arrays:
        np.savez(folder / "axial.npz", **{**arrays, **change})

    with pytest.raises(SliceError, match=word) as refused:
        read_slices(folder)
    assert "axial.npz" in str(refused.value)


def test_a_damaged_or_missing_file_is_refused(tmp_path: Path) -> None:
    folder = write_slices(tmp_path, PEOPLE)
    (folder / "coronal.npz").write_bytes((folder / "coronal.npz").read_bytes()[:100])
    with pytest.raises(SliceError, match=r"coronal\.npz cannot be read"):
        read_slices(folder)
    (folder / "coronal.npz").unlink()
    with pytest.raises(SliceError, match=r"coronal\.npz cannot be read"):
        read_slices(folder)


def test_varied_slices_keep_their_lesion_in_the_brain(folder: Path) -> None:
    items = [item for item in read_slices(folder) if item.plane == "axial" and item.mask.any()][:6]
    generator = torch.Generator().manual_seed(3)
    images = torch.stack(
        [
            fit_shape(torch.from_numpy(np.stack((item.image * 0, item.image))), (192, 160), generator)
            for item in items
        ]
    )
    masks = torch.stack(
        [
            fit_shape(torch.from_numpy(item.mask.astype(np.float32))[None], (192, 160), generator, jitter=0)
            for item in items
        ]
    )

    varied, outlines = vary_slices(images, images[:, 1:] * 0 + masks, generator)

    assert varied.shape == images.shape
    assert outlines.shape == masks.shape
    assert set(outlines.unique().tolist()) <= {0.0, 1.0}
    assert float(varied.min()) >= 0.0
    assert float(varied.max()) <= 3.0
    assert not bool(varied[:, 0].any())
    again, _ = vary_slices(images, masks, generator)
    assert not torch.equal(again, varied)


def _disc(radius: int, value: float, ratio: float = 1.0) -> RealSlice:
    rows, columns = np.mgrid[:189, :157]
    brain = (rows - 94) ** 2 + (columns - 78) ** 2 < 70**2
    mask = (rows - 94) ** 2 + (columns - 110) ** 2 < radius**2
    image = np.where(mask, value * ratio, value) * brain
    return RealSlice("axial", 1, image.astype(np.float32), mask & brain)


def test_contrast_is_that_of_the_mirrored_place() -> None:
    assert find_contrast(_disc(12, 1.0, 1.4)) == pytest.approx(1.4)
    assert find_contrast(_disc(12, 1.0, 0.5)) == pytest.approx(0.5)
    assert find_contrast(dataclasses.replace(_disc(12, 1.0), mask=np.zeros((189, 157), bool))) == 0.0


def test_figures_of_known_answers() -> None:
    items = [_disc(radius, 1.0, 1.4) for radius in (8, 12, 20)]

    right = [score_slice(item, item.mask) for item in items]
    none = [score_slice(item, np.zeros_like(item.mask)) for item in items]
    double = [dataclasses.replace(score, predicted_px=2 * score.true_px) for score in right]

    assert [score.dice for score in right] == [1.0] * 3
    assert [score.dice for score in none] == [0.0] * 3
    assert area_correlation(double) == pytest.approx(1.0)
    assert median_bias(double) == pytest.approx(1.0)
    assert "| axial | 3 + 0 empty | 1.000 (1.00 to 1.00) |" in describe_scores(right)


def _bright_answer(models: Path, items: list[RealSlice]) -> list[np.ndarray]:
    bundle = load_bundle(models)
    return [cut_slice(bundle, answer) for answer in answer_slices(bundle, items)]


def test_every_family_answers_slices_on_their_own_pixels(folder: Path, tmp_path: Path) -> None:
    """Networks that mark what is bright in FLAIR mark the made lesions, whatever their family; one that marks nothing halves a mean."""
    items = [item for item in read_slices(folder) if item.mask.any()][:3]
    plain = known_lesion_bundle(tmp_path).folder
    planes = write_triplanar(tmp_path, dict.fromkeys(("axial", "coronal", "sagittal"), BRIGHT))
    silent = write_triplanar(
        tmp_path, dict.fromkeys(("axial", "coronal", "sagittal"), NEVER), name="known-silent"
    )
    members = {
        f"{bundle.name}/{bundle.version}": bundle.sha256 for bundle in map(load_bundle, (plain, planes))
    }
    both = write_ensemble(tmp_path, members)
    one, other = (
        (f"{bundle.name}/{bundle.version}", bundle.sha256) for bundle in map(load_bundle, (plain, silent))
    )
    of_a_t1 = write_ensemble(
        tmp_path, dict((one, other)), asked={other[0]: {"t1": 0.5}}, name="known-of-a-t1"
    )

    for models in (plain, planes, both, of_a_t1):
        for item, found in zip(items, _bright_answer(models, items), strict=True):
            assert found.shape == item.mask.shape
            score = score_slice(item, found)
            # The bundles work at 2 mm, and the mark of 49 px is bright too.
            assert score.common_px > 0.65 * score.true_px
            assert score.predicted_px - score.common_px < 49 + 0.2 * score.true_px
    assert not any(found.any() for found in _bright_answer(silent, items))
