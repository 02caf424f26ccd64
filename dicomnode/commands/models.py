"""What `dicomnode models ...` does and prints.

The rooms are imported where they are used, so `--help` is quick.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import typer

from dicomnode.commands.terminal import COLOURS, console, print_rows, spinner
from dicomnode.errors import ConfigError, NodeError
from dicomnode.settings.config import Config

if TYPE_CHECKING:
    from pipeline.bundles.bundle import Bundle

_Found = TypeVar("_Found")


def list_models(config: Config, as_json: bool) -> None:
    """Print the bundles that are there."""
    from pipeline.segmenters.families import list_bundles

    names = ("name", "version", "task", "family", "channels", "MB", "sha256", "licence")
    rows, statements = [], []
    for bundle in _found(lambda: list_bundles(_folder(config))):
        # An ensemble is as large as the bundles that it asks.
        graphs = [file for member in (bundle.members or (bundle,)) for file in member.folder.glob("*.onnx")]
        size_mb = sum(file.stat().st_size for file in graphs) / 1e6
        cells = (
            bundle.name,
            bundle.version,
            bundle.task,
            bundle.family,
            "+".join(bundle.channels),
            f"{size_mb:.1f}",
        )
        rows.append([*cells, bundle.sha256 if as_json else bundle.sha256[:12], bundle.licence])
        statements.append((bundle.statement, bundle.training_data))
    if as_json:
        columns = (*names, "statement", "training_data")
        print_rows(
            columns,
            [[*row, *statement_cells] for row, statement_cells in zip(rows, statements, strict=True)],
            as_json=True,
        )
        return
    print_rows(names, rows, as_json=False)
    for row, (statement, data) in zip(rows, statements, strict=True):
        console.print(f"{row[0]}: {statement}" + (f" Training data: {data}" if data else ""), highlight=False)


def show_model(config: Config, name: str) -> None:
    """Print a bundle's manifest and card."""
    from pipeline.segmenters.families import find_bundle

    folder = _found(lambda: find_bundle(_folder(config), name)).folder
    for file in ("model.toml", "CARD.md"):
        console.rule(file)
        console.print((folder / file).read_text(encoding="utf-8"), markup=False, highlight=False)


def verify_models(config: Config, name: str | None, as_json: bool, *, quick: bool = False) -> bool:
    """Check bundles; False when one is not as its manifest says.

    Where torch is installed, a bundle that was exported here is also run beside torch on its proof's cases,
    unless `quick`.
    """
    from pipeline.bundles.bundle import verify_bundle
    from pipeline.errors import BundleError
    from pipeline.segmenters.families import find_bundle, list_bundles

    models = _folder(config)
    bundles = [_found(lambda: find_bundle(models, name))] if name else list_bundles(models)
    rows = []
    with spinner(quiet=as_json) as progress:
        for bundle in bundles:
            try:
                verify_bundle(bundle)
                verdict = "hash, graph and a run agree with the manifest" + (
                    "" if quick else _prove(bundle, progress)
                )
                if calibrated := bundle.output.calibration:
                    images = " and ".join(calibrated.images)
                    verdict += f"; certainty of {images} calibrated on {calibrated.calibration.origin}"
                rows.append([bundle.name, bundle.version, "ok", verdict])
            except BundleError as problem:
                rows.append([bundle.name, bundle.version, "problem", str(problem)])
    if not rows:
        raise NodeError(f"{models} holds no model bundle")
    print_rows(("name", "version", "level", "seen"), rows, as_json, colours=COLOURS)
    return all(row[2] == "ok" for row in rows)


def _prove(bundle: Bundle, progress: Callable[[str], None]) -> str:
    """Return in words what comparing a bundle with torch gave, or why it was not compared.

    Raises
    ------
    BundleError
        The bundle does not answer as torch does, or its proof does not hold.
    """
    if not bundle.members and not (bundle.folder / "proof.toml").exists():
        return ""
    try:
        import torch  # noqa: F401  only whether it is there
    except ImportError:
        return "; not compared with torch, which is not installed (its card has the figures of the export)"
    from pipeline.training.verify import check_members, verify_proof

    if bundle.members:
        names = " and ".join(f"{member.name}/{member.version}" for member in bundle.members)
        unproved = check_members(bundle)
        lacking = f"; not compared with torch: {' and '.join(unproved)}" if unproved else ""
        return f"; its members {names} answer{lacking or ': their proofs hold, see their own rows'}"
    exported, now = verify_proof(bundle, report=progress)
    return (
        f"; on {exported.cases} cases torch = ONNX Float32 (TOST on Dice, margin 0.001: "
        f"p = {exported.tost_p_float32:.0e}) = ONNX Float16 (p = {exported.tost_p_float16:.0e}, "
        f"masks' Dice at least {exported.mask_dice_worst:.4f}); run again: largest probability difference "
        f"{max(now.max_difference_forms, now.max_difference_float16):.0e}; "
        f"file {100 * now.size_ratio:.1f} % of Float32"
    )


