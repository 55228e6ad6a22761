#!/usr/bin/env bash
# Write docker/requirements*.txt: every file that an image may install, with its hash, at the versions of constraints.txt.
#   requirements.txt        what hbridge needs beside PyTorch, for every target
#   requirements-cuda.txt   PyTorch with CUDA, from PyPI
#   requirements-ray.txt    what Ray needs beside those, for EXTRA=ray
#   requirements-build.txt  what builds the image and stays out of it
set -euo pipefail
cd "$(dirname "$0")"
compile() {
    uv pip compile --quiet --generate-hashes --no-annotate --no-header --python-version 3.11 \
        --python-platform x86_64-manylinux_2_28 --constraint ../constraints.txt "$@"
}
all=$(compile --extra s3 --extra gpu ../pyproject.toml)
# A requirement is a line and the hashes that follow it.
split() {
    awk -v wanted="$1" '/^[a-z]/ { is_cuda = /^(torch|triton|xformers|nvidia-|cuda-)/ } is_cuda == wanted' <<<"$all"
}
# At the same versions, so that an image with Ray has all that one without has.
ray() {
    compile --constraint <(sed -n 's/ \\$//; /^[a-z]/p' <<<"$all") --extra s3 --extra gpu --extra ray ../pyproject.toml \
        | awk 'NR == FNR { if (/^[a-z]/) known[$1] = 1; next } /^[a-z]/ { is_new = !($1 in known) } is_new' <(echo "$all") -
}
head="# Written by make lock."
{ echo "$head"; split 0; } >requirements.txt
{ echo "$head"; split 1; } >requirements-cuda.txt
{ echo "$head"; ray; } >requirements-ray.txt
{ echo "$head"; compile requirements-build.in; } >requirements-build.txt
