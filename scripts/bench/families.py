"""Score all families on the same held-out synthetic heads and the same real ones.

    python -m scripts.bench.families --out FOLDER

Writes docs/benchmarks-families.md. Each bundle runs over the synthetic heads in a process of its own, so that
its peak memory is its own. Real heads (a folder that is no part of the project) are prepared once and given
to every bundle; they carry no outline, so what is found is volume and pictures.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from dicomnode.answer import SHIPPED_MODELS
from pipeline.bundles.bundle import Bundle
from pipeline.geometry import grid_of, voxel_volume_mm3
from pipeline.journal import Journal
from pipeline.plan import Recipe, plan_network
from pipeline.postprocess.components import apply_components, apply_peak
from pipeline.postprocess.threshold import apply_threshold
from pipeline.preprocess.resample import sample_linear
from pipeline.records import Role, Volume
from pipeline.run import run_pipeline
from pipeline.segmenters.benchmark import peak_memory_mb
from pipeline.segmenters.case import Case
from pipeline.segmenters.families import find_bundle, list_bundles, segment_case
from pipeline.training.families.table import TASKS
from pipeline.training.held_out import score_bundle, summarise_bundle, write_scores
from pipeline.training.pictures import draw_overlay
from pipeline.training.pool import write_validation_set
from pipeline.training.real_cases import RealCase, ms_cases, single_cases
from pipeline.training.synthesis.lesion_maps import list_maps
from scripts.bench.__main__ import machine

TARGET = Path(__file__).resolve().parents[2] / "docs" / "benchmarks-families.md"
REAL = ("philips-flair-2d", "patient01-study1", "patient12-study1", "patient04-study1")
AIMS = {
    "t1+flair": {"dice": 0.70, "lesion_f1": 0.60, "volume_correlation": 0.90},
    "flair": {"dice": 0.60},
    "t1": {"dice": 0.45},
}
"""What was asked of the lesion network, by input."""
FIGURES = {
    "threshold": ".2f", "peak": ".2f", "dice": ".3f", "lesion_f1": ".3f", "volume_correlation": ".3f",
    "error_ml": ".1f", "bias_ml": "+.1f",
    "false_ml_without_lesion_mean": ".1f", "processor_s": ".2f",
}  # fmt: skip
"""Columns of the first table, and how each is written."""
SIZES = ("0_to_1", "1_to_5", "5_to_20", "20_to_80", "80_to_inf")


def main() -> None:
    """Measure and write the page; with `--one` measure one bundle and print its figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for scores, pictures and figures")
    parser.add_argument(
        "--samples", type=Path, required=True, help="folder for the held-out samples; made when missing"
    )
    parser.add_argument("--count", type=int, default=180)
    parser.add_argument(
        "--choosing", type=int, default=60, help="the first so many settled thresholds, and are not scored"
    )
    parser.add_argument(
        "--untouched", type=int, default=84, help="from this number on nothing at all was chosen by a sample"
    )
    parser.add_argument("--lesion-maps", type=Path)
    parser.add_argument("--data", type=Path, help="folder of real heads")
    parser.add_argument("--models", nargs="*", help="lesion bundles; all that are there when absent")
    parser.add_argument("--one")
    options = parser.parse_args()
    torch.set_num_threads(1)
    unseen = list_maps(options.lesion_maps, held_out=True) if options.lesion_maps else []
    paths = write_validation_set(options.samples, TASKS["lesion"], options.count, unseen)[options.choosing :]
    if options.one:
        later = options.untouched - options.choosing
        print(json.dumps(measure_bundle(find_bundle(SHIPPED_MODELS, options.one), paths, later, options.out)))
        return
    lesion = [
        f"{bundle.name}/{bundle.version}"
        for bundle in list_bundles(SHIPPED_MODELS)
        if bundle.task == "lesion"
    ]
    names = options.models or lesion
    rows = [_apart(name, sys.argv[1:]) for name in names]
    (options.out / "synthetic.json").write_text(json.dumps(rows, indent=1))
    real = list(measure_real(options.data, names, options.out)) if options.data else []
    (options.out / "real.json").write_text(json.dumps(real, indent=1))
    TARGET.write_text("\n".join(render(rows, real)) + "\n", encoding="utf-8")


def _apart(name: str, arguments: Sequence[str]) -> dict[str, Any]:
    command = [sys.executable, "-m", "scripts.bench.families", *arguments, "--one", name]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


