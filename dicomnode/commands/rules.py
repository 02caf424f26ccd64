"""`dicomnode rules test`: which rule studies would be answered by, without a node."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import typer

from dicomnode.commands.terminal import console, spinner
from dicomnode.errors import ConfigError, NodeError
from dicomnode.records import IndexedInstance
from dicomnode.settings.config import Config
from dicomnode.study.rules import RuleChoice, choose_rule, read_facts


def test_rules(config: Config, folder: Path, calling: str, called: str, at: str, as_json: bool) -> None:
    """Print for each study of a folder the rule that it falls under, and why not under the others.

    Parameters
    ----------
    calling, called
        AE titles of the sender and of ours; called empty: `network.ae_title`.
    at
        Local time at which the images come, as HH:MM; empty: now.
    """
    from dicomnode.offline.cases import find_studies

    if not config.rules:
        raise NodeError("the configuration has no [[rules]]; every study is answered by the other tables")
    if not folder.exists():
        raise NodeError(f"{folder}: no such file or folder")
    moment = _moment(at)
    with spinner(as_json) as progress:
        studies = find_studies([folder], progress)
    if not studies:
        raise NodeError(f"{folder}: no readable DICOM file")
    choices = {
        uid: _choose(config, instances, calling, called or config.network.ae_title, moment)
        for uid, instances in studies.items()
    }
    if as_json:
        typer.echo(json.dumps({uid: choice.record() for uid, choice in choices.items()}, indent=2))
        return
    for line in _lines(choices):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _choose(
    config: Config, instances: tuple[IndexedInstance, ...], calling: str, called: str, moment: float
) -> RuleChoice:
    arrived = [
        replace(instance, calling_ae=calling, called_ae=called, received_at=moment) for instance in instances
    ]
    # The paths of files that no node received are absolute.
    return choose_rule(config.rules, read_facts(arrived, Path()))


def _lines(choices: Mapping[str, RuleChoice]) -> Iterator[str]:
    for uid, choice in choices.items():
        outcome = f"rule {choice.rule.name}" if choice.rule else "no rule; the other tables hold"
        yield f"Study {uid}: {outcome}"
        for check in choice.checks:
            is_first = choice.rule is not None and check.name == choice.rule.name
            later = "; an earlier one comes first" if check.matches and not is_first else ""
            yield f"  {check.name}: {check.sentence}{later}"


def _moment(text: str) -> float:
    """Return the time of today in seconds since the epoch; `ConfigError` when it is none."""
    now = datetime.now().astimezone()
    if not text:
        return now.timestamp()
    if not re.fullmatch(r"([01]\d|2[0-3]):[0-5]\d", text):
        raise ConfigError([f"--at: {text!r} is no time of day such as 23:30"])
    hour, minute = map(int, text.split(":"))
    return now.replace(hour=hour, minute=minute, second=0).timestamp()
