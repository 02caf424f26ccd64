"""The site's rules: matched by generation, with reasons for what does not match, and what they change of an answer."""

from __future__ import annotations

import random
import re
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pydicom
import pytest

from dicomnode.answer import build_recipe
from dicomnode.errors import ConfigError
from dicomnode.records import IndexedInstance
from dicomnode.settings.config import Config, parse_config
from dicomnode.settings.hours import is_within
from dicomnode.settings.rules import settings_by_rule, variants
from dicomnode.study.headers import read_header
from dicomnode.study.rules import StudyFacts, choose_rule, next_begin, read_facts
from pipeline.plan import make_plan
from tests.factories.instances import write_instances

NOON = datetime(2026, 7, 1, 12, 0).astimezone().timestamp()
FACTS = StudyFacts(
    calling_aes=("MR1", "MR2"),
    called_aes=("NODE",),
    stations=("MRC35001",),
    institutions=("Klinikum Süd",),
    body_parts=("BRAIN",),
    study_descriptions=("MRT Schädel Stroke",),
    series_descriptions=("t1_mprage", "T2 FLAIR tra"),
    age_years=71.5,
    first_received_at=NOON,
)
# What a rule may ask for: a value that FACTS meet, one that they do not, and a word of the reason.
CONDITIONS: dict[str, tuple[Any, Any, str]] = {
    "calling_ae": (["MR2", "OTHER"], ["MR3"], "'MR3'"),
    "called_ae": (["NODE"], ["URGENT"], "'URGENT'"),
    "station": ("mrc\\d", "^AV", "MRC35001"),
    "institution": ("süd$", "nord", "Klinikum Süd"),
    "body_part": ("brain|head", "knee", "BRAIN"),
    "study_description": ("schädel", "knie", "Stroke"),
    "series_description": ("flair", "dwi", "t1_mprage"),
    "minimum_age": (71, 72, "younger than 72"),
    "maximum_age": (72, 71.5, "71.5 years old or older"),
    "hours": ("11:00-13:00", "22:00-06:00", "12:00"),
}


def config(*rules: dict[str, Any], **tables: Any) -> Config:
    network = {"ae_title": "NODE", "more_ae_titles": ["URGENT"], **tables.pop("network", {})}
    return parse_config({"network": network, "rules": list(rules), **tables})


