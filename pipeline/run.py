"""`run_pipeline`: the numbered steps, top to bottom. Volumes in, lesions and measurements out.

Each step decides (`plan_*`), does (`apply_*`) and leaves a `StepRecord` with what it decided and the seconds it took.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from pipeline.bundles.bundle import Bundle
from pipeline.cache import StepCache
from pipeline.errors import BundleError, PipelineError, RegistrationError
from pipeline.geometry import Affine, Grid, grid_of, voxel_volume_mm3
from pipeline.journal import Journal, Progress
from pipeline.measure.lesion import measure_lesions
from pipeline.measure.midplane import find_midplane, find_midplane_remarks
from pipeline.measure.volume import measure_lesion_count, measure_lesion_load, measure_volume
from pipeline.postprocess.components import apply_components, apply_peak
from pipeline.postprocess.threshold import apply_brain_limit, apply_threshold
from pipeline.postprocess.to_source_grid import apply_to_source_grid
from pipeline.preprocess.check_inputs import check_inputs, find_input_remarks
from pipeline.preprocess.extract_brain import Brain, apply_brain_threshold, find_brain_problem, find_coverage_remarks, move_brain
from pipeline.preprocess.register import Registration, apply_registration, find_registration_remarks, plan_registration
from pipeline.preprocess.reorient import apply_orientation, plan_orientation, undo_orientation
from pipeline.preprocess.resample import IDENTITY, plan_covering_grid
from pipeline.preprocess.template import find_template_remarks, fit_template
from pipeline.quality.gates import find_quality_remarks, measure_quality
from pipeline.records import Array, Finding, PipelineResult, Role, Volume
from pipeline.remembered import remember_answer, remember_brain, remember_registration
from pipeline.segmenters.case import Answer, Asked, Case
from pipeline.segmenters.coverage import choose_peaks
from pipeline.segmenters.families import segment_case
from pipeline.segmenters.patch3d import segment as patch3d


@dataclass(frozen=True)
class Recipe:
    """Which networks, and what overrides their manifests (None: the manifest's word)."""

    lesion: Bundle
    brain: Bundle
    threshold: float | None = None
    peak: float | None = None
    minimum_volume_mm3: float | None = None
    bias_correction: bool = True
    threads: int = 1
    provider: str = "cpu"
    cache: StepCache | None = None


@dataclass(frozen=True, eq=False)
class Found:
    """What the case came to, on the reference's own grid."""

    labels: Volume
    probability: Volume
    brain_mask: Volume
    agreement: Volume | None
    to_template: Affine | None


Segmenter = Callable[[Case, Journal], Volume]
"""Returns the lesion probability on any grid in the reference's frame of reference."""


def run_pipeline(
    inputs: Mapping[Role, Volume], recipe: Recipe, progress: Progress | None = None, *, segmenter: Segmenter | None = None
) -> PipelineResult:
    """Segment and measure one case; the result lies exactly on `inputs[reference_role]`'s grid.

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
    # 1. Check what came, and settle which of it the network was trained for.
    inputs, reference_role = _check(inputs, recipe, journal)
    # 2. Axial canonical order.
    with journal.step("reorient") as parameters:
        orientations = {role: plan_orientation(volume) for role, volume in inputs.items()}
        images = {role: apply_orientation(volume, orientations[role]) for role, volume in inputs.items()}
        parameters.update({role: asdict(plan) for role, plan in orientations.items()})
    # 3. Find the brain in each image.
    brains = extract_brains(images, recipe, journal)
    # 4. Bring the other image onto the reference.
    brains = _settle_brains(images, brains, journal)
    case = _register(images, brains, reference_role, recipe, journal)
    inputs = {role: volume for role, volume in inputs.items() if role in case.images}
    _judge_quality(case, brains, recipe.lesion, journal)
    # 5 to 8. Resample, correct, normalise, infer.
    threshold = _choose_threshold(tuple(inputs), recipe)
    corrected = recipe.bias_correction and recipe.lesion.preprocess.bias_correction == "n4"
    asked = Asked(threshold, corrected, recipe.threads, recipe.provider)
    if segmenter:
        answer = Answer(segmenter(case, journal))
    else:
        answer = remember_answer(
            recipe.cache, recipe.lesion, case, asked, journal, lambda: segment_case(recipe.lesion, case, asked, journal)
        )
    # 9. Pieces that the network is nowhere sure of, and back to the reference's own voxels.
    sure = _drop_faint(answer.probability, threshold, case, recipe, journal)
    with journal.step("to_source_grid"):
        orientation = orientations[reference_role]
        probability = undo_orientation(apply_to_source_grid(answer.probability, case.reference), orientation)
        candidate = probability
        if sure is not answer.probability:
            candidate = undo_orientation(apply_to_source_grid(sure, case.reference), orientation)
        agreement = answer.agreement and undo_orientation(apply_to_source_grid(answer.agreement, case.reference), orientation)
        mask = apply_to_source_grid(case.brain.soft, case.reference).array >= case.brain.threshold
        brain = case.reference.fill(mask.astype(np.uint8))
        journal.findings += find_coverage_remarks(brain)
        brain_mask = undo_orientation(brain, orientation)
    # 10. Lesions.
    probability = apply_brain_limit(probability, brain_mask, recipe.lesion.output.brain_margin_mm)
    labels = _find_lesions(candidate, brain_mask, threshold, recipe, journal)
    # 11. Where the brain lies in the template, if there is a lesion to place.
    to_template = _find_template(case.images[reference_role], case.brain, journal) if labels.array.any() else None
    # 12. Measurements.
    sources: dict[Role, tuple[Volume, Affine]] = {role: (inputs[role], case.links[role]) for role in inputs}
    found = Found(labels, probability, brain_mask, agreement, to_template)
    return _measure(reference_role, found, sources, threshold, recipe, journal)


def _check(inputs: Mapping[Role, Volume], recipe: Recipe, journal: Journal) -> tuple[dict[Role, Volume], Role]:
    with journal.step("check_inputs") as parameters:
        for bundle, task in ((recipe.lesion, "lesion"), (recipe.brain, "brain")):
            if bundle.task != task:
                raise BundleError(f"{bundle.name} is for the task {bundle.task!r}, not {task!r}", code="model-wrong-task")
        facts = check_inputs(inputs)
        journal.findings += find_input_remarks(inputs, facts)
        chosen = recipe.lesion.choose_channels(inputs)
        order = sorted(inputs, key=lambda role: role != recipe.lesion.preprocess.reference)
        used = {role: inputs[role] for role in order if role in chosen}
        for role in inputs:
            if role not in used:
                journal.findings.append(
                    Finding("input-not-used", "info", f"The network does not take the {role.upper()}; it was left out.")
                )
        parameters.update({role: asdict(seen) for role, seen in facts.items()})
        parameters["channels"] = list(chosen)
    return used, next(iter(used))


def extract_brains(images: Mapping[Role, Volume], recipe: Recipe, journal: Journal) -> dict[Role, Brain]:
    """Return the brain in each image (axial canonical order), plausible or not."""
    bundle = recipe.brain
    brains: dict[Role, Brain] = {}
    with journal.step("extract_brain") as parameters:
        for role, image in images.items():
            grid = plan_covering_grid(grid_of(image), bundle.input.spacing_mm, bundle.input.patch)
            channel = role if role in bundle.channels else bundle.channels[0]
            asked = Asked(bundle.output.threshold, threads=recipe.threads, provider=recipe.provider)

            def infer(
                image: Volume = image, grid: Grid = grid, channel: str = channel, asked: Asked = asked
            ) -> tuple[Volume, dict[str, Any]]:
                head = patch3d.crop_to_head(bundle, patch3d.resample_channels(bundle, {channel: image}, grid, {}))
                answer, used = patch3d.infer(bundle, patch3d.normalise_channels(bundle, head, None), asked)
                return answer.probability, used

            probability, used = remember_brain(recipe.cache, bundle, image, asked, infer)
            brains[role] = apply_brain_threshold(probability, asked.threshold)
            parameters[role] = {"volume_ml": brains[role].volume_ml, "main_share": brains[role].main_share, **used}
    return brains


def _settle_brains(images: Mapping[Role, Volume], brains: Mapping[Role, Brain], journal: Journal) -> dict[Role, Brain]:
    """Return a plausible brain for each image; one that failed takes the other's, where both share a frame of reference."""
    problems = {role: find_brain_problem(brain) for role, brain in brains.items()}
    good = [role for role in brains if problems[role] is None]
    settled = dict(brains)
    for role, problem in problems.items():
        if problem is None:
            continue
        lenders = [other for other in good if images[other].frame_of_reference_uid == images[role].frame_of_reference_uid]
        if not lenders:
            raise problem
        settled[role] = move_brain(brains[lenders[0]], grid_of(brains[role].mask), IDENTITY)
        sentence = f"The brain in the {role.upper()} was taken from the {lenders[0].upper()}: {problem}"
        journal.findings.append(Finding("brain-of-other-image", "warning", sentence))
    return settled


def _register(images: Mapping[Role, Volume], brains: Mapping[Role, Brain], reference: Role, recipe: Recipe, journal: Journal) -> Case:
    """Bring every other image onto the reference; one that cannot be is left out where the network was trained to do without it.

    The finding has the grade of a refused input, so no report claims the absence of lesions or that all of the analysis succeeded.
    """
    links: dict[str, Affine] = {reference: IDENTITY}
    with journal.step("register") as parameters:
        for role in images:
            if role == reference:
                continue
            same_frame = images[role].frame_of_reference_uid == images[reference].frame_of_reference_uid
            pictures, heads = (images[reference], images[role]), (brains[reference], brains[role])
            try:
                found, known = remember_registration(
                    recipe.cache, pictures, heads, same_frame, functools.partial(_find_motion, pictures, heads, same_frame)
                )
            except RegistrationError as problem:
                if not recipe.lesion.takes([reference]):
                    raise
                sentence = f"The {role.upper()} was not used, the result rests on the {reference.upper()} alone: {problem}"
                journal.findings.append(Finding(problem.code, "refuse", sentence))
                parameters[f"{role}_left_out"] = problem.code
                continue
            links[role] = found.link
            journal.findings += find_registration_remarks(found)
            parameters[role] = {**asdict(found), "link": found.link.tolist(), "same_frame_of_reference": same_frame}
            parameters[role] |= {"cached": True} if known else {}
    kept: dict[str, Volume] = {role: image for role, image in images.items() if role in links}
    return Case(kept, links, brains[reference], grid_of(images[reference]))


def _find_motion(images: tuple[Volume, Volume], brains: tuple[Brain, Brain], same_frame: bool) -> Registration:
    return apply_registration(plan_registration(*brains, same_frame=same_frame), *images, *brains)


def _judge_quality(case: Case, brains: Mapping[Role, Brain], lesion: Bundle, journal: Journal) -> None:
    with journal.step("judge_quality") as parameters:
        for role, brain in brains.items():
            if role in case.images:
                quality = measure_quality(case.images[role], brain, lesion.input.spacing_mm)
                parameters[role] = asdict(quality)
                journal.findings += find_quality_remarks(role, quality, lesion.trained.get(role, {}))


def _choose_threshold(roles: tuple[str, ...], recipe: Recipe) -> float:
    if recipe.threshold is not None:
        return recipe.threshold
    return recipe.lesion.output.threshold_for([channel for channel in recipe.lesion.channels if channel in roles])


def _drop_faint(probability: Volume, threshold: float, case: Case, recipe: Recipe, journal: Journal) -> Volume:
    """Return the probability without the pieces that nowhere reach the peak; the very same volume when there are none."""
    peak = choose_peaks(recipe.lesion, case, grid_of(probability)) if recipe.peak is None else recipe.peak
    # The map of peaks is float32; what is told is what the manifest says.
    highest, lowest = (round(float(end), 6) for end in (np.max(peak), np.min(peak)))
    if highest <= threshold:
        return probability
    with journal.step("drop_faint") as parameters:
        array, dropped = apply_peak(probability.array, threshold, peak, recipe.lesion.output.connectivity)
        parameters.update(peak=highest, dropped=dropped)
        if lowest < highest:
            parameters["peak_outside_an_image"] = lowest
    return probability.with_array(array) if dropped else probability


def _find_lesions(candidate: Volume, brain_mask: Volume, threshold: float, recipe: Recipe, journal: Journal) -> Volume:
    output = recipe.lesion.output
    minimum_mm3 = output.minimum_volume_mm3 if recipe.minimum_volume_mm3 is None else recipe.minimum_volume_mm3
    with journal.step("find_lesions") as parameters:
        limited = apply_brain_limit(candidate, brain_mask, output.brain_margin_mm)
        array, dropped = apply_components(
            apply_threshold(limited.array, threshold), output.connectivity, minimum_mm3, voxel_volume_mm3(limited.affine)
        )
        parameters.update(threshold=threshold, minimum_volume_mm3=minimum_mm3, connectivity=output.connectivity, dropped=dropped)
        parameters["brain_margin_mm"] = output.brain_margin_mm
    if _touches_rim(array):
        journal.findings.append(
            Finding("lesion-at-volume-edge", "warning", "A lesion touches the edge of the imaged volume: its volume may be too small.")
        )
    return limited.with_array(array)


def _find_template(image: Volume, brain: Brain, journal: Journal) -> Affine | None:
    """Return the 4x4 to the MNI template; None, with a remark, when none is believed. MNI coordinates are a convenience: no fault here fails a study."""
    with journal.step("find_template") as parameters:
        try:
            fit = fit_template(image, brain)
        except RuntimeError as failed:
            problem = f"the registration to the template failed: {str(failed).strip().splitlines()[-1]}"
            journal.findings += find_template_remarks(problem)
            return None
        parameters.update({**asdict(fit), "link": fit.link.tolist()})
        journal.findings += find_template_remarks(fit.problem)
        return None if fit.problem else fit.link


def _measure(
    reference_role: Role,
    found: Found,
    sources: Mapping[Role, tuple[Volume, Affine]],
    threshold: float,
    recipe: Recipe,
    journal: Journal,
) -> PipelineResult:
    with journal.step("measure") as parameters:
        voxel_mm3 = voxel_volume_mm3(found.labels.affine)
        plane = find_midplane(sources[reference_role][0], found.brain_mask)
        parameters["midplane"] = {**asdict(plane), "normal": plane.normal.tolist(), "tilt_deg": plane.tilt_deg}
        journal.findings += find_midplane_remarks(plane)
        agreement = None if found.agreement is None else found.agreement.array
        lesions = measure_lesions(found.labels, found.probability.array, dict(sources.items()), plane, agreement, found.to_template)
        total = measure_volume(int(np.count_nonzero(found.labels.array)), voxel_mm3, "total_volume")
        brain = measure_volume(int(np.count_nonzero(found.brain_mask.array)), voxel_mm3, "brain_volume")
        measurements = (total, measure_lesion_count(len(lesions)), brain, measure_lesion_load(total.value, brain.value))
    if not np.isfinite([each.value for each in measurements]).all():
        raise PipelineError("a measurement is not finite", code="measurement-not-finite")
    return PipelineResult(
        reference_role=reference_role,
        labels=found.labels,
        probability=found.probability,
        brain_mask=found.brain_mask,
        lesions=lesions,
        measurements=measurements,
        steps=tuple(journal.steps),
        findings=tuple(journal.findings),
        models=(recipe.lesion.identity, recipe.brain.identity),
        threshold=threshold,
        agreement=found.agreement,
        used=tuple(sources),
        parameters={step.name: dict(step.parameters) for step in journal.steps},
    )


def _touches_rim(labels: Array) -> bool:
    return any(labels.take(index, axis).any() for axis in range(3) for index in (0, -1))
