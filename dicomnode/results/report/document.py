"""What every report of ours shares.

Document, observer, image library, the words, and the model's own statement.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from highdicom import sr
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sr.coding import Code
from pydicom.uid import UID, MRImageStorage

from dicomnode.records import ResultFile
from dicomnode.results.headers import first_frame_header
from dicomnode.results.parts import StudyParts
from dicomnode.results.provenance import (
    MANUFACTURER,
    PRODUCT,
    derive_uid,
    describe_equipment,
    device_uid,
    freeze_document,
)
from dicomnode.results.words import codes
from dicomnode.results.words.measured import row_of
from dicomnode.results.words.sentences import WARNING, clip_at_sentence, plain_ascii
from dicomnode.settings.config import ReportForm, ResultForm
from pipeline.records import Measurement, ModelIdentity


@dataclass(frozen=True)
class EncodingPlan:
    """What a report is made for and by whom.

    Attributes
    ----------
    parts
        The first header of each source series enters the image library.
    form
        The SOP class, and which SEG it points to.
    remarks
        What is said about the input. Images that are not used can change it, so the instance's UID depends on
        it.
    limited_quality
        Whether an image is noisy, moved, or does not show the whole brain.
    """

    parts: StudyParts
    form: ResultForm
    remarks: Sequence[str] = ()
    limited_quality: bool = False


_CLASSES: Mapping[ReportForm, type[sr.EnhancedSR | sr.ComprehensiveSR | sr.Comprehensive3DSR]] = {
    "comprehensive-3d": sr.Comprehensive3DSR,
    "comprehensive": sr.ComprehensiveSR,
    "enhanced": sr.EnhancedSR,
}
"""Our content uses nothing that the smaller classes lack, so it is the same in each."""


def make_measurement(
    measurement: Measurement, coordinates: Sequence[sr.CoordinatesForMeasurement] | None = None
) -> sr.Measurement:
    """Return a pipeline measurement as NUM (TID 300), coded by its row of the table."""
    coded = row_of(measurement.name)
    return sr.Measurement(
        name=coded.concept,
        # A DS value has 16 characters at most; six significant digits are more than any of these is good for.
        value=float(f"{measurement.value:.6g}"),
        unit=coded.unit,
        derivation=coded.derivation,
        method=coded.method,
        finding_sites=[sr.FindingSite(coded.finding_site, None, coded.topographical_modifier)]
        if coded.finding_site
        else None,
        referenced_coordinates=coordinates,
    )


def make_report(
    groups: Sequence[
        sr.MeasurementsAndQualitativeEvaluations | sr.VolumetricROIMeasurementsAndQualitativeEvaluations
    ],
    *,
    title: Code,
    conclusion: Code,
    lesion: Code,
    sentences: Sequence[str],
    statement: str,
    plan: EncodingPlan,
) -> sr.MeasurementReport:
    """Return the content tree (TID 1500).

    Parameters
    ----------
    conclusion
        Whether the analysis succeeded and found something (CID 6047).
    lesion
        Present, Absent or Undetermined (CID 240).
    sentences
        The findings in words.
    statement
        What the network's maker says about it; it stays visible in every report.
    """
    # A study that was not analysed has no image that the report would describe.
    library = [first_frame_header(series[0]) for series in plan.parts.evidence if plan.parts.models]
    report = sr.MeasurementReport(
        observation_context=sr.ObservationContext(
            observer_device_context=observe(plan.parts.models, plan.parts.context.software_version)
        ),
        procedure_reported=codes.BRAIN_MRI,
        imaging_measurements=groups,
        title=title,
        referenced_images=library or None,
    )
    # highdicom has no slot for the Qualitative Evaluations of the whole report (TID 1500 row 12): CODE and
    # TEXT only.
    container = sr.ContainerContentItem(
        name=codes.QUALITATIVE_EVALUATIONS, relationship_type=sr.RelationshipTypeValues.CONTAINS
    )
    contains = sr.RelationshipTypeValues.CONTAINS
    container.ContentSequence = sr.ContentSequence(
        [
            sr.CodeContentItem(name=codes.CAD_SUMMARY, value=conclusion, relationship_type=contains),
            sr.CodeContentItem(name=codes.LESION_OF_BRAIN, value=lesion, relationship_type=contains),
            *(
                [
                    sr.CodeContentItem(
                        name=codes.IMAGE_QUALITY_RATING,
                        value=codes.LIMITED_QUALITY,
                        relationship_type=contains,
                    )
                ]
                if plan.limited_quality
                else []
            ),
            *(
                sr.TextContentItem(name=codes.FINDING, value=plain_ascii(text), relationship_type=contains)
                for text in sentences
            ),
            sr.TextContentItem(
                name=codes.COMMENT, value=f"{WARNING}. {statement}".strip(), relationship_type=contains
            ),
        ]
    )
    report[0].ContentSequence.append(container)
    return report


def build_document(
    report: sr.MeasurementReport, plan: EncodingPlan, results: Sequence[Dataset] = ()
) -> Dataset:
    """Return the document around a content tree: complete, unverified, preliminary.

    Parameters
    ----------
    results
        Results of the same answer that the report points to.
    """
    evidence = [*(header for series in plan.parts.evidence for header in series), *results]
    context, provenance, models = plan.parts.context, plan.parts.provenance, plan.parts.models
    kind = plan.form.kind_of("sr")
    predecessor = choose_predecessor(plan)
    dataset = _CLASSES[plan.form.report](
        evidence=[_as_mr(evidence[0]), *evidence[1:]],
        content=report[0],
        series_instance_uid=provenance.uid(kind, "series"),
        series_number=context.settings.series_number_base + 1,
        sop_instance_uid=_instance_uid(plan, predecessor),
        previous_versions=None if predecessor is None else [_as_evidence(predecessor, evidence[0])],
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=PRODUCT,
        software_versions=context.software_version,
        device_serial_number=models[0].sha256[:16] if models else "0",
        institution_name=context.settings.institution_name or evidence[0].get("InstitutionName"),
        series_description=clip_at_sentence(f"Stroke lesion report ({WARNING})"),
        series_date=provenance.date,
        series_time=provenance.time,
        content_date=provenance.date,
        content_time=provenance.time,
        is_complete=True,
        is_final=False,
        is_verified=False,
        contributing_equipment=describe_equipment(models, context.software_version, provenance),
    )
    _restore_classes(dataset, evidence)
    if any(code.CodingSchemeDesignator == codes.OWN_SCHEME for code in _codes_of(dataset)):
        dataset.CodingSchemeIdentificationSequence = [_own_scheme()]
    freeze_document(dataset, provenance)
    return dataset


def _as_mr(header: Dataset) -> Dataset:
    """Return a header whose class highdicom knows.

    It copies patient and study by the class of the first evidence.

    A private or retired class has no entry in its table; those attributes are the same in every class.
    """
    stand_in = Dataset()
    stand_in.file_meta = getattr(header, "file_meta", FileMetaDataset())
    stand_in.update(header)
    # The elements are shared with the header, so this one is replaced, not changed.
    del stand_in.SOPClassUID
    stand_in.SOPClassUID = MRImageStorage
    return stand_in


def _restore_classes(document: Dataset, evidence: Sequence[Dataset]) -> None:
    """Write the classes of the evidence letter by letter."""
    classes = {str(header.SOPInstanceUID): header.SOPClassUID for header in evidence}
    for study in document.CurrentRequestedProcedureEvidenceSequence:
        for series in study.ReferencedSeriesSequence:
            for reference in series.ReferencedSOPSequence:
                reference.ReferencedSOPClassUID = classes[str(reference.ReferencedSOPInstanceUID)]


def _codes_of(item: Dataset) -> Iterator[Dataset]:
    """Yield the names and values that are codes, at every depth of the content."""
    for child in item.get("ContentSequence", []):
        yield from (*child.get("ConceptNameCodeSequence", []), *child.get("ConceptCodeSequence", []))
        yield from _codes_of(child)


def _own_scheme() -> Dataset:
    """Return whose the codes are that no standard has (PS3.3 C.12.1, Coding Scheme Identification Sequence)."""
    item = Dataset()
    item.CodingSchemeDesignator = codes.OWN_SCHEME
    item.CodingSchemeName = f"Codes of {PRODUCT}"
    item.CodingSchemeResponsibleOrganization = MANUFACTURER
    return item


def choose_predecessor(plan: EncodingPlan) -> ResultFile | None:
    """Return the earlier report that this one replaces.

    The same input must give the same report, also when it is asked for again after later ones were sent: a
    report that would come out as one that was sent is that one, and has the predecessor that it had.
    Otherwise it is the newest.
    """
    ours = _CLASSES[plan.form.report].__name__
    # One that went out as the same class went to the same places.
    earlier = sorted(
        plan.parts.context.earlier_reports,
        key=lambda report: UID(report.SOPClassUID).keyword != f"{ours}Storage",
    )
    sent = {report.SOPInstanceUID for report in earlier}
    candidates: tuple[ResultFile | None, ...] = (None, *earlier)
    again = [earlier_report for earlier_report in candidates if _instance_uid(plan, earlier_report) in sent]
    return again[0] if again else next(iter(earlier), None)


def _instance_uid(plan: EncodingPlan, predecessor: ResultFile | None) -> UID:
    after = () if predecessor is None else ("after", predecessor.SOPInstanceUID)
    return plan.parts.provenance.uid(plan.form.kind_of("sr"), "instance", *plan.remarks, *after)


def _as_evidence(report: ResultFile, header: Dataset) -> Dataset:
    """Return what a reference needs of an earlier report of the same study."""
    dataset = Dataset()
    dataset.StudyInstanceUID = header.StudyInstanceUID
    dataset.SeriesInstanceUID, dataset.SOPClassUID = report.SeriesInstanceUID, report.SOPClassUID
    dataset.SOPInstanceUID = report.SOPInstanceUID
    return dataset


def observe(models: Sequence[ModelIdentity], software_version: str) -> sr.ObserverContext:
    """Return the device observer (TID 1004).

    It agrees with the first Contributing Equipment item (IHE AIR 6.5.3.1).
    """
    model = models[0] if models else None
    return sr.ObserverContext(
        observer_type=sr.CodedConcept.from_code(codes.DEVICE),
        observer_identifying_attributes=sr.DeviceObserverIdentifyingAttributes(
            uid=device_uid(model) if model else derive_uid("device", PRODUCT, software_version),
            name="dicomnode",
            manufacturer_name=MANUFACTURER,
            model_name=clip_at_sentence(model.name) if model else PRODUCT,
        ),
    )
