"""All families on the same held-out synthetic heads and the same real ones: `python -m scripts.bench.families --out FOLDER`.

Writes docs/benchmarks-families.md. Each bundle runs over the synthetic heads in a process of its own, so that its peak memory is its own. Real heads
(a folder that is no part of the project) are prepared once and given to every bundle; they carry no outline, so what is found is volume and pictures.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dicomnode.answer import SHIPPED_MODELS
from pipeline.bundle import Bundle, find_bundle, list_bundles
from pipeline.evaluate.lesions import LesionCounts
from pipeline.geometry import grid_of, voxel_volume_mm3
from pipeline.inference.benchmark import peak_memory_mb
from pipeline.inference.voting import majority, move_threshold
from pipeline.journal import Journal
from pipeline.postprocess.components import apply_components
from pipeline.postprocess.threshold import apply_threshold
from pipeline.preprocess.resample import sample_linear
from pipeline.records import FloatArray, Role, Volume
from pipeline.run import Recipe, run_pipeline
from pipeline.segmenters.case import Asked, Case
from pipeline.segmenters.families import INFER, segment_case
from pipeline.training.family_export import sample_channels
from pipeline.training.pictures import draw_overlay
from pipeline.training.pool import read_sample, write_validation_set
from pipeline.training.real_cases import RealCase, ms_cases, single_cases
from pipeline.training.score import CaseScore, score_case
from pipeline.training.synthesis.lesion_maps import list_maps
from pipeline.training.tasks import TASKS, keep_channels
from scripts.bench.__main__ import machine

TARGET = Path(__file__).resolve().parents[2] / "docs" / "benchmarks-families.md"
FIRST_CASE = 5000
"""Far from the held-out samples that settled anybody's thresholds."""
REAL = ("philips-flair-2d", "patient01-study1", "patient12-study1", "patient04-study1")


def main() -> None:
    """Measure and write the page; with `--one` measure one bundle and print its figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for samples, pictures and figures")
    parser.add_argument("--count", type=int, default=16)
    parser.add_argument("--lesion-maps", type=Path)
    parser.add_argument("--data", type=Path, help="folder of real heads")
    parser.add_argument("--models", nargs="*", help="lesion bundles; all that are there when absent")
    parser.add_argument("--one")
    options = parser.parse_args()
    torch.set_num_threads(1)
    unseen = list_maps(options.lesion_maps, held_out=True) if options.lesion_maps else []
    paths = write_validation_set(options.out / "samples", TASKS["lesion"], options.count, unseen, FIRST_CASE)
    if options.one:
        print(json.dumps(measure_bundle(find_bundle(SHIPPED_MODELS, options.one), paths)))
        return
    lesion = [f"{bundle.name}/{bundle.version}" for bundle in list_bundles(SHIPPED_MODELS) if bundle.task == "lesion"]
    names = options.models or lesion
    rows = [_apart(name, sys.argv[1:]) for name in names]
    (options.out / "synthetic.json").write_text(json.dumps(rows, indent=1))
    real = list(measure_real(options.data, names, options.out)) if options.data else []
    (options.out / "real.json").write_text(json.dumps(real, indent=1))
    TARGET.write_text("\n".join(render(rows, real, options.count)) + "\n", encoding="utf-8")


def _apart(name: str, arguments: Sequence[str]) -> dict[str, Any]:
    command = [sys.executable, "-m", "scripts.bench.families", *arguments, "--one", name]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


def answer_sample(bundle: Bundle, image: FloatArray, roles: Sequence[str]) -> FloatArray:
    """Return the probability on one prepared sample; an ensemble's members answer at their own thresholds."""
    if not bundle.members:
        return INFER[bundle.family](bundle, sample_channels(image), Asked(bundle.output.threshold_for(roles)))[0].probability.array
    common = bundle.output.threshold_for(roles)
    maps = [move_threshold(answer_sample(each, image, roles), each.output.threshold_for(roles), common) for each in bundle.members]
    stacked = np.stack(maps)
    spec: Any = bundle.family_spec
    return majority(stacked) if spec.rule == "vote" else stacked.mean(axis=0, dtype=np.float32)


def measure_bundle(bundle: Bundle, paths: Sequence[Path]) -> dict[str, Any]:
    """Return a bundle's figures by combination, its seconds a case, memory and size."""
    task, results, seconds = TASKS["lesion"], {}, []
    for name in task.combinations:
        roles = [role for role in bundle.channels if role in name.split("+")]
        threshold, scores = bundle.output.threshold_for(roles), []
        for path in paths:
            image, label = read_sample(path)
            visible = keep_channels(image, task.architecture.channels, name)
            truth = ((label > 0.5) & (visible != 0).any(dim=0)).numpy()
            started = time.process_time()
            probability = answer_sample(bundle, visible.numpy(), roles)
            seconds.append(time.process_time() - started)
            mask, _ = apply_components(
                apply_threshold(probability, threshold), bundle.output.connectivity, bundle.output.minimum_volume_mm3, 8.0
            )
            scores.append(score_case((mask > 0).astype(np.float32), truth, 0.5, task.grid.voxel_ml))
        results[name] = _summary(scores)
    graphs = [graph for each in (bundle.members or (bundle,)) for graph in each.folder.glob("*.onnx")]
    return {
        "name": f"{bundle.name}/{bundle.version}", "family": bundle.family, "by": results, "processor_s": float(np.median(seconds)),
        "peak_mb": peak_memory_mb(), "file_mb": sum(graph.stat().st_size for graph in graphs) / 1e6,
    }  # fmt: skip


