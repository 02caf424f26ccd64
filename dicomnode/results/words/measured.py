"""The one table of measurements: how each is coded, in which column it stands, and in which words.

A measurement of the pipeline without a row is refused by its name, so that none is lost silently; a test
looks through `pipeline/measure/`. The gate has a table of codes of its own
(`results/verify/expected_codes.py`), which a test holds against this one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from pydicom.sr.coding import Code

from dicomnode.errors import ResultRejected
from dicomnode.results.words import codes
from pipeline.records import ROLES, Measurement, Role


@dataclass(frozen=True)
class MeasuredQuantity:
    """One row.

    Attributes
    ----------
    concept, unit, derivation, method, finding_site, topographical_modifier
        How the report codes it: concept name, unit and the modifiers of TID 300 (PS3.16).
    column
        Its column in tables of lesions; empty where it has none.
    bids
        What the sidecar of such a table says of the column.
    is_reported
        Whether the report codes it; what it does not is in tables of lesions only.
    """

    concept: Code
    unit: Code
    derivation: Code | None = None
    method: Code | None = None
    finding_site: Code | None = None
    topographical_modifier: Code | None = None
    column: str = ""
    bids: Mapping[str, str] = field(default_factory=dict)
    is_reported: bool = True


def _mean_of(role: str, signal: Code) -> MeasuredQuantity:
    words = {"Description": f"Mean of the {role.upper()}, in the units of the image"}
    return MeasuredQuantity(
        signal,
        codes.NO_UNITS,
        derivation=codes.MEAN,
        column=f"mean_{role}",
        bids=words,
        is_reported=False,
    )


def _mirrored_mean_of(role: str, signal: Code) -> MeasuredQuantity:
    words = {"Description": f"Mean of the {role.upper()} at the mirrored place, in the units of the image"}
    return MeasuredQuantity(
        signal,
        codes.NO_UNITS,
        derivation=codes.MEAN,
        finding_site=codes.BRAIN,
        topographical_modifier=codes.CONTRALATERAL,
        column=f"mirrored_{role}",
        bids=words,
        is_reported=False,
    )


MEASURED: Mapping[str, MeasuredQuantity] = {
    "volume": MeasuredQuantity(
        codes.VOLUME,
        codes.MILLILITER,
        method=codes.SUM_OF_SEGMENTED_VOXELS,
        column="volume_ml",
        bids={"Description": "Volume", "Units": "mL"},
    ),
    "total_volume": MeasuredQuantity(
        codes.VOLUME, codes.MILLILITER, derivation=codes.TOTAL, method=codes.SUM_OF_SEGMENTED_VOXELS
    ),
    "brain_volume": MeasuredQuantity(
        codes.VOLUME, codes.MILLILITER, method=codes.SUM_OF_SEGMENTED_VOXELS, finding_site=codes.BRAIN
    ),
    "lesion_count": MeasuredQuantity(codes.NUMBER_OF_LESIONS, codes.NO_UNITS),
    "lesion_load": MeasuredQuantity(codes.RATIO, codes.PERCENT),
    "long_axis": MeasuredQuantity(
        codes.LONG_AXIS,
        codes.MILLIMETER,
        column="long_axis_mm",
        bids={"Description": "Longest diameter within a slice", "Units": "mm"},
    ),
    "greatest_long_axis": MeasuredQuantity(codes.LONG_AXIS, codes.MILLIMETER, derivation=codes.MAXIMUM),
    "maximum_3d_diameter": MeasuredQuantity(
        codes.MAXIMUM_3D_DIAMETER,
        codes.MILLIMETER,
        derivation=codes.MAXIMUM,
        column="maximum_3d_diameter_mm",
        bids={"Description": "Longest diameter in space", "Units": "mm"},
    ),
    # No code names FLAIR: it is neither T1 nor T2 weighted in the sense of 110804 and 110805.
    "mean_intensity_flair": _mean_of("flair", codes.MR_SIGNAL_INTENSITY),
    "mirrored_intensity_flair": _mirrored_mean_of("flair", codes.MR_SIGNAL_INTENSITY),
    "mean_intensity_t1": _mean_of("t1", codes.T1_SIGNAL_INTENSITY),
    "mirrored_intensity_t1": _mirrored_mean_of("t1", codes.T1_SIGNAL_INTENSITY),
    "relative_signal_flair": MeasuredQuantity(codes.RELATIVE_FLAIR, codes.TIMES, derivation=codes.MEAN),
    "relative_signal_t1": MeasuredQuantity(codes.RELATIVE_T1, codes.TIMES, derivation=codes.MEAN),
    # The network's mean probability, which is not calibrated: the words of the report say so.
    "certainty": MeasuredQuantity(codes.CERTAINTY_OF_FINDING, codes.PERCENT, derivation=codes.MEAN),
    "calibrated_certainty": MeasuredQuantity(
        codes.CERTAINTY_OF_FINDING, codes.PERCENT, method=codes.CALIBRATED
    ),
    "agreement": MeasuredQuantity(codes.AGREEMENT, codes.PERCENT, derivation=codes.MEAN),
    "earlier_volume": MeasuredQuantity(
        codes.EARLIER_VOLUME, codes.MILLILITER, method=codes.SUM_OF_SEGMENTED_VOXELS
    ),
}
"""Key: `pipeline.records.Measurement.name`."""


def row_of(name: str) -> MeasuredQuantity:
    """Return the row of a measurement.

    Raises
    ------
    ResultRejected
        There is none: a report without the measurement would hide it.
    """
    if name not in MEASURED:
        raise ResultRejected(
            f"the measurement {name!r} has no row in dicomnode/results/words/measured.py; add one"
        )
    return MEASURED[name]


def relative_signals(measurements: Iterable[Measurement]) -> dict[Role, float]:
    """Return, for each image, how many times the other side's signal the lesion's is.

    The units of an MR image are arbitrary; what the mirrored site of the other side has is not. An image
    without a positive value there is left out.
    """
    values = {item.name: item.value for item in measurements}
    ratios: dict[Role, float] = {}
    # The FLAIR first: it is what one reads for a stroke.
    for role in reversed(ROLES):
        own, mirrored = values.get(f"mean_intensity_{role}"), values.get(f"mirrored_intensity_{role}")
        if own is not None and mirrored is not None and mirrored > 0:
            ratios[role] = own / mirrored
    return ratios


def reported(measurements: Iterable[Measurement]) -> list[Measurement]:
    """Return what the report codes of these measurements.

    Arbitrary intensities are replaced by the signal relative to the other side.

    Raises
    ------
    ResultRejected
        A measurement has no row.
    """
    listed = list(measurements)
    coded = [item for item in listed if row_of(item.name).is_reported]
    return [
        *coded,
        *(
            Measurement(f"relative_signal_{role}", ratio, "1", "mean over that of the mirrored site")
            for role, ratio in relative_signals(listed).items()
        ),
    ]
