"""The site of a configuration: users read, sessions empty, folders made."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from dicomnode.audit.events import Audit
from dicomnode.ledger.ledger import Ledger
from dicomnode.settings.config import Config
from dicomnode.spool.layout import SpoolLayout, make_durable_folders
from dicomnode.web.patient_index import PatientIndex
from dicomnode.web.prepared import PreparedCases
from dicomnode.web.sessions import Sessions
from dicomnode.web.site import Current, Site
from dicomnode.web.uploads import Uploads
from dicomnode.web.users import Users


def open_site(
    config: Config,
    ledger: Ledger,
    audit: Audit,
    examine: Callable[[Config], Iterable[Any]],
    models: Callable[[Config], Iterable[Mapping[str, str]]],
    now: Callable[[], float] = time.time,
) -> Site:
    """Return what the pages work with.

    Raises
    ------
    StartError
        The file of users cannot be used.
    """
    folder = config.storage.root / "web"
    make_durable_folders(folder, folder / "images", folder / "uploads")
    current = Current(config)
    uploads = Uploads(folder / "uploads", lambda: current.config, now)
    cases = PreparedCases(folder / "images", config.compute.memory_limit_mb * 2**20)
    cases.sweep()
    users = Users(config.web.users) if config.web.login and config.web.users else None
    layout = SpoolLayout(config.storage.spool)
    return Site(
        current=current,
        ledger=ledger,
        layout=layout,
        folder=folder,
        now=now,
        users=users,
        sessions=Sessions(config.web.idle_minutes * 60, config.web.session_hours * 3600),
        cases=cases,
        uploads=uploads,
        patients=PatientIndex(ledger, layout.root),
        audit=audit,
        examine=examine,
        models=models,
    )
