"""Which presentation contexts are accepted: every MR storage class, and every other storage class where the configuration keeps them.

Rules for this file:
1. It says what is accepted; it never looks at a dataset.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from pydicom.uid import UID, AllTransferSyntaxes, MediaStorageDirectoryStorage
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


def accepted_contexts(proposed: Iterable[PresentationContext], other_objects: Literal["keep", "refuse"]) -> list[PresentationContext]:
    """Return what we support of what a peer proposes, one context per SOP class, the peer's order of transfer syntaxes kept.

    The peer's first known transfer syntax wins: it is the one that the peer can send without converting.
    """
    syntaxes: dict[UID, list[str | UID]] = {}
    for context in proposed:
        if context.abstract_syntax is not None and accepts_class(context.abstract_syntax, other_objects):
            wanted = syntaxes.setdefault(context.abstract_syntax, [])
            wanted.extend(syntax for syntax in context.transfer_syntax if syntax in TRANSFER_SYNTAXES and syntax not in wanted)
    contexts = [build_context(abstract, wanted) for abstract, wanted in syntaxes.items() if wanted]
    for context in contexts:
        if context.abstract_syntax == COMMITMENT:
            # Either side may speak: who sends to us asks, an archive that calls back reports (PS3.4 J.3.3).
            context.scu_role = context.scp_role = True
    return contexts


def accepts_class(uid: UID, other_objects: Literal["keep", "refuse"]) -> bool:
    """Return whether a SOP class is taken: ours to serve, or of instances that are kept."""
    return uid in (VERIFICATION, COMMITMENT) or uid in MR_STORAGE or (other_objects == "keep" and is_storage(uid))


def is_storage(uid: UID) -> bool:
    """Return whether a class travels: pynetdicom's storage classes, retired ones by name, and every private or unknown one."""
    service = uid_to_service_class(uid)
    if service is StorageServiceClass:
        return True
    if uid == MediaStorageDirectoryStorage:
        return False
    # `ServiceClass` itself is pynetdicom's word for "not known".
    return service is ServiceClass and (uid.is_private or uid.name == uid or "Storage" in uid.name.split())
