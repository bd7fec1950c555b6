"""Training: batches, rates, losses, what may be put on and taken off, and the teacher's part."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fakes import space_of
from loading_samples import random_pixels
from networks import CLASSES, IMAGE, NETWORKS, Residual, pictures, seeded
from torch import nn
from torch.nn import functional

from search.errors import InputError
from search.task import DataSet, Preprocess, Split, Task
from search.training.augment import VIEWS, mirror, shift
from search.training.teacher import baseline_weights, mirror_axes, teacher_views
from search.training.train import (
    Features,
    Hardware,
    TrainSettings,
    Views,
    rate_factor,
    recalibrate,
    steps_per_epoch,
    train,
)
from spaces.files import fake_quantization as fakequant
from spaces.files.features import similarity_loss, watched
from spaces.technique import LossInputs
from spaces.techniques.distillation import DEFAULT, TECHNIQUE, distillation_loss

CPU = Hardware(torch.device("cpu"), bfloat16=False)
PREPROCESS = Preprocess(IMAGE[1:], IMAGE[0], (0.5,) * 3, (0.25,) * 3)


def bright_and_dark(count: int, seed: int = 0) -> Split:
    """Images whose class is how bright they are: easy to learn, also upside down."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % CLASSES
    pixels = random.normal(0, 20, (count, *IMAGE)) + 30 + 60 * labels[:, None, None, None]
    return Split(pixels.clip(0, 255).astype(np.uint8), labels.astype(np.int64))


def views_of(split: Split, views: int = 2) -> Views:
    images = torch.from_numpy(split.images).expand(views, *split.images.shape)
    labels = torch.from_numpy(split.labels)
    return Views(images, 8 * functional.one_hot(labels).float().expand(views, -1, -1), labels)


def task_of(weights: dict[str, torch.Tensor] | None = None, count: int = 160) -> Task:
    data = DataSet(
        "bright",
        bright_and_dark(count),
        bright_and_dark(32, 1),
        bright_and_dark(32, 2),
        bright_and_dark(32, 3),
        tuple("abcd"),
        PREPROCESS,
        "f" * 64,
    )
    return Task("tests:residual", lambda: Residual().eval(), weights, data)


def loss(batch: LossInputs) -> torch.Tensor:
    return distillation_loss(batch, **DEFAULT)


def right(model: nn.Module, split: Split) -> float:
    with torch.no_grad():
        logits = model(torch.from_numpy(PREPROCESS.apply(split.images)))
    return float((logits.argmax(1).numpy() == split.labels).mean())


def test_training_learns_from_the_teacher() -> None:
    model = seeded(Residual)
    assert right(model, bright_and_dark(64, 9)) < 0.6
    settings = TrainSettings(8, batch_size=32)
    train(model, views_of(bright_and_dark(160)), PREPROCESS, loss, settings, CPU, lambda _: None)
    assert not model.training
    assert right(model, bright_and_dark(64, 9)) > 0.9


def test_same_seed_trains_the_same_and_another_does_not() -> None:
    found = []
    for seed in (1, 1, 2):
        model = seeded(Residual)
        settings = TrainSettings(1, batch_size=32, seed=seed)
        train(
            model, views_of(bright_and_dark(96)), PREPROCESS, loss, settings, CPU, lambda _: None
        )
        found.append(model.get_submodule("head").weight.detach().clone())
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


@pytest.mark.parametrize(("epochs", "steps"), [(2, 6), (0.5, 2), (0.01, 1)])
def test_epochs_may_be_fractions(epochs: float, steps: int) -> None:
    told: list[float] = []
    settings = TrainSettings(epochs, batch_size=32)
    train(
        seeded(Residual),
        views_of(bright_and_dark(80)),
        PREPROCESS,
        loss,
        settings,
        CPU,
        told.append,
    )
    assert told == pytest.approx([(i + 1) / steps for i in range(steps)])


def test_callback_may_stop_training() -> None:
    class Stop(Exception):
        pass

    def stop(done: float) -> None:
        if done >= 0.5:
            raise Stop

    with pytest.raises(Stop):
        train(
            seeded(Residual),
            views_of(bright_and_dark(64)),
            PREPROCESS,
            loss,
            TrainSettings(4, batch_size=32),
            CPU,
            stop,
        )


def test_constraint_is_put_on_once_at_its_time_and_the_optimizer_goes_on() -> None:
    model, steps = seeded(Residual), []
    at: list[int] = []

    def constrain(student: nn.Module) -> None:
        at.append(len(steps))
        fakequant.insert(student, {"stem.0": 8, "head": 8})

    settings = TrainSettings(4, batch_size=32)
    train(
        model,
        views_of(bright_and_dark(160)),
        PREPROCESS,
        loss,
        settings,
        CPU,
        steps.append,
        constrain=constrain,
        constrain_at=0.6,
    )
    assert at == [12]
    assert len(steps) == 20
    fakequant.remove(model)
    before = seeded(Residual).get_submodule("head").weight
    assert not torch.equal(model.get_submodule("head").weight, before)
    assert right(model, bright_and_dark(64, 9)) > 0.5


