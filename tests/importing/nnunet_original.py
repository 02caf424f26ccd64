"""Run by a Python that has `nnunetv2` (its own virtual environment): makes tiny result folders and predicts with the original.

    python nnunet_original.py make FOLDER '{"patch": [16, 24, 16], ...}'
    python nnunet_original.py predict FOLDER CASE.npz ANSWER.npz '{"half": false, "threads": 2, "mirroring": true}'
    python nnunet_original.py batch '[{"folder": ..., "make": {...}, "case": ..., "answer": ..., "predict": {...}}, ...]'

CASE.npz holds `array` (channel, slice, row, column) and `spacing`; ANSWER.npz gets `probabilities`, `seconds`, `cpu_s` and `peak_mb`.
It imports nothing of the project, and the project imports nothing of it.
"""

import json
import os
import sys
import time
from pathlib import Path

for _name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
    os.environ.setdefault(_name, "/nonexistent")
os.environ.setdefault("nnUNet_def_n_proc", "2")

DEFAULTS = {
    "kind": "plain", "patch": [16, 24, 16], "spacing": [1.0, 1.0, 1.0], "transpose": [0, 1, 2], "channels": 2, "labels": 1,
    "masked": False, "schemes": "ZScoreNormalization", "mirror": [0, 1, 2], "folds": [0], "old_plans": False,
    "features": [4, 8, 12], "kernels": None, "strides": None, "trained": 0, "seed": 0, "trainer": "nnUNetTrainer",
}  # fmt: skip


