"""Time and memory of an imported nnU-Net against nnU-Net's own predictor: one network, one case, one run, each in its own process.

    python -m scripts.bench.nnunet --original .venv-nnunet/bin/python [--providers cpu openvino] [--json FILE]

nnU-Net's default 3D architecture (32 to 320 features, six stages, random weights), 128^3 patches, a 1 mm head of 150 x 180 x 150 voxels, no
mirroring (it multiplies both sides by eight). Seconds include preprocessing, tiles and the way back; CPU seconds count every thread and
hardly change when other programs run.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
ORIGINAL = ROOT / "tests" / "importing" / "nnunet_original.py"
NETWORK = {
    "patch": [128, 128, 128], "features": [32, 64, 128, 256, 320, 320], "channels": 1, "mirror": None, "kind": "plain", "seed": 1,
}  # fmt: skip
SMALL = {"patch": [32, 32, 32], "features": [8, 16, 24], "channels": 1, "mirror": None, "trained": 150, "seed": 2}
SHAPE = (150, 180, 150)
MARGIN = 1e-3
CASES = 12


def main() -> None:
    """Measure and print; the child process of a measurement comes in here too."""
    if sys.argv[1:2] == ["child"]:
        child(*sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--original", required=True, help="a Python with nnunetv2")
    parser.add_argument("--providers", nargs="+", default=["cpu"])
    parser.add_argument("--threads", default="2")
    parser.add_argument("--shape", type=int, nargs=3, default=SHAPE)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--speed-only", action="store_true", help="leave the comparison of Float16 with Float32 out")
    options = parser.parse_args()
    with TemporaryDirectory(prefix="bench-nnunet-") as scratch:
        figures = measure(Path(scratch), options.original, options.providers, options.threads, tuple(options.shape))
        if not options.speed_only:
            figures["weights"] = compare_weights(Path(scratch), options.original)
    text = json.dumps(figures, indent=2)
    if options.json:
        options.json.write_text(text)
    print(text)


def measure(folder: Path, original: str, providers: list[str], threads: str, shape: tuple[int, ...]) -> dict[str, Any]:
    """Run the original and each provider once on the same case."""
    case = folder / "case.npz"
    np.savez(case, array=head(shape)[np.newaxis], spacing=(1.0, 1.0, 1.0))
    run([original, str(ORIGINAL), "make", str(folder / "network"), json.dumps(NETWORK)])
    wide, stored = (install(folder, "network", float16=kind) for kind in (False, True))
    figures: dict[str, Any] = {"size_ratio": round(size(stored) / size(wide), 4)}
    answer = folder / "original.npz"
    settings = json.dumps({"threads": int(threads), "half": True})
    cpu_s = run([original, "-W", "ignore", str(ORIGINAL), "predict", str(folder / "network"), str(case), str(answer), settings])
    with np.load(answer) as content:
        theirs = content["probabilities"][1]
        figures["original"] = {"seconds": float(content["seconds"]), "cpu_s": cpu_s, "peak_mb": float(content["peak_mb"])}
    for provider in providers:
        out = folder / f"{provider}.npz"
        cpu_s = run([sys.executable, "-m", "scripts.bench.nnunet", "child", str(stored), str(case), str(out), provider, threads])
        with np.load(out) as content:
            row = {"seconds": float(content["seconds"]), "cpu_s": cpu_s, "peak_mb": float(content["peak_mb"])}
            apart = np.abs(content["probability"] - theirs)
        row |= {"mean_apart": float(apart.mean()), "largest_apart": float(apart.max())}
        row |= {f"{key}_ratio": round(figures["original"][key] / row[key], 2) for key in ("seconds", "cpu_s", "peak_mb")}
        figures[provider] = row
        print(provider, row, flush=True)
    return figures


def child(bundle: str, case: str, answer: str, provider: str, threads: str) -> None:
    """Answer the case once in this process and write what it took."""
    from pipeline.bundle import load_bundle
    from pipeline.inference.benchmark import peak_memory_mb
    from pipeline.inference.session import open_network
    from pipeline.segmenters.nnunet import predict_array, window_of

    loaded = load_bundle(Path(bundle))
    if loaded.nnunet is None:
        raise SystemExit(f"{bundle} is no nnU-Net")
    with np.load(case) as content:
        array, spacing = content["array"].astype(np.float32), tuple(float(size) for size in content["spacing"])
    networks = [open_network(loaded, int(threads), name, provider) for name in loaded.graphs]
    started = time.perf_counter()
    probability, _ = predict_array(networks, loaded.nnunet, window_of(loaded), array, (spacing[0], spacing[1], spacing[2]))
    seconds = time.perf_counter() - started
    np.savez(answer, probability=probability, seconds=seconds, peak_mb=peak_memory_mb())


def compare_weights(folder: Path, original: str) -> dict[str, Any]:
    """Two one-sided tests of the Dice of Float16 against Float32 weights, a briefly trained network on held-out balls."""
    from scipy import stats

    from pipeline.bundle import load_bundle
    from pipeline.inference.session import open_network
    from pipeline.segmenters.nnunet import predict_array, window_of

    run([original, str(ORIGINAL), "make", str(folder / "small"), json.dumps(SMALL)])
    scores: list[list[float]] = []
    for kind in (False, True):
        bundle = load_bundle(install(folder, "small", float16=kind))
        if bundle.nnunet is None:
            raise SystemExit("the small network is no nnU-Net")
        network, row = open_network(bundle, 2), []
        for seed in range(CASES):
            image, truth = ball(seed)
            found = predict_array([network], bundle.nnunet, window_of(bundle), image[np.newaxis], (1.0, 1.0, 1.0))[0] >= 0.5
            row.append(2 * int((found & truth).sum()) / (int(found.sum()) + int(truth.sum())))
        scores.append(row)
    apart = np.array(scores[1]) - np.array(scores[0])
    # Equal answers have no spread; the smallest counts instead.
    error = max(float(apart.std(ddof=1)) / CASES**0.5, 1e-12)
    p = max(float(stats.t.sf((apart.mean() + MARGIN) / error, CASES - 1)), float(stats.t.cdf((apart.mean() - MARGIN) / error, CASES - 1)))
    figures = {"cases": CASES, "dice_float32": float(np.mean(scores[0])), "mean_change": float(apart.mean())}
    return figures | {"largest_change": float(np.abs(apart).max()), "margin": MARGIN, "tost_p": p}


def install(folder: Path, name: str, *, float16: bool) -> Path:
    """Import the folder without the comparison, which the tests make; return the bundle's folder."""
    from pipeline.importing import nnunet_folder

    nnunet_folder.check_parity = lambda *_: ()  # type: ignore[assignment]
    options = nnunet_folder.NnUNetOptions(("t1",), name, float16=float16)
    return nnunet_folder.import_nnunet(folder / name, folder / ("float16" if float16 else "float32"), options).bundle.folder


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


def run(command: list[str]) -> float:
    """Run a child to its end and return its CPU seconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()
