"""One plan behind every answer: what can change a probability changes the digest, the UIDs and the keys of the cache."""

from __future__ import annotations

import dataclasses
import shutil
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dicomnode.answer import SHIPPED_MODELS
from dicomnode.results.provenance import plan_provenance
from dicomnode.results.records import AnswerContext
from dicomnode.settings.config import parse_config
from pipeline.errors import BundleError
from pipeline.measure.regions.quadrics import QUADRICS
from pipeline.measure.regions.territories import TerritoryAtlas
from pipeline.plan import Recipe, make_plan
from pipeline.records import Plan
from pipeline.segmenters.ensemble.spec import choose_members
from pipeline.segmenters.families import find_bundle, load_bundle, read_manifest
from tests.factories.onnx import write_manifest
from tests.factories.results import Answered, answered_study

Key = tuple[str, ...]
NAMES = (
    "stroke-lesion-2mm",
    "stroke-lesion-ensemble",
    "stroke-lesion-proposal",
    "stroke-lesion-triplanar",
    "brain-extractor-3mm",
)
FREE_TABLES = ("training", "measured")
"""What a card reports: of these only `training.data` is read."""
CHOICES: Mapping[str, tuple[Any, ...]] = {
    "task": ("lesion", "brain"),
    "head": ("brain-extracted", "whole-head"),
    "resample": ("gaussian-linear", "linear", "nnunet"),
    "normalise": ("brain-median", "percentile", "z-score"),
    "bias_correction": ("n4", "none"),
    "reference": ("flair", "t1"),
    "aggregate": ("probabilities", "logits"),
    "activation": ("in-graph", "sigmoid", "softmax"),
    "rule": ("average", "vote"),
    "connectivity": (6, 26),
    "family": ("patch3d", "triplanar", "proposal3d", "ensemble"),
}
OPTIONAL: Mapping[Key, Any] = {
    ("preprocess", "bias_correction"): "none",
    ("preprocess", "reference"): "t1",
    ("window", "mirror_axes"): [2],
    ("output", "brain_margin_mm"): 3.0,
    ("output", "peak"): 0.77,
    ("output", "peaks"): {"flair": 0.66},
}


def leaves(tree: Mapping[str, Any], path: Key = ()) -> Iterator[tuple[Key, Any]]:
    """Every key with its value; tables before what is in them."""
    for name, value in tree.items():
        yield (*path, name), value
        if isinstance(value, dict):
            yield from leaves(value, (*path, name))


def others(key: Key, value: Any) -> Iterator[Any]:
    """Other values of the same type; some are refused, which is an answer too."""
    if key[-1] in CHOICES:
        yield from (choice for choice in CHOICES[key[-1]] if choice != value)
    elif isinstance(value, bool):
        yield not value
    elif isinstance(value, int):
        yield from (value + 1, value * 2 + 2)
    elif isinstance(value, float):
        yield from (value * 0.5, value * 0.9 + 0.05)
    elif isinstance(value, str):
        yield from (value + "x", f"{'0' if value[0] != '0' else '1'}{value[1:]}")
    elif isinstance(value, list):
        yield from (value[::-1], value[:-1])
        for number, item in enumerate(value):
            yield from (
                [*value[:number], other, *value[number + 1 :]] for other in others((*key, str(number)), item)
            )
    elif isinstance(value, dict):
        yield from ({name: item for name, item in value.items() if name != absent} for absent in value)


def changed(tree: Mapping[str, Any], key: Key, value: Any) -> dict[str, Any]:
    """A copy of the manifest with another value at one key."""
    first, *rest = key
    return {**tree, first: changed(tree.get(first, {}), tuple(rest), value) if rest else value}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped bundles, whose manifests may be written over."""
    folder = tmp_path_factory.mktemp("models")
    for source in SHIPPED_MODELS.glob("*/*/model.toml"):
        target = folder / source.parent.relative_to(SHIPPED_MODELS)
        target.mkdir(parents=True)
        shutil.copy(source, target)
        for graph in source.parent.glob("*.onnx"):
            (target / graph.name).symlink_to(graph)
    return folder


@pytest.fixture(scope="module")
def answered(tmp_path_factory: pytest.TempPathFactory) -> Answered:
    return answered_study(tmp_path_factory.mktemp("study"))


def recipe_of(models: Path, lesion: str = "stroke-lesion-2mm", **settings: Any) -> Recipe:
    return Recipe(find_bundle(models, lesion), find_bundle(models, "brain-extractor-3mm"), **settings)


def names_of(plan: Plan, answered: Answered) -> tuple[str, str, str]:
    """Whatever tells two answers of the same images apart: digest, SEG's UID, key of the inference."""
    context: AnswerContext = answered.context
    result = dataclasses.replace(answered.result, plan=plan)
    return plan.digest(), str(plan_provenance(context, result).uid("seg")), plan.digest("infer")


