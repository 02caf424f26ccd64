"""A T1 that ends below the FLAIR: what only the FLAIR shows is answered from the FLAIR, and said so."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.bundles.bundle import Bundle
from pipeline.geometry import grid_of
from pipeline.journal import Journal
from pipeline.postprocess.components import apply_peak
from pipeline.preprocess.extract_brain import apply_brain_threshold
from pipeline.records import Volume
from pipeline.segmenters import coverage
from pipeline.segmenters.case import Answer, Case, Channels
from pipeline.segmenters.coverage import answer_uncovered, choose_peaks, find_uncovered
from tests.factories.onnx import known_lesion_bundle
from tests.factories.volumes import AXIAL, draw_head, grid_affine, rotation

SHAPE, SPACING = (44, 84, 70), (3.4, 2.2, 2.2)
CUT = 9
"""Slices that the T1 lacks at its lower end."""


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    both = known_lesion_bundle(
        tmp_path, input__channels=["t1", "flair"], input__accepts=[["t1", "flair"], ["flair"], ["t1"]]
    )
    assert both.takes(["flair"])
    return both


@pytest.fixture(scope="module")
def flair() -> Volume:
    return draw_head(SHAPE, grid_affine(SHAPE, SPACING, directions=AXIAL))


def _case(flair: Volume, cut: int) -> Case:
    lower = flair.affine.copy()
    lower[:3, 3] += cut * flair.affine[:3, 0]
    t1 = replace(flair, array=flair.array[cut:], affine=lower)
    brain = apply_brain_threshold(
        flair.with_array((flair.array > 0.25 * flair.array.max()).astype(np.float32)), 0.5
    )
    return Case({"flair": flair, "t1": t1}, {}, brain, grid_of(flair))


def _channels(flair: Volume, cut: int) -> Channels:
    t1 = flair.array.copy()
    t1[:cut] = 0.0
    return Channels(np.stack([t1, flair.array]).astype(np.float32), grid_of(flair))


def _dark_is_cavity(channels: Channels) -> Answer:
    """A network that takes darkness on T1 for a cavity, unless there is no T1 at all."""
    t1 = channels.array[0]
    found = np.where(t1 == 0, 0.9, 0.1) if t1.any() else np.full(t1.shape, 0.2)
    return Answer(channels.grid.fill(found.astype(np.float32)))


def _ask(bundle: Bundle, flair: Volume, cut: int) -> tuple[Answer, Journal]:
    channels, journal = _channels(flair, cut), Journal()
    return answer_uncovered(
        bundle, _case(flair, cut), channels, _dark_is_cavity(channels), _dark_is_cavity, journal
    ), journal


def test_what_the_t1_does_not_reach_is_answered_from_the_flair(bundle: Bundle, flair: Volume) -> None:
    answer, journal = _ask(bundle, flair, CUT)

    brain = _case(flair, CUT).brain.mask.array > 0
    assert brain[:CUT].any()
    assert np.allclose(answer.probability.array[:CUT][brain[:CUT]], 0.2)
    assert np.allclose(answer.probability.array[CUT + 1 :][brain[CUT + 1 :]], 0.1)
    assert [step.name for step in journal.steps] == ["infer_uncovered"]
    (finding,) = journal.findings
    assert (finding.code, finding.grade) == ("part-not-covered", "warning")
    assert "outside the T1; there the result rests on the FLAIR alone" in finding.message


def test_nothing_is_asked_twice_where_both_images_reach(bundle: Bundle, flair: Volume) -> None:
    answer, journal = _ask(bundle, flair, 0)

    assert journal.steps == []
    assert journal.findings == []
    assert float(answer.probability.array.max()) == pytest.approx(0.9)


def test_a_network_that_needs_both_keeps_its_answer_and_says_so(bundle: Bundle, flair: Volume) -> None:
    needs_both = replace(bundle, input=replace(bundle.input, accepts=(("t1", "flair"),)))

    answer, journal = _ask(needs_both, flair, CUT)

    assert float(answer.probability.array[:CUT].max()) == pytest.approx(0.9)
    (finding,) = journal.findings
    assert "cannot do without it there" in finding.message


def test_a_lesion_must_reach_the_peak_of_the_images_that_it_was_answered_from(
    tmp_path: Path, flair: Volume
) -> None:
    bundle = known_lesion_bundle(tmp_path, output__peaks={"t1+flair": 0.9, "flair": 0.3})
    case, grid = _case(flair, CUT), grid_of(flair)
    brain = case.brain.mask.array > 0

    peaks = choose_peaks(bundle, case, grid)

    assert isinstance(peaks, np.ndarray)
    assert np.allclose(peaks[:CUT][brain[:CUT]], 0.3)
    assert np.allclose(peaks[CUT + 1 :], 0.9)
    # The same faint piece below and above the T1's end: only the FLAIR's answer may be this faint.
    probability = np.zeros(grid.shape, np.float32)
    low, high = np.argwhere(brain[: CUT - 1])[-1], np.argwhere(brain)[len(np.argwhere(brain)) // 2]
    probability[tuple(low)] = probability[tuple(high)] = 0.5
    kept, dropped = apply_peak(probability, 0.1, peaks, 26)
    assert (kept[tuple(low)], kept[tuple(high)], dropped) == (0.5, 0.0, 1)
    assert choose_peaks(bundle, _case(flair, 0), grid) == 0.9
    assert (
        choose_peaks(replace(bundle, input=replace(bundle.input, accepts=(("t1", "flair"),))), case, grid)
        == 0.9
    )


@pytest.mark.parametrize("seed", range(60))
def test_a_look_at_the_corners_spares_no_voxel_that_counts(
    bundle: Bundle, flair: Volume, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """T1s of all sizes, turned and moved by a link: what is found is what a look at every voxel finds."""
    random = np.random.default_rng(seed)
    shape = tuple(random.integers(20, 120, 3).tolist())
    directions = np.array(AXIAL) @ rotation(tuple(random.uniform(-1, 1, 3)), random.uniform(0, 30)).T
    t1 = Volume(
        np.zeros(shape, np.float32),
        grid_affine(shape, random.uniform(1.0, 4.0, 3), directions=directions),
        "1.2",
    )
    link = np.eye(4)
    link[:3, 3] = random.uniform(-15, 15, 3)
    case = replace(_case(flair, 0), images={"flair": flair, "t1": t1}, links={"t1": link})
    grid = grid_of(flair)

    quick = find_uncovered(bundle, case, grid)
    monkeypatch.setattr(coverage, "_holds_brain", lambda *_: False)
    thorough = find_uncovered(bundle, case, grid)

    assert [part.share for part in quick] == [part.share for part in thorough]
    for one, other in zip(quick, thorough, strict=True):
        assert np.array_equal(one.missing, other.missing)


def test_the_corners_decide_where_the_t1_shows_the_whole_head(flair: Volume) -> None:
    large = (90, 160, 160)
    t1 = Volume(np.zeros(large, np.float32), grid_affine(large, (2.2, 2.2, 2.2), directions=AXIAL), "1.2")
    case = replace(_case(flair, 0), images={"flair": flair, "t1": t1})

    assert coverage._holds_brain(case, "t1")
    assert not coverage._holds_brain(_case(flair, CUT), "t1")
