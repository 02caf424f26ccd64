"""The same series as one Enhanced MR Image Storage instance (PS3.3 A.36.2).

Geometry and contrast stand in functional groups only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import EnhancedMRImageStorage

from dicomnode.records import Role
from dicomnode.simulator.author import (
    Array,
    Patient,
    add_pixel_description,
    apply_overrides,
    decimal_strings,
    derive_uid,
    describe_series,
    file_meta,
    orientation_cosines,
    stored_pixels,
)

# PS3.3 C.8.13.1 and C.8.13.4: what a magnitude image of an inversion-prepared sequence says about itself.
_IMAGE: Mapping[str, Any] = {
    "PixelPresentation": "MONOCHROME",
    "VolumetricProperties": "VOLUME",
    "VolumeBasedCalculationTechnique": "NONE",
    "ComplexImageComponent": "MAGNITUDE",
    "ContentQualification": "RESEARCH",
    "BurnedInAnnotation": "NO",
    "LossyImageCompression": "00",
    "PresentationLUTShape": "IDENTITY",
    "ResonantNucleus": "1H",
    "KSpaceFiltering": "NONE",
    "ApplicableSafetyStandardAgency": "IEC",
    "AcquisitionDateTime": "20260105090000",
    "AcquisitionDuration": 300.0,
    "MultiPlanarExcitation": "NO",
    "PhaseContrast": "NO",
    "TimeOfFlightContrast": "NO",
    "SteadyStatePulseSequence": "NONE",
    "EchoPlanarPulseSequence": "NO",
    "SaturationRecovery": "NO",
    "SpectrallySelectedSuppression": "NONE",
    "OversamplingPhase": "NONE",
    "GeometryOfKSpaceTraversal": "RECTILINEAR",
    "RectilinearPhaseEncodeReordering": "LINEAR",
    "SegmentedKSpaceTraversal": "SINGLE",
    "NumberOfKSpaceTrajectories": 1,
}
_CONTRAST: Mapping[Role, Mapping[str, str]] = {
    "t1": {"AcquisitionContrast": "T1", "EchoPulseSequence": "GRADIENT", "CoverageOfKSpace": "FULL"},
    "flair": {
        "AcquisitionContrast": "FLUID_ATTENUATED",
        "EchoPulseSequence": "SPIN",
        "MultipleSpinEcho": "NO",
    },
}

# What the classic header carries at the top level and the enhanced one in functional groups or under other
# keywords.
_CLASSIC_ONLY = [
    "ScanningSequence",
    "SequenceVariant",
    "ScanOptions",
    "SequenceName",
    "RepetitionTime",
    "EchoTime",
    "InversionTime",
    "EchoTrainLength",
    "FlipAngle",
    "NumberOfAverages",
    "ImagingFrequency",
    "ImagedNucleus",
    "WindowCenter",
    "WindowWidth",
    "AcquisitionDate",
    "AcquisitionTime",
    "BodyPartExamined",
]


def author_enhanced(
    array: Array,
    affine: npt.NDArray[np.float64],
    *,
    role: Role,
    study_uid: str,
    frame_of_reference_uid: str,
    patient: Patient | None = None,
    series_number: int = 1,
    seed: object = 0,
    overrides: Mapping[str, Any] | None = None,
) -> Dataset:
    """Return one multi-frame instance whose frames are the slices in the order of the array.

    Arguments as in `author_series`.
    """
    stored = stored_pixels(array)
    classic = describe_series(
        role, study_uid, frame_of_reference_uid, patient or Patient(), series_number, seed
    )
    add_pixel_description(classic, stored)
    instance = Dataset()
    instance.update({element.tag: element for element in classic if element.keyword not in _CLASSIC_ONLY})
    instance.SOPClassUID = EnhancedMRImageStorage
    instance.SOPInstanceUID = derive_uid(classic.SeriesInstanceUID, "enhanced", seed)
    instance.InstanceNumber = "1"
    instance.ImageType = ["ORIGINAL", "PRIMARY", "M", "NONE"]
    for keyword, value in {**_IMAGE, **_CONTRAST[role]}.items():
        setattr(instance, keyword, value)
    instance.PulseSequenceName = classic.SequenceName
    instance.MagneticFieldStrength = 3.0
    instance.AcquisitionContextSequence = []
    instance.NumberOfFrames = str(len(stored))
    _add_dimensions(instance)
    instance.SharedFunctionalGroupsSequence = [_shared_groups(classic, instance, affine)]
    instance.PerFrameFunctionalGroupsSequence = [_frame_groups(index, affine) for index in range(len(stored))]
    instance.PixelData = stored.tobytes()
    apply_overrides(instance, overrides or {})
    instance.file_meta = file_meta(instance.SOPClassUID, instance.SOPInstanceUID)
    return instance


def _add_dimensions(instance: Dataset) -> None:
    """Set the Multi-frame Dimension module (PS3.3 C.7.6.17): stack, then position in the stack."""
    organization_uid = derive_uid(instance.SOPInstanceUID, "dimensions")
    instance.DimensionOrganizationSequence = [_item(DimensionOrganizationUID=organization_uid)]
    frame_content = 0x00209111
    instance.DimensionIndexSequence = [
        _item(
            DimensionOrganizationUID=organization_uid,
            DimensionIndexPointer=pointer,
            FunctionalGroupPointer=frame_content,
        )
        for pointer in (0x00209056, 0x00209057)
    ]


def _shared_groups(classic: Dataset, instance: Dataset, affine: npt.NDArray[np.float64]) -> Dataset:
    """Return the groups that hold for every frame (PS3.3 A.36.2.3)."""
    spacing_mm = np.linalg.norm(affine[:3, :3], axis=0)
    between, rows, columns = decimal_strings(spacing_mm)
    brain = codes.SCT.Brain
    region = _item(
        CodeValue=brain.value, CodingSchemeDesignator=brain.scheme_designator, CodeMeaning=brain.meaning
    )
    frame_type = {
        keyword: instance[keyword].value
        for keyword in (
            [
                "PixelPresentation",
                "VolumetricProperties",
                "VolumeBasedCalculationTechnique",
                "ComplexImageComponent",
                "AcquisitionContrast",
            ]
        )
    }
    return _item(
        PixelMeasuresSequence=[
            _item(SliceThickness=between, SpacingBetweenSlices=between, PixelSpacing=[rows, columns])
        ],
        PlaneOrientationSequence=[_item(ImageOrientationPatient=orientation_cosines(affine))],
        FrameAnatomySequence=[_item(AnatomicRegionSequence=[region], FrameLaterality="U")],
        PixelValueTransformationSequence=[_item(RescaleIntercept="0", RescaleSlope="1", RescaleType="US")],
        FrameVOILUTSequence=[_item(WindowCenter=classic.WindowCenter, WindowWidth=classic.WindowWidth)],
        MRImageFrameTypeSequence=[_item(FrameType=instance.ImageType, **frame_type)],
        MRTimingAndRelatedParametersSequence=[_timing(classic)],
        MREchoSequence=[_item(EffectiveEchoTime=float(classic.EchoTime))],
        MRModifierSequence=[_modifier(classic)],
        MRImagingModifierSequence=[
            _item(
                MagnetizationTransfer="NONE",
                BloodSignalNulling="NO",
                Tagging="NONE",
                TransmitterFrequency=123.2,
                PixelBandwidth=200.0,
            )
        ],
        MRFOVGeometrySequence=[
            _item(
                InPlanePhaseEncodingDirection="ROW",
                MRAcquisitionFrequencyEncodingSteps=instance.Columns,
                MRAcquisitionPhaseEncodingStepsInPlane=instance.Rows,
                MRAcquisitionPhaseEncodingStepsOutOfPlane=int(instance.NumberOfFrames),
                PercentSampling="100",
                PercentPhaseFieldOfView="100",
            )
        ],
        MRReceiveCoilSequence=[
            _item(
                ReceiveCoilName="SYNTHETIC",
                ReceiveCoilManufacturerName="",
                ReceiveCoilType="MULTICOIL",
                QuadratureReceiveCoil="NO",
                MultiCoilDefinitionSequence=[_item(MultiCoilElementName="1", MultiCoilElementUsed="YES")],
            )
        ],
        MRTransmitCoilSequence=[
            _item(TransmitCoilName="SYNTHETIC", TransmitCoilManufacturerName="", TransmitCoilType="BODY")
        ],
        MRAveragesSequence=[_item(NumberOfAverages=1.0)],
    )


def _timing(classic: Dataset) -> Dataset:
    spin_echoes = int(classic.EchoTrainLength) if "SE" in classic.ScanningSequence else 0
    return _item(
        RepetitionTime=classic.RepetitionTime,
        FlipAngle=classic.FlipAngle,
        EchoTrainLength=classic.EchoTrainLength,
        RFEchoTrainLength=spin_echoes,
        GradientEchoTrainLength=0 if spin_echoes else 1,
        GradientOutputType="DB_DT",
        GradientOutput=0.0,
        OperatingModeSequence=[
            _item(OperatingModeType=kind, OperatingMode="IEC_NORMAL")
            for kind in ("STATIC FIELD", "RF", "GRADIENT")
        ],
        SpecificAbsorptionRateSequence=[
            _item(SpecificAbsorptionRateDefinition="IEC_HEAD", SpecificAbsorptionRateValue=0.1)
        ],
    )


def _modifier(classic: Dataset) -> Dataset:
    return _item(
        InversionRecovery="YES",
        InversionTimes=[float(classic.InversionTime)],
        FlowCompensation="NONE",
        Spoiling="NONE" if "SE" in classic.ScanningSequence else "RF_AND_GRADIENT",
        T2Preparation="NO",
        SpectrallySelectedExcitation="NONE",
        SpatialPresaturation="NONE",
        PartialFourier="NO",
        ParallelAcquisition="NO",
    )


def _frame_groups(index: int, affine: npt.NDArray[np.float64]) -> Dataset:
    """Return the groups of one frame: its place in the stack and in the patient."""
    content = _item(
        StackID="1",
        InStackPositionNumber=index + 1,
        DimensionIndexValues=[1, index + 1],
        FrameAcquisitionNumber=1,
        FrameAcquisitionDateTime="20260105090000",
        FrameReferenceDateTime="20260105090000",
        FrameAcquisitionDuration=300.0,
    )
    position = decimal_strings(affine[:3, 3] + index * affine[:3, 0])
    return _item(FrameContentSequence=[content], PlanePositionSequence=[_item(ImagePositionPatient=position)])


def _item(**attributes: Any) -> Dataset:
    item = Dataset()
    for keyword, value in attributes.items():
        setattr(item, keyword, value)
    return item
