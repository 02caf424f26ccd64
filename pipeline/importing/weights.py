"""Which weights a bundle keeps.

Float16 is half as large, and is kept only where it answers as the original does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pipeline.bundles.bundle import Bundle
from pipeline.counts import counted
from pipeline.evaluate.equivalence import Equivalence, paired_tost
from pipeline.importing.parity import Case, Original, Parity, answer_of, compare, original_answer
from pipeline.importing.problem import ImportProblem

FLOAT16, FLOAT32 = "Float16", "Float32"
WANTED = ("auto", "float16", "float32")
LARGEST_MEAN = LARGEST_MASK = 1e-4
"""What Float32 must keep to, and Float16 too to be chosen by itself."""
LARGEST_MEAN_ASKED, LARGEST_MASK_ASKED = 1e-3, 5e-3
"""Limits for Float16 weights that are asked for by name: what rounding does; more is an error."""
MARGIN = 1e-3
FEWEST = 3


@dataclass(frozen=True, eq=False)
class Choice:
    """What was kept and why.

    Attributes
    ----------
    parity
        Every case with every form of the weights that was tried.
    equivalence
        Two one-sided tests of Float16 against Float32: Dice of each mask with the original's, case by case.
        None where fewer than three cases have a lesion, or one form only was tried.
    """

    kept: str
    because: str
    parity: tuple[Parity, ...] = ()
    equivalence: Equivalence | None = None

    @property
    def kept_parity(self) -> tuple[Parity, ...]:
        """The rows of the weights that were kept."""
        return tuple(row for row in self.parity if row.weights == self.kept)

    def test_words(self) -> str:
        """Say what the two one-sided tests gave."""
        test = self.equivalence
        if test is None:
            return (
                "No test of Float16 against Float32: it needs three cases with a lesion and both "
                "forms of the weights."
            )
        verdict = "equivalent" if test.equivalent else "not equivalent"
        return (
            "Dice with Float16 against Float32 weights, "
            f"two one-sided tests on {counted(test.cases, 'case')} at a margin of {test.margin:g}: "
            f"mean change {test.mean_difference:.1e}, p = {test.p_value:.2g} ({verdict})."
        )


def choose_weights(
    wanted: str,
    install: Callable[[str], Bundle],
    original: Original,
    cases: Sequence[Case],
    *,
    threads: int = 1,
    progress: Callable[[str], None] = lambda text: None,
) -> Choice:
    """Hold both forms of the weights against the original and choose.

    `install` writes one form and returns its bundle.

    Raises
    ------
    ImportProblem
        Float32 weights do not answer as the original, or Float16 ones that were asked for by name are too far
        from it, or do not fit.
    """
    theirs = []
    for number, case in enumerate(cases, start=1):
        progress(f"case {number} of {len(cases)} by the original weights")
        theirs.append(original_answer(original, case))

    def rows_of(kind: str) -> tuple[Parity, ...]:
        progress(f"the same cases by the bundle, {kind} weights")
        bundle = install(kind)
        pairs = zip(cases, theirs, strict=True)
        return tuple(
            compare(case[0], "torch", answer_of(bundle, case, threads), answer, weights=kind)
            for case, answer in pairs
        )

    wide = rows_of(FLOAT32)
    _refuse_beyond(wide, LARGEST_MEAN, LARGEST_MASK)
    if wanted == "float32":
        return Choice(FLOAT32, "asked for", wide)
    try:
        narrow = rows_of(FLOAT16)
    except ImportProblem as problem:
        if wanted == "float16":
            raise
        return Choice(FLOAT32, str(problem), wide)
    test = _test(narrow, wide)
    if wanted == "float16":
        _refuse_beyond(narrow, LARGEST_MEAN_ASKED, LARGEST_MASK_ASKED)
        return Choice(FLOAT16, "asked for", wide + narrow, test)
    return Choice(*_judge(narrow, test), wide + narrow, test)


def _judge(narrow: Sequence[Parity], test: Equivalence | None) -> tuple[str, str]:
    worst = max(narrow, key=lambda row: max(row.mean_difference, row.mask_difference))
    if not worst.within(LARGEST_MEAN, LARGEST_MASK):
        return FLOAT32, f"with Float16 weights {worst.words()}, more than {LARGEST_MASK:g}"
    if test is not None and not test.equivalent:
        return (
            FLOAT32,
            f"Float16 weights are not equivalent at a margin of {MARGIN:g} (p = {test.p_value:.2g})",
        )
    return FLOAT16, f"every case is within {LARGEST_MASK:g} of the original"


def _refuse_beyond(rows: Sequence[Parity], mean: float, mask: float) -> None:
    for row in rows:
        if not row.within(mean, mask):
            raise ImportProblem(
                f"the bundle does not answer as the original: with {row.weights} weights {row.words()} "
                f"(limits {mean:g} and {mask:g}); nothing was installed"
            )


def _test(narrow: Sequence[Parity], wide: Sequence[Parity]) -> Equivalence | None:
    pairs = [(first, second) for first, second in zip(narrow, wide, strict=True) if second.voxels]
    if len(pairs) < FEWEST:
        return None
    return paired_tost(
        [1 - first.mask_difference for first, _ in pairs],
        [1 - second.mask_difference for _, second in pairs],
        MARGIN,
    )
