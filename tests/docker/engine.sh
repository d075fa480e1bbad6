#!/usr/bin/env bash
#
# Makes sure that a Docker engine answers, that Compose is there and that the
# base image named by docker/Dockerfile is available. Idempotent.
#
# On a machine with a working engine and access to an image registry this only
# pulls the base image. On a Debian machine without an engine, run by root, it
# installs Debian's docker.io and docker-compose and starts dockerd. Where the
# base image cannot be pulled it builds a stand-in from Debian's own packages,
# labelled "metalm.standin=1" and tagged with the base image's name; the
# machine's CA bundle and pip index settings go into that image, and nowhere
# else.
#
# METALM_BASE_PULL=0   do not try to pull: go straight to the stand-in
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
dockerfile="$root/docker/Dockerfile"
suite=bookworm
scratch=''

say() { printf 'engine: %s\n' "$*" >&2; }
die() {
  say "error: $*"
  exit 1
}
cleanup() { if [ -n "$scratch" ]; then rm -rf -- "$scratch"; fi; }
trap cleanup EXIT

have() { command -v "$1" >/dev/null 2>&1; }
engine_answers() { timeout 10 docker info >/dev/null 2>&1; }
have_compose() { docker compose version >/dev/null 2>&1 || have docker-compose; }

apt_updated=0
apt_install() {
  [ "$(id -u)" = 0 ] || die "$* missing and not root: install it, then run this again"
  have apt-get || die "$* missing and no apt-get: install it, then run this again"
  if [ "$apt_updated" = 0 ]; then
    apt-get update -qq >&2 || die "apt-get update failed"
    apt_updated=1
  fi
  say "installing $*"
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >&2 ||
    die "apt-get could not install $*"
}

# A pid file left by a machine that was switched off keeps dockerd from
# starting when another process has that pid by now.
drop_stale_pidfile() {
  local pidfile=/var/run/docker.pid pid
  [ -f "$pidfile" ] || return 0
  pid=$(cat "$pidfile")
  if [ "$(cat "/proc/$pid/comm" 2>/dev/null)" != dockerd ]; then
    rm -f -- "$pidfile"
  fi
}

start_engine() {
  local log='' pid='' _
  [ "$(id -u)" = 0 ] || die "no Docker engine answers and not root: start it, then run this again"
  if [ -d /run/systemd/system ]; then
    say "starting docker.service"
    systemctl start docker.service || die "systemctl start docker.service failed"
  else
    drop_stale_pidfile
    log=$(mktemp --tmpdir metalm-dockerd.XXXXXX.log)
    say "starting dockerd, log in $log"
    setsid dockerd </dev/null >"$log" 2>&1 &
    pid=$!
  fi
  for _ in $(seq 1 120); do
    if engine_answers; then
      return 0
    fi
    if [ -n "$pid" ] && ! kill -0 "$pid" 2>/dev/null; then
      break
    fi
    sleep 0.5
  done
  if [ -n "$log" ]; then
    tail -n 30 "$log" >&2
  fi
  die "the Docker engine did not start"
}

# The certificates that this machine's own pip trusts.
ca_bundle() {
  local file
  for file in "${PIP_CERT:-}" "$(python3 -m pip config get global.cert 2>/dev/null || true)" \
    "${SSL_CERT_FILE:-}" "${REQUESTS_CA_BUNDLE:-}" /etc/ssl/certs/ca-certificates.crt; do
    if [ -n "$file" ] && [ -s "$file" ]; then
      printf '%s\n' "$file"
      return 0
    fi
  done
  return 1
}

# This machine's pip index settings as a pip.conf. Only what means the same
# inside a container: indexes on this machine's disk are left out. Of a setting
# found twice the environment's comes last in pip's list and wins, as in pip.
pip_conf() {
  printf '[global]\ncert = /etc/ssl/certs/ca-certificates.crt\n'
  python3 -m pip config list 2>/dev/null | python3 -c '
import ast, sys

keep = ("index-url", "extra-index-url", "trusted-host", "proxy", "timeout", "default-timeout")
found = {}
for line in sys.stdin:
    name, _, value = line.strip().partition("=")
    key = name.rpartition(".")[2]
    if key not in keep:
        continue
    words = [w for w in str(ast.literal_eval(value)).split() if not w.startswith(("file:", "/"))]
    if words:
        found["timeout" if key == "default-timeout" else key] = " ".join(words)
for key, value in found.items():
    print(f"{key} = {value}")
'
}

build_standin() {
  local image=$1 tree bundle
  case "$image" in
  python:3.11*"$suite"*) ;;
  *) die "cannot pull $image, and the stand-in is for python:3.11-*-$suite only" ;;
  esac
  have apt-get || die "cannot pull $image, and the stand-in can be made on Debian only"
  [ "$(id -u)" = 0 ] || die "cannot pull $image, and making the stand-in needs root"
  have debootstrap || apt_install debootstrap
  bundle=$(ca_bundle) || die "no CA bundle found on this machine"

  say "building a stand-in for $image (about a minute)"
  scratch=$(mktemp -d --tmpdir metalm-base.XXXXXX)
  tree="$scratch/tree"
  if ! debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates \
    "$suite" "$tree" >"$scratch/log" 2>&1; then
    tail -n 20 "$scratch/log" >&2
    die "debootstrap failed"
  fi
  install -m 0644 "$bundle" "$tree/etc/ssl/certs/ca-certificates.crt"
  pip_conf >"$tree/etc/pip.conf"
  # As the official image: no package lists, no documentation and no bytecode
  # of the standard library.
  rm -rf -- "$tree"/var/cache/apt/* "$tree"/var/lib/apt/lists/* "$tree"/var/log/* \
    "$tree"/usr/share/doc/* "$tree"/usr/share/man/* "$tree"/usr/share/locale/*
  find "$tree/usr/lib" -depth -type d -name __pycache__ -exec rm -rf -- {} +
  # Not the build machine's.
  rm -f -- "$tree/etc/hostname" "$tree/etc/resolv.conf"
  tar -C "$tree" --numeric-owner --one-file-system \
    --exclude='./dev/*' --exclude='./proc/*' --exclude='./sys/*' -c . |
    docker import \
      --change 'ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' \
      --change 'ENV LANG=C.UTF-8' \
      --change 'LABEL metalm.standin=1' \
      --change 'CMD ["python3"]' \
      - "$image" >/dev/null
}

base_image() { sed -n 's/^ARG BASE_IMAGE=//p' "$dockerfile" | head -n 1; }
# The image's labels as JSON; fails where there is no such image.
labels() { docker image inspect --format '{{json .Config.Labels}}' "$1" 2>/dev/null; }

image=$(base_image)
[ -n "$image" ] || die "no ARG BASE_IMAGE= in $dockerfile"

if ! engine_answers; then
  if ! have docker || ! have dockerd; then
    apt_install docker.io iptables
  fi
  start_engine
fi
have_compose || apt_install docker-compose
say "engine $(docker version --format '{{.Server.Version}}') answers"

if found=$(labels "$image") && [[ "$found" != *'"metalm.standin"'* ]]; then
  say "$image is here"
elif [ "${METALM_BASE_PULL:-1}" != 0 ] && pulled=$(timeout 300 docker pull "$image" 2>&1); then
  say "pulled $image"
else
  if [ -n "${pulled:-}" ]; then
    say "cannot pull $image: $(tail -n 1 <<<"$pulled")"
  fi
  if [ -n "${found:-}" ]; then
    say "$image is here as a stand-in"
  else
    build_standin "$image"
    say "built the stand-in for $image"
  fi
fi
