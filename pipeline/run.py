"""`run_pipeline`: the numbered steps, top to bottom. Volumes in, lesions and measurements out.

The plan decides, before anything is computed; each step does its share of it and leaves a `StepRecord` for
people to read.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from pipeline.cache import remember_answer, remember_brain, remember_registration
from pipeline.errors import PipelineError, RegistrationError
from pipeline.geometry import Affine, Grid, Orientation, grid_of, voxel_volume_mm3
from pipeline.journal import Journal, Progress
from pipeline.measure.lesion import measure_lesions
from pipeline.measure.midplane import find_midplane, find_midplane_remarks
from pipeline.measure.regions.choice import choose_region_map
from pipeline.measure.regions.shares import Placement
from pipeline.measure.volume import measure_lesion_count, measure_lesion_load, measure_volume
from pipeline.plan import Recipe, make_plan
from pipeline.postprocess.components import apply_components, apply_peak
from pipeline.postprocess.threshold import apply_brain_limit, apply_threshold
from pipeline.postprocess.to_source_grid import apply_to_source_grid
from pipeline.preprocess.check_inputs import check_inputs, find_input_remarks
from pipeline.preprocess.extract_brain import (
    Brain,
    apply_brain_threshold,
    find_brain_problem,
    find_coverage_remarks,
    move_brain,
)
from pipeline.preprocess.register import (
    Registration,
    apply_registration,
    find_registration_remarks,
    plan_registration,
)
from pipeline.preprocess.reorient import apply_orientation, plan_orientation, undo_orientation
from pipeline.preprocess.resample import IDENTITY, plan_covering_grid
from pipeline.preprocess.template import TemplateFit, find_template_remarks, fit_template
from pipeline.quality.gates import Quality, find_quality_remarks, measure_quality
from pipeline.quality.head import find_head_problem, measure_head
from pipeline.records import Array, Finding, LesionRule, PipelineResult, Plan, Role, Volume
from pipeline.segmenters.case import Answer, Case
from pipeline.segmenters.coverage import choose_peaks
from pipeline.segmenters.families import segment_case
from pipeline.segmenters.patch3d import segment as patch3d


@dataclass(frozen=True, eq=False)
class Outlines:
    """The lesions of a case on the reference's own grid (slice, row, column).

    The maps that they were cut from come with them.

    Attributes
    ----------
    labels
        uint16, 0 background, 1..N the lesions.
    placement
        How the head lies in MNI space; None where there is no lesion to place, or no fit was believed.
    """

    labels: Volume
    probability: Volume
    brain_mask: Volume
    agreement: Volume | None
    placement: Placement | None


Segmenter = Callable[[Case, Journal], Volume]
"""Returns the lesion probability on any grid in the reference's frame of reference."""


def run_pipeline(
    inputs: Mapping[Role, Volume],
    recipe: Recipe,
    progress: Progress | None = None,
    *,
    segmenter: Segmenter | None = None,
) -> PipelineResult:
    """Segment and measure one case.

    The result lies exactly on the grid of the image that the plan names first.

    Parameters
    ----------
    segmenter
        In place of the recipe's lesion network (for tests of the geometry).

    Raises
    ------
    PipelineError
        The case cannot be processed; `code` says why.
    """
    journal = Journal(progress)
    # 1. Check the images, and plan what the networks do with them.
    plan = _check(inputs, recipe, journal)
    # 2. Axial canonical order.
    with journal.step("reorient") as parameters:
        orientations = {role: plan_orientation(inputs[role]) for role in plan.roles}
        images = {role: apply_orientation(inputs[role], orientations[role]) for role in plan.roles}
        parameters.update({role: asdict(orientation) for role, orientation in orientations.items()})
    # 3. Find the brain in each image.
    brains = _lend_brains(images, extract_brains(images, recipe, plan, journal), journal)
    # 4. Bring the other image onto the reference. An image that cannot be brought there changes the plan.
    # What needs no registration is computed next to it, and where nothing waits for it next to all the rest:
    # a thread more than cores, so that none is idle.
    with ThreadPoolExecutor(2, thread_name_prefix="pipeline") as beside:
        early = _begin_judgements(images, brains, recipe, plan, beside)
        case = _register(images, brains, recipe, plan, journal)
        if len(case.images) < len(plan.roles):
            plan = make_plan(recipe, list(inputs), [role for role in plan.roles if role not in case.images])
        fit = _judge_head(case.images[plan.roles[0]], case.brain, early.fit, plan, journal)
        # 5 to 8. Resample, correct, normalise, infer.
        answer = _infer(case, recipe, plan, journal, segmenter)
        # 9 to 11. Back to the reference's own voxels, lesions, and where the brain lies in the template.
        outlines = _outline(answer, case, orientations[plan.roles[0]], fit, recipe, plan, journal)
        _judge_quality(case, early, recipe, journal)
    # 12. Measurements.
    return _measure(outlines, inputs, case, plan, journal)


