"""Rules in a whole node: several AE titles on one port, what goes where, what is first, what is left alone, and what is shown of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dicomnode import flow
from dicomnode.commands.cli import cli
from dicomnode.commands.story import story
from dicomnode.network.sender import send_files
from dicomnode.settings.config import DestinationSettings
from dicomnode.settings.reload import plan_reload
from dicomnode.simulator.archive import Archive
from dicomnode.simulator.author import derive_uid
from dicomnode.spool.recover import rebuild_ledger
from tests.factories.instances import write_instances
from tests.factories.ledger import new_ledger
from tests.factories.whole_node import WholeNode, whole_node

RULES = [
    {"name": "leave", "called_ae": ["LEAVE"], "pipeline": "none"},
    {
        "name": "urgent",
        "called_ae": ["URGENT"],
        "priority": "urgent",
        "destinations": ["SECOND"],
        "objects": ["sr"],
    },
    {"name": "night", "calling_ae": ["RESEARCH"], "priority": "night", "destinations": []},
]


@pytest.fixture
def node(tmp_path: Path) -> Iterator[WholeNode]:
    with ExitStack() as stack:
        second = stack.enter_context(Archive(tmp_path / "second", ae_title="SECOND"))
        network = {"port": 0, "ae_title": "NODE", "more_ae_titles": ["LEAVE", "URGENT"]}
        settings = {"network": network, "rules": RULES, "study": {"night_hours": "20:00-06:00"}}
        yield stack.enter_context(whole_node(tmp_path, [second], **settings))


def send(node: WholeNode, folder: Path, name: str, called: str, calling: str = "SCANNER") -> str:
    files = write_instances(folder / name, 2, seed=name)
    peer = DestinationSettings(name="node", ae_title=called, host="127.0.0.1", port=node.port)
    outcomes = send_files(files, peer, calling_ae=calling, timeout_s=30)
    assert [outcome.status for outcome in outcomes] == [0, 0], outcomes[0].reason
    return str(derive_uid(name, "study"))


def destinations(node: WholeNode, study: str) -> set[str]:
    return {delivery["destination"] for delivery in node.history(study)["deliveries"]}


@pytest.mark.slow
def test_each_title_on_the_port_has_its_own_way(node: WholeNode, tmp_path: Path) -> None:
    plain = send(node, tmp_path, "plain", "NODE")
    left = send(node, tmp_path, "left", "LEAVE")
    urgent = send(node, tmp_path, "urgent", "URGENT")
    flow.index_instances(node.place)
    flow.assess_studies(node.place)
    flow.answer_next(node.place)
    first = [study for study in (plain, left, urgent) if node.history(study)["jobs"][0]["outcome"]]
    node.work()

    assert first == [urgent]
    assert (destinations(node, plain), destinations(node, left), destinations(node, urgent)) == (
        {"pacs", "SECOND"},
        set(),
        {"SECOND"},
    )
    (job,) = node.history(left)["jobs"]
    assert (job["state"], job["outcome"], job["results"]) == ("done", "excluded", [])
    assert "rule leave" in job["reason"]
    history = node.ledger.history.of_study(urgent)
    assert history is not None
    lines = [line.strip() for line in story(history)]
    assert "rule urgent: answered by it" in lines
    assert "rule leave: not this one: called_ae is 'URGENT', not 'LEAVE'" in lines
    assert "rule night: not this one: calling_ae is 'SCANNER', not 'RESEARCH'" in lines


def test_a_study_of_the_night_waits_for_it(node: WholeNode, tmp_path: Path) -> None:
    study = send(node, tmp_path, "study", "NODE", "RESEARCH")
    day = datetime.now().astimezone().replace(hour=12, minute=0) + timedelta(days=1)
    node.place = replace(node.place, now=day.timestamp)
    node.work()
    by_day = node.history(study)["jobs"][0]
    node.place = replace(node.place, now=(day + timedelta(hours=8, minutes=1)).timestamp)
    node.work()
    by_night = node.history(study)["jobs"][0]

    assert by_day["state"] == "ready"
    assert datetime.fromtimestamp(by_day["not_before"]).astimezone().strftime("%H:%M") == "20:00"
    assert (by_night["state"], by_night["outcome"], destinations(node, study)) == ("done", "refused", set())


def test_the_called_title_outlives_the_ledger(node: WholeNode, tmp_path: Path) -> None:
    send(node, tmp_path, "study", "URGENT")
    (listed, _) = (row for _, row in node.ledger.instances.unindexed(10))

    (tmp_path / "fresh").mkdir()
    with closing(new_ledger(tmp_path / "fresh")) as ledger:
        report = rebuild_ledger(node.place.layout, ledger.instances)
        again = [row for _, row in ledger.instances.unindexed(10)]

    assert report.added == 2
    assert (listed.called_ae, {row.called_ae for row in again}) == ("URGENT", {"URGENT"})


@pytest.mark.slow
def test_a_rule_that_is_reloaded_holds_for_the_next_study_only(node: WholeNode, tmp_path: Path) -> None:
    before = send(node, tmp_path, "before", "LEAVE")
    node.work()
    plan = plan_reload(node.config, node.config.model_copy(update={"rules": node.config.rules[1:]}))
    node.place = replace(node.place, config=plan.config)
    after = send(node, tmp_path, "after", "LEAVE")
    node.work()

    outcomes = [node.history(study)["jobs"][0]["outcome"] for study in (before, after)]
    assert outcomes == ["excluded", "refused"]
    assert [change.key for change in plan.waiting] == []


def test_the_command_says_what_the_node_does(tmp_path: Path) -> None:
    config = tmp_path / "node.toml"
    config.write_text(
        '[network]\nmore_ae_titles = ["URGENT"]\n'
        '[[rules]]\nname = "night"\nhours = "22:00-06:00"\n'
        '[[rules]]\nname = "urgent"\ncalled_ae = ["URGENT"]\ncalling_ae = ["MR1"]\n'
    )
    files = tmp_path / "files"
    write_instances(files, 2, seed="study")
    uid = str(derive_uid("study", "study"))

    def tell(*options: str) -> str:
        words = ["rules", "test", str(files), "--config", str(config), "--json", *options]
        ended = CliRunner().invoke(cli, words)
        assert ended.exit_code == 0, ended.output
        return str(json.loads(ended.stdout)[uid]["rule"])

    assert tell("--at", "23:00", "--called", "URGENT", "--calling", "MR1") == "night"
    assert tell("--at", "12:00", "--called", "URGENT", "--calling", "MR1") == "urgent"
    assert tell("--at", "12:00") == "None"