def test_batches_hold_every_image_once_and_no_single_one() -> None:
    """Batch norm needs two values, so that a batch of one is left out."""
    views = views_of(bright_and_dark(65))
    batches = list(views.batches(32, torch.Generator().manual_seed(0)))
    assert [len(batch.labels) for batch in batches] == [32, 32]
    assert len(batches) == steps_per_epoch(65, 32)
    assert steps_per_epoch(66, 32) == 3
    assert steps_per_epoch(64, 32) == 2
    numbered = replace(views, labels=torch.arange(65))
    seen = torch.cat([batch.labels for batch in numbered.batches(32, torch.Generator())])
    assert len(seen.unique()) == 64


def test_answers_are_those_of_the_view_that_is_shown() -> None:
    images = torch.arange(12).reshape(3, 4, 1, 1, 1).to(torch.uint8)
    answers = torch.arange(12.0).reshape(3, 4, 1)
    views = Views(images, answers, torch.zeros(4, dtype=torch.int64), Features("fc", answers))
    for batch in views.batches(4, torch.Generator().manual_seed(5)):
        assert batch.features is not None
        shown = batch.images.flatten().tolist()
        assert shown == batch.logits.flatten().tolist() == batch.features.flatten().tolist()


def test_rate_warms_up_and_fades_out() -> None:
    assert rate_factor(0.0, 0.1) == 0.05
    assert rate_factor(0.05, 0.1) == 0.5
    assert rate_factor(0.1, 0.1) == 1.0
    assert rate_factor(0.55, 0.1) == pytest.approx(0.5)
    assert rate_factor(1.0, 0.1) == pytest.approx(0.0)


def test_distillation_loss_is_hintons() -> None:
    student, teacher = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 2.0]])
    batch = LossInputs(student, teacher, torch.tensor([0]))
    p = 1 / (1 + math.exp(-1))  # of the larger one, at temperature 2
    divergence = p * math.log(p / (1 - p)) + (1 - p) * math.log((1 - p) / p)
    hard = math.log(1 + math.exp(-2))
    expected = 0.25 * hard + 0.75 * 4 * divergence
    assert distillation_loss(batch, 2.0, 0.75, 1.0).item() == pytest.approx(expected, rel=1e-5)
    assert distillation_loss(batch, 2.0, 0.0, 1.0).item() == pytest.approx(hard, rel=1e-5)
    same = LossInputs(student, student, torch.tensor([0]))
    assert distillation_loss(same, 3.0, 1.0, 1.0).item() == pytest.approx(0.0, abs=1e-6)


def test_similarity_of_two_images_is_that_computed_by_hand() -> None:
    # Alike to the student: both rows of products are (1, 1), scaled (0.7, 0.7). Not at all
    # alike to the teacher: (1, 0) and (0, 1).
    student, teacher = torch.ones(2, 3), 5 * torch.eye(2)
    by_hand = (1 - math.sqrt(0.5)) ** 2 + 0.5
    assert similarity_loss(student, teacher).item() == pytest.approx(by_hand, rel=1e-5)
    batch = LossInputs(
        torch.zeros(2, 2), torch.zeros(2, 2), torch.tensor([0, 1]), student, teacher
    )
    without = distillation_loss(batch, 2.0, 0.5, 0.0).item()
    assert distillation_loss(batch, 2.0, 0.5, 3.0).item() == pytest.approx(without + 3 * by_hand)


def test_similarity_heeds_angles_alone() -> None:
    teacher = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    turned, _ = torch.linalg.qr(torch.randn(9, 4, generator=torch.Generator().manual_seed(1)))
    student = 0.1 * teacher @ turned.T  # other channels, the same similarities
    assert similarity_loss(student, teacher).item() == pytest.approx(0.0, abs=1e-6)
    assert similarity_loss(student.roll(1, 0), teacher).item() > 0.1


@pytest.mark.parametrize("name", NETWORKS)
def test_features_are_what_the_last_layer_reads(name: str) -> None:
    model, images = seeded(NETWORKS[name]), pictures(5)
    layer = space_of(name).network.last_layer
    assert layer == "head"
    with watched(model, layer) as watch, torch.no_grad():
        logits = model(images)
    assert watch.features is not None
    torch.testing.assert_close(model.head(watch.features), logits)
    assert not model.head._forward_pre_hooks


