from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest

from dicomnode.errors import RetryLater
from dicomnode.ledger.gather import Gather


def test_calls_that_come_during_a_transaction_share_the_next_one() -> None:
    groups: list[list[int]] = []
    first_runs, go_on = threading.Event(), threading.Event()

    def handle(items: Sequence[int]) -> list[int | Exception]:
        groups.append(list(items))
        if len(groups) == 1:
            first_runs.set()
            assert go_on.wait(5)
        return [item * 10 for item in items]

    gather, outcomes = Gather(handle), {}
    threads = [
        threading.Thread(target=lambda number=number: outcomes.update({number: gather(number)}))
        for number in range(4)
    ]
    threads[0].start()
    assert first_runs.wait(5)
    for thread in threads[1:]:
        thread.start()
    while len(gather._waiting) < 3:
        threading.Event().wait(0.005)
    go_on.set()
    for thread in threads:
        thread.join(5)

    assert outcomes == {0: 0, 1: 10, 2: 20, 3: 30}
    assert [sorted(group) for group in groups] == [[0], [1, 2, 3]]


def test_each_caller_gets_its_own_fault() -> None:
    gather: Gather[int, int] = Gather(
        lambda items: [RetryLater("busy") if item < 0 else item for item in items]
    )

    assert gather(1) == 1
    with pytest.raises(RetryLater, match="busy"):
        gather(-1)
    assert gather(2) == 2


def test_a_fault_of_the_group_is_every_callers() -> None:
    def broken(_items: Sequence[int]) -> list[int | Exception]:
        raise RetryLater("away")

    with pytest.raises(RetryLater, match="away"):
        Gather(broken)(1)
