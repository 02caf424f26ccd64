"""What every report of ours shares.

Document, observer, image library, the words, and the model's own statement.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from highdicom import sr
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sr.coding import Code
from pydicom.uid import UID, MRImageStorage

from dicomnode.records import ResultFile
from dicomnode.results.headers.source import first_frame_header
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
from dicomnode.results.words.sentences import WARNING, clip_at_sentence
from dicomnode.settings.config import Language, ReportForm, ResultForm, ResultKind
from pipeline.records import Measurement, ModelIdentity


@dataclass(frozen=True)
class ReportSeries:
    """The series of one report among those of an answer.

    Attributes
    ----------
    number_offset
        Its Series Number, counted from the first of the results.
    replaces
        Whether it names the earlier report that it replaces.
    """

    kind: ResultKind
    number_offset: int
    description: str
    replaces: bool


REPORT_SERIES = ReportSeries("sr", 1, f"Stroke lesion report ({WARNING})", replaces=True)


@dataclass(frozen=True)
class EncodingPlan:
    """What a report is made for and by whom.

    Attributes
    ----------
    parts
        The first header of each source series enters the image library.
    form
        The SOP class, and which SEG it points to.
    texts
        Every sentence with its concept, in the order of reading. Images that are not used can change them, so
        the instance's UID depends on them.
    series
        Which report of the answer it is, with its place among the series and their description.
    """

    parts: StudyParts
    form: ResultForm
    texts: Sequence[tuple[Code, str]]
    series: ReportSeries = REPORT_SERIES


@dataclass(frozen=True)
class Verdict:
    """What a report states in codes.

    Attributes
    ----------
    summary
        Whether the analysis succeeded and found something (CID 6047).
    lesion
        Present, Absent or Undetermined (CID 240).
    limited_quality
        Whether an image is noisy, moved, or does not show the whole brain.
    """

    title: Code
    summary: Code
    lesion: Code
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
    totals: Sequence[sr.MeasurementsAndQualitativeEvaluations],
    verdict: Verdict,
    plan: EncodingPlan,
) -> Dataset:
    """Return the content tree (TID 1500): the words first, in the order of reading, the image library last.

    Parameters
    ----------
    groups
        One or more groups of measurements.
    totals
        Groups of what was derived from all lesions. They stand apart (TID 1500, Derived Imaging
        Measurements): OHIF crashes on a measurement group without coordinates, and prints one with them
        over the lesions'.
    """
    # A study that was not analysed has no image that the report would describe.
    library = [first_frame_header(series[0]) for series in plan.parts.evidence if plan.parts.models]
    report = sr.MeasurementReport(
        observation_context=_observation_context(plan),
        procedure_reported=codes.BRAIN_MRI,
        imaging_measurements=groups,
        title=verdict.title,
        language_of_content_item_and_descendants=name_language(plan.parts.context.language),
        referenced_images=library or None,
    )
    root: Dataset = report[0]
    items = list(root.ContentSequence)
    is_library = [item.ConceptNameCodeSequence[0].CodeValue == codes.IMAGE_LIBRARY.value for item in items]
    described = [item for item, last in zip(items, is_library, strict=True) if not last]
    if totals:
        derived = _container(codes.DERIVED_MEASUREMENTS, [item for group in totals for item in group])
        described.append(derived)
    root.ContentSequence = sr.ContentSequence(
        [
            *write_texts(plan.texts),
            *described,
            _container(codes.QUALITATIVE_EVALUATIONS, evaluate(verdict)),
            *(item for item, last in zip(items, is_library, strict=True) if last),
        ]
    )
    return root


def make_summary(verdict: Verdict, plan: EncodingPlan) -> Dataset:
    """Return the content tree of a report to read: words and verdict, no measurements."""
    root: Dataset = sr.ContainerContentItem(name=verdict.title)
    root.ContentSequence = sr.ContentSequence(
        [
            *write_texts(plan.texts),
            *name_language(plan.parts.context.language),
            *_observation_context(plan),
            sr.CodeContentItem(
                codes.PROCEDURE_REPORTED, codes.BRAIN_MRI, sr.RelationshipTypeValues.HAS_CONCEPT_MOD
            ),
            *evaluate(verdict),
        ]
    )
    return root


def _observation_context(plan: EncodingPlan) -> sr.ObservationContext:
    return sr.ObservationContext(
        observer_device_context=observe(plan.parts.models, plan.parts.context.software_version)
    )


def _container(name: Code, items: Sequence[sr.ContentItem]) -> sr.ContainerContentItem:
    container = sr.ContainerContentItem(name=name, relationship_type=sr.RelationshipTypeValues.CONTAINS)
    container.ContentSequence = sr.ContentSequence(items)
    return container


def write_texts(texts: Sequence[tuple[Code, str]]) -> list[sr.TextContentItem]:
    """Return sentences as content items, each under its concept (CID 7002)."""
    return [
        sr.TextContentItem(concept, text, sr.RelationshipTypeValues.CONTAINS)
        for concept, text in texts
        if text
    ]


def evaluate(verdict: Verdict) -> list[sr.CodeContentItem]:
    """Return a verdict as codes.

    highdicom has no slot for the Qualitative Evaluations of the whole report (TID 1500 row 12), which are
    CODE and TEXT only.
    """
    stated = [(codes.CAD_SUMMARY, verdict.summary), (codes.LESION_OF_BRAIN, verdict.lesion)]
    if verdict.limited_quality:
        stated.append((codes.IMAGE_QUALITY_RATING, codes.LIMITED_QUALITY))
    return [sr.CodeContentItem(name, value, sr.RelationshipTypeValues.CONTAINS) for name, value in stated]


def name_language(language: Language) -> sr.LanguageOfContentItemAndDescendants:
    """Return which language the words are in (TID 1204)."""
    return sr.LanguageOfContentItemAndDescendants(sr.CodedConcept.from_code(codes.LANGUAGES[language]))


def build_document(root: Dataset, plan: EncodingPlan, results: Sequence[Dataset] = ()) -> Dataset:
    """Return the document around a content tree: complete, unverified, preliminary.

    Parameters
    ----------
    results
        Results of the same answer that the report points to.
    """
    evidence = [*(header for series in plan.parts.evidence for header in series), *results]
    context, provenance, models = plan.parts.context, plan.parts.provenance, plan.parts.models
    kind = plan.form.kind_of(plan.series.kind)
    predecessor = choose_predecessor(plan) if plan.series.replaces else None
    dataset = _CLASSES[plan.form.report](
        evidence=[_as_mr(evidence[0]), *evidence[1:]],
        content=_ContentTree(root),
        series_instance_uid=provenance.uid(kind, "series"),
        series_number=context.settings.series_number_base + plan.series.number_offset,
        sop_instance_uid=_instance_uid(plan, predecessor),
        previous_versions=None if predecessor is None else [_as_evidence(predecessor, evidence[0])],
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=PRODUCT,
        software_versions=context.software_version,
        device_serial_number=models[0].sha256[:16] if models else "0",
        institution_name=context.settings.institution_name or evidence[0].get("InstitutionName"),
        series_description=clip_at_sentence(plan.series.description),
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


class _ContentTree(Dataset):
    """A content tree of which highdicom copies only the root, for its own use.

    It copies and checks the whole tree again, for those who ask the document for `content`; nobody here does.
    The document takes up the tree itself, and the gate reads that back.
    """

    def __deepcopy__(self, memo: dict[int, object] | None) -> Dataset:
        """Return a copy of the root without the items below it."""
        root = Dataset()
        root.update({element.tag: element for element in self if element.keyword != "ContentSequence"})
        return copy.deepcopy(root, memo)


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
    """Return whose the codes are that no standard has.

    They form the Coding Scheme Identification Sequence (PS3.3 C.12.1).
    """
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
    sentences = [text for _, text in plan.texts]
    after = () if predecessor is None else ("after", predecessor.SOPInstanceUID)
    return plan.parts.provenance.uid(plan.form.kind_of(plan.series.kind), "instance", *sentences, *after)


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
