"""Seconds and peak memory of each step of the pipeline alone.

    python -m scripts.bench.study

The study is a 1 mm T1 of 192 slices and a FLAIR.

The first run opens the networks (cold), the second has them warm, as a worker does. Processor seconds tell
how busy the machine was with other work: on idle cores a step takes at most its processor seconds.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from dicomnode.answer import SHIPPED_MODELS
from pipeline.plan import Recipe
from pipeline.records import PipelineResult, Role, Volume
from pipeline.run import run_pipeline
from pipeline.segmenters.families import find_bundle
from scripts.bench.node import clinical_study

STATUS = Path("/proc/self/status")
FRAME_OF_REFERENCE = "2.25.1"


class MemoryWatch:
    """Samples the resident memory of this process and keeps the peak of each step."""

    def __init__(self) -> None:
        self.peak_mb: dict[str, float] = {}
        self.processor_s = Counter[str]()
        self._step = "start"
        self._since = time.process_time()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> MemoryWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.enter("end")
        self._stop.set()
        self._thread.join()

    def enter(self, step: str) -> None:
        """Book from now on to `step`."""
        now = time.process_time()
        self.processor_s[self._step] += now - self._since
        self._step, self._since = step.replace(" ", "_"), now

    def _sample(self) -> None:
        while not self._stop.wait(0.005):
            step = self._step
            self.peak_mb[step] = max(self.peak_mb.get(step, 0.0), resident_mb())


def resident_mb() -> float:
    """Return the resident memory of this process in MB."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1000


def load_inputs() -> Mapping[Role, Volume]:
    """Return the demonstration head at clinical size: sagittal 1 mm T1, axial FLAIR."""
    study = clinical_study()
    roles: tuple[Role, ...] = ("t1", "flair")
    return {
        role: Volume(study[role].astype(np.float32), study[f"{role}_affine"], FRAME_OF_REFERENCE)
        for role in roles
    }


def print_table(result: PipelineResult, watch: MemoryWatch) -> None:
    """Print one line a step and the sum."""
    print(f"{'step':<16}{'seconds':>9}{'processor s':>13}{'peak MB':>9}")
    wall_s = Counter[str]()
    for step in result.steps:
        # Each member of an ensemble takes some of them.
        wall_s[step.name] += step.seconds
    for name, seconds in wall_s.items():
        print(
            f"{name:<16}{seconds:>9.2f}{watch.processor_s[name]:>13.2f}{watch.peak_mb.get(name, 0.0):>9.0f}"
        )
    print(
        f"{'all':<16}{sum(wall_s.values()):>9.2f}{sum(watch.processor_s.values()):>13.2f}"
        f"{max(watch.peak_mb.values()):>9.0f}"
    )


def main() -> int:
    """Run the pipeline and print the table of each run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=Path, default=SHIPPED_MODELS)
    parser.add_argument("--lesion", default="stroke-lesion-2mm")
    parser.add_argument("--brain", default="brain-extractor-3mm")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=2)
    options = parser.parse_args()
    recipe = Recipe(
        find_bundle(options.models, options.lesion),
        find_bundle(options.models, options.brain),
        threads=options.threads,
    )
    inputs = load_inputs()
    sizes = ", ".join(f"{role} {' x '.join(map(str, volume.array.shape))}" for role, volume in inputs.items())
    print(f"{sizes}; {options.threads} threads; {resident_mb():.0f} MB with the study loaded")
    for number in range(options.runs):
        with MemoryWatch() as watch:
            result = run_pipeline(inputs, recipe, watch.enter)
        print(
            f"\nrun {number + 1} ({'cold' if number == 0 else 'warm'} networks), {len(result.lesions)} "
            "lesions"
        )
        print_table(result, watch)
    return 0


if __name__ == "__main__":
    sys.exit(main())
