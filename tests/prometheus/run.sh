#!/usr/bin/env bash
#
# Checks the rules under docker/prometheus with promtool, and lets a real
# Prometheus scrape a real service under load. On a Debian machine without
# Prometheus, run by root, it installs Debian's package.
#
# PYTHON   the project's virtual environment (.venv/bin/python)
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
PYTHON=${PYTHON:-.venv/bin/python}

say() { printf 'metrics-test: %s\n' "$*"; }
die() {
  say "FAILED: $*" >&2
  exit 1
}
have() { command -v "$1" >/dev/null 2>&1; }

if ! have prometheus || ! have promtool; then
  [ "$(id -u)" = 0 ] || die "prometheus missing and not root: install it, then run this again"
  have apt-get || die "prometheus missing and no apt-get: install it, then run this again"
  say "installing prometheus"
  apt-get update -qq >&2 || die "apt-get update failed"
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends prometheus >&2 ||
    die "apt-get could not install prometheus"
fi

promtool check config docker/prometheus/prometheus.yml
promtool test rules docker/prometheus/rules_test.yml
exec "$PYTHON" -m tests.prometheus
