#!/usr/bin/env bash
#
# Builds the service's image through Compose, runs it, and checks what the image
# promises: ready and healthy, the same answers as the other implementations, no
# capabilities, no root, nothing written, any user id, a clean stop; as one of three
# replicas, of which one is killed under load; and as docker/kubernetes runs it.
#
# PYTHON               the project's virtual environment (.venv/bin/python)
# METALM_HTTP_PORTS, METALM_GRPC_PORTS   ports to publish (8000, 50051)
# METALM_BUILD_NETWORK  the network of the build's steps
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
PYTHON=${PYTHON:-.venv/bin/python}
image=metalm-service
wait_s=120
export COMPOSE_PROJECT_NAME=metalm-test
export METALM_HTTP_PORTS=${METALM_HTTP_PORTS:-8000}
export METALM_GRPC_PORTS=${METALM_GRPC_PORTS:-50051}
base_url="http://127.0.0.1:$METALM_HTTP_PORTS"
extra=()
compose_up=0
work=$(mktemp -d)

say() { printf 'docker-test: %s\n' "$*"; }
die() {
  say "FAILED: $*" >&2
  exit 1
}

if docker compose version >/dev/null 2>&1; then
  compose() { docker compose "$@"; }
else
  compose() { docker-compose "$@"; }
fi

finish() {
  local status=$? name
  trap - EXIT
  set +e
  if [ "$status" != 0 ]; then
    for name in "${extra[@]}"; do
      say "--- state and log of $name" >&2
      docker inspect --format '{{json .State}}' "$name" >&2
      docker logs --tail 100 "$name" >&2
    done
    if [ "$compose_up" = 1 ]; then
      say "--- state and log of the compose service" >&2
      compose ps >&2
      compose logs --no-color --tail=100 >&2
    fi
  fi
  for name in "${extra[@]}"; do
    docker rm --force --volumes "$name" >/dev/null 2>&1
  done
  if [ "$compose_up" = 1 ]; then
    compose down --volumes --timeout 30 >/dev/null 2>&1
  fi
  rm -rf -- "$work"
  exit "$status"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# wait_ready URL: polls URL/readyz and prints the time when it first said 200.
wait_ready() {
  "$PYTHON" - "$1/readyz" "$wait_s" <<'PY'
import http.client
import sys
import time
import urllib.request

url, deadline = sys.argv[1], time.monotonic() + float(sys.argv[2])
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
while True:
    try:
        with opener.open(url, timeout=2) as answer:
            if answer.status == 200:
                print(repr(time.time()))
                break
    except (OSError, http.client.HTTPException):
        pass
    if time.monotonic() > deadline:
        sys.exit(f"{url} was not ready in {sys.argv[2]} s")
    time.sleep(0.02)
PY
}

# ready_after CONTAINER TIME: seconds from the container's start to TIME.
ready_after() {
  "$PYTHON" -c '
import datetime, re, sys
started = re.sub(r"(\.\d{6})\d*", r"\1", sys.argv[1]).replace("Z", "+00:00")
print(f"{float(sys.argv[2]) - datetime.datetime.fromisoformat(started).timestamp():.2f}")
' "$(docker inspect --format '{{.State.StartedAt}}' "$1")" "$2"
}

wait_healthy() {
  local state='' end=$((SECONDS + wait_s))
  while [ "$SECONDS" -lt "$end" ]; do
    state=$(docker inspect --format '{{.State.Status}} {{.State.Health.Status}}' "$1")
    case "$state" in
    'running healthy') return 0 ;;
    'running starting') sleep 0.25 ;;
    *) die "$1 is $state" ;;
    esac
  done
  die "$1 was not healthy in $wait_s s but $state"
}

check_sample() {
  curl -fsS --noproxy '*' --max-time 30 "$1/sample?V=64&n=10" >"$work/sample.json" ||
    die "$1/sample does not answer"
  "$PYTHON" -c '
import json, sys
sample = json.load(open(sys.argv[1]))
assert len(sample["x"]) > 0 and len(sample["y"]) > 0, sample
' "$work/sample.json" || die "$1/sample did not answer a sample: $(cat "$work/sample.json")"
}

