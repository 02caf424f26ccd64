"""Every setting once: name, default, unit, help.

TOML in, one frozen `Config` out; all problems are reported together.

Rules for this file and for `dicomnode/settings/`, where the tables are:
1. A setting that is not there does not exist; code never reads the environment or another file.
2. The help text there is the documentation: `config/dicomnode.toml` is checked against it by a test.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from dicomnode.errors import ConfigError
from dicomnode.settings.destinations import DestinationSettings, TlsSettings
from dicomnode.settings.forms import (
    PLAIN_FORM,
    PictureForm,
    ReportForm,
    ResultForm,
    ResultKind,
    SegmentationForm,
)
from dicomnode.settings.monitoring import MonitoringSettings
from dicomnode.settings.network import NetworkSettings, PeerSettings
from dicomnode.settings.notifications import NotificationSettings, notification_problems
from dicomnode.settings.references import did_you_mean, reference_problems
from dicomnode.settings.rules import RuleSettings, rule_problems
from dicomnode.settings.section import Section
from dicomnode.settings.storage import AuditSettings, LogSettings, StorageSettings
from dicomnode.settings.study import FetchSettings, SelectionRule, SelectionSettings, StudySettings
from dicomnode.settings.web import WebSettings
from dicomnode.settings.work import (
    ComputeSettings,
    DeliverySettings,
    Language,
    PipelineSettings,
    ReportSettings,
    ResultSettings,
)

__all__ = [
    "PLAIN_FORM",
    "AuditSettings",
    "ComputeSettings",
    "Config",
    "DeliverySettings",
    "DestinationSettings",
    "FetchSettings",
    "Language",
    "LogSettings",
    "MonitoringSettings",
    "NetworkSettings",
    "NotificationSettings",
    "PeerSettings",
    "PictureForm",
    "PipelineSettings",
    "ReportForm",
    "ReportSettings",
    "ResultForm",
    "ResultKind",
    "ResultSettings",
    "RuleSettings",
    "SegmentationForm",
    "SelectionRule",
    "SelectionSettings",
    "StorageSettings",
    "StudySettings",
    "TlsSettings",
    "WebSettings",
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
    rules: tuple[RuleSettings, ...] = ()
    pipeline: PipelineSettings = PipelineSettings()
    compute: ComputeSettings = ComputeSettings()
    results: ResultSettings = ResultSettings()
    report: ReportSettings = ReportSettings()
    delivery: DeliverySettings = DeliverySettings()
    audit: AuditSettings = AuditSettings()
    log: LogSettings = LogSettings()
    monitoring: MonitoringSettings = MonitoringSettings()
    notifications: tuple[NotificationSettings, ...] = ()
    web: WebSettings = WebSettings()

    @property
    def forms(self) -> tuple[ResultForm, ...]:
        """The forms in which results are made: each that a destination wants, once.

        The plain one where there is no destination.
        """
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
        users += ["web.tls"] if self.web.enabled and self.web.tls else []
        users += [f"destination {destination.name}" for destination in self.destinations if destination.tls]
        users += [f"peer {peer.ae_title}" for peer in self.peers if peer.tls]
        missing = [key for key in ("certificate", "key", "authorities") if getattr(self.tls, key) is None]
        if users and missing:
            raise ValueError(f"tls: {users[0]} needs {', '.join(f'tls.{key}' for key in missing)}")
        for destination in self.destinations:
            destination.introduce(self.tls)
        return self

    @model_validator(mode="after")
    def _names_mean_something(self) -> Config:
        problems = [*reference_problems(self), *rule_problems(self), *notification_problems(self)]
        if problems:
            raise PydanticCustomError("references", "{problems}", {"problems": "\n".join(problems)})
        return self


def parse_config(values: dict[str, Any]) -> Config:
    """Check the values of a TOML file; raise `ConfigError` with every problem, each with its key."""
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise ConfigError([line for item in error.errors() for line in _problems(item)]) from None


def load_config(path: Path) -> Config:
    """Read and check a TOML file; raise `ConfigError` with every problem."""
    try:
        # An editor of Windows may put a byte-order mark in front.
        values = tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    except FileNotFoundError:
        raise ConfigError([f"{path}: no such file; copy config/dicomnode.toml and edit it"]) from None
    except OSError as problem:
        raise ConfigError([f"{path}: cannot be read: {problem.strerror}"]) from None
    except UnicodeDecodeError as problem:
        raise ConfigError(
            [f"{path}: is not UTF-8 text (byte {problem.start + 1}); save it as UTF-8"]
        ) from None
    except tomllib.TOMLDecodeError as problem:
        twice = (
            "; a table stands in the file once, with all of its settings" if "twice" in str(problem) else ""
        )
        raise ConfigError([f"{path}: {problem}{twice}"]) from None
    return parse_config(values)


def _problems(item: Any) -> list[str]:
    """Return the lines of one problem of pydantic's, each with its key; positions are counted from 1."""
    if item["type"] == "references":
        return str(item["msg"]).splitlines()
    location = item["loc"]
    key = _key(location) or "configuration"
    if item["type"] == "extra_forbidden":
        return [f"{key}: there is no such setting{_suggestion(location)}"]
    # A whole table, or an address that may hold a password, is not quoted.
    quoted = (
        item["type"] != "missing" and not isinstance(item["input"], dict | BaseModel) and "url" not in key
    )
    value = f" (got {item['input']!r})" if quoted else ""
    nearest = ""
    if item["type"] == "literal_error" and isinstance(item["input"], str):
        nearest = did_you_mean(item["input"], re.findall(r"'([^']+)'", item["ctx"]["expected"]))
    return [f"{key}: {item['msg'].removeprefix('Value error, ')}{value}{nearest}"]


def _key(location: Sequence[str | int]) -> str:
    """Write a location as people count: the second peer is peers[2]."""
    key = ""
    for step in location:
        key += f"[{step + 1}]" if isinstance(step, int) else f".{step}" if key else step
    return key


def _suggestion(location: Sequence[str | int]) -> str:
    """Return the setting that an unknown one may mean: near in its table, or of the same name in another."""
    *parents, name = location
    table: type[BaseModel] = Config
    for step in parents:
        if isinstance(step, str) and step in table.model_fields:
            table = table_of(table.model_fields[step]) or table
    nearest = did_you_mean(str(name), list(table.model_fields))
    if nearest:
        return nearest
    elsewhere = [
        f"[{key}]"
        for key, field in Config.model_fields.items()
        if (below := table_of(field)) and str(name) in below.model_fields
    ]
    return f"; it belongs into {' or '.join(elsewhere)}" if elsewhere else ""


def table_of(field: FieldInfo) -> type[BaseModel] | None:
    """Return the table that a field holds, itself or in a tuple."""
    for kind in (field.annotation, *get_args(field.annotation)):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
    return None