def _check(inputs: Mapping[Role, Volume], recipe: Recipe, journal: Journal) -> Plan:
    with journal.step("check_inputs") as parameters:
        facts = check_inputs(inputs)
        journal.findings += find_input_remarks(inputs, facts)
        plan = make_plan(recipe, list(inputs))
        for role in plan.left_out:
            sentence = f"The network does not take the {role.upper()}; it was left out."
            journal.findings.append(Finding("input-not-used", "info", sentence))
        parameters.update({role: asdict(image_facts) for role, image_facts in facts.items()})
        parameters["channels"] = [channel for channel in recipe.lesion.channels if channel in plan.roles]
    return plan


def extract_brains(
    images: Mapping[Role, Volume], recipe: Recipe, plan: Plan, journal: Journal
) -> dict[Role, Brain]:
    """Return the brain in each image (axial canonical order), plausible or not."""
    brains: dict[Role, Brain] = {}
    with journal.step("extract_brain") as parameters:
        for role, image in images.items():
            infer = functools.partial(_infer_brain, role, image, recipe, plan)
            probability, inference = remember_brain(recipe.cache, plan, image, infer)
            brains[role] = apply_brain_threshold(probability, plan.brain.threshold)
            parameters[role] = {
                "volume_ml": brains[role].volume_ml,
                "main_share": brains[role].main_share,
                **inference,
            }
    return brains


def _infer_brain(role: Role, image: Volume, recipe: Recipe, plan: Plan) -> tuple[Volume, dict[str, Any]]:
    """Return the brain's probability on a grid that covers the whole image.

    The second value holds the parameters of the inference.
    """
    bundle = recipe.brain
    grid: Grid = plan_covering_grid(grid_of(image), bundle.input.spacing_mm, bundle.input.patch)
    channel = role if role in bundle.channels else bundle.channels[0]
    head = patch3d.crop_to_head(bundle, patch3d.resample_channels(bundle, {channel: image}, grid, {}))
    answer, parameters = patch3d.infer(bundle, patch3d.normalise_channels(bundle, head, None), plan.brain)
    return answer.probability, parameters


def _lend_brains(
    images: Mapping[Role, Volume], brains: Mapping[Role, Brain], journal: Journal
) -> dict[Role, Brain]:
    """Return a plausible brain for each image.

    A brain that failed takes the other image's, where both share a frame of reference.
    """
    problems = {role: find_brain_problem(brain) for role, brain in brains.items()}
    plausible = dict(brains)
    for role, problem in problems.items():
        if problem is None:
            continue
        frame = images[role].frame_of_reference_uid
        lenders = [
            lender
            for lender in brains
            if problems[lender] is None and images[lender].frame_of_reference_uid == frame
        ]
        if not lenders:
            raise problem
        plausible[role] = move_brain(brains[lenders[0]], grid_of(brains[role].mask), IDENTITY)
        sentence = f"The brain in the {role.upper()} was taken from the {lenders[0].upper()}: {problem}"
        journal.findings.append(Finding("brain-of-other-image", "warning", sentence))
    return plausible


def _register(
    images: Mapping[Role, Volume], brains: Mapping[Role, Brain], recipe: Recipe, plan: Plan, journal: Journal
) -> Case:
    """Bring every other image onto the reference.

    An image that cannot be brought there is left out where the network was trained to do without it.

    The finding has the grade of a refused input, so no report claims the absence of lesions or that all of
    the analysis succeeded.
    """
    reference, *other_roles = plan.roles
    links: dict[str, Affine] = {reference: IDENTITY}
    with journal.step("register") as parameters:
        for role in other_roles:
            pair, heads = (images[reference], images[role]), (brains[reference], brains[role])
            find_motion = functools.partial(_find_motion, pair, heads)
            try:
                motion, is_remembered = remember_registration(recipe.cache, plan, pair, heads, find_motion)
            except RegistrationError as problem:
                if not recipe.lesion.takes([reference]):
                    raise
                sentence = (
                    f"The {role.upper()} was not used, the result rests on the {reference.upper()} alone: "
                    f"{problem}"
                )
                journal.findings.append(Finding(problem.code, "refuse", sentence))
                parameters[f"{role}_left_out"] = problem.code
                continue
            links[role] = motion.link
            journal.findings += find_registration_remarks(motion)
            parameters[role] = {
                **asdict(motion),
                "link": motion.link.tolist(),
                "same_frame_of_reference": _same_frame(*pair),
            }
            parameters[role] |= {"cached": True} if is_remembered else {}
    registered: dict[str, Volume] = {role: image for role, image in images.items() if role in links}
    return Case(registered, links, brains[reference], grid_of(images[reference]))


