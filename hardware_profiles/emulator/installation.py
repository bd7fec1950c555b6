"""Sets the emulator up in the cache folder: nothing outside it changes, no root rights needed.

Every step builds a folder of its own beside its final place and then renames it, with a stamp
of what it was made from. An interrupted setup goes on where it stopped; a step whose stamp is
still true is not done again.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hardware_profiles.emulator.cores import CORES, core, write_system_files
from hardware_profiles.emulator.errors import EmulatorError

COMMAND = "python -m hardware_profiles emulator install"
_HERE = Path(__file__).parent
_STAMP = "stamp.json"
_USERLAND = ("python3", "libgomp1", "libstdc++6")
_PLATFORMS = ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux2014_aarch64")
_ADDRESSES = "0x400000000"  # bytes set aside for the guest's memory, 16 GB; none is used yet
_COMPILE = ("-std=gnu11", "-O2", "-shared", "-fPIC", "-fvisibility=hidden")

Say = Callable[[str], None]


def cache_folder() -> Path:
    """``$COMPRESSION_SEARCH_CACHE/emulator``, or below ``~/.cache/compression-search``."""
    base = os.environ.get("COMPRESSION_SEARCH_CACHE") or "~/.cache/compression-search"
    return Path(base).expanduser() / "emulator"


def unsupported() -> str | None:
    """Why this machine cannot have the emulator, in one sentence; None where it can."""
    system, machine = platform.system(), platform.machine()
    if (system, machine) != ("Linux", "x86_64"):
        return f"the emulator is for Linux on x86-64, and this is {system} on {machine}"
    return None


@dataclass(frozen=True)
class Installation:
    """A complete setup in ``folder``."""

    folder: Path

    @property
    def plugin(self) -> Path:
        """The counting plugin, compiled."""
        return self.folder / "plugin" / "counts.so"

    def command(self, core_name: str, counts: Path | None = None) -> list[str]:
        """The command prefix that runs the guest's Python, to be run without environment.

        Args:
            core_name: one of ``CORES``.
            counts: where the plugin writes its reports; without it nothing is counted.
        """
        emulated = core(core_name)
        qemu = self.folder / "qemu"
        root = self.folder / f"root-{core_name}"
        libraries = [qemu / "lib/x86_64-linux-gnu", qemu / "usr/lib/x86_64-linux-gnu"]
        counting: list[str] = []
        seed: dict[str, str] = {}
        if counts is not None:
            levels = [f"cache={level.kilobytes}:{level.ways}" for level in emulated.data]
            plugin = ",".join([str(self.plugin), f"out={counts}", *levels])
            # Every start finds the same addresses, hashes and random bytes: counts repeat.
            counting = ["-R", _ADDRESSES, "-seed", "1", "-plugin", plugin]
            seed = {"PYTHONHASHSEED": "0"}
        guest = {
            "PYTHONHOME": str(root / "usr"),
            "PYTHONPATH": str(self.folder / "runtime"),
            "OPENBLAS_NUM_THREADS": "1",
            "OMP_NUM_THREADS": "1",
            "ORT_DISABLE_TELEMETRY": "1",
            **seed,
        }
        return [
            str(qemu / "lib64/ld-linux-x86-64.so.2"),
            "--library-path",
            ":".join(map(str, libraries)),
            str(qemu / "usr/bin/qemu-aarch64"),
            *("-cpu", emulated.qemu, "-L", str(root)),
            *counting,
            *(part for name, value in guest.items() for part in ("-E", f"{name}={value}")),
            str(root / "usr/bin/python3"),
        ]

    def versions(self) -> Mapping[str, str]:
        """What is emulated with what: versions of QEMU, Python, onnxruntime and numpy."""
        versions: Mapping[str, str] = _read(self.folder / "installed" / _STAMP)["versions"]
        return versions


def find() -> Installation:
    """The setup that counts for the onnxruntime that is installed here.

    Raises:
        EmulatorError: there is none, or it is of another version; the message has the remedy.
    """
    reason = unsupported()
    if reason:
        raise EmulatorError(f"{reason}; the analytic tier serves")
    found = Installation(cache_folder())
    stamp = _read(found.folder / "installed" / _STAMP)
    if not stamp:
        raise EmulatorError(f"the emulator is not installed; run '{COMMAND}'")
    if stamp["made_of"] != _made_of():
        raise EmulatorError(
            f"the emulator must hold onnxruntime {_runtime_version()} and this package's "
            f"plugin, but holds other versions; run '{COMMAND}' again"
        )
    return found


def is_installed() -> bool:
    """Whether ``find`` would succeed."""
    try:
        find()
    except EmulatorError:
        return False
    return True


def install(say: Say = print) -> Installation:
    """Sets up whatever is missing; downloads about 70 MB and takes under a minute or two.

    Raises:
        EmulatorError: this machine cannot have it, a tool is missing, or a download failed.
    """
    reason = unsupported()
    if reason:
        raise EmulatorError(reason)
    for tool, package in (("apt-get", "apt"), ("dpkg-deb", "dpkg"), ("gcc", "gcc")):
        if shutil.which(tool) is None:
            raise EmulatorError(
                f"the emulator's setup needs {tool}, which is not on PATH; install {package} "
                "(a Debian system is needed), or use the analytic tier"
            )
    from hardware_profiles.locks import locked  # only where there is an emulator

    folder = cache_folder()
    with locked(folder / "lock"):
        return _install(folder, say)


def _install(folder: Path, say: Say) -> Installation:
    setup = Installation(folder)
    steps: list[tuple[str, str, Mapping[str, Any], Callable[[Path], Mapping[str, Any]]]] = [
        (
            "qemu",
            "user-mode QEMU",
            {"layout": 1, "packages": ["qemu-user"]},
            lambda to: _debian(to, "amd64", ["qemu-user"]),
        ),
        (
            "userland",
            "an aarch64 userland with Python",
            {"layout": 1, "packages": [*_USERLAND]},
            lambda to: _debian(to, "arm64", _USERLAND),
        ),
        (
            "runtime",
            f"onnxruntime {_runtime_version()} for aarch64",
            {"layout": 1, "onnxruntime": _runtime_version()},
            lambda to: _wheels(to, _guest_python(folder / "userland")),
        ),
        ("plugin", "the counting plugin", _plugin_key(), _compile),
        *(
            (
                f"root-{name}",
                f"the system files of a {each.qemu}",
                {"layout": 1, "core": repr(each)},
                lambda to, each=each: _root(to, each, folder / "userland"),
            )
            for name, each in CORES.items()
        ),
        ("installed", "a first start", _made_of(), lambda _to: _first_start(setup)),
    ]
    for number, (name, title, made_of, build) in enumerate(steps, start=1):
        if _read(folder / name / _STAMP).get("made_of") == made_of:
            say(f"[{number}/{len(steps)}] {title}: there already")
            continue
        say(f"[{number}/{len(steps)}] {title} ...")
        partial = folder / f"{name}.partial"
        _remove(partial)
        partial.mkdir()
        holds = build(partial)
        (partial / _STAMP).write_text(json.dumps({"made_of": made_of, **holds}, indent=1))
        _remove(folder / name)
        partial.rename(folder / name)
    return setup


def _made_of() -> dict[str, Any]:
    return {"onnxruntime": _runtime_version(), "cores": repr(CORES), **_plugin_key()}


def _plugin_key() -> dict[str, Any]:
    source = hashlib.sha256((_HERE / "counts.c").read_bytes()).hexdigest()
    return {"plugin": source, "compile": [*_COMPILE]}


def _runtime_version() -> str:
    return importlib.metadata.version("onnxruntime")


def _debian(to: Path, architecture: str, packages: Sequence[str]) -> dict[str, Any]:
    """Downloads the packages and all they depend on, of any architecture, and unpacks them.

    apt works on a state of its own, in which nothing is installed.
    """
    work = to.with_name(f"{to.name}.apt")
    _remove(work)
    for part in ("state/lists/partial", "cache/archives/partial"):
        (work / part).mkdir(parents=True)
    status = work / "status"
    status.touch()
    options = {
        "Dir::State": work / "state",
        "Dir::State::status": status,
        "Dir::Cache": work / "cache",
        "APT::Architecture": architecture,
        "APT::Architectures": architecture,
        "APT::Sandbox::User": "",
        "Acquire::Languages": "none",
        "Acquire::Retries": 3,
    }
    apt = ["apt-get", "-qq", *(f"-o{name}={value}" for name, value in options.items())]
    what = f"{', '.join(packages)} for {architecture}"
    _run([*apt, "update"], f"apt could not list {what}")
    wanted = ["install", "--yes", "--no-install-recommends", "--download-only", *packages]
    _run([*apt, *wanted], f"apt could not download {what}")
    holds = {}
    for archive in sorted((work / "cache/archives").glob("*.deb")):
        _run(["dpkg-deb", "--extract", str(archive), str(to)], f"{archive.name} is broken")
        holds[archive.name] = hashlib.sha256(archive.read_bytes()).hexdigest()
    _remove(work)
    return {"sha256": holds}


def _guest_python(userland: Path) -> str:
    """Version of the userland's Python, such as 3.11."""
    return (userland / "usr/bin/python3").readlink().name.removeprefix("python")


