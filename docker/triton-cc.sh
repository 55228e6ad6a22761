#!/bin/sh
# The C compiler that Triton finds in the image: it hands out the one file that Triton has compiled, at its first use of a
# GPU, and which docker/Dockerfile compiled before. It knows no other.
set -eu
source=$1
while [ "$1" != -o ]; do shift; done
cmp -s "$source" /opt/hbridge/lib/triton/driver.c || {
    echo "triton-cc: $source is not what was compiled for this image; it has no other compiler" >&2
    exit 1
}
cp /opt/hbridge/lib/triton/driver.so "$2"
