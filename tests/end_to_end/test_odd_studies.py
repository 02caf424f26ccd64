"""Every study that is sent is refused by status, or answered, or shown with its reason; never silent, never under another's name.

`DICOMNODE_ODD_STUDIES=5000` with `-m slow` is the long form; its table stands in docs/reliability.md.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import pytest
from sqlalchemy import create_engine, text

from dicomnode import answer, flow
from dicomnode.commands.story import NO_STUDY, status_rows, story, stray_story
from dicomnode.compute import Compute
from dicomnode.ledger.ledger import Ledger
from dicomnode.network.association import Receiver
from dicomnode.network.handlers import AnswerStore, StoreRequest, store_handler
from dicomnode.settings.config import Config, parse_config
from dicomnode.spool.layout import SpoolLayout
from dicomnode.spool.recover import rebuild_ledger
from dicomnode.spool.writer import SpoolWriter
from tests.factories.odd_studies import OddInstance, make_study
from tests.factories.raw_scanner import REFUSED_ASSOCIATION, REFUSED_CONTEXT, send_study
from tests.factories.whole_node import InlineCompute

# pydicom warns about each odd value; in the suite a warning would be an error, in the node it is none.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

_GROUP = 50
_ROUNDS = 12


@dataclass
class Tally:
    """What became of studies: counts by their end, and those that have none."""

    ends: Counter[str] = field(default_factory=Counter)
    silent: list[str] = field(default_factory=list)
    misfiled: list[str] = field(default_factory=list)
    refusals: Counter[str] = field(default_factory=Counter)

    def add(self, other: Tally) -> None:
        self.ends += other.ends
        self.silent += other.silent
        self.misfiled += other.misfiled
        self.refusals += other.refusals


@dataclass(frozen=True)
class Databases:
    """SQLAlchemy URLs of the node's ledger, and of one that is made again from the spool."""

    ledger: str
    again: str


Send = Callable[[list[OddInstance]], list[int]]
"""Sends the instances of one study; returns a status, or a refusal before one, for each."""


def straight_to_the_handler(store: AnswerStore) -> Send:
    def send(instances: list[OddInstance]) -> list[int]:
        return [
            store(
                StoreRequest(
                    SOPClassUID=instance.SOPClassUID,
                    SOPInstanceUID=instance.SOPInstanceUID,
                    TransferSyntaxUID=instance.TransferSyntaxUID,
                    encoded_dataset=instance.dataset,
                    calling_ae=instance.calling_ae,
                    peer_host="127.0.0.1",
                )
            )
            for instance in instances
        ]

    return send


@contextmanager
def by_association(
    config: Config, writer: SpoolWriter, ledger: Ledger, clock: Callable[[], float], refusals: Counter[str]
) -> Iterator[Send]:
    """Listen, and send over real associations; who is refused for its title calls again under a proper one."""
    receiver = Receiver(config, writer, ledger.instances.add, clock)
    _, port = receiver.start()

    def send(instances: list[OddInstance]) -> list[int]:
        statuses = send_study(port, instances, instances[0].calling_ae)
        if set(statuses) == {REFUSED_ASSOCIATION}:
            refusals["associations refused for their title"] += 1
            statuses = send_study(port, instances, "SCANNER")
        assert REFUSED_ASSOCIATION not in statuses
        for status in statuses:
            if status != 0x0000:
                refusals["context refused" if status == REFUSED_CONTEXT else f"0x{status:04X}"] += 1
        return statuses

    try:
        yield send
    finally:
        receiver.stop(2.0)


def run_group(
    folder: Path, seeds: Iterable[int], databases: Databases | None = None, *, over_network: bool = False
) -> Tally:
    """Send a group of studies to a fresh node, let it work until nothing is left to do, and look for each of them."""
    root = folder / "node"
    root.mkdir(parents=True)
    databases = databases or Databases(
        f"sqlite:///{root / 'ledger.sqlite3'}", f"sqlite:///{folder / 'again.sqlite3'}"
    )
    network = {"port": 0, "ae_title": "NODE"}
    storage = {"root": str(root), "minimum_free_mb": 1, "ledger_url": databases.ledger}
    config = parse_config({"network": network, "storage": storage, "compute": {"attempts": 2}})
    clock = [1_000_000_000.0]
    layout, ledger = SpoolLayout(config.storage.spool), Ledger.open(config.storage.database_url)
    writer = SpoolWriter(layout, 0)
    place = flow.Workplace(
        config, ledger, layout, cast("Compute", InlineCompute()), "work@here", lambda: clock[0]
    )
    acknowledged: dict[int, list[OddInstance]] = {}
    refusals: Counter[str] = Counter()
    with ExitStack() as stack:
        send = (
            stack.enter_context(by_association(config, writer, ledger, lambda: clock[0], refusals))
            if over_network
            else straight_to_the_handler(store_handler(writer, ledger.instances.add, lambda: clock[0]))
        )
        for seed in seeds:
            study = make_study(seed)
            statuses = send(study)
            # On the wire a NUL or a space at the end of a UID is padding (PS3.5 6.2).
            acknowledged[seed] = [
                replace(instance, SOPInstanceUID=instance.SOPInstanceUID.rstrip("\0 "))
                for instance, status in zip(study, statuses, strict=True)
                if status == 0x0000
            ]
    for _ in range(_ROUNDS):
        clock[0] += 600.0
        while flow.index_instances(place):
            pass
        flow.assess_studies(place)
        while flow.answer_next(place):
            pass
    tally = judge_group(databases.ledger, ledger, acknowledged)
    tally.refusals += refusals
    ledger.close()
    check_recovery(layout, databases)
    return tally


