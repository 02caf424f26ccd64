"""What is kept and written down: [storage], [audit] and [log]."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from pydantic import Field, field_serializer

from dicomnode.settings.section import Section


class StorageSettings(Section):
    """Where everything is kept."""

    root: Path = Field(
        Path("/var/lib/dicomnode"),
        description="Folder of the spool and the ledger; private to the service user.",
    )
    ledger_url: str = Field(
        "",
        description="SQLAlchemy URL of the ledger; empty: an SQLite file in the root folder. A password "
        "for PostgreSQL belongs into the file that PGPASSFILE names, not here.",
    )
    minimum_free_mb: int = Field(
        1024, ge=0, description="Below this free space new instances are answered 0xA700, in MiB."
    )
    resume_free_mb: int = Field(
        2048,
        ge=0,
        description="Once that was so, instances are taken again from so much free space on, in MiB.",
    )
    journal_mb: int = Field(
        512,
        ge=0,
        description="What is received is made safe in a journal first and becomes files soon after, which is "
        "faster and as safe. Largest size of the journal in MiB, in segments of 64; 0: none, each instance "
        "is a file of its own before it is acknowledged.",
    )
    keep_days: float = Field(
        14, gt=0, description="Answered and delivered studies are removed after so many days."
    )

    @field_serializer("ledger_url", when_used="json")
    def _without_password(self, url: str) -> str:
        return re.sub(r"(?<=:)[^:@/]+(?=@)", "***", url)

    @property
    def spool(self) -> Path:
        """Root of the spool."""
        return self.root / "spool"

    @property
    def database_url(self) -> str:
        """The ledger's URL, defaulted."""
        return self.ledger_url or f"sqlite:///{self.root / 'ledger.sqlite3'}"


class AuditSettings(Section):
    """Who came, what came, where it went (PS3.15 A.5).

    Always in audit/audit.jsonl below storage.root, and at a syslog server if there is one.
    """

    syslog_host: str = Field(
        "", description="Audit record repository that takes RFC 5424 messages; empty: none."
    )
    syslog_port: int = Field(6514, ge=1, le=65535, description="Its TCP port.")
    syslog_tls: bool = Field(True, description="Connect to it with TLS (RFC 5425): needs [tls].")


class LogSettings(Section):
    """What is logged."""

    level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least severe level that is written."
    )
    format: Literal["console", "json"] = Field("console", description="For people or for machines.")
