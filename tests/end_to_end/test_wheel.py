"""What a user installs: the wheel, in a clean environment outside the tree, runs demonstration and file commands."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

# What may be tried; 3.14 is there for machines that have it.
PYTHON_MINORS = (11, 12, 13, 14)


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Build both wheels of the checkout; returns name -> file."""
    root = Path(__file__).resolve().parents[2]
    folder = tmp_path_factory.mktemp("wheels")
    for project in (root, root / "models"):
        subprocess.run(
            [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, project],
            check=True,
            timeout=300,
        )
    return {path.name.split("-")[0]: path for path in folder.glob("*.whl")}


@pytest.fixture(scope="module")
def installed(wheels: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the first wheel with the locked versions into an environment of its own; returns its folder of programs."""
    return _install(sys.executable, wheels["dicomnode_stroke"], tmp_path_factory.mktemp("clean"))


def _install(python: str, wheel: Path, folder: Path) -> Path:
    root = Path(__file__).resolve().parents[2]
    environment = folder / "venv"
    subprocess.run([python, "-m", "venv", environment], check=True, timeout=120)
    # `.ci/run` has nothing compiled in its own environments; a user's pip compiles.
    options = ["--quiet", "--disable-pip-version-check", "--compile"]
    pip = [environment / "bin" / "python", "-m", "pip", "install", *options]
    subprocess.run([*pip, "--requirement", root / "requirements.lock"], check=True, timeout=500)
    subprocess.run([*pip, "--no-deps", wheel], check=True, timeout=120)
    return environment / "bin"


def _python(minor: int) -> str | None:
    """Return a Python 3.`minor` of this machine that makes environments, on PATH or of pyenv."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    installed = [
        shutil.which(f"python3.{minor}"),
        *sorted(pyenv.glob(f"3.{minor}.*/bin/python"), reverse=True),
    ]
    check = f"import ensurepip, sys, venv; sys.exit(sys.version_info[:2] != (3, {minor}))"
    for program in filter(None, installed):
        if (
            subprocess.run([program, "-c", check], capture_output=True, timeout=60, check=False).returncode
            == 0
        ):
            return str(program)
    return None


def _run(program: Path, *words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [program, *words], cwd=cwd, capture_output=True, text=True, timeout=300, check=False
    )


def test_the_demonstration_runs_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    demo = _run(installed / "dicomnode", "demo", cwd=tmp_path)
    assert demo.returncode == 0, demo.stdout + demo.stderr
    assert "PACS: received Segmentation Storage" in demo.stdout
    assert len(list((tmp_path / "demo-out" / "pacs").glob("*.dcm"))) >= 2
    found = re.search(r"found: 3 lesions of ([\d., ]+) ml;", demo.stdout)
    planted_ml = [float(number) for number in re.findall(r"│ \d +│ ([\d.]+) ", demo.stdout)]
    assert found
    assert len(planted_ml) == 3
    assert sum(map(float, found[1].split(","))) == pytest.approx(sum(planted_ml), rel=0.1)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("minor", [minor for minor in PYTHON_MINORS if minor != sys.version_info.minor])
def test_the_demonstration_runs_on_every_other_python(
    wheels: dict[str, Path], tmp_path: Path, minor: int
) -> None:
    interpreters = {number: _python(number) for number in PYTHON_MINORS if number != sys.version_info.minor}
    python = interpreters[minor]
    if python is None:
        pytest.skip(f"no Python 3.{minor} on this machine")
    newest = max(number for number, program in interpreters.items() if program)
    if minor != newest and not os.environ.get("DICOMNODE_PYTHONS"):
        pytest.skip(
            "the newest Python stands for the others; set DICOMNODE_PYTHONS=1 to try each (a minute each)"
        )
    programs = _install(python, wheels["dicomnode_stroke"], tmp_path)
    version = _run(programs / "python", "--version", cwd=tmp_path).stdout
    assert version.startswith(f"Python 3.{minor}.")
    demo = _run(programs / "dicomnode", "demo", cwd=tmp_path)
    assert demo.returncode == 0, demo.stdout + demo.stderr
    assert "PACS: received Segmentation Storage" in demo.stdout


def test_the_environment_has_no_test_tools_and_the_networks_are_in_the_wheel(
    installed: Path, tmp_path: Path
) -> None:
    packages = _run(installed / "python", "-m", "pip", "list", cwd=tmp_path).stdout
    assert "dicomnode-stroke" in packages
    assert [
        name for name in ("pytest", "mypy", "hypothesis", "ruff", "torch", "dcmqi") if name in packages
    ] == []
    listed = _run(installed / "dicomnode", "models", "list", "--json", cwd=tmp_path)
    assert listed.returncode == 0
    assert "brain-extractor-3mm" in listed.stdout


def test_every_bundle_is_in_one_of_the_wheels(wheels: dict[str, Path], repo_root: Path) -> None:
    shipped = {
        f"dicomnode/models/{path.parent.relative_to(repo_root / 'models')}"
        for path in (repo_root / "models").glob("*/*/model.toml")
    }
    packed = [
        str(Path(name).parent)
        for wheel in wheels.values()
        for name in zipfile.ZipFile(wheel).namelist()
        if name.endswith("model.toml")
    ]
    assert sorted(packed) == sorted(shipped)
    # Both wheels write below dicomnode/models: a file that both hold would be removed with either.
    assert len(set(packed)) == len(packed)
    project = tomllib.loads((repo_root / "models" / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["dependencies"] == ["dicomnode-stroke"]
