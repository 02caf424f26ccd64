"""How fast a bundle answers one patch with each provider, and with how much memory.

Each in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from pipeline.bundles.bundle import Bundle
from pipeline.errors import BundleError
from pipeline.inference.providers import PROVIDERS, available_providers, open_session
from pipeline.records import FloatArray
from pipeline.segmenters.families import load_bundle


@dataclass(frozen=True)
class BenchmarkRow:
    """One provider's figures.

    `apart` is the largest difference of its answer from the CPU's, relative to the CPU's largest value.

    Attributes
    ----------
    load_s, patch_s
        Seconds to open the network, and the median for one patch once it is warm.
    peak_mb
        Largest resident memory of the process, MiB.
    problem
        Why there are no figures; empty when there are.
    """

    provider: str
    threads: int
    load_s: float
    patch_s: float
    peak_mb: float
    apart: float
    problem: str = ""


def benchmark_bundle(
    bundle: Bundle, providers: Sequence[str] = (), *, threads: int = 2, patches: int = 3
) -> tuple[BenchmarkRow, ...]:
    """Measure each provider (none named: all that are there) on the bundle's first graph and a fixed patch.

    Raises
    ------
    BundleError
        A provider is not known, or the bundle has no graph of its own.
    """
    if not bundle.graphs:
        raise BundleError(
            f"{bundle.name} is an ensemble: measure its members one by one", code="model-unusable"
        )
    strange = sorted(set(providers) - set(PROVIDERS))
    if strange:
        raise BundleError(
            f"the provider {strange[0]!r} is not one of {', '.join(PROVIDERS)}", code="provider-unknown"
        )
    provider_names = list(dict.fromkeys(providers)) or list(available_providers())
    with TemporaryDirectory(prefix="dicomnode-benchmark-") as scratch:
        answers = Path(scratch)
        rows = {
            provider: _measure(bundle.folder, provider, threads, patches, answers)
            for provider in dict.fromkeys(["cpu", *provider_names])
        }
        return tuple(_compared(rows[provider], answers) for provider in provider_names)


def _measure(folder: Path, provider: str, threads: int, patches: int, answers: Path) -> BenchmarkRow:
    command = [
        sys.executable,
        "-m",
        "pipeline.segmenters.benchmark",
        str(folder.resolve()),
        provider,
        str(threads),
        str(patches),
        str(answers / f"{provider}.npy"),
    ]
    # The package may be run from a checkout, which the child finds where this process found it.
    root = str(Path(__file__).resolve().parents[2])
    completed = subprocess.run(command, capture_output=True, text=True, check=False, cwd=root)
    if completed.returncode != 0:
        lines = completed.stderr.strip().splitlines() or [
            f"the process ended with status {completed.returncode}"
        ]
        return BenchmarkRow(provider, threads, 0.0, 0.0, 0.0, 0.0, lines[-1])
    return BenchmarkRow(**json.loads(completed.stdout.splitlines()[-1]))


def _compared(row: BenchmarkRow, answers: Path) -> BenchmarkRow:
    first, second = answers / "cpu.npy", answers / f"{row.provider}.npy"
    if row.problem or not first.exists():
        return row
    base, other_answer = np.load(first), np.load(second)
    apart = float(np.abs(other_answer - base).max() / max(float(np.abs(base).max()), 1e-12))
    return BenchmarkRow(**{**asdict(row), "apart": apart})


def run_patches(bundle: Bundle, provider: str, threads: int, patches: int) -> tuple[BenchmarkRow, FloatArray]:
    """Measure in this process; return the figures and the last answer.

    Raises
    ------
    BundleError
        The provider is not there, or the graph cannot be run.
    """
    graph = next(iter(bundle.graphs))
    shape = (1, len(bundle.channels), *bundle.patch_of(graph))
    batch = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    started = time.perf_counter()
    session = open_session(bundle, threads, graph, provider)
    load_s = time.perf_counter() - started
    answer = session(batch)
    seconds = []
    for _ in range(patches):
        started = time.perf_counter()
        answer = session(batch)
        seconds.append(time.perf_counter() - started)
    return BenchmarkRow(provider, threads, load_s, float(np.median(seconds)), peak_memory_mb(), 0.0), answer


def peak_memory_mb() -> float:
    """Return the largest resident memory of this process so far, MiB; NaN on Windows."""
    status = Path("/proc/self/status")
    if status.exists():
        # getrusage would count what the parent held when it started this process.
        lines = status.read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))
    if sys.platform == "win32":
        return math.nan
    import resource

    # macOS counts in bytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("folder", "provider", "threads", "patches", "answer"):
        parser.add_argument(name)
    arguments = parser.parse_args()
    try:
        row, answer = run_patches(
            load_bundle(Path(arguments.folder).resolve()),
            arguments.provider,
            int(arguments.threads),
            int(arguments.patches),
        )
    except BundleError as problem:
        sys.exit(str(problem))
    np.save(arguments.answer, answer)
    sys.stdout.write(json.dumps(asdict(row)) + "\n")


if __name__ == "__main__":
    _main()
