#!/usr/bin/env bash
#
# Tests the explorer in a real Chromium, or measures it there (--measure); axe-core, which looks for barriers,
# comes from npm. Installs Debian's chromium and npm where there are none and it is run by root.
# The browser addresses nothing but 127.0.0.1.
#
# PYTHON   the project's virtual environment (.venv/bin/python), playwright in its PYTHONPATH
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
PYTHON=${PYTHON:-.venv/bin/python}

die() {
  printf 'page-test: %s\n' "$*" >&2
  exit 1
}

missing=()
for program in chromium npm; do
  command -v "$program" >/dev/null || missing+=("$program")
done
if [ ${#missing[@]} -gt 0 ]; then
  [ "$(id -u)" = 0 ] || die "no ${missing[*]} and not root: install it, then run this again"
  command -v apt-get >/dev/null || die "no ${missing[*]} and no apt-get: install it, then run this again"
  apt-get update -qq >&2 || die "apt-get update failed"
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >&2 ||
    die "apt-get could not install ${missing[*]}"
fi

if [ "${1:-}" = --measure ]; then
  shift
  exec "$PYTHON" -m tests.page "$@"
fi

axe=.venv/axe
mkdir -p "$axe"
cp tests/page/package.json tests/page/package-lock.json "$axe"
# Held to the digest in the lock.
npm ci --prefix "$axe" --ignore-scripts --no-audit --no-fund --loglevel error >&2 ||
  die "npm could not install axe-core"
METALM_AXE=$PWD/$axe/node_modules/axe-core/axe.min.js exec "$PYTHON" -m pytest -n 2 tests/page "$@"
