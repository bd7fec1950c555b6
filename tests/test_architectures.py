"""What transformers, shuffles and odd poolings need: where channels are, and what stays apart.

``benchmarks/model_zoo.py`` tries whole architectures; these are the smallest networks that have
what once went wrong there.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from evaluators.graph import walk
from evaluators.runtimes.onnxruntime import logits
from evaluators.shapes import load_static
from hardware_profiles import load_profile
from spaces.files.export import export_onnx
from spaces.files.qdq import layer_nodes, layer_of, quantize_file
from spaces.tracing.network import first, narrow, trace

IMAGE = (3, 16, 16)
PROFILE = load_profile("raspberry-pi-4b")


class Tokens(nn.Module):
    """Patches, attention, an MLP on tokens, channels last; as a ViT."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 4, 4)
        self.first_norm, self.second_norm = nn.LayerNorm(16), nn.LayerNorm(16)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))
        self.head = nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        y = self.first_norm(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        x = x + self.mlp(self.second_norm(x))
        return self.head(x.mean(1))


class Shuffled(nn.Module):
    """Channels change places between two convolutions, which no dependency graph here sees."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3)
        self.mix = nn.Conv2d(16, 16, 1)
        self.last = nn.Conv2d(16, 8, 1)
        self.head = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x))
        n, c, h, w = x.shape
        x = x.view(n, 4, c // 4, h, w).transpose(1, 2).reshape(n, c, h, w)
        return self.head(torch.relu(self.last(torch.relu(self.mix(x)))).mean((2, 3)))


class Norms(nn.Module):
    """A convolution whose bias of zeros is equal to that of the layer norm behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 4, 4)
        self.norm = nn.LayerNorm(16)
        self.last = nn.Conv2d(16, 8, 1)
        self.head = nn.Linear(8, 4)
        nn.init.zeros_(self.stem.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.stem(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return self.head(self.last(x).mean((2, 3)))


def pictures(count: int) -> torch.Tensor:
    return torch.randn(count, *IMAGE, generator=torch.Generator().manual_seed(1))


def seeded(make: type[nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return make().eval()


def int8_file(model: nn.Module, folder: Path) -> Path:
    export_onnx(model, folder / "float.onnx", IMAGE)
    layers = [layer.name for layer in trace(model, IMAGE).layers]
    target, images = folder / "int8.onnx", pictures(8).numpy()
    quantize_file(
        folder / "float.onnx", target, layers=layers, runtime=PROFILE.runtime, images=images
    )
    return target


def test_hidden_channels_of_tokens_are_followed_through_views() -> None:
    model = seeded(Tokens)
    network = trace(model, IMAGE)
    hidden = network.group("mlp.0")
    assert (hidden.channels, hidden.layers) == (32, ("mlp.0",))
    table = network.table.with_kept({"mlp.0": 8})
    narrow(model, IMAGE, {"mlp.0": first(hidden, 24)})
    built = trace(model, IMAGE).table
    assert [shape for _, shape in table.shapes()] == [shape for _, shape in built.shapes()]
    assert table.macs == built.macs < network.table.macs


def test_attention_is_exported_named_and_quantized_but_for_its_packed_weight(
    tmp_path: Path,
) -> None:
    model = seeded(Tokens)
    file = int8_file(model, tmp_path)
    linear = {n for n, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)}
    assert {layer.name for layer in trace(model, IMAGE).layers} == linear
    named = {layer_of(node) for node in layer_nodes(onnx.load(tmp_path / "float.onnx"))}
    assert named == linear | {"attention.in_proj_weight"}
    assert linear <= {op.name for op in walk(file) if op.bits == 8}
    with torch.no_grad():
        expected = model(pictures(4)).numpy()
    found = logits(tmp_path / "float.onnx", pictures(4).numpy(), PROFILE)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    static = load_static(file)
    assert all(name in static.shapes for node in static.nodes for name in node.output if name)


def test_channels_that_change_places_are_not_pruned() -> None:
    network = trace(seeded(Shuffled), IMAGE)
    assert "stem" not in {group.name for group in network.groups}
    assert "change places" in network.fixed["stem"]
    assert {"mix", "last"} == {group.name for group in network.groups}


def test_layer_with_the_bias_of_a_norm_runs_in_int8(tmp_path: Path) -> None:
    file = int8_file(seeded(Norms), tmp_path)
    assert {"stem", "last", "head"} <= {op.name for op in walk(file) if op.bits == 8}


@pytest.mark.parametrize("outputs", [(7, 5), (1, 1), (4, 2), (3, 16)])
def test_adaptive_pooling_to_any_size_is_exported(
    tmp_path: Path, outputs: tuple[int, int]
) -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, 2, 1),  # 8 x 8
        nn.AdaptiveAvgPool2d(outputs),
        nn.Flatten(),
        nn.Linear(4 * outputs[0] * outputs[1], 4),
    ).eval()
    export_onnx(model, tmp_path / "model.onnx", IMAGE)
    with torch.no_grad():
        expected = model(pictures(3)).numpy()
    found = logits(tmp_path / "model.onnx", pictures(3).numpy(), PROFILE)
    np.testing.assert_allclose(found, expected, atol=1e-5)
