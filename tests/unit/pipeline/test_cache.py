"""What was computed once is found again, only for the same input, and never half."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipeline.cache import Entry, StepCache, make_key
from pipeline.plan import Recipe
from pipeline.preprocess import register
from pipeline.records import Volume
from pipeline.run import run_pipeline
from pipeline.segmenters import families
from pipeline.segmenters.patch3d import segment as patch3d
from tests.factories.onnx import known_lesion_bundle
from tests.factories.steps import logged
from tests.factories.volumes import FRAME, SAGITTAL, draw_head, grid_affine

KEY = "ab" * 32


@pytest.fixture
def cache(tmp_path: Path) -> StepCache:
    return StepCache(tmp_path / "cache", 10**8)


@pytest.fixture(scope="module")
def t1() -> Volume:
    return draw_head(
        (70, 64, 80), grid_affine((70, 64, 80), (2.2, 2.3, 2.3), directions=SAGITTAL), contrast="t1"
    )


def test_an_entry_comes_back_as_it_was(cache: StepCache) -> None:
    assert cache.find(KEY) is None
    cache.store(
        KEY, Entry({"mask": np.arange(6, dtype=np.uint16).reshape(2, 3)}, {"volume_ml": 1.5, "name": "flair"})
    )

    entry = cache.find(KEY)

    assert entry is not None
    assert entry.arrays["mask"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert entry.arrays["mask"].dtype == np.uint16
    assert entry.facts == {"volume_ml": 1.5, "name": "flair"}
    assert [path.suffix for path in cache.folder.iterdir()] == [".npz"]
    assert cache.folder.stat().st_mode & 0o077 == 0


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


def turn_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x40
    path.write_bytes(data)


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [cut, turn_a_bit, empty])
def test_a_damaged_entry_is_none_and_is_removed(cache: StepCache, damage: Callable[[Path], None]) -> None:
    cache.store(KEY, Entry({"mask": np.ones((40, 40))}))
    (path,) = cache.folder.iterdir()
    damage(path)

    assert cache.find(KEY) is None
    assert list(cache.folder.iterdir()) == []


def test_the_oldest_go_first_and_what_was_used_counts_as_new(cache: StepCache) -> None:
    small = dataclasses.replace(cache, limit_bytes=30_000)
    for number in range(3):
        small.store(f"{number}", Entry({"array": np.zeros(1000)}))
        os.utime(small.folder / f"{number}.npz", (number, number))
    assert small.find("0") is not None

    small.store("3", Entry({"array": np.zeros(1000)}))

    assert sorted(path.stem for path in small.folder.iterdir()) == ["0", "2", "3"]


def test_a_folder_that_cannot_be_written_costs_only_time(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")

    StepCache(tmp_path / "file", 1000).store(KEY, Entry({}))

    assert StepCache(tmp_path / "file", 1000).find(KEY) is None


def test_every_part_is_in_the_key(flair: Volume) -> None:
    moved = Volume(
        flair.array, flair.affine + np.eye(4)[:, [3, 0, 1, 2]] * 0.5 * (np.arange(4) < 3)[:, None], FRAME
    )
    other = flair.with_array(flair.array + np.float32(1))
    keys = [
        make_key("a", flair), make_key("b", flair), make_key("a", other), make_key("a", moved), make_key("a", flair, 1),
        make_key("a", flair, [1]), make_key("a", Volume(flair.array, flair.affine, "1.2")), make_key("a", flair.with_array(flair.array.astype(np.float64))),
    ]  # fmt: skip

    assert len(set(keys)) == len(keys)
    assert make_key("a", flair) == make_key(
        "a", Volume(flair.array.copy(order="F"), flair.affine.copy(), FRAME)
    )


def forbid(*_: object, **__: object) -> None:
    raise AssertionError("this was computed before")


@pytest.mark.slow
def test_a_replay_with_another_threshold_computes_nothing_slow(
    flair: Volume, t1: Volume, recipe: Recipe, cache: StepCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = {"t1": t1, "flair": flair}
    remembering = dataclasses.replace(recipe, cache=cache, bias_correction=True)
    plain = run_pipeline(inputs, dataclasses.replace(remembering, cache=None, threshold=0.8))  # type: ignore[arg-type]
    first = run_pipeline(inputs, remembering)  # type: ignore[arg-type]
    monkeypatch.setattr(patch3d, "infer", forbid)
    monkeypatch.setattr(register, "_optimise", forbid)

    again = run_pipeline(inputs, dataclasses.replace(remembering, threshold=0.8))  # type: ignore[arg-type]

    assert again.threshold == 0.8
    assert np.array_equal(again.probability.array, plain.probability.array)
    assert np.array_equal(again.labels.array, plain.labels.array)
    assert again.lesions == plain.lesions
    assert (
        [step.name for step in again.steps]
        == [step.name for step in plain.steps]
        == [step.name for step in first.steps]
    )
    assert {step.name for step in again.steps if step.cached} == {
        "resample",
        "correct_bias",
        "normalise",
        "infer",
    }
    assert logged(again, "correct_bias") == logged(plain, "correct_bias")
    assert np.array_equal(again.links["t1"], plain.links["t1"])
    assert logged(again, "register")["t1"]["cached"]
    assert not any(step.cached for step in first.steps)


def test_another_image_or_switch_is_computed(
    flair: Volume, recipe: Recipe, cache: StepCache, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    remembering = dataclasses.replace(recipe, cache=cache)
    run_pipeline({"flair": flair}, remembering)
    other = dataclasses.replace(remembering, lesion=known_lesion_bundle(tmp_path, window__step=0.7))
    calls: list[str] = []
    infer = patch3d.infer

    def count(bundle: object, *more: object) -> object:
        calls.append(str(getattr(bundle, "name", "")))
        return infer(bundle, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(patch3d, "infer", count)  # the brain
    row = dataclasses.replace(families.SEGMENTERS["patch3d"], infer=count)
    monkeypatch.setitem(families.SEGMENTERS, "patch3d", row)  # the lesions

    run_pipeline({"flair": flair}, remembering)
    assert calls == []
    run_pipeline({"flair": flair}, dataclasses.replace(remembering, bias_correction=True))
    assert calls == ["known-lesion"]
    run_pipeline({"flair": flair}, other)
    assert calls == ["known-lesion"] * 2
    run_pipeline({"flair": flair.with_array(flair.array * np.float32(1.01))}, remembering)
    assert calls == ["known-lesion", "known-lesion", "known-brain", "known-lesion"]