def measure_bundle(bundle: Bundle, paths: Sequence[Path], untouched: int, out: Path) -> dict[str, Any]:
    """Return a bundle's figures by combination, its memory and its size.

    The figures are over all heads, and over those from number `untouched` on. Each score goes to `out`.
    """
    rows = list(score_bundle(bundle, TASKS["lesion"], paths))
    write_scores(rows, out / f"scores-{bundle.name}.csv")
    last = {path.stem for path in paths[untouched:]}
    graphs = [graph for each in (bundle.members or (bundle,)) for graph in each.folder.glob("*.onnx")]
    return {
        "name": f"{bundle.name}/{bundle.version}", "family": bundle.family,
        "by": summarise_bundle(bundle, rows),
        "untouched": summarise_bundle(bundle, [row for row in rows if row.sample in last]),
        "peak_mb": peak_memory_mb(), "file_mb": sum(graph.stat().st_size for graph in graphs) / 1e6,
    }  # fmt: skip


def measure_real(data: Path, names: Sequence[str], out: Path) -> Iterator[dict[str, Any]]:
    """Yield what each bundle finds in each real head; pictures go to `out`."""
    bundles = [find_bundle(SHIPPED_MODELS, name) for name in names]
    brain = find_bundle(SHIPPED_MODELS, "brain-extractor-3mm")
    for head in (*single_cases(data), *ms_cases(data)):
        if head.name not in REAL:
            continue
        rows: list[dict[str, Any]] = []

        def ask_all(case: Case, _: Journal, rows: list[dict[str, Any]] = rows) -> Volume:
            rows.extend(_ask(bundle, case, out) for bundle in bundles)
            return case.brain.soft

        inputs: dict[Role, Volume] = {
            role: _framed(head, role) for role in ("flair", "t1") if role in head.images
        }
        run_pipeline(inputs, Recipe(bundles[0], brain), segmenter=ask_all)
        yield from (
            {"case": head.name, "input": "+".join(sorted(inputs, reverse=True)), **row} for row in rows
        )


def _framed(head: RealCase, role: Role) -> Volume:
    # Of one session each, but not of one frame of reference: the pipeline registers them itself.
    return replace(head.images[role], frame_of_reference_uid=f"2.25.{1 + (role == 't1')}")


def _ask(bundle: Bundle, case: Case, out: Path) -> dict[str, Any]:
    roles = [role for role in bundle.channels if role in case.images]
    threshold, journal = bundle.output.threshold_for(roles), Journal()
    started = time.process_time()
    answer = segment_case(bundle, case, plan_network(bundle, list(case.images), threshold=threshold), journal)
    seconds = time.process_time() - started
    found = answer.probability
    inside = sample_linear(case.brain.soft, grid_of(found)) >= case.brain.threshold
    voxel_mm3 = voxel_volume_mm3(found.affine)
    sure, _ = apply_peak(found.array, threshold, bundle.output.peak_for(roles), bundle.output.connectivity)
    labels, _ = apply_components(
        apply_threshold(sure, threshold) * inside,
        bundle.output.connectivity,
        bundle.output.minimum_volume_mm3,
        voxel_mm3,
    )
    picture = sample_linear(case.images["flair"], grid_of(found), case.links["flair"]) * inside
    draw_overlay(
        out / f"{bundle.name}-{len(list(out.glob(bundle.name + '-*.png')))}.png", picture, labels > 0
    )
    share = (
        None
        if answer.agreement is None or not (labels > 0).any()
        else float(answer.agreement.array[labels > 0].mean())
    )
    return {
        "model": bundle.name, "found_ml": float((labels > 0).sum() * voxel_mm3 / 1000),
        "pieces": int(labels.max()), "agreement": share,
        "processor_s": seconds,
    }  # fmt: skip


