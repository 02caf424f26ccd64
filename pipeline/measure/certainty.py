"""How sure the network is of a lesion: the mean of its own probability, or how often such a lesion was one.

The one place where the calibration of a manifest is applied.
"""

from __future__ import annotations

from pipeline.records import Calibration, Measurement

METHOD = "mean of the network's probability over the lesion, not calibrated"
CALIBRATED_METHOD = "logistic calibration of the mean probability and the volume"


def measure_certainty(
    mean_probability: float, volume_ml: float, calibration: Calibration | None
) -> Measurement:
    """Return the certainty of a lesion in percent: its mean probability (0..1), calibrated or as it is."""
    if calibration is None:
        return Measurement("certainty", 100 * mean_probability, "%", METHOD)
    chance = calibration.chance(mean_probability, volume_ml)
    return Measurement("calibrated_certainty", 100 * chance, "%", CALIBRATED_METHOD)
