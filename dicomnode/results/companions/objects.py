"""Companions of SEG and SR for viewers that show neither.

Secondary captures, an encapsulated PDF, and a list of the key images.

Each says in its header, and the captures and the page in their pixels too, that it is an AI result and not
for primary diagnosis.
"""

from __future__ import annotations

from collections.abc import Sequence

import highdicom as hd
import numpy as np
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sr.coding import Code
from pydicom.tag import Tag
from pydicom.uid import (
    UID,
    EncapsulatedPDFStorage,
    ExplicitVRLittleEndian,
    MultiFrameTrueColorSecondaryCaptureImageStorage,
    SecondaryCaptureImageStorage,
)

from dicomnode.results.companions.key_pictures import KeyPicture
from dicomnode.results.companions.page import PIXELS_PER_INCH, PageContent, draw_pages
from dicomnode.results.companions.pdf import write_pdf
from dicomnode.results.headers.identity import copy_identity
from dicomnode.results.parts import StudyParts
from dicomnode.results.provenance import MANUFACTURER, PRODUCT, describe_equipment, freeze_document
from dicomnode.results.report.document import observe
from dicomnode.results.words import codes
from dicomnode.results.words.language import phrase
from dicomnode.results.words.sentences import WARNING, clip_at_sentence
from dicomnode.settings.config import Language, ResultForm


def build_pictures(parts: StudyParts, form: ResultForm, pictures: Sequence[KeyPicture]) -> list[Dataset]:
    """Return the pictures as secondary captures in a series of their own.

    They are one multi-frame object, or one object each.
    """
    kind = form.kind_of("pictures")
    multi_frame = form.pictures == "multi-frame"
    objects = []
    for number, group in enumerate(
        [pictures] if multi_frame else [[picture] for picture in pictures], start=1
    ):
        sop_class = (
            MultiFrameTrueColorSecondaryCaptureImageStorage if multi_frame else SecondaryCaptureImageStorage
        )
        dataset = _start(parts, sop_class, (kind, number))
        dataset.Modality, dataset.SeriesNumber = "OT", parts.context.settings.series_number_base + 2
        dataset.SeriesDescription = clip_at_sentence(f"Stroke lesion pictures ({WARNING})")
        # Without a body part dciodvfy asks for Laterality.
        dataset.BodyPartExamined = "BRAIN"
        dataset.InstanceNumber = number
        language = parts.context.language
        warning = phrase("limits.warning", language).rstrip(".")
        dataset.ImageComments = "; ".join([warning, *(picture.caption for picture in group)])[:10000]
        _add_source_images(dataset, _shown(parts.evidence[0], group))
        dataset.DerivationDescription = _with_warning("picture.derived", language)
        _add_pixels(dataset, [picture.image for picture in group], multi_frame=multi_frame)
        freeze_document(dataset, parts.provenance)
        objects.append(dataset)
    return objects


def build_pdf(
    parts: StudyParts, form: ResultForm, content: PageContent, picture: Image.Image | None
) -> Dataset:
    """Return the report in pages as Encapsulated PDF (PS3.3 A.45.1)."""
    header = parts.evidence[0][0]
    pages = draw_pages(content, picture, parts.context.settings.paper)
    created = f"D:{parts.provenance.created:%Y%m%d%H%M%S}"
    data = write_pdf(pages, PIXELS_PER_INCH, content.headline, created)
    dataset = _start(parts, EncapsulatedPDFStorage, (form.kind_of("pdf"), *content.sentences))
    dataset.Modality, dataset.SeriesNumber = "DOC", parts.context.settings.series_number_base + 3
    dataset.SeriesDescription = clip_at_sentence(f"Stroke lesion page ({WARNING})")
    dataset.InstanceNumber = 1
    dataset.AcquisitionDateTime = None
    # The page bears the patient's name.
    dataset.BurnedInAnnotation = "YES"
    dataset.DocumentTitle = f"{content.headline} ({phrase('limits.warning', content.language).rstrip('.')})"
    dataset.ConceptNameCodeSequence = [_coded(codes.DIAGNOSTIC_IMAGING_REPORT)]
    dataset.VerificationFlag = "UNVERIFIED"
    dataset.MIMETypeOfEncapsulatedDocument = "application/pdf"
    dataset.EncapsulatedDocumentLength = len(data)
    dataset.EncapsulatedDocument = data + b"\0" * (len(data) % 2)
    sources = Dataset()
    sources.ReferencedSOPClassUID, sources.ReferencedSOPInstanceUID = (
        header.SOPClassUID,
        header.SOPInstanceUID,
    )
    dataset.SourceInstanceSequence = [sources]
    freeze_document(dataset, parts.provenance)
    return dataset