# check_floors CONTAINER URL: they are computed, by kernels that need not be compiled; and a worker that
# is ended in the middle leaves nothing behind.
check_floors() {
  local url="$2/floors?V=64&n=10&L=4096" before after
  curl -fsS --noproxy '*' --max-time 60 "$url&samples=4" >"$work/floors.json" ||
    die "$2/floors does not answer"
  before=$(docker exec "$1" sh -c 'find /tmp /dev/shm -mindepth 1 | wc -l')
  if curl -fsS --noproxy '*' --max-time 1 "$url&samples=1000" >"$work/floors.json"; then
    die "$2/floors answered at once: nothing was ended in the middle"
  fi
  curl -fsS --noproxy '*' --max-time 60 "$url&samples=5" >"$work/floors.json" ||
    die "$2/floors does not answer any more"
  after=$(docker exec "$1" sh -c 'find /tmp /dev/shm -mindepth 1 | wc -l')
  [ "$before" = "$after" ] || die "files of $1 in /tmp and /dev/shm: $before, and $after behind it"
}

# check_process CONTAINER UID: what the kernel says of the container's process 1. What it may call
# is filtered by the engine's default profile, if the engine has one.
check_process() {
  docker exec "$1" python3 -I -c '
import sys

status = dict(line.rstrip("\n").split(":", 1) for line in open("/proc/1/status"))
for key in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
    assert int(status[key], 16) == 0, f"{key} is {status[key]}"
uids = {int(word) for word in status["Uid"].split()}
assert uids == {int(sys.argv[1])} and 0 not in uids, f"user ids {uids}"
assert 0 not in {int(word) for word in status["Gid"].split()}, "group 0"
assert int(status["NoNewPrivs"]) == 1, "privileges can be gained"
if sys.argv[2] == "1":
    assert int(status["Seccomp"]) == 2, "system calls are not filtered"
' "$2" "$seccomp" || die "process 1 of $1 has more rights than it should"
}

stop_cleanly() {
  local code
  docker stop --time 30 "$1" >/dev/null
  code=$(docker inspect --format '{{.State.ExitCode}}' "$1")
  [ "$code" = 0 ] || die "$1 stopped with exit code $code"
}

