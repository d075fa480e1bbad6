"""The pods pass the profile "restricted", and the checker of that would notice if they did not."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from tests.kubernetes.manifests import FOLDER, built, only, plain
from tests.kubernetes.restricted import violations

TEMPLATE = only(plain(FOLDER / "base"), "Deployment")["spec"]["template"]


def test_the_base_passes_as_it_is_written() -> None:
    assert violations(TEMPLATE) == []


@pytest.mark.parametrize("name", ["base", "secured"])
def test_what_is_built_passes(name: str) -> None:
    template = only(built(FOLDER / name), "Deployment")["spec"]["template"]
    assert violations(template) == []
    for container in template["spec"]["containers"]:
        assert container["securityContext"]["readOnlyRootFilesystem"] is True


def test_the_namespace_enforces_it() -> None:
    labels = only(plain(FOLDER / "base"), "Namespace")["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"


def in_pod(**values: Any) -> Callable[[Any], None]:
    return lambda template: template["spec"].update(values)


def in_context(**values: Any) -> Callable[[Any], None]:
    return lambda template: template["spec"]["securityContext"].update(values)


def in_container(**values: Any) -> Callable[[Any], None]:
    return lambda template: template["spec"]["containers"][0].update(values)


def in_its_context(**values: Any) -> Callable[[Any], None]:
    return lambda template: template["spec"]["containers"][0]["securityContext"].update(values)


def annotated(template: Any) -> None:
    name = "container.apparmor.security.beta.kubernetes.io/service"
    template["metadata"]["annotations"] = {name: "unconfined"}


def without(name: str) -> Callable[[Any], None]:
    def change(template: Any) -> None:
        template["spec"]["securityContext"].pop(name, None)
        template["spec"]["containers"][0]["securityContext"].pop(name, None)

    return change


BROKEN = {
    "hostNetwork": in_pod(hostNetwork=True),
    "hostPID": in_pod(hostPID=True),
    "hostIPC": in_pod(hostIPC=True),
    "volumes": in_pod(volumes=[{"name": "v", "hostPath": {"path": "/"}}]),
    "volumes v: nfs": in_pod(volumes=[{"name": "v", "nfs": {"server": "s", "path": "/"}}]),
    "initContainers": in_pod(initContainers=[{"name": "first"}]),
    "ephemeralContainers": in_pod(ephemeralContainers=[{"name": "debug"}]),
    "sysctls": in_context(sysctls=[{"name": "kernel.msgmax", "value": "1"}]),
    "spec.securityContext.runAsUser": in_context(runAsUser=0),
    "spec.securityContext.runAsNonRoot": in_context(runAsNonRoot=False),
    "spec.securityContext.seccompProfile": in_context(seccompProfile={"type": "Unconfined"}),
    "appArmorProfile": in_context(appArmorProfile={"type": "Unconfined"}),
    "annotations": annotated,
    "seLinuxOptions": in_context(seLinuxOptions={"type": "spc_t"}),
    "securityContext.seLinuxOptions": in_its_context(seLinuxOptions={"user": "system_u"}),
    "hostProcess": in_its_context(windowsOptions={"hostProcess": True}),
    "privileged": in_its_context(privileged=True),
    "procMount": in_its_context(procMount="Unmasked"),
    "service: securityContext.runAsUser": in_its_context(runAsUser=0),
    "service: securityContext.seccompProfile": in_its_context(
        seccompProfile={"type": "Unconfined"}
    ),
    "capabilities.add": in_its_context(capabilities={"drop": ["ALL"], "add": ["SYS_ADMIN"]}),
    "capabilities.drop": in_its_context(capabilities={"drop": ["KILL"]}),
    "allowPrivilegeEscalation": without("allowPrivilegeEscalation"),
    "service: securityContext.runAsNonRoot": without("runAsNonRoot"),
    "seccompProfile.type": without("seccompProfile"),
    "hostPort": in_container(ports=[{"containerPort": 80, "hostPort": 80}]),
    "httpGet.host": in_container(livenessProbe={"httpGet": {"host": "10.0.0.1", "port": 80}}),
    "tcpSocket.host": in_container(
        lifecycle={"preStop": {"tcpSocket": {"host": "10.0.0.1", "port": 80}}}
    ),
}


@pytest.mark.parametrize("rule", BROKEN)
def test_each_rule_that_is_broken_is_found(rule: str) -> None:
    template = copy.deepcopy(TEMPLATE)
    BROKEN[rule](template)
    assert any(rule in found for found in violations(template)), violations(template)
