# shellcheck shell=bash
# Sourced by every script here: a scratch folder, the simulator and the proxy on
# free ports, and a clean-up that leaves no process and no mount behind.
#
# Checks print `ok NAME`; a script ends with 0 (passed), 77 (skipped, with the
# reason as its last line) or anything else (failed, after saying what differs).

set -eEuo pipefail
export LC_ALL=C.UTF-8

E2E=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
ROOT=$(cd "$E2E/../.." && pwd)
TARGET=${CARGO_TARGET_DIR:-$ROOT/target}
HF_OCI=${HF_OCI:-$TARGET/release/hf-oci}
HUB=${HUB:-$TARGET/release/examples/hub}
# Shared with tests/run, which fills it: client packages, the Python environment.
CACHE=${HF_OCI_TEST_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/hf-oci-tests}
NAME=$(basename "$0" .sh)
WORK=$(mktemp -d "${TMPDIR:-/var/tmp}/hf-oci-$NAME.XXXXXX")
PIDS=()

# Nobody's settings may reach the clients or the servers: the addresses are all
# loopback, and no token or registry login is wanted.
unset http_proxy https_proxy all_proxy HTTP_PROXY HTTPS_PROXY ALL_PROXY HF_TOKEN HF_ENDPOINT
while IFS= read -r name; do unset "$name"; done < <(compgen -e | grep -E '^(HF_OCI|HF_HUB)_' | grep -v '^HF_OCI_TEST_' || true)
export HF_HOME=$WORK/hf-home DOCKER_CONFIG=$WORK/docker-config
export REGISTRY_AUTH_FILE=$WORK/docker-config/config.json
mkdir -p "$DOCKER_CONFIG"
echo '{}' >"$REGISTRY_AUTH_FILE"

ok() { echo "ok $NAME: $*"; }
say() { echo "   $*"; }
skip() { echo "skip $NAME: $*"; exit 77; }

fail() {
    echo "FAILED $NAME: $*" >&2
    tail_logs
    exit 1
}

