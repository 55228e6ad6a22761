#!/usr/bin/env bash
# Bring everything up with Compose, use it, kill it, take it down: with public images, or with those of docker/bases.sh.
# A service whose image variable is set and empty (GRAFANA_IMAGE=) is left out, and named. Needs Docker, curl, python3.
set -euo pipefail
cd "$(dirname "$0")/.."
export COMPOSE_PROJECT_NAME=${COMPOSE_PROJECT_NAME:-hbridge-smoke}
export HBRIDGE_PORT=${HBRIDGE_PORT:-8000} PROMETHEUS_PORT=${PROMETHEUS_PORT:-9090} GRAFANA_PORT=${GRAFANA_PORT:-3000}
URL=http://127.0.0.1:$HBRIDGE_PORT
services=(hbridge)
for each in prometheus grafana; do
    image=${each^^}_IMAGE
    if [[ -n ${!image-default} ]]; then services+=("$each"); else echo "LEFT OUT: $each, as $image is empty"; fi
done

work=$(mktemp -d)
failed() {
    docker compose ps --all
    docker compose logs --tail 30
    echo "FAILED: line $1"
}
down() { docker compose down --volumes --timeout 30 --remove-orphans >"$work/down" 2>&1 || cat "$work/down"; rm -rf "$work"; }
trap down EXIT
trap 'failed $LINENO' ERR

seen() { printf '%4d s  %s\n' "$SECONDS" "$1"; }
expect() {  # expect WHAT COMMAND...
    "${@:2}" || { echo "NOT SO: $1" >&2; return 1; }
    seen "$1"
}
call() { curl --silent --show-error --fail-with-body --max-time 120 -H "Authorization: Bearer $key" "$@"; }
field() { python3 -c "import functools, json, sys; print(functools.reduce(lambda at, name: at[int(name) if isinstance(at, list) else name], sys.argv[1].split('.'), json.load(sys.stdin)))" "$1"; }
is_png() { [[ $(head -c 8 "$1" | od -An -tx1 | tr -d ' \n') == 89504e470d0a1a0a ]]; }
status() { curl --silent --output /dev/null --write-out '%{http_code}' "$@"; }
metric() { curl --silent --fail --get "http://127.0.0.1:$PROMETHEUS_PORT/api/v1/query" --data-urlencode "query=$1" | field data.result.0.value.1; }
wait_for() {  # wait_for SECONDS COMMAND...
    local deadline=$((SECONDS + $1))
    until "${@:2}" >/dev/null 2>&1; do ((SECONDS < deadline)) || return 1; sleep 0.5; done
}
is_ready() { [[ $(status --max-time 3 "$URL/readyz") == 200 ]]; }
restarts() { docker inspect --format '{{.RestartCount}}' "$container"; }
has_ended() { [[ $(call "$URL/v1/jobs/$job" | field state) == succeeded ]]; }

docker compose up --wait --quiet-pull "${services[@]}" >"$work/up" 2>&1 || { tail -20 "$work/up"; false; }
seen "up: ${services[*]} are healthy"

container=$(docker compose ps --quiet hbridge)
expect "runs as user 10001" test "$(docker compose exec -T hbridge id -u)" = 10001
expect "its root is read-only" test "$(docker inspect --format '{{.HostConfig.ReadonlyRootfs}}' "$container")" = true
expect "nobody is served without a key" test "$(status "$URL/v1/models")" = 401
key=$(docker compose exec -T hbridge hbridge keys create smoke --scope admin 2>/dev/null)
wait_for 10 call "$URL/v1/models"

call "$URL/v1/generate" -H 'Content-Type: application/json' --output "$work/star.png" \
    -d '{"prompt": "a large yellow star on a blue background", "seed": 1, "response_format": "binary"}'
expect "a generation is a picture" is_png "$work/star.png"
call "$URL/v1/edit" -F "image=@$work/star.png" -F 'prompt=replace the star with a red circle' -F seed=1 \
    -F response_format=binary --output "$work/circle.png"
expect "an edit is another picture" is_png "$work/circle.png"
[[ $(sha256sum <"$work/star.png") != $(sha256sum <"$work/circle.png") ]]
printf '{"prompt": "what colour is the background?", "image": "%s"}' "$(base64 -w0 "$work/star.png")" >"$work/question"
answer=$(call "$URL/v1/understand" -H 'Content-Type: application/json' --data @"$work/question" | field answer)
expect "a question has an answer: $answer" test "$answer" = blue

ask_job() {
    call "$URL/v1/generate" -H 'Content-Type: application/json' -H 'Prefer: respond-async' \
        -d '{"prompt": "a red circle on a white background", "seed": 2, "response_format": "url"}' | field id
}
job=$(ask_job)
wait_for 60 has_ended
seen "a job ends well"
jobs=$(docker compose exec -T postgres psql --username hbridge --tuples-only --no-align --command 'select count(*) from job' hbridge)
expect "it is in PostgreSQL" test "$jobs" -ge 1

if [[ " ${services[*]} " == *" prometheus "* ]]; then
    scraped() { [[ $(metric 'sum(hbridge_requests_total{outcome="ok"})') -ge 3 ]]; }
    wait_for 60 scraped
    seen "Prometheus counted the requests"
    rules=$(curl --silent "http://127.0.0.1:$PROMETHEUS_PORT/api/v1/rules" | field data.groups)
    expect "Prometheus evaluates the rules" test "${rules//health\': \'err\'/}" = "$rules" -a "$rules" != '[]'
fi
if [[ " ${services[*]} " == *" grafana "* ]]; then
    expect "Grafana has the dashboard" test "$(curl --silent --fail "http://127.0.0.1:$GRAFANA_PORT/api/search?type=dash-db" | field 0.type)" = dash-db
fi

job=$(ask_job)
before=$(restarts)
# From inside, so that it takes neither root on the machine nor a Docker that counts it as a stop.
docker compose exec -T hbridge python -c 'import psutil; psutil.Process(1).children()[0].kill()'
killed=$SECONDS
wait_for 120 is_ready
expect "killed with kill -9, it was back after $((SECONDS - killed)) s, started again by Docker" test "$(restarts)" -gt "$before"
wait_for 120 has_ended
seen "the job that it had is done"

docker compose stop --timeout 30 hbridge >/dev/null 2>&1
expect "told to stop, it ends by itself" test "$(docker inspect --format '{{.State.ExitCode}}' "$container")" = 0
down
trap - EXIT ERR
expect "down, nothing is left" test -z "$(docker ps --all --quiet --filter "label=com.docker.compose.project=$COMPOSE_PROJECT_NAME")"
