"""Which results a destination accepts, by association negotiation alone: nothing is sent."""

from __future__ import annotations

from collections.abc import Mapping

from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom.association import Association
from pynetdicom.presentation import PresentationContext, build_context
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from dicomnode.network.dial import associated
from dicomnode.network.result_classes import RESULT_CLASSES
from dicomnode.records import SendOutcome
from dicomnode.settings.config import DestinationSettings


def result_contexts() -> list[PresentationContext]:
    """Return the presentation contexts of all results.

    Each syntax stands in a context of its own: of several in one the acceptor tells of one.
    """
    return [
        build_context(uid, syntax)
        for uid in RESULT_CLASSES
        for syntax in (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
    ]


def accepted_results(association: Association) -> dict[str, tuple[str, ...]]:
    """Return the transfer syntaxes that were accepted, per SOP class of results.

    A class that was refused is absent.
    """
    accepted: dict[str, tuple[str, ...]] = {}
    for context in association.accepted_contexts:
        uid = str(context.abstract_syntax)
        if uid in RESULT_CLASSES:
            accepted[uid] = (*accepted.get(uid, ()), str(context.transfer_syntax[0]))
    return accepted


def ask_offer(
    destination: DestinationSettings, *, calling_ae: str, timeout_s: float
) -> Mapping[str, tuple[str, ...]] | SendOutcome:
    """Associate with a destination and return what it accepts; a `SendOutcome` when it cannot be asked."""
    with associated(
        destination, calling_ae, timeout_s, [build_context(Verification), *result_contexts()]
    ) as association:
        if not isinstance(association, SendOutcome):
            return accepted_results(association)
        return {} if association.not_accepted else association
