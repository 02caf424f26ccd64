"""Records to columns and back. Mappings and headers are stored as JSON text; tuples come back as tuples."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass
from enum import Enum
from pathlib import PurePath
from typing import Any

from sqlalchemy import Row

from dicomnode.records import Delivery, IndexedInstance, InstanceHeader, Job, ReceivedInstance, ResultFile
from dicomnode.states import DeliveryState, JobState, Outcome

_HEADER_FIELDS = tuple(field.name for field in fields(InstanceHeader))
_RECEIVED_FIELDS = tuple(field.name for field in fields(ReceivedInstance))
_RESULT_FIELDS = tuple(field.name for field in fields(ResultFile))


def to_json(mapping: Mapping[str, Any]) -> str:
    """Return a mapping of plain values, records, paths, sets and NumPy scalars as JSON text."""
    return json.dumps(dict(mapping), default=_plain, separators=(",", ":"))


def from_json(text: str) -> dict[str, Any]:
    """Return the mapping that `to_json` stored."""
    mapping: dict[str, Any] = json.loads(text)
    return mapping


def header_to_json(header: InstanceHeader) -> str:
    """Return a header as JSON text."""
    return to_json({name: getattr(header, name) for name in _HEADER_FIELDS})


def header_from_json(text: str) -> InstanceHeader:
    """Return the header that `header_to_json` stored, equal to it.

    An attribute that this version does not know is left out.
    """
    return _remembered_header(text) if len(text) <= _SHORT_HEADER else _decode_header(text)


def _decode_header(text: str) -> InstanceHeader:
    stored = from_json(text)
    values = {name: _tuples(stored[name]) for name in _HEADER_FIELDS if name in stored and name != "extra"}
    return InstanceHeader(**values, extra=stored.get("extra", {}))


# While its images come, a study is looked at many times. Headers of many frames are long, and not kept.
_SHORT_HEADER = 8192
_remembered_header = functools.lru_cache(1024)(_decode_header)


def received_to_columns(instance: ReceivedInstance) -> dict[str, Any]:
    """Return the columns of `instances` that reception fills."""
    return {name: getattr(instance, name) for name in _RECEIVED_FIELDS}


def received_from_row(row: Row[Any]) -> ReceivedInstance:
    """Return what was stored at reception."""
    return ReceivedInstance(**{name: getattr(row, name) for name in _RECEIVED_FIELDS})


def indexed_from_row(row: Row[Any]) -> IndexedInstance:
    """Return a stored instance together with its header."""
    return IndexedInstance(
        row.path,
        row.received_at,
        header_from_json(row.header),
        row.TransferSyntaxUID,
        row.calling_ae,
        row.called_ae,
    )


def job_from_row(row: Row[Any]) -> Job:
    """Return a row of `jobs` as a record."""
    return Job(
        id=row.id,
        StudyInstanceUID=row.StudyInstanceUID,
        revision=row.revision,
        state=JobState(row.state),
        attempts=row.attempts,
        reason=row.reason,
        created_at=row.created_at,
        updated_at=row.updated_at,
        outcome=Outcome(row.outcome) if row.outcome else None,
        lease_until=row.lease_until,
        detail=from_json(row.detail),
    )


def result_to_columns(result: ResultFile) -> dict[str, Any]:
    """Return the columns of `results` that a result fills."""
    return {name: getattr(result, name) for name in _RESULT_FIELDS}


def result_from_row(row: Row[Any]) -> ResultFile:
    """Return a row of `results` as a record."""
    return ResultFile(**{name: getattr(row, name) for name in _RESULT_FIELDS})


def delivery_from_rows(delivery: Row[Any], result: Row[Any]) -> Delivery:
    """Return a row of `deliveries` and its row of `results` as a record."""
    return Delivery(
        id=delivery.id,
        job_id=delivery.job_id,
        StudyInstanceUID=delivery.StudyInstanceUID,
        destination=delivery.destination,
        result=result_from_row(result),
        state=DeliveryState(delivery.state),
        attempts=delivery.attempts,
        next_attempt_at=delivery.next_attempt_at,
        last_status=delivery.last_status,
        first_failed_at=delivery.first_failed_at,
    )


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, set | frozenset):
        return sorted(value)
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, PurePath):
        return value.as_posix()
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"a {type(value).__name__} cannot be kept in the ledger")


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value
