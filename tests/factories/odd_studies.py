"""Studies that nobody would write by hand: odd UIDs, classes and titles, elements missing, doubled or cut off. Encoded here, byte by byte.

Nothing of the node and nothing of pydicom's writer is used, so what comes out is what the generator meant.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from pydicom.uid import UID_dictionary

EXPLICIT, IMPLICIT = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2"
MR = "1.2.840.10008.5.1.4.1.1.4"
STANDARD_CLASSES = tuple(
    uid
    for uid, (name, kind, *_) in UID_dictionary.items()
    if kind == "SOP Class" and "Storage" in name and uid.startswith("1.2.840.10008.5.1.4")
)
PRIVATE_CLASSES = (
    "1.3.46.670589.11.0.0.12.1",
    "1.3.46.670589.11.0.0.12.2",
    "1.3.12.2.1107.5.9.1",
    "1.2.840.113619.4.30",
    "2.25.4711",
    "1.2.03.4",
)

Element = tuple[int, bytes, bytes]


@dataclass(frozen=True)
class OddInstance:
    """One C-STORE request; `StudyInstanceUID` is what the dataset says, as bytes, or None where it says nothing that can be read."""

    SOPClassUID: str
    SOPInstanceUID: str
    TransferSyntaxUID: str
    calling_ae: str
    dataset: bytes
    StudyInstanceUID: bytes | None


def make_study(seed: int) -> list[OddInstance]:
    """Return the requests of one study; the same seed gives the same."""
    chance = random.Random(seed)
    sop_class = chance.choice([MR, MR, *chance.sample(STANDARD_CLASSES, 4), chance.choice(PRIVATE_CLASSES)])
    study, series, frame = (_dataset_uid(chance, f"{seed}.{number}") for number in (1, 2, 3))
    calling_ae = chance.choice(["SCANNER", "", " ", "A\\B", "K\u00d6LN", "x" * 16, "A\0B", "\u0663", "'; --"])
    return [
        _make_instance(chance, seed, number, sop_class, (study, series, frame), calling_ae)
        for number in range(chance.randint(1, 3))
    ]


def _make_instance(
    chance: random.Random,
    seed: int,
    number: int,
    sop_class: str,
    uids: tuple[bytes, bytes, bytes],
    calling_ae: str,
) -> OddInstance:
    named = f"2.25.{seed}.9.{number}"
    requested = chance.choice([named] * 8 + [_odd_text(chance, named)])
    requested_class = chance.choice([sop_class] * 12 + [_odd_text(chance, sop_class)])
    sop_instance = chance.choice(
        [requested.encode("utf-8", "replace")] * 5 + [_dataset_uid(chance, f"{seed}.9.{number}")]
    )
    elements = _elements(chance, sop_class.encode(), sop_instance, uids, number)
    implicit = chance.random() < 0.4
    mangled = _mangle(chance, elements)
    dataset = b"".join((_implicit if implicit else _explicit)(element) for element in mangled)
    studies = [value for tag, _, value in mangled if tag == 0x0020000D]
    whole = chance.choice([None] * 7 + [_cut, _flip, _wrap, _nothing])
    if whole is not None:
        dataset = whole(chance, dataset)
    study = studies[-1].rstrip(b"\0 ") if len(studies) == 1 and whole is None else None
    return OddInstance(
        requested_class, requested, IMPLICIT if implicit else EXPLICIT, calling_ae, dataset, study
    )


def _odd_text(chance: random.Random, uid: str) -> str:
    changed = [uid + end for end in (".", "\n", "\\3", "\0", "\0.4", "\u0663", "x", " ")]
    foreign = [
        "",
        "." + uid,
        uid.replace(".", "..", 1),
        "Doe^Jane",
        "1." + "7" * 63,
        "../../etc/passwd",
        "-1.2",
    ]
    return chance.choice(changed + foreign)


def _dataset_uid(chance: random.Random, suffix: str) -> bytes:
    plain = f"2.25.{suffix}"
    odd = [plain + ".007", "1.02." + suffix, ("1." + suffix + "." + "9" * 64)[:64], "00." + suffix]
    return chance.choice(
        [plain.encode()] * 8 + [text.encode() for text in odd] + [_odd_text(chance, plain).encode()]
    )


def _elements(
    chance: random.Random,
    sop_class: bytes,
    sop_instance: bytes,
    uids: tuple[bytes, bytes, bytes],
    number: int,
) -> list[Element]:
    study, series, frame = uids
    texts: list[tuple[int, bytes, Sequence[bytes]]] = [
        (0x00080005, b"CS", (b"ISO_IR 100", b"ISO_IR 192", b"ISO 2022 IR 87", b"NONSENSE", b"")),
        (0x00080008, b"CS", (b"ORIGINAL\\PRIMARY\\M", b"DERIVED", b"")),
        (0x00080016, b"UI", (sop_class,)),
        (0x00080018, b"UI", (sop_instance,)),
        (0x00080020, b"DA", (b"20240506", b"00000000", b"tomorrow")),
        (0x00080030, b"TM", (b"095900", b"99:99")),
        (0x00080050, b"SH", (b"A1", b"A\\1", b"x" * 40, b"\xff\xfe")),
        (0x00080060, b"CS", (b"MR", b"OT", b"", b"SR")),
        (0x00080070, b"LO", (b"TEST", b"\xc4\xd6")),
        (0x0008103E, b"LO", (b"t1 mprage", b"t2 flair", b"\0\0", b"y" * 200)),
        (0x00100010, b"PN", (b"FIELD^CASE", b"=\xe5=", b"^" * 30, b"z" * 200)),
        (0x00100020, b"LO", (b"F-1", b"4711\\08", b"*", b"x" * 100)),
        (0x00100021, b"LO", (b"HOSPITAL", b"")),
        (0x00100030, b"DA", (b"19500101", b"1950", b"unknown")),
        (0x00100040, b"CS", (b"F", b"Female", b"")),
        (0x00180050, b"DS", (b"3", b"3,0 mm", b"nan")),
        (0x00180080, b"DS", (b"2300", b"inf")),
        (0x0020000D, b"UI", (study,)),
        (0x0020000E, b"UI", (series,)),
        (0x00200010, b"SH", (b"1", b"1\\2")),
        (0x00200011, b"IS", (b"3", b"3.5", b"99999999999")),
        (0x00200013, b"IS", (str(number).encode(), b"one")),
        (0x00200032, b"DS", (b"0\\0\\%d" % number, b"0\\0", b"a\\b\\c")),
        (0x00200037, b"DS", (b"1\\0\\0\\0\\1\\0", b"1\\0\\0", b"0\\0\\0\\0\\0\\0")),
        (0x00200052, b"UI", (frame,)),
        (0x00280004, b"CS", (b"MONOCHROME2", b"RGB")),
        (0x00280030, b"DS", (b"1\\1", b"0\\0", b"1")),
    ]
    elements = [(tag, vr, chance.choice([values[0]] * 6 + list(values))) for tag, vr, values in texts]
    numbers = (
        (0x00280002, 1),
        (0x00280010, 4),
        (0x00280011, 4),
        (0x00280100, 16),
        (0x00280101, 12),
        (0x00280102, 11),
        (0x00280103, 0),
    )
    elements += [
        (tag, b"US", struct.pack("<H", chance.choice([value] * 12 + [0, 65535]))) for tag, value in numbers
    ]
    if chance.random() < 0.8:
        elements.append((0x7FE00010, b"OW", bytes(32)))
    return sorted(elements)


def _mangle(chance: random.Random, elements: list[Element]) -> list[Element]:
    """Leave elements out, say them twice, or say them in another order."""
    remaining = [element for element in elements if chance.random() > 0.04]
    if chance.random() < 0.15:
        doubled = chance.choice(remaining)
        remaining.insert(remaining.index(doubled), (doubled[0], doubled[1], doubled[2] + b" "))
    if chance.random() < 0.1:
        chance.shuffle(remaining)
    return remaining


def _padded(vr: bytes, value: bytes) -> bytes:
    return value + (b"\0" if vr in (b"UI", b"OW") else b" ") * (len(value) % 2)


def _explicit(element: Element) -> bytes:
    tag, vr, value = element
    value = _padded(vr, value)
    head = struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, vr)
    return (
        head + (struct.pack("<HL", 0, len(value)) if vr == b"OW" else struct.pack("<H", len(value))) + value
    )


def _implicit(element: Element) -> bytes:
    tag, vr, value = element
    value = _padded(vr, value)
    return struct.pack("<HHL", tag >> 16, tag & 0xFFFF, len(value)) + value


def _cut(chance: random.Random, dataset: bytes) -> bytes:
    return dataset[: chance.randrange(1, len(dataset))]


def _flip(chance: random.Random, dataset: bytes) -> bytes:
    changed = bytearray(dataset)
    for _ in range(chance.randint(1, 5)):
        changed[chance.randrange(len(changed))] = chance.randrange(256)
    return bytes(changed)


def _wrap(_chance: random.Random, dataset: bytes) -> bytes:
    meta = struct.pack("<HH2sH", 0x0002, 0x0010, b"UI", 20) + b"1.2.840.10008.1.2.1\0"
    return bytes(128) + b"DICM" + struct.pack("<HH2sHL", 0x0002, 0x0000, b"UL", 4, len(meta)) + meta + dataset


def _nothing(_chance: random.Random, _dataset: bytes) -> bytes:
    return b""
