"""Uploads: what is taken, what is refused with which sentence, and that nothing half done stays."""

from __future__ import annotations

import io
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dicomnode.errors import StudyRefused
from dicomnode.web.answer_upload import unpack_archives
from tests.factories.pages import Pages

DICOM = b"\0" * 128 + b"DICM" + b"\0" * 400


def zipped(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


class Uploading:
    """An upload of a logged-in operator."""

    def __init__(self, pages: Pages) -> None:
        self.pages = pages
        pages.log_in("otto")
        self.token = pages.form_token("/")
        self.name = pages.client.post("/uploads", data={"form_token": self.token}).json()["name"]

    def send(self, content: Any, filename: str = "a.dcm", **headers: str) -> Any:
        request_headers = {"x-form-token": self.token, "x-file-name": filename, **headers}
        return self.pages.client.post(f"/uploads/{self.name}/files", content=content, headers=request_headers)

    def start(self) -> Any:
        return self.pages.client.post(
            f"/uploads/{self.name}/start", data={"form_token": self.token}, follow_redirects=False
        )

    @property
    def files(self) -> list[Path]:
        return sorted((self.pages.site.folder / "uploads" / self.name / "in").iterdir())


@pytest.fixture
def uploading(pages: Pages) -> Uploading:
    return Uploading(pages)


@pytest.mark.parametrize(
    ("content", "filename", "ending"),
    [
        (DICOM, "../../evil", ".dcm"),
        (zipped(a=DICOM), "study.zip", ".zip"),
        ((348).to_bytes(4, "little") + b"\0" * 400, "sub-1_FLAIR.nii", "-flair.nii"),
        (b"\x1f\x8b" + b"\0" * 400, "t1.nii.gz", "-t1.nii.gz"),
    ],
)
def test_files_are_kept_by_names_of_ours(
    uploading: Uploading, content: bytes, filename: str, ending: str
) -> None:
    assert uploading.send(content, filename).status_code == 200
    (file,) = uploading.files
    assert file.name.startswith("000001-")
    assert file.name.endswith(ending)
    assert file.read_bytes() == content
    assert uploading.start().status_code == 303
    assert uploading.pages.site.uploads.find(uploading.name).state == "queued"  # type: ignore[union-attr]
    assert uploading.send(DICOM).status_code == 409, "closed"


@pytest.mark.parametrize(
    ("content", "filename", "sentence"),
    [
        (b"\xff\xd8\xff\xe0" + b"\0" * 400, "a.dcm", "JPEG"),
        (b"hello", "a.txt", "neither a DICOM file"),
        (b"", "a.dcm", "neither a DICOM file"),
        ((348).to_bytes(4, "little") + b"\0" * 400, "image.nii", "T1 or a FLAIR"),
    ],
)
def test_other_files_are_refused_and_leave_nothing(
    uploading: Uploading, content: bytes, filename: str, sentence: str
) -> None:
    answer = uploading.send(content, filename)

    assert answer.status_code == 415
    assert sentence in answer.text
    assert uploading.files == []
    assert uploading.start().status_code == 409, "nothing to work on"


def test_limits_of_count_and_size(open_with: Any) -> None:
    uploading = Uploading(open_with(upload_maximum_files=2, upload_maximum_mb=1))

    assert [uploading.send(DICOM).status_code for _ in range(3)] == [200, 200, 409]
    assert len(uploading.files) == 2
    large = Uploading(open_with(upload_maximum_mb=1))
    assert large.send(DICOM + b"\0" * 700_000).status_code == 200
    assert large.send(DICOM + b"\0" * 700_000).status_code == 413, "both together"
    assert large.send(DICOM + b"\0" * 2_000_000).status_code == 413
    assert len(large.files) == 1


def test_a_browser_that_hangs_up_leaves_nothing(uploading: Uploading) -> None:
    def broken() -> Any:
        yield DICOM
        raise ConnectionResetError

    assert uploading.send(broken()).status_code == 500
    assert uploading.files == []
    assert uploading.pages.site.uploads.find(uploading.name).files == 0  # type: ignore[union-attr]


def test_an_upload_is_its_owners_and_the_administrators(uploading: Uploading) -> None:
    pages = uploading.pages
    uploading.send(DICOM)
    reader, administrator = pages.new_client("10.0.0.1"), pages.new_client("10.0.0.2")
    pages.log_in("rita", client=reader)
    pages.log_in("anna", client=administrator)

    path = f"/uploads/{uploading.name}"
    assert [client.get(path).status_code for client in (pages.client, reader, administrator)] == [
        200,
        403,
        200,
    ]
    assert reader.post(f"{path}/files", content=DICOM).status_code == 403
    assert pages.new_client("10.0.0.3").post(f"{path}/files", content=DICOM).status_code == 401
    assert pages.client.post(f"{path}/files", content=DICOM, headers={"x-form-token": "0"}).status_code == 403
    assert len(uploading.files) == 1


def test_old_uploads_are_removed(uploading: Uploading) -> None:
    uploads, clock = uploading.pages.site.uploads, uploading.pages.clock
    uploading.send(DICOM)
    uploading.start()
    clock.now += 6.9 * 86_400
    uploads.sweep()
    assert uploads.find(uploading.name) is not None
    clock.now += 0.2 * 86_400
    uploads.sweep()
    assert uploads.find(uploading.name) is None


def test_a_zip_is_unpacked_by_names_of_ours(tmp_path: Path) -> None:
    (tmp_path / "1.zip").write_bytes(zipped(**{"a/b.dcm": DICOM, "c_T1w.nii.gz": b"x", "d": b"y"}))

    unpack_archives(tmp_path, 10, 1)

    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "1-000001.dcm",
        "1-000002-t1.nii.gz",
        "1-000003.dcm",
    ]


