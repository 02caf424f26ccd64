"""Documents say what the code says: generated pages are current, commands and links in hand-written ones exist."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from pathlib import Path

import click
import pytest
import typer.main

import dicomnode
from dicomnode.commands.cli import cli
from dicomnode.settings.config import load_config
from scripts import architecture
from scripts.house import ROOMS
from tests.factories.fences import blocks_of, command_lines, pages_of

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = typer.main.get_command(cli)
PAGES = pages_of(ROOT)
# Their blocks of TOML are parts of a bundle's model.toml.
OF_BUNDLES = ["docs/model-bundle.md"]


def commands_of(text: str) -> list[list[str]]:
    """Each `dicomnode ...` command of a page as its words."""
    lines = [re.sub(r"^(sudo (-u \S+ )?)?(\S*/)?(?=dicomnode )", "", line) for line in command_lines(text)]
    inline = re.findall(r"`(dicomnode [a-z][^`]*)`", text)
    return [shlex.split(line)[1:] for line in [*lines, *inline] if line.startswith("dicomnode ")]


def problem_of(words: list[str]) -> str | None:
    """What is wrong with a command line, held against the real commands; None when nothing is."""
    command: click.Command = COMMANDS
    rest = list(words)
    while hasattr(command, "commands") and rest and not rest[0].startswith("-"):
        if rest[0] not in command.commands:
            return f"no command {rest[0]!r}"
        command = command.commands[rest.pop(0)]
    known = {
        name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)
    } | {"--help"}
    unknown = [word for word in rest if re.fullmatch(r"--?[a-z][a-z-]*", word) and word not in known]
    return f"no option {unknown[0]!r}" if unknown else None


def test_architecture_page_is_current() -> None:
    page = architecture.TARGET.read_text(encoding="utf-8")

    assert architecture.without_figures(page) == architecture.without_figures(
        architecture.render(figures=False)
    ), "run `python -m scripts.architecture`"
    assert architecture.FIGURES in page


def test_architecture_page_shows_every_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The figures of the whole tree take seconds; tests of their own hold them.
    for package in ("dicomnode", "pipeline"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "module.py").write_text("ROOM = 1\n")
    monkeypatch.setattr(architecture, "TARGET", tmp_path / "docs" / "architecture.md")

    page = architecture.render()

    assert [room.name for room in ROOMS if f"| `{room.name}` |" not in page] == []


@pytest.mark.parametrize("page", PAGES)
def test_commands_in_pages_exist(repo_root: Path, page: str) -> None:
    problems = {
        " ".join(words): problem_of(words)
        for words in commands_of((repo_root / page).read_text(encoding="utf-8"))
    }

    assert {words: problem for words, problem in problems.items() if problem} == {}


def test_command_check_can_fail() -> None:
    text = (
        "```bash\nsudo -u dicomnode /opt/x/dicomnode frobnicate\n```\n"
        "1. In a list:\n\n   ```bash\n   dicomnode send DIR --too X\n   dicomnode models list --json\n   ```\n"
    )

    assert [problem_of(words) for words in commands_of(text)] == [
        "no command 'frobnicate'",
        "no option '--too'",
        None,
    ]


@pytest.mark.parametrize("page", PAGES)
def test_settings_shown_in_pages_are_taken_by_the_node(repo_root: Path, tmp_path: Path, page: str) -> None:
    text = (repo_root / page).read_text(encoding="utf-8")
    for block in blocks_of(text, ["toml"]):
        if page in OF_BUNDLES:
            assert tomllib.loads(block.text)
            continue
        (tmp_path / f"line-{block.line}.toml").write_text(block.text, encoding="utf-8")
        load_config(tmp_path / f"line-{block.line}.toml")
    for block in blocks_of(text, ["json"]):
        assert json.loads(block.text)


@pytest.mark.parametrize("page", PAGES)
def test_no_block_of_a_page_escapes_the_checks(repo_root: Path, page: str) -> None:
    text = (repo_root / page).read_text(encoding="utf-8")
    assert len(re.findall(r"^ *```", text, flags=re.MULTILINE)) == 2 * len(list(blocks_of(text)))


def test_the_command_page_names_every_command(repo_root: Path) -> None:
    named = {
        words[0] for words in commands_of((repo_root / "docs" / "commands.md").read_text(encoding="utf-8"))
    }

    assert set(typer.main.get_command(cli).commands) - named == set()


def test_readme_is_one_page(repo_root: Path) -> None:
    assert len((repo_root / "README.md").read_text(encoding="utf-8").split()) <= 1000


def test_decisions_are_numbered_without_holes(repo_root: Path) -> None:
    pages = sorted((repo_root / "docs" / "decisions").glob("[0-9]*.md"))

    assert [page.name[:4] for page in pages] == [f"{number:04d}" for number in range(1, len(pages) + 1)]
    assert [
        page.name for page in pages if not page.read_text(encoding="utf-8").startswith(f"# {page.name[:4]}: ")
    ] == []
    assert [page.name for page in pages if "\nStatus: " not in page.read_text(encoding="utf-8")] == []


@pytest.mark.parametrize("page", PAGES)
def test_links_between_pages_lead_somewhere(repo_root: Path, page: str) -> None:
    source = repo_root / page
    targets = re.findall(r"\]\((?!https?:|#)([^)#]+)", source.read_text(encoding="utf-8"))

    assert [target for target in targets if not (source.parent / target).exists()] == []


def test_make_targets_named_in_pages_exist(repo_root: Path) -> None:
    targets = set(
        re.findall(r"^([a-z-]+):", (repo_root / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    )
    named = {
        name
        for page in PAGES
        for name in re.findall(r"\bmake ([a-z][a-z-]*)`", (repo_root / page).read_text(encoding="utf-8"))
    }

    assert {"demo", "test"} <= named <= targets


def test_changelog_has_this_version_and_says_what_affects_results(repo_root: Path) -> None:
    sections = re.split(
        r"^## ", (repo_root / "CHANGELOG.md").read_text(encoding="utf-8"), flags=re.MULTILINE
    )[1:]

    assert any(section.startswith((f"[{dicomnode.__version__}]", "[Unreleased]")) for section in sections)
    assert [
        section.splitlines()[0]
        for section in sections
        if not re.search(r"affects results: (yes|no)", section, re.IGNORECASE)
    ] == []


LOCKS = ("requirements.lock", "requirements-test.lock", "requirements-train.lock")


def pins_of(lock: Path) -> dict[str, str]:
    """Return distribution -> version of a lock file."""
    return dict(re.findall(r"^([a-z0-9_.-]+)==(\S+)", lock.read_text(encoding="utf-8"), flags=re.MULTILINE))


def test_lock_files_agree_and_name_no_place(repo_root: Path) -> None:
    node, test, train = (pins_of(repo_root / name) for name in LOCKS)

    assert {"torch", "pytest", "mypy"} & set(node) == set()
    assert "torch" not in test
    assert train["torch"] == "2.13.0"
    assert {name: version for name, version in node.items() if test.get(name) != version} == {}
    assert {name: version for name, version in test.items() if train.get(name) != version} == {}
    texts = "".join((repo_root / name).read_text(encoding="utf-8") for name in LOCKS)
    assert not re.search(r"https?://|^--|/", texts, flags=re.MULTILINE)


def test_lock_files_cover_what_pyproject_asks_for(repo_root: Path) -> None:
    project = tomllib.loads((repo_root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    requirements = {
        "requirements.lock": project["dependencies"],
        "requirements-test.lock": [*project["dependencies"], *extras["test"], *extras["tools"]],
        "requirements-train.lock": [*project["dependencies"], *extras["train"], *extras["openvino"]],
    }
    missing = {
        lock: {re.split(r"[\[<>=~ ]", text)[0].lower().replace("_", "-") for text in texts}
        - set(pins_of(repo_root / lock))
        for lock, texts in requirements.items()
    }
    assert missing == {lock: set() for lock in LOCKS}


def test_every_dependency_has_its_reason(repo_root: Path) -> None:
    project = tomllib.loads((repo_root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    page = (repo_root / "docs" / "decisions" / "0001-dependencies.md").read_text(encoding="utf-8")
    told = {
        name
        for row in re.findall(r"^\| ([a-z0-9, -]+) \|", page, flags=re.MULTILINE)
        for name in row.split(", ")
    }

    assert {re.split(r"[\[<>=]", requirement)[0] for requirement in project["dependencies"]} == told - {
        "distribution"
    }
