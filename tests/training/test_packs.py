"""The few files that a lent machine needs: packed anatomy and lesion maps give what the folders give."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
from typer.testing import CliRunner

from pipeline.training.__main__ import app
from pipeline.training.problem import TrainingProblem
from pipeline.training.synthesis.anatomy import TEMPLATE_VARIABLE, read_template
from pipeline.training.synthesis.lesion_maps import LesionMapError, check_maps, list_maps, read_map


@pytest.fixture
def maps(tmp_path: Path) -> Path:
    """Maps of different boxes, which are no cubes, at different places."""
    folder, random = tmp_path / "maps", np.random.default_rng(5)
    folder.mkdir()
    for number in range(12):
        array = np.zeros((30, 31, 32), np.uint8)
        low = random.integers(0, 10, 3)
        high = low + random.integers(1, 18, 3)
        array[tuple(slice(*ends) for ends in zip(low, high, strict=True))] = random.integers(0, 2, high - low)
        array[tuple(low)] = 1
        affine = np.diag([1.0, 1.0, 1.0, 1.0])
        affine[:3, 3] = random.integers(-60, 20, 3)
        nibabel.save(nibabel.Nifti1Image(array, affine), folder / f"bwsrsub-{1000 + number}_lesion.nii.gz")
    return folder


def _pack(*arguments: object) -> str:
    result = CliRunner().invoke(app, ["pack", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    return result.output


def test_packed_maps_are_the_maps_of_the_folder(maps: Path, tmp_path: Path) -> None:
    _pack("--out", tmp_path / "pack", "--lesion-maps", maps)
    packed = tmp_path / "pack" / "lesion-maps.npz"

    for held_out in (False, True):
        theirs, ours = (list_maps(place, held_out=held_out) for place in (maps, packed))
        assert [path.name for path in theirs] == [path.name for path in ours]
        check_maps(ours)
        for one, other in zip(map(read_map, theirs), map(read_map, ours), strict=True):
            assert (one.name, one.origin_mm) == (other.name, other.origin_mm)
            assert np.array_equal(one.mask.numpy(), other.mask.numpy())
            assert one.volume_ml > 0
    with pytest.raises(LesionMapError, match="holds no map gone"):
        read_map(packed / "gone.nii.gz")


@pytest.mark.parametrize("damage", ["cut", "other", "short", "gone"])
def test_a_damaged_pack_is_named(damage: str, maps: Path, tmp_path: Path) -> None:
    _pack("--out", tmp_path, "--lesion-maps", maps)
    packed = tmp_path / "lesion-maps.npz"
    if damage == "cut":
        packed.write_bytes(packed.read_bytes()[:-200])
    elif damage == "gone":
        packed.unlink()
    elif damage == "other":
        packed.write_bytes((tmp_path / "template.npz").read_bytes())
    else:
        with np.load(packed) as arrays:
            content = {**arrays, "bits": arrays["bits"][:-1]}
        np.savez(packed, **content)

    result = CliRunner().invoke(
        app, ["synthesize", "--out", str(tmp_path / "pool"), "--count", "1", "--lesion-maps", str(packed)]
    )

    assert result.exit_code == 1
    assert "lesion-maps.npz" in result.output
    assert "pack" in result.output
    assert not (tmp_path / "pool").exists()


def test_a_full_disk_is_named_and_leaves_what_was_there(tmp_path: Path) -> None:
    before = tmp_path / "template.npz"
    before.write_bytes(b"of before")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    # A real failure of write(2), as on a full disk.
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        result = CliRunner().invoke(app, ["pack", "--out", str(tmp_path)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    assert result.exit_code == 1
    assert "template.npz could not be written: File too large" in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["template.npz"]
    assert before.read_bytes() == b"of before"


def test_a_machine_without_nilearn_takes_the_packed_template(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = read_template()
    _pack("--out", tmp_path)
    monkeypatch.setitem(sys.modules, "nilearn", None)
    with pytest.raises(TrainingProblem, match=f"set {TEMPLATE_VARIABLE}"):
        read_template()
    monkeypatch.setenv(TEMPLATE_VARIABLE, str(tmp_path / "template.npz"))

    ours = read_template()

    assert ours.origin_mm == theirs.origin_mm
    for name in ("grey", "white", "t1"):
        assert getattr(ours, name).dtype == np.uint8
        assert np.array_equal(getattr(ours, name), getattr(theirs, name))


@pytest.mark.parametrize("content", [b"", b"no archive", None])
def test_a_template_that_cannot_be_read_is_named(
    content: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "template.npz"
    if content is not None:
        path.write_bytes(content)
    monkeypatch.setenv(TEMPLATE_VARIABLE, str(path))

    with pytest.raises(TrainingProblem, match=r"template\.npz.*cannot be read"):
        read_template()
