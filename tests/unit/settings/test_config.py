"""Settings: the example file is complete and true, and every problem is reported with its key."""

from __future__ import annotations

import re
import textwrap
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from dicomnode.errors import ConfigError
from dicomnode.settings.config import Config, load_config, parse_config
from scripts import config_example


def descriptions(model: type[BaseModel]) -> Iterator[str]:
    """Every help text of the configuration."""
    for field in model.model_fields.values():
        below = config_example.table_of(field)
        if below is None:
            assert field.description, f"{model.__name__} has a setting without help"
            yield field.description
        else:
            yield from descriptions(below)


def problems(values: dict[str, Any]) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        parse_config(values)
    return caught.value.problems


def test_example_file_is_current() -> None:
    assert config_example.TARGET.read_text(encoding="utf-8") == config_example.render(), (
        "run `python -m scripts.config_example`"
    )


def test_example_file_as_it_is_gives_the_defaults() -> None:
    assert load_config(config_example.TARGET) == Config()


def test_example_file_loads_with_everything_switched_on() -> None:
    switched_on = re.sub(r"^#(?=\S)", "", config_example.render(), flags=re.MULTILINE)
    config = parse_config(tomllib.loads(switched_on))

    assert (config.peers[0].ae_title, config.destinations[0].port, config.selection.rules[0].use) == (
        "MODALITY1",
        104,
        "t1",
    )
    assert config.pipeline.models == Path("/opt/dicomnode/models")


def test_every_help_line_stands_in_the_example_file() -> None:
    # Long texts are wrapped there, so compare without line breaks and comment signs.
    text = re.sub(r"\s*\n# ", " ", config_example.render())
    texts = list(descriptions(Config))

    assert len(texts) > 40
    assert [line for line in texts if line not in text] == []


def test_all_problems_come_together_each_with_its_key() -> None:
    found = problems(
        {
            "network": {"port": 70000, "prot": 1},
            "log": {"level": "loud"},
            "destinations": [{"name": "pacs", "host": "a", "port": 104}],
        }
    )

    assert sorted(line.split(":")[0] for line in found) == [
        "destinations[1]",
        "log.level",
        "network.port",
        "network.prot",
    ]
    assert "network.prot: there is no such setting; did you mean 'port'?" in found
    assert "70000" in next(line for line in found if line.startswith("network.port"))


@pytest.mark.parametrize(
    ("values", "key", "words"),
    [
        ({"network": {"ae_title": "SEVENTEEN LETTERS"}}, "network.ae_title", "16"),
        ({"network": {"ae_title": "   "}}, "network.ae_title", "1"),
        ({"network": {"ae_title": "BACK\\SLASH"}}, "network.ae_title", "pattern"),
        ({"storage": {"keep_days": 0}}, "storage.keep_days", "greater than 0"),
        ({"pipeline": {"threshold": 1.0}}, "pipeline.threshold", "less than 1"),
        ({"selection": {"rules": [{"use": "t1"}]}}, "selection.rules[1]", "at least one pattern"),
        (
            {"selection": {"rules": [{"use": "t1", "series_description": "("}]}},
            "selection.rules[1]",
            "not a regular expression",
        ),
        (
            {"destinations": [{"name": "a", "ae_title": "A", "host": "h", "port": 1, "objects": []}]},
            "destinations[1].objects",
            "at least 1",
        ),
    ],
)
def test_a_wrong_value_is_named(values: dict[str, Any], key: str, words: str) -> None:
    (line,) = problems(values)

    assert line.startswith(f"{key}:")
    assert words in line


def test_two_destinations_of_one_name_are_refused() -> None:
    destination = {"name": "pacs", "ae_title": "PACS", "host": "h", "port": 104}

    assert "'pacs' is used twice" in problems({"destinations": [destination, destination]})[0]


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "broken.toml").write_text("[network\n")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")

    for name, words in (
        ("absent.toml", "no such file"),
        ("broken.toml", "line 1"),
        ("binary.toml", "not UTF-8 text"),
    ):
        with pytest.raises(ConfigError, match=words):
            load_config(tmp_path / name)


def test_a_loaded_configuration_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Config().network.port = 1  # type: ignore[misc]  # that is what is shown to fail


def test_a_host_name_among_the_addresses_of_a_peer_is_told() -> None:
    said = problems({"peers": [{"ae_title": "MR1", "hosts": ["10.0.0.0/8", "mr1.hospital.example"]}]})

    assert len(said) == 1
    assert said[0].startswith("peers[1].hosts: 'mr1.hospital.example' is not an address or network")


def test_a_password_is_never_shown() -> None:
    config = parse_config({"storage": {"ledger_url": "postgresql+psycopg://node:sesame@10.0.0.1/ledger"}})

    assert "sesame" in config.storage.database_url
    assert "sesame" not in config.model_dump_json()
    assert "node:***@10.0.0.1" in config.model_dump_json()
    assert "sesame" not in " ".join(
        problems({"storage": {"ledger_url": "postgresql://a:sesame@b", "root": 3}, "network": {"tls": True}})
    )


