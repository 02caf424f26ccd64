"""Warm sessions: one per model, thread count and provider in a process."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

from pipeline.bundle import Bundle
from pipeline.errors import BundleError
from pipeline.inference.providers import open_session
from pipeline.manifest import GRAPH
from pipeline.records import FloatArray

Network = Callable[[FloatArray], FloatArray]
"""(channel, slice, row, column) patch in, (map, slice, row, column) out, both float32."""


class _ByGraph:
    """A bundle as a cache key: the same graph bytes with the same names give the same session."""

    def __init__(self, bundle: Bundle, name: str) -> None:
        self.bundle, self.name = bundle, name
        self._key = (bundle.graphs[name], bundle.input.name, bundle.output.name, bundle.input.patch, bundle.channels)

    def __hash__(self) -> int:
        return hash(self._key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _ByGraph) and self._key == other._key


def open_network(bundle: Bundle, threads: int, name: str = GRAPH, provider: str = "cpu") -> Network:
    """Return one of the bundle's graphs as a function of one patch; a session that is already open is used again.

    Raises
    ------
    BundleError
        The provider is not there, or the graph was altered, cannot be run, or disagrees with the manifest. The function itself raises it when the
        network answers with NaN or infinite values.
    """
    return _open(_ByGraph(bundle, name), threads, provider)


@functools.lru_cache(maxsize=8)
def _open(key: _ByGraph, threads: int, provider: str) -> Network:
    bundle = key.bundle
    session = open_session(bundle, threads, key.name, provider)

    def run(patch: FloatArray) -> FloatArray:
        batch = np.ascontiguousarray(patch[np.newaxis], dtype=np.float32)
        answer: FloatArray = session(batch)[0]
        if not np.isfinite(answer).all():
            raise BundleError(f"{bundle.name} answered with NaN or infinite values", code="model-output-not-finite")
        return answer

    return run