def build_key_objects(
    parts: StudyParts, form: ResultForm, pictures: Sequence[KeyPicture], segmentation: Dataset
) -> Dataset:
    """Return a Key Object Selection (PS3.3 A.35.4) of the slices with lesions and their SEG."""
    context, models, provenance = parts.context, parts.models, parts.provenance
    headers = parts.evidence[0]
    kind = form.kind_of("ko")
    referenced_objects = [*_shown(headers, pictures), segmentation]
    content = hd.ko.KeyObjectSelection(
        document_title=codes.OF_INTEREST,
        referenced_objects=referenced_objects,
        observer_device_context=observe(models, context.software_version),
        description=_with_warning("picture.key-images", context.language),
    )
    dataset = hd.ko.KeyObjectSelectionDocument(
        evidence=referenced_objects,
        content=content,
        series_instance_uid=provenance.uid(kind, "series"),
        series_number=context.settings.series_number_base + 4,
        sop_instance_uid=provenance.uid(kind, "instance"),
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=PRODUCT,
        software_versions=context.software_version,
        device_serial_number=models[0].sha256[:16],
        institution_name=context.settings.institution_name or headers[0].get("InstitutionName"),
        series_description=clip_at_sentence(f"Stroke lesion key images ({WARNING})"),
        series_date=provenance.date,
        series_time=provenance.time,
        content_date=provenance.date,
        content_time=provenance.time,
        contributing_equipment=describe_equipment(models, context.software_version, provenance),
    )
    freeze_document(dataset, provenance)
    return dataset


def _start(parts: StudyParts, SOPClassUID: UID, name: tuple[object, ...]) -> Dataset:
    """Return what all companions share: patient, study, series, equipment, who made it and when."""
    context, models, provenance = parts.context, parts.models, parts.provenance
    header = parts.evidence[0][0]
    dataset = copy_identity(header)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = SOPClassUID
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = provenance.uid(
        "instance of", *name
    )
    dataset.SeriesInstanceUID = provenance.uid("series of", name[0])
    dataset.SeriesDate = dataset.ContentDate = provenance.date
    dataset.SeriesTime = dataset.ContentTime = provenance.time
    dataset.ConversionType = "WSD"
    dataset.Manufacturer, dataset.ManufacturerModelName = MANUFACTURER, PRODUCT
    dataset.SoftwareVersions = context.software_version
    dataset.DeviceSerialNumber = models[0].sha256[:16] if models else "0"
    institution = context.settings.institution_name or header.get("InstitutionName")
    if institution:
        dataset.InstitutionName = institution
    dataset.ContributingEquipmentSequence = describe_equipment(models, context.software_version, provenance)
    return dataset


def _shown(headers: Sequence[Dataset], pictures: Sequence[KeyPicture]) -> list[Dataset]:
    """Return the images that the pictures show, each once; a montage shows none in particular."""
    if len(headers) == 1:
        return [headers[0]]
    return [headers[picture.slice_index] for picture in pictures if picture.slice_index is not None]


def _add_source_images(dataset: Dataset, images: Sequence[Dataset]) -> None:
    references = []
    for image in images:
        reference = Dataset()
        reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = (
            image.SOPClassUID,
            image.SOPInstanceUID,
        )
        reference.PurposeOfReferenceCodeSequence = [_coded(codes.SOURCE_IMAGE)]
        references.append(reference)
    if references:
        dataset.SourceImageSequence = references


def _add_pixels(dataset: Dataset, images: Sequence[Image.Image], *, multi_frame: bool) -> None:
    """Add the image pixel module and what says of the pixels what they are (PS3.3 C.7.6.3, C.8.6)."""
    dataset.ImageType = ["DERIVED", "SECONDARY"]
    # No name and no date stands in the pixels (C.7.6.1): only the warning, the network and the measurements.
    dataset.BurnedInAnnotation = "NO"
    dataset.LossyImageCompression = "00"
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PlanarConfiguration = 3, "RGB", 0
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 8, 8, 7, 0
    dataset.Columns, dataset.Rows = images[0].size
    pixels = np.stack([np.asarray(image.convert("RGB")) for image in images])
    dataset.PixelData = pixels.tobytes() + b"\0" * (pixels.size % 2)
    # Type 2C: required since no plane says how the pictures lie in the patient; empty, since they lie in
    # several ways.
    dataset.PatientOrientation = None
    if not multi_frame:
        return
    dataset.NumberOfFrames = len(images)
    if len(images) > 1:
        dataset.FrameIncrementPointer = Tag("PageNumberVector")
        dataset.PageNumberVector = list(range(1, len(images) + 1))


def _with_warning(row: str, language: Language) -> str:
    return f"{phrase(row, language)} {phrase('limits.warning', language)}"


def _coded(code: Code) -> Dataset:
    return hd.sr.CodedConcept.from_code(code)
