"""`Notifier`: looks at the ledger now and then, notes what is to be told, and sends it until it arrives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import groupby

import structlog

from dicomnode.errors import StartError
from dicomnode.ledger.ledger import Ledger
from dicomnode.ledger.notices import Notice
from dicomnode.monitoring.snapshot import Snapshot, look
from dicomnode.notifications.addresses import read_addresses, send
from dicomnode.notifications.news import conditions, end_of, in_one, is_over, tell_of_study
from dicomnode.settings.config import Config, NotificationSettings
from dicomnode.settings.notifications import KINDS, STUDY_KINDS
from pipeline.counts import counted

log = structlog.get_logger()

FIRST_WAIT_S, LONGEST_WAIT_S = 60.0, 3600.0
GIVE_UP_S = 72 * 3600.0
_KEEP_S = 30 * 86_400.0
_QUIET_UNTIL = "notices_quiet_until"

Send = Callable[[str, str, str], bool]


class Notifier:
    """Tells what the configuration asks for. Of one thread, and of one process of the node.

    Parameters
    ----------
    host
        Where the node runs, for the titles of messages.
    deliver
        Sends title and text to an address; returns whether it was taken.
    """

    def __init__(self, config: Config, ledger: Ledger, host: str, deliver: Send = send) -> None:
        self._ledger, self._host, self._deliver = ledger, host, deliver
        # What was sent and could not be written down yet: that is done before anything else is sent.
        self._sent: set[int] = set()
        self._addresses: dict[str, Mapping[str, str]] = {}
        self.reconfigure(config)

    def reconfigure(self, config: Config) -> None:
        """Tell by another configuration from now on; files of addresses are read anew."""
        self._config = config
        for notification in config.notifications:
            try:
                self._addresses[notification.name] = read_addresses(notification)
            except StartError as problem:
                log.error("notification_not_usable", reason=str(problem))  # noqa: TRY400  a user's mistake
                self._addresses.setdefault(notification.name, {})

    def work(self, now: float) -> int:
        """Note and send what is due; return how many messages went out.

        `RetryLater` when the ledger is away: the next round finds everything.
        """
        if self._sent:
            self._record_told(sorted(self._sent), now)
        snapshot = look(self._config, self._ledger, now)
        for notification in self._config.notifications:
            self._note(notification, snapshot, now)
        due = self._ledger.notices.due(now)
        by_address = sorted(due, key=lambda notice: (notice.channel, notice.target, notice.id))
        count = 0
        for (channel, target), group in groupby(
            by_address, key=lambda notice: (notice.channel, notice.target)
        ):
            count += self._send_to(channel, target, list(group), now)
        self._ledger.notices.forget(now - _KEEP_S)
        return count

    def _note(self, settings: NotificationSettings, snapshot: Snapshot, now: float) -> None:
        notices, targets = self._ledger.notices, list(self._addresses[settings.name])
        if not targets:
            # The diaries are read when there is somebody to tell.
            return
        rules = self._config.rules
        notices.note_news(settings.name, targets, lambda news: tell_of_study(settings, rules, news), now)
        standing = conditions(settings, snapshot, self._config.monitoring.silent_s)
        subjects = {(notice.kind, notice.subject) for notice in standing}
        for notice in standing:
            notices.note(settings.name, targets, notice, now)
        for kind in KINDS:
            if kind in STUDY_KINDS:
                continue
            for subject in notices.standing(settings.name, kind):
                if (kind, subject) not in subjects and is_over(settings, snapshot, kind):
                    notices.end(settings.name, targets, end_of(kind, subject), now)

    def _send_to(self, channel: str, target: str, group: list[Notice], now: float) -> int:
        """Send to one address, in one message when there are many; return how many messages went out."""
        settings = next((entry for entry in self._config.notifications if entry.name == channel), None)
        address = self._addresses.get(channel, {}).get(target)
        if settings is None or address is None:
            log.warning(
                "notification_dropped", count=len(group), reason="its address is not configured any more"
            )
            self._ledger.notices.record([notice.id for notice in group], now, arrived=False)
            return 0
        label = f"{channel}/{target}"
        quiet_until = self._ledger.figures.read().get(_QUIET_UNTIL, {}).get(label, 0.0)
        # One that is further away than any was written by a clock that was set back.
        if now < quiet_until <= now + settings.digest_minutes * 60:
            return 0
        if len(group) > settings.digest_above:
            has_arrived = self._send_text(address, counted(len(group), "message"), in_one(group), group, now)
            if has_arrived:
                self._ledger.figures.put(_QUIET_UNTIL, label, now + settings.digest_minutes * 60)
            return int(has_arrived)
        for count, notice in enumerate(group):
            if not self._send_text(address, notice.kind, notice.sentence, group[count : count + 1], now):
                # The others wait with it: an address that does not answer is not asked five times.
                self._postpone(group[count + 1 :], now)
                return count
        return len(group)

    def _send_text(self, address: str, subject: str, text: str, group: list[Notice], now: float) -> bool:
        title = f"{self._config.network.ae_title} at {self._host}: {subject}"
        try:
            is_taken = self._deliver(address, title, text)
        except Exception as fault:  # noqa: BLE001  a service that fails in its own way is away like any other
            log.warning("notification_failed", error=type(fault).__name__)
            is_taken = False
        if not is_taken:
            self._postpone(group, now)
            return False
        ids = [notice.id for notice in group]
        self._sent.update(ids)
        self._record_told(ids, now)
        log.info("notified", kind=group[0].kind, count=len(group))
        return True

    def _record_told(self, ids: list[int], now: float) -> None:
        self._ledger.notices.record(ids, now, arrived=True)
        self._sent.difference_update(ids)

    def _postpone(self, group: list[Notice], now: float) -> None:
        for notice in group:
            wait_s = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2.0 ** min(notice.attempts, 10))
            gives_up = now - notice.noted_at > GIVE_UP_S
            if gives_up:
                log.error(
                    "notification_given_up",
                    kind=notice.kind,
                    attempts=notice.attempts + 1,
                    advice="its service takes nothing; `dicomnode notifications test` tries it",
                )
            else:
                log.warning("notification_not_sent", kind=notice.kind, attempts=notice.attempts + 1)
            retry_at = None if gives_up else now + wait_s
            self._ledger.notices.record([notice.id], now, arrived=False, retry_at=retry_at)
