"""The training loop: a student, batches of images with the teacher's logits, and hooks."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import nn

from evaluators.resize import resize_weights
from hardware_profiles.host import cpu_flags
from search.task import Preprocess
from spaces.files.features import watched
from spaces.technique import LossInputs

Loss = Callable[[LossInputs], torch.Tensor]
BatchCallback = Callable[[float], None]
# Multiply-accumulates in a batch's forward pass that keep one more thread busy.
MACS_PER_THREAD = 5e9


@dataclass(frozen=True)
class TrainSettings:
    """How a student is trained. ``warmup`` is a fraction of all steps."""

    epochs: float
    batch_size: int = 64
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    warmup: float = 0.1
    seed: int = 0


@dataclass(frozen=True)
class Features:
    """What the teacher's ``layer`` reads: float16 (V, N, F), up to a factor."""

    layer: str
    values: torch.Tensor


class Batch(NamedTuple):
    """Some of the images of ``Views``, each in one view; ``features`` (N, F) where known."""

    images: torch.Tensor
    logits: torch.Tensor
    labels: torch.Tensor
    features: torch.Tensor | None


@dataclass(frozen=True)
class Views:
    """Training images as the teacher saw them, several times over.

    ``images`` uint8 (V, N, C, H, W): V augmented views of each image; ``logits`` float
    (V, N, classes) and ``features`` are the teacher's on exactly those; ``labels`` int64 (N,).
    The teacher runs once per view and search, not once per batch and trial.
    """

    images: torch.Tensor
    logits: torch.Tensor
    labels: torch.Tensor
    features: Features | None = None
    balanced: bool = False

    def batches(self, size: int, generator: torch.Generator) -> Iterator[Batch]:
        """One epoch in random order, each image in a random view.

        Where ``balanced``, as many images are drawn, but so that each class is as frequent.
        """
        views, count = self.logits.shape[:2]
        if self.balanced:
            frequency = torch.bincount(self.labels)[self.labels].double()
            order = torch.multinomial(1 / frequency, count, True, generator=generator)
        else:
            order = torch.randperm(count, generator=generator)
        chosen = torch.randint(0, views, (count,), generator=generator)
        for start in range(0, count, size):
            index = order[start : start + size]
            if len(index) < 2:  # batch norm needs two values
                return
            view = chosen[index]
            yield Batch(
                self.images[view, index],
                self.logits[view, index],
                self.labels[index],
                None if self.features is None else self.features.values[view, index].float(),
            )


def steps_per_epoch(count: int, batch_size: int) -> int:
    """Batches in an epoch of ``Views.batches``."""
    full, rest = divmod(count, batch_size)
    return full + (rest > 1)


