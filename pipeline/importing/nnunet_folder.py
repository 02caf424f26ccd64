"""`import_nnunet`: a trained nnU-Net's folder or ZIP becomes a bundle.

It becomes one once it has answered as the original does.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from pipeline.bundles.bundle import Bundle, verify_bundle
from pipeline.counts import counted
from pipeline.importing.archive import find_results, open_source
from pipeline.importing.bundle_files import graph_name, staged_bundle, write_bundle
from pipeline.importing.graph import INPUT, OUTPUT, write_graph
from pipeline.importing.network import Weights
from pipeline.importing.parity import Original, choose_cases
from pipeline.importing.problem import ImportProblem
from pipeline.importing.trained import Trained, read_trained
from pipeline.importing.weights import FLOAT16, WANTED, Choice, choose_weights
from pipeline.segmenters.families import find_bundle
from pipeline.segmenters.nnunet.segment import Window
from pipeline.segmenters.nnunet.spec import ORIENTATIONS, REFERENCE, NnUNetSpec

_STEP = 0.5
ROLES = ("t1", "flair")
STATEMENT = (
    "Imported by this installation; the project has not validated it. For research use; not for diagnosis."
)


@dataclass(frozen=True)
class NnUNetOptions:
    """What a result folder does not say.

    Attributes
    ----------
    channels
        Role of each channel in the network's order; must be given, it is never taken from a name in the
        folder.
    orientation
        Directions in which the training images' column, row and slice index grow.
    head
        "brain-extracted" or "whole-head": what the training images showed.
    grid
        The role whose voxels the channels are brought onto, or "reference" (the FLAIR where there is one).
    folds, lesion_labels
        None: every fold; the one foreground label.
    weights
        "float16", "float32", or "auto": Float16 where every case stays within 1e-4 of the original, else
        Float32.
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
    weights: str = "auto"


@dataclass(frozen=True, eq=False)
class Imported:
    """The installed bundle, its comparison with the original, and what was read.

    The comparison also says which weights the bundle keeps.
    """

    bundle: Bundle
    choice: Choice
    facts: Mapping[str, Any]


