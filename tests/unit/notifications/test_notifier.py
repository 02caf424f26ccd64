"""Notifications: told once, over restarts, outages and floods; nothing of a patient in any text."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from dicomnode.errors import ConfigError, RetryLater, StartError
from dicomnode.ledger.ledger import Ledger
from dicomnode.notifications.addresses import read_addresses
from dicomnode.notifications.notifier import Notifier
from dicomnode.records import Conclusion, ResultFile
from dicomnode.settings.config import Config, parse_config
from dicomnode.settings.notifications import KINDS, NoticeKind
from dicomnode.states import DeliveryState, Outcome
from tests.factories.ledger import SEG, header, new_ledger, received

NOW = 1_000_000.0
MINUTE = 60.0


class Service:
    """Takes messages, or does not."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, str, str]] = []
        self.away: set[str] = set()
        self.tries = 0

    def __call__(self, address: str, title: str, text: str) -> bool:
        self.tries += 1
        if address in self.away:
            return False
        self.messages.append((address, title, text))
        return True

    def texts(self) -> list[str]:
        return [text for _, _, text in self.messages]


class Post:
    """A ledger with its notifier; the node's events are made by the ledger's own verbs."""

    def __init__(self, folder: Path, ledger: Ledger, *notifications: dict[str, Any], **tables: Any) -> None:
        self.ledger, self.service, self.now, self.studies = ledger, Service(), NOW, 0
        addresses = folder / "addresses"
        if not addresses.exists():
            addresses.write_text("# the house's\njson://localhost/one\n\njson://localhost/two\n")
        destinations = [{"name": "pacs", "ae_title": "A", "host": "h", "port": 1}]
        defaults = {
            "name": "mail",
            "addresses_file": str(addresses),
            "events": list(KINDS),
            "disk_free_mb": 1,
        }
        self.config: Config = parse_config(
            {
                "storage": {"root": str(folder), "minimum_free_mb": 0},
                "destinations": destinations,
                "notifications": [{**defaults, **change} for change in notifications or ({},)],
                **tables,
            }
        )
        self.restart()
        # A channel begins with what happens after its first round.
        self.notifier.work(self.now)

    def restart(self) -> None:
        self.notifier = Notifier(self.config, self.ledger, "host", self.service)

    def work(self, after_s: float = 15.0) -> list[str]:
        """One round; returns the texts that went out in it."""
        self.now += after_s
        before = len(self.service.messages)
        self.notifier.work(self.now)
        return [text for _, _, text in self.service.messages[before:]]

    def answer(self, outcome: Outcome, **detail: Any) -> str:
        """Answer a new study."""
        self.studies += 1
        uid = f"2.25.{self.studies}"
        self.ledger.instances.add(received(self.studies, at=self.now))
        ((instance_id, _),) = self.ledger.instances.unindexed(10)
        self.ledger.instances.record_header(instance_id, header(self.studies, uid), self.now)
        (waiting,) = self.ledger.jobs.waiting()
        self.ledger.jobs.mark_ready(waiting.id, "complete", {}, self.now)
        job = self.ledger.jobs.claim("work", self.now, 60)
        assert job is not None
        file = ResultFile("sr", f"results/{uid}", "0" * 64, f"{uid}.7", SEG, "2.25.70")
        sentence = "Series 'MUELLER^HANS t1' was not used."
        made = Conclusion(outcome, sentence, [file], {"pacs": ["sr"]}, detail)
        self.ledger.jobs.finish(job.id, "work", made, self.now)
        return uid


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = new_ledger(tmp_path)
    yield opened
    opened.close()


def test_what_failed_is_told_once_to_every_address_and_no_restart_repeats_it(
    tmp_path: Path, ledger: Ledger
) -> None:
    post = Post(tmp_path, ledger)
    uid = post.answer(Outcome.FAILED, code="result-verification-failed")

    assert post.work() == [post.service.texts()[0]] * 2
    assert {address for address, _, _ in post.service.messages} == {
        "json://localhost/one",
        "json://localhost/two",
    }
    assert uid in post.service.texts()[0]
    assert "result-verification-failed" in post.service.texts()[0]
    for _ in range(3):
        post.restart()
        assert post.work() == []


def test_what_happens_while_nobody_runs_is_told_at_the_next_start(tmp_path: Path, ledger: Ledger) -> None:
    post = Post(tmp_path, ledger)
    uid = post.answer(Outcome.REFUSED, code="no-usable-series")
    post.restart()

    assert all(uid in text for text in post.work(3 * 86_400))
    assert post.work() == []


def test_what_was_before_the_first_round_is_not_told(tmp_path: Path, ledger: Ledger) -> None:
    early = Post(tmp_path, ledger)
    early.answer(Outcome.FAILED)
    late = Post(tmp_path, ledger, {"name": "chat"})

    assert late.work() == []


