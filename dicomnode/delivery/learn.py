"""Asks destinations what they accept, now and then, and settles from that what the configuration leaves open.

A destination that is away keeps what it said before. One that refuses what it was said to accept is asked at
once (`deliver`); one that accepts a SOP class and then refuses it by status (0x0122, PS3.7 C.5.18) counts as
not accepting it for a day.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import structlog

from dicomnode.delivery.adapt import adapt
from dicomnode.ledger.ledger import Ledger
from dicomnode.network.offer import ask_offer
from dicomnode.records import SendOutcome
from dicomnode.settings.config import Config, DestinationSettings
from dicomnode.settings.rules import variants

log = structlog.get_logger()

# Wait before a destination is asked again that could not be asked.
_AGAIN_S = 60.0


class AskOffer(Protocol):
    """Asks what a destination accepts; see `dicomnode.network.offer.ask_offer`."""

    def __call__(
        self, destination: DestinationSettings, *, calling_ae: str, timeout_s: float
    ) -> Mapping[str, tuple[str, ...]] | SendOutcome:
        """Ask."""


def learn_due(ledger: Ledger, config: Config, now: Callable[[], float], *, ask: AskOffer = ask_offer) -> int:
    """Ask every destination that is due what it accepts, all at once; return how many were asked.

    DICOMweb has no way to ask.
    """
    due = [
        destination
        for destination in config.destinations
        if not destination.url and ledger.offers.is_due(destination.name, destination.address, now())
    ]
    if due:
        pupil = _Pupil(ledger, config, now, ask)
        with ThreadPoolExecutor(len(due), thread_name_prefix="learn") as threads:
            list(threads.map(pupil.learn, due))
    return len(due)


def remember(
    ledger: Ledger,
    config: Config,
    destination: DestinationSettings,
    accepted: Mapping[str, tuple[str, ...]],
    now: float,
) -> None:
    """Note what a destination accepts, and log it where it gets something else from now on."""
    before = adapt(destination, ledger.offers.known(destination.name, destination.address))
    ledger.offers.learn(destination.name, destination.address, accepted, now, now + config.delivery.learn_s)
    after = adapt(destination, ledger.offers.known(destination.name, destination.address))
    if before.remarks != after.remarks:
        say = log.warning if after.remarks else log.info
        say(
            "destination_learned",
            destination=destination.name,
            reason="; ".join(after.remarks) or "it accepts the usual objects",
        )


def settle_config(config: Config, ledger: Ledger) -> tuple[Config, dict[str, tuple[str, ...]]]:
    """Return the configuration with nothing left to choose for its destinations.

    The second value holds the remarks on destinations that get other than the usual.
    """
    adapted = [
        adapt(destination, ledger.offers.known(destination.name, destination.address))
        for destination in config.destinations
    ]
    remarks = {form.destination.name: form.remarks for form in adapted if form.remarks}
    return config.model_copy(update={"destinations": tuple(form.destination for form in adapted)}), remarks


def find_outdated(ledger: Ledger, config: Config) -> list[str]:
    """Return the studies of which something was given up that.

    As was learned since, goes there in another form.
    """
    studies: dict[str, None] = {}
    for destination in config.destinations:
        offer = ledger.offers.known(destination.name, destination.address)
        if offer is not None:
            # A rule of the site may want another form of some studies.
            forms = [adapt(variant, offer).destination.form for variant in variants(config, destination)]
            kinds = tuple(dict.fromkeys(kind for form in forms for kind in form.kinds))
            studies |= dict.fromkeys(
                ledger.deliveries.given_up_in_another_form(destination.name, kinds, offer.learned_at)
            )
    return list(studies)


@dataclass(frozen=True)
class _Pupil:
    ledger: Ledger
    config: Config
    now: Callable[[], float]
    ask: AskOffer

    def learn(self, destination: DestinationSettings) -> None:
        calling_ae = destination.calling_ae_title or self.config.network.ae_title
        accepted = self.ask(destination, calling_ae=calling_ae, timeout_s=self.config.delivery.timeout_s)
        if isinstance(accepted, SendOutcome):
            self.ledger.offers.postpone(destination.name, destination.address, self.now() + _AGAIN_S)
            log.info("destination_not_asked", destination=destination.name, reason=accepted.reason)
        else:
            remember(self.ledger, self.config, destination, accepted, self.now())
