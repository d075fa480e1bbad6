#!/usr/bin/env bash
#
# Tests, and then measures, docker/nginx/nginx.conf before a real service. Installs Debian's nginx
# where there is none and it is run by root. Nothing but 127.0.0.1 is addressed.
#
# PYTHON   the project's virtual environment (.venv/bin/python)
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
PYTHON=${PYTHON:-.venv/bin/python}

die() {
  printf 'cache-test: %s\n' "$*" >&2
  exit 1
}

if ! PATH=$PATH:/usr/sbin command -v nginx >/dev/null; then
  [ "$(id -u)" = 0 ] || die "no nginx and not root: install it, then run this again"
  command -v apt-get >/dev/null || die "no nginx and no apt-get: install it, then run this again"
  apt-get update -qq >&2 || die "apt-get update failed"
  # The package would start a server of its own on port 80, unless it is told not to.
  policy=/usr/sbin/policy-rc.d
  if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod +x "$policy"
    trap 'rm -f "$policy"' EXIT
  fi
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends nginx-light >&2 ||
    die "apt-get could not install nginx"
fi

"$PYTHON" -m pytest -q tests/cache
"$PYTHON" -m tests.cache
