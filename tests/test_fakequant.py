"""Fake quantization: training sees the numbers that the file will have, and leaves no trace."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import onnx
import torch
from networks import CLASSES, IMAGE, NETWORKS, Residual, pictures, seeded
from onnx import numpy_helper
from torch import nn

from hardware_profiles import load_profile
from spaces.files import fake_quantization as fakequant
from spaces.files.export import export_onnx
from spaces.files.fake_quantization import FakeActivation, FakeWeight
from spaces.files.qdq import quantize_file

BITS = {"stem.0": 8, "low.first.0": 8, "head": 8}


def test_parameters_keep_their_identity_so_that_an_optimizer_goes_on() -> None:
    model = seeded(Residual)
    before = {id(parameter) for parameter in model.parameters()}
    fakequant.insert(model, BITS)
    assert {id(parameter) for parameter in model.parameters()} == before
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    model.train()(pictures(4)).square().sum().backward()
    held = model.get_submodule("stem.0").parametrizations.weight.original
    old = held.detach().clone()
    optimizer.step()
    assert not torch.equal(held, old)


def test_removal_restores_the_network_and_keeps_what_was_trained() -> None:
    for name, make in NETWORKS.items():
        model = seeded(make)
        layers = [n for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
        keys, output = set(model.state_dict()), model(pictures(4))
        fakequant.insert(model, dict.fromkeys(layers, 8))
        assert not torch.equal(model(pictures(4)), output), name
        fakequant.remove(model)
        assert set(model.state_dict()) == keys
        assert torch.equal(model(pictures(4)), output)
        assert not any(m._forward_pre_hooks for m in model.modules())


def test_removal_is_harmless_when_nothing_was_inserted() -> None:
    model = seeded(Residual)
    output = model(pictures(2))
    fakequant.remove(model)
    assert torch.equal(model(pictures(2)), output)


def test_weights_are_those_of_the_quantized_file(tmp_path: Path) -> None:
    """Batch norms are folded into the file's weights, so a network without any is compared."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(IMAGE[0], 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(1600, CLASSES)
    ).eval()
    export_onnx(model, tmp_path / "float.onnx", IMAGE)
    quantize_file(
        tmp_path / "float.onnx",
        tmp_path / "int8.onnx",
        layers=["0", "3"],
        runtime=load_profile("raspberry-pi-4b").runtime,
        images=pictures(16).numpy(),
    )
    file = onnx.load(tmp_path / "int8.onnx")
    arrays = {t.name: numpy_helper.to_array(t) for t in file.graph.initializer}
    made_by = {out: node for node in file.graph.node for out in node.output}
    fakequant.insert(model, {"0": 8, "3": 8})
    for name in ("0", "3"):
        node = next(n for n in file.graph.node if n.name == name)
        integers, scale, _ = (arrays[i] for i in made_by[node.input[1]].input)
        seen = model.get_submodule(name).weight.detach().numpy()
        axis = list(integers.shape).index(seen.shape[0])
        shape = [-1 if i == axis else 1 for i in range(integers.ndim)]
        in_file = integers * scale.reshape(shape)
        if in_file.shape != seen.shape:
            in_file = in_file.T
        np.testing.assert_allclose(seen, in_file, atol=1e-7)


def test_weight_is_rounded_to_127_steps_of_each_channels_largest() -> None:
    weight = torch.tensor([[1.27, 0.014, -0.006], [0.0, 0.0, 0.0], [-254.0, 3.1, 0.9]])
    rounded = FakeWeight(8)(weight)
    expected = torch.tensor([[1.27, 0.01, -0.01], [0.0, 0.0, 0.0], [-254.0, 4.0, 0.0]])
    torch.testing.assert_close(rounded, expected)


def test_fewer_bits_are_fewer_steps() -> None:
    weight = torch.linspace(-1, 1, 101).reshape(1, -1)
    for bits in (2, 4, 8):
        steps = len(FakeWeight(bits)(weight).unique())
        assert steps == min(101, 2**bits - 1)


def test_gradient_passes_straight_through_the_rounding() -> None:
    weight = torch.tensor([[1.0, 0.3, -0.7]], requires_grad=True)
    (FakeWeight(8)(weight) * torch.tensor([1.0, 2.0, 3.0])).sum().backward()
    assert weight.grad is not None
    assert weight.grad.tolist() == [[1.0, 2.0, 3.0]]
    x = torch.tensor([[0.2, -0.4, 0.9]], requires_grad=True)
    (out,) = FakeActivation(8)(nn.Identity().train(), (x,))
    out.sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [[1.0, 1.0, 1.0]]


def test_activation_range_holds_zero_and_follows_training_slowly() -> None:
    fake, module = FakeActivation(8), nn.Identity()
    fake(module.train(), (torch.tensor([1.0, 2.0]),))
    assert fake.range is not None
    assert fake.range.tolist() == [0.0, 2.0]
    fake(module, (torch.tensor([-1.0, 4.0]),))
    torch.testing.assert_close(fake.range, torch.tensor([-0.05, 2.1]))
    (out,) = fake(module.eval(), (torch.tensor([50.0, 0.0, -50.0]),))
    torch.testing.assert_close(fake.range, torch.tensor([-0.05, 2.1]))  # as it was
    step = 2.15 / 255
    torch.testing.assert_close(out, torch.tensor([249 * step, 0.0, -6 * step]))


def test_copy_of_a_quantized_network_stands_on_its_own() -> None:
    model = seeded(Residual)
    fakequant.insert(model, BITS)
    copied = copy.deepcopy(model)
    fakequant.remove(copied)
    assert torch.nn.utils.parametrize.is_parametrized(model.get_submodule("stem.0"), "weight")
    output = seeded(Residual)(pictures(2))
    assert torch.equal(copied(pictures(2)), output)
