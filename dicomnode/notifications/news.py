"""What is worth a message, and its words. Pure: settings and what happened in, sentences out.

Rules for this file:
1. No patient data: a study is its UID, a reason its code. Words that may quote a header are added only where
   `details` says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from dicomnode.ledger.notices import NewNotice, Notice, StudyNews
from dicomnode.monitoring.snapshot import SIDES, Snapshot
from dicomnode.settings.config import NotificationSettings, RuleSettings
from pipeline.counts import counted

_MIB = 2**20
# A disk at the mark would be told of again and again: it has recovered when so much more is free.
_RECOVERED = 1.1
_LAST_DAYS = 7.0
_LISTED = 20


def tell_of_study(
    settings: NotificationSettings, rules: Sequence[RuleSettings], news: StudyNews
) -> Iterator[NewNotice]:
    """Yield what a notification says of a line of a study's diary."""
    rule_name = news.detail.get("rule")
    if settings.rules and rule_name not in settings.rules:
        return
    rule = next((rule for rule in rules if rule.name == rule_name), None)
    if rule is not None and rule.notify is not None and settings.name not in rule.notify:
        return
    kind, sentence = _study_sentence(settings, news)
    if kind in settings.events:
        reason = f" {news.reason}" if settings.details and kind != "given-up" else ""
        yield NewNotice(kind, _subject(kind, news), f"{sentence}{reason}")


def _subject(kind: str, news: StudyNews) -> str:
    return f"{news.StudyInstanceUID}/{news.job_id}" + (f"/{news.destination}" if kind == "given-up" else "")


def _study_sentence(settings: NotificationSettings, news: StudyNews) -> tuple[str, str]:
    """Return the kind of message, empty where there is nothing to tell, and its words."""
    uid, code = news.StudyInstanceUID, news.detail.get("code")
    why = f" ({code})" if code else ""
    advice = f"`dicomnode why {uid}` says more."
    if news.event == "delivery-given-up":
        return "given-up", f"A result of study {uid} for {news.destination} was given up; {advice}"
    if news.event == "failed" or news.outcome == "failed":
        return "failed", f"Study {uid} could not be processed{why}; {advice}"
    if news.outcome == "refused":
        return "refused", f"Study {uid} was refused{why}; {advice}"
    volume_ml = sum(float(lesion["volume_ml"]) for lesion in news.detail.get("lesions", ()))
    if news.outcome == "lesions" and volume_ml > settings.minimum_lesions_ml:
        limit_ml = settings.minimum_lesions_ml
        more_than = f" of more than {limit_ml:g} ml" if limit_ml else ""
        return "lesions", f"Study {uid} was answered with lesions{more_than}."
    return "", ""


def conditions(settings: NotificationSettings, snapshot: Snapshot, silent_s: float) -> list[NewNotice]:
    """Return everything of the node itself that stands now and that a notification is to tell."""
    standing = [
        *_down(settings, snapshot),
        *_disk(settings, snapshot, settings.disk_free_mb),
        *_certificates(settings, snapshot),
        *_silent(snapshot, silent_s),
    ]
    return [notice for notice in standing if notice.kind in settings.events]


def is_over(settings: NotificationSettings, snapshot: Snapshot, kind: str) -> bool:
    """Return whether a condition of a kind that does not stand any more is over.

    A disk has to recover first.
    """
    return kind != "disk" or not list(_disk(settings, snapshot, settings.disk_free_mb * _RECOVERED))


def in_one(notices: Sequence[Notice]) -> str:
    """Return one text for many messages: how many of each kind, then the first of them."""
    counts: Mapping[str, int] = {
        kind: sum(notice.kind == kind for notice in notices)
        for kind in dict.fromkeys(notice.kind for notice in notices)
    }
    summary = ", ".join(f"{count} {kind}" for kind, count in counts.items())
    lines = [notice.sentence for notice in notices[:_LISTED]]
    hidden_count = len(notices) - len(lines)
    last = [f"... and {hidden_count} more; `dicomnode status` lists the studies."] if hidden_count > 0 else []
    return "\n".join([f"{counted(len(notices), 'message')}: {summary}.", "", *lines, *last])


def end_of(kind: str, subject: str) -> NewNotice:
    """Return what is told when a condition is over; without a sentence nothing is."""
    sentences = {
        "destination-down": f"Destination {subject} takes results again.",
        "disk": "There is room on the disk of the node again.",
        "silent": f"`dicomnode {subject}` gives signs of life again.",
    }
    return NewNotice(kind, subject, sentences.get(kind, ""))


def _down(settings: NotificationSettings, snapshot: Snapshot) -> Iterator[NewNotice]:
    for line in snapshot.failing:
        minutes = (snapshot.now - line.failing_since) / 60
        if line.is_down and minutes >= settings.destination_down_minutes:
            yield NewNotice(
                "destination-down",
                line.destination,
                f"Destination {line.destination} has taken nothing for {counted(round(minutes), 'minute')}; "
                f"{counted(line.deliveries, 'result waits', 'results wait')} for it.",
            )


def _disk(settings: NotificationSettings, snapshot: Snapshot, mark_mb: float) -> Iterator[NewNotice]:
    disk = snapshot.disk
    if disk is not None and disk.free_bytes < mark_mb * _MIB:
        yield NewNotice(
            "disk",
            "storage.root",
            f"{disk.free_bytes // _MIB} MiB are free for the node, less than {settings.disk_free_mb} MiB; "
            f"below {disk.minimum_free_bytes // _MIB} MiB nothing is taken.",
        )


def _certificates(settings: NotificationSettings, snapshot: Snapshot) -> Iterator[NewNotice]:
    """Yield one message for the nearest of the limits that a certificate is under."""
    limits = sorted({0.0, min(_LAST_DAYS, settings.certificate_days), settings.certificate_days})
    for setting, days in snapshot.certificates.items():
        limit = next((limit for limit in limits if days is not None and days < limit), None)
        if days is not None and limit is not None:
            words = "has ended" if days < 0 else f"ends in {counted(round(days), 'day')}"
            sentence = f"The certificate of {setting} {words}; renew it and reload."
            yield NewNotice("certificate", f"{setting}/{limit:g}", sentence)


def _silent(snapshot: Snapshot, silent_s: float) -> Iterator[NewNotice]:
    for side in SIDES:
        silence_s = snapshot.silent_s(side)
        if silence_s is not None and silence_s > silent_s:
            sentence = f"`dicomnode {side}` has given no sign of life for {silence_s:.0f} s."
            yield NewNotice("silent", side, sentence)