@dataclass(frozen=True)
class Hardware:
    """Where training runs, and whether in bfloat16 with channels last."""

    device: torch.device
    bfloat16: bool

    @classmethod
    def detect(cls) -> Hardware:
        """A GPU where there is one; bfloat16 where the processor computes in it."""
        if torch.cuda.is_available():
            real = torch.cuda.is_bf16_supported(including_emulation=False)
            return cls(torch.device("cuda"), real)
        return cls(torch.device("cpu"), "avx512_bf16" in cpu_flags())

    @property
    def gpu_name(self) -> str | None:
        """What the GPU calls itself; None without one."""
        return torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else None

    def place(self, model: nn.Module) -> nn.Module:
        """The model where and how it trains fastest."""
        layout = torch.channels_last if self.bfloat16 else torch.contiguous_format
        return model.to(self.device, memory_format=layout)  # type: ignore[call-overload, no-any-return]

    @contextlib.contextmanager
    def threads(self, macs: float, batch_size: int) -> Iterator[None]:
        """As many threads as batches of a network of so many MACs an image have work for.

        By the work, not by the clock, so that the same search computes the same. Threads that
        meet at every small operator cost more than they bring: a ResNet18 pruned by 75 % at 32
        pixels trains ten times slower on two threads than on one (measured on 2 cores).
        """
        before = torch.get_num_threads()
        wanted = round(macs * batch_size / MACS_PER_THREAD)
        torch.set_num_threads(max(1, min(before, wanted)))
        try:
            yield
        finally:
            torch.set_num_threads(before)

    def network_input(self, pixels: torch.Tensor, preprocess: Preprocess) -> torch.Tensor:
        """Normalized input of uint8 pixels (N, C, H, W); see ``Preprocess.apply``."""
        layout = torch.channels_last if self.bfloat16 else torch.contiguous_format
        shape = (1, preprocess.channels, 1, 1)
        mean = torch.tensor(preprocess.mean, device=self.device).reshape(shape)
        std = torch.tensor(preprocess.std, device=self.device).reshape(shape)
        x = (pixels.to(self.device).float() / 255 - mean) / std
        if x.shape[2:] != preprocess.size:
            rows, columns = (
                torch.from_numpy(resize_weights(before, after)).to(self.device)
                for before, after in zip(x.shape[2:], preprocess.size, strict=True)
            )
            x = rows @ x @ columns.T
        return x.contiguous(memory_format=layout)

    def autocast(self) -> torch.autocast:
        """The context in which the forward pass runs."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16)


def train(
    model: nn.Module,
    views: Views,
    preprocess: Preprocess,
    loss: Loss,
    settings: TrainSettings,
    hardware: Hardware,
    after_batch: BatchCallback,
    *,
    pace: Callable[[int, int], int] | None = None,
    constrain: Callable[[nn.Module], None] | None = None,
    constrain_at: float = 1.0,
) -> None:
    """Trains ``model`` in place with AdamW under a warm-up and a cosine decay.

    Args:
        model: the student; comes back on the CPU, in eval mode.
        views: what it learns from.
        preprocess: from pixels to network input.
        loss: over student, teacher and labels.
        settings: length and rates.
        hardware: where it runs.
        after_batch: called with the fraction done; may raise to stop.
        pace: called with the steps done and planned after each; says how many it shall be.
        constrain: puts training-time constraints on, such as fake quantization.
        constrain_at: the fraction of training after which it does.
    """
    generator = torch.Generator().manual_seed(settings.seed)
    per_epoch = steps_per_epoch(len(views.labels), settings.batch_size)
    total = planned = max(1, round(settings.epochs * per_epoch))
    model = hardware.place(model).train()
    optimizer = torch.optim.AdamW(
        model.parameters(), settings.learning_rate, weight_decay=settings.weight_decay, fused=True
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: rate_factor(step / total, settings.warmup)
    )
    step = 0
    constrained = False
    layer = views.features.layer if views.features else None
    with watched(model, layer) as watch:
        while step < total:
            for seen in views.batches(settings.batch_size, generator):
                if constrain is not None and not constrained and step >= constrain_at * total:
                    constrain(model)
                    constrained = True
                x = hardware.network_input(seen.images, preprocess)
                with hardware.autocast():
                    logits = model(x)
                batch = LossInputs(
                    logits.float(),
                    seen.logits.to(hardware.device),
                    seen.labels.to(hardware.device),
                    None if watch.features is None else watch.features.float(),
                    None if seen.features is None else seen.features.to(hardware.device),
                )
                value = loss(batch)
                optimizer.zero_grad(set_to_none=True)
                value.backward()  # type: ignore[no-untyped-call]
                nn.utils.clip_grad_norm_(model.parameters(), 5.0)
                optimizer.step()
                schedule.step()
                step += 1
                if pace is not None:
                    total = pace(step, planned)
                after_batch(step / total)
                if step == total:
                    break
    model.to("cpu", memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload]


def rate_factor(done: float, warmup: float) -> float:
    """Learning-rate factor after the fraction ``done``: linear warm-up, then half a cosine."""
    if done < warmup:
        return max(done / warmup, 0.05)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (done - warmup) / (1 - warmup))))


def recalibrate(
    model: nn.Module, views: Views, preprocess: Preprocess, hardware: Hardware, batches: int = 8
) -> None:
    """Re-estimates every batch norm's mean and variance by plain averages; weights stay."""
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return
    before = [norm.momentum for norm in norms]
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # cumulative average
        norm.train()
    model = hardware.place(model)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for seen, batch in enumerate(replace(views, balanced=False).batches(64, generator)):
            if seen == batches:
                break
            with hardware.autocast():
                model(hardware.network_input(batch.images, preprocess))
    for norm, momentum in zip(norms, before, strict=True):
        norm.momentum = momentum
    model.to("cpu", memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload]
