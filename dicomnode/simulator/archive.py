"""A made-up archive: it keeps what it gets by C-STORE in a folder, can be asked for it, and can be told to misbehave."""

from __future__ import annotations

import socketserver
import threading
import time
from collections.abc import Collection
from pathlib import Path
from types import TracebackType
from typing import Any

from pydicom.uid import UID, AllTransferSyntaxes, ImplicitVRLittleEndian
from pynetdicom import AE, AllStoragePresentationContexts, _config, evt
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    LabelMapSegmentationStorage,
    ParametricMapStorage,
    SegmentationStorage,
    Verification,
)
from pynetdicom.transport import ThreadedAssociationServer

from dicomnode.simulator.manners import Manners
from dicomnode.simulator.shelves import Shelves


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
        entity = AE(ae_title=self.ae_title)
        entity.require_called_aet = True
        entity.require_calling_aet = list(self.known_callers)
        syntaxes: list[str | UID] = [ImplicitVRLittleEndian] if self.implicit_only else list(AllTransferSyntaxes)
        stored = {context.abstract_syntax for context in AllStoragePresentationContexts}
        for uid in (stored | {SegmentationStorage, ParametricMapStorage, LabelMapSegmentationStorage}) - self.refuse:
            # By C-GET it sends on the association of who asks (PS3.7 D.3.3.4).
            entity.add_supported_context(uid or "", syntaxes, scu_role=True, scp_role="get" in self.manners.retrieve)
        entity.add_supported_context(Verification)
        self._shelves.offer(entity)
        server = entity.make_server(
            ("127.0.0.1", self.port),
            evt_handlers=[(evt.EVT_C_STORE, self._keep), *self._shelves.handlers()],
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
        socketserver.BaseServer.shutdown(server)
        server.server_close()
        for association in server.active_associations:
            association.abort()

    def __enter__(self) -> Archive:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def _keep(self, event: Any) -> int:
        if self.slow_s:
            time.sleep(self.slow_s)
        SOPInstanceUID = UID(event.request.AffectedSOPInstanceUID)
        with self._lock:
            self.manners.breaks_off_at -= 1
            if self.manners.breaks_off_at == 0:
                event.assoc.abort()
                return 0x0110
            self._received.append(str(SOPInstanceUID))
            thrown_away = self.manners.keeps_nothing or self.manners.forgets_first > 0
            self.manners.forgets_first = max(0, self.manners.forgets_first - 1)
        if not SOPInstanceUID.is_valid:
            # The UID becomes a file name below.
            return 0x0117
        if not thrown_away and (self.answer == 0 or self.answer & 0xF000 == 0xB000):
            path = self.folder / f"{SOPInstanceUID}.dcm"
            temporary = path.with_suffix(".part")
            temporary.write_bytes(event.encoded_dataset())
            temporary.replace(path)
        return self.answer
