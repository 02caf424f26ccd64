"""Sends what is due, records what became of it, backs off.

One association per destination at a time; a dead one holds up nobody else.

Each function is safe to be killed in: a claimed delivery has a lease, and the same frozen bytes may be sent
twice without harm.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from uuid import uuid4

import structlog

from dicomnode.audit.events import SERIOUS_FAILURE, SUCCESS, Audit, AuditEvent, silent
from dicomnode.delivery import routes
from dicomnode.delivery.outbox import group_by_job, plan_retry
from dicomnode.errors import PermanentRefusal, RetryLater
from dicomnode.ledger.ledger import Ledger
from dicomnode.records import Delivery, SendOutcome
from dicomnode.settings.config import Config, DestinationSettings
from dicomnode.spool.layout import SpoolLayout
from dicomnode.states import DeliveryState

log = structlog.get_logger()

_BATCH = 64
# The lease is renewed before each study; connecting, negotiating and each of its objects may take
# `timeout_s`.
_LEASE_TIMEOUTS = 20
# What was not tried because another study met silence goes first next time: one object that breaks every
# association must not block the rest.
_AHEAD_S = 0.001


class Send(Protocol):
    """Sends files over one association and returns one outcome per file, in order."""

    def __call__(
        self, files: Sequence[Path], destination: DestinationSettings, *, calling_ae: str, timeout_s: float
    ) -> list[SendOutcome]:
        """Send."""


def lease_s(config: Config) -> float:
    """Return how long a delivery that is being sent is its sender's, in seconds."""
    return config.delivery.timeout_s * _LEASE_TIMEOUTS


def deliver_due(
    ledger: Ledger,
    layout: SpoolLayout,
    config: Config,
    now: Callable[[], float],
    *,
    owner: str = "deliver",
    send: Send = routes.send,
    stopping: Callable[[], bool] = lambda: False,
    audit: Audit = silent,
) -> int:
    """Try every delivery that is due, all destinations at once; return how many were tried.

    May run several times at once: a delivery is claimed before it is sent, and a destination that is being
    sent to is left alone.

    Parameters
    ----------
    owner
        Name of this process in leases; `Deliveries.release_owner` with it gives back what it held when it
        died.
    stopping
        Asked before each study; when true, what is not sent yet is given back and the call returns.
    audit
        Told of everything that arrived or was given up.
    """
    names = ledger.deliveries.due_destinations(now())
    if not names:
        return 0
    courier = _Courier(ledger, layout.root, config, now, owner, send, stopping, audit)
    with ThreadPoolExecutor(len(names), thread_name_prefix="deliver") as threads:
        return sum(threads.map(courier.serve, names))


