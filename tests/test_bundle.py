"""The bundle: whole or not at all, and it proves itself where it is copied."""

import ast
import json
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hardware_profiles.cli import main
from hardware_profiles.emulator import installation as emulator
from hardware_profiles.emulator.session import run_python
from search.bundle.golden import golden_split
from search.bundle.write import write_bundle
from search.task import Preprocess, Split
from spaces import CompressionPlan
from tests.samples import sample_result, tiny_onnx

EXPECTED = {
    "README.md",
    "checks.json",
    "classes.json",
    "example.py",
    "golden/images.npy",
    "golden/labels.npy",
    "golden/outputs.npy",
    "manifest.sha256",
    "metrics.json",
    "model.onnx",
    "photo.py",
    "plan.json",
    "preprocess.json",
    "resize.py",
    "verify.py",
}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    result = sample_result(folder)
    assert result.winner is not None
    return write_bundle(folder, result, result.winner, tiny_onnx(folder / "trial.onnx"))


@pytest.fixture
def copy(bundle, tmp_path):
    return Path(shutil.copytree(bundle, tmp_path / "copied"))


def verify(bundle, *arguments):
    command = [sys.executable, str(bundle / "verify.py"), "--seconds", "0.05", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd="/", check=False)


def files(bundle):
    return {p.relative_to(bundle).as_posix() for p in bundle.rglob("*") if p.is_file()}


def flip(path, position, value=None):
    content = bytearray(path.read_bytes())
    content[position] = content[position] ^ 1 if value is None else value
    path.write_bytes(content)


def reseal(bundle):
    """What somebody with a working copy of the project could do: a new, valid manifest."""
    from search.bundle.manifest import write_manifest

    write_manifest(bundle)


def test_bundle_verifies_where_it_is_copied(copy):
    done = verify(copy)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "holds"
    assert files(copy) == EXPECTED


@pytest.mark.skipif(not emulator.is_installed(), reason="needs the emulator")
def test_bundle_verifies_on_an_emulated_arm_core(copy):
    done = run_python(copy / "verify.py", ["--json", "--seconds", "0.1"])
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert report["machine"] == "aarch64"
    assert report["agreement"] >= 0.995


