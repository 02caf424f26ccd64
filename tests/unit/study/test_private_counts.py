"""Counts in vendors' private elements: the numbers are held against pydicom's public dictionary, and read back from bytes."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydicom.datadict import private_dictionary_description, private_dictionary_VR
from pydicom.tag import Tag

from dicomnode.study.assembly import series_completeness
from dicomnode.study.headers import read_header
from tests.factories.headers import make_series, without
from tests.unit.study.test_headers import one_instance, saved

COUNTS = {
    (0x2001, "Philips Imaging DD 001", 0x18): ("Number of Slices MR", "SlicesAnnounced"),
    (0x0025, "GEMS_SERS_01", 0x07): ("Images in Series", "SlicesAnnounced"),
    (0x07A1, "ELSCINT1", 0x02): ("number of images in series", "SlicesAnnounced"),
    (0x0021, "GEMS_RELA_01", 0x4F): ("Locations in acquisition", "LocationsAnnounced"),
    (0x0043, "GEMS_PARM_01", 0x79): ("Slices Per Volume", "LocationsAnnounced"),
    (0x2001, "Philips Imaging DD 001", 0x2D): ("Number of Stack Slices", "LocationsAnnounced"),
    (0x2001, "Philips Imaging DD 001", 0x15): ("Number of Locations", "LocationsAnnounced"),
    (0x0021, "SIEMENS MR VA0  GEN", 0x40): ("Number of Slices nominal", "LocationsAnnounced"),
    (0x0021, "SIEMENS MR VA0  GEN", 0x34): ("Number of 3D Image Partitions", "LocationsAnnounced"),
}


@pytest.mark.parametrize("element", COUNTS)
def test_each_count_is_the_one_of_the_public_dictionary_and_is_read(
    tmp_path: Path, element: tuple[int, str, int]
) -> None:
    group, creator, number = element
    description, key = COUNTS[element]
    tag = Tag(group, 0x1000 | number)
    assert private_dictionary_description(tag, creator) == description
    dataset = one_instance()
    block = dataset.private_block(group, creator, create=True)
    block.add_new(number, private_dictionary_VR(tag, creator), 36)
    assert read_header(saved(tmp_path, dataset)).extra[key] == 36


@pytest.mark.parametrize(
    ("locations", "there", "complete", "whole"),
    [(30, 30, True, False), (30, 29, False, False), (15, 30, False, True)],
)
def test_positions_count_images_only_where_there_are_not_more_images(
    locations: int, there: int, complete: bool, whole: bool
) -> None:
    series = make_series(announced=None, extra={"LocationsAnnounced": locations})
    verdict = series_completeness(without(series, range(there, 30)))
    assert (verdict.complete, verdict.whole) == (complete, whole)


def test_a_count_of_images_is_stronger_than_one_of_positions() -> None:
    series = make_series(announced=30, extra={"LocationsAnnounced": 15})
    assert not series_completeness(without(series, range(15, 30))).complete
    assert series_completeness(series).complete
