"""An upload answered, in a process of its own.

Archives are unpacked within limits; then comes the path of `dicomnode segment`.
"""

from __future__ import annotations

import json
import shutil
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING

from dicomnode.errors import StudyRefused
from dicomnode.records import Role
from dicomnode.settings.config import Config
from pipeline.counts import counted

if TYPE_CHECKING:
    from dicomnode.offline.cases import OfflineCase

_CHUNK = 2**20
_ENCRYPTED = 0x1
_ZIP_PROBLEMS = (zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError, RuntimeError)
NIFTI_SUFFIXES: Mapping[Role, str] = {"flair": "-flair", "t1": "-t1"}
"""What the name of an uploaded NIfTI file ends in, before `.nii` or `.nii.gz`, by its role."""


@dataclass(frozen=True)
class UploadTask:
    """The folder of an upload, and the settings that it is answered with."""

    folder: Path
    config: Config


def answer_upload(task: UploadTask) -> None:
    """Answer every study of an upload and write `answer.json`.

    Raises
    ------
    StudyRefused
        An archive cannot be unpacked, or nothing in the upload can be segmented.
    """
    from dicomnode.offline import batch
    from dicomnode.offline.cases import OfflineTask, answer_case

    output = task.folder / "out"
    shutil.rmtree(output, ignore_errors=True)

    def say(sentence: str) -> None:
        partial = task.folder / "progress.partial"
        partial.write_text(sentence, encoding="utf-8")
        partial.replace(task.folder / "progress")

    say("unpacking")
    unpack_archives(
        task.folder / "in", task.config.web.upload_maximum_files, task.config.web.upload_maximum_mb
    )
    cases = list(_cases(task.folder / "in"))
    if not cases:
        raise StudyRefused(
            "There is no MR study in this upload: neither DICOM images nor a NIfTI file.", code="no-input"
        )
    batch.open_output(task.config, output, None)
    answers = []
    for number, case in enumerate(cases, start=1):
        prefix = f"study {number} of {len(cases)}: " if len(cases) > 1 else ""
        answer = answer_case(OfflineTask(case, task.config, output), _prefixed(say, prefix))
        answers.append(
            {
                "case": answer.label.stem,
                "folder": str(answer.label.folder),
                "outcome": answer.outcome,
                "summary": answer.summary,
                "seconds": round(answer.seconds, 1),
            }
        )
    (task.folder / "answer.json").write_text(json.dumps(answers), encoding="utf-8")
    (task.folder / "progress").unlink(missing_ok=True)


def unpack_archives(folder: Path, maximum_files: int, maximum_mb: int) -> None:
    """Unpack every zip of a folder next to it, by names of ours, and remove it.

    Raises
    ------
    StudyRefused
        It is damaged, encrypted, leads out of its folder, or holds more than an upload may have.
    """
    room_bytes, room_files = maximum_mb * 2**20, maximum_files
    for archive in sorted(folder.glob("*.zip")):
        try:
            with zipfile.ZipFile(archive) as opened:
                members = [member for member in opened.infolist() if not member.is_dir()]
                _check_members(members, room_files)
                for number, member in enumerate(members, start=1):
                    target = folder / f"{archive.stem}-{number:06d}{_kind_suffix(member.filename)}"
                    with opened.open(member) as source:
                        room_bytes -= _copy(source, target, room_bytes)
                room_files -= len(members)
        except _ZIP_PROBLEMS as problem:
            raise StudyRefused(
                f"The zip file is damaged or of an unusual kind ({type(problem).__name__}).",
                code="zip-unreadable",
            ) from None
        archive.unlink()


def _check_members(members: list[zipfile.ZipInfo], room_files: int) -> None:
    if len(members) > room_files:
        raise StudyRefused(
            f"The zip file holds {counted(len(members), 'file')}, more than an upload may have.",
            code="zip-too-large",
        )
    for member in members:
        path = PurePosixPath(member.filename.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts or ":" in path.parts[0]:
            raise StudyRefused(
                "The zip file has names that lead out of its folder; "
                "it was made to do harm, or by a broken program.",
                code="zip-path",
            )
        if member.flag_bits & _ENCRYPTED:
            raise StudyRefused("The zip file is encrypted; pack it without a password.", code="zip-encrypted")


def _copy(source: IO[bytes], target: Path, room_bytes: int) -> int:
    """Copy a member and return its size; what its header says of that is not believed."""
    count = 0
    with target.open("wb") as file:
        while chunk := source.read(_CHUNK):
            count += len(chunk)
            if count > room_bytes:
                raise StudyRefused(
                    "The zip file unpacks to more than an upload may have.", code="zip-too-large"
                )
            file.write(chunk)
    return count


def _kind_suffix(filename: str) -> str:
    """Return the suffix of a member by which its kind is known later.

    A NIfTI file's suffix includes its role, as its name says.
    """
    name = filename.lower()
    for suffix in (".nii.gz", ".nii"):
        if name.endswith(suffix):
            role = guess_role(name)
            return f"{NIFTI_SUFFIXES[role] if role else ''}{suffix}"
    return ".dcm"


def guess_role(name: str) -> Role | None:
    """Return the role that a file's name says.

    >>> guess_role("sub-1_FLAIR.nii.gz"), guess_role("T1w.nii"), guess_role("image.nii")
    ('flair', 't1', None)
    """
    base = name.lower().replace("\\", "/").rpartition("/")[2]
    return "flair" if "flair" in base else "t1" if "t1" in base or "mprage" in base else None


def _prefixed(say: Callable[[str], None], prefix: str) -> Callable[[str], None]:
    return lambda words: say(prefix + words)


def _cases(folder: Path) -> Iterator[OfflineCase]:
    from dicomnode.offline.cases import dicom_cases, nifti_case

    images: dict[Role, Path] = {
        role: path
        for role, ending in NIFTI_SUFFIXES.items()
        for path in sorted(folder.glob(f"*{ending}.nii*"))[:1]
    }
    if images:
        yield nifti_case(images)
    yield from dicom_cases([folder], lambda _words: None)