@pytest.mark.parametrize(
    ("archive", "code"),
    [
        (zipped(**{"../../evil": b"x"}), "zip-path"),
        (zipped(**{"/etc/evil": b"x"}), "zip-path"),
        (zipped(**{"..\\evil": b"x"}), "zip-path"),
        (zipped(**{"C:/evil": b"x"}), "zip-path"),
        (zipped(bomb=b"\0" * 3_000_000), "zip-too-large"),
        (zipped(**{str(number): b"" for number in range(11)}), "zip-too-large"),
        (b"PK\x03\x04 not a zip", "zip-unreadable"),
        (zipped(a=DICOM)[:60], "zip-unreadable"),
    ],
    ids=["upwards", "absolute", "backslash", "drive", "bomb", "many", "damaged", "cut"],
)
def test_a_zip_that_does_harm_is_refused_whole(tmp_path: Path, archive: bytes, code: str) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "1.zip").write_bytes(archive)

    with pytest.raises(StudyRefused) as refusal:
        unpack_archives(folder, 10, 2)

    assert refusal.value.code == code
    assert [path.name for path in tmp_path.rglob("*evil*")] == []


@pytest.mark.slow
def test_twenty_thousand_files_are_refused_as_files_and_in_a_zip(
    uploading: Uploading, tmp_path: Path
) -> None:
    settings = uploading.pages.site.config.web
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "1.zip").write_bytes(zipped(**{str(number): b"" for number in range(20_000)}))
    with pytest.raises(StudyRefused, match="20000 files"):
        unpack_archives(tmp_path / "in", settings.upload_maximum_files, settings.upload_maximum_mb)
    assert [path.name for path in (tmp_path / "in").iterdir()] == ["1.zip"]

    uploads = uploading.pages.site.uploads
    upload = uploads.find(uploading.name)
    assert upload is not None
    uploads._write(replace(upload, files=settings.upload_maximum_files - 1))
    assert [uploading.send(DICOM).status_code for _ in range(3)] == [200, 409, 409]
    assert len(uploading.files) == 1
