"""A result folder, or a ZIP of one (nnU-Net's own export), found and unpacked.

Nothing that a foreign archive says is followed.
"""

from __future__ import annotations

import re
import shutil
import stat
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

from pipeline.importing.problem import ImportProblem

LARGEST_BYTES = 20 * 1024**3
_WANTED = (
    r"plans\.(json|pkl)|dataset\.json|checkpoint_(final|best)\.pth|model_(final|best)[a-z_]*\.model(\.pkl)?"
)
_V1_CHECKPOINTS = ("model_final_checkpoint.model", "model_best.model")
_V2_CHECKPOINTS = ("checkpoint_final.pth", "checkpoint_best.pth")


@dataclass(frozen=True)
class Results:
    """A trained network's folder: which nnU-Net wrote it, and fold name to checkpoint."""

    folder: Path
    version: int
    folds: dict[str, Path]


@contextmanager
def open_source(source: Path) -> Iterator[Path]:
    """Give the folder to look in.

    The source itself, or its ZIP unpacked into a folder that is removed afterwards.

    Raises
    ------
    ImportProblem
        It does not exist, is no folder and no ZIP, or the ZIP is not to be trusted.
    """
    if source.is_dir():
        yield source
        return
    if not source.is_file():
        raise ImportProblem(f"{source} does not exist")
    if not zipfile.is_zipfile(source):
        raise ImportProblem(f"{source} is neither a folder nor a ZIP file")
    with TemporaryDirectory(prefix="dicomnode-import-") as scratch:
        _unpack(source, Path(scratch))
        yield Path(scratch)


def _unpack(source: Path, target: Path) -> None:
    try:
        with zipfile.ZipFile(source) as archive:
            members = archive.infolist()
            for member in members:
                _check_member(member)
            needed_members = [
                member for member in members if re.fullmatch(_WANTED, PurePosixPath(member.filename).name)
            ]
            if sum(member.file_size for member in needed_members) > LARGEST_BYTES:
                raise ImportProblem(f"{source.name} would unpack to more than {LARGEST_BYTES // 1024**3} GiB")
            for member in needed_members:
                target_path = target / PurePosixPath(member.filename)
                target_path.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(member) as packed, target_path.open("wb") as file:
                    shutil.copyfileobj(packed, file, 1 << 20)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError) as problem:
        raise ImportProblem(f"{source.name} cannot be unpacked: {problem}") from None


def _check_member(member: zipfile.ZipInfo) -> None:
    path = PurePosixPath(member.filename)
    if path.is_absolute() or ".." in path.parts or "\\" in member.filename or ":" in member.filename:
        raise ImportProblem(
            f"the ZIP holds {member.filename!r}, which leads out of its folder; nothing was unpacked"
        )
    if stat.S_ISLNK(member.external_attr >> 16):
        raise ImportProblem(f"the ZIP holds the link {member.filename!r}; nothing was unpacked")


def find_results(root: Path, folds: tuple[str, ...] | None) -> Results:
    """Find the one result folder at or below `root`.

    The checkpoints are those of the folds that are asked for (None: all there are).

    Raises
    ------
    ImportProblem
        There is none, there are several, or a fold is missing.
    """
    plan_folders = sorted(
        {
            path.parent
            for name in ("plans.json", "plans.pkl")
            for path in root.rglob(name)
            if any(path.parent.glob("fold_*"))
        }
    )
    if not plan_folders:
        raise ImportProblem(
            f"{root.name} is no nnU-Net result folder: no plans.json or plans.pkl beside fold_* folders"
        )
    if len(plan_folders) > 1:
        names = ", ".join(str(path.relative_to(root)) for path in plan_folders)
        raise ImportProblem(f"{root.name} holds {len(plan_folders)} trained networks; name one of {names}")
    folder = plan_folders[0]
    version = 2 if (folder / "plans.json").exists() else 1
    if version == 2 and not (folder / "dataset.json").exists():
        raise ImportProblem(f"{folder.name} has no dataset.json beside plans.json")
    checkpoints = _V2_CHECKPOINTS if version == 2 else _V1_CHECKPOINTS
    # v1 calls the fold trained on everything "all", v2 "fold_all".
    fold_folders = {
        path.name.removeprefix("fold_"): path for path in sorted(folder.glob("fold_*")) if path.is_dir()
    }
    chosen = {}
    for fold in folds or tuple(fold_folders):
        if fold not in fold_folders:
            raise ImportProblem(f"fold {fold} is missing; {folder.name} has {', '.join(fold_folders)}")
        file = next(
            (fold_folders[fold] / name for name in checkpoints if (fold_folders[fold] / name).is_file()), None
        )
        if file is None:
            raise ImportProblem(f"fold {fold} has no checkpoint ({' or '.join(checkpoints)})")
        chosen[fold] = file
    return Results(folder, version, chosen)