def _wheels(to: Path, python: str) -> dict[str, Any]:
    work = to.with_name(f"{to.name}.wheels")
    _remove(work)
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-cache-dir"]
    pip += ["--only-binary=:all:", "--implementation", "cp", "--python-version", python]
    pip += ["--abi", f"cp{python.replace('.', '')}", "--dest", str(work)]
    pip += [part for name in _PLATFORMS for part in ("--platform", name)]
    _run(
        [*pip, f"onnxruntime=={_runtime_version()}", "numpy"],
        f"pip could not download onnxruntime {_runtime_version()} for aarch64, Python {python}",
    )
    holds = {}
    for wheel in sorted(work.glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(to)
        holds[wheel.name] = hashlib.sha256(wheel.read_bytes()).hexdigest()
    _remove(work)
    return {"sha256": holds}


def _compile(to: Path) -> dict[str, Any]:
    source, target = _HERE / "counts.c", to / "counts.so"
    _run(["gcc", *_COMPILE, str(source), "-o", str(target)], "gcc could not compile the plugin")
    return {}


def _root(to: Path, each: Any, userland: Path) -> dict[str, Any]:
    write_system_files(to, each)
    for entry in userland.iterdir():
        if entry.name != _STAMP:
            (to / entry.name).symlink_to(Path("..", "userland", entry.name))
    return {}


def _first_start(setup: Installation) -> dict[str, Any]:
    """Starts the runtime on every core, which also leaves Python's compiled files behind."""
    show = "import ctypes, gc, json, numpy, onnxruntime, select, platform as p; "
    show += "print(p.machine(), p.python_version(), onnxruntime.__version__, numpy.__version__)"
    for name in CORES:
        text = _run([*setup.command(name), "-c", show], f"the emulated {name} did not start")
        machine, python, runtime, numpy = text.split()
        if (machine, runtime) != ("aarch64", _runtime_version()):
            raise EmulatorError(
                f"the emulated {name} must run onnxruntime {_runtime_version()} on aarch64, but "
                f"runs {runtime} on {machine}; remove {setup.folder} and install again"
            )
    qemu = setup.command(next(iter(CORES)))[:4]
    version = _run([*qemu, "--version"], "QEMU did not start").splitlines()[0].split()[2]
    versions = {"qemu": version, "python": python, "onnxruntime": runtime, "numpy": numpy}
    return {"versions": versions}


def _run(command: Sequence[str], failed: str) -> str:
    """Runs a tool to its end; its standard output.

    Raises:
        EmulatorError: it failed; with its own last words.
    """
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode:
        said = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        errors = [line for line in said if "error:" in line.lower() or line.startswith("E:")]
        words = [*errors, *reversed(said), f"exit code {done.returncode}"][0].strip()
        raise EmulatorError(f"{failed}: {words}")
    return done.stdout


def _read(path: Path) -> dict[str, Any]:
    try:
        stamp: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError):  # not there, or half written: made anew
        return {}
    return stamp


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
