"""The search from Python: its page in the documentation, run; its options and errors."""

from __future__ import annotations

import inspect
import io
import json
import re
import signal
import subprocess
import sys
import threading
from contextlib import redirect_stdout
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from loading_samples import network, random_pixels
from torch import nn
from torch.utils.data import TensorDataset

from search import InputError, compress
from search.cli import build_parser, main
from search.compression import Compression
from search.inputs.loading import load_task
from search.running.interruption import came, caught
from search.telling.progress import PlainProgress, Score, show_progress

PAGE = Path(__file__).parent.parent / "docs" / "python.md"
ONLY_ON_THE_COMMAND_LINE = {"help", "version", "dry_run", "json"}


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the blocks of the page leave behind, run one after the other in an empty folder."""
    folder = tmp_path_factory.mktemp("python")
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()) as said:
        patch.chdir(folder)
        patch.setenv("COMPRESSION_SEARCH_CACHE", str(folder / "cache"))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
        assert len(blocks) == 4
        left: dict[str, Any] = {}
        for block in blocks:
            exec(compile(block, str(PAGE), "exec"), left)
        shown = str(left["result"])
    return left | {"folder": folder, "said": said.getvalue(), "shown": shown}


def test_page_runs_and_its_result_is_the_command_lines(ran: dict[str, Any]) -> None:
    result: Compression = ran["result"]
    told = result.to_json()
    assert told["target"] == "raspberry-pi-4b"
    assert sum(told["trials"].values()) >= 8
    best = result.best
    assert best is not None
    assert best.latency_ms == told["winner"]["latency_ms"] < result.baseline.latency_ms
    assert best.drop_bound == told["winner"]["drop_bound"] >= best.drop
    assert best.proven is told["winner"]["proven"]
    assert best.plan["settings"]
    assert [each.latency_ms for each in result.front] == sorted(
        each.latency_ms for each in result.front
    )
    assert all(each.model.is_file() for each in (*result.front, best, result.baseline))
    assert "must lie in [0, 1], got 3" in ran["said"]
    assert "compress(model=<Sequential>, data=<dict>, target='arm'" in ran["shown"]


def test_exported_bundle_verifies_itself(ran: dict[str, Any]) -> None:
    folder = ran["folder"] / "bundle"
    done = subprocess.run(
        [sys.executable, folder / "verify.py", "--seconds", "0.1"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((folder / "preprocess.json").read_text())["mean"] == [0.3]
    with pytest.raises(InputError, match="must be exported to a new folder"):
        ran["result"].export(folder)


def test_notebook_shows_a_well_formed_table(ran: dict[str, Any]) -> None:
    result: Compression = ran["result"]
    page = result._repr_html_()

    opened: list[str] = []

    class Balance(HTMLParser):
        def handle_starttag(self, tag: str, attrs: object) -> None:
            opened.append(tag)

        def handle_endtag(self, tag: str) -> None:
            assert opened.pop() == tag

    Balance().feed(page)
    assert not opened
    assert page.count("<tr>") >= len(result.front) + 10
    assert "strongest simple" in page
    assert repr(result).startswith("<Compression 'raspberry-pi-4b-")


def test_given_model_is_left_alone(ran: dict[str, Any]) -> None:
    assert ran["model"].training
    assert sum(p.numel() for p in ran["model"].parameters()) > 18_000


def test_nothing_feasible_is_a_result_without_a_best(ran: dict[str, Any]) -> None:
    details = ran["result"].details
    none = Compression(replace(details, winner=None, blocking=("drop: by 2 points",)))
    assert none.best is None
    assert none.blocking == ("drop: by 2 points",)
    assert "nothing meets the limits" in repr(none)
    assert "No candidate meets the limits" in none._repr_html_()
    with pytest.raises(InputError, match="drop: by 2 points"):
        none.export("nowhere")


def test_options_are_those_of_the_command_line() -> None:
    options = {action.dest for action in build_parser()._actions} - ONLY_ON_THE_COMMAND_LINE
    named = inspect.signature(compress).parameters
    assert set(named) == options
    absent = (None, False, (), inspect.Parameter.empty)  # so that the parser's defaults hold
    assert {n for n, p in named.items() if p.default not in absent} == set()


@pytest.mark.parametrize(
    "given",
    [
        {"target": "toaster"},
        {"max_drop": 1.5},
        {"max_drop": -0.1},
        {"budget": "soon"},
        {"trials": -1},
        {"max_size": "2 pounds"},
        {"metric": "rmse"},
        {"model": "torchvision:resnet81"},
        {"data": "digts"},
        {"train": "no-folder"},
        {"weights": "no.pt"},
        {"image_size": 0},
        {"metric": "agreement"},
        {"study": "a/b"},
    ],
    ids=str,
)
def test_errors_are_those_of_the_command_line(
    given: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    given = {"target": "arm", "max_drop": 0.03} | given
    assert main([f"--{n.replace('_', '-')}={v}" for n, v in given.items()]) == 2
    line = capsys.readouterr().err
    with pytest.raises(InputError) as raised:
        compress(**given)
    assert line == f"search: {raised.value}\n"


@pytest.mark.parametrize(
    ("model", "data", "options", "message"),
    [
        (7, None, {}, "a model must be a torch.nn.Module, .* but got a int"),
        (network(classes=5), None, {}, r"the data's 10 classes"),
        (network(classes=10), 7, {}, "data must be a mapping of arrays, .* gave a int"),
        (network(classes=10), None, {"workers": 2}, "in this process alone, but got 2"),
        (network(classes=10), None, {"weights": __file__}, "weights must be a file"),
        (lambda: 3, None, {}, "must return a torch.nn.Module"),
    ],
)
def test_objects_that_do_not_fit_are_refused(
    model: Any, data: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        compress(model, data, target="arm", max_drop=0.1, **options)


def test_module_and_file_of_weights_are_too_much(tmp_path: Path) -> None:
    torch.save(network(classes=10).state_dict(), tmp_path / "w.pt")
    with pytest.raises(InputError, match="has its own"):
        load_task(network(classes=10), tmp_path / "w.pt")


def test_diverged_module_is_refused() -> None:
    model = network(classes=10)
    model[0].weight.data[0] = float("nan")
    with pytest.raises(InputError, match="must be finite"):
        load_task(model)


def test_arrays_data_sets_and_splits_are_the_same_data() -> None:
    pixels, labels = random_pixels(90), np.arange(90) % 3
    floats = pixels.astype(np.float32) / 255
    of_arrays = load_task(network(classes=3), data=(pixels, labels)).data
    of_floats = load_task(network(classes=3), data=(floats, labels)).data
    data_set = TensorDataset(torch.from_numpy(floats), torch.from_numpy(labels))
    of_items = load_task(network(classes=3), data=data_set).data
    assert of_arrays.fingerprint == of_floats.fingerprint == of_items.fingerprint
    parts = {"train": range(30), "val": range(30, 60), "test": range(60, 90)}
    given = {n: torch.utils.data.Subset(data_set, part) for n, part in parts.items()}
    split = load_task(network(classes=3), data=given).data
    assert np.array_equal(split.validation.images[:, 0], pixels[30:60])
    assert np.array_equal(split.test.labels, labels[60:])


def test_function_is_called_with_what_it_names() -> None:
    def make(classes: int, channels: int) -> nn.Module:
        return network(classes=classes, channels=channels)

    data = (random_pixels(60, shape=(3, 8, 8)), np.arange(60) % 3)
    task = load_task(make, data=data)
    assert task.weights is None
    assert task.build()(torch.zeros(1, 3, *task.data.preprocess.size)).shape == (1, 3)


def test_agreement_takes_the_classes_of_a_module_that_was_handed_over() -> None:
    model = network(classes=7)
    task = load_task(model, data={"images": random_pixels(40)}, metric="agreement")
    assert len(task.data.classes) == 7
    with torch.inference_mode():
        seen = model.eval()(torch.from_numpy(task.data.preprocess.apply(task.data.test.images)))
    assert np.array_equal(task.data.test.labels, seen.argmax(1).numpy())


def test_timm_model_says_how_its_images_were_normalized() -> None:
    timm = pytest.importorskip("timm")
    model = timm.create_model("efficientnet_lite0", num_classes=3)
    data = (random_pixels(30, shape=(3, 32, 32)), np.arange(30) % 3)
    assert load_task(model, data=data).data.preprocess.mean == model.pretrained_cfg["mean"]


def test_importing_the_package_imports_nothing_heavy() -> None:
    script = (
        "import sys, search\n"
        "from search import compress, InputError\n"
        "heavy = {'torch', 'numpy', 'optuna', 'mlflow', 'pydantic', 'rich'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_notebooks_get_lines_of_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    monkeypatch.setenv("FORCE_COLOR", "1")  # as in Jupyter
    assert type(show_progress(Score("accuracy", 1, None))) is PlainProgress


def test_second_interruption_leaves_somebody_elses_process_alone() -> None:
    with caught(ends_process=False):
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
        assert came()


def test_search_may_run_in_another_thread() -> None:
    before = signal.getsignal(signal.SIGINT)
    seen: list[object] = []

    def look() -> None:
        with caught(ends_process=False):
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert seen == [before]
