"""Ask a destination what it would take, without sending anything: used by `dicomnode doctor`."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pynetdicom import AE, build_context
from pynetdicom.association import Association
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from dicomnode.errors import StartError
from dicomnode.network.contexts import COMMITMENT
from dicomnode.network.dial import closing_sockets, hang_up
from dicomnode.network.offer import accepted_results, result_contexts
from dicomnode.network.query import FIND
from dicomnode.network.tls import RequestorTls, explain, speaks_tls
from dicomnode.settings.config import DestinationSettings

# (source, reason) of an A-ASSOCIATE-RJ, PS3.8 Table 9-21.
_CALLING_NOT_KNOWN = (1, 3)
# Longest wait for a connection, or for an answer to a TLS greeting.
_GREETING_S = 10.0


@dataclass(frozen=True)
class Probe:
    """What a destination said.

    `problem` is empty when it answered C-ECHO; `accepted` are the transfer syntaxes per SOP class of results.

    `commits` and `finds` tell whether it offers storage commitment and C-FIND, to prove that it keeps what it
    takes.
    """

    problem: str
    advice: str = ""
    accepted: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    calling_not_known: bool = False
    commits: bool = False
    finds: bool = False


def probe_destination(destination: DestinationSettings, calling_ae: str, timeout_s: float) -> Probe:
    """Connect, associate, C-ECHO, and see which of our result classes are accepted."""
    address = f"{destination.host}:{destination.port}"
    try:
        socket.create_connection(
            (destination.host, destination.port), timeout=min(timeout_s, _GREETING_S)
        ).close()
    except socket.gaierror:
        return Probe(
            f"the host name {destination.host} is not known", "correct destinations.host, or use the address"
        )
    except OSError as problem:
        reason = problem.strerror or "no answer in time"
        return Probe(
            f"nothing listens at {address}: {reason}", "check host, port, firewall, and that the archive runs"
        )
    try:
        tls = RequestorTls(destination) if destination.tls else None
    except StartError as problem:
        return Probe("TLS cannot be set up", str(problem))
    with closing_sockets() as opened_sockets:
        association = _associate(destination, calling_ae, timeout_s, tls, opened_sockets)
        return _not_associated(association, destination, calling_ae, tls) or _ask(association)


def _not_associated(
    association: Association, destination: DestinationSettings, calling_ae: str, tls: RequestorTls | None
) -> Probe | None:
    address = f"{destination.host}:{destination.port}"
    if tls is not None and tls.problem is not None:
        words = explain(tls.problem)
        return Probe(f"{address}: {words.seen}", words.advice)
    if association.is_rejected:
        advice = _advice_on_rejection(association, destination, calling_ae)
        return Probe(
            f"{address} refused the association",
            advice,
            calling_not_known=_reason(association) == _CALLING_NOT_KNOWN,
        )
    if association.is_established:
        return None
    if tls is None and speaks_tls(destination.host, destination.port, _GREETING_S):
        return Probe(f"{address} takes TLS only", "set destinations.tls, and [tls]")
    return Probe(
        f"{address} broke the association off", "the port answers, but not with DICOM: is it another service?"
    )


def _ask(association: Association) -> Probe:
    try:
        answer = association.send_c_echo()
        services = {str(context.abstract_syntax) for context in association.accepted_contexts}
        accepted = accepted_results(association)
        if getattr(answer, "Status", None) != 0x0000:
            return Probe("C-ECHO was not answered with success", "see the archive's log", accepted)
        return Probe("", accepted=accepted, commits=str(COMMITMENT) in services, finds=str(FIND) in services)
    finally:
        hang_up(association)


def _associate(
    destination: DestinationSettings,
    calling_ae: str,
    timeout_s: float,
    tls: RequestorTls | None,
    opened_sockets: Any,
) -> Association:
    ae = AE(ae_title=calling_ae)
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = timeout_s
    return ae.associate(
        destination.host,
        destination.port,
        contexts=[
            *(build_context(service) for service in (Verification, COMMITMENT, FIND)),
            *result_contexts(),
        ],
        ae_title=destination.ae_title,
        evt_handlers=opened_sockets,
        tls_args=tls.arguments if tls else None,
    )


def _reason(association: Association) -> tuple[int, int]:
    primitive: Any = association.acceptor.primitive
    return primitive.result_source, primitive.diagnostic


def _advice_on_rejection(association: Association, destination: DestinationSettings, calling_ae: str) -> str:
    """Translate the A-ASSOCIATE-RJ reason (PS3.8 Table 9-21)."""
    source, diagnostic = _reason(association)
    if (source, diagnostic) == (1, 7):
        return f"it is not called {destination.ae_title}: correct destinations.ae_title"
    if (source, diagnostic) == _CALLING_NOT_KNOWN:
        return (
            f"it does not know {calling_ae}: register our AE title there, or set "
            "destinations.calling_ae_title"
        )
    if source == 3:
        return "it is too busy for the moment: try again"
    return f"source {source}, reason {diagnostic}: ask its administrator to look for {calling_ae} in its log"