def _find_motion(images: tuple[Volume, Volume], brains: tuple[Brain, Brain]) -> Registration:
    return apply_registration(plan_registration(*brains, same_frame=_same_frame(*images)), *images, *brains)


def _same_frame(reference: Volume, moving: Volume) -> bool:
    return reference.frame_of_reference_uid == moving.frame_of_reference_uid


@dataclass(frozen=True)
class _EarlyJudgements:
    """What is computed next to the registration, and read when its step comes."""

    fit: Future[TemplateFit]
    qualities: Mapping[Role, Future[Quality]]


def _begin_judgements(
    images: Mapping[Role, Volume],
    brains: Mapping[Role, Brain],
    recipe: Recipe,
    plan: Plan,
    pool: ThreadPoolExecutor,
) -> _EarlyJudgements:
    """Begin to lay the reference on the template, and to measure the quality of each image."""
    reference = plan.roles[0]
    spacing_mm = recipe.lesion.input.spacing_mm
    return _EarlyJudgements(
        pool.submit(fit_template, images[reference], brains[reference]),
        {
            role: pool.submit(measure_quality, images[role], brain, spacing_mm)
            for role, brain in brains.items()
        },
    )


def _judge_head(
    image: Volume, brain: Brain, fitting: Future[TemplateFit], plan: Plan, journal: Journal
) -> TemplateFit | None:
    """Return how the brain lies in the template, None where that is not known; refuse what is no head.

    Raises
    ------
    BrainExtractionError
        "not-a-head", with the figures.
    """
    with journal.step("judge_head") as parameters:
        try:
            fit = fitting.result()
        except RuntimeError as failure:
            # The optimiser found no way to lay the one on the other; its message names its own parameters
            # alone.
            parameters["template"] = str(failure).strip().splitlines()[-1]
            fit = None
        facts = None if fit is None else measure_head(image, brain, fit)
        if fit is not None and facts is not None:
            parameters.update(
                {**asdict(fit), "link": fit.link.tolist(), **asdict(facts), "score": facts.score}
            )
        problem = find_head_problem(facts)
        if problem is not None and plan.require_head:
            raise problem
    return fit


def _judge_quality(case: Case, early: _EarlyJudgements, recipe: Recipe, journal: Journal) -> None:
    with journal.step("judge_quality") as parameters:
        for role, measured in early.qualities.items():
            if role in case.images:
                quality = measured.result()
                parameters[role] = asdict(quality)
                journal.findings += find_quality_remarks(role, quality, recipe.lesion.trained.get(role, {}))


def _infer(case: Case, recipe: Recipe, plan: Plan, journal: Journal, segmenter: Segmenter | None) -> Answer:
    if segmenter:
        return Answer(segmenter(case, journal))
    compute = functools.partial(segment_case, recipe.lesion, case, plan.lesion, journal)
    return remember_answer(recipe.cache, plan, case, journal, compute)


