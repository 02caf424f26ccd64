"""Uploads on disk: a folder each, filled file by file, answered one after the other, removed after some days.

Nothing of an upload reaches the ledger, and nothing is sent anywhere. A stop of the process loses no finished
upload, and one that was being answered is answered anew.

uploads/<name>/about.json   who, when, and how it stands
uploads/<name>/in/          the files, by names of ours
uploads/<name>/out/         the answer, as `dicomnode segment` writes it
uploads/<name>/progress     what is being done now
uploads/<name>/answer.json  what became of each study in it
"""

from __future__ import annotations

import json
import re
import secrets
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Literal

import structlog

from dicomnode.errors import NodeError
from dicomnode.settings.config import Config
from dicomnode.web.answer_upload import UploadTask, answer_upload
from dicomnode.web.child import Child
from pipeline.counts import counted

log = structlog.get_logger()

State = Literal["open", "queued", "running", "done", "failed"]
_NAME = re.compile(r"[0-9a-f]{32}")
_MOST_OPEN_OF_USER = 5
_POLL_S = 0.5
_NEVER_STARTED_S = 86_400.0
# An upload may hold several studies.
_LIMIT_STUDIES = 4


class UploadRefused(NodeError):
    """A file or an upload is not taken; the message says why."""


@dataclass(frozen=True)
class Upload:
    """One upload and how it stands; `sentence` says why it failed."""

    name: str
    owner: str
    created_at: float
    state: State
    files: int = 0
    size_bytes: int = 0
    sentence: str = ""


