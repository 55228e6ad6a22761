#!/usr/bin/env bash
# Whether rules, dashboard and runbooks hold: promtool's checks and tests, then a real Prometheus that scrapes a real
# server under load and is asked every expression. Takes Debian's Prometheus into a folder if there is none; installs
# and starts nothing else. `python` is the one of the environment.
set -euo pipefail
cd "$(dirname "$0")/../.."
if ! { command -v promtool && command -v prometheus; } >/dev/null; then
  folder=$(mktemp -d)
  trap 'rm -rf "$folder"' EXIT
  (cd "$folder" && apt-get download -q prometheus && dpkg-deb -x prometheus_*.deb .)
  export PATH="$folder/usr/bin:$PATH"
fi
promtool --version | head -1
python -m pytest tests/docker/test_watching.py tests/docker/test_live.py
