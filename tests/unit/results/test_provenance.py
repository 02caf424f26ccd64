from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from dicomnode.results.provenance import device_uid, plan_provenance
from dicomnode.results.records import AnswerContext
from dicomnode.results.words.sentences import clip_at_sentence, plain_ascii
from tests.factories.results import MODELS, Answered, answered_study, make_plan


@pytest.fixture(scope="module")
def answered(tmp_path_factory: pytest.TempPathFactory) -> Answered:
    return answered_study(tmp_path_factory.mktemp("study"))


def test_uids_ignore_time_revision_and_the_order_of_slices(answered: Answered) -> None:
    context = answered.context
    source = context.sources[0]
    other = replace(
        context,
        created_at=context.created_at + 99,
        revision=7,
        template=Path("elsewhere"),
        sources=(replace(source, frames=source.frames[::-1]), context.sources[1]),
    )

    uid = plan_provenance(context, answered.result).uid("seg")

    assert plan_provenance(other, answered.result).uid("seg") == uid
    assert uid.startswith("2.25.")
    assert len(uid) <= 64
    assert uid.is_valid


def other_input(context: AnswerContext) -> AnswerContext:
    return replace(context, sources=context.sources[:1])


def other_study(context: AnswerContext) -> AnswerContext:
    return replace(context, StudyInstanceUID="1.2.3")


def other_software(context: AnswerContext) -> AnswerContext:
    return replace(context, software_version="9")


def other_settings(context: AnswerContext) -> AnswerContext:
    return replace(context, settings=context.settings.model_copy(update={"maximum_segments": 3}))


def other_roles(context: AnswerContext) -> AnswerContext:
    first, second = context.sources
    return replace(context, sources=(replace(second, role=first.role), replace(first, role=second.role)))


@pytest.mark.parametrize("change", [other_input, other_roles, other_study, other_software, other_settings])
def test_another_context_gives_other_uids(answered: Answered, change: object) -> None:
    assert callable(change)
    changed = plan_provenance(change(answered.context), answered.result)

    assert changed.uid("seg") != plan_provenance(answered.context, answered.result).uid("seg")


def test_another_network_threshold_or_kind_gives_other_uids(answered: Answered) -> None:
    result, context = answered.result, answered.context
    plan, build = result.plan, replace(MODELS[0], sha256="ef" * 32)
    plans = [
        plan,
        make_plan(threshold=0.4),
        make_plan(minimum_volume_mm3=1.0),
        make_plan(peak=0.9),
        replace(plan, lesion=replace(plan.lesion, model=build)),
        replace(plan, lesion=replace(plan.lesion, bias_correction=False)),
    ]
    variants = [replace(result, plan=plan) for plan in plans]
    uids = {plan_provenance(context, variant).uid(kind) for variant in variants for kind in ("seg", "sr")}

    assert len(uids) == 12
    assert device_uid(build) != device_uid(MODELS[0])


@pytest.mark.parametrize(
    ("length", "expected"),
    [(64, "Trained on synthetic data only. For research use"), (20, "Trained on synthetic"), (5, "Train")],
)
def test_a_statement_is_cut_where_it_still_reads(length: int, expected: str) -> None:
    assert clip_at_sentence(MODELS[0].statement, length) == expected


def test_words_become_ascii() -> None:
    assert plain_ascii("5 µm – 3 × 4 mm³ ≥ Größe\x00\n") == "5 um - 3 x 4 mm3 >= Gro?e"
