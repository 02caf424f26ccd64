"""What a result folder's plans say, of nnU-Net v2 (`plans.json`, `dataset.json`) and v1 (`plans.pkl`).

As one record.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.counts import counted
from pipeline.geometry import Shape, Triple, as_shape
from pipeline.importing.network import Layout
from pipeline.importing.problem import ImportProblem
from pipeline.segmenters.nnunet.spec import Intensity

_SCHEMES_V2 = {
    "ZScoreNormalization": "zscore",
    "CTNormalization": "ct",
    "NoNormalization": "none",
    "RescaleTo01Normalization": "rescale-0-1",
    "RGBTo01Normalization": "rgb-0-1",
}
_PREPROCESSORS = ("DefaultPreprocessor", "GenericPreprocessor", "PreprocessorFor2D")
_KINDS = {"PlainConvUNet": "plain", "ResidualEncoderUNet": "residual"}
_RESAMPLING = {
    "resampling_fn_data": {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None},
    "resampling_fn_probabilities": {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None},
}


@dataclass(frozen=True)
class Plans:
    """Everything that inference needs and the weights do not say; axes are the network's (transposed).

    Attributes
    ----------
    channel_names
        As the dataset names them ("T1w", "FLAIR"): shown, never trusted as roles.
    labels
        Label value to name, background left out.
    """

    version: int
    dataset: str
    configuration: str
    transpose: tuple[int, int, int]
    spacing_mm: Triple
    patch: Shape
    planar: bool
    schemes: tuple[str, ...]
    masked: tuple[bool, ...]
    intensity: tuple[Intensity, ...]
    channel_names: tuple[str, ...]
    labels: Mapping[int, str]
    layout: Layout


def read_plans_v2(plans: Mapping[str, Any], dataset: Mapping[str, Any], configuration: str) -> Plans:
    """Read `plans.json` (old or new form) and `dataset.json` for one configuration.

    Raises
    ------
    ImportProblem
        Something is missing, or it asks for what is not supported; the message names it.
    """
    try:
        names, labels = _channels(dataset), _labels(dataset)
    except (TypeError, ValueError) as problem:
        raise ImportProblem(
            f"dataset.json is not as nnU-Net writes it: {type(problem).__name__} {problem}"
        ) from None
    try:
        configuration_values = _inherited(plans["configurations"], configuration)
        if configuration_values.get("previous_stage"):
            raise ImportProblem(
                f"configuration {configuration!r} is the second stage of a cascade, which is not supported"
            )
        spacing, patch = (
            [float(size) for size in configuration_values["spacing"]],
            [int(size) for size in configuration_values["patch_size"]],
        )
        planar = len(patch) == 2
        _check_resampling(configuration_values)
        _check_preprocessor(str(configuration_values.get("preprocessor_name", _PREPROCESSORS[0])))
        schemes = tuple(_scheme_v2(name) for name in configuration_values["normalization_schemes"])
        masked = tuple(bool(flag) for flag in configuration_values["use_mask_for_norm"])
        facts = plans.get(
            "foreground_intensity_properties_per_channel",
            plans.get("foreground_intensity_properties_by_modality", {}),
        )
        first, second, third = (int(axis) for axis in plans["transpose_forward"])
        read = Plans(
            version=2,
            dataset=str(plans.get("dataset_name", "nnunet")),
            configuration=configuration,
            transpose=(first, second, third),
            # A 2D network leaves the first axis as it is: its spacing there is never used.
            spacing_mm=_triple([1.0, *spacing] if planar else spacing),
            patch=as_shape((1, *patch) if planar else tuple(patch)),
            planar=planar,
            schemes=schemes,
            masked=masked,
            intensity=_intensities(facts, len(schemes)) if "ct" in schemes else (),
            channel_names=names,
            labels=labels,
            layout=_layout_v2(configuration_values, len(patch)),
        )
    except (KeyError, TypeError, ValueError, IndexError) as problem:
        raise ImportProblem(
            f"plans.json is not as nnU-Net writes it: {type(problem).__name__} {problem}"
        ) from None
    if len(names) != len(schemes):
        raise ImportProblem(
            f"dataset.json names {counted(len(names), 'channel')}, plans.json normalises {len(schemes)}"
        )
    return read


def read_plans_v1(plans: Mapping[str, Any], stage: int) -> Plans:
    """Read v1's `plans.pkl`, already loaded by the restricted unpickler.

    One stage is read (the last is full resolution).

    Raises
    ------
    ImportProblem
        Something is missing, or it asks for what is not supported; the message names it.
    """
    try:
        configuration_values = plans["plans_per_stage"][stage]
        patch = tuple(int(size) for size in configuration_values["patch_size"])
        planar = len(patch) == 2
        modalities = [str(plans["modalities"][number]) for number in sorted(plans["modalities"])]
        # "nonCT" is any name that v1 does not treat specially.
        schemes = tuple(
            {"CT": "ct", "CT2": "CT2", "noNorm": "none"}.get(str(plans["normalization_schemes"][n]), "zscore")
            for n in range(len(modalities))
        )
        if "CT2" in schemes:
            raise ImportProblem("plans.pkl asks for the normalisation 'CT2', which is not supported")
        _check_preprocessor(str(plans.get("preprocessor_name", _PREPROCESSORS[1])))
        properties = plans.get("dataset_properties", {}).get("intensityproperties") or {}
        first, second, third = (int(axis) for axis in plans.get("transpose_forward", (0, 1, 2)))
        pools = [tuple(int(step) for step in pool) for pool in configuration_values["pool_op_kernel_sizes"]]
        spacing = [float(size) for size in configuration_values["current_spacing"]]
        return Plans(
            version=1,
            dataset=str(plans.get("data_identifier", "nnunet-v1")),
            configuration="2d" if planar else "3d_fullres",
            transpose=(first, second, third),
            spacing_mm=_triple(spacing),
            patch=as_shape((1, *patch) if planar else patch),
            planar=planar,
            schemes=schemes,
            masked=tuple(bool(plans["use_mask_for_norm"][number]) for number in range(len(modalities))),
            intensity=_intensities(properties, len(schemes)) if "ct" in schemes else (),
            channel_names=tuple(modalities),
            labels={int(value): str(value) for value in plans["all_classes"]},
            layout=Layout("generic", ((1,) * len(patch), *pools)),
        )
    except (KeyError, TypeError, ValueError, IndexError) as problem:
        raise ImportProblem(
            f"plans.pkl is not as nnU-Net v1 writes it: {type(problem).__name__} {problem}"
        ) from None


def _inherited(
    configurations: Mapping[str, Any], name: str, visited_names: tuple[str, ...] = ()
) -> dict[str, Any]:
    if name not in configurations:
        raise ImportProblem(f"plans.json has no configuration {name!r}; it has {', '.join(configurations)}")
    if name in visited_names:
        raise ImportProblem(f"plans.json: configuration {name!r} inherits from itself")
    own_values = configurations[name]
    parent = own_values.get("inherits_from")
    return {**(_inherited(configurations, parent, (*visited_names, name)) if parent else {}), **own_values}


def _channels(dataset: Mapping[str, Any]) -> tuple[str, ...]:
    names = dataset.get("channel_names", dataset.get("modality"))
    if not isinstance(names, dict) or not names:
        raise ImportProblem("dataset.json names no channels (channel_names)")
    return tuple(str(names[key]) for key in sorted(names, key=int))


def _labels(dataset: Mapping[str, Any]) -> dict[int, str]:
    labels = dataset.get("labels")
    if not isinstance(labels, dict) or "background" not in labels:
        raise ImportProblem("dataset.json has no labels with a background")
    if dataset.get("regions_class_order") or any(
        isinstance(value, list) and len(value) > 1 for value in labels.values()
    ):
        raise ImportProblem("dataset.json has region-based labels, which are not supported")
    values = {
        int(value[0] if isinstance(value, list) else value): name
        for name, value in labels.items()
        if name != "ignore"
    }
    if sorted(values) != list(range(len(values))):
        raise ImportProblem(f"dataset.json: label values must be 0, 1, 2, ..., they are {sorted(values)}")
    return {value: name for value, name in values.items() if value}


def _scheme_v2(name: str) -> str:
    if name not in _SCHEMES_V2:
        raise ImportProblem(
            f"plans.json asks for the normalisation {name!r}; known are {', '.join(_SCHEMES_V2)}"
        )
    return _SCHEMES_V2[name]


def _check_preprocessor(name: str) -> None:
    if name not in _PREPROCESSORS:
        raise ImportProblem(
            f"the plans ask for the preprocessor {name!r}; known are {', '.join(_PREPROCESSORS)}"
        )


def _check_resampling(configuration_values: Mapping[str, Any]) -> None:
    for key, required_value in _RESAMPLING.items():
        function = configuration_values.get(key, "resample_data_or_seg_to_shape")
        settings = {**required_value, **configuration_values.get(f"{key}_kwargs", {})}
        if function != "resample_data_or_seg_to_shape" or settings != required_value:
            raise ImportProblem(
                f"plans.json: {key} {function} with {settings} is not supported, only nnU-Net's "
                f"default {required_value}"
            )


def _layout_v2(configuration_values: Mapping[str, Any], dimensions: int) -> Layout:
    if "architecture" not in configuration_values:
        return Layout(
            _kind(configuration_values["UNet_class_name"]),
            _strides(configuration_values["pool_op_kernel_sizes"], dimensions),
        )
    arguments = configuration_values["architecture"]["arch_kwargs"]
    kind = _kind(configuration_values["architecture"]["network_class_name"])
    norm, activation = str(arguments["norm_op"]), str(arguments["nonlin"])
    if "InstanceNorm" not in norm:
        raise ImportProblem(
            f"plans.json: normalisation layer {norm!r} is not supported, only instance normalisation"
        )
    settings = arguments.get("norm_op_kwargs") or {}
    if not settings.get("affine", False):
        raise ImportProblem("plans.json: instance normalisation without scale and shift is not supported")
    slopes = {
        "LeakyReLU": float((arguments.get("nonlin_kwargs") or {}).get("negative_slope", 0.01)),
        "ReLU": 0.0,
    }
    if activation.rsplit(".", maxsplit=1)[-1] not in slopes:
        raise ImportProblem(
            f"plans.json: activation {activation!r} is not supported, only LeakyReLU and ReLU"
        )
    if arguments.get("pool_type", arguments.get("pool", "conv")) != "conv":
        raise ImportProblem("plans.json: pooling layers are not supported, only strided convolutions")
    slope = slopes[activation.rsplit(".", maxsplit=1)[-1]]
    return Layout(kind, _strides(arguments["strides"], dimensions), float(settings.get("eps", 1e-5)), slope)


def _kind(name: str) -> str:
    if name.rsplit(".", maxsplit=1)[-1] not in _KINDS:
        raise ImportProblem(f"architecture {name!r} is not supported; known are {', '.join(_KINDS)}")
    return _KINDS[name.rsplit(".", maxsplit=1)[-1]]


def _strides(values: Sequence[Any], dimensions: int) -> tuple[tuple[int, ...], ...]:
    strides = tuple(
        tuple(int(n) for n in value) if isinstance(value, list) else (int(value),) * dimensions
        for value in values
    )
    if not strides or any(len(stride) != dimensions for stride in strides):
        raise ImportProblem(f"plans.json: the strides {values} do not fit {dimensions} dimensions")
    return strides


def _intensities(facts: Mapping[Any, Any], channels: int) -> tuple[Intensity, ...]:
    rows = [facts.get(number, facts.get(str(number), {})) for number in range(channels)]
    keys = (
        ("mean", "std", "percentile_00_5", "percentile_99_5"),
        ("mean", "sd", "percentile_00_5", "percentile_99_5"),
    )
    picked = [
        next([float(row[key]) for key in names] for names in keys if set(names) <= set(row)) for row in rows
    ]
    return tuple(Intensity(*values) for values in picked)


def _triple(values: Sequence[float]) -> Triple:
    first, second, third = values
    return first, second, third
