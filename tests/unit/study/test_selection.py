"""Which series is taken, which is not, and what is said about it."""

from __future__ import annotations

from typing import Any

import pytest

from dicomnode.records import Series
from dicomnode.settings.config import SelectionRule, SelectionSettings
from dicomnode.study.choice import Selection
from dicomnode.study.selection import select_series
from tests.factories.headers import MR, make_series, make_study, without

SETTINGS = SelectionSettings()


def t1(uid: str = "1.2.3.2", **changes: Any) -> Series:
    return make_series(
        "t1", **{"plane": "sagittal", "count": 80, "spacing_mm": 2.0, "SeriesInstanceUID": uid, **changes}
    )


def flair(uid: str = "1.2.3.3", **changes: Any) -> Series:
    return make_series("flair", **{"SeriesInstanceUID": uid, **changes})


def select(*series: Series, settings: SelectionSettings = SETTINGS) -> Selection:
    return select_series(make_study(*series), settings)


def codes(selection: Selection) -> list[tuple[str, str]]:
    return [(finding.code, finding.grade) for finding in selection.findings]


def test_a_plain_study_is_selected_with_reasons() -> None:
    selection = select(t1(), flair())
    assert selection.roles == {"t1": "1.2.3.2", "flair": "1.2.3.3"}
    assert selection.findings == ()
    assert (
        selection.reasons["1.2.3.2"] == "used as T1: T1 weighted by inversion: TE 3 ms, TR 2300 ms, TI 900 ms"
    )


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"Modality": "CT", "SOPClassUID": "1.2.840.10008.5.1.4.1.1.2"}, "wrong-modality"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}, "wrong-modality"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.4.3"}, "colour-image"),
        ({"extra": {"SamplesPerPixel": 3}}, "colour-image"),
        ({"ImageType": ("ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC")}, "mosaic-not-supported"),
        ({"ImageType": ("ORIGINAL", "PRIMARY", "LOCALIZER")}, "localizer"),
        ({"SeriesDescription": "AAHead_Scout"}, "localizer"),
        ({"ImageType": ("DERIVED", "PRIMARY", "DIFFUSION", "ADC")}, "derived-map"),
        (
            {
                "ImageType": ("DERIVED", "PRIMARY", "M"),
                "extra": {"FrameTypes": ["DERIVED\\PRIMARY\\DIFFUSION\\FA"]},
            },
            "derived-map",
        ),
        ({"ImageType": ("DERIVED", "SECONDARY", "PROJECTION IMAGE", "M")}, "derived-map"),
        ({"ImageType": ("ORIGINAL", "PRIMARY", "M", "SWI")}, "derived-map"),
        ({"ImageType": ("ORIGINAL", "PRIMARY", "P", "ND")}, "not-magnitude"),
        ({"ImageType": ("ORIGINAL", "PRIMARY", "R_IR", "R", "IR")}, "not-magnitude"),
        ({"extra": {"ComplexImageComponent": "PHASE"}}, "not-magnitude"),
        ({"AcquisitionContrast": "DIFFUSION"}, "other-contrast"),
        ({"extra": {"DiffusionBValue": 1000.0}}, "other-contrast"),
        ({"SeriesDescription": "ax SWI"}, "other-contrast"),
        ({"SeriesDescription": "t1_mp2rage_INV1"}, "other-contrast"),
        ({"SeriesDescription": "ASSET calibration"}, "calibration"),
        ({"SeriesDescription": "3D Cal Head 24"}, "calibration"),
        ({"SeriesDescription": "Ref_Head"}, "calibration"),
        ({"SeriesDescription": "gre_field_mapping"}, "calibration"),
        ({"ProtocolName": "t1_fl3d_tof"}, "angiography"),
        ({"ScanningSequence": ("EP",)}, "echo-planar"),
        ({"SequenceName": "*ep_b1000t"}, "echo-planar"),
        ({"extra": {"AngioFlag": "Y"}}, "angiography"),
        ({"SeriesDescription": "3D TOF MRA"}, "angiography"),
        ({"BodyPartExamined": "KNEE"}, "wrong-body-part"),
        ({"BodyPartExamined": "", "SeriesDescription": "knee cor T1"}, "wrong-body-part"),
        ({"ScanningSequence": ("SE",), "EchoTime": 90.0, "InversionTime": None}, "no-usable-series"),
    ],
)
@pytest.mark.parametrize("role", ["t1", "flair"])
def test_what_is_no_t1_or_flair_is_refused_by_name(role: str, changes: dict[str, Any], code: str) -> None:
    series = (t1 if role == "t1" else flair)(**changes)
    selection = select(series)
    assert selection.roles == {}
    assert codes(selection) == [(code, "refuse")]
    assert selection.reasons[series.SeriesInstanceUID].startswith("not used: ")


