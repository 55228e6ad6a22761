#!/usr/bin/env bash
# Run everything that is deployed, for real: every script of the list, whether or not one before it fails.
# It installs what it needs (Debian, as root). What it cannot run is named by LEFT OUT.
set -uo pipefail
cd "$(dirname "$0")/.." || exit

# With public images; where no registry of images is reached, with bases made of Debian's packages.
compose() {
    # shellcheck disable=SC2016 # the inner shell expands it
    docker/engine.sh bash -euc '
        docker pull --quiet python:3.11-slim-bookworm >/dev/null 2>&1 || { bases=$(docker/bases.sh); eval "$bases"; }
        docker/image.sh cpu
        docker/smoke.sh'
}

parts=(docker/check.sh docker/prometheus/check.sh docker/ray-test.sh compose)
failed=()
for part in "${parts[@]}"; do
    echo "== $part"
    "$part" || failed+=("$part")
done
if ((${#failed[@]})); then echo "FAILED: ${failed[*]}"; exit 1; fi
echo "all passed: ${parts[*]}"
