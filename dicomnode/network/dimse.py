"""DIMSE messages on the wire.

Put together out of P-DATA, and the responses that are given without the library. Pure functions of bytes.

Rules for this file:
1. Every message is put together here, whatever its kind and however it is cut, so that one account counts all
   of it.
2. A dataset is never looked into.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from dicomnode.errors import NodeError
from dicomnode.uids import is_uid

_P_DATA_TF = 0x04
C_STORE_RQ = 0x0001
_RESPONSE = 0x8000
_NO_DATASET = 0x0101
# A command set has a few hundred bytes; a list of 10,000 references to commit has some 1.5 MB.
_LARGEST_COMMAND_BYTES = 16 * 2**10
LARGEST_OTHER_BYTES = 2 * 2**20
"""Largest dataset of a message that is no C-STORE."""

# Elements of group 0000, PS3.7 E.1.
_GROUP_LENGTH = 0x0000
_AFFECTED_SOP_CLASS_UID = 0x0002
_REQUESTED_SOP_CLASS_UID = 0x0003
_COMMAND_FIELD = 0x0100
_MESSAGE_ID = 0x0110
_MESSAGE_ID_RESPONDED_TO = 0x0120
_COMMAND_DATASET_TYPE = 0x0800
_STATUS = 0x0900
_AFFECTED_SOP_INSTANCE_UID = 0x1000
_REQUESTED_SOP_INSTANCE_UID = 0x1001


class ProtocolFault(NodeError):
    """What the peer sent is no P-DATA-TF PDU, or comes in an order that PS3.7 does not allow."""


class Account(Protocol):
    """What putting a message together needs of `limits.MemoryAccount`."""

    def allow(self, held_bytes: int, more_bytes: int) -> bool:
        """Take more for a message."""

    def charge(self, more_bytes: int) -> None:
        """Take a little, whatever else is taken."""

    def settle(self) -> None:
        """Give everything back."""


@dataclass(frozen=True)
class Command:
    """A command set (PS3.7 9.3, 10.3).

    UIDs are kept as they were encoded, padding included; `encoded` is all of it.
    """

    context_id: int
    field: int
    message_id: int
    has_dataset: bool
    encoded_class: bytes
    encoded_instance: bytes
    encoded: bytes = b""

    @property
    def is_store(self) -> bool:
        """Whether it is a C-STORE-RQ."""
        return self.field == C_STORE_RQ

    @property
    def is_request(self) -> bool:
        """Whether it is a request and no response."""
        return not self.field & _RESPONSE


class MessageAssembler:
    """One association's message while it arrives. `command` is None until its command set is there.

    The account is asked before bytes of a dataset are kept. When it says no, the dataset is dropped, the rest
    of it is read and forgotten, and `too_large` says so.
    """

    def __init__(self, account: Account) -> None:
        self._account = account
        self.reset()

    def reset(self) -> None:
        """Make ready for the next message.

        The dataset's memory is given away, not cleared: somebody may still hold it.
        """
        self.command: Command | None = None
        self.dataset = bytearray()
        self.complete = self.too_large = False
        self._begun = bytearray()
        self._context_id = 0

    @property
    def is_idle(self) -> bool:
        """Whether nothing of a message is there."""
        return self.command is None and not self._begun

    def add(self, body: memoryview) -> None:
        """Take the variable field of a P-DATA-TF PDU (PS3.8 9.3.5).

        Raises
        ------
        ProtocolFault
            The PDU or the command set is broken, or something else comes in the middle of a message.
        """
        for context_id, control, fragment in fragments(body):
            if self.complete:
                raise ProtocolFault("a fragment comes after the end of its message")
            if not self.is_idle and context_id != self._context_id:
                raise ProtocolFault("another message comes in the middle of one")
            self._context_id = context_id
            if self.command is None:
                self._add_command(control, fragment)
            elif control & 1:
                raise ProtocolFault("another message comes in the middle of a dataset")
            else:
                self._add_dataset(fragment)
                self.complete = bool(control & 2)

    def _add_command(self, control: int, fragment: memoryview) -> None:
        if not control & 1:
            raise ProtocolFault("a dataset comes without a command set")
        if len(self._begun) + len(fragment) > _LARGEST_COMMAND_BYTES:
            raise ProtocolFault("a command set that nobody means")
        if not control & 2:
            # Else an endless row of empty fragments would count as reading on.
            if not fragment:
                raise ProtocolFault("an empty fragment of a command set")
            self._account.charge(len(fragment))
            self._begun += fragment
            return
        self.command = parse_command(self._context_id, bytes(self._begun) + bytes(fragment))
        self.complete = not self.command.has_dataset

    def _add_dataset(self, fragment: memoryview) -> None:
        is_store = self.command is not None and self.command.is_store
        if self.too_large:
            return
        if not is_store and len(self.dataset) + len(fragment) > LARGEST_OTHER_BYTES:
            self._account.settle()
        elif self._account.allow(len(self.dataset), len(fragment)):
            self.dataset += fragment
            return
        self.too_large, self.dataset = True, bytearray()


def fragments(body: memoryview) -> Iterator[tuple[int, int, memoryview]]:
    """Give the presentation data values of a P-DATA-TF PDU.

    Context ID, message control header, fragment (PS3.8 9.3.5.1).
    """
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


def encode_response(command: Command, status: int) -> bytes:
    """Return the P-DATA-TF PDU of a response without dataset (PS3.7 9.3, 10.3).

    A UID that is none is not echoed.
    """
    elements = b"".join(
        (
            _uid_element(_AFFECTED_SOP_CLASS_UID, command.encoded_class),
            _element(_COMMAND_FIELD, struct.pack("<H", command.field | _RESPONSE)),
            _element(_MESSAGE_ID_RESPONDED_TO, struct.pack("<H", command.message_id)),
            _element(_COMMAND_DATASET_TYPE, struct.pack("<H", _NO_DATASET)),
            _element(_STATUS, struct.pack("<H", status)),
            _uid_element(_AFFECTED_SOP_INSTANCE_UID, command.encoded_instance),
        )
    )
    message = _element(_GROUP_LENGTH, struct.pack("<L", len(elements))) + elements
    # Control header 3: command information, last fragment (PS3.8 E.2).
    fragment = struct.pack(">LBB", len(message) + 2, command.context_id, 3) + message
    return struct.pack(">BBL", _P_DATA_TF, 0, len(fragment)) + fragment


def decode_uid(encoded: bytes) -> str:
    """Return a UID without its padding: a null byte, or the space that some peers pad with."""
    return encoded.decode("ascii", "replace").rstrip("\0 ")


def parse_command(context_id: int, encoded: bytes) -> Command:
    """Read a command set (Implicit VR Little Endian, PS3.7 6.3.1).

    Raises
    ------
    ProtocolFault
        It is not one from end to end, or has no command field, or is a request without a message ID.
    """
    values: dict[int, bytes] = {}
    offset = 0
    while offset < len(encoded):
        group, element, length = (
            struct.unpack_from("<HHL", encoded, offset) if offset + 8 <= len(encoded) else (1, 0, 0)
        )
        end = offset + 8 + length
        if group != 0 or end > len(encoded):
            raise ProtocolFault("a command set cannot be read")
        values[element] = encoded[offset + 8 : end]
        offset = end
    field, message_id = _number(values, _COMMAND_FIELD), _number(values, _MESSAGE_ID)
    if field is None or (message_id is None and not field & _RESPONSE and field != _C_CANCEL_RQ):
        raise ProtocolFault("a command set without command field or message ID")
    return Command(
        context_id=context_id,
        field=field,
        message_id=message_id or 0,
        has_dataset=_number(values, _COMMAND_DATASET_TYPE) != _NO_DATASET,
        encoded_class=values.get(_AFFECTED_SOP_CLASS_UID, values.get(_REQUESTED_SOP_CLASS_UID, b"")),
        encoded_instance=values.get(_AFFECTED_SOP_INSTANCE_UID, values.get(_REQUESTED_SOP_INSTANCE_UID, b"")),
        encoded=encoded,
    )


_C_CANCEL_RQ = 0x0FFF


def _number(values: dict[int, bytes], element: int) -> int | None:
    value = values.get(element, b"")
    return int.from_bytes(value, "little") if len(value) == 2 else None


def _uid_element(element: int, value: bytes) -> bytes:
    return _element(element, value) if is_uid(decode_uid(value)) else b""


def _element(element: int, value: bytes) -> bytes:
    return struct.pack("<HHL", 0, element, len(value)) + value