def problems(*rules: dict[str, Any], **tables: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        config(*rules, **tables)
    return "\n".join(caught.value.problems)


@pytest.mark.parametrize("seed", range(60))
def test_a_rule_matches_where_all_that_it_asks_is_so_and_names_each_thing_that_is_not(seed: int) -> None:
    chance = random.Random(seed)
    asked_for = chance.sample(sorted(CONDITIONS), chance.randint(1, 5))
    unmet = {name for name in asked_for if chance.random() < 0.4}
    if {"minimum_age", "maximum_age"} <= set(asked_for) and {"minimum_age", "maximum_age"} & unmet:
        unmet -= {"minimum_age", "maximum_age"}
    rule = {"name": "r", **{name: CONDITIONS[name][name in unmet] for name in asked_for}}

    choice = choose_rule(config(rule).rules, FACTS)

    (check,) = choice.checks
    assert (choice.rule is not None, check.matches) == (not unmet, not unmet)
    assert len(check.reasons) == len(unmet)
    assert all(any(CONDITIONS[name][2] in reason for reason in check.reasons) for name in unmet)


def test_the_first_that_matches_wins_and_the_others_are_looked_at_all_the_same() -> None:
    rules = [
        {"name": "knee", "body_part": "knee", "pipeline": "none"},
        {"name": "south", "institution": "süd"},
        {"name": "all"},
    ]

    choice = choose_rule(config(*rules).rules, FACTS)

    assert choice.rule is not None
    assert choice.rule.name == "south"
    assert [check.matches for check in choice.checks] == [False, True, True]
    assert choice.record()["rule"] == "south"
    assert choose_rule(config(rules[0]).rules, FACTS).rule is None


def test_no_reason_tells_an_age() -> None:
    rules = [{"name": "a", "minimum_age": 90}, {"name": "b", "maximum_age": 18}]

    assert "71" not in str(choose_rule(config(*rules).rules, FACTS).record())


@pytest.mark.parametrize(
    ("elements", "age_years"),
    [
        ({"PatientAge": "071Y"}, 71),
        ({"PatientAge": "018M"}, 1.5),
        ({"PatientAge": "010W"}, 70 / 365.25),
        ({"PatientAge": "003D"}, 3 / 365.25),
        ({"PatientAge": "old", "PatientBirthDate": "19501231", "StudyDate": "20261231"}, 76),
        ({"PatientAge": "", "PatientBirthDate": "1950.12.31", "StudyDate": "20261231"}, 76),
        ({"PatientAge": "", "PatientBirthDate": "20270101", "StudyDate": "20261231"}, None),
        ({"PatientAge": "", "PatientBirthDate": "", "StudyDate": "20261231"}, None),
        ({"PatientAge": "", "PatientBirthDate": "19500000", "StudyDate": "20261231"}, None),
    ],
)
def test_the_age_is_read_from_the_files(
    tmp_path: Path, elements: dict[str, str], age_years: float | None
) -> None:
    facts = read_facts(study(tmp_path, **elements), tmp_path)

    assert facts.age_years == (None if age_years is None else pytest.approx(age_years, abs=0.01))


def study(folder: Path, **elements: str) -> list[IndexedInstance]:
    """Two instances whose headers carry these elements."""
    instances = []
    for path in write_instances(folder / "files", 2):
        dataset = pydicom.dcmread(path)
        with pydicom.config.disable_value_validation():
            for keyword, text in elements.items():
                setattr(dataset, keyword, text)
            dataset.save_as(path)
        instances.append(IndexedInstance(str(path), NOON, read_header(path), "", "MR1", "NODE"))
    return instances


def test_texts_are_read_in_their_character_set_and_a_file_that_is_gone_says_nothing(tmp_path: Path) -> None:
    instances = study(
        tmp_path, SpecificCharacterSet="ISO_IR 192", InstitutionName="Süd 東京", StationName="MR7"
    )

    assert read_facts(instances, tmp_path).institutions == ("Süd 東京",)
    for instance in instances:
        Path(instance.path).unlink()
    facts = read_facts(instances, tmp_path)
    assert (facts.institutions, facts.age_years, facts.calling_aes) == ((), None, ("MR1",))
    Path(instances[0].path).write_bytes(b"DICM" * 1000)
    assert read_facts(instances, tmp_path).stations == ()


@pytest.mark.parametrize("seed", range(20))
def test_hours_hold_for_every_minute_of_the_day_and_begin_again_in_less_than_a_day(seed: int) -> None:
    chance = random.Random(seed)
    begin, length = chance.randrange(1440), chance.randrange(1, 1440)
    end = (begin + length) % 1440
    hours = f"{begin // 60:02}:{begin % 60:02}-{end // 60:02}:{end % 60:02}"
    midnight = datetime(2026, 7, 1).astimezone()
    moments = [midnight + timedelta(minutes=minute) for minute in range(1440)]

    inside = [moment for moment in moments if is_within(moment.time(), hours)]

    assert len(inside) == length
    for moment in chance.sample(moments, 20):
        waited_s = next_begin(hours, moment.timestamp()) - moment.timestamp()
        assert waited_s == (0 if moment in inside else ((begin - moments.index(moment)) % 1440) * 60)


def test_the_digest_of_the_plan_follows_from_what_a_rule_chooses() -> None:
    basis = config(destinations=DESTINATIONS)

    def digest(**choices: Any) -> str:
        rule = config({"name": "r", **choices}, destinations=DESTINATIONS).rules[0]
        return make_plan(build_recipe(settings_by_rule(basis, rule)), ("t1", "flair")).digest()

    same = [digest(), digest(priority="urgent"), digest(destinations=["a"]), digest(objects=["pdf"])]
    others = [
        digest(threshold=0.123),
        digest(peak=0.456),
        digest(minimum_volume_mm3=12.0),
        digest(lesion_model="stroke-lesion-2mm"),
    ]

    assert set(same) == {make_plan(build_recipe(basis), ("t1", "flair")).digest()}
    assert len({*same, *others}) == 5


DESTINATIONS = [{"name": name, "ae_title": name.upper(), "host": "h", "port": 104} for name in ("a", "b")]


def test_destinations_and_forms_of_a_rule() -> None:
    rules = [
        {"name": "nowhere", "destinations": []},
        {"name": "b", "destinations": ["b"], "objects": ["pdf"], "segmentation": "labelmap"},
        {"name": "plain"},
    ]
    basis = config(*rules, destinations=DESTINATIONS)
    nowhere, only_b, plain = (settings_by_rule(basis, rule) for rule in basis.rules)

    assert nowhere.destinations == ()
    assert [(entry.name, entry.objects, entry.segmentation) for entry in only_b.destinations] == [
        ("b", ("pdf",), "labelmap")
    ]
    assert only_b.destinations[0].identity is basis.destinations[1].identity
    assert plain.destinations == basis.destinations
    assert [entry.objects for entry in variants(basis, basis.destinations[0])] == [
        ("auto",),
        ("auto",),
        ("pdf",),
        ("auto",),
    ]


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ({"name": "r", "destinations": ["pax"]}, r"rules\[1\].destinations: no destination is named 'pax'"),
        ({"name": "r", "called_ae": ["OTHER"]}, r"rules\[1\].called_ae: 'OTHER' is not ours"),
        ({"name": "r", "station": "("}, r"rules\[1\].station: not a regular expression"),
        ({"name": "r", "hours": "25:00-26:00"}, r"rules\[1\].hours"),
        ({"name": "r", "hours": "06:00-06:00"}, "begin and end at the same time"),
        ({"name": "r", "minimum_age": 60, "maximum_age": 50}, "no patient matches"),
        ({"name": "r", "pipeline": "none", "threshold": 0.5}, "threshold would do nothing"),
        ({"name": "r", "pipline": "none"}, "did you mean 'pipeline'"),
        ({"name": "r", "threshold": 1.5}, r"rules\[1\].threshold"),
        ({}, r"rules\[1\].name"),
    ],
)
def test_a_rule_that_cannot_be_meant_is_refused(rule: dict[str, Any], words: str) -> None:
    assert re.search(words, problems(rule))


def test_two_rules_of_one_name_are_refused() -> None:
    assert "rules[2].name: 'r' is used twice" in problems({"name": "r"}, {"name": "r"})
