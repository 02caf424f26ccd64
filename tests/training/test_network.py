"""The network: shapes, the exported form of its normalisation, channel transfer, losses, dropped channels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, numpy_helper

from pipeline.training.agreement import ProofCase, compare, summarise
from pipeline.training.checkpoint import Checkpoint, CheckpointError, load_checkpoint
from pipeline.training.families.table import TASKS
from pipeline.training.losses import segmentation_loss, soft_dice_loss
from pipeline.training.network import Architecture, InstanceNorm, UNet
from pipeline.training.onnx_graph import ExportError, open_session, run_session, store_as_float16, write_onnx
from pipeline.training.tasks import keep_channels, vary
from pipeline.training.transfer import add_channel, read_exported

SMALL = Architecture(("t1", "flair"), (4, 8, 12), 1)


def make_network(architecture: Architecture = SMALL, seed: int = 0) -> UNet:
    """A network with random weights and normalisation that is not the identity."""
    torch.manual_seed(seed)
    network = UNet(architecture)
    for module in network.modules():
        if isinstance(module, InstanceNorm):
            torch.nn.init.normal_(module.weight, 1.0, 0.2)
            torch.nn.init.normal_(module.bias, 0.0, 0.2)
    return network.eval()


def make_checkpoint(network: UNet) -> Checkpoint:
    """A checkpoint whose average equals its weights."""
    state = {k: v.clone() for k, v in network.state_dict().items()}
    return Checkpoint(network.architecture, state, state, step=7, seconds=3.0)


def test_training_mode_gives_one_output_for_each_level() -> None:
    network = make_network().train()

    outputs = network(torch.randn(1, 2, 16, 16, 16))

    assert [tuple(o.shape) for o in outputs] == [(1, 1, 16, 16, 16), (1, 1, 8, 8, 8)]


def test_normalisation_by_axis_equals_the_operator() -> None:
    norm = make_network().stem.norms[0]
    x = torch.randn(2, 4, 6, 8, 10, dtype=torch.float64) * 3 + 5
    norm = norm.double()
    expected = norm(x)
    norm.by_axis = True

    assert torch.allclose(norm(x), expected, atol=1e-10)


def test_onnx_follows_torch_in_double_precision(tmp_path: Path) -> None:
    network = make_network()
    full = write_onnx(network, (16, 16, 16), tmp_path / "full.onnx")
    half = store_as_float16(full)
    rng = np.random.default_rng(0)
    cases = [
        ProofCase(
            n, "t1+flair", 0.5, rng.random((2, 16, 16, 16), dtype=np.float32), rng.random((16, 16, 16)) > 0.5
        )
        for n in range(4)
    ]

    agreement = summarise(compare(network, full, half, cases, 0.008), 0.5)

    assert agreement.max_difference_float32 < 1e-5
    assert agreement.max_difference_forms < 1e-5
    assert agreement.max_difference_float16 < 1e-2
    assert agreement.tost_p_float32 < 1e-3
    assert {t.data_type for t in half.graph.initializer} <= {TensorProto.FLOAT16, TensorProto.INT64}


def test_weights_beyond_float16_are_refused(tmp_path: Path) -> None:
    model = write_onnx(make_network(), (16, 16, 16), tmp_path / "full.onnx")
    tensor = next(t for t in model.graph.initializer if t.data_type == TensorProto.FLOAT)
    values = numpy_helper.to_array(tensor).copy()
    values.flat[0] = 1e6
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))

    with pytest.raises(ExportError, match="do not fit Float16"):
        store_as_float16(model)


def test_added_channel_changes_nothing_when_it_is_a_copy() -> None:
    old = make_network(Architecture(("t1",), (4, 8, 12), 1))
    image = torch.randn(1, 1, 16, 16, 16)

    new = add_channel(make_checkpoint(old), "flair").averaged_network()

    assert new.architecture.channels == ("t1", "flair")
    with torch.inference_mode():
        assert torch.allclose(new(torch.cat((image, image), dim=1)), old(image), atol=1e-5)


def test_added_channel_must_be_new() -> None:
    with pytest.raises(CheckpointError, match="cannot add channel flair"):
        add_channel(make_checkpoint(make_network()), "flair")


def test_checkpoint_comes_back_and_refuses_another_architecture(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    make_checkpoint(make_network()).save(path)

    assert load_checkpoint(path, SMALL).step == 7
    with pytest.raises(CheckpointError, match="is to be trained"):
        load_checkpoint(path, Architecture(("t1",), (4, 8)))
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        load_checkpoint(path)


def test_dropped_channel_is_zero_and_the_other_untouched() -> None:
    image = torch.rand(2, 4, 4, 4) + 0.1

    kept = keep_channels(image, ("t1", "flair"), "flair")

    assert float(kept[0].abs().sum()) == 0.0
    assert torch.equal(kept[1], image[1])
    with pytest.raises(ValueError, match="not channels"):
        keep_channels(image, ("t1", "flair"), "t2")


def test_dropped_channel_cannot_reach_the_answer(tmp_path: Path) -> None:
    """Whatever the missing image holds, the answer is that of a channel of zeros."""
    session = open_session(write_onnx(make_network(), (16, 16, 16), tmp_path / "full.onnx"))
    first, second = torch.rand(2, 2, 16, 16, 16)
    second[1] = first[1]

    answers = [
        run_session(session, keep_channels(x, ("t1", "flair"), "flair").numpy()) for x in (first, second)
    ]

    assert np.array_equal(*answers)


def test_label_is_not_asked_for_where_no_channel_shows_anything() -> None:
    image, label = torch.ones(2, 32, 32, 32), torch.ones(32, 32, 32)
    image[:, :16] = 0.0

    _, wanted = vary(image, label, TASKS["tiny"], torch.Generator().manual_seed(0), 0.0)

    assert float(wanted[0, 0, :16].sum()) == 0.0
    assert bool(wanted[0, 0, 16:].all())


def test_loss_falls_with_a_better_answer() -> None:
    target = torch.zeros(1, 1, 8, 8, 8)
    target[..., 2:6, 2:6, 2:6] = 1.0
    good, bad = (target * 2 - 1) * 8, (1 - target * 2) * 8

    assert float(soft_dice_loss(good, target)) < 0.05 < float(soft_dice_loss(bad, target))
    assert float(segmentation_loss([good, good[..., ::2, ::2, ::2]], target)) < float(
        segmentation_loss([bad], target)
    )


def test_graph_has_no_operator_that_drifts(tmp_path: Path) -> None:
    model = write_onnx(make_network(), (16, 16, 16), tmp_path / "full.onnx")

    operators = {node.op_type for node in model.graph.node}
    reduced = [
        helper
        for node in model.graph.node
        if node.op_type == "ReduceMean"
        for helper in node.attribute
        if helper.name == "axes"
    ]

    assert not operators & {"InstanceNormalization", "GroupNormalization"}
    assert all(len(onnx.helper.get_attribute_value(a)) == 1 for a in reduced)


@pytest.mark.parametrize("pyramid", [True, False])
def test_training_goes_on_from_the_weights_of_a_bundle(tmp_path: Path, pyramid: bool) -> None:
    network = make_network(replace(SMALL, pyramid=pyramid))
    model = store_as_float16(write_onnx(network, (16, 16, 16), tmp_path / "full.onnx"))
    onnx.save(model, tmp_path / "model.onnx")

    again = read_exported(tmp_path / "model.onnx", network.architecture).averaged_network()

    image = torch.rand(1, 2, 16, 16, 16)
    with torch.inference_mode():
        difference = (again(image).sigmoid() - network.eval()(image).sigmoid()).abs().max()
    assert difference < 2e-3  # what Float16 rounds away
    with pytest.raises(CheckpointError, match="of another shape"):
        read_exported(tmp_path / "model.onnx", Architecture(("t1", "flair"), (4, 8, 16), 1))
    (tmp_path / "model.onnx").write_bytes(b"not a network")
    with pytest.raises(CheckpointError):
        read_exported(tmp_path / "model.onnx", SMALL)


def test_a_network_that_compares_the_sides_starts_from_one_that_does_not(tmp_path: Path) -> None:
    before = make_network(replace(SMALL, widths=(4, 8, 12, 12)))
    onnx.save(write_onnx(before, (16, 16, 16), tmp_path / "model.onnx"), tmp_path / "model.onnx")

    after = read_exported(
        tmp_path / "model.onnx", replace(before.architecture, mirrored=True)
    ).averaged_network()

    image = torch.rand(1, 2, 16, 16, 16)
    with torch.inference_mode():
        assert torch.allclose(after(image), before(image), atol=1e-5)


def test_a_network_that_compares_the_sides_sees_the_other_one(tmp_path: Path) -> None:
    network = make_network(replace(SMALL, widths=(4, 4, 4, 4), mirrored=True))
    for mix in network.other_side:
        torch.nn.init.eye_(mix.weight[:, :, 0, 0, 0])
    # Wide enough that no convolution reaches from one side to the other.
    image = torch.zeros(1, 2, 16, 16, 256)
    for module in network.modules():
        if isinstance(module, InstanceNorm):
            module.forward = lambda x: x  # type: ignore[method-assign]  # it looks at the whole image
    changed = image.clone()
    changed[..., 8] = 5.0

    with torch.inference_mode():
        difference = (network(changed) - network(image)).abs().amax(dim=(0, 1, 2, 3))

    assert difference[255 - 8] > 1e-6
    assert difference[100:156].max() == 0.0
