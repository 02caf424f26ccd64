from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pynetdicom.status import STORAGE_SERVICE_CLASS_STATUS

from dicomnode.network.status import JUDGED, UNKNOWN, judge


@pytest.mark.parametrize(
    ("status", "verdict"),
    [
        (0x0000, "ok"),
        (0xB000, "ok"),
        (0xB006, "ok"),
        (0xB007, "ok"),
        (0x0111, "ok"),
        (0xA700, "transient"),
        (0xA7FF, "transient"),
        (0x0110, "transient"),
        (0x0213, "transient"),
        (0xA900, "permanent"),
        (0xC000, "permanent"),
        (0xCFFF, "permanent"),
        (0x0122, "permanent"),
        (0x0124, "permanent"),
        (0xFE00, "transient"),
        (0xA801, "transient"),
    ],
)
def test_what_a_status_means(status: int, verdict: str) -> None:
    assert judge(status).verdict == verdict


@given(st.integers(0, 0xFFFF))
def test_no_two_rows_speak_of_one_status(status: int) -> None:
    assert sum(rule.first <= status <= rule.last for rule in JUDGED) <= 1


def test_every_status_of_the_standards_storage_service_is_judged() -> None:
    assert [hex(status) for status in STORAGE_SERVICE_CLASS_STATUS if judge(status) is UNKNOWN] == []


def test_success_and_warnings_agree_with_pynetdicom() -> None:
    good = {
        status
        for status, (category, _) in STORAGE_SERVICE_CLASS_STATUS.items()
        if category in ("Success", "Warning")
    }

    assert {status for status in good if judge(status).verdict != "ok"} == set()
