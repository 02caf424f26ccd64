"""A plain pynetdicom requestor, as the tests' scanner."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage
from pynetdicom import AE, build_context, evt
from pynetdicom.association import Association

MR_EXPLICIT = ((MRImageStorage, (ExplicitVRLittleEndian,)),)

_opened: list[socket.socket] = []


def associate(
    port: int,
    contexts: Sequence[tuple[str, Sequence[str]]] = MR_EXPLICIT,
    *,
    calling: str = "SCANNER",
    called: str = "NODE",
    tls: ssl.SSLContext | None = None,
) -> Association:
    """Ask 127.0.0.1 for an association; the caller looks whether it got one, within `sockets_closed`."""
    entity = AE(ae_title=calling)
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = 10
    wanted = [build_context(uid, list(syntaxes)) for uid, syntaxes in contexts]
    return entity.associate(
        "127.0.0.1",
        port,
        ae_title=called,
        contexts=wanted,
        evt_handlers=[(evt.EVT_ACSE_SENT, _note)],
        tls_args=None if tls is None else (tls, "localhost"),
    )


@contextmanager
def sockets_closed() -> Iterator[None]:
    """Close on leaving what `associate` opened: the library forgets a socket that was rejected or reset without closing it."""
    yield
    while _opened:
        _opened.pop().close()


def _note(event: Any) -> None:
    wrapped = event.assoc.dul.socket
    if wrapped is not None and wrapped.socket is not None and wrapped.socket not in _opened:
        _opened.append(wrapped.socket)