def _summary(scores: Sequence[CaseScore]) -> dict[str, float]:
    lesions = reduce(add, (score.lesions for score in scores), LesionCounts(0, 0, 0, 0))
    errors = [abs(score.found_ml - score.truth_ml) for score in scores]
    signed = [score.found_ml - score.truth_ml for score in scores]
    dice = [score.dice[0.5] for score in scores]
    return {
        "dice": float(np.mean(dice)), "f1": lesions.f1, "error_ml": float(np.mean(errors)), "bias_ml": float(np.mean(signed)),
        "empty_ml": float(np.mean([score.found_ml for score in scores if score.truth_ml == 0] or [0.0])),
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

        inputs: dict[Role, Volume] = {role: _framed(head, role) for role in ("flair", "t1") if role in head.images}
        run_pipeline(inputs, Recipe(bundles[0], brain), segmenter=ask_all)
        yield from ({"case": head.name, "input": "+".join(sorted(inputs, reverse=True)), **row} for row in rows)


def _framed(head: RealCase, role: Role) -> Volume:
    # Of one session each, but not of one frame of reference: the pipeline registers them itself.
    return replace(head.images[role], frame_of_reference_uid=f"2.25.{1 + (role == 't1')}")


def _ask(bundle: Bundle, case: Case, out: Path) -> dict[str, Any]:
    roles = [role for role in bundle.channels if role in case.images]
    threshold, journal = bundle.output.threshold_for(roles), Journal()
    started = time.process_time()
    answer = segment_case(bundle, case, Asked(threshold), journal)
    seconds = time.process_time() - started
    found = answer.probability
    inside = sample_linear(case.brain.soft, grid_of(found)) >= case.brain.threshold
    voxel_mm3 = voxel_volume_mm3(found.affine)
    labels, _ = apply_components(
        apply_threshold(found.array, threshold) * inside, bundle.output.connectivity, bundle.output.minimum_volume_mm3, voxel_mm3
    )
    picture = sample_linear(case.images["flair"], grid_of(found), case.links["flair"]) * inside
    draw_overlay(out / f"{bundle.name}-{len(list(out.glob(bundle.name + '-*.png')))}.png", picture, labels > 0)
    share = None if answer.agreement is None or not (labels > 0).any() else float(answer.agreement.array[labels > 0].mean())
    return {
        "model": bundle.name, "found_ml": float((labels > 0).sum() * voxel_mm3 / 1000), "pieces": int(labels.max()), "agreement": share,
        "processor_s": seconds,
    }  # fmt: skip


def render(rows: Sequence[Mapping[str, Any]], real: Sequence[Mapping[str, Any]], count: int) -> Iterator[str]:
    """Yield the page's lines."""
    yield "# The families of networks beside each other\n"
    yield (
        "Written by `python -m scripts.bench.families`. "
        f"Machine: {machine()}; it was shared with other work, so time is processor seconds.\n"
    )
    yield f"## {count} held-out synthetic heads\n"
    yield "The same heads for all, drawn from seeds that settled nobody's thresholds; each bundle at its own thresholds and minimum volume, one thread."
    yield "F1: lesions at 10 % overlap, over all heads. Error: mean absolute difference of the volume; bias: mean difference (negative: too little)."
    yield "Seconds: the networks alone, median. Memory: peak of the whole process, which holds torch and the samples besides. MB: the ONNX files.\n"
    yield "| bundle | family | input | Dice | F1 | error mL | bias mL | found where nothing is, mL | seconds | memory MB | MB |"
    yield "|---|---|---|---|---|---|---|---|---|---|---|"
    for row in rows:
        tail = f"{row['processor_s']:.2f} | {row['peak_mb']:.0f} | {row['file_mb']:.1f} |"
        for name, seen in row["by"].items():
            cells = f"{seen['dice']:.3f} | {seen['f1']:.3f} | {seen['error_ml']:.1f} | {seen['bias_ml']:+.1f} | {seen['empty_ml']:.1f}"
            yield f"| {row['name']} | {row['family']} | {name} | {cells} | {tail}"
    if not real:
        return
    yield "\n## Real heads\n"
    yield "No outline exists for these. philips-flair-2d has a tumour, the patients have multiple sclerosis; none has a stroke with a known outline."
    yield "Seconds: resampling, bias correction and networks; the brain and the registration are the same for all. Agreement: mean share of planes or"
    yield "members that call the found voxels lesion.\n"
    yield "| case | input | bundle | found mL | pieces | agreement | seconds |"
    yield "|---|---|---|---|---|---|---|"
    for row in real:
        share = "" if row["agreement"] is None else f"{row['agreement']:.2f}"
        yield (
            f"| {row['case']} | {row['input']} | {row['model']} | {row['found_ml']:.1f} | {row['pieces']} | {share} | {row['processor_s']:.1f} |"
        )


if __name__ == "__main__":
    main()
