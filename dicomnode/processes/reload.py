"""Reading the configuration again while the node runs: all of what can be applied, or nothing.

Associations that are open, and studies that are being answered, go on with what they began with.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import structlog

from dicomnode.audit.events import MINOR_FAILURE, Audit, AuditEvent
from dicomnode.errors import ConfigError, StartError
from dicomnode.settings.config import Config, load_config
from dicomnode.settings.reload import Change, ReloadPlan, plan_reload

log = structlog.get_logger()

# What one line of the log and of the audit trail names of a long difference.
_MOST_CHANGES = 20


class Reloader:
    """Reads, checks, applies and audits for one process.

    Parameters
    ----------
    side
        Name of the process: receive, work, monitor or serve.
    path
        The file that it was started with; None: it has none, and nothing can be read again.
    config
        What holds now.
    check
        Raises `StartError` where the new configuration could not be worked with: a bundle or a certificate
        that cannot be read. It changes nothing.
    apply
        Takes the new configuration over; it does not fail after `check` went well.
    audit
        Told of the difference, and of a reload that was refused.
    """

    def __init__(
        self,
        side: str,
        path: Path | None,
        config: Config,
        check: Callable[[Config], None],
        apply: Callable[[Config], None],
        audit: Audit,
    ) -> None:
        self._side, self._path = side, path
        self.config = config
        """What holds now."""
        self._check, self._apply, self._audit = check, apply, audit

    def reload(self) -> ReloadPlan | None:
        """Take over what the file says now; return what that was, or None when the file cannot be used.

        A file that cannot be used changes nothing.
        """
        try:
            if self._path is None:
                raise ConfigError(["the node was started without a configuration file"])
            plan = plan_reload(self.config, load_config(self._path))
            self._check(plan.config)
        except StartError as problem:
            self._refuse(str(problem))
            return None
        self._apply(plan.config)
        self.config = plan.config
        self._note(plan)
        return plan

    def _refuse(self, reason: str) -> None:
        log.error(
            "configuration_not_reloaded",
            side=self._side,
            reason=reason,
            advice="nothing was changed; correct the file and reload again",
        )
        self._audit(
            AuditEvent("configuration-changed", MINOR_FAILURE, detail=f"{self._side}: not applied: {reason}")
        )

    def _note(self, plan: ReloadPlan) -> None:
        applied, waiting = _in_words(plan.applied), _in_words(plan.waiting)
        log.info(
            "configuration_reloaded", side=self._side, count=len(plan.applied), reason=applied or "no change"
        )
        if plan.waiting:
            log.warning(
                "configuration_needs_restart",
                side=self._side,
                count=len(plan.waiting),
                reason=waiting,
                advice="these hold from the next start of the node on",
            )
        if plan.applied or plan.waiting:
            sentences = [f"applied: {applied}"] if applied else []
            sentences += [f"after a restart: {waiting}"] if waiting else []
            self._audit(AuditEvent("configuration-changed", detail=f"{self._side}: {'; '.join(sentences)}"))


def _in_words(changes: tuple[Change, ...]) -> str:
    hidden_count = len(changes) - _MOST_CHANGES
    return ", ".join(str(change) for change in changes[:_MOST_CHANGES]) + (
        f" and {hidden_count} more" if hidden_count > 0 else ""
    )
