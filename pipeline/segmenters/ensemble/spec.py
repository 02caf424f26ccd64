"""The `[ensemble]` table of a manifest: other bundles, and how their answers become one."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from pipeline.bundles.bundle import Bundle
from pipeline.bundles.family import Family
from pipeline.bundles.manifest import FamilySpec
from pipeline.bundles.values import Values

RULES = ("average", "vote", "first")
_WORD = "[A-Za-z0-9][A-Za-z0-9._+-]*"


@dataclass(frozen=True)
class EnsembleSpec(FamilySpec):
    """Other bundles, "name/version" to the SHA-256 that the bundle goes by, and how their answers become one.

    A member that was not trained for the images of a case is not asked. With the rule "first" the first of
    the others answers alone: so one network can serve a FLAIR, and another a T1 without one.

    Attributes
    ----------
    asked
        Member to the images for which alone it is asked, each with the probability of the member that counts
        as much as the ensemble's threshold. Images are named in alphabetical order ("flair+t1"). A member
        that is not named here is asked for all that it was trained for, and the probability is its own
        threshold.
    """

    rule: str
    members: Mapping[str, str]
    asked: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    @property
    def member_digests(self) -> Mapping[str, str]:
        """The members."""
        return self.members

    def asks(self, member: str, combination: Collection[str]) -> bool:
        """Return whether the table asks a member about these images."""
        return member not in self.asked or _name_images(combination) in self.asked[member]


@dataclass(frozen=True)
class AskedMember:
    """A member that is asked about a case.

    Attributes
    ----------
    number
        Its place in the table.
    threshold
        Its probability that counts as much as the ensemble's threshold.
    """

    number: int
    bundle: Bundle
    threshold: float


def choose_members(bundle: Bundle, channels: Sequence[str]) -> list[AskedMember]:
    """Return the members of an ensemble that are asked about these images, in the order of the table.

    Parameters
    ----------
    channels
        The images of the case, in the order of the ensemble's channels.
    """
    spec = bundle.family_spec
    if not isinstance(spec, EnsembleSpec):
        raise TypeError(f"{bundle.name} is no ensemble")
    fitting = [
        AskedMember(number, member, _threshold_of(spec.asked.get(name, {}), member, channels))
        for number, (name, member) in enumerate(zip(spec.members, bundle.members, strict=True))
        if member.takes(channels) and spec.asks(name, channels)
    ]
    return fitting[:1] if spec.rule == "first" else fitting


def _threshold_of(asked: Mapping[str, float], member: Bundle, channels: Collection[str]) -> float:
    own = member.output.threshold_for([channel for channel in member.channels if channel in channels])
    return asked.get(_name_images(channels), own)


def _name_images(combination: Collection[str]) -> str:
    return "+".join(sorted(combination))


def find_files_problem(names: Collection[str], spec: FamilySpec) -> str:
    """Return what is wrong with the graphs that a manifest lists; empty when nothing is."""
    del spec
    return "an ensemble has no graphs of its own" if names else ""


def read_table(values: Values) -> EnsembleSpec:
    """Read the table: at least two members."""
    rule = values.one_of("ensemble.rule", RULES)
    members = values.value("ensemble.members", dict)
    fits = len(members) > 1 and all(
        re.fullmatch(f"{_WORD}/{_WORD}", name)
        and isinstance(digest, str)
        and re.fullmatch("[0-9a-f]{64}", digest)
        for name, digest in members.items()
    )
    if not fits:
        raise values.problem(
            "ensemble.members", f'needs at least two bundles, "name/version" to SHA-256, got {members!r}'
        )
    return EnsembleSpec(rule, members, _read_asked(values, members))


def _read_asked(values: Values, members: Collection[str]) -> dict[str, dict[str, float]]:
    key, channels = "ensemble.asked", values.texts("input.channels")
    table = values.value(key, dict, {})
    values.refuse_others(key, table, members)
    asked: dict[str, dict[str, float]] = {}
    for member, cuts in table.items():
        thresholds = isinstance(cuts, dict) and {
            _name_images(images.split("+")): cut
            for images, cut in cuts.items()
            if _are_different(images.split("+"), channels) and type(cut) is float and 0 < cut < 1
        }
        if not thresholds or len(thresholds) < len(cuts):
            raise values.problem(
                f"{key}.{member}",
                f"needs images made of {list(channels)} to numbers between 0 and 1, such as "
                f'"t1+flair" = 0.5; got {cuts!r}',
            )
        asked[member] = thresholds
    return asked


def _are_different(images: Collection[str], channels: Collection[str]) -> bool:
    return set(images) <= set(channels) and len(set(images)) == len(images)


FAMILY = Family("ensemble", find_files_problem, "ensemble", read_table, prepares=False)
