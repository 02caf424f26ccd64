"""Every number on the training command line is checked before any work begins."""

from __future__ import annotations

import inspect
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.models import ArgumentInfo, OptionInfo
from typer.testing import CliRunner

from pipeline.training.__main__ import app
from pipeline.training.families.table import TASKS
from pipeline.training.pool import Pool, fill_pool
from pipeline.training.problem import TrainingProblem


@dataclass(frozen=True)
class Argument:
    """One parameter of one command, as it stands on the command line."""

    command: str
    name: str
    kind: str
    required: bool
    flag: str

    def __str__(self) -> str:
        return f"{self.command} {self.name}"


def list_arguments() -> list[Argument]:
    """Return the parameters of all commands, with "int" or "float" as their kind where they are numbers."""
    arguments = []
    for registered in app.registered_commands:
        callback: Any = registered.callback
        command = registered.name or callback.__name__.replace("_", "-")
        hints = typing.get_type_hints(callback, include_extras=True)
        for name, parameter in inspect.signature(callback).parameters.items():
            extras = getattr(hints[name], "__metadata__", (None,))
            kinds = {str(kind) for kind in typing.get_args(hints[name])[:1]} | {str(hints[name])}
            is_float = any("float" in kind.partition("Option")[0] for kind in kinds)
            is_int = any("int" in kind.partition("Option")[0].replace("Hint", "") for kind in kinds)
            flag = "" if isinstance(extras[0], ArgumentInfo) else f"--{name.replace('_', '-')}"
            # In Annotated the first name that an option is given stands where its default would.
            if isinstance(extras[0], OptionInfo) and str(extras[0].default).startswith("--"):
                flag = extras[0].default.partition("/")[0]
            kind = "float" if is_float else "int" if is_int else ""
            arguments.append(
                Argument(command, name, kind, parameter.default is inspect.Parameter.empty, flag)
            )
    return arguments


ARGUMENTS = list_arguments()
NUMBERS = [argument for argument in ARGUMENTS if argument.kind]
NEVER = {"int": ("-1", str(10**30)), "float": ("-1", "nan", "1e30")}


@pytest.mark.parametrize("number", NUMBERS, ids=str)
def test_a_number_out_of_range_is_refused_by_name(number: Argument, tmp_path: Path) -> None:
    required = [
        word
        for other in ARGUMENTS
        if other.command == number.command and other.required and other != number
        for word in ([other.flag] if other.flag else []) + [str(tmp_path) if not other.kind else "1"]
    ]
    for text in NEVER[number.kind]:
        result = CliRunner().invoke(
            app, [number.command, *required, number.flag, text], env={"COLUMNS": "300"}
        )

        assert result.exit_code == 2, (text, result.output, result.exception)
        assert number.flag in result.output
        assert not list(tmp_path.iterdir())


def test_there_are_numbers_to_refuse() -> None:
    assert len(NUMBERS) > 40
    assert {number.command for number in NUMBERS} >= {
        "train",
        "train-planes",
        "synthesize",
        "export",
        "measure",
    }


@pytest.mark.parametrize(
    "arguments",
    [
        ("train", "--seed", "9"),
        ("train-planes", "--seed", "9", "--slices", "S", "--pool", "P"),
        ("synthesize", "--seed", "8999999", "--count", "2"),
        ("synthesize", "--seed", "8999990", "--count", "6", "--stride", "2"),
        ("synthesize-volumes", "--seed", "8999999", "--count", "2"),
    ],
)
def test_a_seed_that_reaches_the_validation_subjects_is_refused(
    arguments: tuple[str, ...], tmp_path: Path
) -> None:
    result = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "run")], env={"COLUMNS": "300"})

    assert result.exit_code == 2, result.output
    assert "validation subjects" in result.output
    assert "9,000,000" in result.output
    assert not (tmp_path / "run").exists()


def test_a_generator_that_runs_into_the_validation_subjects_names_it(tmp_path: Path) -> None:
    with pytest.raises(TrainingProblem, match="9000000 belongs to the validation subjects"):
        fill_pool(Pool(tmp_path), TASKS["tiny"], 9_000_000, [], count=1)
