"""Answers with a known truth: the phantom's study, read as the node would load it, and a pipeline result made by hand."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from dicomnode.records import Role, SourceFrame, SourceSeries
from dicomnode.results.records import AnswerContext
from dicomnode.settings.config import ResultSettings
from pipeline.geometry import index_to_lps, voxel_volume_mm3
from pipeline.records import (
    FollowUp,
    Lesion,
    LesionChange,
    LesionRule,
    LongAxis,
    Measurement,
    ModelIdentity,
    NetworkPlan,
    PipelineResult,
    Plan,
    StepRecord,
    Volume,
)
from tests.factories.dicom import PhantomSeries, phantom_study

CREATED_AT = 1_772_000_000.25
MODELS = (
    ModelIdentity(
        "stroke-lesion-2mm",
        "0.1.0",
        "patch3d",
        "ab" * 32,
        "Trained on synthetic data only. For research use; not for diagnosis.",
        "Apache-2.0",
    ),
    ModelIdentity(
        "brain-extractor-3mm",
        "0.1.0",
        "patch3d",
        "cd" * 32,
        "Trained on synthetic data only. For research use.",
        "Apache-2.0",
    ),
)


def make_plan(role: Role = "flair", **rule: Any) -> Plan:
    """Return the plan of an answer from one image; `rule` replaces fields of its lesion rule."""
    lesion, brain = (
        NetworkPlan(model, "12" * 32, {"model.onnx": model.sha256}, 0.5, True, "cpu", 1) for model in MODELS
    )
    values: dict[str, Any] = {
        "threshold": 0.5, "peak": 0.0, "peaks": {}, "minimum_volume_mm3": 50.0, "connectivity": 26, "brain_margin_mm": 0.0,
    }  # fmt: skip
    return Plan(2, brain, lesion, LesionRule(**{**values, **rule}), (role,))


# What became of the phantom's two lesions and of two earlier ones; one of them was outside the images.
CHANGES = (
    LesionChange("grown", 1, (2,), "2.25.71", 9.0, 4.5),
    LesionChange("new", 2, (), "", 3.0, 0.0),
    LesionChange("gone", None, (1,), "2.25.777", 0.0, 6.25),
    LesionChange("not imaged", None, (3,), "", 0.0, 0.75),
)


@dataclass(frozen=True, eq=False)
class Answered:
    """Everything that `build_answer` and `verify_answer` take."""

    context: AnswerContext
    volume: Volume
    result: PipelineResult


def make_result(labels: npt.NDArray[Any], volume: Volume, role: Role = "flair") -> PipelineResult:
    """Return the result that the pipeline would have for a label map 1..N."""
    labels = labels.astype(np.uint16)
    voxel_mm3 = voxel_volume_mm3(volume.affine)
    lesions = tuple(
        _lesion(label, labels, volume, voxel_mm3, role) for label in range(1, int(labels.max()) + 1)
    )
    total_ml = float(np.count_nonzero(labels) * voxel_mm3 / 1000)
    measurements = (
        Measurement("total_volume", total_ml, "ml", "sum"),
        Measurement("lesion_count", float(len(lesions)), "1", "components"),
        Measurement("brain_volume", 1400.0, "ml", "sum"),
        Measurement("lesion_load", total_ml / 14, "%", "ratio"),
    )
    grid = volume.with_array
    return PipelineResult(
        plan=make_plan(role),
        links={role: np.eye(4)},
        labels=grid(labels),
        probability=grid((labels > 0).astype(np.float32) * np.float32(0.9)),
        brain_mask=grid((volume.array > 0).astype(np.uint8)),
        lesions=lesions,
        measurements=measurements,
        steps=(StepRecord("find_lesions", {"minimum_volume_mm3": 50.0}, 0.1),),
        findings=(),
    )


def write_source(role: Role, instances: list[Dataset], folder: Path) -> SourceSeries:
    """Write a series' instances and return it as the loader would: `frames[k]` is slice k."""
    folder.mkdir(parents=True, exist_ok=True)
    frames = []
    for number, instance in enumerate(instances):
        path = folder / f"{role}{number:04d}.dcm"
        instance.save_as(path, enforce_file_format=True)
        frames += [
            SourceFrame(path, instance.SOPInstanceUID, frame)
            for frame in range(1, int(instance.get("NumberOfFrames", 1)) + 1)
        ]
    return SourceSeries(role, instances[0].SeriesInstanceUID, tuple(frames), "")


