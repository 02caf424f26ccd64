from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicomnode.errors import StartError
from dicomnode.settings.config import PictureForm, ReportForm, ResultForm, ResultKind, SegmentationForm
from dicomnode.spool.layout import SpoolLayout

SHA = "ab" * 32


@given(st.text())
def test_no_text_of_a_peer_gets_into_a_path(text: str) -> None:
    path = SpoolLayout(Path("/spool")).instance_path(text, SHA)

    folder, fan_out, name = path.split("/")
    assert folder == "incoming"
    assert len(fan_out) == 1
    assert set(fan_out + name.removesuffix(".dcm").replace("-", "")) <= set("0123456789abcdef")


def test_other_bytes_or_another_uid_is_another_path() -> None:
    layout = SpoolLayout(Path("/spool"))

    paths = {layout.instance_path(uid, sha) for uid in ("1.2", "1.3") for sha in (SHA, "cd" * 32)}

    assert len(paths) == 4
    assert layout.instance_path("1.2", SHA) in paths


def test_results_lie_by_study_and_revision() -> None:
    layout = SpoolLayout(Path("/spool"))

    first, second = layout.result_path("1.2", 1, "seg.dcm"), layout.result_path("1.2", 2, "seg.dcm")

    assert first.replace("/1/", "/2/") == second
    assert "1.2" not in first.split("/")


def test_every_kind_of_result_has_a_name() -> None:
    forms = (
        ResultForm(get_args(ResultKind), segmentation, report, pictures)
        for segmentation in get_args(SegmentationForm)
        for report in get_args(ReportForm)
        for pictures in get_args(PictureForm)
    )
    kinds = {kind for form in forms for kind in form.kinds}
    assert {"sr.enhanced.pseudo-fractional", "pictures.single-frame"} <= kinds
    for kind in kinds:
        for name in (f"{kind}.dcm", f"{kind}-01.dcm"):
            assert SpoolLayout(Path("/spool")).result_path("1.2", 1, name).endswith(f"/1/{name}")


@pytest.mark.parametrize(
    "name", ["../seg.dcm", "", ".", "..", "a.", "a./b", "a/b", ".hidden", "a..dcm", "seg.dcm\n"]
)
def test_a_result_name_is_plain(name: str) -> None:
    with pytest.raises(ValueError, match="plain"):
        SpoolLayout(Path("/spool")).result_path("1.2", 1, name)


def test_prepare_makes_everything_private_and_can_be_repeated(tmp_path: Path) -> None:
    layout = SpoolLayout(tmp_path / "new" / "spool")

    layout.prepare()
    layout.prepare()

    folders = [layout.root, layout.incoming, layout.results, layout.aside, *layout.incoming.iterdir()]
    assert len(folders) == 4 + 16
    assert {folder.stat().st_mode & 0o777 for folder in folders} == {0o700}


def test_a_spool_that_cannot_be_made_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")

    with pytest.raises(StartError, match="cannot be made"):
        SpoolLayout(tmp_path / "file" / "spool").prepare()
