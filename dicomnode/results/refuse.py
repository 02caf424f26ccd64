"""Every study gets a report: the usual refusal, and where that cannot be made, the one of last resort."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import structlog

from dicomnode.errors import ResultRejected, where
from dicomnode.results.build import build_refusal
from dicomnode.results.last_resort.report import NOBODY, UnansweredStudy, build_last_resort, read_identity
from dicomnode.results.records import AnswerContext, EncodedResult
from dicomnode.results.verify.gate import verify_refusal
from dicomnode.results.verify.last_resort import verify_last_resort
from dicomnode.settings.config import ResultForm
from dicomnode.states import Outcome

log = structlog.get_logger()


def refuse(
    study: UnansweredStudy, forms: Sequence[ResultForm], make_context: Callable[[], AnswerContext]
) -> tuple[EncodedResult, ...]:
    """Return the verified report, in each form, that says why a study has no segmentation.

    Parameters
    ----------
    make_context
        Reads what the usual report needs; whatever it raises leads to the report of last resort.
    """
    try:
        context = make_context()
        outcome = Outcome.FAILED if study.failed else Outcome.REFUSED
        encoded = build_refusal(context, study.code, study.sentence, (), outcome)
        verify_refusal(encoded, context)
    except Exception as problem:  # noqa: BLE001  no header may leave a study without a report
        log.error(  # noqa: TRY400  a traceback shows values
            "refusal_report_failed",
            study_instance_uid=study.StudyInstanceUID,
            where=where(problem),
            error=type(problem).__name__,
        )
        return tuple(_last_resort(study, forms))
    return encoded


def _last_resort(study: UnansweredStudy, forms: Sequence[ResultForm]) -> Iterator[EncodedResult]:
    """Give one report for each form.

    It bears the Study Instance UID alone where a second reader does not confirm the identity.
    """
    identity = read_identity(study)
    for kind, report_form in {form.kind_of("sr"): form.report for form in forms}.items():
        report = build_last_resort(study, identity, report_form)
        encoded = EncodedResult(
            kind,
            report.data,
            report.SOPInstanceUID,
            report.SOPClassUID,
            report.SeriesInstanceUID,
            f"{kind}.dcm",
        )
        try:
            verify_last_resort(encoded, study.StudyInstanceUID, identity.path)
        except ResultRejected as rejected:
            log.error(  # noqa: TRY400
                "last_resort_identity_left_out",
                study_instance_uid=study.StudyInstanceUID,
                reason=str(rejected),
            )
            report = build_last_resort(study, NOBODY, report_form)
            encoded = EncodedResult(
                kind,
                report.data,
                report.SOPInstanceUID,
                report.SOPClassUID,
                report.SeriesInstanceUID,
                f"{kind}.dcm",
            )
            verify_last_resort(encoded, study.StudyInstanceUID, None)
        yield encoded
