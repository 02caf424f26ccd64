"""The figures of the house are counted right: on small modules whose figures are counted by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.house_figures import LONGEST_COLUMN, is_vague, measure, vague_names, wide_lines

SOURCE = '''"""A module."""

from dicomnode.spool import layout


class Box:
    """A box."""

    def fill(self, volume_ml, found):
        """Fill it.

        Not counted.
        """
        # A comment.
        self.kept = found
        return [one for one in volume_ml]  # another
'''


def test_counts_of_a_small_module(tmp_path: Path) -> None:
    module = tmp_path / "dicomnode" / "ledger" / "box.py"
    module.parent.mkdir(parents=True)
    module.write_text(SOURCE)
    figures = measure([tmp_path])
    assert (figures.modules, figures.lines, figures.function_lines_longest, figures.parameters_p95) == (
        1,
        16,
        2,
        2,
    )
    # Comments on two lines; code: import, class, def, assignment, return.
    assert figures.comments_per_100 == pytest.approx(100 * 2 / 5)
    # Box, fill, volume_ml, found, kept, one.
    assert figures.vague_per_1000 == pytest.approx(1000 * 3 / 6)
    assert sorted(name for _, _, name in vague_names([tmp_path])) == ["found", "kept", "one"]
    assert figures.arrows_back == 0


def test_an_import_against_the_arrow_and_a_cycle_are_counted(tmp_path: Path) -> None:
    for name, text in {"study": "import dicomnode.results", "results": "import dicomnode.study"}.items():
        (tmp_path / "dicomnode").mkdir(exist_ok=True)
        (tmp_path / "dicomnode" / f"{name}.py").write_text(text)
    figures = measure([tmp_path])
    assert (figures.arrows_back, figures.modules_in_cycles) == (1, 2)


@pytest.mark.parametrize(
    ("name", "vague"),
    [("found", True), ("_told", True), ("found_at", True), ("found_lesions", False), ("now", False)],
)
def test_vague_names(name: str, vague: bool) -> None:
    assert is_vague(name) is vague


def test_nothing_to_measure_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no Python module"):
        measure([tmp_path])


def test_a_wide_line_is_found(tmp_path: Path) -> None:
    module = tmp_path / "module.py"
    module.write_text(f"x = 1\n# {'a' * (LONGEST_COLUMN - 2)}\n# {'a' * (LONGEST_COLUMN - 1)}\n")
    assert wide_lines([tmp_path]) == [(module, 3)]
    assert measure([tmp_path]).wide_lines == 1


def test_no_line_of_ours_is_wide(repo_root: Path) -> None:
    folders = [repo_root / name for name in ("dicomnode", "pipeline", "scripts")]
    wide = [f"{file.relative_to(repo_root)}:{number}" for file, number in wide_lines(folders)]
    assert wide == [], f"over {LONGEST_COLUMN} columns: {wide}"
