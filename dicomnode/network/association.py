"""`Receiver`: the listener. It checks who calls, negotiates, and hands every request to `handlers`."""

from __future__ import annotations

import socket
import socketserver
import ssl
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import structlog
from pynetdicom import AE, _config, evt
from pynetdicom.transport import ThreadedAssociationServer

from dicomnode.audit.events import MINOR_FAILURE, Audit, AuditEvent, silent
from dicomnode.errors import PortError
from dicomnode.network.contexts import VERIFICATION, accepted_contexts
from dicomnode.network.handlers import AddInstance, AnswerStore, InstanceWriter, answer_echo, store_handler, usual_way
from dicomnode.network.limits import Doorkeeper, PeerShares, ReceiveMemory
from dicomnode.network.peers import PERMANENT, Rejection, busy, check_caller
from dicomnode.network.reactor import PromptRequestHandler
from dicomnode.network.tls import A_ASSOCIATE_RQ, HandshakeProblem, acceptor_context, certificate_of, explain
from dicomnode.settings.config import Config

log = structlog.get_logger()

_POLL_S = 0.2


class _Server(ThreadedAssociationServer):
    """A listener that bursts of connections do not overrun. A TLS handshake is the connection's own thread's: the listener waits for nobody."""

    request_queue_size = 128
    daemon_threads = True
    answer_store: AnswerStore
    memory: ReceiveMemory
    doorkeeper: Doorkeeper
    audit: Audit
    tls: ssl.SSLContext | None = None
    looked_at = 0.0
    """When the listener's loop last came round (`time.monotonic`)."""

    def service_actions(self) -> None:
        """Note, each time that the loop comes round, that it does."""
        super().service_actions()
        self.looked_at = time.monotonic()

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Let a connection in, or close it before it has cost a thread."""
        host = str(client_address[0])
        if self.doorkeeper.lets_in(host, Counter(peer_host(one) for one in self.active_associations if not one.is_established)):
            return True
        detail = "more connections than network.maximum_associations at once that are no association"
        self.audit(AuditEvent("connections-cut", MINOR_FAILURE, peer_host=host, detail=detail))
        return False

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Make the association of a connection, in its own thread."""
        with self.doorkeeper.waiting(str(client_address[0])):
            super().process_request_thread(request, client_address)

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Do the TLS handshake where it is due, then what the library does."""
        if self.tls is not None:
            request = _secured(self.tls, request, str(client_address[0]), self.ae.acse_timeout, self.audit)
            if request is None:
                return
        super().finish_request(request, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log what a connection that could not be made into an association ended with; the library would print it."""
        log.warning("connection_failed", host=str(client_address[0]), error=type(sys.exception()).__name__)


