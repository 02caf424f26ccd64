"""Proof after sending: what a destination took is asked after until it is proved there, sent again, or shown.

Each function is safe to be killed in: who asks holds a delivery by its time, and a transaction is in the
ledger before it is on the wire.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import structlog

from dicomnode.delivery import routes
from dicomnode.delivery.outbox import plan_retry
from dicomnode.ledger.ledger import Ledger
from dicomnode.network.commitment import JournalReport
from dicomnode.network.query import InstanceKey
from dicomnode.records import CommitmentReport, SendOutcome, SOPReference, Unconfirmed
from dicomnode.settings.config import Config, DestinationSettings
from dicomnode.states import DeliveryState
from pipeline.counts import counted

log = structlog.get_logger()

_BATCH = 64
# Connecting, asking and hearing the answer may each take `timeout_s`, for two services.
_LEASE_TIMEOUTS = 8

# Failure Reasons of storage commitment, PS3.3 C.14.1.1.
_FAILURE_REASONS = {
    0x0110: "processing failure",
    0x0112: "no such object instance",
    0x0119: "class-instance conflict",
    0x0122: "referenced SOP class not supported",
    0x0131: "duplicate transaction UID",
    0x0213: "resource limitation",
}


class Ask(Protocol):
    """Asks for storage commitment; see `dicomnode.network.commitment.ask_commitment`."""

    def __call__(
        self,
        destination: DestinationSettings,
        references: Sequence[SOPReference],
        TransactionUID: str,
        *,
        calling_ae: str,
        timeout_s: float,
        journal: JournalReport,
    ) -> SendOutcome:
        """Ask."""


class Find(Protocol):
    """Looks for instances; see `dicomnode.network.query.find_instances`."""

    def __call__(
        self,
        destination: DestinationSettings,
        instances: Sequence[InstanceKey],
        *,
        calling_ae: str,
        timeout_s: float,
    ) -> frozenset[str] | SendOutcome:
        """Find."""


def confirm_due(
    ledger: Ledger,
    config: Config,
    now: Callable[[], float],
    make_uid: Callable[[], str],
    *,
    ask: Ask = routes.ask,
    find: Find = routes.find,
) -> int:
    """Ask after everything that is due, all destinations at once.

    Returned is how many deliveries were looked at.
    """
    names = ledger.confirmations.due_destinations(now())
    if not names:
        return 0
    inquirer = _Inquirer(ledger, config, now, make_uid, ask, find)
    with ThreadPoolExecutor(len(names), thread_name_prefix="confirm") as threads:
        return sum(threads.map(inquirer.serve, names))


@dataclass(frozen=True)
class _Inquirer:
    ledger: Ledger
    config: Config
    now: Callable[[], float]
    make_uid: Callable[[], str]
    ask: Ask
    find: Find

    def serve(self, name: str) -> int:
        """Settle what was reported, then ask after the rest; returns how many deliveries were looked at."""
        settings = self.config.delivery
        lease_s = settings.timeout_s * _LEASE_TIMEOUTS + settings.confirm_wait_s
        claimed = self.ledger.confirmations.claim(name, self.now(), lease_s, _BATCH)
        destination = next((entry for entry in self.config.destinations if entry.name == name), None)
        unreported = [unproved for unproved in claimed if not self._settle_reported(unproved)]
        if destination is None or destination.confirm == "none":
            for unproved in unreported:
                self._leave(unproved, "the peer answered success; no proof is asked for")
        elif unreported:
            self._ask_after(destination, unreported)
        return len(claimed)

    def _settle_reported(self, unproved: Unconfirmed) -> bool:
        if unproved.verdict is None:
            return False
        if unproved.verdict == 0:
            self._confirm(unproved, "the peer committed itself to keep it (storage commitment)")
        else:
            meaning = _FAILURE_REASONS.get(unproved.verdict, "a reason that the standard does not know")
            self._not_kept(unproved, f"storage commitment failed, 0x{unproved.verdict:04X}: {meaning}")
        return True

    def _ask_after(self, destination: DestinationSettings, group: list[Unconfirmed]) -> None:
        """Storage commitment first.

        C-FIND where that is the way, or where a request was not answered in time.
        """
        late = [unproved for unproved in group if unproved.TransactionUID is not None]
        fresh = [unproved for unproved in group if unproved.TransactionUID is None]
        if destination.confirm == "find" or destination.url:
            # DICOMweb has no storage commitment.
            self._look_up(destination, group, may_ask=False)
        elif destination.confirm == "commitment":
            self._request(destination, group)
        else:
            if late:
                self._look_up(destination, late, may_ask=True)
            if fresh:
                self._request(destination, fresh)

    def _request(self, destination: DestinationSettings, group: list[Unconfirmed]) -> None:
        """Ask for storage commitment; what was asked for often enough without an answer is given up."""
        settings = self.config.delivery
        exhausted = [unproved for unproved in group if unproved.tries >= settings.confirm_tries]
        if exhausted and destination.confirm == "auto":
            self._look_up(destination, exhausted, may_ask=False, is_last_way=True)
        else:
            for unproved in exhausted:
                self._give_up(unproved, self._no_report(unproved))
        group = [unproved for unproved in group if unproved.tries < settings.confirm_tries]
        if not group:
            return
        TransactionUID, now = self.make_uid(), self.now()
        ids = [unproved.delivery.id for unproved in group]
        # Written down first: the report may come before this process is asked again, to the other one, or
        # after a restart.
        self.ledger.confirmations.open_transaction(
            TransactionUID, destination.name, ids, now + settings.confirm_wait_s, now
        )
        references = [
            SOPReference(unproved.delivery.result.SOPClassUID, unproved.delivery.result.SOPInstanceUID)
            for unproved in group
        ]
        outcome = self.ask(
            destination,
            references,
            TransactionUID,
            calling_ae=self._calling_ae(destination),
            timeout_s=settings.timeout_s,
            journal=self._journal,
        )
        log.info(
            "commitment_requested",
            destination=destination.name,
            transaction=TransactionUID,
            count=len(group),
            reason=outcome.reason,
        )
        if outcome.verdict == "transient":
            self._wait(group, outcome.reason)
        elif outcome.verdict == "permanent" and destination.confirm == "auto":
            self._look_up(destination, group, may_ask=False)
        elif outcome.verdict == "permanent":
            for unproved in group:
                self._give_up(
                    unproved,
                    (
                        f"the peer answered success but cannot prove it: {outcome.reason}; set confirm to "
                        "find or none"
                    ),
                )

    def _no_report(self, unproved: Unconfirmed) -> str:
        wait = (
            f"no report on storage commitment within {self.config.delivery.confirm_wait_s:g} s, "
            f"asked {counted(unproved.tries, 'time')}"
        )
        return (
            f"the peer answered success but did not prove it: {wait}; see that it knows our AE "
            "title, host and port"
        )

    def _look_up(
        self,
        destination: DestinationSettings,
        group: list[Unconfirmed],
        *,
        may_ask: bool,
        is_last_way: bool = False,
    ) -> None:
        """Look for the objects by C-FIND.

        `may_ask` says that storage commitment is offered, should there be no C-FIND.

        `is_last_way` says that storage commitment was asked for often enough and nothing was reported.
        """
        keys = [
            InstanceKey(
                unproved.delivery.StudyInstanceUID,
                unproved.delivery.result.SeriesInstanceUID,
                unproved.delivery.result.SOPInstanceUID,
            )
            for unproved in group
        ]
        calling_ae, timeout_s = self._calling_ae(destination), self.config.delivery.timeout_s
        listed = self.find(destination, keys, calling_ae=calling_ae, timeout_s=timeout_s)
        if not isinstance(listed, SendOutcome):
            for unproved in group:
                self._judge_found(unproved, listed)
        elif listed.verdict == "transient":
            self._wait(group, listed.reason)
        elif may_ask:
            self._request(destination, group)
        else:
            for unproved in group:
                if is_last_way:
                    self._give_up(unproved, self._no_report(unproved))
                elif destination.confirm == "find":
                    self._give_up(
                        unproved,
                        (
                            f"the peer answered success but cannot prove it: {listed.reason}; set confirm to "
                            "commitment or none"
                        ),
                    )
                else:
                    self._leave(
                        unproved, f"the peer answered success and has no way to prove it ({listed.reason})"
                    )

    def _judge_found(self, unproved: Unconfirmed, listed: frozenset[str]) -> None:
        settings = self.config.delivery
        if unproved.delivery.result.SOPInstanceUID in listed:
            self._confirm(unproved, "the peer lists it (query)")
        elif (
            unproved.tries + 1 >= settings.confirm_tries
            and self.now() - unproved.sent_at >= settings.index_wait_s
        ):
            self._not_kept(unproved, "the peer answered success and does not list it (query)")
        else:
            self._wait([unproved], "the peer does not list it yet (query)", is_counted=True)

    def _confirm(self, unproved: Unconfirmed, proof: str) -> None:
        if self.ledger.confirmations.settle(unproved.delivery.id, DeliveryState.CONFIRMED, proof, self.now()):
            self._log(unproved, DeliveryState.CONFIRMED)

    def _not_kept(self, unproved: Unconfirmed, reason: str) -> None:
        """Send it again, later each time; after `delivery.resends` times it is shown instead."""
        settings, now = self.config.delivery, self.now()
        if unproved.resends >= settings.resends:
            self._give_up(unproved, f"{reason}; sent {counted(unproved.resends + 1, 'time')}")
            return
        resend_at = plan_retry(unproved.resends + 1, None, now, settings)
        if self.ledger.confirmations.settle(unproved.delivery.id, DeliveryState.DUE, reason, now, resend_at):
            self._log(unproved, DeliveryState.DUE)

    def _give_up(self, unproved: Unconfirmed, reason: str) -> None:
        if self.ledger.confirmations.settle(unproved.delivery.id, DeliveryState.GIVEN_UP, reason, self.now()):
            self._log(unproved, DeliveryState.GIVEN_UP)

    def _leave(self, unproved: Unconfirmed, reason: str) -> None:
        self.ledger.confirmations.settle_unproved(unproved.delivery.id, reason, self.now())

    def _wait(self, group: Sequence[Unconfirmed], reason: str, *, is_counted: bool = False) -> None:
        settings, now = self.config.delivery, self.now()
        for unproved in group:
            retry_at = plan_retry(unproved.tries + 1, unproved.sent_at, now, settings)
            if retry_at is None:
                self._give_up(
                    unproved,
                    (
                        "the peer answered success but did not prove it within "
                        f"{counted(settings.give_up_after_hours, 'hour')}: {reason}"
                    ),
                )
            else:
                self.ledger.confirmations.postpone(
                    unproved.delivery.id,
                    retry_at,
                    f"sent, not proved yet: {reason}",
                    now,
                    tries=unproved.tries + is_counted,
                )

    def _journal(self, report: CommitmentReport) -> bool:
        return self.ledger.confirmations.report(report, self.now())

    def _calling_ae(self, destination: DestinationSettings) -> str:
        return destination.calling_ae_title or self.config.network.ae_title

    def _log(self, unproved: Unconfirmed, state: DeliveryState) -> None:
        (log.info if state is DeliveryState.CONFIRMED else log.warning)(
            "delivery_proved" if state is DeliveryState.CONFIRMED else "delivery_not_proved",
            study_instance_uid=unproved.delivery.StudyInstanceUID,
            sop_instance_uid=unproved.delivery.result.SOPInstanceUID,
            destination=unproved.delivery.destination,
            state=state.value,
            resends=unproved.resends,
        )
