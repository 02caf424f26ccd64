"""A made-up archive.

It keeps what it gets by C-STORE in a folder, can be asked for it, and can be told to misbehave.
"""

from __future__ import annotations

import socketserver
import threading
import time
from collections.abc import Collection
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any

from pydicom.uid import UID, AllTransferSyntaxes, ImplicitVRLittleEndian
from pynetdicom import AE, AllStoragePresentationContexts, _config, build_context, evt
from pynetdicom.pdu import P_DATA_TF
from pynetdicom.presentation import PresentationContext
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    LabelMapSegmentationStorage,
    ParametricMapStorage,
    SegmentationStorage,
    Verification,
)
from pynetdicom.transport import ThreadedAssociationServer

from dicomnode.simulator.manners import Manners
from dicomnode.simulator.shelves import Shelves

_SMALL_PDU_BYTES = 512
# Message control header of a fragment, PS3.8 E.2.
_IS_COMMAND, _IS_LAST = 1, 2
# Command Field (0000,0100), US, of a C-STORE-RQ: PS3.7 E.1.
_C_STORE_RQ = bytes.fromhex("00000001020000000100")


class _SharedContexts(list[PresentationContext]):
    """What every association reads and none changes: the library would copy thousands of UIDs for each."""

    def __deepcopy__(self, _memo: dict[int, Any]) -> list[PresentationContext]:
        return list(self)


@cache
def _storage_contexts(implicit_only: bool, gives_by_get: bool | None) -> tuple[PresentationContext, ...]:
    """Return a context of every storage class; by C-GET it sends on the association of who asks.

    `gives_by_get` is None where no roles are selected (PS3.7 D.3.3.4).
    """
    syntaxes: list[str | UID] = [ImplicitVRLittleEndian] if implicit_only else list(AllTransferSyntaxes)
    stored = {context.abstract_syntax for context in AllStoragePresentationContexts}
    contexts = []
    for uid in stored | {SegmentationStorage, ParametricMapStorage, LabelMapSegmentationStorage}:
        context = build_context(uid or "", syntaxes)
        if gives_by_get is not None:
            context.scu_role, context.scp_role = True, gives_by_get
        contexts.append(context)
    return tuple(contexts)


