#!/usr/bin/env bash
# Run a command that needs Docker and Compose: docker/engine.sh docker/smoke.sh
# Where no engine runs, one of its own does, on Debian as root: in its own network and process namespaces, so that the
# machine's network stays untouched and nothing is left behind but what it stores in DOCKER_STATE.
set -euo pipefail
cd "$(dirname "$0")/.."
DOCKER_STATE=${DOCKER_STATE:-/var/tmp/hbridge-docker}
export DOCKER_BUILDKIT=1

wait_for() {  # wait_for SECONDS COMMAND...
    local deadline=$((SECONDS + $1))
    until "${@:2}" >/dev/null 2>&1; do
        ((SECONDS < deadline)) || { echo "not within $1 s: ${*:2}" >&2; return 1; }
        sleep 0.2
    done
}

install_engine() {
    local missing=()
    for program in dockerd:docker.io iptables:iptables slirp4netns:slirp4netns ip:iproute2 curl:curl; do
        command -v "${program%%:*}" >/dev/null || missing+=("${program##*:}")
    done
    if ((${#missing[@]})); then
        apt-get -q update
        apt-get -q -o DPkg::Lock::Timeout=600 install -y --no-install-recommends "${missing[@]}"
    fi
}

# Debian has Compose 2 since trixie. Before, its package is unpacked aside: the program needs nothing else.
install_compose() {
    local plugins=$DOCKER_STATE/cli/cli-plugins apt=$DOCKER_STATE/apt
    [[ -x $plugins/docker-compose ]] && return
    mkdir -p "$plugins" "$apt/lists/partial"
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian trixie main" \
        >"$apt/sources.list"
    local options=(-q -o "Dir::Etc::SourceList=$apt/sources.list" -o Dir::Etc::SourceParts=- -o "Dir::State::Lists=$apt/lists"
        -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= -o APT::Sandbox::User=root)
    apt-get "${options[@]}" update
    (cd "$apt" && apt-get "${options[@]}" download docker-compose)
    dpkg-deb -x "$apt"/docker-compose_*.deb "$apt/unpacked"
    cp "$(find "$apt/unpacked" -name docker-compose -type f -perm -u+x | head -1)" "$plugins/docker-compose"
    rm -rf "$apt"
}

inside() {
    wait_for 20 ip link show tap0
    # A containerd of the machine's is not ours to use.
    mkdir -p /run/containerd && mount -t tmpfs tmpfs /run/containerd
    rm -rf "$DOCKER_STATE/exec" "$DOCKER_STATE/dockerd.pid"
    dockerd --data-root "$DOCKER_STATE/data" --exec-root "$DOCKER_STATE/exec" --pidfile "$DOCKER_STATE/dockerd.pid" \
        --host "$DOCKER_HOST" --storage-driver overlay2 >"$DOCKER_STATE/dockerd.log" 2>&1 &
    local engine=$! status=0
    wait_for 60 docker info || { tail -5 "$DOCKER_STATE/dockerd.log" >&2; return 1; }
    "$@" || status=$?
    kill "$engine" && wait "$engine" || true
    return "$status"
}

if [[ ${1:-} == --inside ]]; then
    inside "${@:2}"
    exit
fi
if docker info >/dev/null 2>&1 && docker compose version >/dev/null 2>&1; then
    exec "$@"
fi
[[ $EUID == 0 ]] || { echo "no Docker engine with Compose runs here, and starting one needs root" >&2; exit 1; }
mkdir -p "$DOCKER_STATE"
exec 9>"$DOCKER_STATE/lock"
flock --nonblock 9 || { echo "another engine uses $DOCKER_STATE; set DOCKER_STATE" >&2; exit 1; }
install_engine
install_compose
# Debian's docker goes with Debian's engine; another that is first in PATH may lack its BuildKit.
export DOCKER_STATE PATH=/usr/bin:$PATH DOCKER_CONFIG=$DOCKER_STATE/cli DOCKER_HOST=unix://$DOCKER_STATE/docker.sock
unshare --net --pid --fork --kill-child --mount-proc -- docker/engine.sh --inside "$@" &
child=$!
trap 'kill "$child" 2>/dev/null || true' EXIT
wait_for 10 test ! "/proc/$child/ns/net" -ef /proc/self/ns/net
slirp4netns --configure --mtu=65520 --disable-host-loopback "$child" tap0 >"$DOCKER_STATE/network.log" 2>&1 &
network=$!
status=0
wait "$child" || status=$?
trap - EXIT
kill "$network" 2>/dev/null || true
exit "$status"
