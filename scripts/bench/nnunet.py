"""Time and memory of an imported nnU-Net against nnU-Net's own predictor.

One network and one case are run once by each, each in its own process.

    python -m scripts.bench.nnunet --original .venv-nnunet/bin/python [--providers cpu openvino]
        [--shape 150 128 128] [--write] [--json FILE]

nnU-Net's default 3D architecture (32 to 320 features, six stages, random weights), 128^3 patches, a 1 mm head
of 150 x 180 x 150 voxels, no mirroring (it multiplies both sides by eight). Seconds include preprocessing,
tiles and the way back, not the start of the program; CPU seconds count every thread and hardly change when
other programs run.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from pipeline.evaluate.equivalence import paired_tost
from pipeline.inference.providers import available_providers

ROOT = Path(__file__).resolve().parents[2]
ORIGINAL = ROOT / "tests" / "importing" / "nnunet_original.py"
NETWORK = {
    "patch": [128, 128, 128], "features": [32, 64, 128, 256, 320, 320], "channels": 1,
    "mirror": None, "kind": "plain", "seed": 1,
}  # fmt: skip
SMALL = {
    "patch": [32, 32, 32],
    "features": [8, 16, 24],
    "channels": 1,
    "mirror": None,
    "trained": 150,
    "seed": 2,
}
SHAPE = (150, 180, 150)
MARGIN = 1e-3
CASES = 12
TITLES = {"cpu": "ONNX Runtime", "openvino": "OpenVINO"}
THEIRS, EXACT = "nnunetv2 as it is (torch, Float16 accumulator)", "nnunetv2, Float32 accumulator"
FIRST_MARK, LAST_MARK = "<!-- written by python -m scripts.bench.nnunet --write -->", "<!-- to here -->"


def main() -> None:
    """Measure and print; the child process of a measurement comes in here too."""
    if sys.argv[1:2] == ["child"]:
        child(*sys.argv[2:])
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--original", required=True, help="a Python with nnunetv2")
    parser.add_argument(
        "--providers", nargs="+", default=None, help="without it cpu, and openvino where it is installed"
    )
    parser.add_argument("--threads", default="2")
    parser.add_argument("--shape", type=int, nargs=3, default=SHAPE)
    parser.add_argument("--json", type=Path)
    parser.add_argument(
        "--speed-only", action="store_true", help="leave the comparison of Float16 with Float32 out"
    )
    parser.add_argument("--write", action="store_true", help="put the table into docs/benchmarks.md")
    options = parser.parse_args()
    figures = measure_all(
        options.original,
        options.providers,
        options.threads,
        tuple(options.shape),
        weights=not options.speed_only,
    )
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2))
    if options.write:
        write_table(figures, ROOT / "docs" / "benchmarks.md")
    print(table(figures))


def measure_all(
    original: str,
    providers: Sequence[str] | None = None,
    threads: str = "2",
    shape: tuple[int, ...] = SHAPE,
    *,
    weights: bool = True,
) -> dict[str, Any]:
    """Measure time, memory and differences, and where asked Float16 against Float32 weights."""
    there = [name for name in available_providers() if name != "cuda"]
    with TemporaryDirectory(prefix="bench-nnunet-") as scratch:
        figures = measure(Path(scratch), original, list(providers or there), threads, shape)
        if weights:
            figures["weights"] = compare_weights(Path(scratch), original)
    return figures


def write_table(figures: Mapping[str, Any], page: Path) -> None:
    """Put the table between its two marks on the page."""
    before, mark, rest = page.read_text(encoding="utf-8").partition(FIRST_MARK)
    _, end, after = rest.partition(LAST_MARK)
    if not mark or not end:
        raise SystemExit(f"{page} has no place for the table: {FIRST_MARK} ... {LAST_MARK}")
    page.write_text(f"{before}{mark}\n{table(figures)}\n{end}{after}", encoding="utf-8")


def table(figures: Mapping[str, Any]) -> str:
    """Return the figures as Markdown."""
    case = (
        f"Case of {' x '.join(str(size) for size in figures['shape'])} voxels at 1 mm, {figures['threads']} "
        "thread(s), load of the machine"
        f" {figures['load']:.1f}. File with Float16 weights: {100 * figures['size_ratio']:.2f} % of the "
        "Float32 file."
    )
    lines = [
        case,
        "",
        (
            "| program | wall, s | CPU, s | peak, MiB | faster, wall | faster, CPU | less memory | mean "
            "difference | largest | 1 - Dice |"
        ),
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, row in figures["programs"].items():
        cells = [f"{row['seconds']:.1f}", f"{row['cpu_s']:.1f}", f"{row['peak_mb']:.0f}"]
        cells += [
            f"{row[key]:.2f}" if key in row else ""
            for key in ("seconds_ratio", "cpu_s_ratio", "peak_mb_ratio")
        ]
        cells += [f"{row[key]:.1e}" if key in row else "" for key in ("mean", "largest", "mask")]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    if "weights" in figures:
        test = figures["weights"]
        lines += [
            "",
            (
                f"Float16 against Float32 weights, a briefly trained network on {test['cases']} held-out "
                f"cases: Dice {test['dice_float32']:.3f}, mean change"
            ),
        ]
        lines += [
            (
                f"{test['mean_change']:.1e}, largest {test['largest_change']:.1e}; two one-sided tests at a "
                f"margin of {test['margin']:g}: p = {test['p']:.2g}"
            )
        ]
        lines += [f"({'equivalent' if test['equivalent'] else 'not equivalent'})."]
    return "\n".join(lines)


def measure(
    folder: Path, original: str, providers: list[str], threads: str, shape: tuple[int, ...]
) -> dict[str, Any]:
    """Run the original and each provider once on the same case.

    Differences are from the original with a Float32 accumulator.
    """
    from pipeline.importing.parity import compare

    case = folder / "case.npz"
    np.savez(case, array=head(shape)[np.newaxis], spacing=(1.0, 1.0, 1.0))
    run([original, str(ORIGINAL), "make", str(folder / "network"), json.dumps(NETWORK)])
    bundles = {kind: install(folder, "network", kind) for kind in ("float32", "float16")}
    programs: dict[str, dict[str, Any]] = {}
    answers = {}
    for name, half in ((THEIRS, True), (EXACT, False)):
        out = folder / f"half-{half}.npz"
        settings = json.dumps({"threads": int(threads), "half": half})
        run(
            [
                original,
                "-W",
                "ignore",
                str(ORIGINAL),
                "predict",
                str(folder / "network"),
                str(case),
                str(out),
                settings,
            ]
        )
        programs[name], answers[name] = _row(out, lambda content: content["probabilities"][1])
    for provider, (kind, bundle) in itertools.product(providers, bundles.items()):
        out, name = folder / f"{provider}-{kind}.npz", f"{TITLES[provider]}, {kind.capitalize()} weights"
        run(
            [
                sys.executable,
                "-m",
                "scripts.bench.nnunet",
                "child",
                str(bundle),
                str(case),
                str(out),
                provider,
                threads,
            ]
        )
        programs[name], answers[name] = _row(out, lambda content: content["probability"])
        ratios = {
            f"{key}_ratio": programs[THEIRS][key] / programs[name][key]
            for key in ("seconds", "cpu_s", "peak_mb")
        }
        programs[name] |= ratios
        print(name, programs[name], flush=True)
    for name in [THEIRS, *list(programs)[2:]]:
        found = compare(name, EXACT, answers[name], answers[EXACT])
        programs[name] |= {
            "mean": found.mean_difference,
            "largest": found.largest_difference,
            "mask": found.mask_difference,
        }
    ratio = size(bundles["float16"]) / size(bundles["float32"])
    return {
        "shape": list(shape),
        "threads": int(threads),
        "load": os.getloadavg()[0],
        "size_ratio": ratio,
        "programs": programs,
    }


def _row(answer: Path, pick: Callable[[Any], Any]) -> tuple[dict[str, Any], Any]:
    with np.load(answer) as content:
        return {key: float(content[key]) for key in ("seconds", "cpu_s", "peak_mb")}, pick(content)


def child(bundle: str, case: str, answer: str, provider: str, threads: str) -> None:
    """Answer the case once in this process and write what it took."""
    from pipeline.inference.session import open_network
    from pipeline.segmenters.benchmark import peak_memory_mb
    from pipeline.segmenters.families import load_bundle
    from pipeline.segmenters.nnunet.segment import predict_array, window_of
    from pipeline.segmenters.nnunet.spec import NnUNetSpec

    loaded = load_bundle(Path(bundle))
    if not isinstance(loaded.family_spec, NnUNetSpec):
        raise SystemExit(f"{bundle} is no nnU-Net")
    with np.load(case) as content:
        array, spacing = (
            content["array"].astype(np.float32),
            tuple(float(size) for size in content["spacing"]),
        )
    networks = [open_network(loaded, int(threads), name, provider) for name in loaded.graphs]
    started, cpu_started = time.perf_counter(), time.process_time()
    probability, _ = predict_array(
        networks, loaded.family_spec, window_of(loaded), array, (spacing[0], spacing[1], spacing[2])
    )
    seconds, cpu_s = time.perf_counter() - started, time.process_time() - cpu_started
    np.savez(answer, probability=probability, seconds=seconds, cpu_s=cpu_s, peak_mb=peak_memory_mb())


def compare_weights(folder: Path, original: str) -> dict[str, Any]:
    """Two one-sided tests of the Dice of Float16 against Float32 weights.

    The network is briefly trained, and run on held-out balls.
    """
    from pipeline.inference.session import open_network
    from pipeline.segmenters.families import load_bundle
    from pipeline.segmenters.nnunet.segment import predict_array, window_of
    from pipeline.segmenters.nnunet.spec import NnUNetSpec

    run([original, str(ORIGINAL), "make", str(folder / "small"), json.dumps(SMALL)])
    scores: list[list[float]] = []
    for kind in ("float32", "float16"):
        bundle = load_bundle(install(folder, "small", kind))
        if not isinstance(bundle.family_spec, NnUNetSpec):
            raise SystemExit("the small network is no nnU-Net")
        network, row = open_network(bundle, 2), []
        for seed in range(CASES):
            image, truth = ball(seed)
            found = (
                predict_array(
                    [network], bundle.family_spec, window_of(bundle), image[np.newaxis], (1.0, 1.0, 1.0)
                )[0]
                >= 0.5
            )
            row.append(2 * int((found & truth).sum()) / (int(found.sum()) + int(truth.sum())))
        scores.append(row)
    test = paired_tost(scores[1], scores[0], MARGIN)
    largest = max(abs(narrow - wide) for wide, narrow in zip(*scores, strict=True))
    figures = {
        "cases": CASES,
        "dice_float32": float(np.mean(scores[0])),
        "mean_change": test.mean_difference,
        "largest_change": largest,
    }
    return figures | {"margin": MARGIN, "p": test.p_value, "equivalent": test.equivalent}


def install(folder: Path, name: str, weights: str) -> Path:
    """Import the folder without the comparison, which the tests make; return the bundle's folder."""
    from pipeline.importing import nnunet_folder
    from tests.importing.unchecked import unchecked

    nnunet_folder.choose_weights = unchecked
    options = nnunet_folder.NnUNetOptions(("t1",), name, weights=weights)
    return nnunet_folder.import_nnunet(folder / name, folder / weights, options).bundle.folder


def size(bundle: Path) -> int:
    """Bytes of the graph."""
    return (bundle / "model.onnx").stat().st_size


def head(shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """Texture in an egg that fills the array."""
    rng = np.random.default_rng(11)
    axes = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij", sparse=True)
    inside = sum(axis**2 for axis in axes) < 1
    return (inside * rng.normal(100, 20, shape)).astype(np.float32)


def ball(seed: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """A bright ball in noise, as the small network was trained on, in a larger image."""
    rng = np.random.default_rng(seed)
    places = np.stack(np.meshgrid(*[np.arange(48.0)] * 3, indexing="ij"))
    centre = rng.uniform(14, 34, (3, 1, 1, 1))
    truth = np.sqrt(((places - centre) ** 2).sum(0)) < rng.uniform(4, 9)
    return (rng.normal(0, 0.5, truth.shape) + 2.0 * truth).astype(np.float32), truth


def run(command: list[str]) -> None:
    """Run a child to its end."""
    subprocess.run(
        command, check=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL
    )


if __name__ == "__main__":
    main()
