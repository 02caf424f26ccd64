"""What a reload may take over: every setting in turn, and what the difference says."""

from __future__ import annotations

import copy
import re
import tomllib
from collections.abc import Iterator
from typing import Any

import pytest

from dicomnode.errors import ConfigError
from dicomnode.settings.config import Config, parse_config
from dicomnode.settings.reload import TAKEN_OVER, differences, needs_restart, plan_reload
from scripts import config_example

SHIPPED = tomllib.loads(re.sub(r"^#(?=\S)", "", config_example.render(), flags=re.MULTILINE))


def all_settings() -> dict[str, Any]:
    """Every setting switched on, as the shipped file has it."""
    return copy.deepcopy(SHIPPED)


def leaves(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, tuple[str | int, ...]]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from ((f"{name}.{key}", (name, *path)) for key, path in leaves(value))
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            yield from ((f"{name}.{key}", (name, 0, *path)) for key, path in leaves(value[0]))
        else:
            yield name, (name,)


def without(key: str) -> dict[str, Any]:
    """The file without one setting, so that its default holds."""
    values = all_settings()
    table: Any = values
    for step in LEAVES[key][:-1]:
        table = table[step]
    del table[LEAVES[key][-1]]
    return values


def is_valid(values: dict[str, Any]) -> bool:
    try:
        parse_config(values)
    except ConfigError:
        return False
    return True


LEAVES = dict(leaves(all_settings()))
CHANGEABLE = [key for key in LEAVES if is_valid(without(key))]


def test_nearly_every_setting_can_be_left_out() -> None:
    assert len(LEAVES) > 100
    assert len(CHANGEABLE) > 0.9 * len(LEAVES)


@pytest.mark.parametrize("key", CHANGEABLE)
def test_each_setting_is_taken_over_or_named_as_waiting_for_a_restart(key: str) -> None:
    running, wanted = parse_config(all_settings()), parse_config(without(key))

    plan = plan_reload(running, wanted)

    changed = [item.key for item in differences(running, wanted)]
    assert {item.key for item in (*plan.applied, *plan.waiting)} == set(changed)
    assert all(needs_restart(item.key) for item in plan.waiting)
    # What waits is as it was; what is applied is as it was asked for: nothing is lost between the two.
    assert [item.key for item in differences(plan.config, wanted)] == [item.key for item in plan.waiting]
    assert [item.key for item in differences(running, plan.config)] == [item.key for item in plan.applied]


def test_every_name_of_the_table_is_a_setting() -> None:
    tables = {key.split(".")[0] for key in LEAVES} | set(LEAVES)

    assert {name for name in TAKEN_OVER if name not in tables} == set()
    assert needs_restart("network.port")
    assert needs_restart("network.bind")
    assert not needs_restart("peers[MR1].hosts")
    assert not needs_restart("pipeline.threshold")


def test_a_setting_that_waits_is_reported_again_at_the_next_reload_and_goes_when_it_is_put_back() -> None:
    running = parse_config({"network": {"port": 104}})
    wanted = parse_config({"network": {"port": 105, "acse_timeout_s": 7}})
    first = plan_reload(running, wanted)
    second = plan_reload(first.config, wanted)
    third = plan_reload(second.config, running)

    assert [str(item) for item in first.waiting] == ["network.port: 104 -> 105"]
    assert first.config.network.port == 104
    assert first.config.network.acse_timeout_s == 7
    assert (second.applied, [item.key for item in second.waiting]) == ((), ["network.port"])
    assert third.waiting == ()


def test_rows_go_by_name_so_a_moved_row_is_no_other_row() -> None:
    def config(*names: str) -> Config:
        rows = [{"name": name, "ae_title": name.upper(), "host": "h", "port": 104} for name in names]
        return parse_config({"destinations": rows})

    moved = list(differences(config("a", "b"), config("b", "a")))
    added = list(differences(config("a"), config("a", "b")))

    assert [item.key for item in moved] == ["destinations.order"]
    assert {item.key.partition("].")[0] for item in added if "[" in item.key} == {"destinations[b"}


def test_no_password_of_an_address_is_in_a_difference() -> None:
    urls = [f"postgresql+psycopg://node:{password}@db/ledger" for password in ("hunter2", "hunter3")]
    before, after = (parse_config({"storage": {"ledger_url": url}}) for url in (*urls[:1], urls[1] + "2"))

    words = " ".join(map(str, differences(before, after)))

    assert "hunter" not in words
    assert "@db/ledger" in words


def test_what_cannot_be_had_without_a_restart_refuses_the_whole_reload() -> None:
    certificates = {"certificate": "/c", "key": "/k", "authorities": "/a"}
    running = parse_config({"network": {"tls": True}, "tls": certificates})

    # The listener goes on with TLS until the restart, and would have no certificate.
    with pytest.raises(ConfigError, match=r"network\.tls needs"):
        plan_reload(running, parse_config({}))
