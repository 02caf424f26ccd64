"""The files of the container agree with each other, with the configuration's own checks and with the tree."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from sqlalchemy import make_url

from dicomnode.settings.config import Config, load_config
from scripts import container

Compose = dict[str, Any]


@pytest.fixture(scope="module")
def stages(repo_root: Path) -> list[container.Stage]:
    return container.parse_containerfile((repo_root / "Containerfile").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def compose(repo_root: Path) -> Compose:
    loaded: Compose = yaml.safe_load((repo_root / "compose.yaml").read_text(encoding="utf-8"))
    return loaded


@pytest.fixture(scope="module")
def config(repo_root: Path) -> Config:
    return load_config(repo_root / "config" / "container" / "dicomnode.toml")


def address_of(service: Compose) -> str:
    address: str = service["networks"]["dicom"]["ipv4_address"]
    return address


def test_what_runs_is_no_root_and_brings_no_tools_to_build(stages: list[container.Stage]) -> None:
    build, image = stages

    assert (build.name, build.base) == ("build", image.base)
    (user,) = image.recorded("USER")
    assert re.fullmatch(r"[1-9]\d{4}:[1-9]\d{4}", user)
    assert not [words for keyword, words in image.instructions if keyword == "RUN" and "pip" in words]
    assert [words for keyword, words in image.instructions if keyword == "COPY" and "--from=build" in words]


def test_every_file_that_is_copied_is_in_the_tree_and_reaches_the_build(
    repo_root: Path, stages: list[container.Stage]
) -> None:
    sent = set((repo_root / ".dockerignore").read_text(encoding="utf-8").split())
    for stage in stages:
        for keyword, words in stage.instructions:
            if keyword != "COPY" or words.startswith("--from"):
                continue
            for source in words.split()[:-1]:
                assert (repo_root / source).exists(), source
                assert {f"!{source}", f"!{os.path.dirname(source)}"} & sent, source  # noqa: PTH120


def test_it_starts_the_node_and_asks_whether_it_is_well(
    stages: list[container.Stage], config: Config
) -> None:
    image = stages[-1]
    (entry,), (command,), (check,) = (image.recorded(name) for name in ("ENTRYPOINT", "CMD", "HEALTHCHECK"))

    assert json.loads(entry) == ["dicomnode"]
    words = json.loads(command)
    assert words[:2] == ["serve", "--config"]
    assert [copied for name, copied in image.instructions if name == "COPY" and copied.endswith(words[2])]
    assert config.monitoring.enabled
    assert f":{config.monitoring.port}/healthz" in check
    assert str(config.network.port) in image.recorded("EXPOSE")[0].split()
    assert image.recorded("VOLUME") == [str(config.storage.root)]
    assert image.environment["HOME"] == str(config.storage.root)


def test_the_node_in_compose_may_write_nowhere_but_its_volume(compose: Compose, config: Config) -> None:
    node = compose["services"]["node"]

    assert node["read_only"] is True
    assert node["cap_drop"] == ["ALL"]
    assert node["security_opt"] == ["no-new-privileges:true"]
    assert [mount.split(":")[0] for mount in node["tmpfs"]] == ["/tmp"]
    writable = [volume for volume in node["volumes"] if not volume.endswith(":ro")]
    assert [volume.split(":")[1] for volume in writable] == [str(config.storage.root)]


def test_archive_and_node_know_each_other(repo_root: Path, compose: Compose, config: Config) -> None:
    orthanc = json.loads((repo_root / "config" / "container" / "orthanc.json").read_text(encoding="utf-8"))
    node, archive = compose["services"]["node"], compose["services"]["orthanc"]

    assert orthanc["DicomModalities"]["dicomnode"] == [
        config.network.ae_title,
        address_of(node),
        config.network.port,
    ]
    (peer,), (destination,) = config.peers, config.destinations
    assert (peer.ae_title, list(peer.hosts)) == (orthanc["DicomAet"], [address_of(archive)])
    assert (destination.ae_title, destination.host, destination.port) == (
        orthanc["DicomAet"],
        address_of(archive),
        orthanc["DicomPort"],
    )
    (mounted,) = orthanc["LuaScripts"]
    assert f"./config/container/forward.lua:{mounted}:ro" in archive["volumes"]
    script = (repo_root / "config" / "container" / "forward.lua").read_text(encoding="utf-8")
    assert "/modalities/dicomnode/store" in script
    assert "== 'MR'" in script


def test_the_ledger_lies_in_the_database_of_compose(compose: Compose, config: Config) -> None:
    url, settings = make_url(config.storage.database_url), compose["services"]["postgres"]["environment"]

    assert url.host in compose["services"]
    assert (url.username, url.database) == (settings["POSTGRES_USER"], settings["POSTGRES_DB"])
    assert url.password is None
    assert url.get_backend_name() == "postgresql"


def test_no_password_is_in_the_tree(repo_root: Path, compose: Compose) -> None:
    files = [secret["file"] for secret in compose["secrets"].values()]

    assert all(file.startswith("./secrets/") for file in files)
    ignored = subprocess.run(
        ["git", "check-ignore", *files], cwd=repo_root, capture_output=True, text=True, check=False
    ).stdout.split()
    assert ignored == files or not (repo_root / ".git").exists()
    guide = (repo_root / "docs" / "guides" / "container.md").read_text(encoding="utf-8")
    assert [file for file in files if file.removeprefix("./") not in guide] == []


def test_images_and_packages_are_pinned(repo_root: Path, compose: Compose) -> None:
    images = [service["image"] for service in compose["services"].values() if "build" not in service]

    assert all(re.fullmatch(r"[a-z/]+:\d[\d.]*", image) for image in images), images
    pins = (repo_root / "requirements-postgres.lock").read_text(encoding="utf-8").splitlines()[1:]
    assert all(re.match(r"psycopg[a-z-]*==[\d.]+( --hash=sha256:[0-9a-f]{64})+$", pin) for pin in pins)


def test_an_unknown_instruction_is_refused() -> None:
    with pytest.raises(ValueError, match="ADD"):
        container.parse_containerfile("FROM debian AS x\nADD a b\n")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_image_is_small_and_runs_the_demonstration_on_a_read_only_root(tmp_path: Path) -> None:
    work = os.environ.get("DICOMNODE_IMAGE")
    if not work:
        pytest.skip(
            "builds an image for minutes; set DICOMNODE_IMAGE to a folder (root and debootstrap needed)"
        )
    binds = [Path(path) for path in os.environ.get("DICOMNODE_IMAGE_BIND", "").split(":") if path]

    root = container.build(Path(work).resolve(), binds)

    assert container.megabytes(root) < 1000
    assert container.run_image(root, tmp_path / "state", ["touch", "/etc/x"]) != 0
    assert container.run_image(root, tmp_path / "state", ["dicomnode", "demo"]) == 0
    assert list((tmp_path / "state" / "demo-out" / "pacs").glob("*.dcm"))
