"""Concatenations (PS3.3 C.7.6.16.2.2.4) and several stacks in one multi-frame instance become the volumes that were painted."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset

from dicomnode.records import IndexedInstance, Series, Study
from dicomnode.settings.study import SelectionSettings
from dicomnode.simulator.author import write_series
from dicomnode.study.assembly import assemble, series_completeness
from dicomnode.study.checks import check_series
from dicomnode.study.headers import read_header
from dicomnode.study.selection import select_series
from dicomnode.volumes.load import load_volume
from tests.factories.concatenations import cut, put_together
from tests.factories.dicom import PhantomSeries, phantom_series
from tests.unit.volumes.test_load_volume import assert_same_in_patient

SHAPE = (24, 20, 20)
SAME: dict[str, Any] = {
    "shape": SHAPE,
    "spacing_mm": (7.0, 8.0, 8.0),
    "study_uid": "1.2.3",
    "frame_of_reference_uid": "1.2.9",
    "multiframe": True,
}
PLANES = ("axial", "sagittal", "coronal")


def read(instances: Sequence[Dataset], folder: Path) -> tuple[Series, ...]:
    paths = write_series(instances, folder)
    indexed = [IndexedInstance(path.relative_to(folder).as_posix(), 0.0, read_header(path)) for path in paths]
    return assemble("1.2.3", indexed).series


def some_counts(draw: random.Random, frames: int) -> list[int]:
    edges = sorted(draw.sample(range(1, frames), draw.randint(1, 5)))
    return [after - before for before, after in zip([0, *edges], [*edges, frames], strict=True)]


def painted(draw: random.Random, plane: str) -> PhantomSeries:
    phantom = phantom_series("flair", **SAME, plane=plane, tilt_deg=draw.choice([0.0, 12.0]))
    phantom.instances[0].SeriesInstanceUID = "1.2.3.4"
    return phantom


@pytest.mark.parametrize("seed", range(3))
def test_a_concatenation_is_one_volume_in_whatever_order_it_came(tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    phantom = painted(draw, PLANES[seed % 3])
    parts = cut(phantom.instances[0], some_counts(draw, SHAPE[0]))
    draw.shuffle(parts)

    (series,) = read(parts, tmp_path)

    volume, source, findings = load_volume(series, "flair", tmp_path, tmp_path)
    assert findings == ()
    assert_same_in_patient(phantom, volume)
    assert len({(frame.SOPInstanceUID, frame.frame_number) for frame in source.frames}) == SHAPE[0]
    verdict = series_completeness(series)
    assert (verdict.complete, verdict.findings) == (True, ())


@pytest.mark.parametrize("says_how_many", [True, False])
@pytest.mark.parametrize(
    ("absent", "code"),
    [(0, "instances-missing"), (2, "instances-missing"), (1, "missing-slices")],
    ids=["first", "last", "inner"],
)
def test_a_part_that_did_not_come_is_waited_for_and_said(
    tmp_path: Path, absent: int, code: str, says_how_many: bool
) -> None:
    (whole,) = phantom_series("flair", **SAME).instances
    parts = cut(whole, [3, 2, SHAPE[0] - 5] if absent == 0 else [SHAPE[0] - 5, 2, 3])
    for part in parts:
        if not says_how_many:
            del part.InConcatenationTotalNumber
    del parts[absent]

    (series,) = read(parts, tmp_path)

    verdict = series_completeness(series)
    assert not verdict.complete
    codes = [finding.code for finding in check_series(series, "flair", SelectionSettings())]
    # Without a total, nobody can know that the last one is missing; then the quiet time decides.
    assert (code in codes) == (says_how_many or absent != 2)
    assert codes or "no header says how many" in verdict.reason


@pytest.mark.parametrize("seed", range(2))
def test_several_stacks_in_one_instance_are_split_and_the_choice_says_which_was_used(
    tmp_path: Path, seed: int
) -> None:
    draw = random.Random(seed)
    planes = ["axial", draw.choice(PLANES[1:])]
    draw.shuffle(planes)
    phantoms = [painted(draw, plane) for plane in planes]
    both = put_together(*(phantom.instances[0] for phantom in phantoms))
    # A scanner may write such an object as a concatenation, whose cut need not lie between the stacks.
    instances = cut(both, some_counts(draw, 2 * SHAPE[0])) if seed % 2 else [both]

    stacks = read(instances, tmp_path)

    assert [stack.stack_number for stack in stacks] == [1, 2]
    for stack, phantom in zip(stacks, phantoms, strict=True):
        folder = tmp_path / str(stack.stack_number)
        folder.mkdir()
        volume, _source, findings = load_volume(stack, "flair", tmp_path, folder)
        assert findings == ()
        assert_same_in_patient(phantom, volume)
    selection = select_series(Study("1.2.3", stacks), SelectionSettings())
    assert list(selection.by_role) == ["flair"], selection.sentences()
    number = selection.by_role["flair"].series.stack_number
    assert planes[number - 1] == "axial"
    used, *others = selection.sentences()
    assert used.startswith(f'Used as FLAIR: stack {number} of series 1 "')
    assert [sentence.split(" of ")[0] for sentence in others] == [f"Not used: stack {3 - number}"]
    assert {row["stack_number"] for row in selection.record()} == {1, 2}


def test_a_part_that_claims_billions_of_others_costs_nothing(tmp_path: Path) -> None:
    (whole,) = phantom_series("flair", **SAME).instances
    (only,) = cut(whole, [SHAPE[0]])
    only.InConcatenationTotalNumber = 65535
    (series,) = read([only], tmp_path)
    assert not series_completeness(series).complete
