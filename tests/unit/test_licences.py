"""Nothing under the GPL is installed on a node, and every package says what its licence is."""

from __future__ import annotations

import pytest

from scripts import licences


def test_no_locked_package_is_under_the_gpl() -> None:
    stated = {name: licences.licence_of(name) for name in licences.locked_packages()}
    assert len(stated) > 60
    assert {name for name, licence in stated.items() if licences.is_gpl(licence)} == set()
    assert {name for name, licence in stated.items() if not licence} == set()


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
