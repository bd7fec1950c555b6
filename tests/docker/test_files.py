"""The compose and Kubernetes files, against the schemas of those who read them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from podman_compose import rec_subs

DOCKER = Path(__file__).parent.parent.parent / "docker"
COMPOSE = ("compose.yaml", "compose.cuda.yaml")
SECRETS = {"POSTGRES_PASSWORD": "p@ss:w/rd#1", "RAY_AUTH_TOKEN": "token-of-a-test"}
KUBERNETES = "1.37"


def manifests() -> list[Any]:
    found = []
    for path in sorted((DOCKER / "kubernetes").glob("*.yaml")):
        for manifest in yaml.safe_load_all(path.read_text()):
            if manifest["kind"] != "RayJob":
                found.append(manifest)
                continue
            cluster = manifest["spec"]["rayClusterSpec"]
            for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
                found.append(
                    {
                        "apiVersion": "v1",
                        "kind": "PodTemplate",
                        "metadata": {"name": group.get("groupName", "head")},
                        "template": group["template"],
                    }
                )
    return found


@pytest.mark.parametrize("name", COMPOSE)
def test_compose_file_is_one_by_the_specification(name: str) -> None:
    schema = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run([*schema, str(DOCKER / name)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("missing", SECRETS)
def test_compose_fails_clearly_without_a_secret(missing: str) -> None:
    content = yaml.safe_load((DOCKER / "compose.yaml").read_text())
    given = {name: value for name, value in SECRETS.items() if name != missing}
    for unset in (given, {**given, missing: ""}):
        with pytest.raises(ValueError, match=f"{missing} must be set, in the environment or"):
            rec_subs(content, dict(unset))


def test_docker_itself_takes_the_compose_files() -> None:
    """Where there is a Docker with compose; it needs no engine for that."""
    docker = shutil.which("docker")
    version = [docker or "docker", "compose", "version"]
    if docker is None or subprocess.run(version, capture_output=True).returncode != 0:
        pytest.skip("docker compose is not installed")
    for files in (COMPOSE[:1], COMPOSE):
        options = [option for name in files for option in ("--file", str(DOCKER / name))]
        config = [docker, "compose", *options, "config", "--quiet"]
        done = subprocess.run(
            config, env={**os.environ, **SECRETS}, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
    bare = {name: value for name, value in os.environ.items() if name not in SECRETS}
    done = subprocess.run(config, env=bare, capture_output=True, text=True)
    assert done.returncode != 0
    assert "must be set, in the environment or in .env" in done.stderr


@pytest.mark.parametrize("manifest", manifests(), ids=lambda m: m["metadata"]["name"])
def test_manifest_is_one_by_the_schema_of_kubernetes(manifest: dict[str, Any]) -> None:
    assert kubernetes_validate.validate(manifest, KUBERNETES, strict=True) == KUBERNETES


def test_schema_of_kubernetes_finds_a_field_that_is_wrong() -> None:
    (pod,) = (m for m in manifests() if m["metadata"]["name"] == "head")
    wrong = {**pod, "template": {"spec": {**pod["template"]["spec"], "runAsNonRoot": True}}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, KUBERNETES, strict=True)
