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
from pipeline.records import Measurement


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
    sentence
        How a lesion's sentence states it, with `{value}`; empty where it does not.
    """

    concept: Code
    unit: Code
    derivation: Code | None = None
    method: Code | None = None
    finding_site: Code | None = None
    topographical_modifier: Code | None = None
    column: str = ""
    bids: Mapping[str, str] = field(default_factory=dict)
    sentence: str = ""


def _mean_of(role: str, signal: Code) -> MeasuredQuantity:
    words = {"Description": f"Mean of the {role.upper()}, in the units of the image"}
    return MeasuredQuantity(signal, codes.NO_UNITS, derivation=codes.MEAN, column=f"mean_{role}", bids=words)


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
    )


MEASURED: Mapping[str, MeasuredQuantity] = {
    "volume": MeasuredQuantity(
        codes.VOLUME,
        codes.MILLILITER,
        method=codes.SUM_OF_SEGMENTED_VOXELS,
        column="volume_ml",
        bids={"Description": "Volume", "Units": "mL"},
        sentence="{value:.2f} ml",
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
        sentence="longest in-plane axis {value:.1f} mm",
    ),
    "greatest_long_axis": MeasuredQuantity(codes.LONG_AXIS, codes.MILLIMETER, derivation=codes.MAXIMUM),
    "maximum_3d_diameter": MeasuredQuantity(
        codes.MAXIMUM_3D_DIAMETER,
        codes.MILLIMETER,
        column="maximum_3d_diameter_mm",
        bids={"Description": "Longest diameter in space", "Units": "mm"},
    ),
    # No code names FLAIR: it is neither T1 nor T2 weighted in the sense of 110804 and 110805.
    "mean_intensity_flair": _mean_of("flair", codes.MR_SIGNAL_INTENSITY),
    "mirrored_intensity_flair": _mirrored_mean_of("flair", codes.MR_SIGNAL_INTENSITY),
    "mean_intensity_t1": _mean_of("t1", codes.T1_SIGNAL_INTENSITY),
    "mirrored_intensity_t1": _mirrored_mean_of("t1", codes.T1_SIGNAL_INTENSITY),
    # The network's mean probability, which is not calibrated: the words of the report say so.
    "certainty": MeasuredQuantity(codes.CERTAINTY_OF_FINDING, codes.PERCENT, derivation=codes.MEAN),
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


def state(measurements: Iterable[Measurement]) -> str:
    """Return what a sentence says of these measurements, in the order of the table; "" where it says nothing."""
    order = list(MEASURED)
    rows = sorted(
        ((item, row_of(item.name)) for item in measurements), key=lambda pair: order.index(pair[0].name)
    )
    return ", ".join(row.sentence.format(value=item.value) for item, row in rows if row.sentence)
