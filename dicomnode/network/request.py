"""The A-ASSOCIATE-RQ PDU, read before anything is made of it, and the two refusals that may answer it.

Pure functions of bytes.

Rules for this file:
1. What comes out holds UIDs and AE titles only: other text of a peer ends here.
2. A request that is broken raises `BrokenRequest`; the library only ever gets one that was read here from end
   to end.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from dicomnode.errors import NodeError
from dicomnode.uids import is_uid

A_ASSOCIATE_RQ = 0x01
_A_ASSOCIATE_RJ = 0x03
_A_ABORT = 0x07
# Item types, PS3.8 9.3.2 and Annex D.
_APPLICATION_CONTEXT = 0x10
_PRESENTATION_CONTEXT = 0x20
_ABSTRACT_SYNTAX = 0x30
_TRANSFER_SYNTAX = 0x40
_USER_INFORMATION = 0x50

HEADER_BYTES = 6
LARGEST_REQUEST_BYTES = 64 * 2**10
"""All that is read of a peer before an association is established."""
_FIXED_BYTES = HEADER_BYTES + 68
_CALLED_AE = slice(10, 26)
_CALLING_AE = slice(26, 42)
_DICOM = "1.2.840.10008.3.1.1.1"
# The default repertoire without control characters and backslash (PS3.5 table 6.2-1, VR AE).
_AE_TITLE = re.compile(rb"[\x20-\x5b\x5d-\x7e]{1,16}")

# Media Storage Directory Storage: it travels on media only.
_NEVER_TAKEN = b"1.2.840.10008.1.3.10"

INVALID_PARAMETER = 6
UNEXPECTED_PDU = 2
"""Reasons of an A-ABORT by the service provider (PS3.8 table 9-26)."""


class BrokenRequest(NodeError):
    """The PDU is no A-ASSOCIATE-RQ that PS3.8 9.3.2 knows. The message is ours and quotes nothing of it."""


@dataclass(frozen=True)
class ProposedContext:
    """One proposed presentation context.

    `abstract_syntax` is empty when it is no UID, a transfer syntax that is none is left out.
    """

    context_id: int
    abstract_syntax: str
    transfer_syntax: tuple[str, ...]


@dataclass(frozen=True)
class AssociationRequest:
    """An A-ASSOCIATE-RQ.

    An AE title is empty when what came is none; `is_dicom` says whether the application context is DICOM's.
    """

    called_ae: str
    calling_ae: str
    speaks_version_1: bool
    is_dicom: bool
    contexts: tuple[ProposedContext, ...]
    encoded: bytes

    def for_library(self, own_ae: str) -> bytes:
        """Return the PDU with padding of its titles as PS3.8 has it, and with a UID wherever one belongs.

        NULs and a called title that nobody checks are no business of the library. A name that is no UID would
        end the association in the library; with a UID that we never take, only its context is refused.
        """
        titles = struct.pack(
            "16s16s", (self.called_ae or own_ae).encode().ljust(16), self.calling_ae.encode().ljust(16)
        )
        body = b"\0\x01\0\0" + titles + self.encoded[42:_FIXED_BYTES] + _with_uids(self.encoded)
        return self.encoded[:2] + struct.pack(">L", len(body)) + body


def parse_request(encoded: bytes) -> AssociationRequest:
    """Read a whole A-ASSOCIATE-RQ PDU (PS3.8 9.3.2).

    Raises
    ------
    BrokenRequest
        It is shorter than its fields, an item does not fit, or a context lacks what it must have.
    """
    if len(encoded) < _FIXED_BYTES:
        raise BrokenRequest("the request is shorter than its fixed fields")
    application_context = ""
    contexts: list[ProposedContext] = []
    users = 0
    for kind, value in _items(encoded[_FIXED_BYTES:]):
        if kind == _APPLICATION_CONTEXT:
            application_context = _uid(value)
        elif kind == _PRESENTATION_CONTEXT:
            contexts.append(_parse_context(value))
        elif kind == _USER_INFORMATION:
            users += 1
            list(_items(value))
    identifiers = [context.context_id for context in contexts]
    if len(set(identifiers)) < len(identifiers):
        raise BrokenRequest("two presentation contexts have the same identifier")
    if users != 1:
        raise BrokenRequest("the request has no user information, or several")
    return AssociationRequest(
        called_ae=_ae_title(encoded[_CALLED_AE]),
        calling_ae=_ae_title(encoded[_CALLING_AE]),
        speaks_version_1=bool(encoded[7] & 1),
        is_dicom=application_context == _DICOM,
        contexts=tuple(contexts),
        encoded=encoded,
    )


def _with_uids(encoded: bytes) -> bytes:
    """Return the items of a request, each name of its contexts that is no UID replaced."""
    items = b""
    for kind, value in _items(encoded[_FIXED_BYTES:]):
        content = value
        if kind == _PRESENTATION_CONTEXT:
            names = b"".join(
                _item(name, uid if _uid(uid) else _NEVER_TAKEN) for name, uid in _items(value[4:])
            )
            content = value[:4] + names
        items += _item(kind, content)
    return items


def _item(kind: int, value: bytes) -> bytes:
    return struct.pack(">BxH", kind, len(value)) + value


def encode_reject(result: int, source: int, reason: int) -> bytes:
    """Return an A-ASSOCIATE-RJ PDU (PS3.8 table 9-21)."""
    return struct.pack(">BxLxBBB", _A_ASSOCIATE_RJ, 4, result, source, reason)


def encode_abort(reason: int) -> bytes:
    """Return an A-ABORT PDU by the service provider (PS3.8 table 9-26)."""
    return struct.pack(">BxLxxBB", _A_ABORT, 4, 2, reason)


def _items(encoded: bytes) -> Iterator[tuple[int, bytes]]:
    """Give type and value of items that follow each other: type, reserved, length of two bytes, value."""
    offset = 0
    while offset < len(encoded):
        if offset + 4 > len(encoded):
            raise BrokenRequest("the request ends within the header of an item")
        kind, length = struct.unpack_from(">BxH", encoded, offset)
        end = offset + 4 + length
        if end > len(encoded):
            raise BrokenRequest("an item is longer than what it lies in")
        yield kind, encoded[offset + 4 : end]
        offset = end


def _parse_context(value: bytes) -> ProposedContext:
    if len(value) < 4 or value[0] % 2 == 0:
        raise BrokenRequest("the identifier of a presentation context is not odd, or missing")
    abstract: list[str] = []
    transfer: list[str] = []
    for kind, name in _items(value[4:]):
        if kind == _ABSTRACT_SYNTAX:
            abstract.append(_uid(name))
        elif kind == _TRANSFER_SYNTAX:
            transfer.append(_uid(name))
    if len(abstract) != 1:
        raise BrokenRequest("a presentation context has no abstract syntax, or several")
    if not transfer:
        raise BrokenRequest("a presentation context has no transfer syntax")
    return ProposedContext(value[0], abstract[0], tuple(uid for uid in transfer if uid))


def _uid(encoded: bytes) -> str:
    """Return a UID without padding; empty when it is none."""
    text = encoded.rstrip(b"\0 ").decode("ascii", "replace")
    return text if is_uid(text) else ""


def _ae_title(encoded: bytes) -> str:
    """Return an AE title without padding, up to a NUL where one pads it; empty when it is none."""
    title = encoded.partition(b"\0")[0].strip(b" ")
    return title.decode("ascii") if _AE_TITLE.fullmatch(title) else ""
