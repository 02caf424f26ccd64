"""Upload a study and look at its answer, for somebody without a command line.

It is the node's image path on files.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any
from urllib.parse import unquote

from fastapi import APIRouter, Depends, HTTPException, Request
from fastapi.responses import FileResponse, JSONResponse, RedirectResponse, Response

from dicomnode.audit.events import AuditEvent
from dicomnode.web.answer_upload import NIFTI_SUFFIXES, guess_role
from dicomnode.web.pages import render
from dicomnode.web.site import Form, Here, Site, UploadingUser, Visitor, audit_view
from dicomnode.web.slices import Plane
from dicomnode.web.sources import FolderSource
from dicomnode.web.uploads import Upload
from dicomnode.web.users import UserRole
from dicomnode.web.viewer import LookQuery, ShownCase, show_cases, show_waiting, slice_answer
from pipeline.counts import counted

router = APIRouter(prefix="/uploads")

_HEAD_BYTES = 352
_NIFTI_HEADER_SIZES = (348, 540)


@router.get("")
def show_uploads(request: Request, site: Here, visitor: UploadingUser) -> Response:
    """Show the place to drop files, and the visitor's uploads."""
    uploads = [upload for upload in site.uploads.all() if _may_see(visitor, upload)]
    return render(request, "uploads.html", uploads=uploads, settings=site.config.web)


@router.post("")
def create(site: Here, visitor: UploadingUser, form: Form) -> Response:
    """Begin an upload."""
    return JSONResponse({"name": site.uploads.create(visitor.user_name).name})


@router.post("/{name}/files")
async def add_file(request: Request, site: Here, visitor: UploadingUser, name: str) -> Response:
    """Take one file: the body is its bytes.

    Its name and role come in headers, since addresses are kept by many.
    """
    if not site.sessions.is_own_form(visitor.browser_token, request.headers.get("x-form-token", "")):
        raise HTTPException(403, "This page is too old; load it anew.")
    upload = find_upload(site, visitor, name)
    filename = unquote(request.headers.get("x-file-name", ""))[:255]
    stream = request.stream()
    head = b""
    async for chunk in stream:
        head += chunk
        if len(head) >= _HEAD_BYTES:
            break
    suffix = kind_of(head, filename, request.headers.get("x-role", ""))
    with site.uploads.new_file(upload, suffix) as (file, room):
        count = len(head)
        file.write(head)
        async for chunk in stream:
            count += len(chunk)
            if count > room:
                break
            file.write(chunk)
        if count > room:
            raise HTTPException(413, f"The upload is larger than {site.config.web.upload_maximum_mb} MiB.")
    return JSONResponse({"size": count})


@router.post("/{name}/start")
def start(site: Here, visitor: UploadingUser, form: Form, name: str) -> Response:
    """Have an upload answered."""
    upload = find_upload(site, visitor, name)
    site.uploads.queue(upload)
    site.audit(
        AuditEvent(
            "file-uploaded",
            peer_host=visitor.address,
            detail=f"upload {name}: {counted(upload.files, 'file')}",
            user=visitor.user_name,
        )
    )
    return RedirectResponse(f"/uploads/{name}", 303)


@router.post("/{name}/remove")
def remove(site: Here, visitor: UploadingUser, form: Form, name: str) -> Response:
    """Remove an upload with its answer."""
    upload = find_upload(site, visitor, name)
    site.uploads.remove(upload)
    return RedirectResponse("/uploads", 303)


@router.get("/{name}")
def show_upload(request: Request, site: Here, visitor: UploadingUser, name: str) -> Response:
    """Show how an upload stands, and its answer."""
    upload = find_upload(site, visitor, name)
    output = site.uploads.output(upload)
    files = [
        {
            "number": number,
            "name": str(path.relative_to(output)),
            "size": path.stat().st_size,
            # First what people look for.
            "rank": (path.suffix not in (".dcm", ".png"), str(path)),
        }
        for number, path in enumerate(site.uploads.results(upload))
    ]
    answers = site.uploads.answers(upload) if upload.state == "done" else []
    if answers:
        audit_view(site, visitor, "", f"upload {name}")
    return render(
        request,
        "upload.html",
        upload=upload,
        progress=site.uploads.progress(upload),
        answers=[{**answer, "has_viewer": _has_viewer(output, answer)} for answer in answers],
        files=files,
        days=site.config.web.upload_days,
    )


