"""Who is told what happens: [[notifications]]."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from pydantic import Field

from dicomnode.settings.section import Section

if TYPE_CHECKING:
    from dicomnode.settings.config import Config

NoticeKind = Literal[
    "failed", "refused", "lesions", "given-up", "destination-down", "disk", "certificate", "silent"
]
STUDY_KINDS: frozenset[NoticeKind] = frozenset({"failed", "refused", "lesions", "given-up"})
"""What happens to one study; the others are the node's own."""
KINDS: tuple[NoticeKind, ...] = get_args(NoticeKind)


class NotificationSettings(Section):
    """Who is told what, by mail, chat or web hook (docs/monitoring.md).

    Texts hold no patient data, only study UIDs.
    """

    name: str = Field(
        min_length=1, pattern=r"^[A-Za-z0-9_.-]+$", description="Short name, for rules and for the test."
    )
    addresses_file: Path = Field(
        description="File of addresses as apprise writes them (mailto://, slack://, https:// ...), one a "
        "line, # for comments. They hold passwords: readable for the service user only, such "
        "as a systemd credential.",
    )
    events: tuple[NoticeKind, ...] = Field(
        ("failed", "given-up", "destination-down", "disk", "certificate", "silent"),
        min_length=1,
        description="Of what is told: failed and refused (studies), lesions (of more than "
        "minimum_lesions_ml), given-up (a result that could not be delivered), "
        "destination-down, disk, certificate, silent (a process of the node).",
    )
    rules: tuple[str, ...] = Field(
        (), description="Of studies only those that one of these [[rules]] answered; empty: all."
    )
    minimum_lesions_ml: float = Field(
        0, ge=0, description="For lesions: told when they have more volume than this in all, in ml."
    )
    destination_down_minutes: float = Field(
        30, gt=0, description="For destination-down: it has taken nothing of what is due for so long."
    )
    disk_free_mb: int = Field(4096, ge=1, description="For disk: less is free than this, in MiB.")
    certificate_days: float = Field(
        30,
        gt=0,
        description="For certificate: it ends within so many days; told again 7 days before its end.",
    )
    details: bool = Field(
        False,
        description="Add the reason in words and the volume. "
        "Reasons may quote descriptions out of the study's headers.",
    )
    digest_above: int = Field(
        5, ge=1, description="More messages than this at one time are sent as one that lists them."
    )
    digest_minutes: float = Field(
        15, gt=0, description="After such a list nothing is sent for so long, then the next list."
    )


def notification_problems(config: Config) -> Iterator[str]:
    """Yield one line for each notification that names a rule that is not there, and the other way round."""
    names = [notification.name for notification in config.notifications]
    rule_names = {rule.name for rule in config.rules}
    for position, notification in enumerate(config.notifications, start=1):
        key = f"notifications[{position}]"
        if notification.name in names[: position - 1]:
            yield f"{key}.name: {notification.name!r} is used twice"
        for name in notification.rules:
            if name not in rule_names:
                yield f"{key}.rules: no rule is named {name!r}"
    for position, rule in enumerate(config.rules, start=1):
        for name in rule.notify or ():
            if name not in names:
                yield f"rules[{position}].notify: no notification is named {name!r}"
