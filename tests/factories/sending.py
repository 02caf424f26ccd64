"""Ways in which senders send studies, made from a seed, and what the node decides on each by a clock set by hand.

The ledger, the reading order, the judgement and the decision are the node's own; headers are made up, and a study
that is claimed is answered after `ANSWER_S` seconds of the virtual clock, less what was computed ahead.
"""

from __future__ import annotations

import hashlib
import heapq
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, cast

from dicomnode import flow
from dicomnode.compute import Compute
from dicomnode.errors import LeaseLost
from dicomnode.records import (
    AssociationNews,
    Conclusion,
    InstanceHeader,
    Job,
    ReceivedInstance,
    Role,
)
from dicomnode.settings.config import SelectionSettings, parse_config
from dicomnode.spool.layout import SpoolLayout
from dicomnode.states import Outcome
from dicomnode.study.assembly import assemble
from dicomnode.study.patience import BEGIN_S
from dicomnode.study.selection import select_series
from tests.factories.headers import MR, make_series
from tests.factories.ledger import EXPLICIT_LITTLE, new_ledger

ANSWER_S = 6.0
LEAST_ANSWER_S = 0.5
IMAGE_S = 0.03
# The node looks at what came so often, as it does where it is not rung.
LOOK_S = 1.0
TEN_MINUTES_S = 600.0
SLICES: dict[Role, int] = {"flair": 24, "t1": 30}


@dataclass(frozen=True)
class Sender:
    """Somebody who sends: a scanner sends what it acquired minutes ago, an archive what is old."""

    calling_ae: str
    is_scanner: bool
    counts_images: bool
    ways: tuple[str, ...]


SENDERS = (
    Sender("SCANNER_A", True, False, ("one", "series")),
    Sender("SCANNER_B", True, True, ("one", "series")),
    Sender("PACS", False, False, ("one", "one", "series", "series", "batches", "image")),
    Sender("WORKSTATION", False, False, ("one",)),
)
"""The senders of one hospital; their ways of using associations, by which a study is sent at random."""


@dataclass(frozen=True)
class Arrival:
    """An image that comes, on an association of that number."""

    at: float
    association: str
    header: InstanceHeader


@dataclass(frozen=True)
class Pattern:
    """One study and how it is sent: images in their order, associations with how and when they end."""

    study: str
    sender: Sender
    kinds: frozenset[str]
    arrivals: tuple[Arrival, ...]
    ends: tuple[tuple[float, str, bool], ...]


@dataclass
class Record:
    """What the node did with one pattern: its answers, in virtual seconds after the last image that counts."""

    pattern: Pattern
    answered_at: list[float] = field(default_factory=list)
    silent_gaps: list[str] = field(default_factory=list)
    bases: list[str] = field(default_factory=list)


def make_pattern(number: int, start: float, chance: random.Random) -> Pattern:
    """Return a study and a way to send it."""
    sender = chance.choice(SENDERS)
    study, now, kinds = f"2.25.{number + 1}", start, set[str]()
    roles: list[Role] = ["flair", "t1"]
    if chance.random() < 0.05:
        roles, kinds = ["flair"], {"flair only"}
    t1_is_late = sender.is_scanner and len(roles) == 2 and chance.random() < 0.15
    pauses = chance.random() < 0.4
    way = chance.choice(sender.ways)
    images = [
        (position, header)
        for role in roles
        for position, header in enumerate(_headers(study, role, sender, start, t1_is_late=t1_is_late))
    ]
    arrivals, ends, serial, association = list[Arrival](), list[tuple[float, str, bool]](), 0, ""
    # An association that pauses in its middle does so at one place; between associations each time, at random.
    pause_at = chance.randrange(1, len(images)) if pauses and way == "one" else -1
    batch = chance.choice((10, 20)) if way == "batches" else 1
    for index, (position, header) in enumerate(images):
        begins_series = position == 0
        begins = (
            index == 0
            or (way == "series" and begins_series)
            or (way == "batches" and index % batch == 0)
            or (way == "image")
            or (t1_is_late and begins_series)
        )
        if begins and index:
            ends.append((now + 0.01, association, True))
            if t1_is_late and begins_series:
                now, kinds = now + TEN_MINUTES_S, {*kinds, "t1 ten minutes later"}
            elif pauses and (way != "image" or chance.random() < 0.05):
                now, kinds = now + chance.uniform(0, 90), {*kinds, f"pauses between {way}"}
        if begins:
            serial, association = serial + 1, f"{number}.{serial}"
        if index == pause_at:
            now, kinds = now + chance.uniform(0, 90), {*kinds, "pauses within an association"}
        now += IMAGE_S
        arrivals.append(Arrival(now, association, header))
    ends.append((now + 0.01, association, True))
    if chance.random() < 0.1:
        kinds.add("sent again")
        now += chance.uniform(20, 1800)
        arrivals += [
            Arrival(now + IMAGE_S * k, f"{number}.again", header) for k, (_, header) in enumerate(images)
        ]
        ends.append((now + IMAGE_S * len(images) + 0.01, f"{number}.again", True))
    return Pattern(study, sender, frozenset(kinds), tuple(arrivals), tuple(ends))