def render(rows: Sequence[Mapping[str, Any]], real: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield the page's lines."""
    yield "# The families of networks beside each other\n"
    yield (
        "Written by `python -m scripts.bench.families`. "
        f"Machine: {machine()}; it was shared with other work, so time is processor seconds.\n"
    )
    yield from _all_samples(rows)
    yield from _by_size(rows)
    yield from _untouched(rows)
    yield from _aims(rows)
    yield from _real_heads(real)


def _count(row: Mapping[str, Any], table: str) -> int:
    return int(next(iter(row[table].values()))["cases"])


def _cell(seen: Mapping[str, float], figure: str, form: str) -> str:
    """Return a figure; empty where it is not defined, as a size of which there is no head."""
    return format(seen[figure], form) if figure in seen else ""


def _lines(rows: Sequence[Mapping[str, Any]], table: str) -> Iterator[tuple[str, str, Mapping[str, float]]]:
    return ((row["name"], name, seen) for row in rows for name, seen in row[table].items())


def _all_samples(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield f"## {_count(rows[0], 'by')} held-out synthetic heads\n"
    yield (
        "The same heads for all; each bundle at its own thresholds, peaks and minimum volume (`python -m "
        "pipeline.training validate --bundle ... --samples ...`),"
    )
    yield (
        "one thread. None of these heads settled a threshold or a peak: the 60 before them settled those of "
        "`stroke-lesion-2mm` (20 of the 60 those of the planes, 12"
    )
    yield (
        "those of the regions). The first 24 of them chose the members of `stroke-lesion-ensemble`, which "
        "therefore flatters it; without them: see below."
    )
    yield (
        "F1: lesions at 10 % overlap, over all heads. Correlation: Pearson's, of the volumes of heads with a "
        "lesion. Error: mean absolute difference of the"
    )
    yield (
        "volume; bias: mean difference (negative: too little). Seconds: the networks alone, median; other "
        "work on the same cores makes them up to twice as"
    )
    yield (
        "long. Memory: peak of the whole process, which holds torch and the samples besides. MB: the ONNX "
        "files.\n"
    )
    yield (
        "| bundle | input | threshold | peak | Dice | F1 | correlation | error mL | bias mL | found where "
        "nothing is, mL | seconds | memory MB | MB |"
    )
    yield "|" + "---|" * 13
    for row in rows:
        for name, seen in row["by"].items():
            cells = [_cell(seen, figure, form) for figure, form in FIGURES.items()]
            yield (
                f"| {row['name']} | {name} | {' | '.join(cells)} | {row['peak_mb']:.0f} | "
                f"{row['file_mb']:.1f} |"
            )


def _by_size(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield "\n## Dice by the lesions' volume in a head, mL\n"
    yield (
        "| bundle | input | "
        + " | ".join(size.replace("_to_", " to ").replace("to inf", "and more") for size in SIZES)
        + " |"
    )
    yield "|" + "---|" * (2 + len(SIZES))
    for bundle, name, seen in _lines(rows, "by"):
        cells = [_cell(seen, f"dice_{size}_ml", ".2f") for size in SIZES]
        yield f"| {bundle} | {name} | " + " | ".join(cells) + " |"


def _untouched(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield f"\n## The last {_count(rows[0], 'untouched')} of these heads, by which nothing was chosen\n"
    yield "| bundle | input | Dice | F1 | correlation |"
    yield "|---|---|---|---|---|"
    for bundle, name, seen in _lines(rows, "untouched"):
        cells = [_cell(seen, figure, ".3f") for figure in ("dice", "lesion_f1", "volume_correlation")]
        yield f"| {bundle} | {name} | " + " | ".join(cells) + " |"


def _aims(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield "\n## What was aimed at, and what is reached\n"
    yield "On all of the heads above; bold: reached.\n"
    yield "| figure | aim | " + " | ".join(row["name"] for row in rows) + " |"
    yield "|" + "---|" * (2 + len(rows))
    for name, bounds in AIMS.items():
        for figure, aim in bounds.items():
            values = [row["by"][name][figure] for row in rows]
            cells = [f"**{value:.3f}**" if value >= aim else f"{value:.3f}" for value in values]
            yield f"| {figure.replace('_', ' ')}, {name} | {aim:.2f} | " + " | ".join(cells) + " |"


def _real_heads(real: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    if not real:
        return
    yield "\n## Real heads\n"
    yield (
        "No outline exists for these. philips-flair-2d has a tumour, the patients have multiple sclerosis; "
        "none has a stroke with a known outline."
    )
    yield (
        "Seconds: resampling, bias correction and networks; the brain and the registration are the same for "
        "all. Agreement: mean share of planes or"
    )
    yield "members that call the found voxels lesion.\n"
    yield "| case | input | bundle | found mL | pieces | agreement | seconds |"
    yield "|---|---|---|---|---|---|---|"
    for row in real:
        share = "" if row["agreement"] is None else f"{row['agreement']:.2f}"
        yield (
            f"| {row['case']} | {row['input']} | {row['model']} | {row['found_ml']:.1f} | {row['pieces']} | "
            f"{share} | {row['processor_s']:.1f} |"
        )


if __name__ == "__main__":
    main()
