#!/usr/bin/env bash
# containerd pulls, unpacks and mounts an image.
. "$(dirname "$0")/lib.sh"
. "$E2E/daemons.sh"
need containerd ctr python3
need_root

start_all
start_containerd
ctr_gives_model "pull and mount" "$PROXY/org/model:main" --plain-http
ctr images pull --plain-http --platform linux/arm64 "$PROXY/org/model:main" >"$WORK/pull.log"
ok "pull for arm64"