@pytest.mark.skipif(not emulator.is_installed(), reason="needs the emulator")
def test_command_verifies_on_an_emulated_arm_core(copy, capsys):
    assert main(["emulator", "verify", str(copy)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "holds"
    flip(copy / "model.onnx", 100)
    assert main(["emulator", "verify", str(copy)]) == 1
    assert "FAILS  model.onnx:" in capsys.readouterr().out


def test_command_refuses_a_folder_that_is_no_bundle(tmp_path, capsys):
    assert main(["emulator", "verify", str(tmp_path)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert "must have a verify.py" in err


def test_verify_reports_figures_as_json(copy):
    report = json.loads(verify(copy, "--json").stdout)
    assert report["holds"] is True
    assert report["agreement"] == 1.0
    assert report["images"] == 200
    assert report["accuracy"] == report["accuracy_where_bundled"]
    assert 0 < report["latency_p50_ms"] <= report["latency_p90_ms"]
    assert report["claimed_latency"]["source"] == "estimated"


@pytest.mark.parametrize("name", sorted(EXPECTED - {"verify.py", "manifest.sha256"}))
def test_verify_names_the_file_when_a_byte_changed(copy, name):
    position = random.Random(name).randrange((copy / name).stat().st_size)
    flip(copy / name, position)
    done = verify(copy)
    assert done.returncode == 1
    assert [line for line in done.stdout.splitlines() if line.startswith(f"FAILS  {name}:")]
    assert done.stdout.count("FAILS") == 1


def test_verify_names_the_file_when_it_is_missing(copy):
    (copy / "golden" / "labels.npy").unlink()
    done = verify(copy)
    assert done.returncode == 1
    assert "golden/labels.npy: is missing" in done.stdout


@pytest.mark.parametrize("name", ["model.onnx.data", "golden/more.npy", ".hidden", "a/b"])
def test_verify_names_the_file_that_was_added(copy, name):
    (copy / name).parent.mkdir(exist_ok=True)
    (copy / name).write_text("")
    done = verify(copy)
    assert done.returncode == 1
    said = [line for line in done.stdout.splitlines() if line.startswith("FAILS")]
    assert said == [f"FAILS  {name}: is not listed in manifest.sha256; remove it"]


@pytest.mark.parametrize("name", ["manifest.sha256", "verify.py"])
def test_verify_names_itself_and_the_manifest_when_a_byte_changed(copy, name):
    """Bytes drawn from the whole file, and every byte of the check that guards verify.py."""
    path, rng = copy / name, random.Random(1)
    original = path.read_bytes()
    places = [0, len(original) - 1, *(rng.randrange(len(original)) for _ in range(12))]
    if name == "verify.py":
        guard = original.index(b"if hashlib")
        places += range(guard, original.index(b"import argparse"), 29)
    for place in places:
        for value in (original[place] ^ 1, ord("#"), ord("\n")):
            if value == original[place]:
                continue
            path.write_bytes(original[:place] + bytes([value]) + original[place + 1 :])
            done = verify(copy)
            said = done.stdout + done.stderr
            assert done.returncode != 0, (place, value)
            assert name in said, (place, value, said)


def test_verify_fails_when_the_answers_differ(copy):
    outputs = np.load(copy / "golden" / "outputs.npy")
    outputs[:2] = -outputs[:2]
    np.save(copy / "golden" / "outputs.npy", outputs, allow_pickle=False)
    reseal(copy)
    done = verify(copy)
    assert done.returncode == 1
    assert "FAILS  agreement: must be at least 0.9950 on the golden set, but is 0.9900" in (
        done.stdout
    )


def test_verify_allows_one_other_answer_in_200(copy):
    outputs = np.load(copy / "golden" / "outputs.npy")
    outputs[0] = -outputs[0]
    np.save(copy / "golden" / "outputs.npy", outputs, allow_pickle=False)
    reseal(copy)
    report = json.loads(verify(copy, "--json").stdout)
    assert report["agreement"] == 0.995
    assert report["holds"] is True


def test_verify_fails_when_the_accuracy_fell(copy):
    checks = json.loads((copy / "checks.json").read_text())
    checks["min_accuracy"] = checks["accuracy"] + 0.01
    (copy / "checks.json").write_text(json.dumps(checks))
    reseal(copy)
    done = verify(copy)
    assert done.returncode == 1
    assert "FAILS  accuracy:" in done.stdout


def test_verify_names_the_latency_only_when_asked(copy):
    done = verify(copy, "--max-latency", "0.000001")
    assert done.returncode == 1
    assert "FAILS  latency: p50 must be at most 1e-06 ms" in done.stdout
    assert verify(copy, "--max-latency", "10000").returncode == 0


def test_verify_refuses_an_unknown_thread_count(copy):
    done = verify(copy, "--threads", "0")
    assert done.returncode == 2
    assert "--threads must be at least 1, but got 0" in done.stderr


def test_what_runs_on_the_device_is_python_39_and_needs_nothing_of_ours(bundle):
    scripts = sorted(bundle.glob("*.py"))
    assert [path.name for path in scripts] == ["example.py", "photo.py", "resize.py", "verify.py"]
    for path in scripts:
        text = path.read_text()
        ast.parse(text, feature_version=(3, 9))
        assert not re.search(r"^\s*(from|import) (search|evaluators|spaces)", text, re.MULTILINE)


def test_example_runs_as_given(copy):
    command = [sys.executable, str(copy / "example.py")]
    done = subprocess.run(command, capture_output=True, text=True, cwd="/", check=True)
    name, odds = done.stdout.strip().rsplit("  ", 1)
    expected = np.load(copy / "golden" / "outputs.npy")[0]
    assert name == json.loads((copy / "classes.json").read_text())[int(expected.argmax())]
    assert odds.endswith("%)")


def test_contents_say_what_was_claimed(bundle):
    result = sample_result(bundle.parent)
    assert result.winner is not None
    trial = result.winner.trial
    plan = CompressionPlan.from_json(json.loads((bundle / "plan.json").read_text()))
    assert plan == trial.plan
    recipe = json.loads((bundle / "preprocess.json").read_text())
    assert Preprocess.from_json(recipe) == result.data.preprocess
    metrics = json.loads((bundle / "metrics.json").read_text())
    assert metrics["proof"]["own_bound"] == result.winner.bound.bound
    assert metrics["baseline"]["trial"] == 0
    assert metrics["winner"]["plan_id"] == trial.plan.plan_id
    for who in ("baseline", "strongest_simple", "winner"):
        seen = {m["name"]: m for m in metrics[who]["search"]["measurements"]}
        test = {m["name"]: m for m in metrics[who]["test"]["measurements"]}
        assert seen["latency_ms"]["source"] == "estimated"
        assert test["accuracy_test"]["source"] == "measured"
        assert all(m["how"] for m in (*seen.values(), *test.values()))


def test_card_states_the_claim_and_leaves_the_license_to_the_owner(bundle):
    card = (bundle / "README.md").read_text()
    assert "**Proved**: the drop is at most 3" in card
    assert "\nlicense:\n" in card
    assert "python -m search --model torchvision:resnet18" in card
    assert "gives this plan" in card
    assert "without `--budget`" in card
    assert "estimated" in card


def test_card_says_unproven_and_what_would_be_enough(tmp_path):
    result = sample_result(tmp_path, winner="unproven")
    assert result.winner is not None
    bundle = write_bundle(tmp_path, result, result.winner, tiny_onnx(tmp_path / "a.onnx"))
    card = (bundle / "README.md").read_text()
    assert "**Unproven**: that the drop is at most" in card
    assert "About 1,180 test images like these would be enough" in card


def test_card_escapes_names_when_they_hold_markup(tmp_path):
    result = sample_result(tmp_path, classes=("<script>alert(1)</script>", "a|b", "c"))
    assert result.winner is not None
    bundle = write_bundle(tmp_path, result, result.winner, tiny_onnx(tmp_path / "a.onnx"))
    card = (bundle / "README.md").read_text()
    assert "<script>" not in card
    assert "a\\|b" in card


def test_second_bundle_replaces_the_first(tmp_path):
    result = sample_result(tmp_path)
    assert result.winner is not None
    first = write_bundle(tmp_path, result, result.winner, tiny_onnx(tmp_path / "a.onnx"))
    (first / "note.txt").write_text("from the first")
    other = tiny_onnx(tmp_path / "b.onnx", seed=1)
    second = write_bundle(tmp_path, result, result.winner, other)
    assert second == first
    assert files(second) == EXPECTED
    assert (second / "model.onnx").read_bytes() == other.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.onnx", "b.onnx", "best"]
    assert verify(second).returncode == 0


def test_old_bundle_stays_when_the_new_one_cannot_be_written(tmp_path):
    result = sample_result(tmp_path)
    assert result.winner is not None
    model = tiny_onnx(tmp_path / "a.onnx")
    write_bundle(tmp_path, result, result.winner, model)
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no model")
    with pytest.raises(Exception, match="model"):
        write_bundle(tmp_path, result, result.winner, broken)
    assert (tmp_path / "best" / "model.onnx").read_bytes() == model.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.onnx", "best", "broken.onnx"]


@pytest.mark.parametrize("count", [1, 150, 200, 301])
def test_golden_split_keeps_the_proportions(count):
    rng = np.random.default_rng(count)
    labels = rng.choice(3, count, p=[0.7, 0.2, 0.1])
    images = np.arange(count, dtype=np.uint16).view(np.uint8).reshape(-1, 1, 1, 2)
    golden = golden_split(Split(images, labels))
    assert len(golden) == min(count, 200)
    kept = golden.images.ravel().view(np.uint16)
    assert len(set(kept.tolist())) == len(golden)
    assert (labels[kept] == golden.labels).all()
    before = np.bincount(labels, minlength=3) / count
    after = np.bincount(golden.labels, minlength=3) / len(golden)
    assert np.abs(before - after).max() <= 1 / len(golden)
