"""A raw BIDS dataset read: which T1w and FLAIR each subject and session has.

What cannot be chosen is said, not guessed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dicomnode.offline.bids.names import SUFFIX_OF, CaseLabel, entities_of
from dicomnode.records import Role

_IMAGES = (".nii.gz", ".nii")


@dataclass(frozen=True)
class BidsCase:
    """One subject or session: its images, relative to the dataset, or the `problem` for which it has none."""

    label: CaseLabel
    files: Mapping[Role, Path] = field(default_factory=dict)
    problem: str = ""


def is_bids(folder: Path) -> bool:
    """Return whether a folder is the root of a BIDS dataset."""
    return (folder / "dataset_description.json").is_file()


def find_bids_cases(root: Path, select: str = "") -> tuple[BidsCase, ...]:
    """Return the cases of a dataset, by subject and session.

    Parameters
    ----------
    select
        Text such as "acq-high" or "run-1" that decides where a session has several images of one kind.
    """
    folders = [
        folder
        for subject in sorted(root.glob("sub-*"))
        for folder in (sorted(subject.glob("ses-*")) or [subject])
        if folder.is_dir()
    ]
    return tuple(case for folder in folders if (case := _read_case(root, folder, select)) is not None)


def _read_case(root: Path, folder: Path, select: str) -> BidsCase | None:
    entity_values = [folder_name.split("-", 1)[1] for folder_name in folder.relative_to(root).parts]
    try:
        label = CaseLabel(*entity_values)
    except ValueError:
        return None
    files: dict[Role, Path] = {}
    problems = []
    for role, suffix in SUFFIX_OF.items():
        image_paths = _images(folder / "anat", suffix)
        selected_paths = (
            image_paths
            if len(image_paths) < 2 or not select
            else [path for path in image_paths if select in path.name]
        )
        if len(selected_paths) == 1:
            files[role] = selected_paths[0].relative_to(root)
        elif len(image_paths) > 1:
            names = ", ".join(path.name for path in image_paths)
            problems.append(
                f"there are {len(image_paths)} {suffix} images ({names}); --select must name one of "
                "them, such as --select run-1"
            )
    if problems:
        return BidsCase(label, {}, "; ".join(problems))
    return BidsCase(label, files, "" if files else "there is neither a T1w nor a FLAIR image in anat/")


def _images(folder: Path, suffix: str) -> list[Path]:
    """Return the images of one suffix; those after contrast agent and derived parts are none of ours."""
    paths: Iterable[Path] = sorted(
        path for extension in _IMAGES for path in folder.glob(f"sub-*_{suffix}{extension}")
    )
    return [path for path in paths if not {"ce", "part", "echo"} & entities_of(path.name).keys()]
