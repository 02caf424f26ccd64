"""Where each frame lies and how it was weighted.

The same facts from a classic header and from functional groups.

Classic instances carry them at the top level (PS3.3 C.7.6.2, C.8.3.1); enhanced ones in Shared and Per-frame
Functional Groups (PS3.3 C.7.6.16), the per-frame item before the shared one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pydicom.dataset import Dataset

from dicomnode.study.elements import (
    read_integer,
    read_items,
    read_number,
    read_numbers,
    read_text,
    read_texts,
    read_values,
)


@dataclass(frozen=True)
class FrameFacts:
    """Geometry per frame (mm, LPS), weighting of the first frame, and what differs between frames.

    `positions` and `orientations` have one entry a frame, or are empty when a frame has none.
    """

    positions: tuple[tuple[float, ...], ...]
    orientations: tuple[tuple[float, ...], ...]
    pixel_spacings: tuple[tuple[float, ...], ...]
    PixelSpacing: tuple[float, ...]
    SliceThickness: float | None
    SpacingBetweenSlices: float | None
    EchoTime: float | None
    RepetitionTime: float | None
    InversionTime: float | None
    FlipAngle: float | None
    AcquisitionContrast: str = ""
    FrameType: tuple[str, ...] = ()
    anatomy: str = ""
    frame_types: tuple[str, ...] = ()
    echo_times: tuple[float, ...] = ()
    temporal_indices: tuple[int, ...] = ()
    frame_kinds: tuple[FrameKind, ...] = ()


# What a converter of classic images may leave unassigned (PS3.3 C.7.6.16.2.25.1 and .2), and selection
# weighs.
_CONVERTED = (
    *("EchoTime", "RepetitionTime", "InversionTime", "FlipAngle", "EchoTrainLength", "MagneticFieldStrength"),
    *(
        "ScanningSequence",
        "SequenceVariant",
        "SequenceName",
        "ScanOptions",
        "MRAcquisitionType",
        "AngioFlag",
        "DiffusionBValue",
    ),
    *(
        "ContrastBolusAgent",
        "ContrastBolusAgentSequence",
        "SeriesDescription",
        "ProtocolName",
        "BodyPartExamined",
        "ImageType",
    ),
    *(
        "SliceThickness",
        "SpacingBetweenSlices",
        "AcquisitionNumber",
        "TemporalPositionIdentifier",
        "NumberOfTemporalPositions",
    ),
    *("AcquisitionDate", "AcquisitionTime", "PatientPosition"),
)


def fill_from_converted(dataset: Dataset) -> Dataset:
    """Return a dataset with a converter's unassigned elements at the top level.

    The converter made a Legacy Converted Enhanced image, and left them unassigned.

    Looked at are (0020,9170) Unassigned Shared and, of the first frame, (0020,9171) Unassigned Per-frame
    Converted Attributes Sequence, which lie inside the functional groups.
    """
    shared = next(iter(read_items(dataset, "SharedFunctionalGroupsSequence")), Dataset())
    frame = next(iter(read_items(dataset, "PerFrameFunctionalGroupsSequence")), Dataset())
    sources = [
        *read_items(shared, "UnassignedSharedConvertedAttributesSequence"),
        *read_items(frame, "UnassignedPerFrameConvertedAttributesSequence"),
    ]
    if not sources:
        return dataset
    filled = Dataset()
    filled.update(dataset)
    for source in sources:
        for keyword in _CONVERTED:
            if keyword in source and not read_values(filled, keyword):
                filled[keyword] = source[keyword]
    return filled


FrameKind = tuple[str, float | None, tuple[str, ...], str]
"""Stack ID, inversion time, frame type and complex image component of one frame."""


def read_frames(dataset: Dataset) -> FrameFacts:
    """Return the facts of all frames of an instance; what is absent or malformed is empty."""
    per_frame = read_items(dataset, "PerFrameFunctionalGroupsSequence")
    shared = next(iter(read_items(dataset, "SharedFunctionalGroupsSequence")), Dataset())
    if per_frame:
        return _enhanced(dataset, per_frame, shared)
    return _classic(dataset)


def _classic(dataset: Dataset) -> FrameFacts:
    position = _exactly(read_numbers(dataset, "ImagePositionPatient"), 3)
    orientation = _exactly(read_numbers(dataset, "ImageOrientationPatient"), 6)
    return FrameFacts(
        positions=(position,) if position else (),
        orientations=(orientation,) if orientation else (),
        pixel_spacings=(),
        PixelSpacing=_exactly(read_numbers(dataset, "PixelSpacing"), 2),
        SliceThickness=read_number(dataset, "SliceThickness"),
        SpacingBetweenSlices=read_number(dataset, "SpacingBetweenSlices"),
        EchoTime=read_number(dataset, "EchoTime"),
        RepetitionTime=read_number(dataset, "RepetitionTime"),
        InversionTime=read_number(dataset, "InversionTime"),
        FlipAngle=read_number(dataset, "FlipAngle"),
        AcquisitionContrast=read_text(dataset, "AcquisitionContrast").upper(),
    )


def _enhanced(dataset: Dataset, per_frame: Sequence[Dataset], shared: Dataset) -> FrameFacts:
    groups = [_Groups(frame, shared, dataset) for frame in per_frame]
    first = groups[0]
    measures, timing, echo = (
        first.group("PixelMeasuresSequence"),
        first.group("MRTimingAndRelatedParametersSequence"),
        first.echo(),
    )
    frame_type = first.group("MRImageFrameTypeSequence")
    spacings = tuple(
        _exactly(read_numbers(item.group("PixelMeasuresSequence"), "PixelSpacing"), 2) for item in groups
    )
    contrast = read_text(frame_type, "AcquisitionContrast") or read_text(dataset, "AcquisitionContrast")
    return FrameFacts(
        positions=_all_or_none(
            _exactly(read_numbers(item.group("PlanePositionSequence"), "ImagePositionPatient"), 3)
            for item in groups
        ),
        orientations=_all_or_none(
            _exactly(read_numbers(item.group("PlaneOrientationSequence"), "ImageOrientationPatient"), 6)
            for item in groups
        ),
        pixel_spacings=spacings,
        PixelSpacing=spacings[0],
        SliceThickness=read_number(measures, "SliceThickness"),
        SpacingBetweenSlices=read_number(measures, "SpacingBetweenSlices"),
        EchoTime=echo,
        RepetitionTime=read_number(timing, "RepetitionTime"),
        InversionTime=first.inversion(),
        FlipAngle=read_number(timing, "FlipAngle"),
        AcquisitionContrast=contrast.upper(),
        FrameType=_frame_type(first),
        anatomy=_anatomy(first),
        frame_types=tuple(sorted({"\\".join(_frame_type(item)) for item in groups} - {""})),
        echo_times=tuple(sorted({time for time in (item.echo() for item in groups) if time is not None})),
        temporal_indices=tuple(
            sorted({index for index in (item.temporal() for item in groups) if index is not None})
        ),
        frame_kinds=tuple(item.kind() for item in groups),
    )


@dataclass(frozen=True)
class _Groups:
    """The functional groups that hold for one frame."""

    frame: Dataset
    shared: Dataset
    top: Dataset

    def group(self, keyword: str) -> Dataset:
        """Return the item of a group: the frame's own, else the shared one, else the instance itself."""
        for holder in (self.frame, self.shared):
            items = read_items(holder, keyword)
            if items:
                return items[0]
        # Legacy and hurried converters leave Image Plane attributes at the top level.
        return self.top

    def echo(self) -> float | None:
        """Return the effective echo time in ms."""
        item = self.group("MREchoSequence")
        effective = read_number(item, "EffectiveEchoTime")
        return read_number(item, "EchoTime") if effective is None else effective

    def inversion(self) -> float | None:
        """Return the inversion time in ms."""
        times = read_number(self.group("MRModifierSequence"), "InversionTimes")
        return read_number(self.top, "InversionTime") if times is None else times

    def temporal(self) -> int | None:
        """Return the temporal position index."""
        return read_integer(self.group("FrameContentSequence"), "TemporalPositionIndex")

    def kind(self) -> FrameKind:
        """Return what tells this frame's stack from others of the instance."""
        frame_type = self.group("MRImageFrameTypeSequence")
        component = read_text(frame_type, "ComplexImageComponent").upper()
        return (
            read_text(self.group("FrameContentSequence"), "StackID"),
            self.inversion(),
            _frame_type(self),
            component,
        )


def _frame_type(groups: _Groups) -> tuple[str, ...]:
    return tuple(text.upper() for text in read_texts(groups.group("MRImageFrameTypeSequence"), "FrameType"))


def _anatomy(groups: _Groups) -> str:
    region = next(iter(read_items(groups.group("FrameAnatomySequence"), "AnatomicRegionSequence")), Dataset())
    return read_text(region, "CodeMeaning")


def _exactly(numbers: tuple[float, ...], count: int) -> tuple[float, ...]:
    return numbers if len(numbers) == count else ()


def _all_or_none(entries: Iterable[tuple[float, ...]]) -> tuple[tuple[float, ...], ...]:
    listed = tuple(entries)
    return listed if all(listed) else ()
