"""Logging: keyed events to stderr, for people or for machines, and never patient data.

A key is written only when it is in `ALLOWED_KEYS`, whatever its value; the names of dropped keys are written
instead. Messages of DICOM libraries and of exceptions that are not our own may quote header values, so only
their place and type are written.
"""

from __future__ import annotations

import logging
import math
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from pathlib import Path, PurePath
from typing import Any, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from dicomnode.settings.config import LogSettings

ALLOWED_KEYS = frozenset(
    {
        # Written by this module.
        *("event", "level", "timestamp", "logger", "where", "exception", "dropped_keys"),
        # Which object.
        *(
            "study_instance_uid",
            "series_instance_uid",
            "sop_instance_uid",
            "sop_class_uid",
            "transfer_syntax_uid",
        ),
        *("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID", "TransferSyntaxUID"),
        *("job_id", "revision", "delivery_id", "instance_id", "kind", "sha256", "path", "role"),
        # Which peer.
        *(
            "ae_title",
            "calling_ae",
            "called_ae",
            "host",
            "port",
            "peer",
            "peer_host",
            "destination",
            "association",
        ),
        # What became of it.
        *("state", "status", "outcome", "verdict", "reason", "code", "error", "attempt", "attempts", "owner"),
        # How much, how long.
        *(
            "count",
            "instances",
            "results",
            "series",
            "size_bytes",
            "free_bytes",
            "memory_mb",
            "seconds",
            "duration_s",
            "retry_at",
        ),
        *(
            "added",
            "removed",
            "missing",
            "not_readable",
            "set_aside",
            "transaction",
            "safe",
            "failed",
            "resends",
        ),
        *("journal", "segment", "segments", "waiting"),
        # The node itself.
        *(
            "contexts",
            "transfer_syntaxes",
            "advice",
            "version",
            "pid",
            "side",
            "timer",
            "workers",
            "destinations",
            "threads",
            "limit_s",
            "model",
            "step",
            "scheduler",
        ),
    }
)
# Parts of the keywords of the Patient module and of other elements that identify (PS3.15 Annex E), without
# capitals and underscores.
PATIENT_WORDS = (
    *(
        "patient",
        "birth",
        "accession",
        "othername",
        "mothers",
        "physician",
        "operator",
        "address",
        "telephone",
        "ethnic",
        "occupation",
    ),
    *(
        "insurance",
        "militaryrank",
        "religious",
        "responsibleperson",
        "medicalrecord",
        "issuer",
        "admission",
        "comments",
        "dataset",
        "header",
    ),
)

_QUIET_LOGGERS = (
    "pydicom",
    "pynetdicom",
    "highdicom",
    "dicom2nifti",
    "distributed",
    "apscheduler",
    "alembic",
    "sqlalchemy",
)
_TRUSTED_LOGGERS = ("apscheduler", "alembic")
# What pynetdicom calls an error and is none: a peer without storage commitment, one that is idle, one that
# hung up. Where it matters to a delivery or a request, our own event says so with the peer's name.
_ORDINARY_ENDINGS = frozenset(
    {
        "No accepted presentation contexts",
        "Network timeout reached",
        "Connection closed while waiting for DIMSE message",
        "DIMSE timeout reached while waiting for message response",
    }
)
_REPEAT_AFTER_S = 600.0
"""What a library says at one place is written again after this time, with the count of what was left out."""
_OUR_PACKAGES = ("dicomnode", "pipeline")