def test_features_of_maps_and_tokens_are_averaged() -> None:
    class Scorer(nn.Module):
        def __init__(self, layer: nn.Module) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x)

    for layer, x, expected in (
        (nn.Conv2d(3, 2, 1), pictures(4), pictures(4).mean((2, 3))),
        (nn.Linear(12, 2), pictures(4), pictures(4).mean((1, 2))),
    ):
        with watched(model := Scorer(layer), "layer") as watch:
            model(x)
        torch.testing.assert_close(watch.features, expected)
    with watched(model, "left out") as watch:
        model(x)
    assert watch.features is None


def test_training_sees_the_features_of_teacher_and_student() -> None:
    task, teacher = task_of(count=80), seeded(Residual)
    views = teacher_views(task, teacher, CPU, 0, "head")
    assert views.features is not None
    apart = []
    for weight in (0.0, 5.0):
        student = seeded(Residual, 1)

        def weighted(batch: LossInputs, weight: float = weight) -> torch.Tensor:
            return distillation_loss(batch, 4.0, 0.7, weight)

        settings = TrainSettings(4, batch_size=40)
        train(student, views, PREPROCESS, weighted, settings, CPU, lambda _: None)
        assert not student.head._forward_pre_hooks
        with watched(student, "head") as watch, torch.no_grad():
            student(CPU.network_input(views.images[0], PREPROCESS))
        assert watch.features is not None
        kept = views.features.values[0].float()
        apart.append(similarity_loss(watch.features, kept).item())
    assert apart[1] < 0.5 * apart[0]


def test_planned_distillation_is_what_trains() -> None:
    space = space_of()
    values = space.encode(space.decode(space.encode(space.canonical({}))))
    values |= {"distillation/temperature": 2.04, "distillation/weight": 0.251}
    values |= {"distillation/features": 0.04}
    setting = space.decode(values).settings["distillation"]
    assert setting == {"temperature": 2.0, "weight": 0.25, "features": 0.0}
    hooks = TECHNIQUE.bind(setting)
    assert hooks.loss is not None
    batch = LossInputs(torch.randn(4, 3), torch.randn(4, 3), torch.tensor([0, 1, 2, 0]))
    assert torch.equal(hooks.loss(batch), distillation_loss(batch, 2.0, 0.25, 0.0))


def test_recalibration_gives_batch_norms_the_datas_statistics() -> None:
    model = nn.Sequential(nn.BatchNorm2d(3, momentum=0.3), nn.Flatten(), nn.Linear(432, 2))
    split = bright_and_dark(256)
    weight = model[2].weight.detach().clone()
    recalibrate(model, views_of(split), PREPROCESS, CPU)
    pixels = PREPROCESS.apply(split.images)
    found = model[0].running_mean.numpy()
    np.testing.assert_allclose(found, pixels.mean((0, 2, 3)), atol=0.01)
    np.testing.assert_allclose(model[0].running_var.numpy(), pixels.var((0, 2, 3)), rtol=0.02)
    assert model[0].momentum == 0.3
    assert not model.training
    assert torch.equal(model[2].weight, weight)


def test_recalibration_leaves_networks_without_batch_norm_alone() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(432, 2))
    before = copy.deepcopy(model.state_dict())
    recalibrate(model, views_of(bright_and_dark(64)), PREPROCESS, CPU)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_network_input_is_that_of_the_bundle() -> None:
    split = bright_and_dark(8)
    found = CPU.network_input(torch.from_numpy(split.images), PREPROCESS)
    np.testing.assert_allclose(found.numpy(), PREPROCESS.apply(split.images), atol=1e-6)


def test_threads_follow_the_work_and_are_given_back() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with CPU.threads(macs=1e6, batch_size=64):
            assert torch.get_num_threads() == 1
        with CPU.threads(macs=1e10, batch_size=64):
            assert torch.get_num_threads() == 2
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_baseline_is_trained_once_and_kept_by_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMPRESSION_SEARCH_CACHE", str(tmp_path))
    told: list[float] = []
    first = baseline_weights(task_of(), 0, CPU, told.append)
    assert told[-1] == 1.0
    assert right(_loaded(first), bright_and_dark(64, 9)) > 0.8
    told.clear()
    again = baseline_weights(task_of(), 0, CPU, told.append)
    assert told == []
    assert all(torch.equal(first[k], v) for k, v in again.items())
    (kept,) = (tmp_path / "baselines").iterdir()
    kept.write_bytes(kept.read_bytes()[:1000])  # as a full disk leaves it
    mended = baseline_weights(task_of(), 0, CPU, told.append)
    assert told[-1] == 1.0
    assert all(torch.equal(first[k], v) for k, v in mended.items())
    told.clear()
    baseline_weights(task_of(), 1, CPU, told.append)
    assert told != []


def _loaded(weights: object) -> nn.Module:
    model = Residual()
    model.load_state_dict(weights)  # type: ignore[arg-type]
    return model.eval()


