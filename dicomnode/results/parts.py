"""What the builders of results take: `(parts, form)`, besides what an object points to.

A form says how an object is encoded, the parts say everything else. Builders return a dataset and change none
of this.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pydicom.dataset import Dataset

from dicomnode.records import Finding
from dicomnode.results.provenance import Provenance
from dicomnode.results.records import AnswerContext
from dicomnode.results.segments import SegmentPlan
from dicomnode.results.words.narrative import Narrative
from pipeline.records import ModelIdentity, PipelineResult, Volume


@dataclass(frozen=True, eq=False)
class StudyParts:
    """What every answer to a study is made of, also where nothing was analysed.

    Attributes
    ----------
    models
        The networks that ran, lesion network first; empty when none did.
    evidence
        Repaired headers of each source series in the order of its frames, reference first; of any one
        instance where nothing was analysed.
    """

    context: AnswerContext
    models: Sequence[ModelIdentity]
    evidence: Sequence[Sequence[Dataset]]
    provenance: Provenance


@dataclass(frozen=True, eq=False)
class AnswerParts(StudyParts):
    """What the answer with a result is made of.

    Attributes
    ----------
    volume
        The reference volume, on whose grid the result lies.
    findings
        Every remark on the input and on the steps.
    plans
        Which lesion goes into which segment; empty without lesions.
    narrative
        The result in words.
    """

    volume: Volume
    result: PipelineResult
    findings: Sequence[Finding]
    plans: Sequence[SegmentPlan]
    narrative: Narrative
