"""The gate's table of codes is a second one: both say the same, row for row."""

from __future__ import annotations

from pydicom.sr.coding import Code

from dicomnode.results.verify import expected_codes
from dicomnode.results.words import codes
from dicomnode.results.words.measured import MEASURED


def pair(code: Code) -> tuple[str, str]:
    return code.value, code.scheme_designator


def test_the_gates_measurements_are_those_of_the_builders() -> None:
    rows = {name: row for name, row in MEASURED.items() if row.is_reported}
    assert set(expected_codes.NUMBERS) == set(rows)
    for name, row in rows.items():
        modifiers = (row.derivation, row.method, row.finding_site, row.topographical_modifier)
        expected = expected_codes.NUMBERS[name]
        assert (expected.concept, expected.unit) == (pair(row.concept), pair(row.unit)), name
        assert expected.modifiers == {code.value for code in modifiers if code is not None}, name


def test_the_gates_other_codes_are_those_of_the_builders() -> None:
    assert {key: code.value for key, code in codes.SIDES.items()} == expected_codes.SIDES
    assert {key: code.value for key, code in codes.REGIONS.items()} == expected_codes.REGIONS
    assert {key: code.value for key, code in codes.CHANGES.items()} == expected_codes.CHANGES
    assert (pair(codes.LESION_OF_BRAIN), pair(codes.ABNORMAL_STRUCTURE), pair(codes.BRAIN)) == (
        expected_codes.LESION_OF_BRAIN,
        expected_codes.ABNORMAL_STRUCTURE,
        expected_codes.BRAIN,
    )
    assert (codes.PRESENT.value, codes.ABSENT.value, codes.UNDETERMINED.value) == (
        expected_codes.PRESENT,
        expected_codes.ABSENT,
        expected_codes.UNDETERMINED,
    )


def test_no_two_measurements_are_coded_alike() -> None:
    assert len(set(expected_codes.NUMBERS.values())) == len(expected_codes.NUMBERS)
