"""The pages of a node in this process: a real ledger and spool in a folder, a clock that tests turn, a browser's client."""

from __future__ import annotations

import functools
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import argon2
import pytest
from starlette.testclient import TestClient

from dicomnode.audit.events import AuditEvent
from dicomnode.settings.config import Config, parse_config
from dicomnode.web import users as users_module
from dicomnode.web.application import make_application
from dicomnode.web.open_site import open_site
from dicomnode.web.site import Site
from dicomnode.web.users import UserRole, write_user
from tests.factories.ledger import LedgerStory, new_ledger

PASSWORD = "correct horse battery"
# As argon2's own default costs a tenth of a second a hash, which tests need not pay.
_CHEAP = argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
_FORM_TOKEN = re.compile(r'name="form_token" value="([0-9a-f]+)"')


@dataclass
class Clock:
    """Seconds since the epoch, turned by hand."""

    now: float = 1_000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Pages:
    """What a test may look at and turn."""

    site: Site
    client: TestClient
    clock: Clock
    story: LedgerStory
    audited: list[AuditEvent] = field(default_factory=list)

    def log_in(self, name: str = "rita", password: str = PASSWORD, client: TestClient | None = None) -> Any:
        """Log in as a browser does: load the form, send it back."""
        browser = client or self.client
        browser.get("/login")
        return browser.post(
            "/login",
            data={"name": name, "password": password, "form_token": self.form_token("/login", browser)},
            follow_redirects=False,
        )

    def form_token(self, path: str, client: TestClient | None = None) -> str:
        """Return the token of the first form of a page."""
        match = _FORM_TOKEN.search((client or self.client).get(path).text)
        assert match is not None, f"{path} has no form"
        return match[1]

    def new_client(self, address: str = "testclient") -> TestClient:
        """Return another browser."""
        return TestClient(
            self.client.app,
            base_url="http://127.0.0.1",
            client=(address, 5000),
            headers={"accept": "text/html"},
        )

    def kinds(self) -> list[str]:
        """Return the kinds of what was audited, in order."""
        return [event.kind for event in self.audited]


@functools.cache
def _empty_ledger() -> bytes:
    """Return the file of a ledger that was migrated once: a copy opens ten times as fast as a new one."""
    with tempfile.TemporaryDirectory() as folder:
        new_ledger(Path(folder)).close()
        return (Path(folder) / "ledger.sqlite3").read_bytes()


@contextmanager
def open_pages(folder: Path, **web: Any) -> Iterator[Pages]:
    """Open the pages of a node below `folder`; users rita, otto and anna are reader, operator and administrator."""
    folder.mkdir(parents=True, exist_ok=True)
    users_file = folder / "users"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(users_module, "_HASHER", _CHEAP)
        patch.setattr(users_module, "_NOBODY", _CHEAP.hash("nobody"))
        for name, role in (("rita", 1), ("otto", 2), ("anna", 3)):
            write_user(users_file, name, UserRole(role), PASSWORD)
        config: Config = parse_config(
            {
                "storage": {"root": str(folder / "node"), "minimum_free_mb": 1},
                "web": {"enabled": True, "users": str(users_file), **web},
            }
        )
        config.storage.root.mkdir(mode=0o700)
        (config.storage.root / "ledger.sqlite3").write_bytes(_empty_ledger())
        ledger = new_ledger(config.storage.root)
        audited: list[AuditEvent] = []
        clock = Clock()
        site = open_site(config, ledger, audited.append, lambda _config: (), lambda _config: (), clock)
        pages = Pages(site, TestClient(make_application(site)), clock, LedgerStory(ledger), audited)
        pages.client = pages.new_client()
        try:
            yield pages
        finally:
            site.close()
            ledger.close()