def _headers(
    study: str, role: Role, sender: Sender, start: float, *, t1_is_late: bool
) -> Iterator[InstanceHeader]:
    acquired_at = start - (240 if sender.is_scanner else 86_400 * 3)
    if t1_is_late and role == "t1":
        acquired_at += TEN_MINUTES_S
    series = make_series(
        role,
        count=SLICES[role],
        spacing_mm=6.0 if role == "flair" else 5.5,
        plane="axial" if role == "flair" else "sagittal",
        announced=-1 if sender.counts_images else None,
        StudyInstanceUID=study,
        SeriesInstanceUID=f"{study}.{role == 't1':d}",
        extra={"AcquisitionDateTime": f"{datetime.fromtimestamp(acquired_at):%Y%m%d%H%M%S}"},  # noqa: DTZ006
    )
    for index, instance in enumerate(series.instances):
        yield replace(instance.header, SOPInstanceUID=f"{study}.{role == 't1':d}.{index + 1}")


class Simulation:
    """A ledger and the working side on a virtual clock; computing is replaced by time that passes."""

    closed = False
    most_workers = 1

    def __init__(self, folder: Path) -> None:
        self.ledger = new_ledger(folder)
        self.now = 0.0
        self.records: dict[str, Record] = {}
        self._headers: dict[str, InstanceHeader] = {}
        self._queue: list[tuple[float, int, str, Any]] = []
        self._serial = 0
        self._opened: dict[str, float] = {}
        self.place = flow.Workplace(
            parse_config({"storage": {"root": str(folder), "minimum_free_mb": 1}}),
            self.ledger,
            SpoolLayout(folder / "spool"),
            cast("Compute", self),
            "work@here",
            lambda: self.now,
        )

    def read_header(self, path: Path) -> InstanceHeader:
        """Return the header of an instance by the name of its file."""
        return self._headers[path.name]

    def run(self, patterns: Sequence[Pattern]) -> list[Record]:
        """Send every pattern and return what became of each."""
        for pattern in patterns:
            self.records[pattern.study] = Record(pattern)
            for arrival in pattern.arrivals:
                self._push(arrival.at, "image", (pattern, arrival))
            for at, association, is_released in pattern.ends:
                self._push(at, "end", (pattern, association, is_released))
        while self._queue or self.ledger.jobs.waiting():
            due_at = self._assess()
            next_at = self._queue[0][0] if self._queue else float("inf")
            self.now = max(self.now, min(next_at, due_at))
            until = self.now + LOOK_S
            while self._queue and self._queue[0][0] <= until:
                at, _, kind, payload = heapq.heappop(self._queue)
                self.now = max(self.now, at)
                getattr(self, f"_{kind}")(*payload)
        return list(self.records.values())

    def _push(self, at: float, kind: str, payload: Any) -> None:
        self._serial += 1
        heapq.heappush(self._queue, (at, self._serial, kind, payload))

    def _image(self, pattern: Pattern, arrival: Arrival) -> None:
        uid = arrival.header.SOPInstanceUID
        sha256 = hashlib.sha256(uid.encode()).hexdigest()
        name = f"{sha256[:32]}.dcm"
        self._headers[name] = arrival.header
        ae, host = pattern.sender.calling_ae, "10.0.0.7"
        self.ledger.instances.add(
            ReceivedInstance(
                uid, MR, EXPLICIT_LITTLE, f"incoming/0/{name}", sha256, 1000, ae, host, arrival.at
            )
        )
        if arrival.association not in self._opened:
            self._opened[arrival.association] = arrival.at
            self.ledger.senders.record([AssociationNews(arrival.association, ae, host, arrival.at)])

    def _end(self, pattern: Pattern, association: str, is_released: bool) -> None:
        opened_at = self._opened[association]
        news = AssociationNews(
            association, pattern.sender.calling_ae, "10.0.0.7", opened_at, self.now, is_released
        )
        self.ledger.senders.record([news])

    def _finish(self, owner: str, job: Job) -> None:
        record = self.records[job.StudyInstanceUID]
        try:
            self.ledger.jobs.finish(job.id, owner, Conclusion(Outcome.NEGATIVE, "", (), {}), self.now)
        except LeaseLost:
            return
        record.answered_at.append(self.now)
        record.bases.append(str(job.detail["evidence"]["basis"]))
        record.silent_gaps += self._silent_gaps(job)

    def _silent_gaps(self, job: Job) -> list[str]:
        """Return the roles that were answered from fewer slices than there are, with nothing that says so."""
        study = assemble(job.StudyInstanceUID, self.ledger.instances.of_study(job.StudyInstanceUID))
        gaps = []
        for role, selected in select_series(study, SelectionSettings()).by_role.items():
            codes = {finding.code for finding in selected.findings}
            is_short = len(selected.series.instances) < SLICES[role]
            if is_short and not codes & {"slices-not-counted", "instances-missing", "missing-slices"}:
                gaps.append(role)
            if is_short and job.detail["evidence"]["basis"] == "count":
                gaps.append(role)
        return gaps

    def _assess(self) -> float:
        """Let the node look at what it has; return when it wants to look again."""
        flow.index_instances(self.place)
        flow.assess_studies(self.place)
        owner = f"work@here/{self._serial}"
        while (job := self.ledger.jobs.claim(owner, self.now, 1e9)) is not None:
            # Computed ahead while the study waited, as far as the wait went.
            begun_at = self.ledger.instances.last_received_at(job.StudyInstanceUID) + BEGIN_S
            self._push(max(self.now + LEAST_ANSWER_S, begun_at + ANSWER_S), "finish", (owner, job))
        verdicts = [flow.assess(self.place, job, self.now) for job in self.ledger.jobs.waiting()]
        return min((verdict.due_at for verdict in verdicts if verdict.due_at), default=float("inf"))


def summarise(records: Sequence[Record]) -> dict[str, Any]:
    """Return the figures of a simulation."""
    waits = sorted(
        record.answered_at[0] - max(arrival.at for arrival in record.pattern.arrivals)
        for record in records
        if record.answered_at and "sent again" not in record.pattern.kinds and len(record.answered_at) == 1
    )
    twice = [record for record in records if len(record.answered_at) > 1]
    return {
        "patterns": len(records),
        "unanswered": sum(not record.answered_at for record in records),
        "answered_twice": len(twice),
        "answered_twice_by_kind": dict(
            Counter(", ".join(sorted(record.pattern.kinds)) or "plain" for record in twice)
        ),
        "short_without_saying_so": sum(bool(record.silent_gaps) for record in records),
        "median_wait_s": round(waits[len(waits) // 2], 1) if waits else None,
        "nine_of_ten_within_s": round(waits[len(waits) * 9 // 10], 1) if waits else None,
        "bases": dict(Counter(record.bases[0] for record in records if record.bases)),
    }
