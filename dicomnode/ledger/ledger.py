"""`Ledger`: the node's memory, one object a group of tables.

Thread-safe; two processes may use one ledger at once.

Rules for this package:
1. A public method of these objects is one transaction; what several of them do inside theirs is a function
   that takes the connection.
2. Nothing reads a clock: times come in.
"""

from __future__ import annotations

from dicomnode.ledger.answers import Answers
from dicomnode.ledger.clock import Times
from dicomnode.ledger.commitments import Commitments
from dicomnode.ledger.confirmations import Confirmations
from dicomnode.ledger.database import Database
from dicomnode.ledger.deliveries import Deliveries
from dicomnode.ledger.fetches import Fetches
from dicomnode.ledger.figures import Figures
from dicomnode.ledger.history import History
from dicomnode.ledger.instances import Instances
from dicomnode.ledger.jobs import Jobs
from dicomnode.ledger.listing import Listing
from dicomnode.ledger.migrate import migrate
from dicomnode.ledger.notices import Notices
from dicomnode.ledger.offers import Offers
from dicomnode.ledger.operator import Operator
from dicomnode.ledger.retention import Retention
from dicomnode.ledger.senders import Senders


class Ledger:
    """What arrived, what is to be done with it, what became of it.

    Every verb of its parts may raise `RetryLater` when the ledger stays locked or is away; none leaves a
    change half made.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self.instances = Instances(database)
        self.jobs = Jobs(database)
        self.deliveries = Deliveries(database)
        self.confirmations = Confirmations(database)
        self.commitments = Commitments(database)
        self.fetches = Fetches(database)
        self.offers = Offers(database)
        self.times = Times(database)
        self.history = History(database)
        self.figures = Figures(database)
        self.answers = Answers(database)
        self.notices = Notices(database)
        self.listing = Listing(database)
        self.operator = Operator(database)
        self.retention = Retention(database)
        self.senders = Senders(database)

    @classmethod
    def open(cls, url: str) -> Ledger:
        """Open the ledger at a SQLAlchemy URL and bring its tables up to date.

        `StartError` when that cannot be.
        """
        database = Database(url)
        migrate(database)
        return cls(database)

    def close(self) -> None:
        """Close every connection."""
        self._database.close()
