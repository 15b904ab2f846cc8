#!/usr/bin/env bash
# Real clients log in and pull a private repository, with a Hub token or as a user
# of a file; without a login, or with a wrong one, they are told why not.
. "$(dirname "$0")/lib.sh"
. "$E2E/daemons.sh"
need skopeo jq tar python3 perl curl

TOKEN=hf_insider
OTHER=hf_outsider
mkdir "$WORK/other"
echo x >"$WORK/other/README.md"
small_model "$MODEL"
publish models/org/model "$MODEL" "{\"private\": true, \"tokens\": [\"$TOKEN\"]}"
publish models/org/other "$WORK/other" "{\"private\": true, \"tokens\": [\"$OTHER\"]}"
publish_other_kinds
start_hub "$REPOS"

# bcrypt as `htpasswd -B` makes it; the C library knows it too.
hash_of() { perl -e 'print crypt($ARGV[0], "\$2b\$06\$abcdefghijklmnopqrstuu")' "$1"; }
[[ $(hash_of x) == "\$2b\$"* ]] || skip "no bcrypt in this perl"
echo "ann:$(hash_of secret)" >"$WORK/users"

# refused WHAT TEXT COMMAND...: it fails, and its user is shown the cause.
refused() {
    local what=$1 text=$2
    shift 2
    if "$@" >"$WORK/refused.log" 2>&1; then fail "$what: not refused"; fi
    grep -qiE "$text" "$WORK/refused.log" || fail "$what: not a word of '$text': $(tail -n 3 "$WORK/refused.log")"
    ok "$what"
}

# with_skopeo MODE USER PASSWORD
with_skopeo() {
    local image=docker://$PROXY/org/model:main
    refused "$1: skopeo without a login" 'unauthorized|authentication required' \
        skopeo inspect --tls-verify=false --no-creds "$image"
    refused "$1: skopeo with a wrong login" 'unauthorized|invalid username|authentication' \
        skopeo inspect --tls-verify=false --creds "$2:wrong" "$image"
    skopeo_gives_model "$1: skopeo with --creds" "$image" --src-tls-verify=false --src-creds "$2:$3"
    echo "$3" | skopeo login --tls-verify=false -u "$2" --password-stdin "$PROXY" >/dev/null
    same_text '["main"]' "$(skopeo list-tags --tls-verify=false "docker://$PROXY/org/model" | jq -c .Tags)" \
        "$1: skopeo login, then list-tags"
    skopeo logout "$PROXY" >/dev/null
}

# with_podman MODE USER PASSWORD
with_podman() {
    type -P podman >/dev/null || { say "no podman"; return; }
    refused "$1: podman login with a wrong password" 'unauthorized|invalid username|authentication' \
        podman login --tls-verify=false -u "$2" -p wrong "$PROXY"
    podman login --tls-verify=false -u "$2" -p "$3" "$PROXY" >/dev/null
    podman_gives_model "$1: podman login and pull"
    podman rmi -f "$PROXY/org/model:main" >/dev/null
    podman logout "$PROXY" >/dev/null
}

build_model() {
    build "$1" <<DOCKERFILE
FROM scratch
COPY --from=$PROXY/org/model:main / .
DOCKERFILE
}

# with_docker MODE USER PASSWORD: login, a build (BuildKit) and a pull.
with_docker() {
    refused "$1: docker build without a login" 'unauthorized|authorization failed|denied' \
        build_model "$1-no"
    refused "$1: docker pull without a login" 'unauthorized|authoriz|denied|no basic auth' \
        docker pull -q "$PROXY/org/model:main"
    refused "$1: docker login with a wrong password" 'unauthorized' \
        docker login -u "$2" -p wrong "$PROXY"
    echo "$3" | docker login -u "$2" --password-stdin "$PROXY" >"$WORK/docker-login.out" 2>&1
    build_whole "$1-build" org/model:main "$MODEL" "$1: docker login and build"
    rm -rf "$WORK/export-$(basename "$DOCKERD_DIR")"
    pull_and_export "$1: docker "
    docker rmi -f "$PROXY/org/model:main" >/dev/null
    docker logout "$PROXY" >/dev/null
}

# with_ctr MODE USER PASSWORD
with_ctr() {
    refused "$1: ctr without a login" 'unauthorized|authorization failed|401' \
        ctr images pull --plain-http "$PROXY/org/model:main"
    ctr_gives_model "$1: ctr -u" "$PROXY/org/model:main" --plain-http -u "$2:$3"
    rmdir "$WORK/mounted"
    ctr images rm --sync "$PROXY/org/model:main" >/dev/null
}

ROOT_CLIENTS=
if [ "$(id -u)" = 0 ] && type -P dockerd containerd ctr >/dev/null; then
    ROOT_CLIENTS=1
    need_docker
    start_dockerd dockerd "$(type -P dockerd)" --storage-driver overlay2
    start_containerd
fi

# all MODE USER PASSWORD
all() {
    with_skopeo "$@"
    if [ -n "$ROOT_CLIENTS" ]; then
        with_podman "$@"
        with_docker "$@"
        with_ctr "$@"
    fi
    same_text "200" "$(curl -s -o /dev/null -w '%{http_code}' "$PROXY_URL/healthz")" "$1: health wants no login"
    "$HF_OCI" health --server "$PROXY_URL" >/dev/null
    ok "$1: hf-oci health"
}

start_proxy huggingface --auth-mode huggingface
all huggingface ann "$TOKEN"
# What is public needs no login, of any client; another's private model is not there.
skopeo inspect --tls-verify=false --no-creds "docker://$PROXY/spaces/org/demo" >/dev/null
ok "huggingface: what is public needs no login"
[ -z "$ROOT_CLIENTS" ] || build_whole public spaces/org/demo "$SPACE" "huggingface: docker build of what is public, without a login"
[ -z "$ROOT_CLIENTS" ] || { ctr images pull --plain-http "$PROXY/spaces/org/demo:main" >/dev/null && ok "huggingface: ctr of what is public"; }
refused "huggingface: another's token" 'does not exist|not found|unknown' \
    skopeo inspect --tls-verify=false --creds "x:$OTHER" "docker://$PROXY/org/model:main"
grep -qE "$TOKEN|$OTHER" "$WORK/huggingface.log" && fail "a token is in the log"
if grep -rqE "$TOKEN|$OTHER" "$DATA"; then fail "a token is in the data folder"; fi
ok "huggingface: no token in the log or the data folder"
stop "$PROXY_PID"

HF_TOKEN=$TOKEN start_proxy htpasswd --auth-mode htpasswd --auth-htpasswd-file "$WORK/users"
all htpasswd ann secret
stop "$PROXY_PID"
