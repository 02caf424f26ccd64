"""Warm sessions: one per model, thread count and provider in a process."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import overload

import numpy as np

from pipeline.bundles.bundle import Bundle
from pipeline.bundles.manifest import GRAPH
from pipeline.errors import BundleError
from pipeline.inference.providers import open_session
from pipeline.records import FloatArray

Network = Callable[[FloatArray], FloatArray]
"""(channel, slice, row, column) patch in, (map, slice, row, column) out, both float32."""


class _ByGraph:
    """A bundle as a cache key: the same graph bytes with the same names give the same session."""

    def __init__(self, bundle: Bundle, name: str) -> None:
        self.bundle, self.name = bundle, name
        self._key = (
            bundle.graphs[name],
            bundle.input.name,
            bundle.output.name,
            bundle.patch_of(name),
            bundle.channels,
        )

    def __hash__(self) -> int:
        return hash(self._key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _ByGraph) and self._key == other._key


def open_network(
    bundle: Bundle, threads: int, name: str = GRAPH, provider: str = "cpu", *, keep: bool = True
) -> Network:
    """Return one of the bundle's graphs as a function of one patch; a session that is kept is used again.

    Raises
    ------
    BundleError
        The provider is not there, or the graph was altered, cannot be run, or disagrees with the manifest.
        The function itself raises it when the network answers with NaN or infinite values.
    """
    key = _ByGraph(bundle, name)
    return _kept(key, threads, provider) if keep else _open(key, threads, provider)


@functools.lru_cache(maxsize=8)
def _kept(key: _ByGraph, threads: int, provider: str) -> Network:
    return _open(key, threads, provider)


def _open(key: _ByGraph, threads: int, provider: str) -> Network:
    bundle = key.bundle
    session = open_session(bundle, threads, key.name, provider)

    def run(patch: FloatArray) -> FloatArray:
        batch = np.ascontiguousarray(patch[np.newaxis], dtype=np.float32)
        answer: FloatArray = session(batch)[0]
        if not np.isfinite(answer).all():
            raise BundleError(
                f"{bundle.name} answered with NaN or infinite values", code="model-output-not-finite"
            )
        return answer

    return run


class Folds(Sequence[Network]):
    """A bundle's graphs as networks, each opened when it is asked for.

    One graph is kept open for the next study. Of several each would hold a gigabyte of maps, so they are
    opened anew, one after the other.
    """

    def __init__(self, bundle: Bundle, threads: int, provider: str = "cpu") -> None:
        self._bundle, self._threads, self._provider = bundle, threads, provider
        self._names = tuple(bundle.graphs)

    def __len__(self) -> int:
        return len(self._names)

    @overload
    def __getitem__(self, number: int) -> Network: ...
    @overload
    def __getitem__(self, number: slice) -> Sequence[Network]: ...
    def __getitem__(self, number: int | slice) -> Network | Sequence[Network]:
        """Open one network."""
        if isinstance(number, slice):
            return [self[number_in_slice] for number_in_slice in range(*number.indices(len(self)))]
        return open_network(
            self._bundle, self._threads, self._names[number], self._provider, keep=len(self) == 1
        )