PACS = {"name": "pacs", "ae_title": "PACS", "host": "192.0.2.20", "port": 104}
WEB = {"name": "web", "url": "https://pacs.example/dicom-web"}


@pytest.mark.parametrize(
    ("values", "line"),
    [
        (
            {"fetch": {"source": "pasc"}, "destinations": [PACS]},
            "fetch.source: 'pasc' is no destination, .*; did you mean 'pacs'[?]",
        ),
        ({"fetch": {"source": "web"}, "destinations": [WEB]}, "fetch.source: destination web has a url"),
        (
            {"fetch": {"source": "MR1"}, "peers": [{"ae_title": "MR1"}]},
            "fetch.source: peer MR1 has no address",
        ),
        ({"fetch": {"source": "MR1@host"}}, "fetch.source: 'MR1@host' is no destination"),
        ({"fetch": {"counts": True}}, "fetch.counts: needs fetch.source"),
        ({"fetch": {"prior_studies": 2}}, "fetch.prior_studies: needs fetch.source"),
        (
            {"destinations": [PACS | {"tls_name": "pacs"}]},
            r"destinations\[1\].tls_name: is checked with TLS only; set tls",
        ),
        (
            {"storage": {"minimum_free_mb": 4096}},
            r"storage.minimum_free_mb: 4096 is more than storage.resume_free_mb \(2048\)",
        ),
        ({"delivery": {"backoff_maximum_s": 1}}, "delivery.backoff_first_s: 5 is more"),
        ({"study": {"settle_s": 100}}, "study.settle_s: 100 is more"),
        ({"compute": {"scheduler": "tcp://10.0.0.5:8786"}}, "compute: scheduler: tcp:// lets whoever"),
        (
            {"compute": {"scheduler": "tls://10.0.0.5:8786", "key": "/k"}},
            "compute: scheduler: tls:// needs certificate, authorities",
        ),
        (
            {"compute": {"scheduler": "10.0.0.5:8786"}},
            "compute: scheduler: .* is not of the form tls://host:port",
        ),
        ({"compute": {"provider": "cud"}}, "compute.provider: .*; did you mean 'cuda'[?]"),
        ({"storage": {"port": 104}}, r"storage.port: there is no such setting; .*"),
        ({"bind": "0.0.0.0"}, r"bind: there is no such setting; it belongs into \[network\]"),
        ({"netwrok": {}}, "netwrok: there is no such setting; did you mean 'network'[?]"),
        (
            {"destinations": [PACS, PACS | {"name": "b", "aetitle": "B"}]},
            r"destinations\[2\].aetitle: .*; did you mean 'ae_title'[?]",
        ),
    ],
)
def test_what_names_nothing_or_nearly_something_is_told(values: dict[str, Any], line: str) -> None:
    found = problems(values)

    assert len(found) == 1
    assert re.match(line, found[0]), found[0]


def test_what_names_something_is_taken() -> None:
    peer = {"ae_title": "MR1", "hosts": ["192.0.2.10"], "port": 104}
    for source in ("pacs", "MR1", "OTHER@192.0.2.30:104"):
        assert (
            parse_config(
                {"fetch": {"source": source, "counts": True}, "destinations": [PACS], "peers": [peer]}
            ).fetch.source
            == source
        )


def test_every_unknown_key_one_letter_off_is_recognised() -> None:
    for table, field in Config.model_fields.items():
        below = config_example.table_of(field)
        if below is None or field.default == ():
            continue
        for key in below.model_fields:
            wrong = key[:-1] + ("x" if key[-1] != "x" else "y")
            if len(key) > 3 and wrong not in below.model_fields:
                [line] = problems({table: {wrong: 1}})
                assert line.startswith(f"{table}.{wrong}: there is no such setting; did you mean"), line


def test_snippets_can_be_appended_to_the_shipped_file(repo_root: Path, tmp_path: Path) -> None:
    shipped = config_example.TARGET.read_text(encoding="utf-8")
    snippets = re.findall(
        r"```toml\n(.*?)```", (repo_root / "README.md").read_text(encoding="utf-8"), re.DOTALL
    )
    snippets = [snippet for snippet in snippets if "[network]" in snippet]
    assert snippets
    for snippet in snippets:
        (tmp_path / "node.toml").write_text(shipped + textwrap.dedent(snippet))
        assert load_config(tmp_path / "node.toml").network.bind == "0.0.0.0"


def test_a_byte_order_mark_is_no_problem(tmp_path: Path) -> None:
    path = tmp_path / "node.toml"
    path.write_text("[network]\nport = 104\n", encoding="utf-8-sig")
    assert load_config(path).network.port == 104
    path.write_text("[network]\nport = 104\n", encoding="utf-16")
    with pytest.raises(ConfigError, match=r"not UTF-8 text .byte 1.; save it as UTF-8"):
        load_config(path)


def test_a_table_that_stands_twice_is_explained(tmp_path: Path) -> None:
    (tmp_path / "node.toml").write_text("[network]\nport = 1\n[network]\nport = 2\n")
    with pytest.raises(ConfigError, match=r"twice .at line 3, column 9.; a table stands in the file once"):
        load_config(tmp_path / "node.toml")
