#!/bin/sh
# Make the passwords that compose.yaml needs, each once, as files of the volumes of those who read them.
# The readers have users of their own, so the files are open to all; the volumes are not.
set -eu

make() {
    [ -s "$1" ] || head -c 24 /dev/urandom | od -An -v -tx1 | tr -d ' \n' >"$1"
}

make /secrets/postgres/postgres_password
make /secrets/grafana/grafana_password
printf 'postgresql://hbridge:%s@postgres/hbridge' "$(cat /secrets/postgres/postgres_password)" \
    >/secrets/hbridge/hbridge_database_url