def test_model_that_cannot_be_trained_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Untrainable(Residual):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if self.training:
                raise RuntimeError("no gradients\nhere")
            return super().forward(x)

    monkeypatch.setenv("COMPRESSION_SEARCH_CACHE", str(tmp_path))
    task = replace(task_of(), build=lambda: Untrainable().eval())
    with pytest.raises(InputError) as caught:
        baseline_weights(task, 0, CPU, lambda _: None)
    assert str(caught.value) == (
        "a model without weights must be trainable on the data, but that raised RuntimeError: "
        "no gradients here; correct it, or add --weights FILE"
    )
    assert not list(tmp_path.rglob("*.pt"))


def test_own_weights_are_never_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMPRESSION_SEARCH_CACHE", str(tmp_path))
    weights = seeded(Residual).state_dict()
    assert baseline_weights(task_of(weights), 0, CPU, lambda _: None) is weights
    assert not list(tmp_path.iterdir())


def test_teacher_sees_the_plain_images_first_and_answers_each_view() -> None:
    task, teacher = task_of(count=40), seeded(Residual)
    views = teacher_views(task, teacher, CPU, 0, "head")
    assert views.images.shape == (VIEWS, 40, *IMAGE)
    assert torch.equal(views.images[0], torch.from_numpy(task.data.train.images))
    assert views.features is not None
    assert views.features.values.abs().max() == 1
    for pixels, logits, kept in zip(
        views.images, views.logits, views.features.values, strict=True
    ):
        with torch.no_grad(), watched(teacher, "head") as watch:
            torch.testing.assert_close(teacher(CPU.network_input(pixels, PREPROCESS)), logits)
        assert watch.features is not None
        assert similarity_loss(kept.float(), watch.features).item() < 1e-5


def test_images_are_mirrored_where_the_teacher_does_not_mind() -> None:
    class TopHalf(nn.Module):
        """Sees how bright the upper half is: blind to left and right, not to up and down."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            bright = x[:, :, : IMAGE[1] // 2].mean((1, 2, 3))
            return torch.stack([-bright, bright], 1)

    labels = np.arange(40) % 2
    images = np.full((40, *IMAGE), 128, np.uint8)
    images[:, :, :6] += (100 * labels[:, None, None, None] - 50).astype(np.int8).view(np.uint8)
    images[:, :, 6:] += (50 - 100 * labels[:, None, None, None]).astype(np.int8).view(np.uint8)
    task = task_of()
    task = replace(task, data=replace(task.data, calibration=Split(images, labels)))
    assert mirror_axes(task, TopHalf(), CPU) == (3,)


def test_shifts_are_small_and_each_images_own() -> None:
    images = torch.zeros(50, 1, 32, 32, dtype=torch.uint8)
    images[:, :, 16, 16] = 255
    moved = torch.empty_like(images)
    shift(images, moved, torch.Generator().manual_seed(0))
    places = (moved == 255).nonzero()[:, 2:]
    assert moved.shape == images.shape
    assert moved.dtype == torch.uint8
    assert (places - 16).abs().max() == 2  # a sixteenth of 32
    assert len(places.unique(dim=0)) > 10


def test_mirroring_turns_about_half_of_the_images() -> None:
    images = torch.arange(4, dtype=torch.uint8).reshape(1, 1, 2, 2).expand(400, 1, 2, 2)
    found = images.clone()
    mirror(found, (3,), torch.Generator().manual_seed(0))
    turned = (found == images.flip(3)).flatten(1).all(1)
    assert torch.logical_or(turned, (found == images).flatten(1).all(1)).all()
    assert 150 < int(turned.sum()) < 250
    untouched = images.clone()
    mirror(untouched, (), torch.Generator())
    assert torch.equal(untouched, images)


def test_views_are_those_of_a_plain_reading_of_their_definition() -> None:
    """More images than are moved at once; the edges repeated by torch's own padding."""
    images = torch.from_numpy(random_pixels(600, shape=(2, 20, 35)))
    moved, generator = torch.empty_like(images), torch.Generator().manual_seed(3)
    shift(images, moved, generator)
    mirror(moved, (2, 3), generator)
    again = torch.Generator().manual_seed(3)
    top, left = (torch.randint(0, 2 * most + 1, (600,), generator=again) for most in (1, 2))
    down, over = (torch.rand(600, generator=again) < 0.5 for _ in range(2))
    padded = torch.nn.functional.pad(images.float(), (2, 2, 1, 1), mode="replicate").byte()
    for index in range(600):
        y, x = int(top[index]), int(left[index])
        expected = padded[index, :, y : y + 20, x : x + 35]
        expected = expected.flip(1) if down[index] else expected
        expected = expected.flip(2) if over[index] else expected
        assert torch.equal(moved[index], expected)
