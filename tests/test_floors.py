"""The house: who may import whom, and what must not be in the repository."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FLOORS = ("hardware_profiles", "spaces", "evaluators", "search")  # from the ground up
TORCH = {"torch", "torchvision", "torch_pruning"}


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and top package of every import, also of those inside functions."""
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            for name in node.names:
                yield node.lineno, name.name.partition(".")[0]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute here"
            yield node.lineno, (node.module or "").partition(".")[0]


def sources(package: str) -> list[Path]:
    found = sorted((ROOT / package).rglob("*.py"))
    assert found, f"{package} has no modules; was it renamed?"
    return found


@pytest.mark.parametrize("package", FLOORS)
def test_nobody_imports_upward(package: str) -> None:
    above = set(FLOORS[FLOORS.index(package) + 1 :]) | {"tests", "benchmarks", "examples"}
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in sources(package)
        for line, name in imports(path)
        if name in above
    ]
    assert not wrong


def modules() -> dict[str, Path]:
    """Every module of the product by its dotted name; a package by that of its folder."""
    named = {}
    for package in FLOORS:
        for path in sources(package):
            parts = path.relative_to(ROOT).with_suffix("").parts
            named[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return named


def imported_modules(path: Path, known: dict[str, Path]) -> set[str]:
    """Modules that a module imports when it runs, also inside functions."""

    def walk(node: ast.AST) -> Iterator[str]:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            return
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        if isinstance(node, ast.ImportFrom) and node.module:
            for name in node.names:
                full = f"{node.module}.{name.name}"
                yield full if full in known else node.module
        for child in ast.iter_child_nodes(node):
            yield from walk(child)

    return {name for name in walk(ast.parse(path.read_text())) if name in known}


def test_no_module_imports_itself_through_others() -> None:
    known = modules()
    graph = {name: imported_modules(path, known) for name, path in known.items()}
    try:
        tuple(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(" <- ".join(error.args[1]))


def test_search_is_rooms_not_doors() -> None:
    """A folder answers one question; what puts the rooms together is little."""
    assert len([path for path in (ROOT / "search").glob("*.py") if path.stem[:2] != "__"]) <= 16


def test_hardware_profiles_need_no_torch() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in sources("hardware_profiles")
        for line, name in imports(path)
        if name in TORCH
    ]
    assert not wrong


def test_hardware_profiles_load_without_torch() -> None:
    """Also through what they import: looked at in a fresh process."""
    script = (
        "import sys, hardware_profiles, hardware_profiles.cli\n"
        "hardware_profiles.load_profile('arm')\n"
        "print(sorted({m.partition('.')[0] for m in sys.modules}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    loaded = set(ast.literal_eval(done.stdout))
    assert "hardware_profiles" in loaded
    assert not loaded & (TORCH | set(FLOORS[1:]))


@pytest.mark.parametrize(
    "script", ["search/bundle/files/verify.py", "hardware_profiles/devices/agent.py"]
)
def test_what_runs_on_devices_needs_only_onnxruntime_and_numpy(script: str) -> None:
    allowed = {"onnxruntime", "numpy", *sys.stdlib_module_names}
    assert {name for _, name in imports(ROOT / script)} <= allowed


def test_docker_is_no_package() -> None:
    """One of that name would shadow the Docker SDK that MLflow imports."""
    assert not list((ROOT / "docker").rglob("__init__.py"))


def committed() -> list[Path]:
    """Every text file in the repository, as git has it; all files where there is no git."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listed.returncode == 0 and listed.stdout:
        paths = [ROOT / name for name in listed.stdout.decode().split("\0") if name]
    else:
        paths = [p for package in FLOORS for p in (ROOT / package).rglob("*") if p.is_file()]
    return [p for p in paths if p.is_file() and b"\0" not in p.read_bytes()[:4096]]


def test_nothing_names_a_path_of_somebodys_machine() -> None:
    # Examples of boards may name a Raspberry Pi's default user.
    home = re.compile(r"/(?:home|Users)/(?!(?:pi|user)/)[a-z]|/root\b|[A-Z]:\\Users")
    wrong = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:80]}"
        for path in committed()
        if path != Path(__file__)
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1)
        if home.search(line)
    ]
    assert not wrong


def test_no_catch_all_swallows_an_exception() -> None:
    """``except Exception: pass`` hides what went wrong from everybody."""
    wrong = []
    for package in FLOORS:
        for path in sources(package):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ExceptHandler) and all(
                    isinstance(statement, ast.Pass) for statement in node.body
                ):
                    wrong.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert not wrong


def test_no_shell_and_no_pickle() -> None:
    wrong = []
    for package in FLOORS:
        for path in sources(package):
            text = path.read_text()
            if "shell=True" in text or "os.system(" in text:
                wrong.append(f"{path.relative_to(ROOT)} runs a shell")
            for match in re.finditer(r"torch\.load\((?!.*weights_only=True)", text):
                wrong.append(f"{path.relative_to(ROOT)} loads a pickle at {match.start()}")
            if re.search(r"\bpickle\.loads?\(", text):
                wrong.append(f"{path.relative_to(ROOT)} loads a pickle")
    assert not wrong


def test_every_file_of_a_package_is_shipped(tmp_path: Path) -> None:
    """A page's style or a device's profile that is missing from a wheel shows only there."""
    options = ("--no-deps", "--no-build-isolation", "--quiet", "--wheel-dir", str(tmp_path))
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", *options, "."],
        cwd=_copy_of_the_packages(tmp_path / "source"),
        check=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    shipped = set(zipfile.ZipFile(wheel).namelist())
    expected = {
        str(path.relative_to(ROOT))
        for package in FLOORS
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert not expected - shipped


def _copy_of_the_packages(target: Path) -> Path:
    """Building leaves folders behind, which don't belong into the person's work tree."""
    target.mkdir()
    ignore = shutil.ignore_patterns("__pycache__")
    for package in FLOORS:
        shutil.copytree(ROOT / package, target / package, ignore=ignore)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, target / name)
    return target
