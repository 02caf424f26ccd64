"""When a study is worked on and which of its series: [study], [fetch] and [selection]."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, field_validator, model_validator

from dicomnode.settings.hours import Hours
from dicomnode.settings.section import Section


class StudySettings(Section):
    """When a study is worked on."""

    settle_s: float = Field(
        3,
        ge=0,
        description=(
            "Quiet time after which a T1 and FLAIR that are complete by evidence are processed, in seconds."
        ),
    )
    short_quiet_s: float = Field(
        10,
        ge=0,
        description=(
            "Quiet time after which stacks that have no gap and cover the head are processed although no "
            "header counts them, once their sender has released its association, in seconds. For a sender "
            "that pauses longer within a series it is longer; never longer than quiet_s by itself."
        ),
    )
    quiet_s: float = Field(
        60, gt=0, description="Quiet time after which a study is taken as it is, in seconds."
    )
    exam_s: float = Field(
        900,
        ge=0,
        description=(
            "Where T1 or FLAIR is missing and the images were acquired minutes before they came, the other "
            "may still be under the scanner: it is waited for so long, in seconds, unless the sender is "
            "known not to pause for so long; 0: no longer than quiet_s."
        ),
    )
    night_hours: Hours = Field(
        "20:00-06:00",
        description="Local time in which studies are computed whose rule has the priority night.",
    )
    maximum_instances: int = Field(20000, ge=1, description="A study with more instances is refused.")


class FetchSettings(Section):
    """What the node asks a PACS for by itself before it works on a study."""

    source: str = Field(
        "",
        description=(
            "Who is asked: name of a destination, or AE title of a peer with host and port; empty: nobody."
        ),
    )
    missing_series: bool = Field(
        True,
        description=(
            "Where the T1 or the FLAIR is missing: fetch the MR series of the study that are not here."
        ),
    )
    series_description: str = Field(
        r"t1|mprage|mp2rage|spgr|bravo|tfe|flair|dark.?fluid",
        description=(
            "Regular expression, searched without regard to case: only such series are fetched, "
            "and those without a description."
        ),
    )
    prior_studies: int = Field(
        0,
        ge=0,
        le=5,
        description=(
            "So many earlier MR studies of the patient are fetched too, and answered like any other study."
        ),
    )
    counts: bool = Field(
        False,
        description=(
            "Take the number of images per series that it lists as evidence that a series is "
            "complete, once it stood still for study.settle_s."
        ),
    )

    @field_validator("series_description")
    @classmethod
    def _pattern_compiles(cls, pattern: str) -> str:
        try:
            re.compile(pattern)
        except re.error as problem:
            raise ValueError(f"not a regular expression: {problem}") from None
        return pattern


class SelectionRule(Section):
    """A site's own word on its series.

    The first rule that matches wins over the built-in reading of the attributes.
    """

    use: Literal["t1", "flair", "ignore"] = Field(description="Role that a matching series fills, or ignore.")
    series_description: str = Field("", description="Regular expression, searched without regard to case.")
    protocol_name: str = Field("", description="Regular expression, searched without regard to case.")
    sequence_name: str = Field("", description="Regular expression, searched without regard to case.")

    @model_validator(mode="after")
    def _patterns_compile(self) -> SelectionRule:
        patterns = {
            "series_description": self.series_description,
            "protocol_name": self.protocol_name,
            "sequence_name": self.sequence_name,
        }
        if not any(patterns.values()):
            raise ValueError("a rule needs at least one pattern")
        for key, pattern in patterns.items():
            try:
                re.compile(pattern)
            except re.error as problem:
                raise ValueError(f"{key} is not a regular expression: {problem}") from None
        return self


class SelectionSettings(Section):
    """Which series are taken."""

    minimum_slices: int = Field(10, ge=2, description="A volume with fewer slices is not taken.")
    minimum_coverage_mm: float = Field(
        80, gt=0, description="A volume that covers less along its normal is not taken, in mm."
    )
    maximum_slice_spacing_mm: float = Field(
        10, gt=0, description="A volume with a larger slice spacing is not taken, in mm."
    )
    rules: tuple[SelectionRule, ...] = Field((), description="The site's own rules, in order.")
