"""Which way a destination is reached: C-STORE and C-FIND, or, where it has a url, STOW-RS and QIDO-RS."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dicomnode.network.commitment import NOT_OFFERED, JournalReport, ask_commitment
from dicomnode.network.query import InstanceKey, find_instances
from dicomnode.network.sender import send_files
from dicomnode.records import SendOutcome, SOPReference
from dicomnode.settings.config import DestinationSettings


def send(
    files: Sequence[Path], destination: DestinationSettings, *, calling_ae: str, timeout_s: float
) -> list[SendOutcome]:
    """Send files; one outcome per file, in their order."""
    if destination.url:
        # Here and not above: who has no such destination need not load an HTTP client.
        from dicomnode.network.stow import stow_files

        return stow_files(files, destination, timeout_s=timeout_s)
    return send_files(files, destination, calling_ae=calling_ae, timeout_s=timeout_s)


def find(
    destination: DestinationSettings, instances: Sequence[InstanceKey], *, calling_ae: str, timeout_s: float
) -> frozenset[str] | SendOutcome:
    """Return which of the wanted instances a destination lists."""
    if destination.url:
        from dicomnode.network.stow import find_by_qido

        return find_by_qido(destination, instances, timeout_s=timeout_s)
    return find_instances(destination, instances, calling_ae=calling_ae, timeout_s=timeout_s)


def ask(
    destination: DestinationSettings,
    references: Sequence[SOPReference],
    TransactionUID: str,
    *,
    calling_ae: str,
    timeout_s: float,
    journal: JournalReport,
) -> SendOutcome:
    """Ask a destination for storage commitment; DICOMweb has none."""
    if destination.url:
        return SendOutcome("permanent", NOT_OFFERED)
    return ask_commitment(
        destination, references, TransactionUID, calling_ae=calling_ae, timeout_s=timeout_s, journal=journal
    )
