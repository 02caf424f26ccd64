"""Measure everything and write docs/benchmarks.md: `python -m scripts.bench` (`make bench`)."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from scripts.bench import nnunet, node, receive

ROOT = Path(__file__).resolve().parents[2]
TARGET = ROOT / "docs" / "benchmarks.md"
ORIGINAL = ROOT / ".venv-nnunet" / "bin" / "python"
KEPT = "## Waiting for the rest of a study\n"

# What was asked for: a ratio of rates at least, processor time and memory at most.
ORTHANC_RATIO, TLS_RATIO = 3.0, 0.9
INSTANCE_CPU_MS = 1.0
RECEIVE_MEMORY_MB = 200
ANSWER_S = 5.0
BEGIN_S = 0.3
WORK_MEMORY_MB = 4096
DISK_WRITER_MB_PER_S = 50


@dataclass(frozen=True)
class Form:
    """One table of receiving: its title, what is asked of which ratio, and the words of its command."""

    title: str
    ratio: str
    asked: float
    words: tuple[str, ...]


_ORTHANC = ("--sender", "light", "--associations", "1", "4", "8", "--contenders", "node", "orthanc")
FORMS = (
    Form("Alone", "node / orthanc", ORTHANC_RATIO, (*_ORTHANC, "node-files", "storescp")),
    Form("By storescu", "node / orthanc", ORTHANC_RATIO, ("--sender", "storescu", *_ORTHANC[2:])),
    Form(
        f"Next to a program that writes {DISK_WRITER_MB_PER_S} MB/s to the same disk",
        "node / orthanc",
        ORTHANC_RATIO,
        (*_ORTHANC, "--disk-writer", str(DISK_WRITER_MB_PER_S)),
    ),
    Form(
        "With TLS",
        "node-tls / node",
        TLS_RATIO,
        ("--sender", "light", "--associations", "1", "--contenders", "node", "node-tls"),
    ),
)

PROGRAMS = {
    ("scripts.bench.throughput", "--studies", "20"): "Many studies at once",
    ("scripts.bench.million",): "A million instances",
}
"""Measurements that print their own verdicts: the words of the command, and the title of what it says."""


def main() -> None:
    """Run the measurements, print and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--instances", type=int, default=400)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--dry", action="store_true", help="print the page, write nothing")
    parser.add_argument(
        "--original",
        type=Path,
        default=ORIGINAL,
        help="a Python with nnunetv2, for the comparison of imported networks",
    )
    options = parser.parse_args()
    size = ("--instances", str(options.instances), "--repeats", str(options.repeats))
    receiving = {form.title: measure_receiving(*size, *form.words) for form in FORMS}
    answering = measure_answering()
    programs = {words: print_of(*words) for words in PROGRAMS}
    # The networks are measured by pipeline.training, parity by the tests: kept as they stand; time and memory
    # are measured anew where the original is installed.
    kept = TARGET.read_text(encoding="utf-8").partition(KEPT)
    page = render(receiving, answering, programs, machine()) + "\n" + "".join(kept[1:])
    if not options.dry:
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


def print_of(*words: str) -> str:
    """Run another measurement and return what it printed."""
    command = [sys.executable, "-m", *words]
    return subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout.strip()


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


def render(
    receiving: Mapping[str, Mapping[str, Any]],
    answering: Mapping[str, Any],
    programs: Mapping[tuple[str, ...], str],
    where: str,
) -> str:
    """Return the page, down to what is kept of it."""
    tables = (line for form in FORMS for line in _receiving(form, receiving[form.title]))
    printed = (
        f"\n## {PROGRAMS[words]}\n\n`python -m {' '.join(words)}`\n\n{text}"
        for words, text in programs.items()
    )
    parts = (*_head(where, receiving[FORMS[0].title]), *tables, *_answering(answering), *printed)
    return "\n".join(parts) + "\n"


def today() -> date:
    """Return the day, as this machine has it."""
    return datetime.now(UTC).date()


