"""Run by a Python that has nnU-Net v1 (`pip install --no-deps nnunet==1.7.1` beside `nnunetv2`): writes the golden files.

    RESULTS_FOLDER=/tmp nnUNet_raw_data_base=/tmp python nnunet_v1_original.py tests/importing/golden

Each scene becomes a v1 result folder (tiny network, random weights) with `case.npz` and `answer.npz`; crop, resampling, normalisation,
prediction and the resampling back are calls into the package. It imports nothing of the project, and the project nothing of it.
"""

import pickle
import sys
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
from nnunet.inference.segmentation_export import get_do_separate_z, get_lowres_axis, resample_data_or_seg
from nnunet.network_architecture.generic_UNet import Generic_UNet
from nnunet.network_architecture.initialization import InitWeights_He
from nnunet.preprocessing.cropping import ImageCropper
from nnunet.preprocessing.preprocessing import GenericPreprocessor, PreprocessorFor2D
from nnunet.utilities.nd_softmax import softmax_helper
from torch import nn

ISO3 = {"patch": [16, 24, 16], "pools": [[2, 2, 2], [2, 2, 2]], "kernels": [[3, 3, 3]] * 3}
SCENES = {
    # As MMStrokeNet: whole-box statistics, two channels, mirrored.
    "isotropic": ISO3 | {"shape": [26, 34, 22], "case_spacing": [1.2, 0.9, 1.1], "spacing": [1.0, 1.0, 1.0]},
    "thick-masked-two-folds": ISO3
    | {"shape": [8, 36, 34], "case_spacing": [5.0, 0.8, 0.9], "spacing": [1.5, 1.0, 1.0], "masked": True, "folds": [0, 2], "mirror": None},
    "transposed": {
        "patch": [8, 20, 16], "pools": [[1, 2, 2], [2, 2, 2]], "kernels": [[1, 3, 3], [3, 3, 3], [3, 3, 3]], "transpose": [2, 0, 1],
        "shape": [30, 26, 9], "case_spacing": [0.9, 1.1, 4.0], "spacing": [3.5, 1.0, 1.0], "mirror": None, "channels": 1,
    },
    "planar": {
        "patch": [24, 16], "pools": [[2, 2], [2, 2]], "kernels": [[3, 3]] * 3, "shape": [6, 34, 30], "case_spacing": [4.0, 0.9, 0.9],
        "spacing": [4.0, 1.0, 1.0], "channels": 1,
    },
}  # fmt: skip


