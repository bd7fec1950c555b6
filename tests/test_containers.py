"""What the container files promise, read from the files; tests/docker builds and runs them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from search.cli import build_parser

DOCKER = Path(__file__).parent.parent / "docker"
COMPOSE = yaml.safe_load((DOCKER / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
REQUIRED = re.compile(r"\$\{(\w+):\?([^}]+)\}")
OPTIONAL = re.compile(r"\$\{(\w+):-([^}]*)\}")
SECRET = re.compile("PASSWORD|TOKEN|SECRET|KEY", re.IGNORECASE)
# Of KubeRay's API ray.io/v1 that its version 1.6 has and that is of use here.
RAY_FIELDS = {
    "job": "entrypoint runtimeEnvYAML jobId submissionMode shutdownAfterJobFinishes suspend "
    "ttlSecondsAfterFinished activeDeadlineSeconds backoffLimit rayClusterSpec metadata "
    "submitterPodTemplate submitterConfig clusterSelector managedBy deletionStrategy",
    "cluster": "rayVersion authOptions headGroupSpec workerGroupSpecs autoscalerOptions suspend "
    "enableInTreeAutoscaling gcsFaultToleranceOptions headServiceAnnotations managedBy",
    "head": "rayStartParams template serviceType headService enableIngress",
    "worker": "groupName replicas minReplicas maxReplicas numOfHosts rayStartParams template "
    "scaleStrategy idleTimeoutSeconds suspend",
}


def strings(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, each in value.items():
            yield str(key)
            yield from strings(each)
    elif isinstance(value, list):
        for each in value:
            yield from strings(each)
    else:
        yield str(value)


def by_default(text: str) -> str:
    return OPTIONAL.sub(lambda found: found[2], text)


def manifests() -> list[dict[str, Any]]:
    files = sorted((DOCKER / "kubernetes").glob("*.yaml"))
    return [each for path in files for each in yaml.safe_load_all(path.read_text())]


def pods() -> dict[str, dict[str, Any]]:
    found = {}
    for manifest in manifests():
        spec = manifest.get("spec", {})
        if manifest["kind"] == "RayJob":
            cluster = spec["rayClusterSpec"]
            for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
                pod = group["template"]["spec"]
                found[pod["containers"][0]["name"]] = pod
        elif "template" in spec:
            found[manifest["metadata"]["name"]] = spec["template"]["spec"]
    return found


@pytest.mark.parametrize("name", SERVICES)
def test_port_is_published_on_loopback_unless_asked(name: str) -> None:
    for port in SERVICES[name].get("ports", []):
        assert re.fullmatch(r"127\.0\.0\.1:\d+:\d+", by_default(port)), port
    assert "network_mode" not in SERVICES[name]


def test_only_what_people_look_at_is_published() -> None:
    published = {name for name, service in SERVICES.items() if "ports" in service}
    assert published == {"mlflow", "ray-head"}


@pytest.mark.parametrize("name", SERVICES)
def test_secret_comes_from_the_environment_and_into_it_only(name: str) -> None:
    service = SERVICES[name]
    for variable, value in service.get("environment", {}).items():
        if SECRET.search(variable):
            assert REQUIRED.fullmatch(value), f"{variable} must have no default"
    # What is in a command line shows in a list of processes, what is in an image in its history.
    elsewhere = {key: value for key, value in service.items() if key != "environment"}
    assert not any(REQUIRED.search(text) for text in strings(elsewhere))
    assert not any(re.search(r"://[^/@]*:[^/@]*@", text) for text in strings(service))


def test_secret_that_is_missing_is_named_with_its_remedy() -> None:
    found = [match for text in strings(SERVICES) for match in REQUIRED.finditer(text)]
    assert {match[1] for match in found} == {"POSTGRES_PASSWORD", "RAY_AUTH_TOKEN"}
    for match in found:
        assert match[2].startswith(f"{match[1]} must be set")
        assert ".env" in match[2]


def test_example_of_the_environment_is_complete_and_has_no_secret() -> None:
    example = (DOCKER / ".env.example").read_text()
    texts = list(strings(COMPOSE))
    required = {match[1] for text in texts for match in REQUIRED.finditer(text)}
    optional = {(match[1], match[2]) for text in texts for match in OPTIONAL.finditer(text)}
    assert set(re.findall(r"^(\w+)=(.*)$", example, re.MULTILINE)) == {(r, "") for r in required}
    assert set(re.findall(r"^#(\w+)=(.*)$", example, re.MULTILINE)) == optional
    assert ".env" in (DOCKER / ".gitignore").read_text().split()


@pytest.mark.parametrize("name", SERVICES)
def test_service_has_no_rights_it_does_not_need(name: str) -> None:
    service = SERVICES[name]
    assert "build" in service or service["user"] not in ("root", "0")  # the image's, or its own
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in service
    assert not any("docker.sock" in text for text in strings(service))


@pytest.mark.parametrize("name", SERVICES)
def test_service_has_a_health_check_that_who_depends_on_it_waits_for(name: str) -> None:
    assert SERVICES[name]["healthcheck"]["test"][0] == "CMD"
    for condition in SERVICES[name].get("depends_on", {}).values():
        assert condition == {"condition": "service_healthy"}


def test_image_is_for_an_account_without_rights_and_checks_its_health() -> None:
    lines = (DOCKER / "Dockerfile").read_text().splitlines()
    users = [line.split()[1] for line in lines if line.startswith("USER")]
    assert users == ["10001:10001"]
    assert any(line.startswith("HEALTHCHECK") for line in lines)
    assert "ARG TORCH=cpu" in lines
    assert sum(line.startswith(("RUN", "COPY", "ADD")) for line in lines) == 2  # layers


def test_image_is_built_from_an_allow_list() -> None:
    lines = (DOCKER / "Dockerfile.dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    for rule in rules:
        if rule.startswith("!"):
            assert (DOCKER.parent / rule[1:]).exists(), rule


def test_folder_does_not_shadow_the_docker_package() -> None:
    assert not (DOCKER / "__init__.py").exists()


def test_search_of_compose_is_one_that_the_command_line_takes() -> None:
    service = SERVICES["search"]
    assert service["profiles"] == ["search"]  # not started by "up"
    given = [by_default(text) for text in service["entrypoint"]]
    assert given[:3] == ["python", "-m", "search"]
    args = build_parser().parse_args([*given[3:], "--target", "arm", "--max-drop", "0.03"])
    assert (args.backend, args.address) == ("ray", "ray://ray-head:10001")
    assert (args.workers, args.cpus_per_trial) == (1, 1)


def test_search_of_kubernetes_is_one_that_the_command_line_takes() -> None:
    (job,) = (each["spec"] for each in manifests() if each["kind"] == "RayJob")
    given = shlex.split(job["entrypoint"])
    assert given[:3] == ["python", "-m", "search"]
    args = build_parser().parse_args(given[3:])
    assert args.workers == sum(g["replicas"] for g in job["rayClusterSpec"]["workerGroupSpecs"])


def test_ray_job_has_only_fields_that_its_operator_knows() -> None:
    (job,) = (each for each in manifests() if each["kind"] == "RayJob")
    assert job["apiVersion"] == "ray.io/v1"
    cluster = job["spec"]["rayClusterSpec"]
    parts = [("job", job["spec"]), ("cluster", cluster), ("head", cluster["headGroupSpec"])]
    parts += [("worker", group) for group in cluster["workerGroupSpecs"]]
    for kind, part in parts:
        assert set(part) <= set(RAY_FIELDS[kind].split()), kind
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())


def test_ray_of_kubernetes_asks_for_a_token() -> None:
    (job,) = (each["spec"] for each in manifests() if each["kind"] == "RayJob")
    cluster = job["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    major, minor, _ = map(int, cluster["rayVersion"].split("."))
    assert (major, minor) >= (2, 52)  # which have tokens


@pytest.mark.parametrize("name", pods())
def test_pod_is_for_an_account_without_rights_and_is_probed(name: str) -> None:
    pod = pods()[name]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["automountServiceAccountToken"] is False
    for container in pod["containers"]:
        if container["image"].startswith("compression-search:"):
            assert pod["securityContext"]["runAsUser"] == 10001
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        }
        assert {"readinessProbe", "livenessProbe"} <= set(container)
        assert "memory" in container["resources"]["limits"]
        for variable in container.get("env", []):
            if SECRET.search(variable["name"]):
                assert "secretKeyRef" in variable["valueFrom"]


def test_kubernetes_publishes_nothing_beyond_the_cluster() -> None:
    for manifest in manifests():
        assert manifest["kind"] not in ("Secret", "Ingress")
        if manifest["kind"] == "Service":
            assert manifest["spec"].get("type", "ClusterIP") == "ClusterIP"


def test_stores_of_kubernetes_are_those_of_compose() -> None:
    mlflow = pods()["mlflow"]["containers"][0]
    assert mlflow["args"] == [by_default(text) for text in SERVICES["mlflow"]["command"]]
    (init,) = (each for each in manifests() if each["kind"] == "ConfigMap")
    statement = init["data"]["mlflow.sql"]
    assert statement in (DOCKER / "postgres.sql").read_text().splitlines()
