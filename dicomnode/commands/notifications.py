"""`dicomnode notifications test`: whether each address takes a message."""

from __future__ import annotations

import socket

from dicomnode.commands.terminal import COLOURS, print_rows
from dicomnode.errors import NodeError
from dicomnode.settings.config import Config


def test_notifications(config: Config, name: str | None, as_json: bool) -> bool:
    """Send a message to the addresses of one notification, or of all; False when a service did not take it.

    Addresses are secrets, so each is shown by its number in the file and its scheme.
    """
    from dicomnode.notifications.addresses import read_addresses, send

    chosen = [entry for entry in config.notifications if name in (None, entry.name)]
    if not chosen:
        names = ", ".join(entry.name for entry in config.notifications) or "none"
        raise NodeError(
            f"no notification is named {name}; there are: {names}"
            if name
            else "there are no [[notifications]]"
        )
    title = f"{config.network.ae_title} at {socket.gethostname()}: test"
    rows = []
    for entry in chosen:
        for number, address in enumerate(read_addresses(entry).values(), start=1):
            is_taken = send(
                address, title, "This is a test of the node's notifications; nothing has happened."
            )
            rows.append([entry.name, str(number), address.partition(":")[0], "ok" if is_taken else "problem"])
    print_rows(("notification", "address", "service", "taken"), rows, as_json, colours=COLOURS)
    return all(row[-1] == "ok" for row in rows)