@pytest.mark.parametrize(
    ("series", "code"),
    [
        (flair(count=4), "too-few-slices"),
        (
            make_series("t1", plane="coronal", count=24, spacing_mm=3.8, BodyPartExamined=""),
            "coverage-too-small",
        ),
        (flair(PixelSpacing=()), "geometry-missing"),
    ],
)
def test_a_near_miss_gives_its_own_reason(series: Series, code: str) -> None:
    other = make_series(
        "flair", SeriesInstanceUID="1.2.3.8", EchoTime=90.0, InversionTime=None, ScanningSequence=("SE",)
    )
    assert codes(select(series, other)) == [(code, "refuse")]


def test_a_damaged_series_is_still_chosen_so_that_the_checks_name_the_damage() -> None:
    assert select(t1(), without(flair(), [7])).roles == {"t1": "1.2.3.2", "flair": "1.2.3.3"}


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        (t1("1.9"), t1("1.1", ContrastBolusAgent=True)),
        (t1("1.9"), t1("1.1", SeriesDescription="T1 post contrast")),
        (t1("1.9"), t1("1.1", ProtocolName="t1_mprage_+c")),
        (t1("1.9"), t1("1.1", ImageType=("DERIVED", "SECONDARY", "MPR"))),
        (t1("1.9"), t1("1.1", MRAcquisitionType="2D")),
        (t1("1.9", spacing_mm=1.2, count=130), t1("1.1")),
        (t1("1.9"), t1("1.1", PixelSpacing=(1.4, 1.4))),
        (flair("1.9"), without(flair("1.1"), [7])),
        (flair("1.9"), flair("1.1", plane="coronal")),
        (flair("1.9"), flair("1.1", EchoTime=None, SeriesDescription="FLAIR")),
        (flair("1.9", ImageType=("ORIGINAL", "PRIMARY", "M", "ND", "NORM")), flair("1.1")),
        (flair("1.9", ImageType=("ORIGINAL", "PRIMARY", "M", "DIS2D")), flair("1.1")),
    ],
)
def test_the_better_candidate_is_taken_whatever_the_order(better: Series, worse: Series) -> None:
    for order in ((better, worse), (worse, better)):
        selection = select(*order)
        assert list(selection.roles.values()) == ["1.9"]
        assert "ranks higher" in selection.reasons["1.1"]
        assert selection.findings == ()


@pytest.mark.parametrize(
    "description", ["SAG T1 POST", "T1 BRAVO GAD", "T1 W CONTRAST", "T1 with contrast", "T1_post"]
)
def test_a_later_run_with_contrast_agent_is_no_repeat(description: str) -> None:
    before = t1("1.1", SeriesDescription="SAG T1", extra={"AcquisitionDateTime": "20260105091500"})
    after = t1("1.2", SeriesDescription=description, extra={"AcquisitionDateTime": "20260105093500"})
    selection = select(before, after)
    assert selection.roles == {"t1": "1.1"}
    assert selection.findings == ()


@pytest.mark.parametrize(
    "description",
    [
        "T1 non-contrast",
        "T1 w/o contrast",
        "T1 pre contrast",
        "T1 without contrast",
        "T1 post-op",
        "T1 ASSET",
    ],
)
@pytest.mark.parametrize("protocol", ["", "BRAIN WITHOUT AND WITH CONTRAST"])
def test_words_that_deny_a_contrast_agent_are_understood(description: str, protocol: str) -> None:
    selection = select(t1(SeriesDescription=description, ProtocolName=protocol))
    assert list(selection.roles) == ["t1"]
    assert selection.findings == ()


