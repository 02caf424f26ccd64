"""Several looks at one patch.

Mirrored images and further networks, averaged, with the share of them that votes for a voxel.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from pipeline.inference.session import Network
from pipeline.records import FloatArray


def mirrorings(axes: Sequence[int]) -> list[tuple[int, ...]]:
    """Return every combination of the spatial axes, the empty one first."""
    return [axis_set for count in range(len(axes) + 1) for axis_set in itertools.combinations(axes, count)]


def average_passes(
    networks: Sequence[Network],
    mirror_axes: Sequence[int],
    read: Callable[[FloatArray], FloatArray],
    vote: Callable[[FloatArray], npt.NDArray[np.bool_]] | None = None,
) -> Network:
    """Return the mean over networks and mirrorings as one function of a patch.

    Parameters
    ----------
    mirror_axes
        Spatial axes (0 is the first after the channels).
    read
        What is kept, and averaged, of a network's maps.
    vote
        Of the maps that were kept, whether they call a voxel lesion, shape (1, *patch); the share of passes
        that do is one more map at the end.
    """
    if not networks:
        raise ValueError("there is no network to ask")
    # One pass for every subset of the axes: 2 ** len(mirror_axes) of them.
    flips = mirrorings(mirror_axes)

    def predict(patch: FloatArray) -> FloatArray:
        total: FloatArray | None = None
        for axes in flips:
            # Axis 0 of a patch is the channel, so each spatial axis is one further on.
            turned = tuple(1 + axis for axis in axes)
            mirrored = np.flip(patch, turned)
            for network in networks:
                maps = read(network(mirrored))
                # The vote (0 or 1) rides along as one more map: its mean is the share of passes.
                if vote is not None:
                    maps = np.concatenate([maps, vote(maps).astype(np.float32)])
                # Turn the maps back, so that all passes lie on the same voxels, and add them up.
                answer = np.flip(maps, turned)
                total = answer.copy() if total is None else np.add(total, answer, out=total)
        if total is None:
            raise ValueError("there is no pass to average")
        return total / np.float32(len(flips) * len(networks))

    return predict
