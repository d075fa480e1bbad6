"""What a cluster is told: valid, complete, and in agreement with itself and the service."""

from __future__ import annotations

import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes_validate import validate

from metalm_service.config import CONFIG_FIELDS, ServerConfig
from tests.kubernetes.manifests import FOLDER, Manifest, built, container, environment, only, plain

OLDEST, NEWEST = "1.30", "1.37"
"""Kubernetes. Older ones have no preStop that sleeps."""

CUSTOM = {"ServiceMonitor"}
"""Kinds that the API itself does not have."""


@pytest.fixture(scope="module", params=["base", "secured", "token-rate", "monitor"])
def manifests(request: pytest.FixtureRequest, tmp_path_factory: Any) -> list[Manifest]:
    """The base, the overlay, and the base with each component alone."""
    folder = FOLDER / request.param
    if request.param in ("base", "secured"):
        return built(folder)
    # As whoever deploys it would: an overlay of their own.
    overlay = tmp_path_factory.mktemp("overlay")
    links = {name: overlay / name for name in ("base", request.param)}
    for name, link in links.items():
        link.symlink_to(FOLDER / name)
    kustomization = {"resources": ["base"], "components": [request.param]}
    (overlay / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    return built(overlay)


@pytest.mark.parametrize("kubernetes", [OLDEST, NEWEST])
def test_the_api_knows_every_field(manifests: list[Manifest], kubernetes: str) -> None:
    for manifest in manifests:
        if manifest["kind"] not in CUSTOM:
            validate(manifest, kubernetes, strict=True)


def test_what_is_written_is_valid_without_kustomize() -> None:
    for manifest in [*plain(FOLDER / "base"), *plain(FOLDER / "monitor")]:
        if manifest["kind"] not in CUSTOM:
            validate(manifest, OLDEST, strict=True)


def test_files_are_named_and_names_are_files() -> None:
    for kustomization in FOLDER.glob("*/kustomization.yaml"):
        folder = kustomization.parent
        content = yaml.safe_load(kustomization.read_text())
        named = [*content.get("resources", []), *content.get("components", [])]
        named += [patch["path"] for patch in content.get("patches", [])]
        for name in named:
            assert (folder / name).exists(), f"{kustomization}: {name}"
        there = {file.name for file in folder.glob("*.yaml")}
        # The adapter's rule is for the adapter.
        assert there - set(named) <= {"kustomization.yaml", "adapter.yaml"}


def test_everything_is_in_one_namespace(manifests: list[Manifest]) -> None:
    for manifest in manifests:
        if manifest["kind"] != "Namespace":
            assert manifest["metadata"]["namespace"] == "metalm", manifest["metadata"]


def test_selectors_select_the_pods(manifests: list[Manifest]) -> None:
    deployment = only(manifests, "Deployment")["spec"]
    labels = deployment["template"]["metadata"]["labels"].items()
    selectors = [
        deployment["selector"]["matchLabels"],
        only(manifests, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        *(m["spec"]["selector"] for m in manifests if m["kind"] == "Service"),
        *(
            m["spec"]["podSelector"]["matchLabels"]
            for m in manifests
            if m["kind"] == "NetworkPolicy"
        ),
        *(
            spread["labelSelector"]["matchLabels"]
            for spread in deployment["template"]["spec"]["topologySpreadConstraints"]
        ),
    ]
    for selector in selectors:
        assert selector.items() <= labels
    target = only(manifests, "HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == ("Deployment", "metalm")


def test_names_of_ports_are_ports_of_the_container(manifests: list[Manifest]) -> None:
    ports = {port["name"]: port["containerPort"] for port in container(manifests)["ports"]}
    assert len(set(ports.values())) == len(ports)
    for manifest in manifests:
        if manifest["kind"] == "Service":
            assert {port["targetPort"] for port in manifest["spec"]["ports"]} <= set(ports)
    for name in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container(manifests)[name]["httpGet"]["port"] in ports
    policy = only(manifests, "NetworkPolicy")["spec"]
    assert {port["port"] for rule in policy["ingress"] for port in rule["ports"]} == {
        "http",
        "grpc",
    }


def test_the_ports_are_those_of_the_image() -> None:
    image = (FOLDER.parent / "Dockerfile").read_text()
    ports = {
        port["name"]: port["containerPort"] for port in container(plain(FOLDER / "base"))["ports"]
    }
    assert ports == {
        "http": int(re.findall(r"METALM_PORT=(\d+)", image)[0]),
        "grpc": int(re.findall(r"METALM_GRPC_PORT=(\d+)", image)[0]),
    }
    user = only(plain(FOLDER / "base"), "Deployment")["spec"]["template"]["spec"]["securityContext"]
    assert f"USER {user['runAsUser']}:{user['runAsGroup']}" in image


def test_the_image_is_of_this_version() -> None:
    assert container(built(FOLDER / "base"))["image"] == f"metalm-service:{version('metalm')}"


def test_the_service_takes_its_settings(manifests: list[Manifest]) -> None:
    known = {f"METALM_{field.name.upper()}" for field in CONFIG_FIELDS}
    given = dict(environment(manifests))
    assert set(given) <= known
    # Files that are mounted are not here.
    values = {name: value for name, value in given.items() if not value.startswith("/etc/metalm/")}
    config = ServerConfig.load({}, values)
    assert config.threads == int(container(manifests)["resources"]["requests"]["cpu"])


def test_what_is_mounted_is_what_is_read() -> None:
    manifests = built(FOLDER / "secured")
    pod = only(manifests, "Deployment")["spec"]["template"]["spec"]
    mounts = {mount["mountPath"]: mount["name"] for mount in container(manifests)["volumeMounts"]}
    assert {volume["name"] for volume in pod["volumes"]} == set(mounts.values())
    files = [value for _, value in environment(manifests) if value.startswith("/")]
    assert {str(Path(file).parent) for file in files} == set(mounts)
    for volume in pod["volumes"]:
        # Read by the group that the pod is in, and by nobody else.
        assert volume["secret"]["defaultMode"] == 0o440
    assert pod["securityContext"]["fsGroup"]


def test_it_drains_before_it_is_killed(manifests: list[Manifest]) -> None:
    pod = only(manifests, "Deployment")["spec"]["template"]["spec"]
    before_s = container(manifests)["lifecycle"]["preStop"]["sleep"]["seconds"]
    drain_s = ServerConfig.load(
        {}, {"METALM_DRAIN_TIMEOUT_S": dict(environment(manifests))["METALM_DRAIN_TIMEOUT_S"]}
    ).drain_timeout_s
    assert before_s + drain_s + 5 <= pod["terminationGracePeriodSeconds"]
    # Readiness is lost sooner than the pod stops serving.
    assert container(manifests)["readinessProbe"]["periodSeconds"] <= before_s


def test_memory_has_room_for_what_is_in_flight(manifests: list[Manifest]) -> None:
    limit = container(manifests)["resources"]["limits"]["memory"]
    assert limit == "1280Mi"
    # The rest is the process itself, and the one that computes floors: docker/SIZING.md.
    assert 1280 * 2**20 - ServerConfig().max_inflight_bytes >= 700 * 2**20


def test_a_service_called_metalm_does_not_set_our_variables(manifests: list[Manifest]) -> None:
    """Kubernetes would set METALM_PORT to tcp://…, which is no port."""
    assert only(manifests, "Deployment")["spec"]["template"]["spec"]["enableServiceLinks"] is False


def test_the_liveness_of_a_busy_pod_outlives_a_minute(manifests: list[Manifest]) -> None:
    probe = container(manifests)["livenessProbe"]
    assert probe["httpGet"]["path"] == "/healthz"
    assert probe["periodSeconds"] * probe["failureThreshold"] >= 60
    for name in ("startupProbe", "readinessProbe"):
        assert container(manifests)[name]["httpGet"]["path"] == "/readyz"


def test_the_client_side_service_is_headless(manifests: list[Manifest]) -> None:
    replicas = only(manifests, "Service", "metalm-replicas")["spec"]
    assert replicas["clusterIP"] == "None"
    assert {"http", "grpc", "metrics"} == {port["name"] for port in replicas["ports"]}
    assert "clusterIP" not in only(manifests, "Service")["spec"]


def test_the_autoscaler_asks_for_the_metric_that_the_adapter_makes() -> None:
    (rule,) = yaml.safe_load((FOLDER / "token-rate" / "adapter.yaml").read_text())["rules"]
    series = rule["seriesQuery"].partition("{")[0]
    assert re.fullmatch(rule["name"]["matches"], series)
    metrics = only(built(FOLDER / "secured"), "HorizontalPodAutoscaler")["spec"]["metrics"]
    pods = [metric["pods"] for metric in metrics if metric["type"] == "Pods"]
    assert [metric["metric"]["name"] for metric in pods] == [rule["name"]["as"]]
    assert [metric["type"] for metric in metrics] == ["Resource", "Pods"]


def test_prometheus_finds_the_port_of_the_metrics() -> None:
    manifests = built(FOLDER / "secured")
    monitor = only(manifests, "ServiceMonitor")["spec"]
    service = only(manifests, "Service", "metalm-replicas")
    assert monitor["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    # Otherwise every pod would be scraped through the other service too.
    other = only(manifests, "Service")["metadata"]["labels"]
    assert not monitor["selector"]["matchLabels"].items() <= other.items()
    (endpoint,) = monitor["endpoints"]
    (port,) = (p for p in service["spec"]["ports"] if p["name"] == endpoint["port"])
    numbers = {p["name"]: p["containerPort"] for p in container(manifests)["ports"]}
    policy = only(manifests, "NetworkPolicy", "metalm-metrics")["spec"]
    assert numbers[port["targetPort"]] in {
        p["port"] for rule in policy["ingress"] for p in rule["ports"]
    }
