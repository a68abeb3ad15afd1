#!/usr/bin/env bash
# Tries the containers end to end: build, start, add, search, look at the confinement, down, up again, stop under load.
# Needs a Docker engine, docker-compose 1.29 or Compose v2, curl and python3. Exits with 1 at the first thing that is not so,
# after showing the service's log; takes its containers and volumes away in any case. The built image stays.
#
#   docker/try.sh
#   STRUCTXLIP_MODEL=local-dir:/models/mine MODELS_DIR=/path/of/models docker/try.sh
#
#   STRUCTXLIP_MODEL, MODELS_DIR      the model, and the folder mounted as /models (default: the bundled one)
#   PYTHON_IMAGE, PIP_INDEX_URL, TORCH_INDEX_URL      as in service.Dockerfile
#   BASE_IMAGE_COMMAND                run when PYTHON_IMAGE is not there, instead of pulling it
#   TRY_PORT                          port on 127.0.0.1 (default: a free one)
#   TRY_SECONDS                       longest wait for the service to become healthy (default: 300)
set -euo pipefail
cd "$(dirname "$0")/.."

python_image=${PYTHON_IMAGE:-python:3.11-slim-bookworm}
export COMPOSE_PROJECT_NAME=structxlip-try-$$
STRUCTXLIP_PORT=${TRY_PORT:-$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')}
export STRUCTXLIP_PORT
url=http://127.0.0.1:$STRUCTXLIP_PORT
work=$(mktemp -d)
text="a large round shape to the left of a tall one"

compose() { if docker compose version >/dev/null 2>&1; then docker compose "$@"; else docker-compose "$@"; fi; }
container() { compose ps -q service; }
inside() { compose exec -T service "$@"; }
say() { printf '\n%s  %s\n' "$(date +%H:%M:%S)" "$*"; }
ok() { printf '          ok: %s\n' "$*"; }
fail() { printf '      FAILED: %s\n' "$*" >&2; exit 1; }
# The value of a Python expression over the JSON document `d` of standard input.
json() { python3 -c 'import json, sys; d = json.load(sys.stdin); print(eval(sys.argv[1]))' "$1"; }
call() { curl --silent --show-error --fail-with-body --max-time 120 "$@"; }

finish() {
  local status=$?
  if [ "$status" -ne 0 ]; then
    say "the end of the service's log"
    compose logs --tail=60 service 2>&1 || true
  fi
  compose down --volumes --timeout 20 >"$work/down.log" 2>&1 || cat "$work/down.log"
  rm -rf "$work"
  if [ "$status" -eq 0 ]; then say "all is well"; fi
  exit "$status"
}
trap finish EXIT

wait_until_healthy() {
  local health="" started=$SECONDS
  while [ $((SECONDS - started)) -lt "${TRY_SECONDS:-300}" ]; do
    health=$(docker inspect --format '{{.State.Health.Status}} {{.State.Status}} {{.RestartCount}}' "$(container)")
    case $health in
      "healthy running 0") ok "healthy after $((SECONDS - started)) s"; return ;;
      *" 0") sleep 1 ;;
      *) fail "the service keeps ending instead of starting ($health)" ;;
    esac
  done
  fail "not healthy after ${TRY_SECONDS:-300} s ($health)"
}

# make_pictures FOLDER COUNT SIZE NOISE: different PNG files, by the standard library alone.
make_pictures() {
  python3 - "$@" <<'PYTHON'
import random, struct, sys, zlib
from pathlib import Path

folder, count, size, noise = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
chance = random.Random(size)

def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

folder.mkdir(parents=True, exist_ok=True)
for number in range(count):
    x, y, radius = (chance.randrange(size // 4, size // 2) for _ in range(3))
    ground, ink = ([chance.randrange(256 - noise) for _ in range(3)] for _ in range(2))
    rows = bytearray()
    for row in range(size):
        rows.append(0)
        for column in range(size):
            colour = ink if (column - x) ** 2 + (row - y) ** 2 < radius**2 else ground
            rows += bytes(part + chance.randrange(noise + 1) for part in colour)
    header = struct.pack(">IIBBBBB", size, size, 8, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(rows))) + chunk(b"IEND", b"")
    (folder / f"made-{number:02}.png").write_bytes(png)
PYTHON
}

# add FILE…: one request; each picture's id is its file's name without the ending. More curl options in CURL_MORE.
add() {
  local records forms=() file
  records=$(python3 -c 'import json, pathlib, sys; print(json.dumps([{"id": pathlib.Path(p).stem, "metadata": {"try": True}} for p in sys.argv[1:]]))' "$@")
  for file in "$@"; do forms+=(--form "files=@$file"); done
  # shellcheck disable=SC2086
  call ${CURL_MORE:-} "${forms[@]}" --form-string "records=$records" "$url/index"
}
search() { call --json "{\"text\": \"$text\", \"limit\": 100}" "$url/search"; }
hits() { json '[(h["id"], round(h["score"], 6)) for h in d["hits"]]'; }
count() { call "$url/metrics" | awk '$1 == "structxlip_collection_images" {print int($2)}'; }

say "base image $python_image"
if ! docker image inspect "$python_image" >/dev/null 2>&1 && [ -n "${BASE_IMAGE_COMMAND:-}" ]; then
  bash -c "$BASE_IMAGE_COMMAND"
fi

say "build and start (project $COMPOSE_PROJECT_NAME, $url, model ${STRUCTXLIP_MODEL:-scenes-tiny})"
compose up --detach --build >"$work/up.log" 2>&1 || { tail -40 "$work/up.log"; fail "compose up"; }
ok "image of $(docker image inspect --format '{{.Size}}' structxlip-service | awk '{printf "%.2f GB", $1 / 1e9}')"
wait_until_healthy

say "the container is confined"
[ "$(inside id -u)" = 10001 ] || fail "runs as uid $(inside id -u), not 10001"
ok "uid 10001"
if inside touch /opt/venv/written 2>/dev/null || inside touch /written 2>/dev/null; then fail "the root file system can be written"; fi
[ "$(docker inspect --format '{{.HostConfig.ReadonlyRootfs}}' "$(container)")" = true ] || fail "the root file system is not read-only"
ok "root file system is read-only"
inside sh -c 'touch /tmp/written && rm /tmp/written && touch /data/.written && rm /data/.written' || fail "/tmp or /data cannot be written"
ok "/tmp and /data can be written"
[ "$(inside awk '/^CapEff/ {print $2}' /proc/1/status)" = 0000000000000000 ] || fail "the process has capabilities"
[ "$(inside awk '/^NoNewPrivs/ {print $2}' /proc/1/status)" = 1 ] || fail "the process could gain privileges"
ok "no capabilities, no new privileges"
[ "$(docker inspect --format '{{range $p := .NetworkSettings.Ports}}{{range $p}}{{.HostIp}} {{end}}{{end}}' "$(container)")" = "127.0.0.1 " ] || fail "published on more than 127.0.0.1"
ok "published on 127.0.0.1 only"
status=$(curl --silent --output /dev/null --write-out '%{http_code}' --header 'Host: elsewhere.example' "$url/images")
case $status in 4*) ok "a foreign host name gets $status" ;; *) fail "a foreign host name gets $status, expected 4xx" ;; esac

