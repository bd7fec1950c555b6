"""What a person wants left alone is never chosen, and patterns of nothing are told."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from loading_samples import random_pixels, write_npz
from networks import IMAGE, Residual, seeded

from hardware_profiles import load_profile
from search.cli import main
from search.deciding.baselines import simple_plans
from spaces.space import SearchSpace
from spaces.tracing.network import Network, trace
from spaces.tracing.scopes import LeftAlone, left_alone, matches, unmatched


@pytest.fixture(scope="module")
def network() -> Network:
    return trace(seeded(Residual), IMAGE)


@pytest.mark.parametrize(
    ("name", "pattern", "expected"),
    [
        ("layer4.0.conv1", "layer4", True),
        ("layer4.0.conv1", "layer4.*", True),
        ("layer4.0.conv1", "*.conv1", True),
        ("layer4.0.conv1", "layer4.1", False),
        ("layer40.conv1", "layer4", False),
        ("fc", "fc", True),
        ("fc", "[", False),
    ],
)
def test_pattern_is_of_a_module_and_all_in_it(name: str, pattern: str, expected: bool) -> None:
    assert matches(name, [pattern]) is expected


def test_each_option_leaves_alone_what_it_says(network: Network) -> None:
    group = network.groups[0]
    layer = network.layers[0].name
    in_float = left_alone(network, LeftAlone(keep_float=(layer,)))
    assert [la.name for la in in_float.layers] == [la.name for la in network.layers[1:]]
    assert in_float.groups == network.groups
    whole = left_alone(network, LeftAlone(keep_width=(group.layers[-1],)))
    assert group not in whole.groups
    assert whole.fixed[group.name] == "left alone, as --keep-width says"
    assert whole.layers == network.layers
    block = network.blocks[0]
    inside = next(la.name for la in network.layers if la.name.startswith(f"{block}."))
    out = left_alone(network, LeftAlone(exclude=(inside,)))
    assert block not in out.blocks
    assert inside not in {la.name for la in out.layers}
    assert not any(inside in g.layers for g in out.groups)
    assert left_alone(network, LeftAlone()) == network


def test_no_plan_touches_what_is_excluded(network: Network) -> None:
    name = network.groups[1].name
    space = SearchSpace.of(
        left_alone(network, LeftAlone(exclude=(name,))), load_profile("raspberry-pi-4b")
    )
    for plan, _ in simple_plans(space):
        assert f'"{name}"' not in plan.to_json()
    assert all(name not in dimension.name for dimension in space.dimensions)


def test_patterns_of_nothing_are_found(network: Network) -> None:
    group, layer = network.groups[0].name, network.layers[0].name
    fine = LeftAlone((layer,), (group,), ("*",))
    assert unmatched(network, fine) == []
    assert unmatched(network, LeftAlone(("no.such",), ("nor", group), ("this",))) == [
        *("no.such", "nor", "this")
    ]


def test_command_line_takes_them_and_names_the_modules_that_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "left.py").write_text(
        "from torch import nn\n"
        "def network(classes, channels):\n"
        "    return nn.Sequential(nn.Conv2d(channels, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3),\n"
        "        nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, classes))\n"
    )
    monkeypatch.chdir(tmp_path)
    data = write_npz(tmp_path / "a.npz", images=random_pixels(120), labels=np.arange(120) % 2)
    options = ["--target", "arm", "--max-drop", "0.1", "--model", "left:network"]
    options += ["--data", data, "--dry-run", "--json"]
    assert main(options) == 0
    before = json.loads(capsys.readouterr().out)
    assert set(before["groups"]) == {"0", "2"}
    assert main([*options, "--keep-float", "2", "--keep-width", "0"]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert set(found["groups"]) == {"2"}
    assert found["not_pruned"]["0"] == "left alone, as --keep-width says"
    assert found["model"]["layers"] == before["model"]["layers"] - 1
    assert "1 layer in float: 2" in err
    assert main([*options, "--exclude", "backbone.*"]) == 2
    said = capsys.readouterr().err.strip()
    assert "'backbone.*' is of none; they are 0, 2, 6" in said