def fetch(database: str, query: str) -> list[tuple[Any, ...]]:
    """Return the rows of a query, read without the ledger's own code."""
    engine = create_engine(database)
    with engine.connect() as connection:
        rows = [tuple(row) for row in connection.execute(text(query))]
    engine.dispose()
    return rows


def judge_group(database: str, ledger: Ledger, acknowledged: dict[int, list[OddInstance]]) -> Tally:
    """Say where each study ended, from the ledger's own tables and from what `status` and `why` print."""
    tally = Tally()
    query = 'SELECT "SOPInstanceUID", "StudyInstanceUID", "reading", "unreadable_because" FROM "instances"'
    rows = {row[0]: row[1:] for row in fetch(database, query)}
    made = 'SELECT j."StudyInstanceUID", j."state", j."outcome", j."reason", (SELECT count(*) FROM "results" r WHERE r."job_id" = j."id")'
    jobs = {row[0]: row[1:] for row in fetch(database, made + ' FROM "jobs" j ORDER BY j."revision"')}
    shown = {row[0]: row for row in status_rows(ledger)}
    strays = {line.SOPInstanceUID: line for line in ledger.history.without_study(100_000)}
    groups = [row for row in shown.values() if row[3] == NO_STUDY]
    assert sum(int(row[2]) for row in groups) == len(strays)
    for seed, instances in acknowledged.items():
        if not instances:
            tally.ends["refused by status"] += 1
            continue
        ends = {_end_of(instance, rows, jobs, shown, strays, ledger) for instance in instances}
        for instance in instances:
            study = rows.get(instance.SOPInstanceUID, (None,))[0]
            if (
                study is not None
                and instance.StudyInstanceUID is not None
                and study.encode() != instance.StudyInstanceUID
            ):
                tally.misfiled.append(f"seed {seed}: {instance.SOPInstanceUID} is listed under {study}")
        if "silent" in ends:
            tally.silent.append(f"seed {seed}")
        tally.ends[" and ".join(sorted(ends))] += 1
    return tally


def _end_of(instance: OddInstance, rows: Any, jobs: Any, shown: Any, strays: Any, ledger: Ledger) -> str:
    row = rows.get(instance.SOPInstanceUID)
    if row is None:
        return "silent"
    study, _, because = row
    if study is None:
        stray = strays.get(instance.SOPInstanceUID)
        told = "\n".join(stray_story([stray])) if stray is not None else ""
        return (
            "of no study, shown"
            if because and instance.SOPInstanceUID in told and because in told
            else "silent"
        )
    state, outcome, reason, results = jobs.get(study, ("", "", "", 0))
    history = ledger.history.of_study(study)
    visible = (
        study in shown
        and shown[study][5] == reason
        and history is not None
        and reason in "\n".join(story(history))
    )
    if not visible or not reason:
        return "silent"
    if state in ("encoded", "done") and results:
        return f"answered: {outcome}"
    return "failed, shown" if state == "failed" else "silent"


def check_recovery(layout: SpoolLayout, databases: Databases) -> None:
    """A ledger made from the spool lists the same instances, in the same order, as the one that was there."""
    columns = '"path", "SOPInstanceUID", "sha256", "arrival", "SOPClassUID", "TransferSyntaxUID", "size_bytes", "calling_ae", "peer_host"'
    query = f'SELECT {columns}, "received_at" FROM "instances"'
    ledger = Ledger.open(databases.again)
    report = rebuild_ledger(layout, ledger.instances)
    ledger.close()
    assert report.set_aside == report.missing == 0
    old, new = (
        sorted((*row[:-1], round(row[-1], 4)) for row in fetch(database, query))
        for database in (databases.ledger, databases.again)
    )
    assert new == old


def check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, studies: int, *, over_network: bool = False
) -> Tally:
    # It would take over the logging of the whole test process.
    monkeypatch.setattr(answer, "configure_logging", lambda _settings: None)
    tally = Tally()
    for first in range(0, studies, _GROUP):
        seeds = range(first + 1, min(first + _GROUP, studies) + 1)
        tally.add(run_group(tmp_path / str(first), seeds, over_network=over_network))
    assert sum(tally.ends.values()) == studies
    assert tally.silent == []
    assert tally.misfiled == []
    return tally


def test_a_hundred_odd_studies_and_none_is_silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tally = check(tmp_path, monkeypatch, 100)
    # A generator whose studies all end the same way would show nothing.
    assert {end.split(":")[0] for end in tally.ends} >= {
        "refused by status",
        "answered",
        "of no study, shown",
    }


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("over_network", [False, True], ids=["handler", "association"])
def test_thousands_of_odd_studies_and_none_is_silent(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    record_property: Callable[[str, object], None],
    over_network: bool,
) -> None:
    studies = int(os.environ.get("DICOMNODE_ODD_STUDIES", "150" if over_network else "500"))
    tally = check(tmp_path, monkeypatch, studies, over_network=over_network)
    for end, count in (*tally.ends.most_common(), *tally.refusals.most_common()):
        record_property(end, count)
    if over_network:
        assert {"0xC000", "0xA900", "context refused"} <= set(tally.refusals)
