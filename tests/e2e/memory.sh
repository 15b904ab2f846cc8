#!/usr/bin/env bash
# A 4 GiB file: the server stays under 256 MiB of memory, filling and serving,
# and its data folder holds the file once.
. "$(dirname "$0")/lib.sh"
need curl jq python3

SIZE=$((4 << 30))
LIMIT_KIB=$((256 << 10))
free=$(df --output=avail -B1 "$WORK" | tail -n 1)
[ "$free" -gt $((SIZE + (1 << 30))) ] || skip "needs 5 GiB of disk, $((free >> 20)) MiB are free"

mkdir -p "$MODEL"
echo '{}' >"$MODEL/config.json"
# Sparse: some bytes in every chunk, each other ones, and holes between, so that
# the source costs no disk. The proxy's copy is a real one.
python3 - "$MODEL/model.safetensors" "$SIZE" <<'PY'
import os, sys
size = int(sys.argv[2])
with open(sys.argv[1], "wb") as f:
    for at in range(0, size, 1 << 20):
        f.seek(at + at // 257 % 4096)
        f.write(at.to_bytes(8, "little") * 64)
    f.truncate(size)
PY

peak() { awk '/^VmHWM/ {print $2}' "/proc/$PROXY_PID/status"; }
below() {
    local kib
    kib=$(peak)
    [ "$kib" -lt "$LIMIT_KIB" ] || fail "$1: peak memory $((kib / 1024)) MiB"
    ok "$1: peak memory $((kib / 1024)) MiB"
}

publish models/org/model "$MODEL"
start_hub "$REPOS"
start_proxy proxy
started=$SECONDS
accept='Accept: application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json'
index=$(curl -fsS -H "$accept" "$PROXY_URL/v2/org/model/manifests/main")
say "filled in $((SECONDS - started)) s"
below "filling"

files=$(du -sb --apparent-size "$MODEL" | cut -f1)
# What is on the disk, not the length of files.
used=$(du -s -B1 "$DATA" | cut -f1)
of_index=$(du -s -B1 "$DATA/index" | cut -f1)
[ $((used - of_index)) -le $((files * 1005 / 1000)) ] ||
    fail "the data folder uses $used bytes ($of_index of them the index) for $files bytes of files"
ok "disk: $used bytes for $files bytes of files, $of_index of them the index"
[ -z "$(ls -A "$DATA/staging" 2>/dev/null)" ] || fail "left in staging: $(ls "$DATA/staging")"
ok "nothing left in staging"

manifest=$(curl -fsS -H "$accept" "$PROXY_URL/v2/org/model/manifests/$(jq -r '.manifests[0].digest' <<<"$index")")
layer=$(jq -r '.layers[0].digest' <<<"$manifest")
# Four readers at once: serving must not hold a blob in memory either.
readers=()
for i in 1 2 3; do
    curl -fsS -o /dev/null "$PROXY_URL/v2/org/model/blobs/$layer" &
    readers+=($!)
done
same_text "$layer" "sha256:$(curl -fsS "$PROXY_URL/v2/org/model/blobs/$layer" | sha256sum | cut -d' ' -f1)" "the served blob's digest"
for pid in "${readers[@]}"; do wait "$pid"; done
below "serving"
