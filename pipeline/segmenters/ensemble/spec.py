"""The `[ensemble]` table of a manifest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

RULES = ("average", "vote", "first")


@dataclass(frozen=True)
class EnsembleSpec:
    """Other bundles, "name/version" to the SHA-256 that the bundle goes by, and how their answers become one.

    A member that was not trained for the images of a case is not asked. With the rule "first" the first of the others answers alone: so one
    network can serve a FLAIR, and another a T1 without one.
    """

    rule: str
    members: Mapping[str, str]
