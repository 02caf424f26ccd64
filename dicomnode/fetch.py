"""Fetching from peers into the spool, as safely as if they had sent it: `dicomnode pull`, and what the rules of [fetch] want."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from dicomnode.config import Config, DestinationSettings
from dicomnode.errors import ConfigError, NodeError, RetryLater
from dicomnode.ledger.ledger import Ledger
from dicomnode.network.handlers import AnswerStore, store_handler
from dicomnode.network.query import SeriesEntry, find_series
from dicomnode.network.retrieve import Retrieved, retrieve
from dicomnode.records import SendOutcome
from dicomnode.spool.layout import SpoolLayout
from dicomnode.spool.writer import SpoolWriter

Wanted = Callable[[SeriesEntry], bool]


@dataclass(frozen=True)
class Pulled:
    """What was fetched of a study: the series, how many images the peer lists (None: it does not say), and what came of it."""

    series: tuple[SeriesEntry, ...]
    expected: int | None
    retrieved: Retrieved


def is_mr(series: SeriesEntry) -> bool:
    """Return whether a series may hold MR images: what is listed without a Modality may."""
    return series.Modality in ("MR", "")


def find_source(config: Config, name: str) -> DestinationSettings:
    """Return whom a name means: a destination, the AE title of a peer with a port, or AE@host:port; `ConfigError` when nobody."""
    for destination in config.destinations:
        if destination.name == name and not destination.url:
            return destination
    for peer in config.peers:
        if peer.ae_title == name and peer.port and (peer.host or len(peer.hosts) == 1):
            return peer.as_destination(config.tls, peer.hosts[0] if peer.hosts else "")
    match = re.fullmatch(r"(?P<ae>[^@]{1,16})@(?P<host>[^:@]+|\[[0-9a-fA-F:]+\]):(?P<port>\d{1,5})", name)
    if match and 1 <= int(match["port"]) <= 65535:
        return DestinationSettings(name="peer", ae_title=match["ae"], host=match["host"].strip("[]"), port=int(match["port"]))
    raise ConfigError([f"{name!r} is no destination, no peer with host and port, and not of the form AE@host:port"])


def store_into(config: Config, ledger: Ledger, clock: Callable[[], float]) -> AnswerStore:
    """Return the C-STORE handler of this node: what it answers 0x0000 to is safe on disk and listed."""
    writer = SpoolWriter(SpoolLayout(config.storage.spool), config.storage.minimum_free_mb * 2**20)
    return store_handler(writer, ledger.add_instance, clock)


def pull(config: Config, store: AnswerStore, source: DestinationSettings, StudyInstanceUID: str, wanted: Wanted = is_mr) -> Pulled:
    """Ask a peer for the series of a study and fetch those that are wanted.

    Raises
    ------
    NodeError
        The peer does not list the study or a wanted series, or cannot be asked.
    RetryLater
        The peer is away or busy.
    """
    calling_ae, timeout_s = source.calling_ae_title or config.network.ae_title, config.delivery.timeout_s
    listed = find_series(source, StudyInstanceUID, calling_ae=calling_ae, timeout_s=timeout_s)
    if isinstance(listed, SendOutcome):
        raise _error(listed)
    if not listed:
        raise NodeError(f"{source.ae_title} does not list study {StudyInstanceUID}")
    chosen = tuple(series for series in listed if wanted(series))
    if not chosen:
        raise NodeError(f"of the {len(listed)} series of study {StudyInstanceUID} at {source.ae_title} none is wanted")
    uids = [series.SeriesInstanceUID for series in chosen]
    retrieved = retrieve(source, StudyInstanceUID, uids, calling_ae=calling_ae, timeout_s=timeout_s, store=store)
    if retrieved.outcome.verdict != "ok" and not retrieved.completed:
        raise _error(retrieved.outcome)
    counts = [series.NumberOfSeriesRelatedInstances for series in chosen]
    expected = None if None in counts else sum(count or 0 for count in counts)
    return Pulled(chosen, expected, retrieved)


def _error(outcome: SendOutcome) -> NodeError:
    return RetryLater(outcome.reason) if outcome.verdict == "transient" else NodeError(outcome.reason)
