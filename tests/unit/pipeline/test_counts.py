"""A number and its noun agree: the helper, and no sentence of the program that goes without it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.counts import counted

# What the program counts in its sentences; a noun of a new sentence belongs here.
NOUNS = """
    associations axes bytes cases channels classes days destinations dimensions entries events files frames groups
    heads hours images inputs instances items layers lesions lines measurements members messages minutes months
    networks objects outputs patients people pictures pieces places planes points positions processes regions
    results rows samples seconds segments sentences settings slices stacks steps studies territories times tries
    users values versions volumes voxels weeks weights workers years
""".split()  # noqa: SIM905  the list would be a column of 60 lines
# After one of these words it was no number: "PACS takes results", "a grid of 3 voxels".
_VERBS = "are|by|has|have|holds|is|keeps|names|of|prepares|proposes|say|says|takes|that|the|was|were|with"
COUNTS = re.compile(rf"[ -](?:(?!(?:{_VERBS})\b)[\w-]+ ){{0,3}}?(?:{'|'.join(NOUNS)})\b")
# (file, what is written before the noun): why it is no number that can be one.
NEVER_ONE = {
    ("dicomnode/volumes/study_images.py", "len(set_aside)"): "the sentence of one image is another",
    ("dicomnode/commands/demo.py", "len(images)"): "the study of the demonstration",
    ("dicomnode/commands/models.py", "exported.cases"): "a test of equivalence needs several",
    ("dicomnode/commands/story.py", "len(uids)"): "one study is the answer",
    ("dicomnode/results/verify/report.py", "len(totals)"): "the sentence is about any other number than one",
    ("dicomnode/results/verify/words.py", "len(stated)"): "the sentence is about any other number than one",
    ("dicomnode/results/verify/words.py", "expected"): "a comparison: 2 instead of 1 times",
    ("dicomnode/study/checks.py", "round(ratio)"): "two and more",
    ("dicomnode/study/joining.py", "shares"): "a sum of several",
    ("dicomnode/study/selection.py", "len(ordered)"): "two and more",
    ("dicomnode/study/stacks.py", "len(groups)"): "two and more",
    ("dicomnode/volumes/load.py", "len(array)"): "half of a stack",
    ("dicomnode/offline/bids/dataset.py", "suffix"): "T1w, FLAIR",
    ("dicomnode/study/checks.py", "plane"): "axial, coronal",
    ("dicomnode/volumes/nifti.py", "image.get_data_dtype()"): "float64, RGB",
    ("pipeline/bundles/bundle.py", "', '.join(_ALLOWED_SUFFIXES)"): "endings of files",
    ("pipeline/evaluate/lattice.py", "_size(grid.shape)"): "30 x 40 x 50",
    ("pipeline/importing/weights.py", "kind"): "Float16, Float32",
    ("pipeline/importing/weights.py", "row.weights"): "Float16, Float32",
    ("pipeline/segmenters/nnunet/case_plan.py", "plan.cropped"): "a shape",
    ("pipeline/training/bundle_writer.py", "list(numbers.patch)"): "a shape",
    ("pipeline/training/held_out.py", "tuple(label.shape)"): "a shape",
    ("pipeline/training/synthesis/lesion_maps.py", "image.shape"): "a shape",
    ("pipeline/importing/archive.py", "len(plan_folders)"): "two and more",
    ("pipeline/importing/plans.py", "dimensions"): "two or three",
    ("pipeline/postprocess/components.py", "kept_count"): "tens of thousands",
    ("pipeline/training/proof.py", "equivalence.cases"): "a test of equivalence needs several",
}


@pytest.mark.parametrize(
    ("number", "words"),
    [(0, "0 images"), (1, "1 image"), (2, "2 images"), (1.0, "1 image"), (1.5, "1.5 images")],
)
def test_a_number_and_its_noun_agree(number: float, words: str) -> None:
    assert counted(number, "image") == words


@pytest.mark.parametrize(("number", "words"), [(0, "0 tries"), (1, "1 try"), (2, "2 tries")])
def test_a_plural_of_its_own(number: int, words: str) -> None:
    assert counted(number, "try", "tries") == words


def bare_counts(source: str) -> Iterator[tuple[int, str]]:
    """Line and expression of each value in an f-string that stands before a plural, without `counted`."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.JoinedStr):
            continue
        for value, following in zip(node.values, node.values[1:], strict=False):
            if not (isinstance(value, ast.FormattedValue) and isinstance(following, ast.Constant)):
                continue
            expression = ast.unparse(value.value)
            # A constant of the program, and a figure with decimals, are never "1".
            decimals = value.format_spec is not None and re.search(r"\.[1-9]", ast.unparse(value.format_spec))
            if COUNTS.match(following.value) and not (expression.isupper() or decimals):
                yield value.lineno, expression


@pytest.mark.parametrize(
    ("source", "expressions"),
    [
        ('f"{count} images"', ["count"]),
        ('f"{a} of {b} more images"', ["b"]),
        ('f"{days:.0f} days"', ["days"]),
        ('f"{days:.1f} days, {LIMIT} days"', []),
        ("f\"{counted(count, 'image')} of 3\"", []),
    ],
)
def test_a_bare_count_is_seen(source: str, expressions: list[str]) -> None:
    assert [expression for _, expression in bare_counts(source)] == expressions


def test_every_sentence_counts_in_the_singular_too(repo_root: Path) -> None:
    seen = {
        (file.relative_to(repo_root).as_posix(), expression): line
        for folder in ("dicomnode", "pipeline")
        for file in (repo_root / folder).rglob("*.py")
        for line, expression in bare_counts(file.read_text(encoding="utf-8"))
    }
    bare = sorted(
        f"{file}:{line} {name}" for (file, name), line in seen.items() if (file, name) not in NEVER_ONE
    )
    assert bare == [], "use pipeline.counts.counted, or say in NEVER_ONE why it is never one"
    assert NEVER_ONE.keys() <= seen.keys(), "NEVER_ONE names a sentence that is no longer there"


def test_every_page_counts_in_the_singular_too(repo_root: Path) -> None:
    pattern = re.compile(rf"\}}\}}{COUNTS.pattern}")
    templates = (repo_root / "dicomnode" / "web" / "templates").glob("*.html")
    bare = [f"{file.name}: {match[0]}" for file in templates for match in pattern.finditer(file.read_text())]
    assert bare == [], "use the filter `counted`"
