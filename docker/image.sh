#!/usr/bin/env bash
# Build an image, and say what it weighs and how soon it serves: docker/image.sh [cpu|cuda]
# Its list of parts goes to dist/. Build arguments are taken from the environment, as Compose takes them.
set -euo pipefail
cd "$(dirname "$0")/.."
target=${1:-cpu}
image=${HBRIDGE_IMAGE:-hbridge:$target}
export DOCKER_BUILDKIT=1

arguments=(--build-arg "VERSION=$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)")
arguments+=(--build-arg "REVISION=$(git rev-parse HEAD 2>/dev/null || echo unknown)")
for name in BASE_IMAGE BUILD_IMAGE EXTRA TORCH TORCH_INDEX_URL PIP_INDEX_URL PIP_EXTRA_INDEX_URL PIP_FIND_LINKS; do
    if [[ -v $name ]]; then arguments+=(--build-arg "$name=${!name}"); fi
done
docker build --file docker/Dockerfile --target "$target" --tag "$image" "${arguments[@]}" .

mkdir -p dist
docker run --rm --network none --entrypoint cat "$image" /opt/hbridge/sbom.cdx.json >"dist/hbridge-$target.cdx.json"
echo "$image: $(($(docker image inspect --format '{{.Size}}' "$image") / 1000000)) MB; its parts: dist/hbridge-$target.cdx.json"

if [[ $target == cuda ]] && ! docker info --format '{{.Runtimes}}' | grep -q nvidia; then
    echo "NOT STARTED: the Docker engine has no NVIDIA runtime"
    exit
fi
if [[ $target == cuda ]]; then gpus=(--gpus all); else gpus=(); fi
# Without any network: what it needs at its start, it has.
container=$(docker run --detach "${gpus[@]}" --network none --read-only --tmpfs /tmp --cap-drop ALL \
    --volume /var/cache/hbridge --volume /var/lib/hbridge "$image")
trap 'docker rm --force --volumes "$container" >/dev/null' EXIT
seconds_to_ready() {
    local begun=${EPOCHREALTIME/./}
    "$@" >/dev/null
    until docker exec "$container" python /usr/local/lib/hbridge/healthcheck.py 2>/dev/null; do
        [[ $(docker inspect --format '{{.State.Running}}' "$container") == true ]] || { docker logs "$container"; exit 1; }
        sleep 0.3
    done
    awk "BEGIN { printf \"%.1f s\", (${EPOCHREALTIME/./} - $begun) / 1e6 }"
}
echo "ready after $(seconds_to_ready true) at the first start, which measures the machine;" \
    "$(seconds_to_ready docker restart --time 30 "$container") stopped and started again"