class Archive:
    """An archive that listens while it is entered as a context.

    Parameters
    ----------
    folder
        Where objects are kept, as ``<SOP Instance UID>.dcm``; the same UID again replaces the file.
    ae_title
        Its AE title; another called title is rejected.
    port
        TCP port on the loopback; 0 takes a free one.
    refuse
        SOP classes whose presentation contexts are rejected.
    implicit_only
        Take Implicit VR Little Endian only.
    slow_s
        Seconds that it thinks about each object.
    answer
        Status of every C-STORE; an object is kept only when this is success or a warning.
    known_callers
        Calling AE titles that may come in; empty: everybody.
    manners
        What it offers besides C-STORE and how it misbehaves; it can be changed through `manners` later.
    """

    def __init__(
        self,
        folder: Path,
        *,
        ae_title: str = "ARCHIVE",
        port: int = 0,
        refuse: Collection[str] = (),
        implicit_only: bool = False,
        slow_s: float = 0.0,
        answer: int = 0x0000,
        known_callers: Collection[str] = (),
        manners: Manners | None = None,
    ) -> None:
        self.folder = folder
        self.ae_title = ae_title
        self.port = port
        self.refuse = frozenset(refuse)
        self.implicit_only = implicit_only
        self.slow_s = slow_s
        self.answer = answer
        self.known_callers = tuple(known_callers)
        self.manners = manners or Manners()
        self._shelves = Shelves(folder, ae_title, self.manners)
        self._received: list[str] = []
        self._lock = threading.Lock()
        self._breaks_off = False
        self._stopped = threading.Event()
        self._server: ThreadedAssociationServer | None = None

    @property
    def received(self) -> tuple[str, ...]:
        """SOP Instance UIDs of every C-STORE that was answered, in order, repetitions included."""
        with self._lock:
            return tuple(self._received)

    @property
    def transactions(self) -> tuple[str, ...]:
        """Transaction UIDs of every storage commitment that was asked for, in order."""
        return tuple(self._shelves.asked)

    @property
    def files(self) -> tuple[Path, ...]:
        """What is kept."""
        return tuple(sorted(self.folder.glob("*.dcm")))

    def start(self) -> int:
        """Listen, and return the port."""
        _config.LOG_HANDLER_LEVEL = "none"
        self.folder.mkdir(parents=True, exist_ok=True)
        self._stopped.clear()
        entity = AE(ae_title=self.ae_title)
        entity.require_called_aet = True
        entity.require_calling_aet = list(self.known_callers)
        entity.add_supported_context(Verification)
        if self.manners.breaks_off_at:
            # So that even a small object comes in several pieces.
            entity.maximum_pdu_size = _SMALL_PDU_BYTES
        self._shelves.offer(entity)
        gives_by_get = "get" in self.manners.retrieve if self.manners.selects_roles else None
        storage = _storage_contexts(self.implicit_only, gives_by_get)
        server = entity.make_server(
            ("127.0.0.1", self.port),
            contexts=_SharedContexts(
                [
                    *(context for context in storage if context.abstract_syntax not in self.refuse),
                    *entity.supported_contexts,
                ]
            ),
            evt_handlers=[
                (evt.EVT_C_STORE, self._keep),
                (evt.EVT_PDU_RECV, self._break_off),
                *self._shelves.handlers(),
            ],
            server_class=ThreadedAssociationServer,
        )
        threading.Thread(target=server.serve_forever, args=(0.05,), name="archive", daemon=True).start()
        self._server = server
        self.port = int(server.server_address[1])
        return self.port

    def stop(self) -> None:
        """Break off what is open and stop listening; the port stays the same for the next start."""
        server, self._server = self._server, None
        if server is None:
            return
        self._stopped.set()
        socketserver.BaseServer.shutdown(server)
        server.server_close()
        for association in server.active_associations:
            association.abort()

    def __enter__(self) -> Archive:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _break_off(self, event: Any) -> None:
        """Drop the connection after the piece of the dataset that `breaks_off_at` means.

        The dataset is then not whole (PS3.8 9.3.5.1).
        """
        if not isinstance(event.pdu, P_DATA_TF):
            return
        for item in event.pdu.presentation_data_value_items:
            data = item.data or b"\x00"
            control, fragment = data[0], data[1:]
            with self._lock:
                if control & _IS_COMMAND and _C_STORE_RQ in fragment:
                    self._breaks_off = self.manners.breaks_off_at == 1
                    self.manners.breaks_off_at = max(0, self.manners.breaks_off_at - 1)
                elif not control & (_IS_COMMAND | _IS_LAST) and self._breaks_off:
                    self._breaks_off = False
                    # Not merely shut down: what lies in the buffer already would still be read.
                    event.assoc.dul.socket.socket.close()

    def _falls_silent(self) -> bool:
        with self._lock:
            silent = self.manners.silent_at == 1
            self.manners.silent_at = max(int(silent), self.manners.silent_at - 1)
        return silent

    def _keep(self, event: Any) -> int:
        if self._falls_silent():
            self._stopped.wait()
            return 0xA700
        if self.slow_s:
            time.sleep(self.slow_s)
        SOPInstanceUID = UID(event.request.AffectedSOPInstanceUID)
        with self._lock:
            self._received.append(str(SOPInstanceUID))
            thrown_away = self.manners.keeps_nothing or self.manners.forgets_first > 0
            self.manners.forgets_first = max(0, self.manners.forgets_first - 1)
        if not SOPInstanceUID.is_valid:
            # The UID becomes a file name below.
            return 0x0117
        if event.request.AffectedSOPClassUID in self.manners.refuses_later:
            return 0x0122
        if not thrown_away and (self.answer == 0 or self.answer & 0xF000 == 0xB000):
            path = self.folder / f"{SOPInstanceUID}.dcm"
            temporary = path.with_suffix(".part")
            temporary.write_bytes(event.encoded_dataset())
            temporary.replace(path)
        return self.answer