def volume_of(series: PhantomSeries, frame_of_reference_uid: str) -> Volume:
    """Return the phantom's series as the loader would."""
    return Volume(series.array.astype(np.float32), series.affine, frame_of_reference_uid)


def answered_study(
    folder: Path,
    *,
    roles: tuple[Role, ...] = ("t1", "flair"),
    found: bool = True,
    settings: ResultSettings | None = None,
    **study: Any,
) -> Answered:
    """Write the phantom's study below `folder` and return what the node would know of it after the pipeline."""
    # The T1 is the second input of most answers: few slices will do.
    study.setdefault("t1", {"shape": (8, 32, 32), "spacing_mm": (24.0, 6.0, 6.0)})
    study.setdefault("flair", {"shape": (16, 64, 64), "spacing_mm": (12.0, 3.0, 3.0)})
    phantom = phantom_study(roles=roles, **study)
    order: list[Role] = [role for role in ("flair", "t1") if role in roles]
    sources = tuple(write_source(role, phantom.series[role].instances, folder / role) for role in order)
    reference = phantom.series[order[0]]
    volume = volume_of(reference, phantom.frame_of_reference_uid)
    result = make_result(reference.truth if found else np.zeros_like(reference.truth), volume, order[0])
    context = AnswerContext(
        phantom.study_uid,
        1,
        sources,
        settings or ResultSettings(),
        "0.1.0",
        CREATED_AT,
        sources[0].frames[0].path,
    )
    return Answered(context, volume, result)


def followed(study: Answered, changes: tuple[LesionChange, ...] = CHANGES) -> Answered:
    """Return the answer as it is after a comparison with an earlier study."""
    return replace(study, result=replace(study.result, follow_up=FollowUp("2.25.5", "20260105", changes)))


def texts_of(report: Dataset) -> list[str]:
    """Return every text of a report's content tree."""
    texts = [str(report.TextValue)] if "TextValue" in report else []
    return texts + [text for item in report.get("ContentSequence", []) for text in texts_of(item)]


def _lesion(label: int, labels: npt.NDArray[Any], volume: Volume, voxel_mm3: float, role: Role) -> Lesion:
    voxels = np.argwhere(labels == label)
    slices, counts = np.unique(voxels[:, 0], return_counts=True)
    here = voxels[voxels[:, 0] == slices[counts.argmax()]]
    start, end = here[0], here[-1]
    ends_mm = [np.array(index_to_lps(volume.affine, end)) for end in (start, end)]
    axis = LongAxis(
        int(start[0]),
        (float(start[1]), float(start[2])),
        (float(end[1]), float(end[2])),
        float(np.linalg.norm(ends_mm[1] - ends_mm[0])),
    )
    measurements = (
        Measurement("volume", len(voxels) * voxel_mm3 / 1000, "ml", "sum"),
        Measurement("long_axis", axis.length_mm, "mm", "in-slice"),
        Measurement("maximum_3d_diameter", axis.length_mm * 1.1, "mm", "in space"),
        Measurement(f"mean_intensity_{role}", 1234.5678901, "1", "mean"),
        Measurement(f"mirrored_intensity_{role}", 987.6, "1", "mean on the other side"),
        Measurement("certainty", 90.0, "%", "mean probability"),
    )
    centroid = index_to_lps(volume.affine, voxels.mean(axis=0))
    return Lesion(
        label, len(voxels), centroid, axis, measurements, 0.9, "left" if centroid[0] > 0 else "right"
    )
