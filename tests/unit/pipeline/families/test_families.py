"""Each family on a whole head, its networks of known answer: what is found, how far its parts agree, what is refused by which name."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from pipeline.bundles.bundle import verify_bundle
from pipeline.cache import StepCache
from pipeline.errors import BundleError
from pipeline.plan import Recipe
from pipeline.records import PipelineResult, Volume
from pipeline.run import run_pipeline
from pipeline.segmenters.families import find_bundle, list_bundles, load_bundle
from pipeline.segmenters.triplanar.segment import Crop, in_slices
from tests.factories.families import BRIGHT, NEVER, PROPOSAL, write_ensemble, write_proposal, write_triplanar
from tests.factories.onnx import known_lesion_bundle
from tests.factories.steps import logged


@pytest.fixture
def run(flair: Volume, recipe: Recipe) -> Any:
    def run_with(folder: Path, **changes: Any) -> PipelineResult:
        return run_pipeline(
            {"flair": flair}, dataclasses.replace(recipe, lesion=load_bundle(folder), **changes)
        )

    return run_with


def _dice(first: Volume, second: Volume) -> float:
    one, two = first.array > 0, second.array > 0
    return float(2 * (one & two).sum() / (one.sum() + two.sum()))


def _planes(axial: float, coronal: float, sagittal: float) -> dict[str, float]:
    return {"axial": axial, "coronal": coronal, "sagittal": sagittal}


def test_two_planes_of_three_decide_and_the_share_is_kept(
    run: Any, plain_result: PipelineResult, tmp_path: Path
) -> None:
    result = run(write_triplanar(tmp_path, _planes(BRIGHT, NEVER, BRIGHT)))

    assert np.array_equal(result.labels.array, plain_result.labels.array)
    assert result.agreement is not None
    share = result.agreement.array[result.labels.array > 0]
    assert share.max() == pytest.approx(2 / 3)
    assert share.mean() > 0.55
    assert result.models[0].family == "triplanar"


def test_one_plane_of_three_decides_nothing_but_is_seen(run: Any, tmp_path: Path) -> None:
    result = run(write_triplanar(tmp_path, _planes(NEVER, BRIGHT, NEVER)))

    assert result.lesions == ()
    assert result.agreement.array.max() == pytest.approx(1 / 3)


def test_a_plane_votes_at_its_own_threshold(run: Any, tmp_path: Path) -> None:
    """Two planes are too faint for the rim of the lesions; with their own threshold lowered they vote there too."""
    faint = _planes(BRIGHT + 0.55, BRIGHT + 0.55, NEVER)
    strict = dict.fromkeys(faint, 0.5)

    deaf = run(write_triplanar(tmp_path / "a", faint, triplanar={"thresholds": strict}))
    heard = run(
        write_triplanar(
            tmp_path / "b", faint, triplanar={"thresholds": {**strict, "axial": 0.1, "coronal": 0.1}}
        )
    )

    assert np.count_nonzero(heard.labels.array) > 1.3 * np.count_nonzero(deaf.labels.array)
    assert len(heard.lesions) == 2


@pytest.mark.parametrize(("proposal", "coarse"), [(BRIGHT, NEVER), (NEVER, BRIGHT), (BRIGHT, BRIGHT)])
def test_regions_hold_what_the_whole_brain_pass_finds(
    proposal: float, coarse: float, run: Any, plain_result: PipelineResult, tmp_path: Path
) -> None:
    result = run(write_proposal(tmp_path, proposal=proposal, coarse=coarse))

    if coarse == BRIGHT:
        assert _dice(result.labels, plain_result.labels) > 0.98
        assert len(result.lesions) == 2
    else:
        # Of a group of slices only the most frequent rectangle is looked at: by the published rule the second lesion is lost.
        assert len(result.lesions) == 1
    assert logged(result, "infer")["regions"] >= 1
    assert (logged(result, "infer")["groups"] > 0) == (proposal == BRIGHT)
    assert (logged(result, "infer")["coarse_regions"] > 0) == (coarse == BRIGHT)


def test_what_nothing_proposes_is_background(run: Any, tmp_path: Path) -> None:
    result = run(write_proposal(tmp_path, proposal=NEVER, coarse=NEVER))

    assert result.lesions == ()
    assert result.probability.array.max() == 0


def test_the_coarse_pass_can_be_switched_off(run: Any, tmp_path: Path) -> None:
    folder = write_proposal(tmp_path, proposal=NEVER, coarse=BRIGHT, proposal__coarse=False)

    assert run(folder).lesions == ()


def _members(models: Path, *, second: float) -> dict[str, str]:
    """Install one member that marks what is bright and a triplanar one that does so at `second`."""
    known_lesion_bundle(models)
    write_triplanar(models, _planes(second, second, second))
    return {f"{bundle.name}/{bundle.version}": bundle.sha256 for bundle in list_bundles(models)}


def test_an_ensemble_of_two_that_disagree(run: Any, tmp_path: Path) -> None:
    members = _members(tmp_path, second=NEVER)

    mean = run(write_ensemble(tmp_path, members))
    vote = run(write_ensemble(tmp_path, members, "vote", name="known-vote"))

    # The mean of p and 0 stays under 0.5; one voice of two is no majority; that one did speak is kept.
    assert mean.lesions == vote.lesions == ()
    assert mean.agreement.array.max() == vote.agreement.array.max() == pytest.approx(0.5)
    assert mean.probability.array.max() == pytest.approx(0.5, abs=0.05)
    assert vote.probability.array.max() < 0.01
    assert [step.name for step in mean.steps].count("infer") == 2


def test_an_ensemble_that_agrees_answers_as_its_members(
    run: Any, plain_result: PipelineResult, tmp_path: Path
) -> None:
    result = run(write_ensemble(tmp_path, _members(tmp_path, second=BRIGHT), "vote"))

    assert _dice(result.labels, plain_result.labels) > 0.99
    assert result.agreement.array.max() == 1


def test_a_member_speaks_at_its_own_threshold(run: Any, tmp_path: Path) -> None:
    """Both members cut at 0.25, where the dim rim of a lesion counts: the ensemble's 0.5 must mean that too."""
    lower: dict[str, Any] = {"output__threshold": 0.25, "output__thresholds": {}}
    known_lesion_bundle(tmp_path, **lower)
    planes = {"thresholds": {"axial": 0.25, "coronal": 0.25, "sagittal": 0.25}}
    write_triplanar(tmp_path, _planes(BRIGHT, BRIGHT, BRIGHT), triplanar=planes, **lower)
    members = {f"{bundle.name}/{bundle.version}": bundle.sha256 for bundle in list_bundles(tmp_path)}

    together, alone = run(write_ensemble(tmp_path, members, "vote")), run(tmp_path / "known-lesion" / "0.1.0")
    strict = run(tmp_path / "known-lesion" / "0.1.0", threshold=0.5)

    assert _dice(together.labels, alone.labels) > 0.98
    assert _dice(strict.labels, alone.labels) < 0.95