@pytest.mark.parametrize("seed", range(8))
def test_each_answer_reaches_each_address_exactly_once_whatever_is_away_and_restarted(
    tmp_path: Path, ledger: Ledger, seed: int
) -> None:
    chance = random.Random(seed)
    post = Post(tmp_path, ledger, {"digest_above": 1000})
    addresses = ["json://localhost/one", "json://localhost/two"]
    uids = []
    for _ in range(25):
        if chance.random() < 0.5:
            uids.append(post.answer(chance.choice([Outcome.FAILED, Outcome.REFUSED])))
        post.service.away = {address for address in addresses if chance.random() < 0.4}
        if chance.random() < 0.3:
            post.restart()
        post.work(chance.choice([15.0, 300.0, 4000.0]))
    post.service.away = set()
    post.work(4000.0)

    told = [(address, uid) for address, _, text in post.service.messages for uid in uids if f"{uid} " in text]
    assert sorted(told) == sorted((address, uid) for address in addresses for uid in uids)


def test_an_address_that_is_away_is_asked_more_and_more_rarely_and_given_up_after_three_days(
    tmp_path: Path, ledger: Ledger
) -> None:
    post = Post(tmp_path, ledger)
    post.service.away = {"json://localhost/two"}
    post.answer(Outcome.FAILED)
    post.work()
    post.service.tries = 0
    for _ in range(4 * 24 * 2):
        post.work(30 * MINUTE)

    assert 60 < post.service.tries < 100
    post.service.away = set()
    assert post.work() == []


def test_many_at_once_are_one_list_and_the_next_list_waits(tmp_path: Path, ledger: Ledger) -> None:
    post = Post(tmp_path, ledger, {"digest_above": 3, "digest_minutes": 10})
    uids = [post.answer(Outcome.FAILED) for _ in range(30)]
    first = post.work()
    more = [post.answer(Outcome.REFUSED) for _ in range(2)]
    held_back = post.work()
    later = post.work(10 * MINUTE)

    assert len(first) == 2
    assert first[0].startswith("30 messages: 30 failed.")
    assert f"Study {uids[0]} " in first[0]
    assert "and 10 more" in first[0]
    assert held_back == []
    assert sorted(later) == sorted(text for uid in more for text in later if f"{uid} " in text)
    assert len(later) == 4


