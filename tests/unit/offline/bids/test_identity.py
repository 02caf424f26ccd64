"""Labels that tell nothing, sessions by date, and a linking file that only its owner may read."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from dicomnode.errors import ConfigError
from dicomnode.offline.bids import identity
from dicomnode.offline.bids.identity import Registry, StudyIdentity, load_registry, register, save_registry

KEY = bytes(range(32))
FIRST = StudyIdentity("1.2.1", "HOSP/4711", "20240301", "101500")
SECOND = StudyIdentity("1.2.2", "HOSP/4711", "20250301", "080000")
OTHER = StudyIdentity("1.2.3", "HOSP/0815", "20230101", "120000")


def test_sessions_are_numbered_by_date_and_patients_told_apart() -> None:
    registry = register(Registry(KEY, {}), [SECOND, OTHER, FIRST])

    first, second, other = (registry.label_of(study.StudyInstanceUID) for study in (FIRST, SECOND, OTHER))
    assert (first.session, second.session, other.session) == ("01", "02", "01")
    assert first.subject == second.subject != other.subject


def test_a_later_run_keeps_every_label_and_adds_new_ones() -> None:
    registry = register(Registry(KEY, {}), [SECOND])
    again = register(registry, [FIRST, SECOND, OTHER])

    assert again.label_of("1.2.2") == registry.label_of("1.2.2")
    # An earlier study that came later does not push the others about.
    assert again.label_of("1.2.1").session == "02"
    assert len(again.subjects) == 2


def test_without_the_key_the_label_cannot_be_made_from_the_patient() -> None:
    labels = {register(Registry(key, {}), [FIRST]).label_of("1.2.1").subject for key in (KEY, bytes(32))}

    assert len(labels) == 2
    assert hashlib.sha256(b"HOSP/4711").hexdigest()[:8] not in labels


def test_two_patients_never_share_a_label(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "_LABEL_LENGTH", 0)
    many = [replace(OTHER, StudyInstanceUID=f"1.2.{n}", patient=f"HOSP/{n}") for n in range(40)]

    registry = register(Registry(KEY, {}), many)

    assert len(registry.subjects) == 40


def test_the_linking_file_is_private_and_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "apart" / "link.json"
    registry = register(Registry(KEY, {}), [FIRST, OTHER])
    old_umask = os.umask(0)
    try:
        save_registry(path, registry)
    finally:
        os.umask(old_umask)

    assert path.stat().st_mode & 0o777 == 0o600
    assert load_registry(path, bytes(32)) == registry
    assert load_registry(tmp_path / "absent.json", KEY) == Registry(KEY, {})
    assert [each.name for each in path.parent.iterdir()] == ["link.json"]


@pytest.mark.parametrize(
    ("content", "mode", "message"),
    [("{}", 0o600, "no linking file"), ("[1", 0o600, "no linking file"), ("{}", 0o640, "chmod 600")],
)
def test_a_linking_file_that_cannot_be_trusted_is_refused(
    tmp_path: Path, content: str, mode: int, message: str
) -> None:
    path = tmp_path / "link.json"
    path.write_text(content)
    path.chmod(mode)

    with pytest.raises(ConfigError, match=message):
        load_registry(path, KEY)


def test_the_linking_file_says_what_it_is(tmp_path: Path) -> None:
    save_registry(tmp_path / "link.json", Registry(KEY, {}))

    assert "personal data" in json.loads((tmp_path / "link.json").read_text())["About"]