@router.get("/{name}/results/{number}")
def download(site: Here, visitor: UploadingUser, name: str, number: int) -> Response:
    """Hand out a file of the answer."""
    results = site.uploads.results(find_upload(site, visitor, name))
    if not 0 <= number < len(results):
        raise HTTPException(404, "There is no such result.")
    site.audit(
        AuditEvent(
            "result-downloaded", peer_host=visitor.address, detail=f"upload {name}", user=visitor.user_name
        )
    )
    return FileResponse(results[number], media_type="application/octet-stream", filename=results[number].name)


@router.get("/{name}/viewer/{number}")
def show_viewer(request: Request, site: Here, visitor: UploadingUser, name: str, number: int) -> Response:
    """Show the viewer on a study of an upload."""
    upload = find_upload(site, visitor, name)
    folder = _case_folder(site, upload, number)
    audit_view(site, visitor, "", f"upload {name}, viewer")
    case = site.cases.find(f"upload-{name}-{number}")
    if case is None:
        problem = site.cases.ask_for(f"upload-{name}-{number}", FolderSource(folder))
        return show_waiting(request, f"/uploads/{name}", problem)
    shown = ShownCase(f"upload, study {number + 1}", f"/uploads/{name}/slices/{number}", case)
    return show_cases(request, [shown], back=f"/uploads/{name}", has_earlier=False, viewer_url="")


@router.get("/{name}/slices/{number}/{role}/{plane}/{index}")
def show_slice(
    site: Here,
    visitor: UploadingUser,
    name: str,
    number: int,
    role: str,
    plane: Plane,
    index: int,
    look: Annotated[LookQuery, Depends()],
) -> Response:
    """Hand out one slice."""
    find_upload(site, visitor, name)
    return slice_answer(site.cases.find(f"upload-{name}-{number}"), role, plane, index, look.look)


def find_upload(site: Site, visitor: Visitor, name: str) -> Upload:
    """Return an upload that the visitor may see; 404 for every other name."""
    upload = site.uploads.find(name)
    if upload is None or not _may_see(visitor, upload):
        raise HTTPException(404, "This upload is not here: it was removed, or it is somebody else's.")
    return upload


def kind_of(head: bytes, filename: str, role: str) -> str:
    """Return the suffix that a file is kept with, by its first bytes; what cannot be worked on is refused.

    Raises
    ------
    HTTPException
        415 with what the file is not.
    """
    if head[128:132] == b"DICM":
        return ".dcm"
    if head[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
        return ".zip"
    is_packed = head[:2] == b"\x1f\x8b" and filename.lower().endswith(".nii.gz")
    sizes = {int.from_bytes(head[:4], "little"), int.from_bytes(head[:4], "big")}
    if is_packed or sizes & set(_NIFTI_HEADER_SIZES):
        chosen_role = next((name for name in NIFTI_SUFFIXES if name == role), None) or guess_role(filename)
        if chosen_role is None:
            raise HTTPException(415, "Say whether this NIfTI file is a T1 or a FLAIR.")
        return f"{NIFTI_SUFFIXES[chosen_role]}{'.nii.gz' if is_packed else '.nii'}"
    if head[:3] == b"\xff\xd8\xff":
        raise HTTPException(
            415, "This is a JPEG picture. Give the DICOM files or NIfTI images of the scanner."
        )
    raise HTTPException(415, "This is neither a DICOM file nor a zip nor NIfTI.")


def _may_see(visitor: Visitor, upload: Upload) -> bool:
    return upload.owner == visitor.user_name or visitor.may(UserRole.ADMINISTRATOR)


def _case_folder(site: Site, upload: Upload, number: int) -> Path:
    answers = site.uploads.answers(upload)
    if not 0 <= number < len(answers) or not _has_viewer(site.uploads.output(upload), answers[number]):
        raise HTTPException(404, "There is nothing to look at.")
    return site.uploads.output(upload) / str(answers[number]["folder"])


def _has_viewer(output: Path, answer: dict[str, Any]) -> bool:
    return any((output / answer["folder"] / "anat").glob("*_desc-lesions_dseg.nii.gz"))
