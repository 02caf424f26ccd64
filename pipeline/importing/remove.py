"""Takes an installed bundle away, in one step that another process never sees half done."""

from __future__ import annotations

import contextlib
import re
import shutil
from pathlib import Path
from tempfile import mkdtemp

from pipeline.bundles.manifest import MANIFEST
from pipeline.errors import BundleError
from pipeline.importing.problem import ImportProblem
from pipeline.segmenters.families import read_manifest


def remove_bundle(models: Path, name: str) -> tuple[str, ...]:
    """Remove "name/version", or "name" when there is one version of it; return what was removed.

    Raises
    ------
    ImportProblem
        There is no such bundle, the name fits several versions, or an ensemble is made of it.
    """
    model, _, version = name.partition("/")
    name_parts = [model, *([version] if version else [])]
    if any(not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]*", name_part) for name_part in name_parts):
        raise ImportProblem(f"{name!r} is no bundle's name")
    folders = sorted(path.parent for path in (models / model).glob(f"{version or '*'}/{MANIFEST}"))
    if not folders:
        raise ImportProblem(f"there is no model bundle {name!r} in {models}", code="model-missing")
    if len(folders) > 1:
        versions = ", ".join(f"{model}/{folder.name}" for folder in folders)
        raise ImportProblem(f"{name!r} has several versions; name one of {versions}")
    named = f"{model}/{folders[0].name}"
    if ensembles := _ensembles_of(models, named):
        raise ImportProblem(f"{', '.join(ensembles)} is made of {named}: remove that first")
    # Renamed away first: whoever lists the models sees the bundle whole or not at all.
    scratch = Path(mkdtemp(prefix=".removed-", dir=models))
    try:
        folders[0].rename(scratch / "bundle")
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if not any((models / model).iterdir()):
        (models / model).rmdir()
    return (named,)


def _ensembles_of(models: Path, member: str) -> list[str]:
    """Return the ensembles that are made of this bundle; a manifest that cannot be read is none."""
    users = []
    for path in sorted(models.glob(f"*/*/{MANIFEST}")):
        with contextlib.suppress(BundleError):
            if member in read_manifest(path).family_spec.member_digests:
                users.append(f"{path.parent.parent.name}/{path.parent.name}")
    return users
