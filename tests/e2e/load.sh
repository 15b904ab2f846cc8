#!/usr/bin/env bash
# Load and abuse: 2,000 connections pull a cached image, 50 good clients keep
# their rate beside 1,100 bad ones, aborted bodies cost nothing. LONG=1 for
# windows that are long enough to hold the rate to 80 %.
. "$(dirname "$0")/lib.sh"
need curl python3

LOAD=${LOAD:-$TARGET/release/examples/load}
[ -x "$LOAD" ] || fail "no load generator at $LOAD (cargo build --release --example load)"
size=2000000 rounds=2 seconds=1.5
[ -z "${LONG:-}" ] || size=16000000 rounds=5 seconds=5
ulimit -n "$(ulimit -Hn)"
[ "$(ulimit -n)" -ge 6000 ] || skip "needs 6,000 open files, $(ulimit -n) are allowed"

mkdir -p "$MODEL"
bytes weights $size >"$MODEL/model.safetensors"
echo '{}' >"$MODEL/config.json"
publish models/org/model "$MODEL"
start_hub "$REPOS"
start_proxy proxy --log warn
curl -fsS -o /dev/null "$PROXY_URL/v2/org/model/manifests/main"

load() { "$LOAD" "$@" --pid "$PROXY_PID" || fail "$1"; }
load aborts "$PROXY" org/model:main 200
ok "aborted bodies"
load abuse "$PROXY" org/model:main "$rounds" "$seconds"
ok "abuse"
load pull "$PROXY" org/model:main 2000
ok "2,000 connections"
