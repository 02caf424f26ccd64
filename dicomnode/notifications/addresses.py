"""Addresses of notifications: read from their file, spoken to by apprise.

They are secrets and never shown.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping

import apprise

from dicomnode.errors import StartError
from dicomnode.settings.config import NotificationSettings

# It logs addresses.
logging.getLogger("apprise").setLevel(logging.CRITICAL + 1)

_ASSET = apprise.AppriseAsset(
    app_id="dicomnode", app_desc="stroke-lesion PACS node", app_url="", async_mode=False, secure_logging=True
)
_DIGITS = 16


def read_addresses(settings: NotificationSettings) -> Mapping[str, str]:
    """Return the addresses of a file, each under the hash by which the ledger knows it.

    Raises
    ------
    StartError
        The file cannot be read, is empty, or a line is no address that apprise understands. Its words are
        not quoted.
    """
    file = settings.addresses_file
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as problem:
        reason = getattr(problem, "strerror", None) or "it is not UTF-8 text"
        raise StartError(f"notifications, {settings.name}: {file} cannot be read: {reason}") from None
    addresses: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        address = line.strip()
        if not address or address.startswith("#"):
            continue
        if not apprise.Apprise(asset=_ASSET).add(address):
            raise StartError(
                f"notifications, {settings.name}: "
                f"line {number} of {file} is no address that apprise understands"
            )
        addresses[hashlib.sha256(address.encode()).hexdigest()[:_DIGITS]] = address
    if not addresses:
        raise StartError(f"notifications, {settings.name}: {file} has no address")
    return addresses


def check_addresses(settings: tuple[NotificationSettings, ...]) -> None:
    """Read every file of addresses; `StartError` when one cannot be used."""
    for notification in settings:
        read_addresses(notification)


def send(address: str, title: str, text: str) -> bool:
    """Send one message; return whether the service took it. Waits as long as apprise does, some seconds."""
    service = apprise.Apprise(asset=_ASSET)
    return bool(
        service.add(address)
        and service.notify(
            body=text, title=title, body_format=apprise.NotifyFormat.TEXT, interpret_escapes=False
        )
    )