tail_logs() {
    local log
    for log in "$WORK"/*.log; do
        [ -s "$log" ] || continue
        echo "--- the end of $(basename "$log")" >&2
        tail -n 15 "$log" | cut -c1-400 >&2
    done
}

# need COMMAND...: skip if one of them is not there.
need() {
    local command
    for command; do
        type -P "$command" >/dev/null || skip "no $command"
    done
}

need_root() { [ "$(id -u)" = 0 ] || skip "needs root"; }

# launch NAME COMMAND...: in the background, its output in WORK/NAME.log.
launch() {
    local name=$1
    shift
    # Here already, since what is launched makes it only when it gets to run.
    : >"$WORK/$name.log"
    "$@" >"$WORK/$name.log" 2>&1 &
    LAUNCHED=$!
    PIDS+=("$LAUNCHED")
}

# stop PID: ask, wait 10 seconds, insist.
stop() {
    local pid=$1 i
    kill "$pid" 2>/dev/null || return 0
    for ((i = 0; i < 100; i++)); do
        kill -0 "$pid" 2>/dev/null || break
        sleep 0.1
    done
    kill -9 "$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null || true
}

clean_up() {
    local status=$? pid target
    trap - EXIT INT TERM
    set +e
    for pid in "${PIDS[@]}"; do stop "$pid"; done
    # A container daemon that had to be killed leaves its own containerd.
    for pid in "$WORK"/*/exec/containerd/containerd.pid; do
        [ -f "$pid" ] && kill -9 "$(cat "$pid")" 2>/dev/null
    done
    # Innermost mounts first.
    awk -v work="$WORK/" 'index($2, work) == 1 {print $2}' /proc/self/mounts | sort -r |
        while IFS= read -r target; do umount -l "$(printf '%b' "$target")"; done
    if [ "$status" != 0 ] && [ -n "${KEEP:-}" ]; then
        echo "kept: $WORK" >&2
    else
        rm -rf --one-file-system "$WORK"
    fi
    exit "$status"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
trap 'echo "FAILED $NAME: ${BASH_SOURCE[0]##*/} line $LINENO: $BASH_COMMAND" >&2; tail_logs' ERR

# wait_url LOG PID [SECONDS]: the address a server has written to its log.
wait_url() {
    local log=$1 pid=$2 i url
    for ((i = 0; i < ${3:-30} * 10; i++)); do
        url=$(grep -oEm1 'listening on https?://127\.0\.0\.1:[0-9]+' "$log" | grep -oE 'https?://.*') && {
            echo "$url"
            return
        }
        kill -0 "$pid" 2>/dev/null || break
        sleep 0.1
    done
    return 1
}

# start_hub DIR [ARGUMENT...]: the simulator; its address in HUB_URL.
start_hub() {
    [ -x "$HUB" ] || fail "no simulator at $HUB (cargo build --release --example hub)"
    launch hub "$HUB" "$@" --listen 127.0.0.1:0
    HUB_PID=$LAUNCHED
    HUB_URL=$(wait_url "$WORK/hub.log" "$HUB_PID") || fail "the simulator did not start"
}

# start_proxy NAME [ARGUMENT...]: a proxy of the simulator with a data folder of
# its own; PROXY is HOST:PORT.
start_proxy() {
    local name=$1
    shift
    [ -x "$HF_OCI" ] || fail "no proxy at $HF_OCI (cargo build --release)"
    DATA=$WORK/$name-data
    launch "$name" "$HF_OCI" serve --listen 127.0.0.1:0 --data-dir "$DATA" --upstream "$HUB_URL" "$@"
    PROXY_PID=$LAUNCHED
    PROXY_URL=$(wait_url "$WORK/$name.log" "$PROXY_PID") || fail "the proxy did not start"
    PROXY=${PROXY_URL#*://}
}

# same_tree A B WHAT: the same set of names and kinds, and the same bytes.
same_tree() {
    local a=$1 b=$2 what=$3
    [ -n "$(ls -A "$a")" ] || fail "$what: $a is empty"
    diff <(names "$a") <(names "$b") >"$WORK/difference" ||
        fail "$what: names differ: $(head -n 20 "$WORK/difference")"
    diff -r --no-dereference "$a" "$b" >"$WORK/difference" ||
        fail "$what: $(head -n 20 "$WORK/difference")"
    ok "$what ($(find "$b" -type f | wc -l) files, $(du -sb "$b" | cut -f1) bytes)"
}

names() { (cd "$1" && find . -mindepth 1 -printf '%y %P\n' | LC_ALL=C sort); }

# same_text WANT GOT WHAT
same_text() {
    [ "$1" = "$2" ] || fail "$3: expected '$1', got '$2'"
    ok "$3"
}

# bytes SEED COUNT: bytes that do not compress and are the same every time.
bytes() {
    python3 - "$1" "$2" <<'PY'
import random, sys
source, left = random.Random(sys.argv[1]), int(sys.argv[2])
while left:
    part = source.randbytes(min(left, 1 << 20))
    sys.stdout.buffer.write(part)
    left -= len(part)
PY
}

# small_model DIR: what repositories hold, in 20 MB: nested folders, an empty
# file, chunk-sized and larger files, and names that need every kind of escape.
small_model() {
    local dir=$1
    mkdir -p "$dir/tokenizer/Extra" "$dir/sub dir"
    bytes weights 18000001 >"$dir/model.safetensors"
    bytes chunk 4194304 >"$dir/z.bin"
    printf -- '---\nlicense: apache-2.0\n---\n# A model\n' >"$dir/README.md"
    echo '{"model_type":"demo"}' >"$dir/config.json"
    echo '{}' >"$dir/tokenizer/tokenizer.json"
    echo '{"a":1}' >"$dir/tokenizer/Extra/UPPER_Case.json"
    : >"$dir/empty.txt"
    echo one >"$dir/sub dir/été #1%?@.txt"
    echo two >"$dir/$(printf 'n%.0s' {1..120}).json"
}

# The simulator's folder, and the truth about the repositories that scripts use.
REPOS=$WORK/repos
MODEL=$WORK/truth
DATASET=$WORK/truth-dataset
SPACE=$WORK/truth-space

# publish_other_kinds: a dataset and a space.
publish_other_kinds() {
    mkdir -p "$DATASET/train" "$SPACE"
    bytes data 11000000 >"$DATASET/train/part-0.parquet"
    echo '# data' >"$DATASET/README.md"
    echo 'print(1)' >"$SPACE/app.py"
    publish datasets/org/data "$DATASET"
    publish spaces/org/demo "$SPACE"
}

# start_all [PROXY ARGUMENT...]: the small model, the simulator and one proxy.
start_all() {
    small_model "$MODEL"
    publish models/org/model "$MODEL"
    start_hub "$REPOS"
    start_proxy proxy "$@"
}

# one_file: a folder that holds only the model's weights.
one_file() {
    mkdir -p "$WORK/one-file"
    cp "$MODEL/model.safetensors" "$WORK/one-file"
    echo "$WORK/one-file"
}

# unpack IMAGE DIR: GNU tar over the layers of a `dir:` image, in order.
unpack() {
    local image=$1 dir=$2 digest
    mkdir -p "$dir"
    for digest in $(jq -r '.layers[].digest' "$image/manifest.json"); do
        tar -xzf "$image/${digest#sha256:}" -C "$dir"
    done
}

skopeo() { command skopeo --insecure-policy "$@"; }

# skopeo_gives_model WHAT SOURCE [ARGUMENT...]
skopeo_gives_model() {
    local what=$1 source=$2 to=$WORK/copy-${1// /-}
    shift 2
    skopeo copy -q "$@" "$source" "dir:$to"
    unpack "$to" "$to-tree"
    same_tree "$MODEL" "$to-tree" "$what"
}

# For the podman family: a storage of one's own. DRIVER is overlay unless set.
STORAGE=(--root "$WORK/storage" --runroot "$WORK/run")
podman() { command podman "${STORAGE[@]}" --storage-driver "${DRIVER:-overlay}" "$@"; }
buildah() { command buildah "${STORAGE[@]}" --storage-driver "${DRIVER:-overlay}" "$@"; }

# podman_gives_model WHAT: the image stays in the storage.
podman_gives_model() {
    podman pull -q --tls-verify=false "$PROXY/org/model:main" >/dev/null
    same_tree "$MODEL" "$(podman image mount "$PROXY/org/model:main")" "$1"
    podman image unmount "$PROXY/org/model:main" >/dev/null
}

# commit_of KIND/ID [REVISION]: what the simulator says a revision is.
commit_of() { curl -fsS "$HUB_URL/api/$1/revision/${2:-main}" | jq -r .sha; }

# start_registry NAME [YAML]: docker-registry with nothing in it; REGISTRY is HOST:PORT.
start_registry() {
    local port
    port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
    REGISTRY=127.0.0.1:$port
    cat >"$WORK/$1.yml" <<YAML
version: 0.1
log: {level: info, formatter: json}
storage: {filesystem: {rootdirectory: $WORK/$1-data}}
http: {addr: $REGISTRY}
${2:-}
YAML
    # It takes every variable that begins with REGISTRY_ for a setting.
    launch "$1" env -u REGISTRY_AUTH_FILE OTEL_TRACES_EXPORTER=none docker-registry serve "$WORK/$1.yml"
    REGISTRY_PID=$LAUNCHED
    for ((i = 0; i < 300; i++)); do
        curl -s -o "$WORK/answer" "http://$REGISTRY/v2/" && return
        kill -0 "$REGISTRY_PID" 2>/dev/null || break
        sleep 0.1
    done
    fail "docker-registry did not start"
}

# What follows is all that knows the simulator's folder (tests/hub/README.md).

# publish KIND/ID FOLDER [SETTINGS]: a repository of the folder's files (hard
# links), with settings in JSON.
publish() {
    mkdir -p "$REPOS/$1"
    cp -al "$2/." "$REPOS/$1"
    [ $# = 2 ] || echo "$3" >"$REPOS/$1/.hub.json"
}

# new_readme: a commit on the model's main branch that changes only its README.
new_readme() {
    local revision=$REPOS/models/org/model/.revisions/1
    # Another file, not another content of the one that the older commit has.
    { cat "$MODEL/README.md" && echo "Another line."; } >"$WORK/README.md"
    mv "$WORK/README.md" "$MODEL/README.md"
    mkdir -p "$revision"
    cp "$MODEL/README.md" "$revision"
    curl -fsS -X POST "$HUB_URL/-/reload" >/dev/null
}