def mutants(values: Mapping[str, Any]) -> Iterator[tuple[Key, dict[str, Any]]]:
    """The manifest with each of its keys changed in turn, and with each optional key that it leaves out."""
    for key, value in leaves(values):
        yield from ((key, changed(values, key, other)) for other in others(key, value) if other != value)
    for key, value in OPTIONAL.items():
        if key[0] in values and key[1] not in values[key[0]]:
            yield key, changed(values, key, value)


@pytest.mark.parametrize("name", NAMES)
def test_every_key_of_a_shipped_manifest_is_in_the_plan_or_in_nobodys_hands(
    name: str, models: Path, answered: Answered
) -> None:
    folder = find_bundle(models, name).folder
    original = (folder / "model.toml").read_text()
    values = tomllib.loads(original)
    lesion = name if name != "brain-extractor-3mm" else "stroke-lesion-2mm"
    as_shipped, shipped_recipe = load_bundle(folder), recipe_of(models, lesion)
    before = make_plan(shipped_recipe, ("t1", "flair"))
    counted = {"accepted": 0, "refused": 0, "unread": 0}
    try:
        for key, mutant in mutants(values):
            write_manifest(folder, mutant)
            try:
                bundle = load_bundle(folder)
                recipe = dataclasses.replace(shipped_recipe, **{as_shipped.task: bundle})
                plan = make_plan(recipe, ("t1", "flair"))
            except BundleError:
                counted["refused"] += 1
                continue
            if key[0] in FREE_TABLES and key not in (("training",), ("training", "data")):
                # The program sees nothing of it: the records are equal.
                assert bundle == as_shipped
                counted["unread"] += 1
                continue
            if bundle == as_shipped:
                # Written otherwise, meant alike: a table whose key came out of a card, or one that equals its default.
                assert key[0] in FREE_TABLES, key
                continue
            counted["accepted"] += 1
            for one_name, other_name in zip(
                names_of(before, answered), names_of(plan, answered), strict=True
            ):
                assert one_name != other_name, key
    finally:
        (folder / "model.toml").write_text(original)
    assert counted["accepted"] > 15, counted
    assert counted["refused"] > 15, counted


@pytest.mark.parametrize("member", ["stroke-lesion-2mm", "stroke-lesion-triplanar"])
def test_a_key_of_a_members_manifest_is_in_the_ensembles_plan(
    member: str, models: Path, answered: Answered
) -> None:
    before = make_plan(recipe_of(models, "stroke-lesion-ensemble"), ("t1", "flair"))
    manifest = find_bundle(models, member).folder / "model.toml"
    original = manifest.read_text()
    try:
        for old, new in (
            ("step = 0.5", "step = 0.25"),
            ("clip = [0.0, 3.0]", "clip = [0.0, 4.0]"),
            ("connectivity = 26", "connectivity = 6"),
        ):
            assert old in original
            manifest.write_text(original.replace(old, new))
            after = make_plan(recipe_of(models, "stroke-lesion-ensemble"), ("t1", "flair"))
            assert set(names_of(before, answered)).isdisjoint(names_of(after, answered))
    finally:
        manifest.write_text(original)


@pytest.mark.parametrize("lesion", NAMES[:-1])
def test_bias_correction_gives_other_uids_in_every_family(
    lesion: str, models: Path, answered: Answered
) -> None:
    with_n4, without = (
        make_plan(recipe_of(models, lesion, bias_correction=on), ("t1", "flair")) for on in (True, False)
    )

    assert set(names_of(with_n4, answered)).isdisjoint(names_of(without, answered))
    assert all(member.bias_correction for member in (with_n4.lesion, *with_n4.lesion.members))
    assert not any(member.bias_correction for member in (without.lesion, *without.lesion.members))


