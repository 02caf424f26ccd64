from __future__ import annotations

from collections import defaultdict

import pytest
from pydicom.sr._concepts_dict import concepts
from pydicom.sr.coding import Code

from dicomnode.results.words import codes

TABLE = {name: value for name, value in vars(codes).items() if isinstance(value, Code)}


def meanings_in_dictionary() -> dict[tuple[str, str], set[str]]:
    found: dict[tuple[str, str], set[str]] = defaultdict(set)
    for scheme, entries in concepts.items():
        for candidates in entries.values():
            for value, (meaning, _) in candidates.items():
                found[scheme, value].add(meaning)
    return found


@pytest.mark.parametrize("name", sorted(TABLE))
def test_each_code_is_in_the_dictionary_with_its_meaning(name: str) -> None:
    code, known = TABLE[name], meanings_in_dictionary()
    listed = known.get((code.scheme_designator, code.value), set())

    if code in codes.NOT_IN_DICTIONARY or code.scheme_designator == codes.OWN_SCHEME:
        assert listed == set()
    else:
        assert code.meaning in listed


def test_no_two_names_share_a_code() -> None:
    assert len({(code.value, code.scheme_designator) for code in TABLE.values()}) == len(TABLE)
    assert len(TABLE) > 35