def test_an_ensemble_is_remembered_until_a_member_cuts_elsewhere(run: Any, tmp_path: Path) -> None:
    cache = StepCache(tmp_path / "cache", 10**9)
    members = _members(tmp_path, second=BRIGHT)
    folder = write_ensemble(tmp_path, members)

    first, second = (run(folder, cache=cache) for _ in range(2))
    manifest = tmp_path / "known-lesion" / "0.1.0" / "model.toml"
    manifest.write_text(
        manifest.read_text()
        .replace('"threshold" = 0.5', '"threshold" = 0.25')
        .replace('"thresholds"', '"brain_margin_mm" = 0.0\n#')
    )
    third = run(folder, cache=cache)

    assert not any(step.cached for step in first.steps)
    assert [step.name for step in second.steps if step.cached].count("infer") == 2
    assert np.array_equal(first.probability.array, second.probability.array)
    assert not any(step.cached for step in third.steps if step.name == "infer")
    assert (third.probability.array > first.probability.array).any()


def test_every_family_is_verified_graph_by_graph(tmp_path: Path) -> None:
    members = _members(tmp_path, second=BRIGHT)
    write_proposal(tmp_path, proposal=BRIGHT, coarse=BRIGHT)
    write_ensemble(tmp_path, members)

    for bundle in list_bundles(tmp_path):
        verify_bundle(bundle)


