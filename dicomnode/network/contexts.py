"""Which presentation contexts are accepted.

Every MR storage class, and every other storage class where the configuration keeps them.

Rules for this file:
1. It says what is accepted; it never looks at a dataset.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, Protocol

from pydicom.config import IGNORE
from pydicom.uid import UID, AllTransferSyntaxes, ImplicitVRLittleEndian, MediaStorageDirectoryStorage
from pynetdicom.presentation import PresentationContext, build_context
from pynetdicom.service_class import ServiceClass, StorageServiceClass
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    EnhancedMRColorImageStorage,
    EnhancedMRImageStorage,
    LegacyConvertedEnhancedMRImageStorage,
    MRImageStorage,
    MRSpectroscopyStorage,
    StorageCommitmentPushModel,
    Verification,
    uid_to_service_class,
)

from dicomnode.uids import is_uid

VERIFICATION = UID(Verification)
COMMITMENT = UID(StorageCommitmentPushModel)
MR_STORAGE = tuple(
    UID(uid)
    for uid in (
        MRImageStorage,
        EnhancedMRImageStorage,
        MRSpectroscopyStorage,
        EnhancedMRColorImageStorage,
        LegacyConvertedEnhancedMRImageStorage,
    )
)
TRANSFER_SYNTAXES = tuple(AllTransferSyntaxes)


class Proposal(Protocol):
    """What a peer proposes in one presentation context."""

    @property
    def abstract_syntax(self) -> str | None:
        """The SOP class; empty when there is none."""

    @property
    def transfer_syntax(self) -> Sequence[str]:
        """The transfer syntaxes, in the peer's order."""


def accepted_contexts(
    proposed: Iterable[Proposal], other_objects: Literal["keep", "refuse"]
) -> list[PresentationContext]:
    """Return what we support of what a peer proposes, one context per SOP class.

    The peer's order of transfer syntaxes kept.

    The peer's first known transfer syntax wins: it is the one that the peer can send without converting. A
    class of which only unknown transfer syntaxes are proposed is offered with one that is not among them: the
    context is then refused for its transfer syntaxes (result 4 of PS3.8 table 9-18) and not for its class
    (3).
    """
    syntaxes: dict[UID, list[str | UID]] = {}
    for proposal in proposed:
        # A leading zero, as scanners write it, is a warning to pydicom.
        abstract_syntax = UID(proposal.abstract_syntax or "", validation_mode=IGNORE)
        if accepts_class(abstract_syntax, other_objects):
            supported = syntaxes.setdefault(abstract_syntax, [])
            supported.extend(
                syntax
                for syntax in proposal.transfer_syntax
                if syntax in TRANSFER_SYNTAXES and syntax not in supported
            )
    contexts = [
        build_context(abstract, supported or [ImplicitVRLittleEndian])
        for abstract, supported in syntaxes.items()
    ]
    for context in contexts:
        if context.abstract_syntax == COMMITMENT:
            # Either side may speak: who sends to us asks, an archive that calls back reports (PS3.4 J.3.3).
            context.scu_role = context.scp_role = True
    return contexts


def accepts_class(uid: UID, other_objects: Literal["keep", "refuse"]) -> bool:
    """Return whether a SOP class is taken: ours to serve, or of instances that are kept."""
    return (
        uid in (VERIFICATION, COMMITMENT)
        or uid in MR_STORAGE
        or (other_objects == "keep" and is_uid(uid) and is_storage(uid))
    )


def is_storage(uid: UID) -> bool:
    """Return whether a class travels.

    Pynetdicom's storage classes, retired ones by name, and every private or unknown one.
    """
    service = uid_to_service_class(uid)
    if service is StorageServiceClass:
        return True
    if uid == MediaStorageDirectoryStorage:
        return False
    # `ServiceClass` itself is pynetdicom's word for "not known".
    return service is ServiceClass and (uid.is_private or uid.name == uid or "Storage" in uid.name.split())
