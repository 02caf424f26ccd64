"""`make_plan`: one frozen record of all that an answer depends on besides the voxels.

It is made before anything is computed.

Rules for this file:
1. UIDs of results, keys of the cache, "is finished" and what reports say of the algorithm come from the plan
   and from nothing else.
2. A setting that changes an answer has its place here; `run.py` reads no setting past the plan.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from pipeline.bundles.bundle import Bundle
from pipeline.cache import StepCache
from pipeline.errors import BundleError
from pipeline.measure.regions.choice import choose_region_map
from pipeline.measure.regions.region_map import RegionMap
from pipeline.measure.regions.territories import TerritoryAtlas
from pipeline.records import Calibration, LesionRule, NetworkPlan, Plan, Role

ALGORITHM = 3
"""Raise it when the program computes something else from the same plan and the same images."""


@dataclass(frozen=True)
class Recipe:
    """Which networks, and what overrides their manifests (None: the manifest's word).

    `require_head` refuses what does not look like a head; off only for made-up volumes. `region_map` names
    the regions of the brain (None: the one that is installed), `territories` is the site's own atlas.
    """

    lesion: Bundle
    brain: Bundle
    threshold: float | None = None
    peak: float | None = None
    minimum_volume_mm3: float | None = None
    bias_correction: bool = True
    threads: int = 1
    provider: str = "cpu"
    cache: StepCache | None = None
    require_head: bool = True
    region_map: RegionMap | None = None
    territories: TerritoryAtlas | None = None


def make_plan(recipe: Recipe, inputs: Collection[Role], left_out: Collection[Role] = ()) -> Plan:
    """Return the plan for a case that has images of these roles.

    Parameters
    ----------
    left_out
        Roles of `inputs` that could not be brought onto the reference.

    Raises
    ------
    BundleError
        A bundle is for another task, or the network was not trained for these roles.
    """
    for bundle, task in ((recipe.lesion, "lesion"), (recipe.brain, "brain")):
        if bundle.task != task:
            raise BundleError(
                f"{bundle.name} is for the task {bundle.task!r}, not {task!r}", code="model-wrong-task"
            )
    channels = recipe.lesion.choose_channels([role for role in inputs if role not in left_out])
    reference = recipe.lesion.preprocess.reference
    roles = tuple(
        sorted((role for role in inputs if role in channels), key=lambda role: (role != reference, role))
    )
    rule = _plan_rule(recipe, channels)
    lesion = plan_network(
        recipe.lesion,
        channels,
        threshold=rule.threshold,
        bias_correction=recipe.bias_correction,
        threads=recipe.threads,
        provider=recipe.provider,
    )
    return Plan(
        algorithm=ALGORITHM,
        brain=plan_brain(recipe),
        lesion=lesion,
        rule=rule,
        roles=roles,
        left_out=tuple(sorted(role for role in inputs if role not in roles)),
        require_head=recipe.require_head,
        region_map=(recipe.region_map or choose_region_map()).identity,
        territories="" if recipe.territories is None else recipe.territories.sha256,
        calibration=_plan_calibration(recipe, channels, rule),
    )


def plan_brain(recipe: Recipe) -> NetworkPlan:
    """Return how the brain extractor is run; it is the same for images of every role."""
    threshold = recipe.brain.output.threshold
    return plan_network(
        recipe.brain,
        (),
        threshold=threshold,
        bias_correction=False,
        threads=recipe.threads,
        provider=recipe.provider,
    )


def plan_network(
    bundle: Bundle,
    roles: Collection[str],
    *,
    threshold: float | None = None,
    bias_correction: bool = True,
    threads: int = 1,
    provider: str = "cpu",
) -> NetworkPlan:
    """Return how a network answers from images of these roles.

    Parameters
    ----------
    threshold
        Where its passes vote; None: where the manifest says. A member of an ensemble always votes where its
        own manifest says.
    bias_correction
        Whether N4 may run; it does where the network's own manifest asks for it, which each member of an
        ensemble decides for itself.
    """
    if threshold is None:
        threshold = bundle.output.threshold_for([channel for channel in bundle.channels if channel in roles])
    members = tuple(
        plan_network(member, roles, bias_correction=bias_correction, threads=threads, provider=provider)
        for member in bundle.members
    )
    return NetworkPlan(
        model=bundle.identity,
        manifest_sha256=bundle.manifest_sha256,
        graphs=bundle.graphs,
        threshold=threshold,
        bias_correction=bias_correction and bundle.preprocess.bias_correction == "n4",
        provider=provider,
        members=members,
        threads=threads,
    )


def _plan_rule(recipe: Recipe, channels: Collection[str]) -> LesionRule:
    output = recipe.lesion.output
    return LesionRule(
        threshold=output.threshold_for(channels) if recipe.threshold is None else recipe.threshold,
        peak=output.peak_for(channels) if recipe.peak is None else recipe.peak,
        peaks=output.peaks if recipe.peak is None else {},
        minimum_volume_mm3=output.minimum_volume_mm3
        if recipe.minimum_volume_mm3 is None
        else recipe.minimum_volume_mm3,
        connectivity=output.connectivity,
        brain_margin_mm=output.brain_margin_mm,
    )


def _plan_calibration(recipe: Recipe, channels: Collection[str], rule: LesionRule) -> Calibration | None:
    """Return how the manifest calibrates a certainty; None where it does not, or a setting cuts elsewhere.

    The calibration was fitted on lesions that were cut as the manifest says: of others nobody knows.
    """
    manifest_rule = _plan_rule(replace(recipe, threshold=None, peak=None, minimum_volume_mm3=None), channels)
    return recipe.lesion.output.calibration_for(channels) if rule == manifest_rule else None
