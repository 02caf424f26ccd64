"""What a family of networks adds to a manifest.

Bundles know no family by name: each hands in a row (`segmenters/families.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from pipeline.bundles.manifest import FamilySpec, Manifest
from pipeline.bundles.values import Values


def read_no_table(values: Values) -> FamilySpec:
    """Return the specification of a family that has no table of its own."""
    del values
    return FamilySpec()


def check_nothing(manifest: Manifest, values: Values) -> None:
    """Accept every manifest that is right by itself."""
    del manifest, values


@dataclass(frozen=True)
class Family:
    """How a family reads its share of a manifest.

    Attributes
    ----------
    word
        What a manifest's `family` says.
    find_files_problem
        Given the names of the graphs: what is wrong with them; empty when nothing is.
    table
        Name of the family's own table; empty where it has none. Two families may share a word: the table
        decides between them.
    read
        Reads the table.
    check
        Raises where a manifest is right by itself and wrong for the family.
    tasks
        What its networks can find.
    scheme
        Its own name for `preprocess.resample` and `preprocess.normalise`; empty where it uses the common
        ones.
    prepares
        Whether the manifest says how images are prepared and tiled; an ensemble's members say it.
    """

    word: str
    find_files_problem: Callable[[Collection[str], FamilySpec], str]
    table: str = ""
    read: Callable[[Values], FamilySpec] = read_no_table
    check: Callable[[Manifest, Values], None] = check_nothing
    tasks: tuple[str, ...] = ("lesion",)
    scheme: str = ""
    prepares: bool = True


def choose_family(values: Values, families: Mapping[str, Family]) -> str:
    """Return the row of the family that a manifest is of, by its word and its table.

    Raises
    ------
    BundleError
        The word is not known, the family's table is missing, or there is another family's.
    """
    word = values.one_of("family", list(dict.fromkeys(family.word for family in families.values())))
    rows = [row for row, family in families.items() if family.word == word]
    with_table = [row for row in rows if families[row].table and values.has(families[row].table)]
    plain = [row for row in rows if not families[row].table]
    for family in families.values():
        if family.table and values.has(family.table) and family.word != word:
            raise values.problem(family.table, f"this table and the family {family.word} belong together")
    if not with_table and not plain:
        raise values.problem(families[rows[0]].table, f"this table and the family {word} belong together")
    return (with_table or plain)[0]
