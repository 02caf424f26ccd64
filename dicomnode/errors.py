"""The node's errors, split by what happens next.

NodeError
|- StartError               stop at start: the command prints the message and exits with `exit_code`
|  |- ConfigError           a setting is wrong (all problems together, each with its key)
|  |- ProcessLost           a side of `serve` cannot start or ends again and again: its exit code is handed on
|  `- PortError             the listener could not bind
|- PeerError                answer the peer: carries the DIMSE `status` that goes on the wire
|  |- OutOfResources        0xA700: no disk, spool not writable
|  |- NotUnderstood         0xC000: a UID of the request is none
|  `- NotAllowed            0x0124: peer may not do this
|- UnreadableInstance       the instance is kept and set aside; the study goes on without it
|- StudyRefused             the study is answered with a report that says why; carries the reason `code`
|- RetryLater               try again after a delay: archive away, worker died, ledger locked or damaged
|- PermanentRefusal         the peer will never take this object: stop and show
|- StateError               a job or delivery change that the transition table does not allow (a bug)
|- LeaseLost                the job was superseded or taken over meanwhile: drop what was made, take the next
`- ResultRejected           a result failed its own verification: it must not leave; becomes a failure report
"""

from __future__ import annotations

import traceback
from pathlib import Path

from pipeline.errors import CaseRefused


class NodeError(Exception):
    """Root of everything that the node raises on purpose. Messages carry UIDs, never patient data."""


class StartError(NodeError):
    """Stop at start: the command prints the message and exits."""

    exit_code = 3


class ConfigError(StartError):
    """One or more settings are wrong.

    Parameters
    ----------
    problems : list of str
        One line each, beginning with the key.
    """

    exit_code = 2

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


class ProcessLost(StartError):
    """A side of the node cannot start, or ends again and again; its own exit code is handed on to systemd."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class PortError(StartError):
    """The listener could not bind its address."""


class PeerError(NodeError):
    """Answer the peer with `status` (PS3.7 Annex C, PS3.4 Annex B.2.3)."""

    status = 0x0110


class OutOfResources(PeerError):
    """0xA700: the instance could not be made safe (disk full, spool not writable). The peer may retry."""

    status = 0xA700


class NotUnderstood(PeerError):
    """0xC000: the request names what cannot be kept, such as a UID that is none.

    Sending it again does not help.
    """

    status = 0xC000


class NotAllowed(PeerError):
    """0x0124: not authorized."""

    status = 0x0124


class UnreadableInstance(NodeError):
    """The stored bytes are not a DICOM instance that can be used; kept, set aside, shown.

    Parameters
    ----------
    message : str
        Reason code, colon, sentence.
    StudyInstanceUID : str
        The study that it says it is of, when that much can be read: that study is answered all the same.
    """

    def __init__(self, message: str, *, StudyInstanceUID: str = "") -> None:
        super().__init__(message)
        self.StudyInstanceUID = StudyInstanceUID


class StudyRefused(NodeError, CaseRefused):
    """The study cannot be processed; the report that says why goes to the PACS.

    Parameters
    ----------
    message : str
        One readable sentence: what is wrong and what to do.
    code : str
        Stable kebab-case reason.
    """

    def __init__(self, message: str, *, code: str) -> None:
        CaseRefused.__init__(self, message, code=code)


class RetryLater(NodeError):
    """A passing fault: try again after a delay."""


class PermanentRefusal(NodeError):
    """The peer will never take this object (class or syntax not accepted, refused for good)."""


class StateError(NodeError):
    """A change that the transition table does not allow."""


class LeaseLost(NodeError):
    """The job is no longer ours: newer images superseded it, or its lease ran out and another worker took it.

    Not a fault.
    """


class ResultRejected(NodeError):
    """A result failed its own verification and must not leave the node."""


def where(problem: BaseException) -> str:
    """Return file:line of every frame, innermost last: a traceback without values."""
    return " > ".join(
        f"{Path(frame.filename).name}:{frame.lineno}" for frame in traceback.extract_tb(problem.__traceback__)
    )


def describe_bug(problem: BaseException) -> str:
    """Return what may be shown of an error that is not ours.

    Its message may quote a header, its type and place do not.
    """
    return (
        f"the program failed with {type(problem).__name__} at "
        f"{where(problem).rsplit(' > ', 1)[-1]}; please report it"
    )
