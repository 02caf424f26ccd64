"""What destinations accept, as they last said, and when each is to be asked again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, insert, select, update

from dicomnode.ledger.database import Database
from dicomnode.ledger.encoding import from_json, to_json
from dicomnode.ledger.schema import offers
from dicomnode.records import Offer

REFUSED_FOR_S = 24 * 3600.0
"""How long a SOP class that was refused by status counts as not accepted; then it is tried again."""


class Offers:
    """The part of the ledger that remembers destinations.

    Each verb is one transaction and may raise `RetryLater`.

    What was learned belongs to an address: a destination that is another one under the same name is not
    known.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def known(self, name: str, address: str) -> Offer | None:
        """Return what a destination accepts and does not refuse by status.

        The result is None when the destination has not been heard yet.
        """
        row = self._row(name, address)
        if row is None or row.learned_at is None:
            return None
        refused = from_json(row.refused)
        return Offer(
            {uid: tuple(syntaxes) for uid, syntaxes in from_json(row.accepted).items() if uid not in refused},
            row.learned_at,
        )

    def is_due(self, name: str, address: str, now: float) -> bool:
        """Return whether a destination is to be asked."""
        row = self._row(name, address)
        return row is None or bool(row.ask_at <= now)

    def learn(
        self, name: str, address: str, accepted: Mapping[str, tuple[str, ...]], now: float, ask_at: float
    ) -> None:
        """Note what a destination accepts.

        What it refused by status is forgotten after a while, or when it is another.
        """
        offer_query = select(offers).where(offers.c.destination == name)
        with self._database.write() as connection:
            # Read here, so that what `refuse` notes meanwhile is not lost.
            row = connection.execute(offer_query.with_for_update()).one_or_none()
            before = from_json(row.refused) if row is not None and row.address == address else {}
            # A time to come is of a clock that was wrong.
            refused = {
                uid: refused_at for uid, refused_at in before.items() if 0 <= now - refused_at < REFUSED_FOR_S
            }
            heard = {"address": address, "accepted": to_json(accepted), "refused": to_json(refused)}
            _keep(connection, name, {**heard, "learned_at": now, "ask_at": ask_at})

    def refuse(self, name: str, SOPClassUID: str, now: float) -> None:
        """Note that a destination refused a SOP class by status, though it had accepted it.

        The news is as fresh as if it had been asked now.
        """
        offer_query = select(offers).where(offers.c.destination == name)
        with self._database.write() as connection:
            row = connection.execute(offer_query.with_for_update()).one_or_none()
            if row is not None:
                refused = to_json({**from_json(row.refused), SOPClassUID: now})
                fresh = {} if row.learned_at is None else {"learned_at": now}
                connection.execute(
                    update(offers).where(offers.c.destination == name).values(refused=refused, **fresh)
                )

    def forgive(self, name: str) -> None:
        """Forget what a destination refused by status: somebody has looked after it."""
        with self._database.write() as connection:
            connection.execute(update(offers).where(offers.c.destination == name).values(refused="{}"))

    def postpone(self, name: str, address: str, ask_at: float) -> None:
        """Note that it could not be asked; what it said before holds, unless that was another."""
        is_known = self.known(name, address) is not None
        unheard = {"address": address, "accepted": "{}", "refused": "{}", "learned_at": None}
        with self._database.write() as connection:
            _keep(connection, name, {"ask_at": ask_at} if is_known else {**unheard, "ask_at": ask_at})

    def ask_again(self, name: str, now: float) -> None:
        """Have a destination asked now: it does not do as it said."""
        with self._database.write() as connection:
            connection.execute(update(offers).where(offers.c.destination == name).values(ask_at=now))

    def _row(self, name: str, address: str) -> Any:
        offer_query = select(offers).where(offers.c.destination == name, offers.c.address == address)
        with self._database.read() as connection:
            return connection.execute(offer_query).one_or_none()


def _keep(connection: Connection, name: str, values: Mapping[str, Any]) -> None:
    if connection.execute(update(offers).where(offers.c.destination == name).values(**values)).rowcount == 0:
        connection.execute(insert(offers).values(destination=name, **values))