def configure_logging(settings: LogSettings, stream: TextIO | None = None) -> None:
    """Send our events, the libraries' messages and Python's warnings to `stream` (stderr) in one form.

    Libraries are heard from WARNING on: below that pynetdicom writes whole data sets.
    """
    stream = stream or sys.stderr
    level = logging.getLevelNamesMapping()[settings.level.upper()]
    chain: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        withhold_exception_text,
        keep_allowed_keys,
    ]
    renderer = _renderer(settings, stream)
    structlog.configure(
        processors=[*chain, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(stream),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, withhold_library_text, *chain],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    handler.addFilter(lambda record: record.msg not in _ORDINARY_ENDINGS)
    handler.addFilter(OncePerPlace().filter_record)
    warnings.showwarning = _warning_logger(OncePerPlace())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    for name in _QUIET_LOGGERS:
        library = logging.getLogger(name)
        library.setLevel(logging.WARNING)
        library.handlers.clear()
        library.propagate = True


def keep_allowed_keys(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Drop every key that is not allowed or that names patient data; say which."""
    # structlog's own keys carry the record to its formatter, which removes them.
    plain_values = {
        key: value if key.startswith("_") else _plain(value)
        for key, value in event.items()
        if key.startswith("_") or _is_allowed(key)
    }
    dropped = sorted(set(event) - set(plain_values))
    return {**plain_values, "dropped_keys": dropped} if dropped else plain_values


def withhold_exception_text(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Replace `exc_info` by the types and places of the exceptions; only our own messages are kept."""
    event.pop("stack_info", None)
    exception = event.pop("exc_info", None)
    error = (
        exception[1]
        if isinstance(exception, tuple)
        else exception
        if isinstance(exception, BaseException)
        else sys.exc_info()[1]
        if exception
        else None
    )
    if error is not None:
        event["exception"] = "\n".join(_told(error))
    return event


def withhold_library_text(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Replace what a library says by where it says it, unless it never sees a header."""
    record: logging.LogRecord = event["_record"]
    if record.name.split(".")[0] not in _TRUSTED_LOGGERS:
        event["event"] = "library_message"
        event["where"] = f"{Path(record.pathname).name}:{record.lineno}"
    if getattr(record, "left_out", 0):
        event["count"] = record.left_out + 1  # type: ignore[attr-defined]
    return event


class OncePerPlace:
    """Lets the first message of a place through, and the next one after a while; counts what it leaves out.

    Thread-safe.

    Parameters
    ----------
    clock
        Seconds that never go back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._written: dict[tuple[str, ...], tuple[float, int]] = {}

    def left_out(self, *key_parts: str) -> int | None:
        """Return how many messages of a place were left out since the last one.

        The result is None when this message is to be left out, too.
        """
        now = self._clock()
        with self._lock:
            written_at, count = self._written.get(key_parts, (-math.inf, 0))
            if now - written_at < _REPEAT_AFTER_S:
                self._written[key_parts] = (written_at, count + 1)
                return None
            self._written[key_parts] = (now, 0)
            return count

    def filter_record(self, record: logging.LogRecord) -> bool:
        """Serve as a filter of a logging handler."""
        if record.name.split(".")[0] in _TRUSTED_LOGGERS:
            return True
        count = self.left_out(record.name, record.pathname, str(record.lineno), record.levelname)
        record.left_out = count or 0
        return count is not None


def _warning_logger(occurrences: OncePerPlace) -> Callable[..., None]:
    def log_warning(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        count = occurrences.left_out(category.__name__, filename, str(lineno))
        if count is None:
            return
        repeats = {"count": count + 1} if count else {}
        # Not the message: pydicom quotes the value that it warns of.
        structlog.get_logger().warning(
            "python_warning", kind=category.__name__, where=f"{Path(filename).name}:{lineno}", **repeats
        )

    return log_warning


def _renderer(settings: LogSettings, stream: TextIO) -> Processor:
    if settings.format == "json":
        return structlog.processors.JSONRenderer()
    return structlog.dev.ConsoleRenderer(colors=stream.isatty())


def _is_allowed(key: str) -> bool:
    folded = key.lower().replace("_", "")
    return key in ALLOWED_KEYS and not any(word in folded for word in PATIENT_WORDS)


def _plain(value: Any) -> Any:
    """Return numbers, texts and lists of them; of anything else only its type, since its text is not ours."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, float):
        return float(value)
    # A UID of pydicom is a text of another type; anything else that only looks like a text may carry more
    # than it shows.
    if value is None or type(value) in (str, int, bool) or type(value).__module__ == "pydicom.uid":
        return value
    if isinstance(value, PurePath):
        return value.as_posix()
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items() if isinstance(key, str) and _is_allowed(key)}
    if isinstance(value, Sequence | set | frozenset) and type(value) in (list, tuple, set, frozenset):
        return [_plain(item) for item in value]
    return f"<{type(value).__name__}>"


def _told(error: BaseException) -> list[str]:
    lines: list[str] = []
    visited: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in visited:
        visited.add(id(link))
        ours = type(link).__module__.split(".")[0] in _OUR_PACKAGES
        text = str(link) if ours else _operating_system_text(link)
        lines.append(f"{type(link).__name__}: {text}")
        lines += [
            f"  {Path(frame.filename).name}:{frame.lineno} {frame.name}"
            for frame in traceback.extract_tb(link.__traceback__)
        ]
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
    return lines


def _operating_system_text(error: BaseException) -> str:
    return f"{error.strerror}" if isinstance(error, OSError) and error.strerror else "(text withheld)"
