"""Whole searches as a person runs them: killed, resumed, interrupted; and what they leave."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO
from urllib.parse import unquote, urlsplit

import numpy as np
import optuna
import pytest

from hardware_profiles import emulator
from search.cli import build_parser
from tests.servers import free_port, wait_until_alive

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.slow

NETWORK = """
import torch
from torch import nn

class Block(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x):
        return torch.relu(x + self.second(torch.relu(self.norm(self.first(x)))))

def network(classes, channels):
    print("said by the person's own code")  # which must not reach standard output
    return nn.Sequential(
        nn.Conv2d(channels, 16, 3, stride=2, padding=1), nn.ReLU(), Block(16),
        nn.Conv2d(16, 24, 3, stride=2, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, classes))
"""
# A number of trials that has every simple baseline and two plans more.
TRIALS = 8
OPTIONS = ["--target", "arm", "--max-drop", "0.05", "--model", "tiny:network"]
OPTIONS += ["--image-size", "16", "--json"]
SECRET = "correct-horse"
STUDY = "one"  # that is killed and resumed, and registered under the same name


@dataclass
class Place:
    """A folder of a person's own, from which searches are started."""

    folder: Path

    @property
    def runs(self) -> Path:
        return self.folder / "runs"

    def environment(self) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW")}
        return kept | {
            "PYTHONPATH": str(ROOT),
            "COMPRESSION_SEARCH_CACHE": str(self.folder / "cache"),
            "OMP_NUM_THREADS": "1",
        }

    @contextlib.contextmanager
    def started(self, *options: str) -> Iterator[subprocess.Popen[str]]:
        process = subprocess.Popen(
            [sys.executable, "-m", "search", *OPTIONS, *options],
            cwd=self.folder,
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # Not as inherited: what a shell starts in the background ignores the signal.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait()

    @contextlib.contextmanager
    def typed(self, command: str, out: int | TextIO) -> Iterator[subprocess.Popen[str]]:
        """A command as at a terminal where the environment is active; ends with the block."""
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        process = subprocess.Popen(
            ["sh", "-c", command],
            cwd=self.folder,
            env=self.environment() | {"PATH": path},
            stdout=out,
            stderr=out,
            text=True,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # the command and what it started
            process.wait()

    def trials(self, study: str) -> list[dict[str, Any]]:
        """What is in a study's file, without its having been closed."""
        storage = optuna.storages.RDBStorage(f"sqlite:///{self.runs / study / 'study.db'}")
        kept = optuna.load_study(study_name=study, storage=storage).trials
        return [t.user_attrs["trial"] for t in kept if "trial" in t.user_attrs]


def until(process: subprocess.Popen[str], said: str) -> list[str]:
    """Reads what the search says on standard error until it says this."""
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line.rstrip())
        if said in line:
            return lines
    raise AssertionError(f"{said!r} was never said, but:\n" + "\n".join(lines))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("person")
    (folder / "tiny.py").write_text(NETWORK)
    return Place(folder)


@dataclass
class Finished:
    """A search that was killed in its fourth trial, and then resumed."""

    place: Place
    before: list[dict[str, Any]]  # trials that were in the study when it was killed
    out: str
    err: str

    @property
    def result(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.out)
        return found

    @property
    def bundle(self) -> Path:
        return self.place.runs / STUDY / "best"


@pytest.fixture(scope="module")
def finished(place: Place) -> Finished:
    options = ["--study", STUDY, "--register", STUDY, "--trials", str(TRIALS)]
    with place.started(*options) as process:
        until(process, "trial 3 (")
        process.send_signal(signal.SIGKILL)
    before = place.trials(STUDY)
    with place.started(*options, "--resume") as process:
        out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return Finished(place, before, out, err)


def test_killed_search_loses_and_repeats_no_trial(finished: Finished) -> None:
    after = finished.place.trials(STUDY)
    assert [t["number"] for t in finished.before] == [0, 1, 2, 3]
    assert after[:4] == finished.before
    assert [t["number"] for t in after] == list(range(TRIALS))
    assert len({json.dumps(t["plan"], sort_keys=True) for t in after}) == TRIALS
    assert "goes on after 4 of 8 trials" in finished.err
    assert len(re.findall(r"^trial \d+ \(", finished.err, re.MULTILINE)) == TRIALS - 4


def test_result_is_the_only_line_on_standard_output(finished: Finished) -> None:
    assert finished.out.count("\n") == 1
    assert "said by the person's own code" in finished.err
    result = finished.result
    assert result["study"] == STUDY
    assert result["target"] == "raspberry-pi-4b"
    assert result["stopped_by"] == "trials"
    assert result["trials"] == {"completed": TRIALS, "rejected": 0, "failed": 0}
    assert result["seconds"] > 5
    for role in ("baseline", "strongest_simple", "winner"):
        shown = result[role]
        assert len(shown["plan_id"]) == 12
        assert 0 < shown["accuracy_validation"] <= 1
        assert 0 < shown["accuracy_test"] <= 1
        assert shown["latency_ms"] > 0
        assert shown["latency_source"] == "estimated"
        assert shown["size_bytes"] > 1000
        assert shown["peak_memory_bytes"] > 1e6
    winner = result["winner"]
    assert winner["drop"] <= winner["drop_bound"]
    assert winner["proven"] == (winner["drop_bound"] <= 0.05)
    assert (finished.place.folder / winner["path"]).resolve() == finished.bundle.resolve()
    settings = json.loads((finished.bundle / "plan.json").read_text())["settings"]
    choices = len(settings.get("pruning", {}).get("kept", {}))
    choices += len(settings.get("quantization", {}).get("bits", {}))
    choices += len(settings.get("depth", {}).get("removed", ()))
    assert len(winner["savings"]) == choices
    measured = [s for s in winner["savings"] if s["source"] == "measured"]
    assert all("int8" in saving["choice"] for saving in measured)
    front = result["front"]
    assert [p["latency_ms"] for p in front] == sorted(p["latency_ms"] for p in front)
    assert [p["accuracy_validation"] for p in front] == sorted(
        p["accuracy_validation"] for p in front
    )
    assert result["baseline"]["latency_ms"] >= winner["latency_ms"]


def test_person_is_told_what_came_of_it_and_what_to_type_next(finished: Finished) -> None:
    for part in (
        "baseline",
        "strongest simple",
        "winner",
        "accuracy, validation",
        "accuracy, test",
        "its own bound, alone",
        "estimated",
        "speed-up",
        "size",
        "peak memory",
        "mlflow ui --backend-store-uri sqlite:///",
        "optuna-dashboard sqlite:///",
        "best/verify.py",
        "python -m search --target arm --max-drop 0.05 --model tiny:network",
    ):
        assert part in finished.err, part
    assert "Traceback" not in finished.err
    reproduce = finished.err[finished.err.index("reproduce") :]
    assert "--resume" not in reproduce


def printed(err: str, purpose: str) -> str:
    found = re.search(rf"^  {purpose} +(.*)$", err, re.MULTILINE)
    assert found is not None, err
    return found[1]


def readmes_registration() -> list[str]:
    """The commands of the README's block that registers, for the study of these tests."""
    text = (ROOT / "README.md").read_text()
    (block,) = [b for b in re.findall(r"(?:^    .*\n)+", text, re.MULTILINE) if "--register" in b]
    lines = block.replace("\\\n", " ").replace("digits", STUDY).strip().splitlines()
    return [" ".join(line.split()) for line in lines]


def test_readmes_search_is_the_one_of_these_tests(finished: Finished) -> None:
    search, *_ = readmes_registration()
    args = build_parser().parse_args(shlex.split(search)[3:])
    assert (args.target, args.study, args.register) == ("arm", STUDY, STUDY)
    assert f"The winner is registered in MLflow: models:/{STUDY}@raspberry-pi-4b." in finished.err


def test_bundle_is_verified_as_printed_and_as_in_the_readme(finished: Finished) -> None:
    _, verify, _ = readmes_registration()
    assert printed(finished.err, "verify") == verify
    with finished.place.typed(verify, subprocess.PIPE) as process:
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0, out + err
    assert out.splitlines()[-1] == "holds"


def test_report_is_where_the_command_opens_it(finished: Finished) -> None:
    command = shlex.split(printed(finished.err, "report"))
    assert command[:3] == ["python", "-m", "webbrowser"]
    page = Path(unquote(urlsplit(command[3]).path))
    assert page.samefile(finished.place.runs / STUDY / "report.html")


@contextlib.contextmanager
def serving(command: str, place: Place, alive: str) -> Iterator[str]:
    """A server, as long as it is needed; its address, once that path of it answers."""
    port = free_port()
    log = place.folder / "server.log"
    with (
        log.open("w") as out,
        place.typed(f"{command} --host 127.0.0.1 --port {port} --workers 1", out) as server,
    ):
        wait_until_alive(f"http://127.0.0.1:{port}{alive}", server, log)
        yield f"http://127.0.0.1:{port}"


def test_registered_winner_is_served_as_printed_and_as_in_the_readme(finished: Finished) -> None:
    import onnxruntime

    *_, serve = readmes_registration()
    shown = printed(finished.err, "serve")
    assert shown == serve.replace("sqlite:///", f"sqlite:///{finished.place.folder.resolve()}/")
    images = np.random.default_rng(0).standard_normal((2, 1, 16, 16)).astype(np.float32)
    with serving(serve, finished.place, "/ping") as server:
        request = urllib.request.Request(
            f"{server}/invocations",
            json.dumps({"inputs": images.tolist()}).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            (found,) = json.load(answer)["predictions"].values()
    session = onnxruntime.InferenceSession(str(finished.bundle / "model.onnx"))
    expected = session.run(None, {session.get_inputs()[0].name: images})[0]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_mlflow_opens_as_printed(finished: Finished) -> None:
    with serving(printed(finished.err, "review"), finished.place, "/health") as server:
        address = f"{server}/ajax-api/2.0/mlflow/registered-models/alias"
        with urllib.request.urlopen(f"{address}?name={STUDY}&alias=raspberry-pi-4b") as answer:
            assert json.load(answer)["model_version"]["version"] == "1"


def verify(bundle: Path) -> subprocess.CompletedProcess[str]:
    """In a separate Python that finds nothing of this project."""
    return subprocess.run(
        [sys.executable, "-I", str(bundle / "verify.py"), "--seconds", "0.2"],
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )


def test_bundle_proves_itself_and_names_a_changed_file(finished: Finished, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(finished.bundle, bundle)  # on the device there is nothing else
    done = verify(bundle)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "agreement  1.0000" in done.stdout
    files = [path for path in sorted(bundle.rglob("*")) if path.is_file()]
    names = {str(path.relative_to(bundle)) for path in files}
    assert {"model.onnx", "plan.json", "metrics.json", "preprocess.json", "verify.py"} <= names
    for path in files:
        content = path.read_bytes()
        at = len(content) // 2
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        done = verify(bundle)
        path.write_bytes(content)
        assert done.returncode not in (0, None), path
        assert path.name in done.stdout + done.stderr, done.stdout + done.stderr
    assert verify(bundle).returncode == 0


@pytest.mark.skipif(not emulator.is_installed(), reason="needs the emulator")
def test_bundle_proves_itself_on_an_emulated_arm_core(finished: Finished, tmp_path: Path) -> None:
    bundle = shutil.copytree(finished.bundle, tmp_path / "bundle")
    done = emulator.run_python(bundle / "verify.py", ["--json", "--seconds", "0.1"])
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert report["machine"] == "aarch64"
    assert report["holds"] is True
    assert report["images"] == 200
    assert report["agreement"] >= 0.995  # kernels round differently


def test_bundle_holds_the_winner(finished: Finished) -> None:
    from spaces import CompressionPlan

    plan = CompressionPlan.from_json(json.loads((finished.bundle / "plan.json").read_text()))
    assert plan.plan_id == finished.result["winner"]["plan_id"]
    size = (finished.bundle / "model.onnx").stat().st_size
    assert size == finished.result["winner"]["size_bytes"]


def test_mlflow_holds_the_search(finished: Finished) -> None:
    from mlflow import MlflowClient
    from mlflow.models import Model

    client = MlflowClient(f"sqlite:///{finished.place.runs / 'mlflow.db'}")
    (experiment,) = [e for e in client.search_experiments() if e.name == "compression-search"]
    runs = list(client.search_runs([experiment.experiment_id], max_results=1000))
    (parent,) = [r for r in runs if "mlflow.parentRunId" not in r.data.tags]
    nested = {int(r.data.tags["trial"]): r for r in runs if r is not parent}
    assert sorted(nested) == list(range(TRIALS))  # each once, though it was killed
    assert {r.data.tags["mlflow.parentRunId"] for r in nested.values()} == {parent.info.run_id}
    for run in nested.values():
        assert {"latency_ms", "size_bytes", "accuracy_validation"} <= set(run.data.metrics)
        assert {"feasible", "on_front", "origin", "plan_id"} <= set(run.data.tags)
    on_front = {n for n, r in nested.items() if r.data.tags["on_front"] == "true"}
    assert len(on_front) == len(finished.result["front"])
    artifacts = {a.path for a in client.list_artifacts(parent.info.run_id)}
    assert {"front.png", "front.json", "report.html", "bundle"} <= artifacts
    (model,) = client.search_logged_models([experiment.experiment_id])
    info = Model.load(model.artifact_location.removeprefix("file://"))
    assert info.signature is not None
    assert info.saved_input_example_info is not None
    assert "onnx" in info.flavors


def test_report_stands_on_its_own(finished: Finished) -> None:
    page = (finished.place.runs / STUDY / "report.html").read_text()
    assert "python -m search --target arm" in page
    assert not re.search(r"""(?:src|href)=["']?https?:""", page)


@pytest.fixture(scope="module")
def interrupted(place: Place, finished: Finished) -> tuple[int, str, str]:
    """Code, standard output and standard error of a search that met Ctrl-C in its third trial."""
    store = f"http://me:{SECRET}@127.0.0.1:9/"
    options = ["--study", "two", "--trials", "40", "--tracking-uri", store]
    with place.started(*options) as process:
        said = until(process, "trial 2 (")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
    return process.returncode, out, "\n".join(said) + "\n" + err


def test_interrupted_search_exports_the_best_so_far(
    place: Place, interrupted: tuple[int, str, str]
) -> None:
    code, out, err = interrupted
    assert code == 130, err
    result = json.loads(out)
    assert result["stopped_by"] == "interrupt"
    assert len(place.trials("two")) == sum(result["trials"].values()) >= 3
    assert verify(place.runs / "two" / "best").returncode == 0
    assert "Interrupted: the best so far is proved and exported." in err
    assert "Traceback" not in err


def test_plans_of_an_earlier_search_cost_nothing_and_are_told_as_cached(
    place: Place, interrupted: tuple[int, str, str]
) -> None:
    _, _, err = interrupted
    # The first two take seconds, and are evaluated anew before there are any workers.
    assert re.search(r"trial 2 \(.*\) complete, cached: ", err), err
    mine, theirs = place.trials("two")[2], place.trials(STUDY)[2]
    assert set(mine["stages"]) == {"cached"}
    assert {**mine, "stages": None} == {**theirs, "stages": None}


def test_store_that_is_away_is_said_and_its_password_is_nowhere(
    place: Place, interrupted: tuple[int, str, str]
) -> None:
    _, out, err = interrupted
    assert "MLflow is away" in err
    assert "--tracking-uri 'http://***@127.0.0.1:9/'" in err
    assert SECRET not in out + err
    for path in (place.runs / "two").rglob("*"):
        if path.is_file():
            assert SECRET.encode() not in path.read_bytes(), path


def test_second_interruption_ends_a_search_at_once(
    place: Place, interrupted: tuple[int, str, str]
) -> None:
    before = place.trials("two")
    with place.started("--study", "two", "--trials", "40", "--resume") as process:
        until(process, "goes on after")
        process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        began = time.monotonic()
        _, err = process.communicate(timeout=60)
        assert time.monotonic() - began < 3
    assert process.returncode == 130
    assert "Traceback" not in err
    assert place.trials("two")[: len(before)] == before


def test_search_without_a_way_out_says_what_blocked_it(place: Place, finished: Finished) -> None:
    """Every plan is rejected before it is trained, until there is nothing new to ask for."""
    with place.started("--study", "three", "--max-size", "1kB") as process:
        out, err = process.communicate(timeout=200)
    assert process.returncode == 3, err
    result = json.loads(out)
    assert result["winner"] is None
    assert result["stopped_by"] == "exhausted"
    assert result["trials"] == {"completed": 1, "rejected": 41, "failed": 0}
    infeasible = result["infeasible"]
    assert not infeasible["closest"]["trained"]
    (limit,) = infeasible["limits"]
    assert limit["name"] == "size_bytes"
    assert limit["closest"] == limit["least"] > limit["limit"] == 1000
    assert 0 < sum(part["share"] for part in limit["parts"]) < 1
    trained, untrained = limit["relaxed"]
    assert (trained["option"], trained["trial"]) == ("--max-size", 0)
    assert untrained["limit"] >= limit["least"]
    assert "--max-size" in err
    (sentence,) = result["blocking"]
    assert re.match(r"Size is limited to 1.kB; the least of all plans is .*untrained", sentence)
    assert "No candidate meets the limits." in err
    assert "size_bytes must be at most 1000, but the untrained export has" in err
    assert not (place.runs / "three" / "best").exists()
