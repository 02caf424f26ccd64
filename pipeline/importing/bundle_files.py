"""Writes an imported network as a bundle.

Built beside the models, looked at whole, then moved into place in one step.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import onnx

from pipeline.bundles.bundle import Bundle
from pipeline.bundles.manifest import GRAPH, MANIFEST
from pipeline.importing.problem import ImportProblem
from pipeline.segmenters.families import load_bundle

_NAME = r"[a-z0-9][a-z0-9.-]{0,63}"


@contextmanager
def staged_bundle(models: Path, name: str, version: str) -> Iterator[Path]:
    """Give an empty folder `.../<name>/<version>`.

    When the block ends well it becomes `models/<name>/<version>`, else nothing is left.

    Raises
    ------
    ImportProblem
        The name cannot be a folder's, or the bundle is there already.
    """
    for name_part in (name, version):
        if not re.fullmatch(_NAME, name_part):
            raise ImportProblem(
                f"{name_part!r} cannot name a bundle: small letters, digits, '-' and '.' only, at most 64"
            )
    target = models / name / version
    if target.exists():
        raise ImportProblem(
            f"{name}/{version} is there already; remove it first, or give another name or version"
        )
    models.mkdir(parents=True, exist_ok=True)
    # Beside the target, so that the last step is one rename; deeper than `list_bundles` looks.
    scratch = Path(mkdtemp(prefix=".import-", dir=models))
    try:
        folder = scratch / name / version
        folder.mkdir(parents=True)
        yield folder
        target.parent.mkdir(exist_ok=True)
        folder.rename(target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        if target.parent.is_dir() and not any(target.parent.iterdir()):
            target.parent.rmdir()


def write_bundle(
    folder: Path, graphs: Mapping[str, onnx.ModelProto], manifest: Mapping[str, Any], card: str
) -> Bundle:
    """Write graphs, manifest and card into a folder and read them back as a bundle.

    Raises
    ------
    BundleError
        What was written is not a bundle that the node would take.
    """
    digests = {}
    for name, model in graphs.items():
        data = model.SerializeToString()
        (folder / name).write_bytes(data)
        digests[name] = hashlib.sha256(data).hexdigest()
    write_manifest(folder, {**manifest, "files": digests})
    (folder / "CARD.md").write_text(card, encoding="utf-8")
    return load_bundle(folder)


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Write `model.toml`."""
    lines = [f"{key} = {toml_value(value)}" for key, value in manifest.items() if not isinstance(value, dict)]
    for section, values in manifest.items():
        if isinstance(values, dict):
            lines += [
                "",
                f"[{section}]",
                *(f"{json.dumps(key)} = {toml_value(value)}" for key, value in values.items()),
            ]
    (folder / MANIFEST).write_text("\n".join(lines) + "\n", encoding="utf-8")


def toml_value(value: Any) -> str:
    """Return a value as TOML; strings, numbers and truth values are written as in JSON."""
    if isinstance(value, Mapping):
        return (
            "{ " + ", ".join(f"{json.dumps(key)} = {toml_value(item)}" for key, item in value.items()) + " }"
        )
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(toml_value(item) for item in value) + "]"
    # TOML has no escape for DEL, which JSON leaves as it is.
    return json.dumps(value).replace("\x7f", "\\u007f")


def graph_name(number: int) -> str:
    """Return the file name of fold `number`, counted from 0: the first is `model.onnx`.

    >>> graph_name(0), graph_name(2)
    ('model.onnx', 'fold-2.onnx')
    """
    return GRAPH if number == 0 else f"fold-{number}.onnx"