def import_nnunet(
    source: Path,
    models: Path,
    options: NnUNetOptions,
    progress: Callable[[str], None] | None = None,
    *,
    cases: tuple[Path, ...] = (),
    threads: int = 1,
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
    name = (
        options.name or re.sub(r"[^a-z0-9]+", "-", f"nnunet-{trained.plans.dataset}".lower()).strip("-")[:64]
    )
    facts = _facts(trained)
    original = Original(
        trained, spec, Window(trained.plans.spacing_mm, trained.plans.patch, _STEP, gaussian=True)
    )
    chosen_cases = choose_cases(cases, spec, original.window)
    with staged_bundle(models, name, options.version) as folder:

        def install(kind: str, choice: Choice | None = None) -> Bundle:
            manifest = _manifest(trained, spec, options, name, facts) | {
                "measured": _measured(choice) if choice else {}
            }
            graphs = _graphs(trained, spec, float16=kind == FLOAT16)
            bundle = write_bundle(folder, graphs, manifest, _card(trained, name, options, facts, choice))
            say("running each graph once")
            verify_bundle(bundle)
            return bundle

        choice = choose_weights(
            options.weights, install, original, chosen_cases, threads=threads, progress=say
        )
        install(choice.kept, choice)
    return Imported(find_bundle(models, f"{name}/{options.version}"), choice, facts)


def _spec(trained: Trained, options: NnUNetOptions) -> NnUNetSpec:
    plans = trained.plans
    channel_list = ", ".join(f"{number} = {name}" for number, name in enumerate(plans.channel_names))
    if not options.channels:
        raise ImportProblem(
            f"say which image each channel is (--channels, from {', '.join(ROLES)}); the dataset "
            f"calls them {channel_list}"
        )
    if len(options.channels) != len(plans.schemes) or len(set(options.channels)) != len(options.channels):
        raise ImportProblem(
            f"{counted(len(options.channels), 'channel role was', 'channel roles were')} given, "
            f"the network takes {counted(len(plans.schemes), 'image', 'different images')}: {channel_list}"
        )
    for role in options.channels:
        if role not in ROLES:
            raise ImportProblem(f"{role!r} is not a channel role of the node; known are {', '.join(ROLES)}")
    if options.weights not in WANTED:
        raise ImportProblem(f"the weights {options.weights!r} are none of {', '.join(WANTED)}")
    if options.grid not in (REFERENCE, *options.channels):
        raise ImportProblem(
            f"the grid {options.grid!r} is none of {', '.join((REFERENCE, *options.channels))}"
        )
    if options.orientation not in ORIENTATIONS:
        raise ImportProblem(f"the orientation {options.orientation!r} is none of {', '.join(ORIENTATIONS)}")
    labels = options.lesion_labels or (tuple(plans.labels) if len(plans.labels) == 1 else ())
    if not labels or not set(labels) <= set(plans.labels):
        label_list = ", ".join(f"{value} = {name}" for value, name in plans.labels.items())
        raise ImportProblem(f"say which labels are lesion (--lesion-label); the network knows {label_list}")
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


def _graphs(trained: Trained, spec: NnUNetSpec, *, float16: bool) -> dict[str, onnx.ModelProto]:
    from pipeline.training.onnx_graph import ExportError, store_as_float16

    graphs = {}
    for number, (fold, arrays) in enumerate(trained.folds.items()):
        model, classes = write_graph(
            trained.plans.layout, Weights(arrays), len(spec.schemes), trained.plans.patch
        )
        if classes != spec.classes:
            raise ImportProblem(
                f"fold {fold}: the network gives {counted(classes, 'class', 'classes')}, "
                f"the labels are {spec.classes}"
            )
        try:
            graphs[graph_name(number)] = store_as_float16(model) if float16 else model
        except ExportError as problem:
            raise ImportProblem(f"fold {fold}: {problem}; keep them as Float32 (--weights float32)") from None
    return graphs


def _facts(trained: Trained) -> dict[str, Any]:
    plans = trained.plans
    return {
        "source": f"nnU-Net v{plans.version} {plans.dataset} {plans.configuration}",
        "trainer": trained.trainer,
        "folds": list(trained.folds),
        "channel_names": list(plans.channel_names),
        "labels": [f"{value} = {name}" for value, name in plans.labels.items()],
    }


def _manifest(
    trained: Trained, spec: NnUNetSpec, options: NnUNetOptions, name: str, facts: Mapping[str, Any]
) -> dict[str, Any]:
    plans = trained.plans
    return {
        "schema": 1,
        "name": name,
        "version": options.version,
        "task": "lesion",
        "family": "patch3d",
        "statement": STATEMENT,
        "intended_use": (
            f"Imported from {facts['source']}; its intended use is for whoever imported it to state."
        ),
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
        "window": {
            "step": _STEP,
            "gaussian": True,
            "aggregate": "logits" if plans.version == 2 else "probabilities",
        },
        "output": {
            "name": OUTPUT,
            "activation": "softmax",
            "threshold": options.threshold,
            "minimum_volume_mm3": options.minimum_volume_mm3,
            "connectivity": options.connectivity,
        },
        "training": {key: facts[key] for key in ("source", "trainer", "folds", "channel_names", "labels")},
    }


def _measured(choice: Choice) -> dict[str, Any]:
    rows = choice.kept_parity
    figures: dict[str, Any] = {
        "weights": choice.kept,
        "weights_because": choice.because,
        "parity_cases": len(rows),
    }
    for key in ("mean_difference", "largest_difference", "mask_difference"):
        figures[f"parity_{key}"] = max(getattr(row, key) for row in rows)
    if choice.equivalence:
        test = choice.equivalence
        figures |= {
            "tost_p": test.p_value,
            "tost_margin": test.margin,
            "tost_cases": test.cases,
            "tost_mean_change": test.mean_difference,
        }
    return figures


def _card(
    trained: Trained, name: str, options: NnUNetOptions, facts: Mapping[str, Any], choice: Choice | None
) -> str:
    roles = ", ".join(f"{number} = {role}" for number, role in enumerate(options.channels))
    return f"""# {name} {options.version}

**{STATEMENT}**

Imported from {facts["source"]} (trainer {facts["trainer"]}, folds {", ".join(trained.folds)}).

- Channels: {roles}. The dataset called them {", ".join(trained.plans.channel_names)}.
- Images as in training: {options.head}, axes growing to {options.orientation}; voxels of {options.grid}.
- Licence: {options.licence}.
- Training data, results, known failures: to be written by whoever imported it.
{_agreement(choice) if choice else ""}"""


def _agreement(choice: Choice) -> str:
    rows = "\n".join(row.row() for row in choice.parity)
    return f"""
## Agreement with the original at import

Weights are kept as {choice.kept}: {choice.because}. {choice.test_words()}

| case | compared with | weights | mean difference of probability | largest \
| 1 - Dice of the masks | lesion voxels |
| --- | --- | --- | --- | --- | --- | --- |
{rows}
"""
