"""`Receiver`: the listener. It checks who calls, and hands every request to `handlers`."""

from __future__ import annotations

import contextlib
import selectors
import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import structlog
from pynetdicom import AE, _config, evt
from pynetdicom.transport import AssociationServer

from dicomnode.audit.events import Audit, silent
from dicomnode.errors import PortError
from dicomnode.network import status
from dicomnode.network.acceptor import Service, open_association
from dicomnode.network.contexts import VERIFICATION
from dicomnode.network.handlers import (
    AddInstance,
    AnswerStore,
    InstanceWriter,
    StoreRequest,
    answer_echo,
    store_handler,
)
from dicomnode.network.limits import Places, ReceiveMemory
from dicomnode.network.lobby import HalfOpen, Lobby
from dicomnode.network.peers import (
    Rejection,
    busy,
    check_caller,
    foreign_context,
    foreign_version,
    is_peer_address,
)
from dicomnode.network.refusals import Refusal, RefusalEvent, Refusals
from dicomnode.network.request import AssociationRequest, encode_abort, encode_reject
from dicomnode.network.tls import acceptor_context, certificate_of
from dicomnode.network.watch import AssociationListener, ignore_associations
from dicomnode.settings.config import Config
from dicomnode.uids import is_uid

log = structlog.get_logger()

_POLL_S = 0.2
_SOON_S = 0.01
# Where no file handle is left: for so long nobody new is accepted.
_EXHAUSTED_S = 0.1
# The library counts every connection; `limits.Places` counts associations.
_NO_LIMIT = 1_000_000


class _Server(AssociationServer):
    """The listener's socket and its loop: one thread that accepts, reads requests, and lets in who may come.

    Parameters
    ----------
    config
        Who we are, who may call, limits.
    entity, handlers
        The library's application entity and (event, handler) pairs.
    service
        What associations serve with.
    decide
        Returns why a caller is turned away; None lets it in.
    tls
        The context of the listener; None: plain.
    """

    request_queue_size = 128

    def __init__(
        self,
        config: Config,
        handlers: list[Any],
        service: Service,
        decide: Callable[[HalfOpen, AssociationRequest], Rejection | None],
        tls: ssl.SSLContext | None,
    ) -> None:
        entity, network = service.entity, config.network
        super().__init__(
            entity,
            (network.bind, network.port),
            network.ae_title,
            entity.supported_contexts,
            evt_handlers=handlers,
        )
        self._config = config
        self.memory, self.places = ReceiveMemory(network), Places(network)
        self._service, self._decide = service, decide
        self._selector = selectors.DefaultSelector()
        self._lobby = Lobby(
            self._selector,
            tls,
            network.acse_timeout_s,
            self.memory,
            service.refusals,
            lambda host: is_peer_address(self._config, host),
            self._welcome,
            time.monotonic,
        )
        self._stopping, self._stopped = False, threading.Event()
        self.looked_at = time.monotonic()
        """When the loop last came round (`time.monotonic`)."""

    def reconfigure(self, config: Config, tls: ssl.SSLContext | None) -> None:
        """Take another configuration for what comes from now on; open associations keep theirs."""
        network, self._config = config.network, config
        self.memory.resize(network)
        self.places.resize(network)
        self._lobby.reconfigure(tls, network.acse_timeout_s)
        _furnish(self._service.entity, config)
        self._service = replace(self._service, other_objects=network.other_objects)

    def service_actions(self) -> None:
        """Note, each time that the loop comes round, that it does."""
        super().service_actions()
        self.looked_at = time.monotonic()

    def run(self) -> None:
        """Accept, read and let in, until `end`."""
        listening: Any = self.socket
        listening.setblocking(False)
        self._selector.register(listening, selectors.EVENT_READ)
        served_at = 0.0
        try:
            while not self._stopping:
                for key, _events in self._selector.select(_SOON_S if self._lobby.answer() else _POLL_S):
                    if key.data is None:
                        self._accept(listening)
                    else:
                        self._lobby.advance(key.data)
                if (now := time.monotonic()) - served_at >= _POLL_S:
                    served_at = now
                    self._lobby.expire()
                    self._service.refusals.flush()
                    self.service_actions()
        finally:
            self._lobby.close()
            self._selector.close()
            self._stopped.set()

    def end(self) -> None:
        """Stop accepting, and close what is no association."""
        self._stopping = True
        self._stopped.wait(5.0)
        self.server_close()

    def _accept(self, listening: socket.socket) -> None:
        try:
            connection, address = listening.accept()
        except BlockingIOError:
            return
        except OSError as problem:
            # The caller is gone already, or there are no more handles: those who hold them go by and by.
            log.warning("connection_not_accepted", reason=problem.strerror)
            time.sleep(_EXHAUSTED_S)
            return
        try:
            self._lobby.admit(connection, address)
        except Exception as problem:  # noqa: BLE001  one caller must not end the listener
            log.warning("connection_failed", host=str(address[0]), error=type(problem).__name__)
            connection.close()

    def _welcome(self, caller: HalfOpen, request: AssociationRequest) -> tuple[Refusal, bytes] | None:
        """Open the association of a complete request, or say why not."""

        def refusal(event: RefusalEvent, reason: str, advice: str) -> Refusal:
            return Refusal(
                event,
                caller.host,
                reason,
                advice,
                "association-refused",
                request.calling_ae,
                request.called_ae,
            )

        rejection = self._decide(caller, request) or self._shortage(caller, request)
        if rejection is not None:
            answer = encode_reject(rejection.result, rejection.source, rejection.reason)
            return refusal("association_rejected", rejection.kind, rejection.advice), answer
        connection = self._lobby.hand_over(caller)
        try:
            association = open_association(
                self._service, self, request, connection, caller.address, caller.account
            )
            self.places.take(request.calling_ae, caller.host, lambda: _is_open(association))
            association.start()
        except Exception as problem:  # noqa: BLE001  no thread left, or a fault of the library
            with contextlib.suppress(OSError):
                connection.send(encode_abort(0))
            connection.close()
            caller.account.close()
            reason = f"the association could not be opened: {type(problem).__name__}"
            self._service.refusals.note(
                refusal("association_broken_off", reason, "see that the machine has threads left")
            )
        return None

    def _shortage(self, caller: HalfOpen, request: AssociationRequest) -> Rejection | None:
        shortage = self.places.shortage(request.calling_ae, caller.host)
        return busy(shortage) if shortage else None


