"""The services of docker/compose.yaml as processes in the image, each on a host of its own.

Their commands, environment, volumes and health checks are those of the file; a volume is a folder.
PostgreSQL alone is Debian's, since its image can't be made here.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import secrets
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import yaml
from image import ACCOUNT, PROJECT, Image
from network import Network
from podman_compose import rec_subs

DOCKER = PROJECT / "docker"
START_S = 300.0


class Services:
    """Those of the compose file."""

    def __init__(self, image: Image, folder: Path, settings: Mapping[str, str]) -> None:
        self.secrets = {
            "POSTGRES_PASSWORD": f"p@ss:w/rd#{secrets.token_hex(8)}",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
        }
        content = yaml.safe_load((DOCKER / "compose.yaml").read_text())
        resolved = rec_subs(content, {**self.secrets, **settings})
        self.content: dict[str, dict[str, Any]] = resolved["services"]
        self._image = image
        self._folder = folder
        self._network = Network(list(self.content))
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str) -> None:
        """Starts it and waits until it is healthy, as ``depends_on`` does."""
        service = self.content[name]
        command = [*service["entrypoint"], *service["command"]]
        whole = self._network.command(name, self._in_image(name, command))
        self._spawn(name, whole)
        self._wait(
            name, self._network.command(name, self._in_image(name, self._check(name))), whole
        )

    def start_postgres(self) -> None:
        """Debian's server, with the user, databases and password of the file."""
        name = "postgres"
        settings = self.content[name]["environment"]
        account = pwd.getpwnam(name)
        data = self._folder / "postgres"
        data.mkdir()
        os.chown(data, account.pw_uid, account.pw_gid)
        self._folder.chmod(0o755)
        word = self._folder / "word"
        word.write_text(settings["POSTGRES_PASSWORD"])
        os.chown(word, account.pw_uid, account.pw_gid)
        programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"))[-1]
        as_account = ["setpriv", f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}",
                      "--clear-groups"]  # fmt: skip
        user = f"--username={settings['POSTGRES_USER']}"
        subprocess.run(
            [*as_account, str(programs / "initdb"), "-D", str(data), "--auth=scram-sha-256",
             user, f"--pwfile={word}", "--no-sync"],
            check=True, stdout=subprocess.DEVNULL, cwd="/",
        )  # fmt: skip
        word.unlink()
        with (data / "pg_hba.conf").open("a") as rules:
            rules.write("host all all all scram-sha-256\n")  # as its image does
        server = [*as_account, str(programs / "postgres"), "-D", str(data),
                  "-c", "listen_addresses=*", "-c", f"unix_socket_directories={data}"]  # fmt: skip
        self._spawn(name, self._network.command(name, server))
        check = [str(programs / "pg_isready"), "--host=localhost", "--quiet"]
        self._wait(name, self._network.command(name, check), None)
        client = [str(programs / "psql"), "--host=localhost", user, "--dbname=postgres",
                  "--quiet", "--set=ON_ERROR_STOP=1"]  # fmt: skip
        made = f"CREATE DATABASE {settings['POSTGRES_DB']};\n"
        subprocess.run(
            self._network.command(name, client),
            input=made + (DOCKER / "postgres.sql").read_text(),
            env={**os.environ, "PGPASSWORD": settings["POSTGRES_PASSWORD"]},
            check=True,
            text=True,
        )

    def run(self, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """``docker compose run NAME ARGUMENTS``."""
        command = [*self.content[name]["entrypoint"], *arguments]
        return self.run_in(name, command)

    def run_in(
        self, name: str, command: Sequence[str], environment: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """A command on the host of a service; without ``environment``, in the service's."""
        full = self._network.command(name, self._in_image(name, command, environment))
        return subprocess.run(full, capture_output=True, text=True)

    def healthy(self, name: str) -> bool:
        check = self._network.command(name, self._in_image(name, self._check(name)))
        return subprocess.run(check, capture_output=True).returncode == 0

    def stop(self, name: str) -> None:
        process = self._running.pop(name)
        with contextlib.suppress(psutil.NoSuchProcess):  # it ended by itself
            family = [psutil.Process(process.pid)]
            family += family[0].children(recursive=True)
            for each in family:
                with contextlib.suppress(psutil.NoSuchProcess):
                    each.kill()
        process.wait()

    def close(self) -> None:
        for name in reversed(list(self._running)):
            self.stop(name)
        self._network.close()

    def log(self, name: str) -> str:
        return (self._folder / f"{name}.log").read_text(errors="replace")

    def volume(self, name: str) -> Path:
        """The folder in place of a volume, which takes over the owner of the image's folder."""
        path = self._folder / "volumes" / name
        if not path.exists():
            path.mkdir(parents=True)
            os.chown(path, ACCOUNT, ACCOUNT)
        return path

    def _check(self, name: str) -> list[str]:
        return list(self.content[name]["healthcheck"]["test"][1:])

    def _in_image(
        self, name: str, command: Sequence[str], environment: Mapping[str, str] | None = None
    ) -> list[str]:
        service = self.content[name]
        given = service["environment"] if environment is None else environment
        volumes = {self.volume(f"tmp-{name}"): "/tmp"}
        for volume in service.get("volumes", []):
            source, place = volume.split(":")
            volumes[self.volume(source)] = place
        return self._image.command(command, given, volumes)

    def _spawn(self, name: str, command: Sequence[str]) -> None:
        with (self._folder / f"{name}.log").open("ab") as said:
            self._running[name] = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, start_new_session=True
            )

    def _wait(self, name: str, check: Sequence[str], again: Sequence[str] | None) -> None:
        """Until it is healthy; one that ended is started ``again``, as the file says."""
        give_up = time.monotonic() + START_S
        while subprocess.run(check, capture_output=True).returncode != 0:
            ended = self._running[name].poll() is not None
            if (ended and again is None) or time.monotonic() > give_up:
                raise RuntimeError(f"{name} did not start: {self.log(name)[-3000:]}")
            if ended and again is not None:
                assert self.content[name]["restart"] == "unless-stopped"
                self._spawn(name, again)
            time.sleep(1.0)
