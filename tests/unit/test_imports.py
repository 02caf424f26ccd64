"""Data flows one way: every import of the tree is held against the table of rooms (scripts/house.py)."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.house import EVERYWHERE, ROOMS, Room, owner

OURS = ("dicomnode", "pipeline")
LIBRARIES_EVERYWHERE = {"structlog", "__future__"}


def modules_below(root: Path) -> dict[str, Path]:
    """Dotted name -> file of every module of ours below `root`."""
    paths = [path for package in OURS for path in (root / package).rglob("*.py")]
    return {
        ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): path
        for path in paths
    }


def imported_names(path: Path, modules: dict[str, Path]) -> Iterator[str]:
    """Dotted name of every module that a file imports; a relative import gives a name that starts with a dot."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            for alias in node.names:
                yield f"{base}.{alias.name}" if f"{base}.{alias.name}" in modules else base


def allowed(room: Room, name: str) -> bool:
    """Whether a file of `room` may import `name`."""
    top = name.split(".", maxsplit=1)[0]
    if top not in OURS:
        return top in sys.stdlib_module_names or top in LIBRARIES_EVERYWHERE or top in room.libraries
    if name in OURS or name in EVERYWHERE or "*" in room.rooms:
        return True
    return any(name == other or name.startswith(other + ".") for other in (room.name, *room.rooms))


def violations(root: Path) -> list[str]:
    """One line for each import that the table does not allow."""
    modules = modules_below(root)
    found = []
    for module, path in sorted(modules.items()):
        if module in OURS:
            continue
        room = owner(module)
        if room is None:
            found.append(f"{module} is in no room of scripts/house.py")
            continue
        found += [
            f"{module} imports {name}" for name in imported_names(path, modules) if not allowed(room, name)
        ]
    return found


@pytest.mark.parametrize(
    ("file", "line", "verdict"),
    [
        (
            "pipeline/geometry.py",
            "from dicomnode.settings.config import Config",
            "pipeline.geometry imports dicomnode.settings.config",
        ),
        ("pipeline/geometry.py", "import torch", "pipeline.geometry imports torch"),
        (
            "dicomnode/network/handlers.py",
            "from dicomnode import ledger",
            "dicomnode.network.handlers imports dicomnode.ledger",
        ),
        (
            "dicomnode/delivery/deliver.py",
            "import dicomnode.network.association",
            "dicomnode.delivery.deliver imports dicomnode.network.association",
        ),
        *(
            (
                f"dicomnode/results/verify/{builder}.py",
                f"import dicomnode.results.{builder}",
                f"dicomnode.results.verify.{builder} imports dicomnode.results.{builder}",
            )
            for builder in ("report", "seg", "companions", "words", "headers", "provenance", "last_resort")
        ),
        ("dicomnode/errors.py", "def late():\n    from . import records", "dicomnode.errors imports ."),
        ("dicomnode/utils.py", "", "dicomnode.utils is in no room of scripts/house.py"),
    ],
)
def test_a_planted_violation_is_caught(tmp_path: Path, file: str, line: str, verdict: str) -> None:
    for name in ("dicomnode/__init__.py", "dicomnode/ledger/__init__.py", "pipeline/__init__.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert violations(tmp_path) == []
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_text(line)

    assert violations(tmp_path) == [verdict]


def test_every_import_of_the_tree_is_allowed(repo_root: Path) -> None:
    assert len(modules_below(repo_root)) > 30
    assert violations(repo_root) == []


def test_every_room_of_the_table_has_a_real_target() -> None:
    names = {room.name for room in ROOMS}
    targets = {target for room in ROOMS for target in room.rooms if target != "*"}

    assert len(names) == len(ROOMS)
    assert {target for target in targets if owner(target) is None} == set()


@pytest.mark.parametrize(
    "module",
    [
        "dicomnode.network.association",
        "dicomnode.spool.writer",
        "dicomnode.ledger.ledger",
        "dicomnode.processes.app",
    ],
)
def test_the_receiving_side_stays_light(repo_root: Path, module: str) -> None:
    heavy = "{'onnxruntime', 'SimpleITK', 'highdicom', 'dicom2nifti', 'distributed', 'pipeline.run', 'torch', 'scipy'}"
    program = f"import sys, {module}; print(sorted({heavy} & set(sys.modules)))"

    answer = subprocess.run(
        [sys.executable, "-c", program], cwd=repo_root, capture_output=True, text=True, check=True
    )

    assert answer.stdout.strip() == "[]"
