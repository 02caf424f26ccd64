"""What became of each lesion since an earlier study, as coded content of the report.

The same in words is in `wording`.

A lesion of today carries its change in its own measurement group. One that is gone has no group: OHIF crashes
on a group without coordinates, so it is told in the group of all lesions, with its own tracking UID below it.
"""

from __future__ import annotations

from collections.abc import Sequence

from highdicom import sr

from dicomnode.results.report.document import make_measurement
from dicomnode.results.words import codes
from pipeline.records import Lesion, LesionChange, Measurement, PipelineResult


def changes_told(result: PipelineResult, lesions: Sequence[Lesion] | None = None) -> tuple[LesionChange, ...]:
    """Return what is told of a segment with these lesions.

    With `lesions` None it is the text on a lesion that is not there today.

    Lesions that share a segment are told in words only: one code cannot stand for all of them.
    """
    changes = result.follow_up.changes if result.follow_up else ()
    if lesions is None:
        return tuple(change for change in changes if change.label is None)
    return tuple(change for change in changes if len(lesions) == 1 and change.label == lesions[0].label)


def evaluate_changes(changes: Sequence[LesionChange]) -> list[sr.QualitativeEvaluation]:
    """Return each change as a coded evaluation.

    A lesion that is not there today has its tracking UID and volume below its evaluation.
    """
    return [_evaluate(change) for change in changes]


def measure_earlier(changes: Sequence[LesionChange]) -> list[sr.Measurement]:
    """Return the volume that the lesion is compared with; nothing for a new one."""
    return [_measure(change) for change in changes if change.earlier_labels]


def _measure(change: LesionChange) -> sr.Measurement:
    return make_measurement(Measurement("earlier_volume", change.earlier_ml, "ml", ""))


def _evaluate(change: LesionChange) -> sr.QualitativeEvaluation:
    evaluation = sr.QualitativeEvaluation(codes.CHANGE, codes.CHANGES[change.kind])
    if change.label is None:
        has = sr.RelationshipTypeValues.HAS_PROPERTIES
        volume = _measure(change)
        volume[0].RelationshipType = has.value
        known_uids = [change.tracking_uid] if change.tracking_uid else []
        uids = [
            sr.UIDRefContentItem(codes.TRACKING_UNIQUE_IDENTIFIER, uid, relationship_type=has)
            for uid in known_uids
        ]
        evaluation[0].ContentSequence = sr.ContentSequence([*uids, *volume])
    return evaluation