say "add and search"
mapfile -t pictures < <(find service/samples -maxdepth 1 -type f \( -name '*.jpg' -o -name '*.webp' -o -name '*.png' \) 2>/dev/null | sort | head -30)
if [ ${#pictures[@]} -eq 0 ]; then make_pictures "$work/made" 12 160 0; pictures=("$work"/made/*.png); fi
add "${pictures[@]}" >"$work/added.json" || { cat "$work/added.json"; fail "POST /index"; }
statuses=$(json 'sorted({i["status"] for i in d["items"]})' <"$work/added.json")
[ "$statuses" = "['created']" ] || { cat "$work/added.json"; fail "POST /index answered $statuses, expected created alone"; }
[ "$(count)" = ${#pictures[@]} ] || fail "the collection holds $(count) pictures after ${#pictures[@]} were added"
ok "added ${#pictures[@]} pictures"
search >"$work/before.json" || { cat "$work/before.json"; fail "POST /search"; }
before=$(hits <"$work/before.json")
[ "$(json 'len(d["hits"])' <"$work/before.json")" = ${#pictures[@]} ] || fail "a search without a limit in its way finds $before"
ok "found all of them; first: $(json '(d["hits"][0]["id"], round(d["hits"][0]["score"], 3))' <"$work/before.json")"

say "down, and up again"
compose down --timeout 60 >"$work/down.log" 2>&1
[ -z "$(container)" ] || fail "the container is still there after down"
compose up --detach >"$work/up.log" 2>&1 || { tail -40 "$work/up.log"; fail "compose up"; }
wait_until_healthy
[ "$(count)" = ${#pictures[@]} ] || fail "the collection holds $(count) pictures, not ${#pictures[@]}"
[ "$(search | hits)" = "$before" ] || fail "the hits are not those of before: $(search | hits), expected $before"
ok "the same ${#pictures[@]} pictures, the same hits with the same scores"
for picture in "${pictures[@]}"; do
  name=$(basename "${picture%.*}")
  call "$url/images/$name/file" | cmp --quiet - "$picture" || fail "the original of $name is not what was sent"
done
ok "the originals come back byte for byte"

say "stop with a request under way"
make_pictures "$work/late" 24 200 60
# Slow enough that SIGTERM meets the upload, whatever the machine.
CURL_MORE="--limit-rate $(($(cat "$work"/late/*.png | wc -c) / 4))" add "$work"/late/*.png >"$work/late.json" 2>"$work/late.log" &
upload=$!
until [ "$(call "$url/metrics" | awk '/^structxlip_http_requests_in_flight/ {print int($2)}')" -ge 2 ]; do
  kill -0 "$upload" 2>/dev/null || { cat "$work/late.log"; fail "the upload ended before the stop"; }
  sleep 0.1
done
id=$(container)
started=$SECONDS
compose stop >"$work/stop.log" 2>&1
wait "$upload" || { cat "$work/late.log" "$work/late.json"; fail "the request under way was cut off"; }
statuses=$(json 'sorted({i["status"] for i in d["items"]})' <"$work/late.json")
[ "$statuses" = "['created']" ] || { cat "$work/late.json"; fail "the request under way was answered $statuses, expected created alone"; }
code=$(docker inspect --format '{{.State.ExitCode}}' "$id")
# 143 is SIGTERM's own; 137 would be the SIGKILL that comes after the grace period.
case $code in 0 | 143) ok "stopped in $((SECONDS - started)) s with exit status $code, after it had answered the request under way" ;; *) fail "exit status $code" ;; esac
compose up --detach >"$work/up.log" 2>&1 || { tail -40 "$work/up.log"; fail "compose up"; }
wait_until_healthy
[ "$(count)" = $((${#pictures[@]} + 24)) ] || fail "the collection holds $(count) pictures, not $((${#pictures[@]} + 24))"
ok "what it had acknowledged is there: $(count) pictures"
