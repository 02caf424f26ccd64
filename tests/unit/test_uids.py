"""One function says what a UID is (PS3.5 9.1, and what scanners write)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicomnode.uids import is_uid

COMPONENTS = st.lists(st.from_regex(r"[0-9]{1,12}", fullmatch=True), min_size=1, max_size=10)


@given(COMPONENTS)
def test_digits_between_dots_are_a_uid_up_to_64_characters(components: list[str]) -> None:
    text = ".".join(components)
    assert is_uid(text) is (len(text) <= 64)


@given(COMPONENTS.filter(lambda components: len(".".join(components)) < 64), st.data())
def test_one_character_too_many_anywhere_is_no_uid(components: list[str], data: st.DataObject) -> None:
    text = ".".join(components)
    position = data.draw(st.integers(0, len(text)))
    # A character that is neither an ASCII digit nor a dot; digits of other scripts are among them.
    stranger = data.draw(st.characters().filter(lambda character: character not in "0123456789."))
    assert not is_uid(text[:position] + stranger + text[position:])


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "1.",
        ".1",
        "1..2",
        "1.2\n",
        "1.2\\3",
        "1.2\0",
        " 1.2",
        "1.2 ",
        "1.2.\u0663",
        "1" * 65,
        "1.-2",
        "+1",
    ],
)
def test_no_uid(text: str) -> None:
    assert not is_uid(text)


@pytest.mark.parametrize("text", ["1", "0", "1.2.840.10008.1.1", "1.2.03.4", "00.1", "1" * 64, "2.25.0"])
def test_a_uid(text: str) -> None:
    assert is_uid(text)
