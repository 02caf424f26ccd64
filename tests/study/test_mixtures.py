"""Random studies: the planted T1 and FLAIR are chosen, or the refusal is true; never a silent wrong choice."""

from __future__ import annotations

import pytest

from dicomnode.settings.study import SelectionSettings
from dicomnode.study.choice import Selection
from dicomnode.study.selection import select_series
from tests.factories.headers import make_study
from tests.study.mixtures import Mixture, draw_mixture

SETTINGS = SelectionSettings()


def wrong_choices(mixture: Mixture, selection: Selection) -> list[str]:
    """Return what is wrong: a series of another kind that is used, one after agent before one without, one that was planted and lost."""
    wrong = []
    for role, before, after in (
        ("t1", mixture.t1, mixture.t1_after),
        ("flair", mixture.flair, mixture.flair_after),
    ):
        right = before or after
        uid = selection.roles.get(role, "")  # type: ignore[call-overload]
        number = int(uid.rpartition(".")[2]) if uid else 0
        if number and number not in right:
            wrong.append(f"seed {mixture.seed}: {mixture.kinds[number]} used as {role}; {mixture.kinds}")
        if not number and right:
            reasons = [selection.reasons[f"1.2.3.{planted}"] for planted in right]
            wrong.append(f"seed {mixture.seed}: {role} lost: {reasons}; {mixture.kinds}")
        if (
            number
            and not before
            and not any(f"contrast-enhanced-{role}" == finding.code for finding in selection.findings)
        ):
            wrong.append(f"seed {mixture.seed}: {role} after agent, and no finding says so")
    return wrong


def check(seeds: range) -> None:
    wrong = []
    for seed in seeds:
        mixture = draw_mixture(seed)
        wrong += wrong_choices(mixture, select_series(make_study(*mixture.series), SETTINGS))
    assert not wrong, "\n".join(wrong)


def test_sixty_random_mixtures_are_read_right() -> None:
    check(range(60))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_five_hundred_random_mixtures_are_read_right() -> None:
    check(range(1000, 1500))


def test_the_check_notices_a_wrong_choice() -> None:
    mixture = next(drawn for seed in range(100) if (drawn := draw_mixture(seed)).t1 and drawn.flair)
    selection = select_series(make_study(*mixture.series), SETTINGS)
    assert wrong_choices(mixture, selection) == []
    swapped = Mixture(mixture.seed, mixture.series, mixture.kinds, mixture.flair, (), mixture.t1, ())
    assert len(wrong_choices(swapped, selection)) == 2
