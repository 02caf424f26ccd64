"""The `[ensemble]` table of a manifest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

RULES = ("average", "vote")


@dataclass(frozen=True)
class EnsembleSpec:
    """Other bundles, "name/version" to the SHA-256 that the bundle goes by, and how their answers become one."""

    rule: str
    members: Mapping[str, str]
