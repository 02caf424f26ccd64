"""What a running process may take over from a changed configuration, and what waits for a restart.

Pure: two configurations in, a plan out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from dicomnode.settings.config import Config, parse_config

TAKEN_OVER = frozenset(
    {
        *(
            f"network.{name}"
            for name in (
                "ae_title",
                "more_ae_titles",
                "require_called_ae",
                "accept_unknown_peers",
                "maximum_associations",
                "maximum_associations_per_peer",
                "maximum_open_studies",
                "maximum_instance_mb",
                "receive_memory_mb",
                "maximum_pdu_bytes",
                "acse_timeout_s",
                "dimse_timeout_s",
                "network_timeout_s",
                "other_objects",
            )
        ),
        *(
            "rules",
            "notifications",
            "peers",
            "destinations",
            "tls",
            "study",
            "fetch",
            "selection",
            "pipeline",
            "results",
            "delivery",
            "log",
        ),
        *(f"storage.{name}" for name in ("minimum_free_mb", "resume_free_mb", "keep_days")),
        "monitoring.silent_s",
        *(f"compute.{name}" for name in ("threads", "provider", "job_limit_s", "attempts")),
    }
)
"""Tables and settings that `reload` applies; every other one needs a restart."""

# What names the rows of a list of tables.
_ROW_NAMES = ("name", "ae_title", "use")
_HIDDEN = "***"


@dataclass(frozen=True)
class Change:
    """One setting that differs; `before` and `after` are texts, empty where there is no such row."""

    key: str
    before: str
    after: str

    def __str__(self) -> str:
        return f"{self.key}: {self.before or 'absent'} -> {self.after or 'absent'}"


@dataclass(frozen=True)
class ReloadPlan:
    """What a reload does: the configuration that holds afterwards, and which changes it has and has not."""

    config: Config
    applied: tuple[Change, ...]
    waiting: tuple[Change, ...]


def needs_restart(key: str) -> bool:
    """Return whether a setting, such as `network.port`, is read at the start only."""
    return not any(key == name or key.startswith((f"{name}.", f"{name}[")) for name in TAKEN_OVER)


def plan_reload(running: Config, new: Config) -> ReloadPlan:
    """Join what can be taken over of a new configuration with what holds until the restart.

    Raises
    ------
    ConfigError
        The two do not fit together: what can be taken over needs what cannot.
    """
    changes = tuple(differences(running, new))
    waiting = tuple(change for change in changes if needs_restart(change.key))
    # As they were written, so that what nobody wrote stays a default.
    before, after = running.model_dump(exclude_unset=True), new.model_dump(exclude_unset=True)
    for table_name in Config.model_fields:
        settings = getattr(type(getattr(running, table_name)), "model_fields", None)
        if settings is None:
            if needs_restart(table_name):
                _put_back(before, after, table_name)
            continue
        for name in settings:
            if needs_restart(f"{table_name}.{name}"):
                _put_back(before.get(table_name, {}), after.setdefault(table_name, {}), name)
    return ReloadPlan(
        parse_config(after), tuple(change for change in changes if change not in waiting), waiting
    )


def differences(before: Config, after: Config) -> Iterator[Change]:
    """Yield every setting that differs, by key; passwords in addresses are hidden."""
    old, new = _flat(before.model_dump(mode="json")), _flat(after.model_dump(mode="json"))
    for key in sorted({*old, *new}):
        if old.get(key) != new.get(key):
            yield Change(key, old.get(key, ""), new.get(key, ""))


def _put_back(before: Mapping[str, Any], after: dict[str, Any], name: str) -> None:
    after.pop(name, None)
    if name in before:
        after[name] = before[name]


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return dotted key -> text.

    The rows of a list of tables go by their names, so that another order is no change.
    """
    texts: dict[str, str] = {}
    for name, value in values.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping):
            texts |= _flat(value, f"{key}.")
        elif isinstance(value, list) and value and all(isinstance(row, Mapping) for row in value):
            for row_name, row in zip(_row_names(value), value, strict=True):
                texts |= _flat(row, f"{key}[{row_name}].")
            if len(value) > 1:
                texts[f"{key}.order"] = ", ".join(_row_names(value))
        elif value not in ([], None, ""):
            texts[key] = re.sub(r"(?<=://)[^/@\s]+(?=@)", _HIDDEN, str(value))
    return texts


def _row_names(rows: list[Any]) -> list[str]:
    names: list[str] = []
    for row in rows:
        name = next((str(row[key]) for key in _ROW_NAMES if row.get(key)), "row")
        count = sum(earlier.split("#")[0] == name for earlier in names)
        names.append(f"{name}#{count + 1}" if count else name)
    return names
