"""Whether a series was acquired after contrast agent.

The attribute, then words, then what was acquired before it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from dicomnode.records import InstanceHeader, Study
from dicomnode.study.names import Names
from dicomnode.study.words import AgentWords


@dataclass(frozen=True)
class AgentEvidence:
    """What speaks for a contrast agent in one series.

    `attribute` is None where no element says anything; `follows` says that a series with agent was acquired
    before it.
    """

    attribute: bool | None
    words: AgentWords
    follows: bool = False

    @property
    def is_given(self) -> bool:
        """Whether the series counts as acquired after contrast agent: the attribute outranks the words."""
        return self.words == "with" if self.attribute is None else self.attribute

    @property
    def contradiction(self) -> str:
        """The sentence that says that attribute and words contradict each other; "" when they do not."""
        if self.attribute and self.words == "without":
            return (
                "its name says that no contrast agent was given, and its contrast attribute says that one was"
            )
        if self.attribute is False and self.words == "with":
            return (
                "its name says that a contrast agent was given, and its contrast attribute says that none was"
            )
        return ""


def agent_evidence(study: Study, names: Mapping[str, Names]) -> dict[str, AgentEvidence]:
    """Return the evidence of every series of a study, by Series Instance UID."""
    headers = {series.key: series.instances[0].header for series in study.series}
    alone = {uid: AgentEvidence(_attribute(header), names[uid].agent) for uid, header in headers.items()}
    first = min(
        (time for uid, header in headers.items() if alone[uid].is_given and (time := acquired_at(header))),
        default="",
    )
    return {
        uid: AgentEvidence(
            evidence.attribute, evidence.words, bool(first) and acquired_at(headers[uid]) > first
        )
        for uid, evidence in alone.items()
    }


def acquired_at(header: InstanceHeader) -> str:
    """Return YYYYMMDDHHMMSS.f of the acquisition, "" when it is not known; such texts sort by time."""
    return str(header.extra.get("AcquisitionDateTime") or header.extra.get("SeriesDateTime") or "")


def is_in_doubt(evidences: Iterable[AgentEvidence]) -> bool:
    """Return whether one of several series may be after contrast agent without saying so."""
    return not all(evidence.attribute is False or evidence.words == "without" for evidence in evidences)


def _attribute(header: InstanceHeader) -> bool | None:
    stated = header.extra.get("ContrastBolus")
    if header.ContrastBolusAgent or stated == "given":
        return True
    return False if stated == "none" else None
