"""`import_nnunet`: a trained nnU-Net's folder or ZIP becomes a bundle, once it has answered as the original does."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx

from pipeline.bundle import Bundle, find_bundle, verify_bundle
from pipeline.importing.archive import find_results, open_source
from pipeline.importing.bundle_files import graph_name, staged_bundle, write_bundle
from pipeline.importing.graph import INPUT, OUTPUT, write_graph
from pipeline.importing.network import Weights
from pipeline.importing.parity import Parity, check_parity
from pipeline.importing.problem import ImportProblem
from pipeline.importing.trained import Trained, read_trained
from pipeline.nnunet_manifest import ORIENTATIONS, REFERENCE, NnUNetSpec

ROLES = ("t1", "flair")
STATEMENT = "Imported by this installation; the project has not validated it. For research use; not for diagnosis."


@dataclass(frozen=True)
class NnUNetOptions:
    """What a result folder does not say.

    Attributes
    ----------
    channels
        Role of each channel in the network's order; must be given, it is never taken from a name in the folder.
    orientation
        Directions in which the training images' column, row and slice index grow.
    head
        "brain-extracted" or "whole-head": what the training images showed.
    grid
        The role whose voxels the channels are brought onto, or "reference" (the FLAIR where there is one).
    folds, lesion_labels
        None: every fold; the one foreground label.
    float16
        Store the weights as Float16.
    """

    channels: tuple[str, ...] = ()
    name: str | None = None
    version: str = "1.0.0"
    orientation: str = "RAS"
    head: str = "brain-extracted"
    grid: str = REFERENCE
    folds: tuple[str, ...] | None = None
    lesion_labels: tuple[int, ...] | None = None
    mirroring: bool = True
    threshold: float = 0.5
    minimum_volume_mm3: float = 0.0
    connectivity: int = 26
    licence: str = "not stated: ask whoever trained it before any use"
    float16: bool = True


@dataclass(frozen=True, eq=False)
class Imported:
    """The installed bundle, how it compares with the original, and what was read."""

    bundle: Bundle
    parity: tuple[Parity, ...]
    facts: Mapping[str, Any]


def import_nnunet(
    source: Path, models: Path, options: NnUNetOptions, progress: Callable[[str], None] | None = None, *, cases: tuple[Path, ...] = ()
) -> Imported:
    """Install a trained nnU-Net below `models`.

    Parameters
    ----------
    source
        Result folder (`nnUNetTrainer__nnUNetPlans__3d_fullres`, or one above it), or a ZIP of it.
    cases
        NumPy files (`array` (channel, slice, row, column), `spacing`) to compare on; none: synthetic ones.

    Raises
    ------
    ImportProblem, BundleError
        It cannot be imported; the message says why, and nothing was installed.
    """
    say = progress or (lambda text: None)
    say("reading plans and weights")
    with open_source(source) as root:
        trained = read_trained(find_results(root, options.folds))
    spec = _spec(trained, options)
    name = options.name or re.sub(r"[^a-z0-9]+", "-", f"nnunet-{trained.plans.dataset}".lower()).strip("-")[:64]
    with staged_bundle(models, name, options.version) as folder:
        say("writing the graphs")
        graphs, classes = _graphs(trained, spec, float16=options.float16)
        if classes != spec.classes:
            raise ImportProblem(f"the network gives {classes} classes, the labels are {spec.classes}")
        facts = _facts(trained, options)
        bundle = write_bundle(folder, graphs, _manifest(trained, spec, options, name, facts), _card(trained, name, options, facts, ()))
        say("running each graph once")
        verify_bundle(bundle)
        say("comparing with the original")
        parity = check_parity(bundle, trained, cases)
        measured = {f"parity_{key}": value for each in parity[:1] for key, value in asdict(each).items()}
        manifest = {**_manifest(trained, spec, options, name, facts), "measured": measured}
        write_bundle(folder, graphs, manifest, _card(trained, name, options, facts, parity))
    return Imported(find_bundle(models, f"{name}/{options.version}"), parity, facts)


def _spec(trained: Trained, options: NnUNetOptions) -> NnUNetSpec:
    plans = trained.plans
    seen = ", ".join(f"{number} = {name}" for number, name in enumerate(plans.channel_names))
    if not options.channels:
        raise ImportProblem(f"say which image each channel is (--channels, from {', '.join(ROLES)}); the dataset calls them {seen}")
    if len(options.channels) != len(plans.schemes) or len(set(options.channels)) != len(options.channels):
        raise ImportProblem(
            f"{len(options.channels)} channel roles were given, the network takes {len(plans.schemes)} different images: {seen}"
        )
    for role in options.channels:
        if role not in ROLES:
            raise ImportProblem(f"{role!r} is not a channel role of the node; known are {', '.join(ROLES)}")
    if options.grid not in (REFERENCE, *options.channels):
        raise ImportProblem(f"the grid {options.grid!r} is none of {', '.join((REFERENCE, *options.channels))}")
    if options.orientation not in ORIENTATIONS:
        raise ImportProblem(f"the orientation {options.orientation!r} is none of {', '.join(ORIENTATIONS)}")
    labels = options.lesion_labels or (tuple(plans.labels) if len(plans.labels) == 1 else ())
    if not labels or not set(labels) <= set(plans.labels):
        known = ", ".join(f"{value} = {name}" for value, name in plans.labels.items())
        raise ImportProblem(f"say which labels are lesion (--lesion-label); the network knows {known}")
    return NnUNetSpec(
        version=plans.version,
        transpose=plans.transpose,
        planar=plans.planar,
        schemes=plans.schemes,
        masked=plans.masked,
        mirror_axes=trained.mirror_axes if options.mirroring else (),
        classes=len(plans.labels) + 1,
        lesion_classes=tuple(sorted(labels)),
        orientation=options.orientation,
        grid=options.grid,
        intensity=plans.intensity,
    )


def _graphs(trained: Trained, spec: NnUNetSpec, *, float16: bool) -> tuple[dict[str, onnx.ModelProto], int]:
    from pipeline.training.onnx_graph import ExportError, store_as_float16

    graphs, seen = {}, set()
    for number, (fold, arrays) in enumerate(trained.folds.items()):
        model, classes = write_graph(trained.plans.layout, Weights(arrays), len(spec.schemes), trained.plans.patch)
        seen.add(classes)
        try:
            graphs[graph_name(number)] = store_as_float16(model) if float16 else model
        except ExportError as problem:
            raise ImportProblem(f"fold {fold}: {problem}; keep them as Float32 (--float32)") from None
    if len(seen) != 1:
        raise ImportProblem(f"the folds give different numbers of classes: {sorted(seen)}")
    return graphs, seen.pop()


def _facts(trained: Trained, options: NnUNetOptions) -> dict[str, Any]:
    plans = trained.plans
    return {
        "source": f"nnU-Net v{plans.version} {plans.dataset} {plans.configuration}",
        "trainer": trained.trainer,
        "folds": list(trained.folds),
        "channel_names": list(plans.channel_names),
        "labels": [f"{value} = {name}" for value, name in plans.labels.items()],
        "weights": "Float16" if options.float16 else "Float32",
    }


def _manifest(trained: Trained, spec: NnUNetSpec, options: NnUNetOptions, name: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    plans = trained.plans
    return {
        "schema": 1,
        "name": name,
        "version": options.version,
        "task": "lesion",
        "family": "patch3d",
        "statement": STATEMENT,
        "intended_use": f"Imported from {facts['source']}; its intended use is for whoever imported it to state.",
        "licence": options.licence,
        "input": {
            "name": INPUT,
            "channels": list(options.channels),
            "accepts": [list(options.channels)],
            "head": options.head,
            "spacing_mm": list(plans.spacing_mm),
            "patch": list(plans.patch),
            "dtype": "float32",
        },
        "preprocess": {"resample": "nnunet", "normalise": "nnunet"},
        "nnunet": spec.table(),
        "window": {"step": 0.5, "gaussian": True, "aggregate": "logits" if plans.version == 2 else "probabilities"},
        "output": {
            "name": OUTPUT,
            "activation": "softmax",
            "threshold": options.threshold,
            "minimum_volume_mm3": options.minimum_volume_mm3,
            "connectivity": options.connectivity,
        },
        "training": {key: facts[key] for key in ("source", "trainer", "folds", "channel_names", "labels")},
    }


def _card(trained: Trained, name: str, options: NnUNetOptions, facts: Mapping[str, Any], parity: tuple[Parity, ...]) -> str:
    rows = "\n".join(each.row() for each in parity)
    roles = ", ".join(f"{number} = {role}" for number, role in enumerate(options.channels))
    return f"""# {name} {options.version}

**{STATEMENT}**

Imported from {facts["source"]} (trainer {facts["trainer"]}, folds {", ".join(trained.folds)}, weights {facts["weights"]}).

- Channels: {roles}. The dataset called them {", ".join(trained.plans.channel_names)}.
- Images as in training: {options.head}, axes growing to {options.orientation}; voxels of {options.grid}.
- Licence: {options.licence}.
- Training data, results, known failures: to be written by whoever imported it.

## Agreement with the original at import

| case | compared with | mean difference of probability | largest | 1 - Dice of the masks |
| --- | --- | --- | --- | --- |
{rows}
"""
