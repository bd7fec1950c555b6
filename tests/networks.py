"""Small networks for tests, one for each way in which channels hang together."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

IMAGE = (3, 12, 12)
CLASSES = 4


def _conv(inputs: int, outputs: int, kernel: int = 3, **given: int) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False, **given)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU())


class _Block(nn.Module):
    """Two convolutions and what came in."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = _conv(channels, channels)
        self.second = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x + self.norm(self.second(self.first(x))))


class Residual(nn.Module):
    """A stem, two removable blocks with a wider stage between, pooling, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = _conv(IMAGE[0], 16)
        self.low = _Block(16)
        self.wider = _conv(16, 24, stride=2)
        self.high = _Block(24)
        self.head = nn.Linear(24, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.high(self.wider(self.low(self.stem(x))))
        return self.head(x.mean((2, 3)))


class Projected(nn.Module):
    """A block whose input is projected after its convolutions were called, as in ResNets."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = _conv(IMAGE[0], 16)
        self.first = _conv(16, 16, stride=2)
        self.second = nn.Conv2d(16, 16, 3, padding=1)
        self.projection = nn.Conv2d(16, 16, 1, stride=2)
        self.head = nn.Linear(16, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        out = self.second(self.first(x))
        return self.head(torch.relu(out + self.projection(x)).mean((2, 3)))


class Depthwise(nn.Module):
    """Two inverted bottlenecks, the second with a residual, and six-capped activations."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = _conv(IMAGE[0], 16, stride=2)
        self.blocks = nn.ModuleList([self._bottleneck(16, 24), self._bottleneck(24, 24)])
        self.head = nn.Linear(24, CLASSES)

    @staticmethod
    def _bottleneck(inputs: int, outputs: int) -> nn.Sequential:
        wide = 2 * inputs
        return nn.Sequential(
            nn.Conv2d(inputs, wide, 1),
            nn.ReLU6(),
            nn.Conv2d(wide, wide, 3, padding=1, groups=wide, bias=False),
            nn.BatchNorm2d(wide),
            nn.ReLU6(),
            nn.Conv2d(wide, outputs, 1),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.blocks[0](self.stem(x))
        x = x + self.blocks[1](x)
        return self.head(torch.flatten(nn.functional.adaptive_avg_pool2d(x, 1), 1))


class Grouped(nn.Module):
    """A convolution in four groups between two plain ones; the map is flattened at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.before = _conv(IMAGE[0], 16, stride=2)
        self.grouped = _conv(16, 32, groups=4)
        self.after = _conv(32, 16, 1)
        self.pool = nn.MaxPool2d(3)
        self.head = nn.Linear(16 * 2 * 2, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pool(self.after(self.grouped(self.before(x))))
        return self.head(torch.flatten(x, 1))


class Concat(nn.Module):
    """Two branches side by side, then joined with their own input."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = _conv(IMAGE[0], 16, stride=2)
        self.small = _conv(16, 16, 1)
        self.large = _conv(16, 24, 3)
        self.mix = _conv(16 + 16 + 24, 32, 1)
        self.head = nn.Linear(32, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = self.mix(torch.cat([x, self.small(x), self.large(x)], 1))
        return self.head(nn.functional.avg_pool2d(x, 6).flatten(1))


class Shared(nn.Module):
    """A block of one convolution that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = _conv(IMAGE[0], 16, stride=2)
        self.again = _conv(16, 16)
        self.after = _conv(16, 24, 1)
        self.head = nn.Linear(24, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.again(self.again(self.stem(x)))
        return self.head(self.after(x).mean((2, 3)))


class Multiplying(nn.Module):
    """A depthwise convolution that makes two channels of each."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = _conv(IMAGE[0], 16, stride=2)
        self.two_each = nn.Conv2d(16, 32, 3, padding=1, groups=16)
        self.after = _conv(32, 16, 1)
        self.head = nn.Linear(16, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.after(self.two_each(self.stem(x))).mean((2, 3)))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "residual": Residual,
    "projected": Projected,
    "depthwise": Depthwise,
    "grouped": Grouped,
    "concat": Concat,
    "shared": Shared,
    "multiplying": Multiplying,
}


def seeded(make: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    """A network whose weights and running statistics come from ``seed``, in eval mode."""
    torch.manual_seed(seed)
    model = make()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            nn.init.uniform_(module.weight, 0.5, 2.0)
            nn.init.uniform_(module.bias, -0.2, 0.2)
    return model.eval()


def pictures(count: int, seed: int = 0) -> torch.Tensor:
    """Random network input, float32 (count, *IMAGE)."""
    return torch.randn(count, *IMAGE, generator=torch.Generator().manual_seed(seed))
