#!/usr/bin/env bash
# Make base images from Debian's packages, for machines that reach no registry of images; needs root and Docker.
# Prints the variables that name them: eval "$(docker/bases.sh)". Grafana is in no Debian, so there is none of it.
#   local/python      the base of the image: Debian's Python
#   local/build       the same with the wheels of WHEELS (a folder), for its build stages
#   local/postgres    answers to the same variables as the official image
#   local/prometheus
# The machine's own certificates, apt sources and settings of pip come along, where it has some.
set -euo pipefail
cd "$(dirname "$0")"
BASES=${BASES:-/var/tmp/hbridge-bases}
SUITE=${SUITE:-bookworm}
WHEELS=${WHEELS:-${PIP_FIND_LINKS:-}}
export DOCKER_BUILDKIT=1 PATH=$PATH:/usr/sbin

has() { docker image inspect "$1" >/dev/null 2>&1; }

make_root() {
    command -v debootstrap >/dev/null ||
        apt-get -q -o DPkg::Lock::Timeout=600 install -y --no-install-recommends debootstrap
    rm -rf "$BASES" && mkdir -p "$BASES"
    debootstrap --variant=minbase --include=ca-certificates,python3,python3-venv,python3-pip "$SUITE" "$BASES"
    if compgen -G '/usr/local/share/ca-certificates/*.crt' >/dev/null; then
        cp /usr/local/share/ca-certificates/*.crt "$BASES/usr/local/share/ca-certificates/"
        chroot "$BASES" update-ca-certificates
        printf '[global]\ncert = /etc/ssl/certs/ca-certificates.crt\n' >"$BASES/etc/pip.conf"
    fi
    if compgen -G '/etc/apt/sources.list.d/debian.sources' >/dev/null; then
        cp /etc/apt/sources.list.d/debian.sources "$BASES/etc/apt/sources.list.d/"
        rm -f "$BASES/etc/apt/sources.list"
    fi
    rm -rf "$BASES"/var/cache/apt/archives/*.deb "$BASES"/var/lib/apt/lists/*
}

{
    if ! has local/python; then
        make_root
        tar -C "$BASES" -c . | docker import --change 'CMD ["python3"]' - local/python
        rm -rf "$BASES"
    fi
    if [[ -n $WHEELS ]]; then
        docker build -t local/build --build-arg BASE_IMAGE=local/python -f local/build.Dockerfile "$WHEELS"
    fi
    for name in postgres prometheus; do
        has "local/$name" ||
            docker build -t "local/$name" --build-arg BASE_IMAGE=local/python -f "local/$name.Dockerfile" local
    done
} >&2

echo "export BASE_IMAGE=local/python POSTGRES_IMAGE=local/postgres PROMETHEUS_IMAGE=local/prometheus GRAFANA_IMAGE="
[[ -z $WHEELS ]] || echo "export BUILD_IMAGE=local/build PIP_FIND_LINKS=/wheels TORCH_INDEX_URL="
