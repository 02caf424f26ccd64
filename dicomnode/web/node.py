"""The state of the node: versions, models, disk, queue, peers and destinations.

Its checks, settings and audit trail are shown as well.
"""

from __future__ import annotations

import json
import platform
import shutil
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from dicomnode import __version__
from dicomnode.audit.events import AuditEvent
from dicomnode.audit.trail import FILE
from dicomnode.web.pages import render
from dicomnode.web.site import AdministratingUser, Form, Here, Reader, Site

router = APIRouter()

_LIBRARIES = ("pydicom", "pynetdicom", "highdicom", "onnxruntime", "numpy", "fastapi")
_AUDIT_LINES = 200
# A line has some hundred bytes.
_AUDIT_TAIL_BYTES = 512 * 1024
_SECRET = ("password", "secret", "token", "credential")


@router.get("/node")
def show_node(request: Request, site: Here, visitor: Reader) -> Response:
    """Show the node as it is."""
    return _show(request, site)


@router.post("/node/doctor")
def run_checks(request: Request, site: Here, visitor: AdministratingUser, form: Form) -> Response:
    """Run the checks of `dicomnode doctor` and show them."""
    return _show(request, site, checks=list(site.examine(site.config)))


@router.get("/node/settings")
def show_settings(request: Request, site: Here, visitor: AdministratingUser) -> Response:
    """Show the configuration that holds now, without secrets."""
    values = hide_secrets(site.config.model_dump(mode="json"))
    return render(request, "settings.html", text=json.dumps(values, indent=2, ensure_ascii=False))


@router.get("/audit")
def show_audit(request: Request, site: Here, visitor: AdministratingUser) -> Response:
    """Show the end of the audit trail; looking at it is audited too."""
    site.audit(AuditEvent("audit-viewed", peer_host=visitor.address, user=visitor.user_name))
    return render(request, "audit.html", lines=read_audit(site.config.storage.root / "audit" / FILE))


def read_audit(path: Path) -> list[dict[str, Any]]:
    """Return the last lines of the audit trail, the newest first; a line that is none is left out."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _AUDIT_TAIL_BYTES))
            lines = file.read().splitlines()[-_AUDIT_LINES:]
    except OSError:
        return []
    entries = []
    for line in reversed(lines):
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict):
            entries.append(entry)
    return entries


def hide_secrets(values: Any, key: str = "") -> Any:
    """Return settings with the value of every secret hidden; a file that holds one may be named."""
    if isinstance(values, Mapping):
        return {name: hide_secrets(value, str(name)) for name, value in values.items()}
    if isinstance(values, list):
        return [hide_secrets(value, key) for value in values]
    is_secret = any(word in key.lower() for word in _SECRET) and not key.lower().endswith("_file")
    return "***" if is_secret and values else values


def _show(request: Request, site: Site, checks: list[Any] | None = None) -> Response:
    config, health = site.config, site.ledger.history.health()
    disk = shutil.disk_usage(config.storage.root)
    offers = {
        destination.name: site.ledger.offers.known(destination.name, destination.address)
        for destination in config.destinations
    }
    return render(
        request,
        "node.html",
        health=health,
        disk=disk,
        config=config,
        offers=offers,
        models=list(site.models(config)),
        versions=_versions(),
        checks=checks,
    )


def _versions() -> dict[str, str]:
    versions = {"dicomnode": __version__, "Python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions
