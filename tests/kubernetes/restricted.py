"""The Pod Security Standards of Kubernetes, profile "restricted", rule by rule.

https://kubernetes.io/docs/concepts/security/pod-security-standards/
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

_VOLUMES = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
}
_SYSCTLS = {
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_wmem",
}
_SELINUX_TYPES = {"", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"}
_PROFILES = {"RuntimeDefault", "Localhost"}
_APPARMOR = "container.apparmor.security.beta.kubernetes.io/"
_KINDS_OF_CONTAINERS = ("containers", "initContainers", "ephemeralContainers")
_PROBES = ("livenessProbe", "readinessProbe", "startupProbe")


def violations(template: dict[str, Any]) -> list[str]:
    """What a pod's template does that the profile forbids, each with the path of the field."""
    annotations = template.get("metadata", {}).get("annotations", {})
    return [*_of_annotations(annotations), *_of_pod(template["spec"])]


def _of_annotations(annotations: dict[str, str]) -> Iterator[str]:
    for name, value in annotations.items():
        allowed = value == "runtime/default" or value.startswith("localhost/")
        if name.startswith(_APPARMOR) and not allowed:
            yield f"metadata.annotations.{name}"


def _of_pod(pod: dict[str, Any]) -> Iterator[str]:
    for name in ("hostNetwork", "hostPID", "hostIPC"):
        if pod.get(name):
            yield f"spec.{name}"
    context = pod.get("securityContext", {})
    yield from _of_context(context, "spec.securityContext")
    for setting in context.get("sysctls", ()):
        if setting["name"] not in _SYSCTLS:
            yield f"spec.securityContext.sysctls {setting['name']}"
    for volume in pod.get("volumes", ()):
        # A volume without a kind is an emptyDir.
        for kind in volume.keys() - {"name"} - _VOLUMES:
            yield f"spec.volumes {volume['name']}: {kind}"
    for kind in _KINDS_OF_CONTAINERS:
        for container in pod.get(kind, ()):
            yield from _of_container(container, context, f"spec.{kind} {container['name']}")


def _of_container(container: dict[str, Any], pod: dict[str, Any], at: str) -> Iterator[str]:
    context = container.get("securityContext", {})
    yield from _of_context(context, f"{at}: securityContext")
    if context.get("privileged"):
        yield f"{at}: securityContext.privileged"
    if context.get("procMount", "Default") != "Default":
        yield f"{at}: securityContext.procMount"
    if context.get("allowPrivilegeEscalation") is not False:
        yield f"{at}: securityContext.allowPrivilegeEscalation"
    if context.get("runAsNonRoot", pod.get("runAsNonRoot")) is not True:
        yield f"{at}: securityContext.runAsNonRoot"
    profile = context.get("seccompProfile", pod.get("seccompProfile", {}))
    if profile.get("type") not in _PROFILES:
        yield f"{at}: securityContext.seccompProfile.type"
    capabilities = context.get("capabilities", {})
    if "ALL" not in capabilities.get("drop", ()):
        yield f"{at}: securityContext.capabilities.drop"
    if set(capabilities.get("add", ())) - {"NET_BIND_SERVICE"}:
        yield f"{at}: securityContext.capabilities.add"
    for port in container.get("ports", ()):
        if port.get("hostPort"):
            yield f"{at}: ports.hostPort"
    handlers = [container.get(name, {}) for name in _PROBES]
    handlers += container.get("lifecycle", {}).values()
    for handler in handlers:
        for action in ("httpGet", "tcpSocket"):
            if handler.get(action, {}).get("host"):
                yield f"{at}: {action}.host"


def _of_context(context: dict[str, Any], at: str) -> Iterator[str]:
    """What a pod and a container may say alike."""
    if context.get("runAsUser") == 0:
        yield f"{at}.runAsUser"
    if context.get("runAsNonRoot") is False:
        yield f"{at}.runAsNonRoot"
    if context.get("seccompProfile", {}).get("type", "RuntimeDefault") not in _PROFILES:
        yield f"{at}.seccompProfile.type"
    if context.get("appArmorProfile", {}).get("type", "RuntimeDefault") not in _PROFILES:
        yield f"{at}.appArmorProfile.type"
    if context.get("windowsOptions", {}).get("hostProcess"):
        yield f"{at}.windowsOptions.hostProcess"
    selinux = context.get("seLinuxOptions", {})
    if selinux.get("type", "") not in _SELINUX_TYPES or selinux.get("user") or selinux.get("role"):
        yield f"{at}.seLinuxOptions"
