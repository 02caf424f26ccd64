"""The suite's own machinery: gates that can fail, settings that are put back, names that do not clash."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pydicom.config
import pynetdicom._config
import pytest

from tests.conftest import find_tool
from tests.factories.dicom import phantom_study


def test_a_missing_tool_skips_on_a_laptop_and_fails_in_ci() -> None:
    with pytest.raises(pytest.skip.Exception, match="no-such-program"):
        find_tool("no-such-program", ci=False)
    with pytest.raises(pytest.fail.Exception, match="CI must have it"):
        find_tool("no-such-program", ci=True)


def test_a_tool_that_is_there_is_found() -> None:
    assert Path(find_tool("sh", ci=True)).name == "sh"


class TestProcessWideSwitches:
    """The second test sees what the first one left; the fixture of conftest.py stands between them."""

    def test_1_turns_them(self) -> None:
        assert pydicom.config.settings.writing_validation_mode == pydicom.config.RAISE
        pydicom.config.settings.reading_validation_mode = pydicom.config.RAISE
        pynetdicom._config.STORE_RECV_CHUNKED_DATASET = not pynetdicom._config.STORE_RECV_CHUNKED_DATASET

    def test_2_finds_them_put_back(self) -> None:
        assert pydicom.config.settings.reading_validation_mode == pydicom.config.WARN
        assert pynetdicom._config.STORE_RECV_CHUNKED_DATASET is False


def test_test_files_have_names_of_their_own(repo_root: Path) -> None:
    names = Counter(path.name for path in (repo_root / "tests").rglob("test_*.py"))

    assert len(names) > 5
    assert [name for name, count in names.items() if count > 1] == []


def test_a_phantom_study_is_cheap_and_whole() -> None:
    study = phantom_study("suite", t1={"multiframe": True})

    assert [len(study.series[role].instances) for role in ("t1", "flair")] == [1, 32]
    assert int(study.series["t1"].instances[0].NumberOfFrames) == 64
    assert sum(len(instance.PixelData) for instance in study.instances) < 2**21
