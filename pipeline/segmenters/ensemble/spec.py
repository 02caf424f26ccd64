"""The `[ensemble]` table of a manifest: other bundles, and how their answers become one."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

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
    """

    rule: str
    members: Mapping[str, str]

    @property
    def member_digests(self) -> Mapping[str, str]:
        """The members."""
        return self.members


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
    return EnsembleSpec(rule, members)


FAMILY = Family("ensemble", find_files_problem, "ensemble", read_table, prepares=False)
