from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from evaluators import agreement as module
from evaluators.agreement import agreement, likely_cause, target_logits
from evaluators.runtimes.onnxruntime import logits
from hardware_profiles import ProfileError, load_profile
from tests.models import quantized, small_network
from tests.test_emulator import needs_emulator


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("files")
    float_file = small_network(folder / "float.onnx")
    return float_file, quantized(float_file, folder / "int8.onnx")


def images(count: int) -> NDArray[np.float32]:
    return np.random.default_rng(5).standard_normal((count, 3, 16, 16)).astype(np.float32)


@needs_emulator
def test_target_gives_the_same_classes_as_the_host(files: tuple[Path, Path]) -> None:
    profile = load_profile("raspberry-pi-4b")
    for file in files:
        found = agreement(file, images(40), profile)
        assert found.name == "target_agreement"
        assert found.value >= 0.975
        assert found.detail is not None
        assert found.detail["images"] == 40
    ours = logits(files[0], images(5), profile)
    np.testing.assert_allclose(target_logits(files[0], images(5), "a72"), ours, rtol=1e-4)


def test_agreement_flags_and_names_a_cause_when_classes_differ(
    files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    profile = load_profile("raspberry-pi-4b")
    given = images(200)
    right = logits(files[1], given, profile)

    def off_in_two(*_: object) -> NDArray[np.float32]:
        wrong = right.copy()
        wrong[:2] = np.roll(wrong[:2], 1, axis=1)
        return wrong

    monkeypatch.setattr(module, "target_logits", off_in_two)
    found = agreement(files[1], given, profile)
    detail: Any = found.detail
    assert found.value == pytest.approx(0.99)
    assert (detail["different"], detail["flagged"]) == (2, True)
    assert "round" in detail["cause"]
    monkeypatch.setattr(module, "target_logits", lambda *_: right)
    same: Any = agreement(files[1], given, profile).detail
    assert (same["different"], same["flagged"], same["cause"]) == (0, False, None)


def test_cause_is_saturation_when_activations_are_unsigned_and_the_host_has_no_vnni(
    files: tuple[Path, Path],
) -> None:
    arm, x86 = load_profile("raspberry-pi-4b"), load_profile("x86-vnni")
    assert "float" in likely_cause(files[0], arm, frozenset())
    assert "round" in likely_cause(files[1], arm, frozenset({"avx2"}))
    assert "saturate" in likely_cause(files[1], x86, frozenset({"avx2"}))
    assert "round" in likely_cause(files[1], x86, frozenset({"avx2", "avx512_vnni"}))


def test_agreement_needs_a_core_to_emulate(files: tuple[Path, Path]) -> None:
    with pytest.raises(ProfileError, match="names the core"):
        agreement(files[0], images(1), load_profile("x86-avx2"))


class _Clock:
    """A machine that takes ten seconds to start and two for an image."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.sizes: list[int] = []

    def __call__(self) -> float:
        return self.now_s

    def predict(self, _model: Path, source: Path, target: Path, _timeout_s: float) -> None:
        count = len(np.load(source))
        self.sizes.append(count)
        self.now_s += 2.0 * count + (10.0 if len(self.sizes) == 1 else 0.0)
        np.save(target, np.zeros((count, 4), np.float32))


@pytest.mark.parametrize("seconds", [12.5, 30.0, 60.0, 600.0])
def test_images_on_an_emulated_core_end_in_time(
    seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = _Clock()
    monkeypatch.setattr(module.emulator, "shared", lambda *_, **__: clock)
    found = target_logits(Path("model.onnx"), images(50), "a72", seconds, clock)
    assert clock.now_s <= seconds
    assert len(found) == sum(clock.sizes) >= 1
    assert max(clock.sizes) <= 16
    assert (len(found) == 50) == (seconds == 600.0)
