"""How sure the network is of a lesion: the mean of its own probability, which nobody has calibrated."""

from __future__ import annotations

from pipeline.records import FloatArray, Measurement

METHOD = "mean of the network's probability over the lesion, not calibrated"


def measure_certainty(probability: FloatArray) -> Measurement:
    """Return the mean probability of a lesion's voxels (n,) in percent."""
    return Measurement("certainty", 100 * float(probability.mean()), "%", METHOD)