def _refusal(folder: Path) -> BundleError:
    with pytest.raises(BundleError) as caught:
        verify_bundle(load_bundle(folder))
    return caught.value


def test_a_missing_plane_is_refused_by_name(tmp_path: Path) -> None:
    problem = _refusal(write_triplanar(tmp_path, {"axial": BRIGHT, "coronal": BRIGHT}))

    assert problem.code == "model-manifest-invalid"
    assert "model-sagittal.onnx" in str(problem)


def test_a_plane_file_that_is_gone_or_altered_is_refused(tmp_path: Path) -> None:
    folder = write_triplanar(tmp_path, _planes(BRIGHT, BRIGHT, BRIGHT))
    sagittal = folder / "model-sagittal.onnx"
    sagittal.write_bytes(sagittal.read_bytes() + b"\0")
    assert _refusal(folder).code == "model-altered"
    sagittal.unlink()
    assert _refusal(folder).code == "model-missing"


def test_a_graph_of_other_channels_than_the_manifest_is_refused(tmp_path: Path) -> None:
    folder = write_triplanar(
        tmp_path,
        _planes(BRIGHT, BRIGHT, BRIGHT),
        input__channels=["flair"],
        input__accepts=[["flair"]],
        output__thresholds={},
    )

    problem = _refusal(folder)

    assert problem.code == "model-graph-mismatch"
    assert "[1, 1, 80, 96, 80]" in str(problem)


@pytest.mark.parametrize(
    ("table", "key"),
    [
        ({**PROPOSAL, "patch": [80, 96]}, "proposal.patch"),
        ({**PROPOSAL, "threshold": 1}, "proposal.threshold"),
        ({**PROPOSAL, "smallest_pixels": 0}, "proposal.smallest_pixels"),
        ({**PROPOSAL, "coarse": "yes"}, "proposal.coarse"),
        ({**PROPOSAL, "colour": 1}, "proposal.colour"),
        ({key: value for key, value in PROPOSAL.items() if key != "head_iou"}, "proposal.head_iou"),
    ],
)
def test_a_wrong_table_names_its_key(table: dict[str, Any], key: str, tmp_path: Path) -> None:
    folder = write_triplanar(tmp_path, _planes(BRIGHT, BRIGHT, BRIGHT), family="proposal3d", proposal=table)
    manifest = folder / "model.toml"
    lines = manifest.read_text().splitlines()
    at = lines.index("[triplanar]")
    manifest.write_text("\n".join(lines[:at] + lines[at + 2 :]))

    assert f": {key}: " in str(_refusal(folder))


def test_a_table_of_another_family_is_refused(tmp_path: Path) -> None:
    assert "belong together" in str(
        _refusal(write_triplanar(tmp_path, _planes(BRIGHT, BRIGHT, BRIGHT), proposal=dict(PROPOSAL)))
    )


@pytest.mark.parametrize(
    ("changes", "code", "word"),
    [
        ({"known-gone/0.1.0": "0" * 64}, "model-missing", "known-gone/0.1.0"),
        ({"known-lesion/0.1.0": "0" * 64}, "model-altered", "known-lesion/0.1.0"),
        ({"../escape/0.1.0": "0" * 64}, "model-manifest-invalid", "ensemble.members"),
    ],
)
def test_members_that_are_not_as_named_are_refused(
    changes: dict[str, str], code: str, word: str, tmp_path: Path
) -> None:
    problem = _refusal(write_ensemble(tmp_path, {**_members(tmp_path, second=BRIGHT), **changes}))

    assert problem.code == code
    assert word in str(problem)


def _members_by_input(models: Path, *, flair: float) -> dict[str, str]:
    """Install a member for a FLAIR alone, and one that takes everything and marks nothing."""
    write_triplanar(
        models,
        _planes(flair, flair, flair),
        name="known-flair",
        input__accepts=[["flair"]],
        output__thresholds={},
    )
    write_triplanar(models, _planes(NEVER, NEVER, NEVER), name="known-rest")
    bundles = [find_bundle(models, name) for name in ("known-flair", "known-rest")]
    return {f"{bundle.name}/{bundle.version}": bundle.sha256 for bundle in bundles}