class TestConditions:
    """Told when they begin, told when they are over, not in between."""

    def failing(self, post: Post) -> None:
        post.answer(Outcome.NEGATIVE)
        for delivery in post.ledger.deliveries.claim("me", post.now, 60, 10):
            post.ledger.deliveries.record(delivery.id, DeliveryState.DUE, "away", post.now, post.now)

    def test_a_destination_that_is_down_and_up_again(self, tmp_path: Path, ledger: Ledger) -> None:
        post = Post(tmp_path, ledger, {"destination_down_minutes": 30})
        self.failing(post)
        early = post.work(29 * MINUTE)
        down = post.work(2 * MINUTE)
        post.restart()
        still = [post.work(30 * MINUTE) for _ in range(5)]
        for delivery in ledger.deliveries.claim("me", post.now, 60, 10):
            ledger.deliveries.record(delivery.id, DeliveryState.SENT, "0x0000", post.now)
        up = post.work()

        assert (early, still, len(down), len(up)) == ([], [[]] * 5, 2, 2)
        assert "Destination pacs has taken nothing for 31 minutes" in down[0]
        assert up[0] == "Destination pacs takes results again."
        assert post.work() == []
        self.failing(post)
        assert len(post.work(31 * MINUTE)) == 2

    def test_a_disk_is_told_of_again_only_after_it_recovered(
        self, tmp_path: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        free_mb = [5000]
        usage = shutil._ntuple_diskusage  # type: ignore[attr-defined]
        monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage(10**12, 0, free_mb[0] << 20))
        post = Post(tmp_path, ledger, {"disk_free_mb": 1000})
        texts = []
        for free_mb[0] in (999, 1001, 990, 1050, 500, 1200, 5000, 900):
            texts.append([text[:12] for text in post.work()][:1])

        assert texts == [["999 MiB are "], [], [], [], [], ["There is roo"], [], ["900 MiB are "]]

    def test_a_certificate_is_told_of_at_its_limits_and_a_renewal_says_nothing(
        self, tmp_path: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        days = [40.0]
        monkeypatch.setattr("dicomnode.monitoring.snapshot.expires_in_days", lambda _file, _now: days[0])
        tls = {"certificate": "/c", "key": "/k", "authorities": "/a"}
        post = Post(tmp_path, ledger, tls=tls)
        told = []
        for days[0] in (31, 29, 28, 8, 6.4, 5, 0.5, -1, -2, 365, 29):
            told.append([text.split("tls.certificate ")[1] for text in post.work()][:1])

        words = [line[0].partition("; ")[0] for line in told if line]
        assert words == ["ends in 29 days", "ends in 6 days", "has ended", "ends in 29 days"]

    def test_a_side_without_signs_of_life(self, tmp_path: Path, ledger: Ledger) -> None:
        post = Post(tmp_path, ledger)
        ledger.figures.put("alive", "work", post.now)
        assert post.work(50) == []
        assert "`dicomnode work` has given no sign of life for 70 s." in post.work(20)
        ledger.figures.put("alive", "work", post.now)
        assert "`dicomnode work` gives signs of life again." in post.work(10)


@pytest.mark.parametrize(
    ("notification", "rule", "answered_by", "is_told"),
    [
        ({}, {"name": "a"}, "a", True),
        ({"rules": ["a"]}, {"name": "a"}, "a", True),
        ({"rules": ["a"]}, {"name": "a"}, None, False),
        ({}, {"name": "a", "notify": []}, "a", False),
        ({}, {"name": "a", "notify": ["mail"]}, "a", True),
        ({"events": ["refused"]}, {"name": "a"}, "a", False),
    ],
)
def test_rules_and_events_choose(
    tmp_path: Path,
    ledger: Ledger,
    notification: dict[str, Any],
    rule: dict[str, Any],
    answered_by: str | None,
    is_told: bool,
) -> None:
    post = Post(tmp_path, ledger, notification, rules=[rule])
    post.answer(Outcome.FAILED, rule=answered_by)

    assert bool(post.work()) is is_told


def test_lesions_are_told_above_a_volume_only_and_without_it(tmp_path: Path, ledger: Ledger) -> None:
    post = Post(tmp_path, ledger, {"minimum_lesions_ml": 20, "events": ["lesions"]})
    for volumes in ([12.5], [12.5, 9.75], []):
        lesions = [{"volume_ml": volume} for volume in volumes]
        post.answer(Outcome.LESIONS if volumes else Outcome.NEGATIVE, lesions=lesions)

    texts = post.work()
    assert texts == ["Study 2.25.2 was answered with lesions of more than 20 ml."] * 2


def test_a_result_that_was_given_up_is_told(tmp_path: Path, ledger: Ledger) -> None:
    post = Post(tmp_path, ledger)
    uid = post.answer(Outcome.NEGATIVE)
    (delivery,) = ledger.deliveries.claim("me", post.now, 60, 10)
    ledger.deliveries.record(delivery.id, DeliveryState.GIVEN_UP, "0x0124", post.now)

    assert any(f"A result of study {uid} for pacs was given up" in text for text in post.work())


def test_no_words_of_a_header_leave_unless_the_site_says_so(tmp_path: Path, ledger: Ledger) -> None:
    plain = Post(tmp_path, ledger, {}, {"name": "inside", "details": True})
    for outcome in Outcome:
        plain.answer(outcome, lesions=[{"volume_ml": 3.0}], code="a-code")
    plain.work()

    def quotes(channel: str) -> bool:
        with ledger.notices._database.read() as connection:
            from dicomnode.ledger.schema import notices

            rows = connection.execute(notices.select().where(notices.c.channel == channel)).all()
        assert rows
        return any("MUELLER" in row.sentence for row in rows)

    assert (quotes("mail"), quotes("inside")) == (False, True)


def test_a_message_whose_record_fails_is_not_sent_twice_by_the_process(
    tmp_path: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    post = Post(tmp_path, ledger)
    post.answer(Outcome.FAILED)
    with monkeypatch.context() as patch:

        def locked(*_arguments: Any, **_named: Any) -> None:
            raise RetryLater("locked")

        patch.setattr(ledger.notices, "record", locked)
        for _ in range(3):
            with pytest.raises(RetryLater):
                post.work()
    post.work()

    assert sorted(address for address, _, _ in post.service.messages) == [
        "json://localhost/one",
        "json://localhost/two",
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "has no address"),
        ("# nothing\n", "has no address"),
        ("json://localhost/fine\nsecret-token-without-a-scheme\n", "line 2 of .* is no address"),
        (None, "cannot be read"),
    ],
)
def test_a_file_of_addresses_that_cannot_be_used_is_named_and_not_quoted(
    tmp_path: Path, text: str | None, words: str
) -> None:
    file = tmp_path / "addresses"
    if text is not None:
        file.write_text(text)
    (settings,) = parse_config(
        {"notifications": [{"name": "mail", "addresses_file": str(file)}]}
    ).notifications

    with pytest.raises(StartError, match=words) as caught:
        read_addresses(settings)
    assert "secret-token" not in str(caught.value)


def test_names_that_mean_nothing_are_refused() -> None:
    notification = {"name": "mail", "addresses_file": "/a", "rules": ["x"]}
    with pytest.raises(ConfigError, match="no rule is named 'x'"):
        parse_config({"notifications": [notification]})
    with pytest.raises(ConfigError, match="no notification is named 'chat'"):
        parse_config({"rules": [{"name": "x", "notify": ["chat"]}]})


def test_every_kind_is_a_word_of_the_settings() -> None:
    assert all(TypeAdapter(NoticeKind).validate_python(kind) == kind for kind in KINDS)
