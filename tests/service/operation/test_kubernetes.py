"""The manifests for Kubernetes and KServe."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import kubernetes_validate
import pytest
import yaml
from fastapi import FastAPI

from benchmarks.scaling import Scenario
from service.settings import Settings
from tests import ROOT

DIRECTORY = ROOT / "deploy" / "kubernetes"
FOLDERS = sorted(path.parent for path in DIRECTORY.rglob("kustomization.yaml"))
COMPONENTS = sorted(folder.name for folder in FOLDERS if folder.parent.name == "components")
VERSIONS = ("1.30", "1.37")
"""Of Kubernetes, the oldest and newest that the manifests are checked for."""

ELSEWHERE = {"ScaledObject", "PodMonitor", "InferenceService"}
"""Kinds of KEDA, of the Prometheus operator and of KServe, whose schemas are not Kubernetes' own."""

KUSTOMIZE = shutil.which("kustomize")


def read(path: Path) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def list_resources(folder: Path) -> Iterator[dict[str, Any]]:
    """The resources of a folder, without those that it takes from others, and without patches."""
    for name in read(folder / "kustomization.yaml")[0].get("resources", []):
        if name.endswith(".yaml"):
            yield from read(folder / name)


def validate(resource: dict[str, Any]) -> None:
    if resource["kind"] not in ELSEWHERE:
        for version in VERSIONS:
            kubernetes_validate.validate(resource, version, strict=True)


def find_containers(resource: Any) -> Iterator[dict[str, Any]]:
    """All containers below a resource or patch."""
    if isinstance(resource, dict):
        for key, value in resource.items():
            yield from value if key == "containers" else find_containers(value)


CONTAINERS = [
    container
    for path in (*DIRECTORY.rglob("*.yaml"), *(ROOT / "deploy" / "kserve").glob("*.yaml"))
    for document in read(path)
    for container in find_containers(document)
]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_resources_follow_the_schemas(folder: Path) -> None:
    kustomization = read(folder / "kustomization.yaml")[0]
    for name in (*kustomization.get("resources", []), *kustomization.get("components", [])):
        assert (folder / name).exists()
    for patch in kustomization.get("patches", []):
        assert "patch" in patch or (folder / patch["path"]).is_file()
    for resource in list_resources(folder):
        validate(resource)


@pytest.mark.skipif(KUSTOMIZE is None, reason="kustomize is not installed")
@pytest.mark.parametrize("components", [[], *([name] for name in COMPONENTS), COMPONENTS], ids=str)
def test_kustomize_builds_what_follows_the_schemas(components: list[str], tmp_path: Path) -> None:
    """Of the base alone, with each component, and with all."""
    shutil.copytree(DIRECTORY, tmp_path / "kubernetes")
    (tmp_path / "kubernetes" / "components" / "keys" / "keys.toml").write_text("[alice]")
    cluster = tmp_path / "kubernetes" / "cluster"
    (kustomization,) = read(cluster / "kustomization.yaml")
    kustomization["components"] = [f"../components/{name}" for name in components]
    (cluster / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    assert KUSTOMIZE
    built = subprocess.run([KUSTOMIZE, "build", str(cluster)], capture_output=True, text=True, check=True).stdout
    resources = list(yaml.safe_load_all(built))
    for resource in resources:
        validate(resource)
    (deployment,) = [resource for resource in resources if resource["kind"] == "Deployment"]
    (container,) = find_containers(deployment)
    assert container["image"] == f"registry.example.org/hyperdraw:{'cuda' if 'gpu' in components else 'cpu'}"
    assert ("replicas" in deployment["spec"]) != ("autoscaling" in components)
    read_settings(container)


def read_settings(container: dict[str, Any]) -> Settings:
    """The settings of a container, those of the image among them."""
    given = {variable["name"].removeprefix("HYPERDRAW_").lower(): variable["value"] for variable in container["env"]}
    settings = Settings(host="0.0.0.0", **{name: value for name, value in given.items() if value})
    settings.check_exposure()
    return settings


@pytest.mark.parametrize("container", CONTAINERS, ids=lambda container: str(container["env"][0]))
def test_every_variable_is_a_setting(container: dict[str, Any]) -> None:
    for variable in container["env"]:
        name = variable["name"].removeprefix("HYPERDRAW_").lower()
        assert name in Settings.model_fields
        if variable["value"]:
            Settings(**{name: variable["value"]})


def test_probes_ask_for_what_there_is(app: FastAPI, client: httpx.Client) -> None:
    paths = {
        probe["httpGet"]["path"]
        for container in CONTAINERS
        for name, probe in container.items()
        if name.endswith("Probe")
    }
    assert paths == {"/readyz", "/healthz", "/v2/health/ready"}
    for path in paths:
        assert client.get(path).status_code == 200


def test_a_replica_has_time_to_drain() -> None:
    (deployment,) = read(DIRECTORY / "base" / "deployment.yaml")
    (container,) = find_containers(deployment)
    settings = read_settings(container)
    pod = deployment["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] > settings.drain_delay + settings.drain_timeout
    assert settings.drain_delay > 2 * container["readinessProbe"]["periodSeconds"]
    assert deployment["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0


def test_the_names_agree() -> None:
    resources = {resource["kind"]: resource for folder in FOLDERS for resource in list_resources(folder)}
    deployment = read(DIRECTORY / "base" / "deployment.yaml")[0]
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    selectors = [
        resources["Service"]["spec"]["selector"],
        resources["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        resources["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
        resources["PodMonitor"]["spec"]["selector"]["matchLabels"],
        deployment["spec"]["selector"]["matchLabels"],
    ]
    assert all(selector == labels for selector in selectors)
    assert resources["ScaledObject"]["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    (patch,) = read(DIRECTORY / "components" / "volume" / "deployment.yaml")
    (volume,) = patch["spec"]["template"]["spec"]["volumes"]
    claim = volume["persistentVolumeClaim"]["claimName"]
    assert claim == resources["PersistentVolumeClaim"]["metadata"]["name"]


def test_the_port_of_grpc_is_the_same_everywhere() -> None:
    component = DIRECTORY / "components" / "grpc"
    (container,) = find_containers(read(component / "deployment.yaml")[0])
    (service,) = read(component / "service.yaml")
    (policy,) = read(component / "network.yaml")
    (base,) = read(DIRECTORY / "base" / "network.yaml")
    (port,) = container["ports"]
    assert container["env"] == [{"name": "HYPERDRAW_GRPC_PORT", "value": str(port["containerPort"])}]
    assert [offered["targetPort"] for offered in service["spec"]["ports"]] == [port["name"]]
    (rule,), (usual,) = policy["spec"]["ingress"], base["spec"]["ingress"]
    assert rule == usual | {"ports": [{"port": port["name"]}]}


def test_it_scales_by_a_metric_that_exists(client: httpx.Client) -> None:
    (scaled,) = read(DIRECTORY / "components" / "autoscaling" / "scaled_object.yaml")
    (trigger,) = scaled["spec"]["triggers"]
    (metric,) = re.findall(r"hyperdraw_\w+", trigger["metadata"]["query"])
    assert f"\n{metric} " in client.get("/metrics").text
    simulated = Scenario()  # docs/scale.md has what comes of these
    assert int(trigger["metadata"]["threshold"]) == simulated.threshold
    assert (scaled["spec"]["minReplicaCount"], scaled["spec"]["maxReplicaCount"]) == (simulated.least, simulated.most)
