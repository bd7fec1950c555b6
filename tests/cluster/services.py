"""Servers that these tests start and stop: Ray nodes, PostgreSQL, an MLflow server.

PostgreSQL and MLflow listen on loopback; Ray's nodes ask for a token. Ports were free before, and
each server has its own folder.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
import psycopg

TESTS = Path(__file__).parent.parent
BIN = Path(sys.executable).parent
START_S = 120.0
DATABASE = "studies"
TOKEN = secrets.token_hex(32)


def environment() -> dict[str, str]:
    """For processes that import this project and its tests, which need not be installed."""
    paths = [str(TESTS.parent), str(TESTS), os.environ.get("PYTHONPATH", "")]
    return {
        **os.environ,
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "OMP_NUM_THREADS": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": TOKEN,
        # A node that was killed is missed within seconds, not a minute.
        "RAY_health_check_period_ms": "1000",
        "RAY_health_check_timeout_ms": "5000",
        "RAY_health_check_failure_threshold": "3",
        # Both nodes of a test are on this machine, which may be busy and short of disk.
        "RAY_local_fs_capacity_threshold": "0.999",
    }


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """A process, in a group of its own, that is ready when it listens at a port."""

    def __init__(self, command: Sequence[str], port: int, log: Path, **options: object) -> None:
        self.port = port
        self._log = log
        with log.open("ab") as said:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                start_new_session=True,
                **{"env": environment(), **options},  # type: ignore[arg-type]
            )
        give_up = time.monotonic() + START_S
        while not self._listens():
            if self.process.poll() is not None or time.monotonic() > give_up:
                self.kill()
                raise RuntimeError(f"{command[0]} did not start: {log.read_text()[-3000:]}")
            time.sleep(0.1)

    def kill(self) -> None:
        """Kills it and all that it started, as a power failure does."""
        with contextlib.suppress(psutil.NoSuchProcess):
            parent = psutil.Process(self.process.pid)
            family = [parent, *parent.children(recursive=True)]
            for each in family:
                with contextlib.suppress(psutil.NoSuchProcess):
                    each.kill()
        self.process.wait()

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


class Postgres:
    """A PostgreSQL server with one database, and a password."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="postgres-", dir="/tmp"))
        self.port = free_port()
        self._data = self.folder / "data"
        self._user: dict[str, object] = {}
        if os.getuid() == 0:  # it refuses to be run by root
            postgres = pwd.getpwnam("postgres")
            os.chown(self.folder, postgres.pw_uid, postgres.pw_gid)
            self._user = {"user": postgres.pw_uid, "group": postgres.pw_gid, "extra_groups": []}
        password = secrets.token_hex(8)
        secret = self.folder / "password"
        secret.write_text(password)
        secret.chmod(0o644)
        subprocess.run(
            [_postgres("initdb"), "-D", str(self._data), "-U", "search", "-A", "scram-sha-256",
             f"--pwfile={secret}", "--no-sync", "-E", "UTF8", "--locale=C"],
            check=True,
            stdout=subprocess.DEVNULL,
            cwd="/tmp",
            **self._user,  # type: ignore[call-overload]
        )  # fmt: skip
        self.url = f"postgresql://search:{password}@127.0.0.1:{self.port}/{DATABASE}"
        self.start()
        with psycopg.connect(self._admin_url, autocommit=True) as link:
            link.execute(f"CREATE DATABASE {DATABASE}")

    def start(self) -> None:
        """Listens; what was committed before a crash is there."""
        command = [
            _postgres("postgres"), "-D", str(self._data), "-p", str(self.port),
            "-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={self.folder}",
        ]  # fmt: skip
        self._server = Server(
            command, self.port, self.folder.with_suffix(".log"), cwd="/tmp", **self._user
        )
        give_up = time.monotonic() + START_S
        while True:  # after a crash it listens before it is ready
            try:
                psycopg.connect(self._admin_url).close()
                return
            except psycopg.OperationalError:
                if time.monotonic() > give_up:
                    raise
                time.sleep(0.1)

    @property
    def _admin_url(self) -> str:
        return self.url.replace(DATABASE, "postgres")

    def crash(self) -> None:
        """Kills every process of it."""
        self._server.kill()

    def close(self) -> None:
        self.crash()
        shutil.rmtree(self.folder)
        self.folder.with_suffix(".log").unlink()


def _postgres(program: str) -> str:
    found = shutil.which(program)
    places = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{program}"))
    if found is None and not places:
        raise RuntimeError("PostgreSQL must be installed: apt-get install postgresql")
    return found or str(places[-1])


class Cluster:
    """Ray nodes: a head, and others that come and go."""

    def __init__(self, cpus: int = 0, dashboard: bool = False) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))  # sockets: short names
        self.port = free_port()
        self.client_port = free_port()
        self.dashboard_port = free_port()
        self.address = f"{_own_address()}:{self.port}"
        self._cpus, self._dashboard = cpus, dashboard
        self._count = 0
        self.start_head()
        self.nodes: list[Server] = []

    def start_head(self) -> None:
        dashboard = ["--include-dashboard", str(self._dashboard)]
        if self._dashboard:
            dashboard += ["--dashboard-host", "127.0.0.1"]
            dashboard += [f"--dashboard-port={self.dashboard_port}"]
        self.head = self._start(
            self.dashboard_port if self._dashboard else self.port,
            "--head", f"--port={self.port}", f"--temp-dir={self.folder}",
            f"--ray-client-server-port={self.client_port}",
            f"--num-cpus={self._cpus}", *dashboard,
        )  # fmt: skip

    def add_node(self, cpus: int, resources: str = "{}") -> Server:
        # A folder of its own: nodes that share one take a job's files away from each other.
        folder = self.folder / f"n{self._count}"
        node = self._start(
            self.port,
            f"--address={self.address}", f"--num-cpus={cpus}", f"--resources={resources}",
            f"--temp-dir={folder}",
        )  # fmt: skip
        self.nodes.append(node)
        return node

    def crash(self) -> None:
        """Kills all nodes."""
        for node in (*self.nodes, self.head):
            node.kill()
        self.nodes.clear()

    def close(self) -> None:
        self.crash()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _start(self, port: int, *arguments: str) -> Server:
        self._count += 1
        command = [
            str(BIN / "ray"), "start", "--block",
            "--object-store-memory=100000000", "--disable-usage-stats", *arguments,
        ]  # fmt: skip
        return Server(command, port, self.folder / f"node-{self._count}.log")


def _own_address() -> str:
    """Where Ray's nodes of this machine find each other."""
    from ray.util import get_node_ip_address

    return str(get_node_ip_address())


def mlflow_server(folder: Path) -> Server:
    port = free_port()
    command = [
        str(BIN / "mlflow"), "server", "--host", "127.0.0.1", "--port", str(port),
        "--backend-store-uri", f"sqlite:///{folder}/mlflow.db",
        "--artifacts-destination", str(folder / "artifacts"), "--workers", "1",
    ]  # fmt: skip
    return Server(command, port, folder / "mlflow.log")