# run_extra NAME ARG...: runs the image with ARGs on a free port; sets url and
# after.
run_extra() {
  local name=$1 port poller
  shift
  port=$("$PYTHON" -c '
import socket
with socket.socket() as s:
    s.bind(("127.0.0.1", 0))
    print(s.getsockname()[1])
')
  url="http://127.0.0.1:$port"
  extra+=("$name")
  wait_ready "$url" >"$work/$name" &
  poller=$!
  docker run --detach --name "$name" --publish "127.0.0.1:$port:8000" "$@" "$image" >/dev/null || {
    kill "$poller"
    die "docker run $* failed"
  }
  wait "$poller" || die "$name did not become ready"
  after=$(ready_after "$name" "$(cat "$work/$name")")
}

[ -x "$PYTHON" ] || command -v "$PYTHON" >/dev/null || die "no $PYTHON"
tests/docker/engine.sh
# An engine may have been built, or told, to filter no system calls.
seccomp=$(docker info --format '{{json .SecurityOptions}}' | grep -cE 'name=seccomp,profile=(default|builtin)' || true)
[ "$seccomp" = 1 ] || say "this engine filters no system calls: not checked"

# The stand-in base image: this machine reaches its package registries from its
# own network only, and may have the classic builder only.
base=$(sed -n 's/^ARG BASE_IMAGE=//p' docker/Dockerfile | head -n 1)
if [[ "$(docker image inspect --format '{{json .Config.Labels}}' "$base")" == *'"metalm.standin"'* ]]; then
  export METALM_BUILD_NETWORK=${METALM_BUILD_NETWORK:-host}
  export DOCKER_BUILDKIT=${DOCKER_BUILDKIT:-0}
fi

say "building"
before=$(docker image inspect --format '{{.Id}}' "$image" 2>/dev/null || true)
SECONDS=0
compose build >"$work/build.log" 2>&1 || {
  tail -n 60 "$work/build.log" >&2
  die "the image does not build"
}
size=$(docker image inspect --format '{{.Size}}' "$image")
say "built in $SECONDS s, image size $((size / 1000000)) MB"
if [ -n "$before" ] && [ "$before" != "$(docker image inspect --format '{{.Id}}' "$image")" ]; then
  docker image rm "$before" >/dev/null 2>&1 || true
fi

say "compose: up"
compose_up=1
compose up --detach --no-build >"$work/up.log" 2>&1 || {
  cat "$work/up.log" >&2
  die "compose up failed"
}
service=$(compose ps -q service)
ready=$(wait_ready "$base_url")
say "compose: ready $(ready_after "$service" "$ready") s after its start"
wait_healthy "$service"
check_sample "$base_url"
check_process "$service" 65532
say "compose: healthy, uid 65532, no capabilities, no new privileges"

METALM_TEST_URLS="$base_url grpc://127.0.0.1:$METALM_GRPC_PORTS" \
  "$PYTHON" -m pytest tests/congruence -q || die "the congruence suite failed against the container"
changed=$(docker diff "$service")
[ -z "$changed" ] || die "compose: the container's file system changed: $changed"
stop_cleanly "$service"
say "compose: congruent, nothing written, stopped with exit code 0"
compose down --volumes --timeout 30 >/dev/null 2>&1
compose_up=0

compose_up=1
METALM_HTTP_PORTS=$METALM_HTTP_PORTS-$((METALM_HTTP_PORTS + 2)) \
  METALM_GRPC_PORTS=$METALM_GRPC_PORTS-$((METALM_GRPC_PORTS + 2)) \
  compose up --detach --no-build --scale service=3 >"$work/up.log" 2>&1 || {
  cat "$work/up.log" >&2
  die "compose up --scale service=3 failed"
}
say "compose: three replicas"
"$PYTHON" -m tests.docker.scale || die "trainers were not served well by three replicas"
compose down --volumes --timeout 30 >/dev/null 2>&1
compose_up=0

run_extra "metalm-test-odd-$$" --read-only --cap-drop ALL --security-opt no-new-privileges \
  --user 12345:54321 --env HOME=
wait_healthy "metalm-test-odd-$$"
check_sample "$url"
check_floors "metalm-test-odd-$$" "$url"
check_process "metalm-test-odd-$$" 12345
changed=$(docker diff "metalm-test-odd-$$")
[ -z "$changed" ] || die "user 12345: the container's file system changed: $changed"
stop_cleanly "metalm-test-odd-$$"
say "read-only, user 12345:54321, no HOME, no /tmp to write: ready $after s after its start, healthy, stopped with exit code 0"

# As Kubernetes would run it: whatever docker/kubernetes says, as options of this engine.
mapfile -t pod < <("$PYTHON" -m tests.docker.pod)
[ "${#pod[@]}" -gt 10 ] || die "no options from docker/kubernetes"
run_extra "metalm-test-pod-$$" "${pod[@]}"
wait_healthy "metalm-test-pod-$$"
check_sample "$url"
check_floors "metalm-test-pod-$$" "$url"
check_process "metalm-test-pod-$$" 65532
METALM_TEST_URLS="$url" "$PYTHON" -m pytest tests/congruence -q -k 'http and not grpc' ||
  die "the congruence suite failed against the pod's container"
[ "$(docker inspect --format '{{.State.OOMKilled}}' "metalm-test-pod-$$")" = false ] ||
  die "the pod's memory is too small"
changed=$(docker diff "metalm-test-pod-$$")
[ -z "$changed" ] || die "the pod's file system changed: $changed"
stop_cleanly "metalm-test-pod-$$"
say "as docker/kubernetes has it (restricted, read-only, seccomp, limits): ready $after s after its start, congruent, nothing written, stopped with exit code 0"

"$PYTHON" -m tests.docker.secured || die "TLS and tokens, as docker/kubernetes/secured has them"

# Where it could write, it writes nothing all the same (but for /tmp).
run_extra "metalm-test-plain-$$" --cap-drop ALL --security-opt no-new-privileges
wait_healthy "metalm-test-plain-$$"
check_sample "$url"
changed=$(docker diff "metalm-test-plain-$$" | grep -vE '^[AC] /tmp(/|$)' || true)
[ -z "$changed" ] || die "with a writable root file system it wrote: $changed"
stop_cleanly "metalm-test-plain-$$"
say "writable root: ready $after s after its start, nothing written, stopped with exit code 0"
say "passed"
