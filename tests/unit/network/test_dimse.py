from __future__ import annotations

import io
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.uid import (
    MRImageStorage,
)
from pynetdicom.dimse_messages import C_ECHO_RQ, C_STORE_RQ, C_STORE_RSP, DIMSEMessage
from pynetdicom.dimse_primitives import C_ECHO, C_STORE
from pynetdicom.pdu import P_DATA_TF

from dicomnode.network.dimse import (
    Command,
    MessageAssembler,
    ProtocolFault,
    decode_uid,
    encode_response,
)
from dicomnode.network.limits import MemoryAccount, ReceiveMemory
from dicomnode.settings.config import parse_config

UIDS = st.from_regex(r"[1-9](\.[1-9][0-9]{0,5}){1,8}", fullmatch=True)


def account() -> MemoryAccount:
    return ReceiveMemory(parse_config({}).network).account()


def bodies(
    message: DIMSEMessage, primitive: C_STORE | C_ECHO, maximum_pdu: int = 4096, context_id: int = 3
) -> list[bytes]:
    """The variable fields of the P-DATA-TF PDUs that pynetdicom sends."""
    message.primitive_to_message(primitive)
    return [P_DATA_TF(data).encode()[6:] for data in message.encode_msg(context_id, maximum_pdu)]


def store_request(
    data: bytes, uid: str = "1.2.3", message_id: int = 7, maximum_pdu: int = 4096
) -> list[bytes]:
    request = C_STORE()
    request.MessageID, request.Priority = message_id, 2
    request.AffectedSOPClassUID, request.AffectedSOPInstanceUID = MRImageStorage, uid
    request.DataSet = io.BytesIO(data)
    return bodies(C_STORE_RQ(), request, maximum_pdu)


@settings(deadline=None)
@given(
    uid=UIDS,
    message_id=st.integers(0, 65_535),
    size=st.integers(1, 20_000),
    maximum_pdu=st.integers(1024, 8192),
)
def test_what_pynetdicom_sends_is_put_together(
    uid: str, message_id: int, size: int, maximum_pdu: int
) -> None:
    data = (b"0123456789abcdef!" * (size // 17 + 1))[:size]
    assembler = MessageAssembler(account())

    for body in store_request(data, uid, message_id, maximum_pdu):
        assert not assembler.complete
        assembler.add(memoryview(body))

    assert assembler.complete
    assert bytes(assembler.dataset) == data
    assert assembler.command is not None
    assert (assembler.command.message_id, assembler.command.context_id, assembler.command.has_dataset) == (
        message_id,
        3,
        True,
    )
    assert (decode_uid(assembler.command.encoded_class), decode_uid(assembler.command.encoded_instance)) == (
        MRImageStorage,
        uid,
    )


@settings(deadline=None)
@given(uid=UIDS, message_id=st.integers(0, 65_535), status=st.sampled_from([0x0000, 0xA700, 0xC000, 0x0110]))
def test_pynetdicom_reads_the_response(uid: str, message_id: int, status: int) -> None:
    padded = uid.encode() + b"\0" * (len(uid) % 2)
    sent = encode_response(Command(5, 1, message_id, True, MRImageStorage.encode() + b"\0", padded), status)

    pdu = P_DATA_TF()
    pdu.decode(sent)
    message = DIMSEMessage()
    assert message.decode_msg(pdu.to_primitive())
    response = message.message_to_primitive()

    assert isinstance(message, C_STORE_RSP)
    assert struct.unpack(">L", sent[2:6]) == (len(sent) - 6,)
    assert message.context_id == 5
    assert (response.MessageIDBeingRespondedTo, response.Status) == (message_id, status)
    assert (response.AffectedSOPClassUID, response.AffectedSOPInstanceUID) == (MRImageStorage, uid)


def test_the_whole_message_may_come_in_one_pdu() -> None:
    assembler = MessageAssembler(account())

    assembler.add(memoryview(b"".join(store_request(b"data"))))

    assert assembler.complete
    assert bytes(assembler.dataset) == b"data"


def test_after_a_message_comes_the_next() -> None:
    assembler = MessageAssembler(account())
    for content in (b"first ", b"second"):
        for body in store_request(content):
            assembler.add(memoryview(body))
        taken = assembler.dataset
        assembler.reset()
        assert bytes(taken) == content
        assert (assembler.command, assembler.complete) == (None, False)


@settings(deadline=None)
@given(cuts=st.lists(st.integers(1, 60), min_size=1, max_size=8), size=st.integers(1, 3000))
def test_a_message_in_pieces_is_the_same_message_and_every_byte_is_counted(
    cuts: list[int], size: int
) -> None:
    memory = ReceiveMemory(parse_config({}).network)
    counted = memory.account()
    assembler = MessageAssembler(counted)
    [body, *rest] = store_request(b"x" * size)
    command, held = body[6:], 0
    for cut in cuts:
        assembler.add(memoryview(struct.pack(">LBB", len(command[:cut]) + 2, 3, 1) + command[:cut]))
        command, held = command[cut:], held + cut
        assert memory.held_bytes == held
        if len(command) < 61:
            break
    assembler.add(memoryview(struct.pack(">LBB", len(command) + 2, 3, 3) + command))
    for body in rest:
        assembler.add(memoryview(body))

    assert assembler.complete
    assert assembler.command is not None
    assert assembler.command.is_store
    assert bytes(assembler.dataset) == b"x" * size
    assert memory.held_bytes >= size


def test_an_echo_is_put_together_too() -> None:
    echo = C_ECHO()
    echo.MessageID, echo.AffectedSOPClassUID = 1, "1.2.840.10008.1.1"
    [body] = bodies(C_ECHO_RQ(), echo)
    assembler = MessageAssembler(account())

    assembler.add(memoryview(body))

    assert assembler.complete
    assert assembler.command is not None
    assert (assembler.command.is_store, assembler.command.is_request, assembler.command.has_dataset) == (
        False,
        True,
        False,
    )
    assert assembler.command.encoded == body[6:]


@pytest.mark.parametrize(
    "broken",
    [
        b"\0\0\0",
        struct.pack(">LBB", 100, 3, 0) + b"short",
        struct.pack(">LBB", 1, 3, 0),
        struct.pack(">LBB", 6, 3, 3) + b"comm",
        struct.pack(">LBB", 6, 5, 0) + b"data",
    ],
)
def test_what_breaks_the_protocol_within_a_dataset(broken: bytes) -> None:
    assembler = MessageAssembler(account())
    assembler.add(memoryview(store_request(b"data")[0]))

    with pytest.raises(ProtocolFault):
        assembler.add(memoryview(broken))


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_noise_is_refused(noise: bytes) -> None:
    assembler = MessageAssembler(account())
    try:
        assembler.add(memoryview(noise))
    except ProtocolFault:
        return
    assert not assembler.complete


def test_spaces_pad_uids_too() -> None:
    assert decode_uid(b"1.2.3 ") == decode_uid(b"1.2.3\0") == "1.2.3"
