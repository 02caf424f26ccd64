"""Fetching from peers into the spool, as safely as if they had sent it.

`dicomnode pull`, and what the rules of [fetch] want.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass

import structlog

from dicomnode.errors import NodeError, RetryLater
from dicomnode.ledger.ledger import Ledger
from dicomnode.network.handlers import AnswerStore, store_handler
from dicomnode.network.query import SeriesEntry, find_series, find_studies
from dicomnode.network.retrieve import Retrieved, retrieve
from dicomnode.records import SendOutcome
from dicomnode.settings.config import Config, DestinationSettings, FetchSettings
from dicomnode.settings.references import find_source
from dicomnode.spool.layout import SpoolLayout
from dicomnode.spool.writer import SpoolWriter
from dicomnode.study.person import read_texts
from pipeline.counts import counted

log = structlog.get_logger()

_TRIES = 3
# Wild cards, and what separates two values: an ID with one of them would ask for the studies of others.
_MATCHES_OTHERS = frozenset("*?\\")
_WAIT_S = 15.0
_COUNT_EVERY_S = 5.0
LONGEST_WAIT_S = _WAIT_S * 2**_TRIES

Wanted = Callable[[SeriesEntry], bool]


@dataclass(frozen=True)
class Pulled:
    """What was fetched of a study.

    The series, how many images the peer lists (None: it does not say), and what came of it.
    """

    series: tuple[SeriesEntry, ...]
    expected: int | None
    retrieved: Retrieved


def is_mr(series: SeriesEntry) -> bool:
    """Return whether a series may hold MR images: what is listed without a Modality may."""
    return series.Modality in ("MR", "")


def store_into(config: Config, ledger: Ledger, clock: Callable[[], float]) -> AnswerStore:
    """Return the C-STORE handler of this node: what it answers 0x0000 to is safe on disk and listed."""
    writer = SpoolWriter(SpoolLayout(config.storage.spool), config.storage.minimum_free_mb * 2**20)
    return store_handler(writer, ledger.instances.add, clock)


def pull(
    config: Config,
    store: AnswerStore,
    source: DestinationSettings,
    StudyInstanceUID: str,
    series_filter: Wanted = is_mr,
) -> Pulled:
    """Ask a peer for the series of a study and fetch those that are wanted.

    Raises
    ------
    NodeError
        The peer does not list the study or a wanted series, or cannot be asked.
    RetryLater
        The peer is away or busy.
    """
    calling_ae, timeout_s = _calling_ae(config, source), config.delivery.timeout_s
    listed = find_series(source, StudyInstanceUID, calling_ae=calling_ae, timeout_s=timeout_s)
    if isinstance(listed, SendOutcome):
        raise _error(listed)
    if not listed:
        raise NodeError(f"{source.ae_title} does not list study {StudyInstanceUID}")
    selected = tuple(series for series in listed if series_filter(series))
    if not selected:
        raise NodeError(
            f"of the {len(listed)} series of study {StudyInstanceUID} at {source.ae_title} none is wanted"
        )
    uids = [series.SeriesInstanceUID for series in selected]
    retrieved = retrieve(
        source, StudyInstanceUID, uids, calling_ae=calling_ae, timeout_s=timeout_s, store=store
    )
    if retrieved.outcome.verdict != "ok" and not retrieved.completed:
        raise _error(retrieved.outcome)
    counts = [series.NumberOfSeriesRelatedInstances for series in selected]
    expected = None if None in counts else sum(count or 0 for count in counts)
    return Pulled(selected, expected, retrieved)


def plan_fetches(roles: Collection[str], settings: FetchSettings) -> tuple[str, ...]:
    """Return what is to be fetched before work on a study with these roles: "series", "priors"."""
    if not settings.source:
        return ()
    series_filter = ["series"] if settings.missing_series and not {"t1", "flair"} <= set(roles) else []
    return (*series_filter, "priors") if settings.prior_studies else tuple(series_filter)


def fetch_due(config: Config, ledger: Ledger, clock: Callable[[], float]) -> int:
    """Fetch what the rules wanted; returns how much was tried.

    What fails for good, or three times, is noted and waited for no longer.
    """
    due = ledger.fetches.due(clock())
    fetchers = {"series": _fetch_series, "priors": _fetch_priors}
    for study, fetch_kind, attempts in due:
        try:
            ledger.fetches.record(
                study, fetch_kind, fetchers[fetch_kind](config, ledger, clock, study), clock()
            )
        except RetryLater as fault:
            again = clock() + _WAIT_S * 2**attempts if attempts + 1 < _TRIES else None
            ledger.fetches.record(study, fetch_kind, f"not fetched: {fault}", clock(), again)
        except NodeError as problem:
            ledger.fetches.record(study, fetch_kind, f"not fetched: {problem}", clock())
    return len(due)


def count_due(config: Config, ledger: Ledger, clock: Callable[[], float]) -> int:
    """Ask how many images the archive lists of each study that waits and is quiet.

    Returns how many studies were asked about.
    """
    requested = 0
    if not (config.fetch.source and config.fetch.counts):
        return 0
    source = find_source(config, config.fetch.source)
    for job in ledger.jobs.waiting():
        before, now = ledger.fetches.counted_at(job.StudyInstanceUID), clock()
        if now - ledger.instances.last_received_at(job.StudyInstanceUID) < config.study.settle_s:
            continue
        if before is not None and now - before < max(config.study.settle_s, _COUNT_EVERY_S):
            continue
        listed = find_series(
            source,
            job.StudyInstanceUID,
            calling_ae=_calling_ae(config, source),
            timeout_s=config.delivery.timeout_s,
        )
        requested += 1
        if isinstance(listed, SendOutcome):
            log.warning("archive_not_asked", study_instance_uid=job.StudyInstanceUID, reason=listed.reason)
            ledger.fetches.note_asked(job.StudyInstanceUID, now)
            break
        counts = {
            listed_entry.SeriesInstanceUID: listed_entry.NumberOfSeriesRelatedInstances
            for listed_entry in listed
        }
        ledger.fetches.note_counts(
            job.StudyInstanceUID, {uid: count for uid, count in counts.items() if count is not None}, now
        )
        ledger.fetches.note_asked(job.StudyInstanceUID, now)
    return requested


def _fetch_series(config: Config, ledger: Ledger, clock: Callable[[], float], StudyInstanceUID: str) -> str:
    received_series = {
        instance.header.SeriesInstanceUID for instance in ledger.instances.of_study(StudyInstanceUID)
    }
    pattern = re.compile(config.fetch.series_description, re.IGNORECASE)

    def wanted(series: SeriesEntry) -> bool:
        named = not series.SeriesDescription or pattern.search(series.SeriesDescription) is not None
        return is_mr(series) and named and series.SeriesInstanceUID not in received_series

    source = find_source(config, config.fetch.source)
    return _told(pull(config, store_into(config, ledger, clock), source, StudyInstanceUID, wanted))


def _fetch_priors(config: Config, ledger: Ledger, clock: Callable[[], float], StudyInstanceUID: str) -> str:
    """Fetch the latest earlier studies of the patient.

    What was fetched as a prior has no priors fetched: that chain would not end.
    """
    source, store = find_source(config, config.fetch.source), store_into(config, ledger, clock)
    instances = ledger.instances.of_study(StudyInstanceUID)
    if not instances:
        raise NodeError("no image of the study can be read")
    # Read from the image for this question; the ledger knows no patient.
    path = config.storage.spool / instances[0].path
    PatientID, StudyDate = read_texts(path, ("PatientID", "StudyDate")) or ("", "")
    if not PatientID or not StudyDate:
        raise NodeError("the images name no Patient ID or Study Date")
    if set(PatientID) & _MATCHES_OTHERS:
        raise NodeError(
            "the Patient ID holds characters by which a query means other patients too (PS3.4 C.2.2.2)"
        )
    listed = find_studies(
        source, PatientID, calling_ae=_calling_ae(config, source), timeout_s=config.delivery.timeout_s
    )
    if isinstance(listed, SendOutcome):
        raise _error(listed)
    earlier = [
        listed_entry
        for listed_entry in listed
        if listed_entry.StudyDate
        and listed_entry.StudyDate < StudyDate
        and ("MR" in listed_entry.modalities or not listed_entry.modalities)
    ]
    selected = sorted(earlier, key=lambda listed_entry: listed_entry.StudyDate, reverse=True)[
        : config.fetch.prior_studies
    ]
    for prior in selected:
        ledger.fetches.record(
            prior.StudyInstanceUID, "priors", f"fetched as the prior of {StudyInstanceUID}", clock()
        )
        _told(pull(config, store, source, prior.StudyInstanceUID))
    return counted(len(selected), "earlier study", "earlier studies")


def _told(pulled: Pulled) -> str:
    if pulled.retrieved.outcome.verdict == "transient":
        raise RetryLater(pulled.retrieved.outcome.reason)
    images = counted(pulled.retrieved.completed, "image")
    return f"{images} of {len(pulled.series)} series by {pulled.retrieved.service}"


def _calling_ae(config: Config, source: DestinationSettings) -> str:
    return source.calling_ae_title or config.network.ae_title


def _error(outcome: SendOutcome) -> NodeError:
    return RetryLater(outcome.reason) if outcome.verdict == "transient" else NodeError(outcome.reason)
