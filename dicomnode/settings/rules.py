"""A site's rules on studies: which are answered how, where the answers go, what is first. [[rules]]."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from pydantic import Field, field_validator, model_validator

from dicomnode.settings.destinations import DestinationSettings
from dicomnode.settings.forms import ObjectChoice, PictureChoice, ReportChoice, SegmentationForm
from dicomnode.settings.hours import OptionalHours, parse_hours
from dicomnode.settings.section import AETitle, Section

if TYPE_CHECKING:
    from dicomnode.settings.config import Config

Priority = Literal["urgent", "normal", "night"]

_PATTERNS = ("station", "institution", "body_part", "study_description", "series_description")


class RuleSettings(Section):
    """What becomes of a study. The first rule that matches wins; without one the other tables hold.

    A rule matches where everything that it asks for is so; what it does not name is not asked for. A study
    has several series and perhaps several senders: one of them is enough.
    """

    name: str = Field(
        min_length=1, pattern=r"^[A-Za-z0-9_.-]+$", description="Short name, shown by status and why."
    )
    calling_ae: tuple[AETitle, ...] = Field((), description="AE titles of senders; empty: any.")
    called_ae: tuple[AETitle, ...] = Field(
        (),
        description="AE titles of ours that the sender called: network.ae_title or network.more_ae_titles.",
    )
    station: str = Field(
        "", description="Station Name: regular expression, searched without regard to case; empty: any."
    )
    institution: str = Field("", description="Institution Name: regular expression, as for station.")
    body_part: str = Field("", description="Body Part Examined: regular expression, as for station.")
    study_description: str = Field("", description="Study Description: regular expression, as for station.")
    series_description: str = Field("", description="Series Description: regular expression, as for station.")
    minimum_age: float | None = Field(
        None,
        ge=0,
        le=150,
        description="Patient's age at the study in years, at least; unknown ages do not match.",
    )
    maximum_age: float | None = Field(None, ge=0, le=150, description="The same, less than.")
    hours: OptionalHours = Field(
        "", description="Local time of day at which its first image came, such as 22:00-06:00; empty: any."
    )
    pipeline: Literal["segment", "none"] = Field(
        "segment",
        description="none: the study is kept and shown, and neither computed nor reported.",
    )
    lesion_model: str = Field("", description="Bundle instead of pipeline.lesion_model; empty: that one.")
    brain_model: str = Field("", description="Bundle instead of pipeline.brain_model; empty: that one.")
    threshold: float | None = Field(
        None, gt=0, lt=1, description="Instead of pipeline.threshold; empty: that one."
    )
    peak: float | None = Field(None, ge=0, lt=1, description="Instead of pipeline.peak; empty: that one.")
    minimum_volume_mm3: float | None = Field(
        None, ge=0, description="Instead of pipeline.minimum_volume_mm3; empty: that one."
    )
    destinations: tuple[str, ...] | None = Field(
        None, description="Names of the destinations that get the results; [] nowhere; without it all."
    )
    priority: Priority = Field(
        "normal",
        description="urgent: before all others that wait; "
        "night: in study.night_hours only, and after the others.",
    )
    objects: tuple[ObjectChoice, ...] = Field(
        (), description="Which results go to these destinations, instead of their own objects; empty: those."
    )
    segmentation: SegmentationForm | None = Field(
        None, description="The same for segmentation of the destinations."
    )
    report: ReportChoice | None = Field(None, description="The same for report of the destinations.")
    pictures: PictureChoice | None = Field(None, description="The same for pictures of the destinations.")

    notify: tuple[str, ...] | None = Field(
        None,
        description="Names of the [[notifications]] that may tell of these studies; "
        "[] nobody; without it all.",
    )

    @field_validator(*_PATTERNS)
    @classmethod
    def _pattern_compiles(cls, pattern: str) -> str:
        try:
            re.compile(pattern)
        except re.error as problem:
            raise ValueError(f"not a regular expression: {problem}") from None
        return pattern

    @model_validator(mode="after")
    def _makes_sense(self) -> RuleSettings:
        low, high = self.minimum_age, self.maximum_age
        if low is not None and high is not None and low >= high:
            raise ValueError(f"minimum_age {low:g} is not less than maximum_age {high:g}: no patient matches")
        span = parse_hours(self.hours)
        if span is not None and span[0] == span[1]:
            raise ValueError("hours begin and end at the same time: no study matches")
        choices = ("lesion_model", "brain_model", "threshold", "peak", "minimum_volume_mm3", "destinations")
        overrides = [name for name in (*choices, "objects") if name in self.model_fields_set]
        if self.pipeline == "none" and overrides:
            raise ValueError(f"pipeline is none, so {', '.join(overrides)} would do nothing")
        return self


def settings_by_rule(config: Config, rule: RuleSettings) -> Config:
    """Return the configuration by which a study is answered that a rule matched."""
    overrides = {
        name: value
        for name in ("lesion_model", "brain_model", "threshold", "peak", "minimum_volume_mm3")
        if (value := getattr(rule, name)) not in (None, "")
    }
    destinations = tuple(
        _in_form_of(rule, destination)
        for destination in config.destinations
        if rule.destinations is None or destination.name in rule.destinations
    )
    pipeline = config.pipeline.model_copy(update=overrides)
    return config.model_copy(update={"pipeline": pipeline, "destinations": destinations})


def variants(config: Config, destination: DestinationSettings) -> tuple[DestinationSettings, ...]:
    """Return a destination as configured, and as each rule has it.

    These are all the forms in which results may go there.
    """
    return (destination, *(_in_form_of(rule, destination) for rule in config.rules))


def rule_problems(config: Config) -> Iterator[str]:
    """Yield one line for each rule that names something that is not there."""
    names = [rule.name for rule in config.rules]
    destinations = {destination.name for destination in config.destinations}
    for position, rule in enumerate(config.rules, start=1):
        key = f"rules[{position}]"
        if rule.name in names[: position - 1]:
            yield f"{key}.name: {rule.name!r} is used twice"
        for name in rule.destinations or ():
            if name not in destinations:
                yield f"{key}.destinations: no destination is named {name!r}"
        for title in rule.called_ae:
            if config.network.require_called_ae and title not in config.network.own_ae_titles:
                yield f"{key}.called_ae: {title!r} is not ours; add it to network.more_ae_titles"


def _in_form_of(rule: RuleSettings, destination: DestinationSettings) -> DestinationSettings:
    forms = {
        name: value
        for name in ("objects", "segmentation", "report", "pictures")
        if (value := getattr(rule, name)) not in (None, ())
    }
    return destination.model_copy(update=forms) if forms else destination