def test_every_setting_but_the_cache_is_in_the_plan(models: Path, answered: Answered) -> None:
    recipe = recipe_of(models)
    before = names_of(make_plan(recipe, ("flair",)), answered)
    settings: dict[str, Any] = {
        "threshold": 0.33,
        "peak": 0.5,
        "minimum_volume_mm3": 7.0,
        "bias_correction": False,
        "provider": "cuda",
        "require_head": False,
        "threads": 7,
        "region_map": dataclasses.replace(QUADRICS, identity="another fit"),
        "territories": TerritoryAtlas(np.zeros((2, 2, 2), np.int64), np.eye(4), {}, "ab" * 32),
    }
    assert {field.name for field in dataclasses.fields(Recipe)} == {
        *settings,
        "lesion",
        "brain",
        "cache",
    }

    for name, value in settings.items():
        digest, uid, key = names_of(
            make_plan(dataclasses.replace(recipe, **{name: value}), ("flair",)), answered
        )
        assert (digest != before[0], uid != before[1]) == (True, True), name
        # A replay with another threshold finds the probability that is there.
        assert (key != before[2]) == (name in ("bias_correction", "provider", "threads")), name


def test_roles_and_a_role_left_out_are_in_the_plan(models: Path) -> None:
    recipe = recipe_of(models)
    plans = [make_plan(recipe, ("t1", "flair")), make_plan(recipe, ("flair",)), make_plan(recipe, ("t1",))]
    plans.append(make_plan(recipe, ("t1", "flair"), left_out=("t1",)))

    assert len({plan.digest() for plan in plans}) == 4
    assert [plan.roles for plan in plans] == [("flair", "t1"), ("flair",), ("t1",), ("flair",)]
    assert plans[3].left_out == ("t1",)
    assert plans[3].rule.threshold == recipe.lesion.output.thresholds["flair"]
    assert make_plan(recipe, ("flair", "t1")).digest() == plans[0].digest()


def test_the_stages_of_a_plan_build_on_each_other(models: Path) -> None:
    recipe = recipe_of(models)
    plan = make_plan(recipe, ("t1", "flair"))
    other_brain = dataclasses.replace(plan, brain=dataclasses.replace(plan.brain, threshold=0.4))
    other_lesion = dataclasses.replace(
        plan, lesion=dataclasses.replace(plan.lesion, manifest_sha256="0" * 64)
    )
    stages = ("brain", "register", "infer", "lesions")

    assert len({plan.digest(stage) for stage in stages}) == 4
    assert all(plan.digest(stage) != other_brain.digest(stage) for stage in stages)
    assert [plan.digest(stage) != other_lesion.digest(stage) for stage in stages] == [
        False,
        False,
        True,
        True,
    ]


def test_the_order_of_an_ensembles_members_counts(models: Path) -> None:
    """A mean of floats depends on it in the last bit."""
    folder = find_bundle(models, "stroke-lesion-ensemble").folder
    before = make_plan(recipe_of(models, "stroke-lesion-ensemble"), ("t1", "flair"))
    turned = dataclasses.replace(
        before, lesion=dataclasses.replace(before.lesion, members=before.lesion.members[::-1])
    )

    assert read_manifest(folder / "model.toml").family == "ensemble"
    assert turned.digest() != before.digest()


def test_the_default_says_how_often_it_is_right_wherever_the_planes_answer_alone() -> None:
    """An ensemble's own calibration counts: without one a certainty is the network's bare probability.

    What was fitted on the planes does not fit a mean with another network (docs/decisions/0006).
    """
    ensemble = find_bundle(SHIPPED_MODELS, parse_config({}).pipeline.lesion_model)
    asked = {channels: choose_members(ensemble, channels) for channels in ensemble.input.accepts}

    assert {channels: len(members) for channels, members in asked.items()} == {
        ("t1", "flair"): 2,
        ("t1",): 1,
        ("flair",): 1,
    }
    for channels in (("flair",), ("t1",)):
        (only,) = asked[channels]
        calibration = ensemble.output.calibration_for(channels)
        assert calibration == only.bundle.output.calibration_for(channels)
        assert (calibration is None) == (channels == ("t1",))
        threshold = ensemble.output.threshold_for(channels)
        assert threshold == only.threshold == only.bundle.output.threshold_for(channels)
    assert ensemble.output.calibration_for(("t1", "flair")) is None
