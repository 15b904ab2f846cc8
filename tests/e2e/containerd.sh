#!/usr/bin/env bash
# containerd pulls, unpacks and mounts an image.
. "$(dirname "$0")/lib.sh"
. "$E2E/dockerd.sh"
need containerd ctr python3
need_root

start_all
start_containerd
ctr images pull --plain-http "$PROXY/org/model:main" >"$WORK/pull.log"
mkdir "$WORK/mounted"
ctr images mount "$PROXY/org/model:main" "$WORK/mounted" >/dev/null
same_tree "$MODEL" "$WORK/mounted" "pull and mount"
ctr images unmount "$WORK/mounted" >/dev/null
ctr images pull --plain-http --platform linux/arm64 "$PROXY/org/model:main" >"$WORK/pull.log"
ok "pull for arm64"
