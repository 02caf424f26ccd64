"""C-STORE on the wire: a request put together out of P-DATA, and its response. Pure functions of bytes.

Rules for this file:
1. Only what every storage sender does is understood here: a request whose command set lies whole in one fragment. Whatever is said
   another way is left to pynetdicom (`StoreAssembler.add` returns False), which answers the same, only slower.
2. A dataset is never looked into.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from dicomnode.errors import NodeError

_P_DATA_TF = 0x04
_C_STORE_RQ = 0x0001
_C_STORE_RSP = 0x8001
_NO_DATASET = 0x0101

# Elements of group 0000, PS3.7 E.1.
_GROUP_LENGTH = 0x0000
_AFFECTED_SOP_CLASS_UID = 0x0002
_COMMAND_FIELD = 0x0100
_MESSAGE_ID = 0x0110
_MESSAGE_ID_RESPONDED_TO = 0x0120
_COMMAND_DATASET_TYPE = 0x0800
_STATUS = 0x0900
_AFFECTED_SOP_INSTANCE_UID = 0x1000


class ProtocolFault(NodeError):
    """What the peer sent is no P-DATA-TF PDU, or comes in an order that PS3.7 does not allow."""


@dataclass(frozen=True)
class StoreCommand:
    """The command set of a C-STORE-RQ (PS3.7 9.3.1.1). UIDs are kept as they were encoded, padding included."""

    context_id: int
    message_id: int
    has_dataset: bool
    encoded_class: bytes
    encoded_instance: bytes


class StoreAssembler:
    """One association's C-STORE request while it arrives. `command` is None between two messages.

    `allow` is asked before bytes are kept: how many there are, how many come. When it says no, the dataset is dropped, the rest of it is
    read and forgotten, and `too_large` says so.
    """

    def __init__(self) -> None:
        self.command: StoreCommand | None = None
        self.dataset = bytearray()
        self.complete = self.too_large = False
        self.allow: Callable[[int, int], bool] = lambda _held_bytes, _more_bytes: True

    def add(self, body: memoryview) -> bool:
        """Take the variable field of a P-DATA-TF PDU (PS3.8 9.3.5); False when it belongs to another kind of message.

        Raises
        ------
        ProtocolFault
            The PDU is broken, or something else comes in the middle of a dataset.
        """
        for context_id, control, fragment in fragments(body):
            if self.complete:
                raise ProtocolFault("a fragment comes after the end of its message")
            if self.command is None:
                self.command = _parse_store_request(context_id, control, bytes(fragment))
                if self.command is None:
                    return False
                self.complete = not self.command.has_dataset
            elif control & 1 or context_id != self.command.context_id:
                raise ProtocolFault("another message comes in the middle of a dataset")
            else:
                self._keep(fragment)
                self.complete = bool(control & 2)
        return True

    def reset(self) -> None:
        """Make ready for the next message. The dataset's memory is given away, not cleared: somebody may still hold it."""
        self.command, self.dataset, self.complete, self.too_large = None, bytearray(), False, False

    def _keep(self, fragment: memoryview) -> None:
        if not self.too_large and self.allow(len(self.dataset), len(fragment)):
            self.dataset += fragment
            return
        self.too_large, self.dataset = True, bytearray()


def fragments(body: memoryview) -> Iterator[tuple[int, int, memoryview]]:
    """Give the presentation data values of a P-DATA-TF PDU: context ID, message control header, fragment (PS3.8 9.3.5.1)."""
    offset = 0
    while offset < len(body):
        if offset + 6 > len(body):
            raise ProtocolFault("a P-DATA-TF PDU ends within the header of a fragment")
        length, context_id, control = struct.unpack_from(">LBB", body, offset)
        end = offset + 4 + length
        if length < 2 or end > len(body):
            raise ProtocolFault("a fragment does not fit into its PDU")
        yield context_id, control, body[offset + 6 : end]
        offset = end


def encode_store_response(command: StoreCommand, status: int) -> bytes:
    """Return the P-DATA-TF PDU that holds the C-STORE-RSP (PS3.7 9.3.1.2)."""
    elements = b"".join(
        (
            _element(_AFFECTED_SOP_CLASS_UID, command.encoded_class),
            _element(_COMMAND_FIELD, struct.pack("<H", _C_STORE_RSP)),
            _element(_MESSAGE_ID_RESPONDED_TO, struct.pack("<H", command.message_id)),
            _element(_COMMAND_DATASET_TYPE, struct.pack("<H", _NO_DATASET)),
            _element(_STATUS, struct.pack("<H", status)),
            _element(_AFFECTED_SOP_INSTANCE_UID, command.encoded_instance),
        )
    )
    message = _element(_GROUP_LENGTH, struct.pack("<L", len(elements))) + elements
    # Control header 3: command information, last fragment (PS3.8 E.2).
    fragment = struct.pack(">LBB", len(message) + 2, command.context_id, 3) + message
    return struct.pack(">BBL", _P_DATA_TF, 0, len(fragment)) + fragment


def decode_uid(encoded: bytes) -> str:
    """Return a UID without its padding: a null byte, or the space that some peers pad with."""
    return encoded.decode("ascii", "replace").rstrip("\0 ")


def _parse_store_request(context_id: int, control: int, fragment: bytes) -> StoreCommand | None:
    """Return the request of a fragment that is the whole command set of a C-STORE-RQ, else None."""
    if control & 3 != 3:
        return None
    values = _parse_command(fragment)
    if _number(values, _COMMAND_FIELD) != _C_STORE_RQ or _MESSAGE_ID not in values:
        return None
    return StoreCommand(
        context_id=context_id,
        message_id=_number(values, _MESSAGE_ID),
        has_dataset=_number(values, _COMMAND_DATASET_TYPE) != _NO_DATASET,
        encoded_class=values.get(_AFFECTED_SOP_CLASS_UID, b""),
        encoded_instance=values.get(_AFFECTED_SOP_INSTANCE_UID, b""),
    )


def _parse_command(encoded: bytes) -> dict[int, bytes]:
    """Return the elements of a command set (Implicit VR Little Endian, PS3.7 6.3.1); empty when it is not one from end to end."""
    values: dict[int, bytes] = {}
    offset = 0
    while offset + 8 <= len(encoded):
        group, element, length = struct.unpack_from("<HHL", encoded, offset)
        end = offset + 8 + length
        if group != 0 or end > len(encoded):
            return {}
        values[element] = encoded[offset + 8 : end]
        offset = end
    whole = offset == len(encoded) and values.get(_GROUP_LENGTH) == struct.pack("<L", len(encoded) - 12)
    return values if whole else {}


def _number(values: dict[int, bytes], element: int) -> int:
    return int.from_bytes(values.get(element, b""), "little")


def _element(element: int, value: bytes) -> bytes:
    return struct.pack("<HHL", 0, element, len(value)) + value
