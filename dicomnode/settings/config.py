"""Every setting once: name, default, unit, help. TOML in, one frozen `Config` out; all problems are reported together.

Rules for this file and for `dicomnode/settings/`, where the tables are:
1. A setting that is not there does not exist; code never reads the environment or another file.
2. The help text there is the documentation: `config/dicomnode.toml` is checked against it by a test.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError, model_validator

from dicomnode.errors import ConfigError
from dicomnode.settings.destinations import DestinationSettings, TlsSettings
from dicomnode.settings.forms import PLAIN_FORM, PictureForm, ReportForm, ResultForm, ResultKind, SegmentationForm
from dicomnode.settings.network import NetworkSettings, PeerSettings
from dicomnode.settings.section import Section
from dicomnode.settings.storage import AuditSettings, LogSettings, StorageSettings
from dicomnode.settings.study import FetchSettings, SelectionRule, SelectionSettings, StudySettings
from dicomnode.settings.work import ComputeSettings, DeliverySettings, PipelineSettings, ResultSettings

__all__ = [
    "PLAIN_FORM",
    "AuditSettings",
    "ComputeSettings",
    "Config",
    "DeliverySettings",
    "DestinationSettings",
    "FetchSettings",
    "LogSettings",
    "NetworkSettings",
    "PeerSettings",
    "PictureForm",
    "PipelineSettings",
    "ReportForm",
    "ResultForm",
    "ResultKind",
    "ResultSettings",
    "SegmentationForm",
    "SelectionRule",
    "SelectionSettings",
    "StorageSettings",
    "StudySettings",
    "TlsSettings",
    "load_config",
    "parse_config",
]


class Config(Section):
    """The whole configuration."""

    network: NetworkSettings = NetworkSettings()
    peers: tuple[PeerSettings, ...] = ()
    destinations: tuple[DestinationSettings, ...] = ()
    tls: TlsSettings = TlsSettings()
    storage: StorageSettings = StorageSettings()
    study: StudySettings = StudySettings()
    fetch: FetchSettings = FetchSettings()
    selection: SelectionSettings = SelectionSettings()
    pipeline: PipelineSettings = PipelineSettings()
    compute: ComputeSettings = ComputeSettings()
    results: ResultSettings = ResultSettings()
    delivery: DeliverySettings = DeliverySettings()
    audit: AuditSettings = AuditSettings()
    log: LogSettings = LogSettings()

    @property
    def forms(self) -> tuple[ResultForm, ...]:
        """The forms in which results are made: each that a destination wants, once; the plain one where there is no destination."""
        return tuple(dict.fromkeys(destination.form for destination in self.destinations)) or (PLAIN_FORM,)

    @model_validator(mode="after")
    def _names_are_unique(self) -> Config:
        names = [destination.name for destination in self.destinations]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"destinations: the name {twice[0]!r} is used twice")
        return self

    @model_validator(mode="after")
    def _tls_is_whole(self) -> Config:
        users = ["network.tls"] if self.network.tls else []
        users += ["audit.syslog_tls"] if self.audit.syslog_host and self.audit.syslog_tls else []
        users += [f"destination {destination.name}" for destination in self.destinations if destination.tls]
        users += [f"peer {peer.ae_title}" for peer in self.peers if peer.tls]
        missing = [key for key in ("certificate", "key", "authorities") if getattr(self.tls, key) is None]
        if users and missing:
            raise ValueError(f"tls: {users[0]} needs {', '.join(f'tls.{key}' for key in missing)}")
        for destination in self.destinations:
            destination.introduce(self.tls)
        return self


def parse_config(values: dict[str, Any]) -> Config:
    """Check the values of a TOML file; raise `ConfigError` with every problem, each with its key."""
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise ConfigError([_problem(item) for item in error.errors()]) from None


def load_config(path: Path) -> Config:
    """Read and check a TOML file; raise `ConfigError` with every problem."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError([f"{path}: no such file; copy config/dicomnode.toml and edit it"]) from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as problem:
        raise ConfigError([f"{path}: {problem}"]) from None
    return parse_config(values)


def _problem(item: Any) -> str:
    key = ".".join(str(part) for part in item["loc"]) or "configuration"
    if item["type"] == "extra_forbidden":
        return f"{key}: there is no such setting"
    # A whole table, or an address that may hold a password, is not quoted.
    quoted = item["type"] != "missing" and not isinstance(item["input"], dict | BaseModel) and "url" not in key
    seen = f" (got {item['input']!r})" if quoted else ""
    return f"{key}: {item['msg'].removeprefix('Value error, ')}{seen}"