class Receiver:
    """C-ECHO and C-STORE SCP, and whatever `services` adds.

    Parameters
    ----------
    config
        Who we are, who may call, limits and timeouts.
    writer
        Makes an instance safe on disk.
    add_instance
        Lists an instance in the ledger; None where the writer sees to that.
    clock
        Seconds since the epoch.
    services
        (pynetdicom event, handler) pairs of what is served besides: storage commitment. Without them its
        requests fail.
    audit
        Told of every caller that is turned away.
    count
        Told event and reason of every caller and instance that is turned away, for the metrics.
    listener
        Hears of associations that stored something.
    """

    def __init__(
        self,
        config: Config,
        writer: InstanceWriter,
        add_instance: AddInstance | None,
        clock: Callable[[], float],
        services: Sequence[tuple[Any, Callable[..., Any]]] = (),
        audit: Audit = silent,
        count: Callable[[str, str], None] = lambda *_: None,
        listener: AssociationListener = ignore_associations,
    ) -> None:
        self._config, self._count = config, count
        self._audit, self._listener, self._clock = audit, listener, clock
        self.congested = False
        """Set while the node has more open studies than it may.

        New associations are then refused for the moment.
        """
        self._answer_store = self._counted(store_handler(writer, add_instance, clock))
        self._handlers: list[Any] = [
            (evt.EVT_ACCEPTED, _log_contexts),
            (evt.EVT_ABORTED, _log_abort),
            (evt.EVT_C_ECHO, answer_echo),
            *services,
        ]
        self._server: _Server | None = None

    def start(self) -> tuple[str, int]:
        """Listen, and return the address and port that are really bound.

        Raise `StartError` (`PortError`, a TLS file) when that cannot be.
        """
        # Its own event log is slow and prints what peers send.
        _config.LOG_HANDLER_LEVEL = "none"
        network = self._config.network
        tls = self.listener_tls(self._config)
        refusals = Refusals(self._audit, time.monotonic, self._count)
        service = Service(
            _entity(self._config),
            self._answer_store,
            refusals,
            network.other_objects,
            self._listener,
            self._clock,
        )
        try:
            server = _Server(self._config, self._handlers, service, self._decide, tls)
        except (OSError, OverflowError) as problem:
            reason = getattr(problem, "strerror", None) or str(problem)
            raise PortError(
                f"cannot listen on {network.bind}:{network.port}: {reason}; set network.bind and network.port"
            ) from problem
        self._server = server
        threading.Thread(target=server.run, name="listener", daemon=True).start()
        host, port = server.server_address[:2]
        return str(host), int(port)

    @staticmethod
    def listener_tls(config: Config) -> ssl.SSLContext | None:
        """Return the TLS context of the listener, None where it is plain.

        A file of [tls] that cannot be worked with raises `StartError`.
        """
        return acceptor_context(config.tls) if config.network.tls else None

    def reconfigure(self, config: Config) -> None:
        """Let new associations come in by another configuration; those that are open go on.

        Its address, port, and whether it speaks TLS are those of the start. Certificates are read anew.
        """
        tls = self.listener_tls(config)
        self._config = config
        if self._server is not None:
            self._server.reconfigure(config, tls)

    def silent_s(self) -> float:
        """Return for how many seconds the listener's loop has not come round.

        It ended, or it hangs, and nobody who calls is heard.
        """
        return 0.0 if self._server is None else time.monotonic() - self._server.looked_at

    def stop(self, timeout_s: float) -> None:
        """Take no new association, give the open ones `timeout_s` to finish, then abort them."""
        server, self._server = self._server, None
        if server is None:
            return
        server.end()
        end = time.monotonic() + timeout_s
        while server.active_associations and time.monotonic() < end:
            time.sleep(0.02)
        for association in server.active_associations:
            association.abort()

    def _counted(self, answer_store: AnswerStore) -> AnswerStore:
        """Return the handler of C-STORE with what it does not answer success to counted by status."""

        def answer(request: StoreRequest) -> int:
            answered = answer_store(request)
            if answered != status.SUCCESS:
                self._count("store_refused", f"0x{answered:04X}")
            return answered

        return answer

    def _decide(self, caller: HalfOpen, request: AssociationRequest) -> Rejection | None:
        """Return why a caller may not come in, but for its place."""
        if not request.speaks_version_1:
            return foreign_version()
        if not request.is_dicom:
            return foreign_context()
        rejection = check_caller(
            self._config,
            called_ae=request.called_ae,
            calling_ae=request.calling_ae,
            host=caller.host,
            certificate=certificate_of(caller.connection),
        )
        if rejection is None and self.congested:
            return busy("more studies wait than network.maximum_open_studies")
        return rejection


