"""What the steps of the working side share: the workplace, and the site's rule on a study."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from pydicom.uid import generate_uid

from dicomnode.ahead import Ahead
from dicomnode.audit.events import Audit, silent
from dicomnode.compute import Compute
from dicomnode.ledger.ledger import Ledger
from dicomnode.records import Job
from dicomnode.settings.config import Config
from dicomnode.spool.layout import SpoolLayout
from dicomnode.study.remembered import RememberedViews
from dicomnode.study.rules import RuleChoice, choose_rule, read_facts


@dataclass(frozen=True)
class Workplace:
    """What the steps of the working side work with.

    `owner` names this process in leases; `now` is the clock, `make_uid` names transactions. `is_outdated`
    says that the configuration was replaced meanwhile: what goes on and on ends then, and begins anew. With
    `wake_at` a step has itself called again at a time, if its timer is not due before.
    """

    config: Config
    ledger: Ledger
    layout: SpoolLayout
    compute: Compute
    owner: str
    now: Callable[[], float] = time.time
    make_uid: Callable[[], str] = generate_uid
    audit: Audit = silent
    views: RememberedViews = field(default_factory=RememberedViews)
    ahead: Ahead = field(default_factory=Ahead)
    is_outdated: Callable[[], bool] = lambda: False
    wake_at: Callable[[float], None] = lambda _time: None


def rule_of(workplace: Workplace, job: Job) -> RuleChoice:
    """Return the rule of the site that a study falls under; without rules no file is looked at."""
    rules = workplace.config.rules
    if not rules:
        return RuleChoice(None, ())
    instances = workplace.ledger.instances.of_study(job.StudyInstanceUID)
    return choose_rule(rules, read_facts(instances, workplace.layout.root))
