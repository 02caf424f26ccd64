"""Which prediction belongs to which truth: files found, named and paired.

What does not pair is refused by name.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
from pydicom.errors import InvalidDicomError

from dicomnode.errors import NodeError, StudyRefused
from dicomnode.offline.folders import files_below
from dicomnode.volumes.nifti import read_nifti
from dicomnode.volumes.segmentation import SEG_CLASS, read_segmentation
from pipeline.errors import CaseRefused
from pipeline.evaluate.lattice import covering_grid, lay_on_grid
from pipeline.geometry import grid_of
from pipeline.records import Volume

_NIFTI = (".nii", ".nii.gz")
_ENTITY = re.compile(r"(?:^|[/_])((?:sub|ses)-[0-9A-Za-z]+)(?=[/_.]|$)")
# A frame of reference that NIfTI files are given, which have none.
_NO_FRAME = "2.25.102"


@dataclass(frozen=True)
class Pair:
    """One case: its name and both files."""

    name: str
    prediction: Path
    truth: Path


def pair_masks(
    predictions: Path, truth: Path, predictions_pattern: str | None = None, truth_pattern: str | None = None
) -> tuple[Pair, ...]:
    """Pair two files, or the masks of two folders by name.

    Raises
    ------
    NodeError
        A folder holds no mask or two of one case, or a case is on one side only; every such case is named.
    """
    if predictions.is_file() and truth.is_file():
        return (Pair(_stem(predictions), predictions, truth),)
    prediction_masks, true = find_masks(predictions, predictions_pattern), find_masks(truth, truth_pattern)
    problems = [
        f"{name}: there is a truth but no prediction"
        for name in sorted(true.keys() - prediction_masks.keys())
    ]
    problems += [
        f"{name}: there is a prediction but no truth"
        for name in sorted(prediction_masks.keys() - true.keys())
    ]
    if problems:
        raise NodeError(_listed(f"{predictions} and {truth} are not of the same cases", problems))
    return tuple(Pair(name, prediction_masks[name], true[name]) for name in sorted(true))


def find_masks(folder: Path, pattern: str | None = None) -> Mapping[str, Path]:
    """Return case name -> mask file.

    Without a pattern: the lesion masks of a BIDS dataset where there are some, else all NIfTI files, else all
    DICOM segmentations. A case is named by its subject and session where the path has them, else by its
    folder where all files are called the same, else by the file.

    Raises
    ------
    NodeError
        The folder does not exist, holds no mask, or holds two of one case.
    """
    if not folder.is_dir():
        expected = "folder (give two files or two folders)" if folder.exists() else "file or folder"
        raise NodeError(f"{folder}: no such {expected}")
    paths = sorted(path for path in folder.glob(pattern) if path.is_file()) if pattern else _choose(folder)
    if not paths:
        expected = f"file that matches {pattern}" if pattern else "mask (NIfTI or DICOM-SEG)"
        raise NodeError(f"{folder}: there is no {expected}")
    same_name = len({path.name for path in paths}) == 1
    cases: dict[str, list[Path]] = defaultdict(list)
    for path in paths:
        cases[_case_name(path, folder, same_name)].append(path)
    twice = [
        f"{name}: {', '.join(str(path.relative_to(folder)) for path in files)}"
        for name, files in cases.items()
        if len(files) > 1
    ]
    if twice:
        raise NodeError(
            _listed(
                (
                    f"{folder}: several files of one case; say which by a pattern such as "
                    "'**/*_label-L_mask.nii.gz'"
                ),
                twice,
            )
        )
    return {name: files[0] for name, files in cases.items()}


def read_pair(pair: Pair) -> tuple[Volume, Volume]:
    """Read both masks and lay them on one grid, that of the truth.

    Raises
    ------
    StudyRefused, PipelineError
        A file is no mask, or the two do not fit onto one grid; nothing is resampled.
    """
    (prediction, predicted_whole), (truth, true_whole) = read_mask(pair.prediction), read_mask(pair.truth)
    if (
        not (predicted_whole or true_whole)
        and prediction.frame_of_reference_uid != truth.frame_of_reference_uid
    ):
        raise StudyRefused(
            "the two segmentations have different frames of reference", code="frame-of-reference-differs"
        )
    if true_whole:
        grid = grid_of(truth)
    else:
        grid = grid_of(prediction) if predicted_whole else covering_grid(truth, prediction)
    return lay_on_grid(prediction, grid, whole=predicted_whole), lay_on_grid(truth, grid, whole=true_whole)


def read_mask(path: Path) -> tuple[Volume, bool]:
    """Return a mask and whether its file covers a whole image (NIfTI) or only the slices that it needs (SEG).

    Raises
    ------
    StudyRefused, PipelineError
        The file cannot be read, or holds something else than labels.
    """
    if not path.name.endswith(_NIFTI):
        return read_segmentation(path), False
    volume = read_nifti(path, _NO_FRAME)
    labels = np.rint(volume.array)
    if np.abs(labels - volume.array).max() > 1e-3 or labels.min() < 0:
        raise StudyRefused(
            (
                f"{path.name} holds other values than labels 0, 1, 2, ...: it is no mask; apply a "
                "threshold first."
            ),
            code="not-a-mask",
        )
    return volume.with_array(labels.astype(np.int64)), True


def read_pairs_problem(pairs: Iterable[tuple[Pair, CaseRefused]]) -> NodeError:
    """Return the error that names every pair that cannot be compared."""
    return NodeError(
        _listed(
            "these cases cannot be compared",
            [f"{pair.name}: {problem} ({problem.code})" for pair, problem in pairs],
        )
    )


def _choose(folder: Path) -> list[Path]:
    files = sorted(files_below(folder))
    images = [path for path in files if path.name.endswith(_NIFTI)]
    masks = [
        path
        for path in images
        if path.name.startswith("sub-") and _stem(path).endswith("_mask") and not _is_other_mask(path.name)
    ]
    return masks or images or [path for path in files if _is_segmentation(path)]


def _is_other_mask(name: str) -> bool:
    """Whether a BIDS mask says that it is of something else.

    Label-L and a description with "lesion" say lesion, as does no word at all.
    """
    words = dict(entity.split("-", 1) for entity in name.split("_") if "-" in entity)
    label, description = words.get("label", ""), words.get("desc", "").lower()
    if label.lower() in ("l", "lesion") or "lesion" in description:
        return False
    return bool(label) or "brain" in description


def _is_segmentation(path: Path) -> bool:
    try:
        return str(pydicom.dcmread(path, specific_tags=["SOPClassUID"]).get("SOPClassUID")) == SEG_CLASS
    except (InvalidDicomError, OSError, EOFError):
        return False


def _case_name(path: Path, folder: Path, same_name: bool) -> str:
    relative = path.relative_to(folder).as_posix()
    entities = list(dict.fromkeys(_ENTITY.findall(relative)))
    if any(entity.startswith("sub-") for entity in entities):
        return "_".join(entities)
    return path.parent.relative_to(folder).as_posix() if same_name and path.parent != folder else _stem(path)


def _stem(path: Path) -> str:
    return path.name.removesuffix(".gz").removesuffix(".nii").removesuffix(".dcm")


def _listed(head: str, problems: list[str], limit: int = 20) -> str:
    remainder = [f"and {len(problems) - limit} more"] if len(problems) > limit else []
    return "\n  ".join([f"{head}:", *problems[:limit], *remainder])
