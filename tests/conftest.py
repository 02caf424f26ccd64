"""Fixtures of the whole suite: outside tools, real data, strict DICOM writing."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pydicom.config
import pynetdicom._config
import pytest
import structlog
from hypothesis import HealthCheck, settings

# A busy machine is slow, and that says nothing about what is tested.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")

ROOT = Path(__file__).resolve().parent.parent
# `timeout` of pyproject.toml.
DEFAULT_TIMEOUT_S = 120.0


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out the folders of the training tests where none of them is asked for: torch takes seconds to import."""
    if collection_path in (ROOT / "tests" / "training", ROOT / "tests" / "importing"):
        return "not train" in config.option.markexpr or None
    return None


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start the slow modules that may take longest first, so that two workers end together."""
    allowed_s: dict[str, float] = {}
    for item in items:
        if {"slow", "tools", "faults"} & {mark.name for mark in item.iter_markers()}:
            timeout = item.get_closest_marker("timeout")
            seconds = timeout.args[0] if timeout and timeout.args else DEFAULT_TIMEOUT_S
            module = item.nodeid.partition("::")[0]
            allowed_s[module] = allowed_s.get(module, 0.0) + seconds
    items.sort(key=lambda item: -allowed_s.get(item.nodeid.partition("::")[0], 0.0))


def find_tool(name: str, ci: bool) -> str:
    """Return the path of an outside program; without it fail where `ci` is set and skip elsewhere."""
    # Neither dcmqi's programs, beside the interpreter, nor servers such as Orthanc need be on PATH.
    found = shutil.which(name) or shutil.which(
        name, path=f"{Path(sys.executable).parent}:/usr/sbin:/usr/local/sbin"
    )
    if found is None:
        reason = f"{name} is not installed"
        if ci:
            pytest.fail(f"{reason}; CI must have it", pytrace=False)
        pytest.skip(reason)
    return found


@pytest.fixture
def require_tool() -> Callable[[str], str]:
    """Give a function: program name -> its path; skips on a laptop without it, fails in CI."""
    return lambda name: find_tool(name, ci=bool(os.environ.get("CI")))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of the real studies beside the checkout; they are never committed, so their absence skips."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the real studies (../shared/data) are not on this machine")
    return folder


@pytest.fixture(scope="session")
def repo_root() -> Path:
    """Root of the checkout."""
    return ROOT


@pytest.fixture(autouse=True)
def strict_dicom() -> Iterator[None]:
    """Write strictly, as highdicom's own tests do, and put back every process-wide switch that a test turned."""
    settings = pydicom.config.settings
    reading, writing = settings.reading_validation_mode, settings.writing_validation_mode
    network = {name: value for name, value in vars(pynetdicom._config).items() if name.isupper()}
    settings.writing_validation_mode = pydicom.config.RAISE
    yield
    settings.reading_validation_mode, settings.writing_validation_mode = reading, writing
    for name, value in network.items():
        setattr(pynetdicom._config, name, value)
    structlog.reset_defaults()