def _outline(
    answer: Answer,
    case: Case,
    orientation: Orientation,
    fit: TemplateFit | None,
    recipe: Recipe,
    plan: Plan,
    journal: Journal,
) -> Outlines:
    # 9. Pieces that the network is nowhere sure of go; then back to the reference's own voxels.
    sure = _drop_faint(answer.probability, case, recipe, plan.rule, journal)
    with journal.step("to_source_grid"):

        def restore(volume: Volume) -> Volume:
            return undo_orientation(apply_to_source_grid(volume, case.reference), orientation)

        probability = restore(answer.probability)
        candidate = probability if sure is answer.probability else restore(sure)
        agreement = answer.agreement and restore(answer.agreement)
        # The soft brain is interpolated and then cut, so that the outline stays smooth on a finer grid.
        inside = apply_to_source_grid(case.brain.soft, case.reference).array >= case.brain.threshold
        brain = case.reference.fill(inside.astype(np.uint8))
        journal.findings += find_coverage_remarks(brain)
        brain_mask = undo_orientation(brain, orientation)
    # 10. Lesions: nothing outside the brain, then the threshold, components and the smallest volume.
    probability = apply_brain_limit(probability, brain_mask, plan.rule.brain_margin_mm)
    labels = _find_lesions(candidate, brain_mask, plan.rule, journal)
    # 11. Where the brain lies in the template, if there is a lesion to place.
    placement = None
    if labels.array.any():
        problem = "the registration to the template failed" if fit is None else fit.problem
        journal.findings += find_template_remarks(problem)
        if fit is not None and not problem:
            placement = Placement(fit.link, recipe.region_map or choose_region_map(), recipe.territories)
    return Outlines(labels, probability, brain_mask, agreement, placement)


def _drop_faint(
    probability: Volume, case: Case, recipe: Recipe, rule: LesionRule, journal: Journal
) -> Volume:
    """Return the probability without the pieces that nowhere reach the peak.

    The very same volume when there are none.
    """
    peak = choose_peaks(recipe.lesion, case, grid_of(probability)) if rule.peaks else rule.peak
    # The map of peaks is float32; the record says what the manifest says.
    highest, lowest = (round(float(end), 6) for end in (np.max(peak), np.min(peak)))
    if highest <= rule.threshold:
        return probability
    with journal.step("drop_faint") as parameters:
        array, dropped = apply_peak(probability.array, rule.threshold, peak, rule.connectivity)
        parameters.update(peak=highest, dropped=dropped)
        if lowest < highest:
            parameters["peak_outside_an_image"] = lowest
    return probability.with_array(array) if dropped else probability


def _find_lesions(candidate: Volume, brain_mask: Volume, rule: LesionRule, journal: Journal) -> Volume:
    with journal.step("find_lesions") as parameters:
        limited = apply_brain_limit(candidate, brain_mask, rule.brain_margin_mm)
        array, dropped = apply_components(
            apply_threshold(limited.array, rule.threshold),
            rule.connectivity,
            rule.minimum_volume_mm3,
            voxel_volume_mm3(limited.affine),
        )
        parameters.update(asdict(rule), dropped=dropped)
    if _touches_rim(array):
        sentence = "A lesion touches the edge of the imaged volume: its volume may be too small."
        journal.findings.append(Finding("lesion-at-volume-edge", "warning", sentence))
    return limited.with_array(array)


def _measure(
    outlines: Outlines, inputs: Mapping[Role, Volume], case: Case, plan: Plan, journal: Journal
) -> PipelineResult:
    with journal.step("measure") as parameters:
        labels, brain_mask = outlines.labels, outlines.brain_mask
        voxel_mm3 = voxel_volume_mm3(labels.affine)
        plane = find_midplane(inputs[plan.roles[0]], brain_mask)
        parameters["midplane"] = {
            **asdict(plane),
            "normal": plane.normal.tolist(),
            "tilt_deg": plane.tilt_deg,
        }
        journal.findings += find_midplane_remarks(plane)
        agreement = None if outlines.agreement is None else outlines.agreement.array
        sources = {str(role): (inputs[role], case.links[role]) for role in plan.roles}
        lesions = measure_lesions(
            labels,
            outlines.probability.array,
            sources,
            plane,
            agreement,
            outlines.placement,
            plan.calibration,
        )
        total = measure_volume(int(np.count_nonzero(labels.array)), voxel_mm3, "total_volume")
        brain = measure_volume(int(np.count_nonzero(brain_mask.array)), voxel_mm3, "brain_volume")
        measurements = (
            total,
            measure_lesion_count(len(lesions)),
            brain,
            measure_lesion_load(total.value, brain.value),
        )
    if not np.isfinite([measurement.value for measurement in measurements]).all():
        raise PipelineError("a measurement is not finite", code="measurement-not-finite")
    return PipelineResult(
        plan=plan,
        links={role: case.links[role] for role in plan.roles},
        labels=labels,
        probability=outlines.probability,
        brain_mask=brain_mask,
        lesions=lesions,
        measurements=measurements,
        steps=tuple(journal.steps),
        findings=tuple(journal.findings),
        agreement=outlines.agreement,
    )


def _touches_rim(labels: Array) -> bool:
    return any(labels.take(index, axis).any() for axis in range(3) for index in (0, -1))
