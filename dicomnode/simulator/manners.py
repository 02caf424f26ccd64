"""What a made-up archive does besides C-STORE, and how it can be told to misbehave."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal


@dataclass
class Manners:
    """May be changed while the archive runs; what it offers is read when it starts.

    Parameters
    ----------
    keeps_nothing
        It answers success and throws the object away.
    forgets_first
        As many objects are answered success and thrown away before it keeps what comes.
    breaks_off_at
        It drops the connection in the middle of the dataset of this C-STORE (counted from 1 since it was
        set), once. Set it before it starts: it then takes small PDUs only, so that every dataset comes in
        pieces.
    silent_at
        From this C-STORE on (counted from 1 since it was set) it says nothing any more, on whatever
        association, until it is stopped.
    refuses_later
        SOP classes that it accepts in the negotiation and then refuses by status (0x0122).
    commitment
        Storage commitment: not offered; reported on the association of the request; on a new one; accepted
        and never reported.
    loses
        SOP Instance UIDs that it says it does not have when it is asked to commit itself.
    report_to
        Host and port of who asked, for reports on a new association and for C-MOVE: AE title -> (host, port).
    find
        C-FIND: not offered; at every level; the IMAGE level fails.
    lists_late
        So many C-FIND requests it answers with nothing, as an archive does whose index is behind.
    retrieve
        Which of C-GET and C-MOVE it offers.
    selects_roles
        It answers the role selection that C-GET needs (PS3.7 D.3.3.4); without it nothing can be sent to who
        asks.
    """

    keeps_nothing: bool = False
    forgets_first: int = 0
    breaks_off_at: int = 0
    silent_at: int = 0
    refuses_later: frozenset[str] = frozenset()
    commitment: Literal["none", "same", "new", "never"] = "none"
    loses: frozenset[str] = frozenset()
    report_to: dict[str, tuple[str, int]] = field(default_factory=dict)
    find: Literal["none", "image", "series"] = "none"
    lists_late: int = 0
    retrieve: frozenset[Literal["get", "move"]] = frozenset()
    selects_roles: bool = True

    def address_of(self, ae_title: str) -> tuple[str, int] | None:
        """Return where somebody listens, as the archive was told."""
        known_senders: Mapping[str, tuple[str, int]] = self.report_to
        return known_senders.get(ae_title.strip())
