"""Signs of life to whoever started this process, systemd or `dicomnode serve`."""

from __future__ import annotations

import sdnotify

_WAIT_S = 2.0


def open_notifier(wait_s: float = _WAIT_S) -> sdnotify.SystemdNotifier:
    """Return what speaks to `NOTIFY_SOCKET`, if there is one (sd_notify(3)).

    A message that nobody takes within `wait_s` is dropped: who does not listen must not keep the node from
    stopping.
    """
    notifier = sdnotify.SystemdNotifier()
    if notifier.socket is not None:
        notifier.socket.settimeout(wait_s)
    return notifier