@dataclass(frozen=True)
class _Courier:
    ledger: Ledger
    root: Path
    config: Config
    now: Callable[[], float]
    owner: str
    send: Send
    stopping: Callable[[], bool]
    audit: Audit

    def serve(self, name: str) -> int:
        """Send everything that is due for one destination, as long as it answers.

        Return how many deliveries were tried.
        """
        # A name of its own per round: a lease that ran out and was taken by our next round is not ours any
        # more.
        holder = f"{self.owner}/{name}/{uuid4().hex[:8]}"
        destination = next((entry for entry in self.config.destinations if entry.name == name), None)
        try:
            return self._serve_as(holder, name, destination)
        finally:
            self.ledger.deliveries.release_owner(holder, self.now())

    def _serve_as(self, holder: str, name: str, destination: DestinationSettings | None) -> int:
        count = 0
        while not self.stopping():
            batch = self.ledger.deliveries.claim(holder, self.now(), self._lease_s, _BATCH, destination=name)
            count += len(batch)
            if destination is None:
                reason = f"no destination is named {name} in the configuration; add it and retry the study"
                for delivery in batch:
                    self._record(holder, delivery, SendOutcome("permanent", reason))
            elif not self._send_batch(holder, destination, batch):
                break
            if not batch:
                break
        return count

    def _send_batch(self, holder: str, destination: DestinationSettings, batch: list[Delivery]) -> bool:
        """Send job by job; False when the destination does not answer.

        The rest of the batch then waits like the job that was tried.
        """
        silence: SendOutcome | None = None
        for group in group_by_job(batch):
            if silence is not None:
                for delivery in group:
                    self._record(holder, delivery, silence, ahead_s=_AHEAD_S)
                continue
            if self.stopping():
                break
            leased_ids = self.ledger.deliveries.renew(holder, self.now(), self._lease_s)
            sendable = self._set_aside_altered(
                holder, [delivery for delivery in group if delivery.id in leased_ids]
            )
            if not sendable:
                continue
            outcomes = self._send_group(destination, sendable)
            for delivery, outcome in zip(sendable, outcomes, strict=True):
                self._record(holder, delivery, outcome)
            if all(outcome.verdict == "transient" and outcome.status is None for outcome in outcomes):
                silence = outcomes[0]
        return silence is None

    def _set_aside_altered(self, holder: str, group: list[Delivery]) -> list[Delivery]:
        """Give up deliveries whose frozen file is not the one that was verified; return the others."""
        verdicts = [(delivery, self._file_problem(delivery)) for delivery in group]
        for delivery, problem in verdicts:
            if problem is not None:
                self._record(holder, delivery, problem)
        return [delivery for delivery, problem in verdicts if problem is None]

    def _file_problem(self, delivery: Delivery) -> SendOutcome | None:
        try:
            with (self.root / delivery.result.path).open("rb") as file:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        except FileNotFoundError:
            return SendOutcome("permanent", "the result file is gone from the spool; replay the study")
        except OSError as problem:
            return SendOutcome("transient", f"the result file cannot be read: {problem.strerror}")
        if sha256 != delivery.result.sha256:
            return SendOutcome(
                "permanent", "the result file was altered after it was verified; replay the study"
            )
        return None

    def _send_group(self, destination: DestinationSettings, group: list[Delivery]) -> list[SendOutcome]:
        files = [self.root / delivery.result.path for delivery in group]
        calling_ae = destination.calling_ae_title or self.config.network.ae_title
        try:
            outcomes = self.send(
                files, destination, calling_ae=calling_ae, timeout_s=self.config.delivery.timeout_s
            )
        except PermanentRefusal as refusal:
            return [SendOutcome("permanent", str(refusal))] * len(group)
        except RetryLater as fault:
            return [SendOutcome("transient", str(fault))] * len(group)
        except Exception as bug:
            # A bug in sending one study must not stop the others; it is tried again, and shown.
            log.exception("sending_crashed", destination=destination.name, error=type(bug).__name__)
            return [
                SendOutcome(
                    "transient", f"sending failed with {type(bug).__name__}; please report it with the log"
                )
            ] * len(group)
        missing = len(group) - len(outcomes)
        return [
            *outcomes[: len(group)],
            *[SendOutcome("transient", "the sender said nothing about this object")] * missing,
        ]

    def _record(self, holder: str, delivery: Delivery, outcome: SendOutcome, ahead_s: float = 0.0) -> None:
        now = self.now()
        state, next_attempt_at, confirm_at = (
            DeliveryState.SENT,
            None,
            self._confirm_at(delivery.destination, outcome, now),
        )
        if outcome.verdict != "ok":
            retry = outcome.verdict == "transient"
            next_attempt_at = (
                plan_retry(delivery.attempts, delivery.first_failed_at, now, self.config.delivery)
                if retry
                else None
            )
            state = DeliveryState.DUE if next_attempt_at is not None else DeliveryState.GIVEN_UP
            next_attempt_at = next_attempt_at and next_attempt_at - ahead_s
        is_recorded = self.ledger.deliveries.record(
            delivery.id, state, outcome.reason, now, next_attempt_at, owner=holder, confirm_at=confirm_at
        )
        if outcome.not_accepted:
            self.ledger.offers.ask_again(delivery.destination, now)
        if outcome.refuses_class:
            # It took the presentation context, so asking it would tell nothing.
            self.ledger.offers.refuse(delivery.destination, delivery.result.SOPClassUID, now)
        if is_recorded and state in (DeliveryState.SENT, DeliveryState.GIVEN_UP):
            self._audit(delivery, arrived=state is DeliveryState.SENT)
        (log.info if state is DeliveryState.SENT else log.warning)(
            "delivery_recorded" if is_recorded else "delivery_taken_over",
            study_instance_uid=delivery.StudyInstanceUID,
            sop_instance_uid=delivery.result.SOPInstanceUID,
            destination=delivery.destination,
            state=state.value,
            status=outcome.status,
            reason=outcome.reason,
            attempt=delivery.attempts,
        )

    def _confirm_at(self, name: str, outcome: SendOutcome, now: float) -> float | None:
        """Return when to ask after what was sent.

        An archive that changed it may list it elsewhere, so its word is believed there.
        """
        ways = [destination.confirm for destination in self.config.destinations if destination.name == name]
        if not ways or ways[0] == "none" or (outcome.is_coerced and ways[0] != "commitment"):
            return None
        return now + self.config.delivery.confirm_first_s

    def _audit(self, delivery: Delivery, *, arrived: bool) -> None:
        settings = next(
            (entry for entry in self.config.destinations if entry.name == delivery.destination), None
        )
        peer_ae, host = (
            (settings.ae_title, settings.host) if settings is not None else (delivery.destination, "")
        )
        outcome, detail = (SUCCESS, "") if arrived else (SERIOUS_FAILURE, "given up")
        classes = {delivery.result.SOPClassUID: 1}
        self.audit(
            AuditEvent("instances-sent", outcome, peer_ae, host, delivery.StudyInstanceUID, classes, detail)
        )

    @property
    def _lease_s(self) -> float:
        return lease_s(self.config)
