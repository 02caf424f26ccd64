"""Frozen records of this room: what an answer belongs to, and one finished object of it.

Builders and the gate both use them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dicomnode.records import ResultFile, SourceSeries
from dicomnode.settings.config import PLAIN_FORM, Language, ResultForm, ResultSettings


@dataclass(frozen=True)
class AnswerContext:
    """What an answer belongs to, besides what was found.

    Attributes
    ----------
    sources
        The series that were segmented, reference first; empty when the study was refused before that.
    created_at
        Seconds since the epoch: every date in the results.
    template
        Any readable instance of the study, for the patient's and the study's attributes.
    forms
        In which forms the answer is made; no UID depends on which others there are.
    earlier_reports
        Reports of earlier revisions that have reached somebody, the newest first.
    identity_mark
        Another one where the source carries another patient or order: results for a corrected patient have
        UIDs of their own.
    language
        What the words of the results are written in.
    """

    StudyInstanceUID: str
    revision: int
    sources: tuple[SourceSeries, ...]
    settings: ResultSettings
    software_version: str
    created_at: float
    template: Path
    forms: tuple[ResultForm, ...] = (PLAIN_FORM,)
    earlier_reports: tuple[ResultFile, ...] = ()
    identity_mark: str = ""
    language: Language = "en"


@dataclass(frozen=True)
class EncodedResult:
    """One result object: its name `kind` and its file `data`.

    The name is one of `ResultForm.kind_of`, and `data` a whole DICOM file (PS3.10).
    """

    kind: str
    data: bytes
    SOPInstanceUID: str
    SOPClassUID: str
    SeriesInstanceUID: str
    filename: str
