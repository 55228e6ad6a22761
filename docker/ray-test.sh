#!/usr/bin/env bash
# A Ray cluster of this machine: what the tests ask of it, in namespaces of its own, where nobody else reaches it and of
# which nothing is left.
set -euo pipefail
cd "$(dirname "$0")/.."
exec unshare --net --pid --fork --kill-child --mount-proc sh -euc \
    'ip link set lo up; exec python -m pytest -m slow tests/service/test_ray_cluster.py tests/service/test_ray_scaling.py'
