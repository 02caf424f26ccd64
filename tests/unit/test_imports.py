"""Data flows one way: every import of the tree is held against the table of rooms (scripts/house.py)."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dicomnode.processes.locks import lock_file
from scripts.house import EVERYWHERE, ROOMS, Room, owner
from tests.factories.nifti import save_volume
from tests.factories.volumes import AXIAL, draw_head, grid_affine

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


LIGHT = (
    "dicomnode.network.association",
    "dicomnode.spool.writer",
    "dicomnode.ledger.ledger",
    "dicomnode.processes.app",
)
HEAVY = (
    "onnxruntime",
    "SimpleITK",
    "highdicom",
    "dicom2nifti",
    "distributed",
    "pipeline.run",
    "torch",
    "scipy",
)
IMPORT_EACH = """
import importlib, sys
light, heavy = (names.split(",") for names in sys.argv[1:])
for name in light:
    importlib.import_module(name)
    print(name, *sorted(set(heavy) & set(sys.modules)))
"""


@pytest.fixture(scope="module")
def heavy_after(repo_root: Path) -> dict[str, list[str]]:
    """Module of `LIGHT` -> what was loaded of `HEAVY` once it and those before it had been imported."""
    answer = subprocess.run(
        [sys.executable, "-c", IMPORT_EACH, ",".join(LIGHT), ",".join(HEAVY)],
        cwd=repo_root,
        capture_output=True,
        text=True,
        check=True,
    )
    return {module: loaded for module, *loaded in map(str.split, answer.stdout.splitlines())}


@pytest.mark.parametrize("module", LIGHT)
def test_the_receiving_side_stays_light(heavy_after: dict[str, list[str]], module: str) -> None:
    assert heavy_after[module] == []


# What Windows lacks. asyncio, psutil and locket have a branch of their own for each system, and that of Linux needs it.
WITHOUT_UNIX = (
    "import asyncio, locket, os, psutil, signal, socket, sys\n"
    "sys.modules['fcntl'] = None\n"
    "for module, names in ((socket, ('AF_UNIX',)), (signal, ('SIGHUP',)),"
    " (os, ('getuid', 'getgid', 'nice', 'O_DIRECTORY', 'O_PATH', 'O_CLOEXEC'))):\n"
    "    [delattr(module, name) for name in names if hasattr(module, name)]\n"
)


def run_without_unix(root: Path, program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", WITHOUT_UNIX + program], cwd=root, capture_output=True, text=True, check=False
    )


@pytest.mark.slow
def test_work_on_files_and_the_pages_need_nothing_that_windows_lacks(repo_root: Path) -> None:
    modules = (
        *("dicomnode.commands.cli", "dicomnode.offline.batch", "dicomnode.offline.evaluation"),
        *("dicomnode.web.server", "dicomnode.web.application", "dicomnode.web.child", "dicomnode.api"),
        *("pipeline.segmenters.benchmark", "dicomnode.commands.models", "dicomnode.web.open_site"),
    )

    imported = run_without_unix(repo_root, f"import {', '.join(modules)}; print('imported')")

    assert (imported.stdout.strip(), imported.stderr) == ("imported", "")


def test_no_module_of_ours_imports_what_windows_lacks_when_it_is_imported(repo_root: Path) -> None:
    at_import = {
        f"{module} imports {name}"
        for module, path in modules_below(repo_root).items()
        for statement in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(statement, ast.Import | ast.ImportFrom)
        for name in [getattr(statement, "module", None), *(alias.name for alias in statement.names)]
        if name in {"fcntl", "resource", "pwd", "grp", "termios"} and not module.startswith("scripts")
    }

    assert at_import == set()


def test_what_is_taken_away_for_this_is_really_gone(repo_root: Path) -> None:
    assert "ModuleNotFoundError" in run_without_unix(repo_root, "import fcntl").stderr
    assert "AttributeError" in run_without_unix(repo_root, "import socket; socket.AF_UNIX").stderr


@pytest.mark.slow
def test_the_networks_are_listed_without_what_windows_lacks(repo_root: Path) -> None:
    program = "from dicomnode.commands.cli import main; sys.argv = ['dicomnode', 'models', 'list']; main()"

    listed = run_without_unix(repo_root, program)

    assert listed.returncode == 0, listed.stderr
    assert "brain-extractor-3mm" in listed.stdout


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_head_is_segmented_without_what_windows_lacks(repo_root: Path, tmp_path: Path) -> None:
    flair = tmp_path / "flair.nii.gz"
    save_volume(flair, draw_head((44, 84, 70), grid_affine((44, 84, 70), (3.4, 2.2, 2.2), directions=AXIAL)))
    words = ["segment", "--flair", str(flair), "-o", str(tmp_path / "out")]

    done = run_without_unix(
        repo_root, f"from dicomnode.commands.cli import main; sys.argv = ['dicomnode', *{words}]; main()"
    )

    # A drawn ball is no head: the answer is a refusal, by name, and every file of the dataset is there.
    assert "Traceback" not in done.stdout + done.stderr
    assert (tmp_path / "out" / "cases.tsv").is_file()


def test_a_lock_is_held_by_one_process_only(tmp_path: Path, repo_root: Path) -> None:
    path = tmp_path / "one.lock"
    program = (
        "import sys; from pathlib import Path; from dicomnode.processes.locks import lock_file\n"
        "with Path(sys.argv[1]).open('a') as handle: lock_file(handle)"
    )
    command = [sys.executable, "-c", program, str(path)]
    with path.open("a") as handle:
        lock_file(handle)
        second = subprocess.run(command, cwd=repo_root, capture_output=True, text=True, check=False)
    after = subprocess.run(command, cwd=repo_root, capture_output=True, text=True, check=False)

    assert "BlockingIOError" in second.stderr
    assert after.returncode == 0
