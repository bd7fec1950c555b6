"""Sources of models, and how weights are fitted to them."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import pytest
import torch
from loading_samples import network, write_module, write_npz

from search.inputs.loading import load_task
from search.inputs.models.build import Build
from search.inputs.models.fitting import fit
from search.inputs.models.weights import read_weights
from search.running.fingerprint import model_fingerprint
from search.task import Task


def test_default_takes_one_channel_and_is_picklable() -> None:
    task = load_task()
    model = pickle.loads(pickle.dumps(task.build))()
    assert not model.training
    assert model.conv1.in_channels == 1
    pixels = torch.from_numpy(task.data.preprocess.apply(task.data.test.images[:2]))
    assert model(pixels).shape == (2, 10)
    assert task.weights is None


@pytest.mark.parametrize(
    "spec",
    [
        "torchvision:mobilenet_v3_small",
        "torchvision:squeezenet1_1",
        "torchvision:googlenet",
        "timm:efficientnet_lite0",
        "timm:vit_tiny_patch16_224",
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_named_models_take_any_classes_and_channels(spec: str, channels: int) -> None:
    build, *_ = fit(Build(spec, 5, channels, (32, 32)), None)
    assert build.channels == channels  # `fit` has run an image through it


def test_function_is_found_by_a_worker_that_starts_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_module(tmp_path, monkeypatch, "worker_net")
    pickled = pickle.dumps(Build("worker_net:network", 3, 1, (8, 8)))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert str(tmp_path) not in sys.path
    assert pickle.loads(pickled)()[5].out_features == 3


def test_function_gets_only_the_parameters_that_it_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (
        "import torch\nclass Net(torch.nn.Linear):\n    def __init__(self, num_classes, size):\n"
    )
    text += "        super().__init__(size[0] * size[1], num_classes)\n"
    text += "    def forward(self, images):\n        return super().forward(images.flatten(1))\n"
    write_module(tmp_path, monkeypatch, "named_net", text)
    build, *_ = fit(Build("named_net:Net", 7, 1, (4, 6)), None)
    assert build().weight.shape == (7, 24)


def save_variants(state: dict[str, torch.Tensor], folder: Path) -> dict[str, Path]:
    variants = {
        "plain": state,
        "state_dict": {"state_dict": state, "epoch": 3},
        "model": {"model": state},
        "model_state_dict": {"model_state_dict": state},
        "parallel": {f"module.{name}": tensor for name, tensor in state.items()},
        "parallel in checkpoint": {
            "state_dict": {f"module.{name}": tensor for name, tensor in state.items()}
        },
        "compiled": {f"_orig_mod.{name}": tensor for name, tensor in state.items()},
        "without counters": {
            name: tensor for name, tensor in state.items() if "num_batches" not in name
        },
        "with auxiliary head": {**state, "AuxLogits.fc.weight": torch.zeros(2)},
    }
    paths = {}
    for name, content in variants.items():
        paths[name] = folder / f"{name}.pt"
        torch.save(content, paths[name])
    return paths


def test_weights_are_read_from_every_common_kind_of_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_module(tmp_path, monkeypatch, "checkpoint_net")
    model = network(2).eval()
    build = Build("checkpoint_net:network", 2, 1, (8, 8))
    image = torch.rand(1, 1, 8, 8)
    for name, path in save_variants(model.state_dict(), tmp_path).items():
        _, state, _ = fit(build, read_weights(path))
        assert state is not None
        rebuilt = build()
        rebuilt.load_state_dict(state)
        assert torch.equal(rebuilt(image), model(image)), name


def test_half_weights_become_those_of_the_architecture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_module(tmp_path, monkeypatch, "half_net")
    torch.save(network(2).half().state_dict(), tmp_path / "half.pt")
    _, state, _ = fit(Build("half_net:network", 2, 1, (8, 8)), read_weights(tmp_path / "half.pt"))
    assert state is not None
    assert state["0.weight"].dtype == torch.float32


def test_safetensors_give_the_same_weights(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    state = network(2).state_dict()
    safetensors.save_file(state, tmp_path / "weights.safetensors")
    (candidate,) = read_weights(tmp_path / "weights.safetensors")
    read = candidate.state
    assert read.keys() == state.keys()
    assert all(torch.equal(read[name], state[name]) for name in state)


def load_with_weights(
    folder: Path, monkeypatch: pytest.MonkeyPatch, model: torch.nn.Module, name: str
) -> Task:
    write_module(folder, monkeypatch, name)
    torch.save(model.state_dict(), folder / "weights.pt")
    data = write_npz(folder / "gray.npz")
    return load_task(f"{name}:network", folder / "weights.pt", data)


def test_gray_images_are_repeated_for_weights_of_three_channels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = load_with_weights(tmp_path, monkeypatch, network(2, channels=3), "color_net")
    images = task.data.train.images
    assert images.shape[1] == task.data.preprocess.channels == 3
    assert (images[:, 0] == images[:, 2]).all()
    assert task.build()[0].in_channels == 3
    assert any("--train, --val and --test" in note for note in task.data.notes)


def test_model_fingerprint_changes_with_weights_and_architecture_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = load_with_weights(tmp_path, monkeypatch, network(2), "print_net")
    assert task.weights is not None
    first = model_fingerprint(task, task.weights)
    assert first == model_fingerprint(task, dict(reversed(task.weights.items())))
    changed = {**task.weights, "5.bias": task.weights["5.bias"] + 1}
    assert first != model_fingerprint(task, changed)
    text = (tmp_path / "print_net.py").read_text().replace("ReLU()", "ReLU6()")
    write_module(tmp_path, monkeypatch, "print_net_2", text)
    other = load_task("print_net_2:network", tmp_path / "weights.pt", f"npz:{tmp_path}/gray.npz")
    assert other.weights is not None
    assert first != model_fingerprint(other, other.weights)


def test_agreement_takes_the_predictions_of_the_given_model_as_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = network(3).eval()
    write_module(tmp_path, monkeypatch, "agree_net")
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    write_npz(tmp_path / "unlabeled.npz")
    task = load_task(
        "agree_net:network",
        tmp_path / "weights.pt",
        f"npz:{tmp_path}/unlabeled.npz",
        metric="agreement",
    )
    assert task.data.classes == ("0", "1", "2")
    pixels = torch.from_numpy(task.data.preprocess.apply(task.data.test.images))
    assert (model(pixels).argmax(1).numpy() == task.data.test.labels).all()