def test_what_no_member_was_trained_for_is_refused(tmp_path: Path) -> None:
    known_lesion_bundle(
        tmp_path,
        name="known-flair",
        input__channels=["flair"],
        input__accepts=[["flair"]],
        output__thresholds={},
    )
    known_lesion_bundle(
        tmp_path,
        name="known-too",
        input__channels=["flair"],
        input__accepts=[["flair"]],
        output__thresholds={},
    )
    members = {f"{bundle.name}/{bundle.version}": bundle.sha256 for bundle in list_bundles(tmp_path)}

    problem = _refusal(write_ensemble(tmp_path, members))

    assert "none of the members that it asks was trained for t1+flair" in str(problem)
    # What all of them were trained for is fine.
    verify_bundle(
        load_bundle(
            write_ensemble(
                tmp_path, members, name="known-both", input__accepts=[["flair"]], output__thresholds={}
            )
        )
    )


@pytest.mark.parametrize("rule", ["average", "vote", "first"])
def test_a_member_that_was_not_trained_for_the_images_is_not_asked(
    rule: str, flair: Volume, recipe: Recipe, tmp_path: Path
) -> None:
    """A T1 alone is answered by the member that takes one, which finds nothing; the FLAIR's own member would find it all."""
    ensemble = load_bundle(write_ensemble(tmp_path, _members_by_input(tmp_path, flair=BRIGHT), rule))

    result = run_pipeline({"t1": flair}, dataclasses.replace(recipe, lesion=ensemble))

    assert result.lesions == ()
    assert logged(result, "combine_members")["members"] == ["known-rest/0.1.0"]


def test_a_member_is_asked_only_for_the_images_that_the_table_names(
    run: Any, plain_result: PipelineResult, tmp_path: Path
) -> None:
    """The planes would find nothing and halve the mean; they are asked about a T1 alone."""
    members = _members(tmp_path, second=NEVER)
    asked = {"known-planes/0.1.0": {"t1": 0.5}}

    result = run(write_ensemble(tmp_path, members, asked=asked))

    assert _dice(result.labels, plain_result.labels) > 0.99
    assert logged(result, "combine_members")["members"] == ["known-lesion/0.1.0"]
    # One voice agrees with nobody.
    assert result.agreement is None


def test_the_table_says_what_of_a_member_counts_as_the_threshold(run: Any, tmp_path: Path) -> None:
    """The member's own threshold is 0.5; what it gives 0.2 counts as lesion, which takes the dim rims in."""
    members = _members(tmp_path, second=BRIGHT)
    at = {name: {"flair": 0.2, "t1": 0.2, "t1+flair": 0.2} for name in members}

    own = run(write_ensemble(tmp_path, members))
    lower = run(write_ensemble(tmp_path, members, asked=at, name="known-lower"))

    assert np.count_nonzero(lower.labels.array) > 1.1 * np.count_nonzero(own.labels.array)
    assert lower.probability.array.max() <= 1


def test_images_that_no_member_is_asked_about_are_refused(tmp_path: Path) -> None:
    members = _members(tmp_path, second=BRIGHT)
    asked = {name: {"flair": 0.5} for name in members}

    assert "none of the members that it asks was trained for" in str(
        _refusal(write_ensemble(tmp_path, members, asked=asked))
    )


@pytest.mark.parametrize(
    ("asked", "key"),
    [
        ({"known-other/0.1.0": {"flair": 0.5}}, "ensemble.asked.known-other/0.1.0"),
        ({"known-planes/0.1.0": {"t2": 0.5}}, "ensemble.asked.known-planes/0.1.0"),
        ({"known-planes/0.1.0": {"flair+": 0.5}}, "ensemble.asked.known-planes/0.1.0"),
        ({"known-planes/0.1.0": {"flair+flair": 0.5}}, "ensemble.asked.known-planes/0.1.0"),
        ({"known-planes/0.1.0": {"flair": 1.0}}, "ensemble.asked.known-planes/0.1.0"),
        ({"known-planes/0.1.0": {"flair": 0}}, "ensemble.asked.known-planes/0.1.0"),
        ({"known-planes/0.1.0": {"flair": "0.5"}}, "ensemble.asked.known-planes/0.1.0"),
        ({"known-planes/0.1.0": {}}, "ensemble.asked.known-planes/0.1.0"),
        ({"known-planes/0.1.0": 0.5}, "ensemble.asked.known-planes/0.1.0"),
    ],
)
def test_a_wrong_table_of_who_is_asked_names_its_key(asked: dict[str, Any], key: str, tmp_path: Path) -> None:
    problem = _refusal(write_ensemble(tmp_path, _members(tmp_path, second=BRIGHT), asked=asked))

    assert problem.code == "model-manifest-invalid"
    assert f": {key}: " in str(problem)