def import_nnunet(
    config: Config,
    source: Path,
    cases: Sequence[Path],
    *,
    channels: str,
    name: str | None,
    version: str,
    orientation: str,
    head: str,
    folds: str,
    threshold: float,
    minimum_mm3: float,
    licence: str,
    grid: str,
    lesion_labels: str,
    mirroring: bool,
    weights: str,
) -> None:
    """Install a trained nnU-Net and print how it compares with the original."""
    _need_training_extra()
    from pipeline.importing.nnunet_folder import NnUNetOptions
    from pipeline.importing.nnunet_folder import import_nnunet as install

    if not all(label.isdigit() for label in _list(lesion_labels)):
        raise NodeError(f"--lesion-label takes label values such as 1,2, not {lesion_labels!r}")
    options = NnUNetOptions(
        channels=_list(channels),
        name=name,
        version=version,
        orientation=orientation,
        head=head,
        folds=_list(folds) or None,
        threshold=threshold,
        minimum_volume_mm3=minimum_mm3,
        grid=grid,
        lesion_labels=tuple(int(label) for label in _list(lesion_labels)) or None,
        mirroring=mirroring,
        weights=weights,
    )
    if licence:
        options = replace(options, licence=licence)
    with spinner(quiet=False) as progress:
        imported = _found(
            lambda: install(
                source, _folder(config), options, progress, cases=tuple(cases), threads=config.compute.threads
            )
        )
    choice = imported.choice
    rows = [
        [str(value) if not isinstance(value, float) else f"{value:.1e}" for value in asdict(parity).values()]
        for parity in choice.parity
    ]
    if rows:
        print_rows(tuple(asdict(choice.parity[0])), rows, as_json=False)
    console.print(
        f"Weights are kept as {choice.kept}: {choice.because}. {choice.test_words()}", highlight=False
    )
    _say_installed(imported.bundle.name, imported.bundle.version)


def import_onnx(config: Config, file: Path, manifest: Path) -> None:
    """Install an ONNX file by its manifest."""
    _need_training_extra()
    from pipeline.importing.onnx_file import import_onnx as install

    with spinner(quiet=False) as progress:
        bundle = _found(lambda: install(file, manifest, _folder(config), progress))
    _say_installed(bundle.name, bundle.version)


def remove_model(config: Config, name: str) -> None:
    """Take a bundle away."""
    from pipeline.importing.remove import remove_bundle

    for removed in _found(lambda: remove_bundle(_folder(config), name)):
        console.print(f"{removed} was removed", highlight=False)
        for key in ("lesion_model", "brain_model"):
            if getattr(config.pipeline, key).partition("/")[0] == removed.partition("/")[0]:
                console.print(
                    f"pipeline.{key} still names it: set another one before the node starts again",
                    highlight=False,
                )


def benchmark_models(config: Config, name: str | None, providers: Sequence[str], as_json: bool) -> bool:
    """Measure bundles per provider; False when one could not be measured."""
    from pipeline.segmenters.benchmark import benchmark_bundle
    from pipeline.segmenters.families import find_bundle, list_bundles

    bundles = (
        [_found(lambda: find_bundle(_folder(config), name))]
        if name
        else _found(lambda: list_bundles(_folder(config)))
    )
    figures = []
    with spinner(quiet=as_json) as progress:
        for bundle in bundles:
            progress(f"measuring {bundle.name}")
            # The function is called at once, so the loop's names hold what they held here.
            rows = _found(
                lambda: benchmark_bundle(bundle, providers, threads=config.compute.threads)  # noqa: B023
            )
            figures += [(f"{bundle.name}/{bundle.version}", row) for row in rows]
    if as_json:
        typer.echo(json.dumps([{"bundle": bundle, **asdict(row)} for bundle, row in figures], indent=2))
    else:
        cells = [
            [
                bundle,
                row.provider,
                str(row.threads),
                f"{row.load_s:.2f}",
                f"{row.patch_s:.3f}",
                f"{row.peak_mb:.0f}",
                f"{row.apart:.1e}",
                row.problem,
            ]
            for bundle, row in figures
        ]
        print_rows(
            (
                "bundle",
                "provider",
                "threads",
                "load, s",
                "patch, s",
                "peak, MiB",
                "apart from CPU",
                "problem",
            ),
            cells,
            as_json=False,
        )
    return not any(row.problem for _, row in figures)


def _folder(config: Config) -> Path:
    from dicomnode.answer import SHIPPED_MODELS

    return config.pipeline.models or SHIPPED_MODELS


def _list(text: str) -> tuple[str, ...]:
    return tuple(label_text.strip() for label_text in text.split(",") if label_text.strip())


def _say_installed(name: str, version: str) -> None:
    console.print(
        (
            f"{name}/{version} is installed; set pipeline.lesion_model to use it. Read its card "
            "first: it is not ours."
        ),
        highlight=False,
    )


def _need_training_extra() -> None:
    try:
        import onnx  # noqa: F401  only whether it is there
        import torch  # noqa: F401
    except ImportError as missing:
        raise ConfigError(
            [
                (
                    f"importing a network needs {missing.name}: pip install 'dicomnode-stroke[train]' on "
                    "the machine that imports"
                )
            ]
        ) from None


def _found(find: Callable[[], _Found]) -> _Found:
    from pipeline.errors import BundleError

    try:
        return find()
    except BundleError as problem:
        raise NodeError(str(problem)) from None