class Uploads:
    """The uploads below a folder. Thread-safe.

    Parameters
    ----------
    config
        Gives the configuration that holds now.
    """

    def __init__(self, folder: Path, config: Callable[[], Config], now: Callable[[], float]) -> None:
        self._folder, self._config, self._now = folder, config, now
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._worker: threading.Thread | None = None

    def start(self) -> None:
        """Begin to answer; what was being answered when the process stopped is answered anew."""
        for upload in self.all():
            if upload.state == "running":
                self._write(replace(upload, state="queued"))
        self._worker = threading.Thread(target=self._work, name="uploads", daemon=True)
        self._worker.start()

    def close(self) -> None:
        """Stop answering."""
        self._stop.set()
        if self._worker is not None:
            self._worker.join(10)

    def create(self, owner: str) -> Upload:
        """Return a new upload that files can be added to.

        `UploadRefused` is raised when too many are open or the disk is full.
        """
        with self._lock:
            unfinished = [
                item for item in self.all() if item.owner == owner and item.state in ("open", "queued")
            ]
            if len(unfinished) >= _MOST_OPEN_OF_USER:
                raise UploadRefused("You have five uploads that are not answered yet; remove one, or wait.")
            self.check_disk()
            upload = Upload(secrets.token_hex(16), owner, self._now(), "open")
            (self._folder / upload.name / "in").mkdir(mode=0o700, parents=True)
            self._write(upload)
        return upload

    def check_disk(self) -> None:
        """Raise `UploadRefused` when the disk has no room for what the node itself may need."""
        free_mb = shutil.disk_usage(self._folder).free / 2**20
        if free_mb < self._config().storage.resume_free_mb:
            raise UploadRefused("The disk of the node is nearly full; no upload is taken now.")

    @contextmanager
    def new_file(self, upload: Upload, suffix: str) -> Iterator[tuple[BinaryIO, int]]:
        """Give a file to write into, and how many bytes it may get.

        It counts when the block ends well; else it is removed.
        """
        settings = self._config().web
        room = settings.upload_maximum_mb * 2**20 - upload.size_bytes
        if upload.state != "open":
            raise UploadRefused("This upload is closed; begin a new one.")
        if upload.files >= settings.upload_maximum_files:
            raise UploadRefused(
                f"An upload may have {counted(settings.upload_maximum_files, 'file')}; send them as several."
            )
        folder = self._folder / upload.name / "in"
        path = folder / f"{upload.files + 1:06d}-{secrets.token_hex(4)}{suffix}"
        partial = path.with_suffix(".partial")
        try:
            with partial.open("wb") as file:
                yield file, room
            size_bytes = partial.stat().st_size
            partial.rename(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        with self._lock:
            current = self.find(upload.name) or upload
            self._write(replace(current, files=current.files + 1, size_bytes=current.size_bytes + size_bytes))

    def queue(self, upload: Upload) -> None:
        """Have an upload answered."""
        with self._lock:
            if upload.state != "open" or not upload.files:
                raise UploadRefused("There is no file in this upload that could be worked on.")
            self._write(replace(upload, state="queued"))

    def find(self, name: str) -> Upload | None:
        """Return an upload by its name."""
        if not _NAME.fullmatch(name):
            return None
        try:
            return Upload(**json.loads((self._folder / name / "about.json").read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def all(self) -> list[Upload]:
        """Return every upload, the newest first."""
        found = (self.find(path.name) for path in self._folder.iterdir())
        return sorted((item for item in found if item), key=lambda item: item.created_at, reverse=True)

    def progress(self, upload: Upload) -> str:
        """Return what is being done now."""
        with suppress(OSError):
            return (self._folder / upload.name / "progress").read_text(encoding="utf-8")
        return ""

    def answers(self, upload: Upload) -> list[dict[str, Any]]:
        """Return what became of each study: case, folder, outcome, summary, seconds."""
        with suppress(OSError, ValueError):
            answers: list[dict[str, Any]] = json.loads(
                (self._folder / upload.name / "answer.json").read_text(encoding="utf-8")
            )
            return answers
        return []

    def results(self, upload: Upload) -> list[Path]:
        """Return the files of the answer, in a fixed order."""
        out = self.output(upload)
        return sorted(path for path in out.rglob("*") if path.is_file() and ".partial" not in path.parts)

    def output(self, upload: Upload) -> Path:
        """Return the folder of the answer."""
        return self._folder / upload.name / "out"

    def remove(self, upload: Upload) -> None:
        """Remove an upload and its answer; one that is being answered cannot be."""
        with self._lock:
            current = self.find(upload.name)
            if current is not None and current.state == "running":
                raise UploadRefused("This upload is being worked on; remove it when that is done.")
            shutil.rmtree(self._folder / upload.name, ignore_errors=True)

    def sweep(self) -> None:
        """Remove what is older than `web.upload_days`, and what was never begun within a day."""
        for upload in self.all():
            age_s = self._now() - upload.created_at
            if upload.state != "running" and (
                age_s > self._config().web.upload_days * 86_400
                or (upload.state == "open" and age_s > _NEVER_STARTED_S)
            ):
                shutil.rmtree(self._folder / upload.name, ignore_errors=True)

    def _work(self) -> None:
        while not self._stop.wait(_POLL_S):
            try:
                self.sweep()
                waiting = [upload for upload in reversed(self.all()) if upload.state == "queued"]
                if waiting:
                    self._answer(waiting[0])
            except OSError as problem:
                log.error("uploads_not_worked_on", reason=problem.strerror)  # noqa: TRY400

    def _answer(self, upload: Upload) -> None:
        with self._lock:
            self._write(replace(upload, state="running"))
        config = self._config()
        task = UploadTask(self._folder / upload.name, config.model_copy(update={"destinations": ()}))
        limit_s = config.compute.job_limit_s * _LIMIT_STUDIES
        child = Child(answer_upload, task, config.compute.memory_limit_mb * 2**20, limit_s)
        while not child.is_done():
            if self._stop.wait(_POLL_S):
                child.stop()
                with self._lock:
                    self._write(replace(upload, state="queued"))
                return
        problem = child.problem()
        with self._lock:
            state: State = "failed" if problem else "done"
            self._write(replace(upload, state=state, sentence=problem))

    def _write(self, upload: Upload) -> None:
        path = self._folder / upload.name / "about.json"
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(asdict(upload)), encoding="utf-8")
        partial.replace(path)