def test_the_first_fitting_member_answers_alone(
    run: Any, plain_result: PipelineResult, tmp_path: Path
) -> None:
    result = run(write_ensemble(tmp_path, _members_by_input(tmp_path, flair=BRIGHT), "first"))

    assert len(result.lesions) == len(plain_result.lesions) > 0
    assert logged(result, "combine_members")["members"] == ["known-flair/0.1.0"]


def test_who_answers_alone_keeps_its_own_agreement(flair: Volume, recipe: Recipe, tmp_path: Path) -> None:
    """Two of its three planes call the lesions; a member alone would always agree with itself."""
    write_triplanar(
        tmp_path,
        _planes(BRIGHT, BRIGHT, NEVER),
        name="known-flair",
        input__accepts=[["flair"]],
        output__thresholds={},
    )
    known_lesion_bundle(tmp_path, name="known-rest")
    bundles = [find_bundle(tmp_path, name) for name in ("known-flair", "known-rest")]
    members = {f"{bundle.name}/{bundle.version}": bundle.sha256 for bundle in bundles}
    asked = dataclasses.replace(recipe, lesion=load_bundle(write_ensemble(tmp_path, members, "first")))

    by_planes, by_one_pass = run_pipeline({"flair": flair}, asked), run_pipeline({"t1": flair}, asked)

    assert by_planes.agreement is not None
    inside = by_planes.agreement.array[by_planes.labels.array > 0]
    assert inside.max() == pytest.approx(2 / 3)
    assert len(by_planes.lesions) > 0
    for lesion in by_planes.lesions:
        assert lesion.mean_agreement is not None
        assert 0.5 < lesion.mean_agreement <= 2 / 3 + 1e-6
    # A network that answers once agrees with nobody.
    assert by_one_pass.agreement is None