def _is_open(association: Any) -> bool:
    """Return whether an association is being negotiated or established.

    Its thread may outlive its end a little.
    """
    return association.is_alive() and not (
        association.is_released or association.is_aborted or association.is_rejected
    )


def _entity(config: Config) -> AE:
    entity = AE(ae_title=config.network.ae_title)
    entity.maximum_associations = _NO_LIMIT
    _furnish(entity, config)
    # The real contexts are made per association, out of what the peer proposes.
    entity.add_supported_context(VERIFICATION)
    return entity


def _furnish(entity: AE, config: Config) -> None:
    """Give the library's entity the settings that each new association takes from it."""
    network = config.network
    entity.ae_title = network.ae_title
    entity.maximum_pdu_size = network.maximum_pdu_bytes
    entity.acse_timeout = network.acse_timeout_s
    entity.dimse_timeout = network.dimse_timeout_s
    entity.network_timeout = network.network_timeout_s


def _log_contexts(event: Any) -> None:
    association = event.assoc
    calling_ae, host = association.requestor.ae_title, association.requestor.address
    log.info(
        "association_accepted",
        calling_ae=calling_ae,
        host=host,
        contexts=len(association.accepted_contexts),
    )
    for context in association.rejected_contexts:
        # Without this line nobody finds out why a modality's images do not arrive while its reports do.
        uids = [str(context.abstract_syntax or ""), *(str(syntax) for syntax in context.transfer_syntax)]
        SOPClassUID, *syntaxes = [uid if is_uid(uid) else "(no UID)" for uid in uids]
        log.warning(
            "context_rejected",
            calling_ae=calling_ae,
            host=host,
            SOPClassUID=SOPClassUID,
            transfer_syntaxes=syntaxes,
            reason=context.status,
        )


def _log_abort(event: Any) -> None:
    log.warning(
        "association_aborted", calling_ae=event.assoc.requestor.ae_title, host=event.assoc.requestor.address
    )