def _head(where: str, figures: Mapping[str, Any]) -> Iterator[str]:
    yield "# Benchmarks\n"
    yield (
        "Written by `make bench` (dcmtk and Orthanc must be installed). Rates depend on disk and load, so "
        "the ratios of one run are what counts.\n"
    )
    kept = KEPT.strip("#\n ")
    yield f'Machine: {where}. All that stands before "{kept}" is from one run, {today():%d %B %Y}.\n'
    yield "## Durable receive\n"
    yield (
        f"{figures['instances']} MR instances of {figures['instance_bytes'] / 1000:.0f} kB, TCP_NODELAY at "
        f"both ends, median of {figures['repeats']} runs, contenders in turn."
    )
    yield (
        "`node`: as shipped, a journal and a shared sync before the answer. `node-files`: "
        "`storage.journal_mb = 0`, a file with its fsyncs and a row before the answer."
    )
    yield (
        "`orthanc`: as shipped. `storescp`: dcmtk, which never syncs. CPU counts until each instance is a "
        "file and listed.\n"
    )


def _receiving(form: Form, figures: Mapping[str, Any]) -> Iterator[str]:
    yield f"### {form.title}\n"
    yield f"`python -m scripts.bench.receive {' '.join(form.words)}`\n"
    yield receive.table(figures)
    yield ""
    top, bottom = form.ratio.split(" / ")
    rates = figures["instances_per_second"]
    for associations, rate in rates[top].items():
        ratio = rate / rates[bottom][associations]
        cpu_ms = figures["cpu_ms_per_instance"]["node"][associations]
        yield (
            f"- {associations} association{'s' * (associations != '1')}, {form.ratio}: {ratio:.2f}, "
            f"asked for at least {form.asked:g}: {_verdict(ratio >= form.asked)}; CPU of `node` an instance: "
            f"{cpu_ms:.2f} ms, at most {INSTANCE_CPU_MS:g}: {_verdict(cpu_ms <= INSTANCE_CPU_MS)}"
        )
    peak_mb = figures["node_peak_memory_mb"]
    yield (
        f"- peak memory of `receive`: {peak_mb:.0f} MB, asked for less than {RECEIVE_MEMORY_MB}: "
        f"{_verdict(peak_mb < RECEIVE_MEMORY_MB)}\n"
    )


def _answering(figures: Mapping[str, Any]) -> Iterator[str]:
    studies = figures["studies"]
    yield "## From the last image to the answer\n"
    yield (
        "A synthetic T1 of 192 sagittal slices at 1 mm and a FLAIR, "
        f"{studies['warm']['instances']} instances. Cold: the first study after the node said that it "
        "works; warm: the next one."
    )
    yield "Seconds from the last instance to SEG and SR stored at the archive.\n"
    yield f"| | {' | '.join(studies)} |"
    yield "|---" * (len(studies) + 1) + "|"
    for moment in node.MOMENTS:
        yield _row(f"{moment}", (study["moments_s"].get(moment, 0.0) for study in studies.values()))
    yield _row("**at the archive**", (study["last_instance_to_answer_s"] for study in studies.values()))
    for step in studies["warm"]["pipeline_steps_s"]:
        yield _row(f"step {step}", (study["pipeline_steps_s"][step] for study in studies.values()))
    yield _row("all steps", (study["pipeline_s"] for study in studies.values()))
    for name, study in studies.items():
        answer_s, begin_s = study["last_instance_to_answer_s"], study["step_begins_s"]["load images"]
        yield (
            f"\n{name.capitalize()}: {answer_s:.1f} s, asked for at most {ANSWER_S:g}: "
            f"{_verdict(answer_s <= ANSWER_S)}; the images begin to be loaded {begin_s:.2f} s after "
            f"the last of them, at most {BEGIN_S:g}: {_verdict(begin_s <= BEGIN_S)}."
        )
    peaks = figures["peak_memory_mb"]
    yield (
        f"Peak memory: `receive` {peaks['receive']} MB; "
        "`work` and its worker process, the larger of the two, "
        f"{peaks['work']} MB, asked for less than"
    )
    yield f"{WORK_MEMORY_MB}: {_verdict(peaks['work'] < WORK_MEMORY_MB)}."


def _row(name: str, seconds: Iterable[float]) -> str:
    return f"| {name} | {' | '.join(f'{value:.2f}' for value in seconds)} |"


def _verdict(met: bool) -> str:
    return "met" if met else "**not met**"


if __name__ == "__main__":
    main()