def test_the_mean_of_three_planes(run: Any, tmp_path: Path) -> None:
    """Two planes that are all but sure and one that is silent: two of three votes, and a mean above a half."""
    table = {"thresholds": _planes(0.5, 0.5, 0.5), "rule": "average"}

    mean = run(write_triplanar(tmp_path / "a", _planes(BRIGHT, BRIGHT, NEVER), triplanar=table))
    alone = run(write_triplanar(tmp_path / "b", _planes(BRIGHT, NEVER, NEVER), triplanar=table))

    assert len(mean.lesions) == 2
    assert alone.lesions == ()


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_a_plane_cut_into_slices_answers_as_the_whole(axis: int, count: int) -> None:
    """A network of single slices gives the same however many it takes at once; slices of zeros are not asked about."""
    patch = np.random.default_rng(1).normal(size=(2, 5, 7, 6)).astype(np.float32)
    np.moveaxis(patch, axis + 1, 0)[:2] = 0.0
    asked: list[int] = []

    def network(part: np.ndarray) -> np.ndarray:
        asked.append(part.shape[axis + 1])
        return np.abs(part).sum(axis=0, keepdims=True)

    answer = in_slices(network, axis, count, skip_empty=True)(patch)

    assert np.array_equal(answer, np.abs(patch).sum(axis=0, keepdims=True))
    assert set(asked) == {count}
    assert len(asked) == -(-patch.shape[axis + 1] // count) - 2 // count


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("length", [1, 6, 7, 8, 9])
def test_slices_between_those_that_are_asked_about_are_interpolated(
    axis: int, stride: int, length: int
) -> None:
    shape = [2, 4, 5, 6]
    shape[axis + 1] = length
    patch = np.random.default_rng(2).uniform(0.1, 1.0, shape).astype(np.float32)

    answer = in_slices(lambda part: part[:1] * 2, axis, 2, skip_empty=True, stride=stride)(patch)

    known = np.arange(0, length, stride)
    lines = np.moveaxis(2 * patch[0], axis, 0).reshape(length, -1)
    expected = np.stack([np.interp(np.arange(length), known, line[known]) for line in lines.T], axis=1)
    assert np.moveaxis(answer[0], axis, 0).reshape(length, -1) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("seed", range(12))
def test_a_crop_holds_the_image_and_a_margin(seed: int) -> None:
    """A network whose answer reaches 3 voxels far answers the same on a crop with a margin of 3 voxels."""
    generator = np.random.default_rng(seed)
    axis, size = seed % 3, [int(length) for length in generator.integers(20, 50, 3)]
    patch = np.zeros((2, *size), np.float32)
    low = generator.integers(0, [length - 4 for length in size])
    high = [int(generator.integers(first + 1, length + 1)) for first, length in zip(low, size, strict=True)]
    box = tuple(slice(int(first), last) for first, last in zip(low, high, strict=True))
    patch[(slice(None), *box)] = generator.uniform(0.5, 1.0, patch[(slice(None), *box)].shape)
    shown: list[tuple[int, ...]] = []

    def network(part: np.ndarray) -> np.ndarray:
        shown.append(tuple(length for number, length in enumerate(part.shape[1:]) if number != axis))
        reach = [1 if number == axis else 7 for number in range(3)]
        return ndimage.maximum_filter(part[:1], (1, *reach), mode="constant")

    whole = network(patch)
    shown.clear()
    answer = in_slices(network, axis, 2, skip_empty=True, crop=Crop(multiple=8, margin=3))(patch)

    assert np.array_equal(answer, whole)
    sides = [length for number, length in enumerate(size) if number != axis]
    assert all(
        length % 8 == 0 or length == side
        for sizes in shown
        for length, side in zip(sizes, sides, strict=True)
    )


@pytest.mark.parametrize(
    ("key", "value"), [("stride", 0), ("stride", 5), ("multiple", -1), ("margin", -8), ("multiple", 16)]
)
def test_a_crop_or_stride_that_cannot_be_is_refused(tmp_path: Path, key: str, value: int) -> None:
    table = {"thresholds": _planes(0.5, 0.5, 0.5), key: value}

    assert f"triplanar.{key}" in str(
        _refusal(write_triplanar(tmp_path, _planes(BRIGHT, BRIGHT, BRIGHT), triplanar=table))
    )


def test_a_rule_that_is_not_known_is_refused(tmp_path: Path) -> None:
    table = {"thresholds": _planes(0.5, 0.5, 0.5), "rule": "loudest"}

    assert "triplanar.rule" in str(
        _refusal(write_triplanar(tmp_path, _planes(BRIGHT, BRIGHT, BRIGHT), triplanar=table))
    )


def test_what_a_network_was_trained_on_is_its_statement(tmp_path: Path) -> None:
    plain = load_bundle(write_triplanar(tmp_path / "a", _planes(BRIGHT, BRIGHT, BRIGHT)))
    statement = "Trained on 7 real FLAIR slices. For research use; not for diagnosis."
    words = {"trained_on": "7 real FLAIR slices"}
    real = load_bundle(
        write_triplanar(tmp_path / "b", _planes(BRIGHT, BRIGHT, BRIGHT), statement=statement, **words)
    )

    assert plain.trained_on == ""
    assert real.identity.statement == statement
    assert "as trained_on has it" in str(
        _refusal(write_triplanar(tmp_path / "c", _planes(BRIGHT, BRIGHT, BRIGHT), **words))
    )


def test_an_ensemble_of_ensembles_is_refused(tmp_path: Path) -> None:
    members = _members(tmp_path, second=BRIGHT)
    write_ensemble(tmp_path, members)
    inner = find_bundle(tmp_path, "known-ensemble")

    problem = _refusal(
        write_ensemble(tmp_path, {**members, "known-ensemble/0.1.0": inner.sha256}, name="known-outer")
    )

    assert "is an ensemble itself" in str(problem)