@pytest.mark.parametrize(
    ("series", "code"),
    [
        (t1(ContrastBolusAgent=True), "contrast-enhanced-t1"),
        (t1(ImageType=("DERIVED", "SECONDARY", "MPR")), "derived-series"),
        (flair(EchoTime=None, SeriesDescription="FLAIR"), "contrast-from-description"),
    ],
)
def test_a_fallback_is_taken_with_a_warning(series: Series, code: str) -> None:
    selection = select(series)
    assert list(selection.roles.values()) == [series.SeriesInstanceUID]
    assert codes(selection) == [(code, "warning")]


def test_a_true_tie_is_not_guessed() -> None:
    selection = select(flair("1.1"), flair("1.2"), t1())
    assert selection.roles == {"t1": "1.2.3.2"}
    assert codes(selection) == [("selection-ambiguous", "refuse")]
    assert selection.findings[0].value == "1.1 and 1.2"
    assert all("nothing ranks one first" in selection.reasons[uid] for uid in ("1.1", "1.2"))


@pytest.mark.parametrize(
    ("first", "last"),
    [
        (
            {"extra": {"AcquisitionDateTime": "20260105091500"}},
            {"extra": {"AcquisitionDateTime": "20260105093000"}},
        ),
        ({"AcquisitionNumber": 1}, {"AcquisitionNumber": 2}),
    ],
)
def test_a_repeat_of_one_protocol_takes_the_last(first: dict[str, Any], last: dict[str, Any]) -> None:
    for order in (
        (flair("1.2", **first), flair("1.1", **last)),
        (flair("1.1", **last), flair("1.2", **first)),
    ):
        selection = select(*order)
        assert selection.roles == {"flair": "1.1"}
        assert codes(selection) == [("repeated-series", "warning")]


def test_two_protocols_at_two_times_are_a_tie() -> None:
    other = {"EchoTime": 90.0, "AcquisitionNumber": 2}
    assert codes(select(flair("1.1"), flair("1.2", **other))) == [("selection-ambiguous", "refuse")]


def rules(*listed: dict[str, str]) -> SelectionSettings:
    return SelectionSettings(rules=tuple(SelectionRule.model_validate(rule) for rule in listed))


def test_a_site_rule_settles_a_tie() -> None:
    settings = rules({"use": "flair", "series_description": "^spec"})
    assert select(flair("1.1"), flair("1.2", SeriesDescription="Special FLAIR"), settings=settings).roles == {
        "flair": "1.2"
    }


def test_the_first_rule_that_matches_wins() -> None:
    settings = rules({"use": "ignore", "protocol_name": "bad"}, {"use": "t1", "protocol_name": "."})
    selection = select(
        t1("1.1", ProtocolName="bad one"), t1("1.2", ProtocolName="odd", EchoTime=90.0), settings=settings
    )
    assert selection.roles == {"t1": "1.2"}
    assert selection.reasons["1.1"] == "not used: a rule of this site ignores it"


def test_a_rule_cannot_make_a_volume_of_what_is_none() -> None:
    settings = rules({"use": "flair", "series_description": "flair"})
    for broken in (
        flair(SeriesDescription="flair", count=4),
        flair(SeriesDescription="flair", Modality="CT", SOPClassUID=MR),
    ):
        assert select(broken, settings=settings).roles == {}


def test_an_empty_study_has_a_reason() -> None:
    assert codes(select()) == [("no-usable-series", "refuse")]


def test_many_reasons_are_listed_once_each() -> None:
    localizers = [flair(f"1.{number}", SeriesDescription="localizer") for number in range(3)]
    selection = select(*localizers, flair("1.8", AcquisitionContrast="DIFFUSION"))
    assert codes(selection) == [("no-usable-series", "refuse")]
    assert "a localizer (3 series)" in selection.findings[0].message
