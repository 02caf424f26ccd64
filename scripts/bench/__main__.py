"""Measure everything and write docs/benchmarks.md: `python -m scripts.bench` (`make bench`)."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from scripts.bench import nnunet, node, receive

ROOT = Path(__file__).resolve().parents[2]
TARGET = ROOT / "docs" / "benchmarks.md"
ORIGINAL = ROOT / ".venv-nnunet" / "bin" / "python"
KEPT = "## The bundled networks\n"

# What was asked for: (figure, at least or at most, bound).
RECEIVE_BOUNDS = (("node / orthanc", 2.0), ("node / nothing", 0.5))
RECEIVE_MEMORY_MB = 300
WORK_MEMORY_MB = 4096


def main() -> None:
    """Run both measurements, print and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--instances", type=int, default=400)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--original",
        type=Path,
        default=ORIGINAL,
        help="a Python with nnunetv2, for the comparison of imported networks",
    )
    options = parser.parse_args()
    receiving = measure_receiving("--instances", str(options.instances), "--repeats", str(options.repeats))
    answering = measure_answering()
    # The networks are measured by pipeline.training, parity by the tests: kept as they stand; time and memory
    # are measured anew where the original is installed.
    kept = TARGET.read_text(encoding="utf-8").partition(KEPT)
    page = render(receiving, answering, machine()) + "\n" + "".join(kept[1:])
    TARGET.write_text(page, encoding="utf-8")
    if options.original.exists():
        nnunet.write_table(nnunet.measure_all(str(options.original)), TARGET)
        page = TARGET.read_text(encoding="utf-8")
    print(page)


def measure_receiving(*arguments: str) -> dict[str, Any]:
    """Run the measurement of receiving in a process of its own and return what it measured."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        path = Path(folder) / "figures.json"
        subprocess.run(
            [sys.executable, str(Path(receive.__file__)), *arguments, "--json", str(path)], check=True
        )
        figures: dict[str, Any] = json.loads(path.read_text())
        return figures


def measure_answering() -> dict[str, Any]:
    """Run one study through a node and return what was measured."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        return node.measure(Path(folder))


def machine() -> str:
    """Return what it ran on, in a few words."""
    models = [
        line.split(":", 1)[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    processor = models[0] if models else platform.machine()
    return f"{os.cpu_count()} cores ({processor}), Python {platform.python_version()}"


def render(receiving: Mapping[str, Any], answering: Mapping[str, Any], where: str) -> str:
    """Return the page."""
    return "\n".join([*_head(where), *_receiving(receiving), *_answering(answering)]) + "\n"


def _head(where: str) -> Iterator[str]:
    yield "# Benchmarks\n"
    yield (
        "Written by `make bench` (dcmtk and Orthanc must be installed). Rates depend on disk and load, so "
        "the ratios of one run are what counts.\n"
    )
    yield f"Machine: {where}.\n"


def _receiving(figures: Mapping[str, Any]) -> Iterator[str]:
    yield "## Durable receive\n"
    yield (
        f"{figures['instances']} MR instances of {figures['instance_bytes'] / 1000:.0f} kB by "
        f"`{figures['sender']}`, TCP_NODELAY=1 at both ends, median of"
    )
    yield (
        f"{figures['repeats']} runs. `node`: fsync and ledger before the answer. `orthanc`: as shipped. "
        "`nothing`: the node's receiver, writing"
    )
    yield "nothing. `stock-nothing`: pynetdicom's own acceptor, writing nothing.\n"
    yield receive.table(figures)
    yield ""
    for name, bound in RECEIVE_BOUNDS:
        for associations, ratio in figures["ratios"][name].items():
            yield (
                f"- {name}, {associations} association{'s' * (associations != '1')}: {ratio:.2f}, asked for "
                f"at least {bound:g}: {_verdict(ratio >= bound)}"
            )
    peak_mb = figures["node_peak_memory_mb"]
    yield (
        f"- peak memory of `receive`: {peak_mb:.0f} MB, asked for less than {RECEIVE_MEMORY_MB}: "
        f"{_verdict(peak_mb < RECEIVE_MEMORY_MB)}\n"
    )


def _answering(figures: Mapping[str, Any]) -> Iterator[str]:
    yield "## From the last image to the answer\n"
    yield (
        f"A synthetic T1 of 192 sagittal slices at 1 mm and a FLAIR, {figures['instances']} instances, sent "
        f"in {figures['send_s']} s. From the last instance to"
    )
    yield (
        f"SEG and SR stored at the archive: **{figures['last_instance_to_answer_s']} s**, of which "
        f"{figures['of_which_settle_s']} s are the settling time.\n"
    )
    yield "| step | seconds |"
    yield "|---|---|"
    yield from (f"| {name} | {seconds:.2f} |" for name, seconds in figures["pipeline_steps_s"].items())
    yield f"| all steps | {figures['pipeline_s']:.2f} |\n"
    peaks = figures["peak_memory_mb"]
    yield (
        f"Peak memory: `receive` {peaks['receive']} MB; "
        "`work` and its worker process, the larger of the two, "
        f"{peaks['work']} MB, asked for less than"
    )
    yield f"{WORK_MEMORY_MB}: {_verdict(peaks['work'] < WORK_MEMORY_MB)}."


def _verdict(met: bool) -> str:
    return "met" if met else "**not met**"


if __name__ == "__main__":
    main()