def configuration(options):
    dims = len(options["patch"])
    stages = len(options["features"])
    strides = options["strides"] or [[1] * dims] + [[2] * dims] * (stages - 1)
    kernels = options["kernels"] or [[3] * dims] * stages
    chosen = {
        "data_identifier": "nnUNetPlans_config", "preprocessor_name": "DefaultPreprocessor", "batch_size": 2,
        "patch_size": options["patch"], "median_image_size_in_voxels": options["patch"], "spacing": options["spacing"],
        "normalization_schemes": [options["schemes"]] * options["channels"], "use_mask_for_norm": [options["masked"]] * options["channels"],
        "resampling_fn_data": "resample_data_or_seg_to_shape", "resampling_fn_seg": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None},
        "resampling_fn_seg_kwargs": {"is_seg": True, "order": 1, "order_z": 0, "force_separate_z": None},
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities_kwargs": {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None},
        "batch_dice": False,
    }  # fmt: skip
    convs = [2] * stages if options["kind"] == "plain" else [1, *[2] * (stages - 1)]
    decoder = [2 if options["kind"] == "plain" else 1] * (stages - 1)
    if options["old_plans"]:
        name = "PlainConvUNet" if options["kind"] == "plain" else "ResidualEncoderUNet"
        chosen |= {
            "UNet_class_name": name, "UNet_base_num_features": options["features"][0], "unet_max_num_features": max(options["features"]),
            "n_conv_per_stage_encoder": convs, "n_conv_per_stage_decoder": decoder, "num_pool_per_axis": [stages - 1] * dims,
            "pool_op_kernel_sizes": strides, "conv_kernel_sizes": kernels,
        }  # fmt: skip
        return chosen
    name = "PlainConvUNet" if options["kind"] == "plain" else "ResidualEncoderUNet"
    chosen["architecture"] = {
        "network_class_name": f"dynamic_network_architectures.architectures.unet.{name}",
        "arch_kwargs": {
            "n_stages": stages, "features_per_stage": options["features"], "conv_op": f"torch.nn.modules.conv.Conv{dims}d",
            "kernel_sizes": kernels, "strides": strides, "n_conv_per_stage" if options["kind"] == "plain" else "n_blocks_per_stage": convs,
            "n_conv_per_stage_decoder": decoder, "conv_bias": True, "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dims}d",
            "norm_op_kwargs": {"eps": 1e-05, "affine": True}, "dropout_op": None, "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU", "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }  # fmt: skip
    return chosen


def make(folder, **changes):
    import torch
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    options = DEFAULTS | changes
    channels = {
        str(k): name for k, name in zip(range(options["channels"]), ("T1w", "FLAIR", "DWI"), strict=False)
    }
    back = [options["transpose"].index(axis) for axis in range(3)]
    facts = {
        "mean": 100.0,
        "median": 100.0,
        "std": 40.0,
        "min": 0.0,
        "max": 300.0,
        "percentile_00_5": 5.0,
        "percentile_99_5": 250.0,
    }
    config = "2d" if len(options["patch"]) == 2 else "3d_fullres"
    plans = {
        "dataset_name": "Dataset501_Tiny", "plans_name": "nnUNetPlans", "original_median_spacing_after_transp": [1.0, 1.0, 1.0],
        "original_median_shape_after_transp": [32, 32, 32], "image_reader_writer": "SimpleITKIO",
        "transpose_forward": options["transpose"], "transpose_backward": back, "configurations": {config: configuration(options)},
        "experiment_planner_used": "ExperimentPlanner", "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": dict.fromkeys(channels, facts),
    }  # fmt: skip
    labels = {"background": 0} | {f"lesion{k}": k for k in range(1, options["labels"] + 1)}
    dataset = {"channel_names": channels, "labels": labels, "numTraining": 1, "file_ending": ".nii.gz"}
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "plans.json").write_text(json.dumps(plans))
    (folder / "dataset.json").write_text(json.dumps(dataset))
    manager = PlansManager(json.loads(json.dumps(plans))).get_configuration(config)
    for fold in options["folds"]:
        torch.manual_seed(options["seed"] + fold)
        network = get_network_from_plans(
            manager.network_arch_class_name, manager.network_arch_init_kwargs, manager.network_arch_init_kwargs_req_import,
            options["channels"], len(labels), deep_supervision=False,
        )  # fmt: skip
        with torch.no_grad():
            for parameter in network.parameters():
                if parameter.ndim == 1:
                    parameter.add_(torch.randn_like(parameter) * 0.2)
        train(network, options)
        mirror = tuple(options["mirror"]) if options["mirror"] else None
        (folder / f"fold_{fold}").mkdir(exist_ok=True)
        torch.save(
            {
                "network_weights": network.state_dict(), "optimizer_state": {}, "grad_scaler_state": None,
                "logging": {"mean_fg_dice": [__import__("numpy").float64(0.5)]}, "_best_ema": __import__("numpy").float64(0.5),
                "current_epoch": 1, "trainer_name": options["trainer"], "inference_allowed_mirroring_axes": mirror,
                "init_args": {"plans": plans, "configuration": config, "fold": fold, "dataset_json": dataset, "device": torch.device("cpu")},
            },
            folder / f"fold_{fold}" / "checkpoint_final.pth",
        )  # fmt: skip


def train(network, options):
    """A few steps on bright balls, so that the answer has an edge where a real one has."""
    import torch

    if not options["trained"]:
        return
    optimiser = torch.optim.AdamW(network.parameters(), 3e-3)
    size = options["patch"]
    places = torch.stack(torch.meshgrid(*[torch.arange(n, dtype=torch.float32) for n in size], indexing="ij"))
    for _ in range(options["trained"]):
        centre = torch.tensor([float(torch.randint(n // 4, 3 * n // 4, (1,))) for n in size]).reshape(
            -1, *[1] * len(size)
        )
        ball = ((places - centre) ** 2).sum(0).sqrt() < float(torch.randint(3, 1 + min(size) // 3, (1,)))
        image = torch.randn(1, options["channels"], *size) * 0.5
        image[:, -1] += ball * 2.0
        loss = torch.nn.functional.cross_entropy(network(image), ball.long()[None])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    network.zero_grad(set_to_none=True)


class WideTorch:
    """The torch module with `half` meaning float32: the original's accumulator without its rounding."""

    def __init__(self, torch):
        self._torch = torch
        self.half = torch.float32

    def __getattr__(self, name):
        return getattr(self._torch, name)


def predict(folder, case, answer, *, half=False, threads=2, mirroring=True):
    import functools

    import numpy as np
    import torch
    from nnunetv2.inference import predict_from_raw_data as original

    torch.set_num_threads(threads)
    from nnunetv2.inference.sliding_window_prediction import compute_gaussian

    original.torch = torch if half else WideTorch(torch)
    original.compute_gaussian = (
        compute_gaussian if half else functools.partial(compute_gaussian, dtype=torch.float32)
    )
    predictor = original.nnUNetPredictor(
        use_mirroring=mirroring,
        perform_everything_on_device=False,
        device=torch.device("cpu"),
        allow_tqdm=False,
    )
    folds = sorted(int(path.name.removeprefix("fold_")) for path in Path(folder).glob("fold_*"))
    predictor.initialize_from_trained_model_folder(str(folder), folds)
    given = np.load(case)
    started, cpu_started = time.perf_counter(), time.process_time()
    _, probabilities = predictor.predict_single_npy_array(
        given["array"].astype(np.float32),
        {"spacing": [float(size) for size in given["spacing"]]},
        None,
        None,
        True,
    )
    seconds, cpu_s = time.perf_counter() - started, time.process_time() - cpu_started
    # getrusage would count what the parent held when it started this process.
    peak = next(
        int(line.split()[1]) / 1024
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith("VmHWM")
    )
    np.savez(
        answer,
        probabilities=np.asarray(probabilities, np.float32),
        seconds=seconds,
        cpu_s=cpu_s,
        peak_mb=peak,
    )


if __name__ == "__main__":
    command, *rest = sys.argv[1:]
    if command == "make":
        make(rest[0], **json.loads(rest[1]) if len(rest) > 1 else {})
    elif command == "predict":
        flags = json.loads(rest[3]) if len(rest) > 3 else {}
        predict(*rest[:3], **flags)
    elif command == "batch":
        for job in json.loads(rest[0]):
            make(job["folder"], **job["make"])
            predict(job["folder"], job["case"], job["answer"], **job["predict"])
    else:
        sys.exit(f"unknown command {command}")
