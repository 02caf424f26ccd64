"""What destinations accept, as they last said, and when each is to be asked again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import insert, select, update

from dicomnode.ledger.database import Database
from dicomnode.ledger.encoding import from_json, to_json
from dicomnode.ledger.schema import offers
from dicomnode.records import Offer


class Offers:
    """The part of the ledger that remembers destinations; each verb is one transaction and may raise `RetryLater`.

    What was learned belongs to an address: a destination that is another one under the same name is not known.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def known(self, name: str, address: str) -> Offer | None:
        """Return what a destination accepts; None when it has not been heard yet."""
        row = self._row(name, address)
        if row is None or row.learned_at is None:
            return None
        return Offer({uid: tuple(syntaxes) for uid, syntaxes in from_json(row.accepted).items()}, row.learned_at)

    def is_due(self, name: str, address: str, now: float) -> bool:
        """Return whether a destination is to be asked."""
        row = self._row(name, address)
        return row is None or bool(row.ask_at <= now)

    def learn(self, name: str, address: str, accepted: Mapping[str, tuple[str, ...]], now: float, ask_at: float) -> None:
        """Note what a destination accepts."""
        self._keep(name, {"address": address, "accepted": to_json(accepted), "learned_at": now, "ask_at": ask_at})

    def postpone(self, name: str, address: str, ask_at: float) -> None:
        """Note that it could not be asked; what it said before holds, unless that was another."""
        known = self.known(name, address) is not None
        self._keep(name, {"ask_at": ask_at} if known else {"address": address, "accepted": "{}", "learned_at": None, "ask_at": ask_at})

    def ask_again(self, name: str, now: float) -> None:
        """Have a destination asked now: it does not do as it said."""
        with self._database.write() as connection:
            connection.execute(update(offers).where(offers.c.destination == name).values(ask_at=now))

    def _row(self, name: str, address: str) -> Any:
        chosen = select(offers).where(offers.c.destination == name, offers.c.address == address)
        with self._database.read() as connection:
            return connection.execute(chosen).one_or_none()

    def _keep(self, name: str, values: Mapping[str, Any]) -> None:
        with self._database.write() as connection:
            if connection.execute(update(offers).where(offers.c.destination == name).values(**values)).rowcount == 0:
                connection.execute(insert(offers).values(destination=name, **values))
