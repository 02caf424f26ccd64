"""Results of slow steps, stored by the content that they came from.

The same step on the same voxels is not done twice.

Rules for this file:
1. A key is the plan's digest up to the step, and the voxels and affines that go in. Who asks, and when, is
   not in it.
2. Entries are plain arrays and JSON (NPZ without pickles). One that cannot be read is no entry: it is removed
   and made again.
3. An entry appears whole or not at all (written beside, then renamed), and the oldest go when the folder
   grows over its limit.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.journal import Journal
from pipeline.preprocess.extract_brain import Brain
from pipeline.preprocess.register import Registration
from pipeline.records import Array, Finding, Plan, StepRecord, Volume
from pipeline.segmenters.case import Answer, Case

FORMAT = 2
"""Part of every key: raise it when an entry's arrays or facts change."""
_FACTS = "facts"
_SUFFIX = ".npz"


@dataclass(frozen=True)
class Entry:
    """A step's result: named arrays, and facts of JSON types."""

    arrays: Mapping[str, Array]
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class StepCache:
    """A folder of entries; its files hold parts of patients' images, so it is private to the user."""

    folder: Path
    limit_bytes: int

    def find(self, key: str) -> Entry | None:
        """Return the entry of a key, or None; an entry that is read becomes the newest."""
        path = self._path(key)
        try:
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in stored.files}
            facts = json.loads(arrays.pop(_FACTS).tobytes())
            os.utime(path)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            with suppress(OSError):
                path.unlink()
            return None
        return Entry(arrays, facts)

    def store(self, key: str, entry: Entry) -> None:
        """Store an entry; a folder that cannot be written to costs time, never the answer."""
        facts = np.frombuffer(json.dumps(dict(entry.facts)).encode(), np.uint8)
        with suppress(OSError):
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=self.folder, suffix=".part")
            try:
                with os.fdopen(handle, "wb") as stream:
                    np.savez(stream, **{_FACTS: facts, **entry.arrays})  # type: ignore[arg-type]
                Path(name).replace(self._path(key))
            except BaseException:
                with suppress(OSError):
                    Path(name).unlink()
                raise
            self._shrink()

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}{_SUFFIX}"

    def _shrink(self) -> None:
        """Remove the oldest entries over the limit, and what a crash left half written."""
        files = []
        for path in self.folder.iterdir():
            with suppress(OSError):
                stat = path.stat()
                files.append((stat.st_mtime, stat.st_size, path))
        files.sort(reverse=True)
        total = 0
        for _, size, path in files:
            total += size
            if total > self.limit_bytes:
                with suppress(OSError):
                    path.unlink()


Inferred = tuple[Volume, dict[str, Any]]


def remember_brain(
    cache: StepCache | None, plan: Plan, image: Volume, compute: Callable[[], Inferred]
) -> Inferred:
    """Return the brain extractor's probability in an image, and the parameters of the step."""
    if cache is None:
        return compute()
    key = make_key("brain", plan.digest("brain"), image)
    entry = cache.find(key)
    if entry is not None:
        return _unpack("probability", entry), {**entry.facts["parameters"], "cached": True}
    probability, parameters = compute()
    facts = {"parameters": parameters, "probability_frame": probability.frame_of_reference_uid}
    cache.store(key, Entry(_pack("probability", probability), facts))
    return probability, parameters


def remember_registration(
    cache: StepCache | None,
    plan: Plan,
    images: tuple[Volume, Volume],
    brains: tuple[Brain, Brain],
    compute: Callable[[], Registration],
) -> tuple[Registration, bool]:
    """Return the rigid motion between two images (reference, moving), and whether it was remembered.

    A failure never is.
    """
    if cache is None:
        return compute(), False
    key = make_key("register", plan.digest("register"), *images, *(brain.soft for brain in brains))
    entry = cache.find(key)
    if entry is not None:
        return Registration(link=np.asarray(entry.arrays["link"], np.float64), **entry.facts), True
    registration = compute()
    facts = {name: value for name, value in asdict(registration).items() if name != "link"}
    cache.store(key, Entry({"link": registration.link}, facts))
    return registration, False


def remember_answer(
    cache: StepCache | None, plan: Plan, case: Case, journal: Journal, compute: Callable[[], Answer]
) -> Answer:
    """Return a segmenter's answer; its step records and findings are remembered with it.

    The network's plan holds the operator's threshold, which no probability depends on: the key leaves it out,
    so that a replay with another threshold finds the answer. The agreement of several passes is counted at
    one threshold; at another one such an answer is computed again.
    """
    if cache is None:
        return compute()
    links = {role: link.tolist() for role, link in case.links.items()}
    key = make_key(
        "infer", plan.digest("infer"), list(case.images), *case.images.values(), links, case.brain.soft,
        case.reference.affine, list(case.reference.shape),
    )  # fmt: skip
    entry = cache.find(key)
    if entry is not None and entry.facts["threshold"] in (None, plan.lesion.threshold):
        journal.steps += [
            StepRecord(name, parameters, 0.0, cached=True) for name, parameters in entry.facts["steps"]
        ]
        journal.findings += [Finding(**finding) for finding in entry.facts["findings"]]
        agreement = _unpack("agreement", entry) if "agreement" in entry.arrays else None
        return Answer(_unpack("probability", entry), agreement)
    steps, findings = len(journal.steps), len(journal.findings)
    answer = compute()
    facts = {
        "threshold": None if answer.agreement is None else plan.lesion.threshold,
        "steps": [[step.name, dict(step.parameters)] for step in journal.steps[steps:]],
        "findings": [asdict(finding) for finding in journal.findings[findings:]],
        "probability_frame": answer.probability.frame_of_reference_uid,
    }
    arrays = _pack("probability", answer.probability)
    if answer.agreement is not None:
        arrays |= _pack("agreement", answer.agreement)
        facts["agreement_frame"] = answer.agreement.frame_of_reference_uid
    cache.store(key, Entry(arrays, facts))
    return answer


def _pack(name: str, volume: Volume) -> dict[str, Array]:
    return {name: volume.array, f"{name}_affine": volume.affine}


def _unpack(name: str, entry: Entry) -> Volume:
    return Volume(entry.arrays[name], entry.arrays[f"{name}_affine"], entry.facts[f"{name}_frame"])


def make_key(step: str, *inputs: Any) -> str:
    """Return the key of a step: SHA-256 over its name and everything that it depends on.

    Parameters
    ----------
    inputs
        Volumes, arrays, and JSON types.
    """
    digest = hashlib.sha256(f"{FORMAT} {step}".encode())
    for value in inputs:
        digest.update(_digest(value))
    return digest.hexdigest()


def _digest(value: Any) -> bytes:
    if isinstance(value, Volume):
        return (
            _digest(value.array)
            + _digest(value.affine)
            + hashlib.sha256(value.frame_of_reference_uid.encode()).digest()
        )
    if isinstance(value, np.ndarray):
        head = hashlib.sha256(f"{value.dtype.str} {value.shape}".encode())
        head.update(np.ascontiguousarray(value).data)
        return head.digest()
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).digest()
