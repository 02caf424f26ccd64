"""How cases and files are named in BIDS: entities, suffixes, and labels that hold nothing of a person."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dicomnode.records import Role

BIDS_VERSION = "1.10.0"
SUFFIX_OF: Mapping[Role, str] = {"t1": "T1w", "flair": "FLAIR"}
_LABEL = re.compile(r"[0-9A-Za-z]+")
_ENTITY = re.compile(r"(?:^|_)([a-z]+)-([0-9A-Za-z]+)")


@dataclass(frozen=True)
class CaseLabel:
    """A subject and, where there are any, its session.

    >>> CaseLabel("01", "a").stem, CaseLabel("01").folder.as_posix()
    ('sub-01_ses-a', 'sub-01')
    """

    subject: str
    session: str = ""

    def __post_init__(self) -> None:
        for label in (self.subject, *([self.session] if self.session else [])):
            if not _LABEL.fullmatch(label):
                raise ValueError(f"{label!r} is no BIDS label: letters and digits only")

    @property
    def stem(self) -> str:
        """What every file name of the case begins with."""
        return f"sub-{self.subject}" + (f"_ses-{self.session}" if self.session else "")

    @property
    def folder(self) -> Path:
        """Where the case lies in its dataset."""
        return Path(*self.stem.split("_"))


def entities_of(name: str) -> dict[str, str]:
    """Return the entities of a file name.

    >>> entities_of("sub-01_ses-a_acq-high_T1w.nii.gz")
    {'sub': '01', 'ses': 'a', 'acq': 'high'}
    """
    return dict(_ENTITY.findall(name))


def hashed_label(*hashed_parts: bytes) -> CaseLabel:
    """Return a label that the same input always gets and that tells nothing of it.

    >>> hashed_label(b"1.2.3").subject
    '45df0f8f'
    """
    digest = hashlib.sha256()
    for hashed_part in hashed_parts:
        digest.update(len(hashed_part).to_bytes(8, "big") + hashed_part)
    return CaseLabel(digest.hexdigest()[:8])
