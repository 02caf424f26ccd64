"""What people called a series, and which of those names are evidence about it.

A name that series of different contrast share is the name of the exam, not of one of them (GE's Protocol Name
always is). Such a name is left out before anything is read from it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from dicomnode.records import InstanceHeader, Study
from dicomnode.study.weighting import Certainty, read_weighting
from dicomnode.study.words import AgentWords, agent_words_of, concepts_of, normalise

_WEIGHTINGS = frozenset({"t1", "t2", "pd", "flair"})


@dataclass(frozen=True)
class Names:
    """The names of a series that are evidence about it; empty where there is none."""

    description: str = ""
    protocol: str = ""

    @property
    def concepts(self) -> frozenset[str]:
        """What the series' own description speaks of.

        Where the description is empty, the protocol's name stands in for it.
        """
        return concepts_of(self.description or self.protocol)

    @property
    def all_concepts(self) -> frozenset[str]:
        """What description and protocol speak of."""
        return concepts_of(self.description) | concepts_of(self.protocol)

    @property
    def weightings(self) -> frozenset[str]:
        """The contrasts that are named: "t1", "t2", "pd", "flair"; the description before the protocol."""
        return (concepts_of(self.description) & _WEIGHTINGS) or (concepts_of(self.protocol) & _WEIGHTINGS)

    @property
    def agent(self) -> AgentWords:
        """What the names say about a contrast agent; the description before the protocol."""
        return agent_words_of(self.description) or agent_words_of(self.protocol)


def names_of(header: InstanceHeader) -> Names:
    """Return the names of a series looked at alone."""
    # On GE scanners Protocol Name is the locked name of the whole exam (dcm2niix issue 563).
    of_exam = str(header.extra.get("Manufacturer", "")).startswith("GE")
    return Names(header.SeriesDescription, "" if of_exam else header.ProtocolName)


def names_in(study: Study) -> dict[str, Names]:
    """Return the names of every series, Series Instance UID -> names.

    Names that different contrasts share are left out.
    """
    headers = {series.key: series.instances[0].header for series in study.series}
    shared = _shared_names(headers.values())
    names = {}
    for uid, header in headers.items():
        alone = names_of(header)
        names[uid] = Names(
            *("" if normalise(name) in shared else name for name in (alone.description, alone.protocol))
        )
    return names


def _shared_names(headers: Iterable[InstanceHeader]) -> frozenset[str]:
    kinds: dict[str, set[str]] = defaultdict(set)
    for header in headers:
        weighting = read_weighting(header)
        if weighting.certainty >= Certainty.LIKELY:
            for name in (header.SeriesDescription, header.ProtocolName):
                kinds[normalise(name)].add(weighting.kind)
    return frozenset(name for name, listed in kinds.items() if len(listed) > 1)
