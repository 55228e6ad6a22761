#!/usr/bin/env bash
# What can be checked of images and Compose files without Docker, in seconds.
set -euo pipefail
cd "$(dirname "$0")/.."
hadolint docker/Dockerfile docker/local/*.Dockerfile
shellcheck .ci/* docker/*.sh docker/local/*.sh
git ls-files '*.yaml' '*.yml' | grep -v '/templates/' | xargs yamllint --strict
check-jsonschema --quiet --builtin-schema vendor.compose-spec compose*.yaml