class Receiver:
    """C-ECHO and C-STORE SCP, and whatever `services` adds.

    Parameters
    ----------
    config
        Who we are, who may call, limits and timeouts.
    writer
        Makes an instance safe on disk.
    add_instance
        Lists an instance in the ledger.
    clock
        Seconds since the epoch.
    services
        (pynetdicom event, handler) pairs of what is served besides: storage commitment. Without them its requests fail.
    audit
        Told of every caller that is turned away.
    """

    def __init__(
        self,
        config: Config,
        writer: InstanceWriter,
        add_instance: AddInstance,
        clock: Callable[[], float],
        services: Sequence[tuple[Any, Callable[..., Any]]] = (),
        audit: Audit = silent,
    ) -> None:
        self._config = config
        self._audit = audit
        self.congested = False
        """Set while the node has more open studies than it may: new associations are then refused for the moment."""
        self._shares = PeerShares(config.network)
        self._answer_store = store_handler(writer, add_instance, clock)
        self._handlers: list[Any] = [
            (evt.EVT_REQUESTED, self._check_and_offer),
            (evt.EVT_ACCEPTED, _log_contexts),
            (evt.EVT_ABORTED, _log_abort),
            (evt.EVT_C_ECHO, answer_echo),
            (evt.EVT_C_STORE, usual_way(self._answer_store)),
            *services,
        ]
        self._server: _Server | None = None

    def start(self) -> tuple[str, int]:
        """Listen, and return the address and port that are really bound; raise `StartError` (`PortError`, a TLS file) when that cannot be."""
        # Its own event log is slow and prints what peers send.
        _config.LOG_HANDLER_LEVEL = "none"
        network = self._config.network
        tls = acceptor_context(self._config.tls) if network.tls else None
        try:
            server: Any = _entity(self._config).make_server(
                (network.bind, network.port), evt_handlers=self._handlers, server_class=_Server, request_handler=PromptRequestHandler
            )
        except (OSError, OverflowError) as problem:
            reason = getattr(problem, "strerror", None) or str(problem)
            raise PortError(f"cannot listen on {network.bind}:{network.port}: {reason}; set network.bind and network.port") from problem
        server.answer_store, server.tls, server.audit = self._answer_store, tls, self._audit
        server.memory, server.doorkeeper = ReceiveMemory(network), Doorkeeper(network)
        server.looked_at = time.monotonic()
        self._server = server
        threading.Thread(target=server.serve_forever, args=(_POLL_S,), name="listener", daemon=True).start()
        host, port = server.server_address[:2]
        return str(host), int(port)

    def silent_s(self) -> float:
        """Return for how many seconds the listener's loop has not come round: it ended, or it hangs, and nobody who calls is heard."""
        return 0.0 if self._server is None else time.monotonic() - self._server.looked_at

    def stop(self, timeout_s: float) -> None:
        """Take no new association, give the open ones `timeout_s` to finish, then abort them."""
        server, self._server = self._server, None
        if server is None:
            return
        # The library's own shutdown also looks for the server in a list that only its own start fills.
        socketserver.BaseServer.shutdown(server)
        server.server_close()
        end = time.monotonic() + timeout_s
        while server.active_associations and time.monotonic() < end:
            time.sleep(0.02)
        for association in server.active_associations:
            association.abort()

    def _check_and_offer(self, event: Any) -> None:
        """Reject who may not call, else offer what fits the proposal. Runs before the library negotiates."""
        association, proposal = event.assoc, event.assoc.requestor.primitive
        host = association.requestor.address or ""
        rejection = check_caller(
            self._config,
            called_ae=proposal.called_ae_title,
            calling_ae=proposal.calling_ae_title,
            host=host,
            certificate=certificate_of(association.dul.socket.socket),
        ) or self._check_room(association, proposal.calling_ae_title, host)
        if rejection is None:
            contexts = accepted_contexts(proposal.presentation_context_definition_list, self._config.network.other_objects)
            association.acceptor.supported_contexts = contexts
            return
        log.warning("association_rejected", calling_ae=proposal.calling_ae_title, host=host, advice=rejection.advice)
        if rejection.result == PERMANENT:
            self._audit(AuditEvent("association-refused", MINOR_FAILURE, proposal.calling_ae_title, host, detail=rejection.advice))
        association.acse.send_reject(rejection.result, rejection.source, rejection.reason)
        association.kill()

    def _check_room(self, association: Any, calling_ae: str, host: str) -> Rejection | None:
        """Return a rejection for the moment when the node, or the share of this peer, is full."""
        if self.congested:
            return busy("more studies wait than network.maximum_open_studies")
        if self._shares.take(calling_ae.strip(), host, lambda: _is_open(association)):
            return None
        return busy(f"{calling_ae.strip()!r} from {host} has as many associations as network.maximum_associations_per_peer allows")


def _is_open(association: Any) -> bool:
    """Say whether an association is being negotiated or established; its thread may outlive its end a little."""
    return association.is_alive() and not (association.is_released or association.is_aborted or association.is_rejected)


def peer_host(association: Any) -> str:
    """Return the address of the other end."""
    return association.requestor.address or ""


def _secured(context: ssl.SSLContext, connection: socket.socket, host: str, timeout_s: float | None, audit: Audit) -> ssl.SSLSocket | None:
    """Do the TLS handshake of a caller; None, and the connection is closed, when it fails."""
    connection.settimeout(timeout_s)
    try:
        first = connection.recv(1, socket.MSG_PEEK)
        if not first:
            # Somebody looked whether the port is open.
            connection.close()
            return None
        if first == A_ASSOCIATE_RQ:
            problem = HandshakeProblem("plain DICOM on a port that takes TLS only", "turn TLS on at the peer")
        else:
            secured = context.wrap_socket(connection, server_side=True)
            # From here on the timeouts are options of the socket (`reactor`).
            secured.settimeout(None)
            return secured
    except OSError as failed:
        problem = explain(failed)
    connection.close()
    log.warning("tls_handshake_failed", host=host, reason=problem.seen, advice=problem.advice)
    audit(AuditEvent("handshake-failed", MINOR_FAILURE, peer_host=host, detail=problem.seen))
    return None


def _entity(config: Config) -> AE:
    network = config.network
    entity = AE(ae_title=network.ae_title)
    entity.maximum_associations = network.maximum_associations
    entity.maximum_pdu_size = network.maximum_pdu_bytes
    entity.acse_timeout = network.acse_timeout_s
    entity.dimse_timeout = network.dimse_timeout_s
    entity.network_timeout = network.network_timeout_s
    # The real contexts are made per association, out of what the peer proposes.
    entity.add_supported_context(VERIFICATION)
    return entity


def _log_contexts(event: Any) -> None:
    association = event.assoc
    peer = {"calling_ae": association.requestor.ae_title, "host": association.requestor.address}
    log.info("association_accepted", **peer, contexts=len(association.accepted_contexts))
    for context in association.rejected_contexts:
        # Without this line nobody finds out why a modality's images do not arrive while its reports do.
        syntaxes = [str(syntax) for syntax in context.transfer_syntax]
        log.warning("context_rejected", **peer, SOPClassUID=str(context.abstract_syntax), transfer_syntaxes=syntaxes, reason=context.status)


def _log_abort(event: Any) -> None:
    log.warning("association_aborted", calling_ae=event.assoc.requestor.ae_title, host=event.assoc.requestor.address)
