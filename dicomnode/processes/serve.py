"""`dicomnode serve`: the sides of the node as processes of their own, looked after until the end."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Collection, Mapping, Sequence

import structlog

from dicomnode.errors import ConfigError, ProcessLost, StartError
from dicomnode.processes.notify import open_notifier
from dicomnode.processes.reload import Reloader
from dicomnode.processes.signals import Signals
from dicomnode.processes.supervise import MOST_DEATHS, Side
from dicomnode.settings.config import Config
from pipeline.counts import counted

log = structlog.get_logger()

# How long systemd is to wait on, each time it is told that a side is still starting.
STARTING_S = 60
# How often the sides are looked at.
_LOOK_S = 0.5
# A check that takes longer than this would starve the watchdog.
_CHECK_S = 45.0
_MOST_LINES = 20

MakeReloader = Callable[[Callable[[Config], None]], Reloader]
"""Makes the reloader of the supervisor, given what hands a checked configuration on to the sides."""


def run_sides(
    commands_of: Callable[[Config], Mapping[str, Sequence[str]]],
    signals: Signals,
    make_reloader: MakeReloader,
    dispensable: Collection[str] = (),
) -> None:
    """Run each side, start again the one that dies or hangs, and hand a reload on, until SIGTERM or SIGINT.

    `commands_of` says which sides a configuration has, and how each is started. What is dispensable is
    started again too, but the node is ready, and goes on, without it.

    Raises
    ------
    ProcessLost
        A side cannot start, or ends again and again.
    """
    sides: dict[str, Side] = {}
    notifier, is_ready = open_notifier(), False

    def hand_on(config: Config) -> None:
        for side in sides.values():
            side.ask_to_reload()
        # One that is needed only now reads the new configuration at its start.
        for name, command in commands_of(config).items():
            if name not in sides:
                sides[name] = Side(list(command))

    reloader = make_reloader(hand_on)
    hand_on(reloader.config)
    try:
        while (request := signals.wait(_LOOK_S)) != "stop":
            if request == "reload":
                notifier.notify(f"STATUS={_status_of_reload(reloader)}")
            for name, side in sides.items():
                _look_after(name, side, is_needed=name not in dispensable)
            if not is_ready and all(sides[name].is_ready for name in sides if name not in dispensable):
                is_ready = True
                notifier.notify("READY=1")
            # A large spool takes its time to be read; both sides say so by being alive.
            notifier.notify("WATCHDOG=1" if is_ready else f"EXTEND_TIMEOUT_USEC={STARTING_S * 10**6}")
    finally:
        for side in sides.values():
            side.process.terminate()
        for side in sides.values():
            side.wait(20.0)


def check_in_child(command: Sequence[str]) -> None:
    """Run a check in a process of its own, so that the supervisor loads no pipeline.

    Raises
    ------
    StartError
        It failed; with the words that it printed.
    """
    try:
        ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_CHECK_S)
    except subprocess.TimeoutExpired:
        raise StartError(f"the new configuration could not be checked within {_CHECK_S:g} s") from None
    if ended.returncode:
        lines = ended.stderr.strip().splitlines()[-_MOST_LINES:]
        raise StartError("\n".join(lines) or f"the check ended with {ended.returncode}")


def _status_of_reload(reloader: Reloader) -> str:
    """Reload, and return the line that `systemctl status` shows of it."""
    plan = reloader.reload()
    if plan is None:
        return "the configuration was not reloaded: the log says why"
    if plan.waiting:
        return f"reloaded; needs a restart: {', '.join(change.key for change in plan.waiting)}"
    return f"reloaded: {counted(len(plan.applied), 'setting')} changed"


def _look_after(name: str, side: Side, *, is_needed: bool) -> None:
    """Kill a side that hangs, and start one again that died.

    Where that does not help a side that is needed, `ProcessLost` is raised.
    """
    if side.kill_if_silent(time.monotonic()):
        log.error(
            "process_killed",
            side=name,
            advice="it gave no sign of life for a minute; the log says what hangs",
        )
    if side.restart_if_dead(time.monotonic()):
        log.warning("process_restarted", side=name)
    side.reload_if_asked()
    if not is_needed:
        return
    code = side.start_failure((ConfigError.exit_code, StartError.exit_code))
    if code is not None:
        raise ProcessLost(f"`dicomnode {name}` could not start; its message stands above", code)
    code = side.lost_code(StartError.exit_code)
    if code is not None:
        log.error(
            "process_lost",
            side=name,
            code=code,
            advice="it ended again and again right after its start; the log says why",
        )
        raise ProcessLost(
            f"`dicomnode {name}` ended {MOST_DEATHS} times in a row, the last time with {code}", code
        )
