#!/usr/bin/env bash
# A cache that the real huggingface_hub client filled, served without a network:
# the same layers as from the Hub.
. "$(dirname "$0")/lib.sh"
. "$E2E/hf-client.sh"
need curl jq python3 unshare nsenter ip
need_hf
need_root

small_model "$MODEL"
publish models/org/model "$MODEL"
publish_other_kinds
start_hub "$REPOS"
before=$(commit_of models/org/model)
start_proxy online

# layers REFERENCE: the digests of an image's layers, asked of PROXY_URL (inside
# WITHIN, if that is set).
layers() {
    local url=$PROXY_URL/v2/${1%:*}/manifests digest
    digest=$("${WITHIN[@]}" curl -fsS "$url/${1##*:}" | jq -r '.manifests[0].digest') || return
    "${WITHIN[@]}" curl -fsS "$url/$digest" | jq -r '.layers[].digest'
}
WITHIN=()

# cached ID [ARGUMENT...]: into the client's cache.
cached() {
    HF_ENDPOINT=$HUB_URL HF_HOME=$WORK/home "$CACHE/venv/bin/hf" download "$@" >/dev/null
}
cached org/model
cached org/data --repo-type dataset
cached org/demo --repo-type space
new_readme
cached org/model

declare -A WANTED
for reference in org/model:main org/model:"$before" datasets/org/data:main spaces/org/demo:main; do
    WANTED[$reference]=$(layers "$reference")
    [ -n "${WANTED[$reference]}" ] || fail "no layers of $reference"
done
stop "$PROXY_PID"
stop "$HUB_PID"
[ -d "$WORK/home/hub/models--org--model/snapshots" ] || fail "the client's cache looks otherwise: $(find "$WORK/home" -maxdepth 3)"
before_serving=$(find "$WORK/home" -printf '%y %P %s %T@ %l\n' | sort | sha256sum)

# An empty network: its loopback is the only device, and there is no route.
launch network unshare --net sleep 3600
NETWORK=$LAUNCHED
WITHIN=(nsenter --net="/proc/$NETWORK/ns/net")
for ((i = 0; i < 100; i++)); do
    [ "$(readlink "/proc/$NETWORK/ns/net")" != "$(readlink /proc/self/ns/net)" ] && break
    sleep 0.1
done
"${WITHIN[@]}" ip link set lo up
[ -z "$("${WITHIN[@]}" ip route)" ] || fail "the network has a route"

# serve NAME UPSTREAM [ARGUMENT...]: a proxy in it.
serve() {
    local name=$1 upstream=$2
    shift 2
    launch "$name" "${WITHIN[@]}" "$HF_OCI" serve --listen 127.0.0.1:0 --data-dir "$WORK/$name-data" --upstream "$upstream" "$@"
    PROXY_PID=$LAUNCHED
    PROXY_URL=$(wait_url "$WORK/$name.log" "$PROXY_PID") || fail "the proxy did not start"
    PROXY=${PROXY_URL#*://}
}

serve cache "$WORK/home"
for reference in "${!WANTED[@]}"; do
    same_text "${WANTED[$reference]}" "$(layers "$reference")" "the layers of $reference, from the client's cache"
done
same_text '["main"]' "$("${WITHIN[@]}" curl -fsS "$PROXY_URL/v2/org/model/tags/list" | jq -c .tags)" "its tags"
same_text "$before_serving" "$(find "$WORK/home" -printf '%y %P %s %T@ %l\n' | sort | sha256sum)" "the cache is as it was"
stop "$PROXY_PID"

serve offline "$WORK/home/hub" --offline
same_text "${WANTED[org/model:main]}" "$(layers org/model:main)" "the same with --offline, and the folder hub itself"
stop "$PROXY_PID"

# The client's other way to keep files: a folder without a cache.
for kind in "" datasets/ spaces/; do mkdir -p "$WORK/folder/${kind}org"; done
cp -r "$MODEL" "$WORK/folder/org/model"
cp -r "$DATASET" "$WORK/folder/datasets/org/data"
cp -r "$SPACE" "$WORK/folder/spaces/org/demo"
serve folder "$WORK/folder"
for reference in org/model:main datasets/org/data:main spaces/org/demo:main; do
    same_text "${WANTED[$reference]}" "$(layers "$reference")" "the layers of $reference, from a folder"
done
