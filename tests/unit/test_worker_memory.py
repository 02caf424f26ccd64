"""The collector rests while a study is answered, and only then."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from dicomnode.worker_memory import pause_collector, warm_memory


@pytest.fixture(autouse=True)
def collector() -> Iterator[None]:
    yield
    gc.unfreeze()
    gc.enable()


@pause_collector()
def _fail() -> None:
    raise RuntimeError("the collector is on" if gc.isenabled() else "the collector rests")


def test_the_collector_rests_and_goes_on_even_after_a_failure() -> None:
    with pytest.raises(RuntimeError, match="the collector rests"):
        _fail()

    assert gc.isenabled()


def test_a_collector_that_is_off_stays_off() -> None:
    gc.disable()

    with pause_collector():
        pass

    assert not gc.isenabled()


def test_what_a_worker_has_at_its_start_is_left_alone() -> None:
    warm_memory()

    assert gc.get_freeze_count() > 1000
