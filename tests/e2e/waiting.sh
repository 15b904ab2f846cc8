#!/usr/bin/env bash
# Cold images whose headers go out before the image is there, as they do for a
# large model: every client waits, asks again where it needs to, and gets it.
. "$(dirname "$0")/lib.sh"
. "$E2E/daemons.sh"
need skopeo podman dockerd containerd ctr curl jq tar python3
need_root
need_docker

small_model "$MODEL"
publish models/org/model "$MODEL"
start_hub "$REPOS"

# cold NAME: an empty proxy that holds no request back, so that all is early.
cold() { start_proxy "$1" --registry-wait 1ms --registry-drip 10ms; }

# ask [ARGUMENT...]: its answer is in WORK/body and WORK/headers.
ask() { curl -sS "$@" -o "$WORK/body" -D "$WORK/headers" "$PROXY_URL/v2/org/model/manifests/main"; }
is_early() {
    grep -q '^HTTP/1.1 200' "$WORK/headers" || fail "$1: $(cat "$WORK/headers")"
    ! grep -qiE '^(docker-content-digest|content-length):' "$WORK/headers" || fail "$1 was not early: $(cat "$WORK/headers")"
}

cold head
ask -I
is_early HEAD
ok "HEAD: a type, and neither digest nor length"

cold get
ask
is_early GET
early=$(sha256sum <"$WORK/body")
ask
grep -qi "^docker-content-digest: sha256:${early%% *}" "$WORK/headers" || fail "the early body was another one: $(cat "$WORK/headers")"
ok "GET: early headers, and the same document"

cold skopeo
skopeo_gives_model "skopeo copy" "docker://$PROXY/org/model:main" --src-tls-verify=false

cold podman
podman_gives_model "podman pull"

cold ctr
start_containerd
ctr_gives_model "containerd's pull" "$PROXY/org/model:main" --plain-http

# build_and_pull NAME: with the daemon of this name.
build_and_pull() {
    local name=$1
    cold "$name-build"
    build_whole "$name-built" org/model:main "$MODEL" "$name $(docker version -f '{{.Server.Version}}'): COPY --from"
    cold "$name-pull"
    pull_and_export "$name: "
    stop "$DOCKERD_PID"
}
start_dockerd dockerd "$(type -P dockerd)" --storage-driver overlay2
build_and_pull dockerd
start_dockerd later-dockerd "$LATER_DOCKERD" --storage-driver overlay2
build_and_pull later-dockerd
start_dockerd_with_containerd_store later-dockerd-store
build_and_pull later-dockerd-store
