from __future__ import annotations

import pytest
from pydicom.config import IGNORE
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEG2000Lossless
from pynetdicom import AllStoragePresentationContexts, build_context
from pynetdicom.sop_class import (
    _STORAGE_CLASSES,
    ModalityPerformedProcedureStep,
    ModalityWorklistInformationFind,
)

from dicomnode.network.contexts import (
    MR_STORAGE,
    TRANSFER_SYNTAXES,
    VERIFICATION,
    accepted_contexts,
    accepts_class,
)


def test_every_mr_storage_class_of_the_standard_is_named() -> None:
    named = {uid for keyword, uid in _STORAGE_CLASSES.items() if "MR" in keyword.replace("XRay", "")}

    assert set(MR_STORAGE) == named
    assert all(accepts_class(uid, "refuse") for uid in (*MR_STORAGE, VERIFICATION))


def test_every_storage_class_can_be_kept() -> None:
    known = [context.abstract_syntax for context in AllStoragePresentationContexts]

    assert [uid for uid in known if uid is None or not accepts_class(uid, "keep")] == []


@pytest.mark.parametrize(
    ("uid", "kept"),
    [
        ("1.3.12.2.1107.5.9.1", True),  # Siemens, private
        ("1.2.840.10008.5.1.4.1.1.9999", True),  # newer than the library
        ("1.2.840.10008.5.1.4.1.1.6", True),  # Ultrasound Image Storage (Retired)
        (ModalityPerformedProcedureStep, False),
        (ModalityWorklistInformationFind, False),
        ("1.2.840.10008.1.3.10", False),  # a media directory
        ("1.2.840.10008.5.1.1.1", False),  # Basic Film Session
    ],
)
def test_what_is_not_a_known_storage_class(uid: str, kept: bool) -> None:
    assert accepts_class(UID(uid), "keep") is kept
    assert not accepts_class(UID(uid), "refuse")


def test_contexts_of_one_class_are_joined_in_the_peers_order() -> None:
    proposed = [
        build_context(MR_STORAGE[0], [JPEG2000Lossless, "1.2.3.4"]),
        build_context(MR_STORAGE[0], [ImplicitVRLittleEndian, ExplicitVRLittleEndian]),
        build_context(MR_STORAGE[1], ["1.2.3.4"]),
    ]

    context, unknown = accepted_contexts(proposed, "keep")

    assert context.abstract_syntax == MR_STORAGE[0]
    assert context.transfer_syntax == [JPEG2000Lossless, ImplicitVRLittleEndian, ExplicitVRLittleEndian]
    assert "1.2.3.4" not in TRANSFER_SYNTAXES
    # Offered with a syntax that the peer does not propose: result 4, and not 3 (PS3.8 table 9-18).
    assert unknown.abstract_syntax == MR_STORAGE[1]
    assert set(unknown.transfer_syntax).isdisjoint(proposed[2].transfer_syntax)


def test_what_is_no_uid_is_no_class() -> None:
    assert [
        accepts_class(UID(text, validation_mode=IGNORE), "keep") for text in ("", "1.2.", "letters", "1" * 65)
    ] == [False] * 4