def case(shape, channels, seed):
    rng = np.random.default_rng(seed)
    array = np.zeros((channels, *shape), np.float32)
    inner = tuple(n - 4 - k for k, n in enumerate(shape))
    array[:, 2 : 2 + inner[0], 2 : 2 + inner[1], 2 : 2 + inner[2]] = rng.normal(
        100, 20, (channels, *inner)
    ).round()
    # A corner without signal that lies inside the box, so that mask and box differ.
    array[:, 2:4, 2 : 2 + inner[1] // 2, 2 : 2 + inner[2] // 2] = 0
    a, b, c = (max(1, n // 4) for n in shape)
    array[-1, a : 2 * a, b : 2 * b, c : 2 * c] += 90
    return array


def network(scene, channels, seed):
    flat = len(scene["patch"]) == 2
    torch.manual_seed(seed)
    made = Generic_UNet(
        channels, 4, 2, len(scene["pools"]), 2, 2, nn.Conv2d if flat else nn.Conv3d, nn.InstanceNorm2d if flat else nn.InstanceNorm3d,
        {"eps": 1e-5, "affine": True}, nn.Dropout2d if flat else nn.Dropout3d, {"p": 0, "inplace": True}, nn.LeakyReLU,
        {"negative_slope": 1e-2, "inplace": True}, True, False, lambda x: x, InitWeights_He(1e-2), scene["pools"], scene["kernels"],
        False, True, True,
    )  # fmt: skip
    made.inference_apply_nonlin = softmax_helper
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.3)
            if parameter.shape[0] == 2:
                parameter.mul_(10)
    made.eval()
    made.do_ds = False
    return made


def make(folder, name, scene, seed):
    channels, masked, flat = scene.get("channels", 2), scene.get("masked", False), len(scene["patch"]) == 2
    transpose = scene.get("transpose", [0, 1, 2])
    stage = {
        "batch_size": 2, "num_pool_per_axis": [2, 2, 2], "patch_size": np.array(scene["patch"]), "median_patient_size_in_voxels": np.array([32, 32, 32]),
        "current_spacing": np.array(scene["spacing"]), "original_spacing": np.array(scene["spacing"]), "do_dummy_2D_data_aug": False,
        "pool_op_kernel_sizes": scene["pools"], "conv_kernel_sizes": scene["kernels"],
    }  # fmt: skip
    plans = {
        "num_stages": 1, "num_modalities": channels, "modalities": dict(enumerate(["FLAIR", "T1"][:channels])), "num_classes": 1,
        "all_classes": [1], "normalization_schemes": OrderedDict((k, "nonCT") for k in range(channels)),
        "use_mask_for_norm": OrderedDict((k, np.bool_(masked)) for k in range(channels)), "base_num_features": 4, "conv_per_stage": 2,
        "dataset_properties": {"intensityproperties": None, "all_sizes": [np.array([20, 20, 20])]}, "transpose_forward": transpose,
        "transpose_backward": [transpose.index(k) for k in range(3)], "data_identifier": "nnUNetData_plans_v2.1", "plans_per_stage": {0: stage},
        "preprocessor_name": "PreprocessorFor2D" if flat else "GenericPreprocessor",
    }  # fmt: skip
    results = (
        folder / name / ("2d" if flat else "3d_fullres") / "Task777_Tiny" / "nnUNetTrainerV2__nnUNetPlansv2.1"
    )
    results.mkdir(parents=True, exist_ok=True)
    (results / "plans.pkl").write_bytes(pickle.dumps(plans))
    array = case(scene["shape"], channels, seed)
    answers = []
    for fold in scene.get("folds", [0]):
        net = network(scene, channels, seed + fold)
        (results / f"fold_{fold}").mkdir(exist_ok=True)
        checkpoint = {
            "epoch": 1,
            "state_dict": net.state_dict(),
            "plot_stuff": ([np.float64(0.5)], [], [], []),
            "best_stuff": (np.float64(1), None, None),
        }
        torch.save(checkpoint, results / f"fold_{fold}" / "model_final_checkpoint.model")
        described = {"init": (), "name": "nnUNetTrainerV2", "class": "<class>", "plans": plans}
        (results / f"fold_{fold}" / "model_final_checkpoint.model.pkl").write_bytes(pickle.dumps(described))
        answers.append(predict(net, scene, array, plans, masked, transpose))
    np.savez_compressed(
        folder / name / "case.npz", array=array.astype(np.int16), spacing=scene["case_spacing"]
    )
    np.savez_compressed(folder / name / "answer.npz", probability=np.mean(answers, 0)[1].astype(np.float32))


def predict(net, scene, array, plans, masked, transpose):
    properties = {
        "original_spacing": np.array(scene["case_spacing"]),
        "original_size_of_raw_data": np.array(array.shape[1:]),
    }
    data, seg, properties = ImageCropper.crop(array.copy(), properties, None)
    flat = len(scene["patch"]) == 2
    channels = len(array)
    kind = PreprocessorFor2D if flat else GenericPreprocessor
    preprocessor = kind(
        plans["normalization_schemes"], dict.fromkeys(range(channels), masked), transpose, None
    )
    order = (0, *[axis + 1 for axis in transpose])
    data, seg, properties = preprocessor.resample_and_normalize(
        data.transpose(order), np.array(scene["spacing"]), properties, seg.transpose(order)
    )
    mirror = scene.get("mirror", [0, 1] if flat else [0, 1, 2])
    _, softmax = net.predict_3D(
        data.astype(np.float32), bool(mirror), tuple(mirror or ()), True, 0.5, tuple(scene["patch"]), None, True, "constant",
        {"constant_values": 0}, False, False, False,
    )  # fmt: skip
    softmax = softmax.transpose([0, *[axis + 1 for axis in plans["transpose_backward"]]])
    # As segmentation_export.save_segmentation_nifti_from_softmax decides.
    size, separate, axis = properties["size_after_cropping"], False, None
    for spacing in (properties["spacing_after_resampling"], properties["original_spacing"]):
        if get_do_separate_z(spacing):
            separate, axis = True, get_lowres_axis(spacing)
    if axis is not None and len(axis) != 1:
        separate, axis = False, None
    if any(a != b for a, b in zip(softmax.shape[1:], size, strict=True)):
        softmax = resample_data_or_seg(
            softmax, size, is_seg=False, axis=axis, order=1, do_separate_z=separate, order_z=0
        )
    whole = np.zeros((2, *array.shape[1:]), np.float32)
    whole[0] = 1
    box = tuple(slice(first, first + n) for (first, _), n in zip(properties["crop_bbox"], size, strict=True))
    whole[(slice(None), *box)] = softmax
    return whole


if __name__ == "__main__":
    torch.set_num_threads(2)
    for number, (title, wanted) in enumerate(SCENES.items()):
        make(Path(sys.argv[1]), title, wanted, 10 * number)
