# shellcheck shell=bash
# Sourced by the scripts that need a docker daemon or containerd.

# Debian 12's dockerd is too old for COPY --link and for containerd's image store;
# tests/run unpacks a later Debian's beside it.
LATER_DOCKERD=$CACHE/docker.io/usr/sbin/dockerd
[ -x "$LATER_DOCKERD" ] || LATER_DOCKERD=$(type -P dockerd || true)

need_docker() {
    # /usr/bin first: another client of the same name may be in front in PATH,
    # and only the distribution's is known to speak to its own daemon.
    DOCKER=/usr/bin/docker
    [ -x "$DOCKER" ] || DOCKER=$(type -P docker) || skip "no docker"
}

docker() { DOCKER_BUILDKIT=1 "$DOCKER" -H "unix://$DOCKERD_DIR/sock" "$@"; }

# start_dockerd NAME BINARY [ARGUMENT...]: a daemon of its own that touches
# neither the network's settings nor another daemon's folders.
start_dockerd() {
    local name=$1 binary=$2 i
    shift 2
    DOCKERD_DIR=$WORK/$name
    mkdir "$DOCKERD_DIR"
    local config=$DOCKERD_DIR/daemon.json
    # Not the machine's /etc/docker/daemon.json.
    [[ " $* " == *" --config-file "* ]] || { echo '{}' >"$config" && set -- --config-file "$config" "$@"; }
    launch "$name" "$binary" --data-root "$DOCKERD_DIR/data" --exec-root "$DOCKERD_DIR/exec" \
        --pidfile "$DOCKERD_DIR/pid" -H "unix://$DOCKERD_DIR/sock" \
        --iptables=false --bridge=none --ip-forward=false --ip-masq=false "$@"
    DOCKERD_PID=$LAUNCHED
    for ((i = 0; i < 300; i++)); do
        docker version >/dev/null 2>&1 && return
        kill -0 "$DOCKERD_PID" 2>/dev/null || break
        sleep 0.1
    done
    fail "dockerd did not start"
}

# start_dockerd_with_containerd_store NAME: a later dockerd with the other image store.
start_dockerd_with_containerd_store() {
    echo '{"features":{"containerd-snapshotter":true}}' >"$WORK/containerd-store.json"
    start_dockerd "$1" "$LATER_DOCKERD" --config-file "$WORK/containerd-store.json"
}

# build NAME: builds the Dockerfile on stdin into the folder WORK/NAME; the
# progress goes to WORK/NAME.out.
build() {
    local name=$1
    cat >"$WORK/$name.Dockerfile"
    mkdir -p "$WORK/context"
    docker build --progress=plain -o "type=local,dest=$WORK/$name" -f "$WORK/$name.Dockerfile" "$WORK/context" \
        >"$WORK/$name.out" 2>&1 || { cat "$WORK/$name.out" >&2; return 1; }
}

# build_whole NAME REPOSITORY TRUTH WHAT
build_whole() {
    build "$1" <<DOCKERFILE
FROM scratch
COPY --from=$PROXY/$2 / .
DOCKERFILE
    same_tree "$3" "$WORK/$1" "$4"
}

build_link() {
    build link <<DOCKERFILE
FROM scratch
COPY --link --from=$PROXY/org/model:main /model.safetensors /
DOCKERFILE
}

# build_revision NAME: weights first, then the README; KEPT is 1 if the weights'
# step was found in the cache and 0 if it ran.
build_revision() {
    local name=$1 step
    build "$name" <<DOCKERFILE
FROM scratch
COPY ${LINK:-} --from=$PROXY/org/model /model.safetensors /weights/
COPY ${LINK:-} --from=$PROXY/org/model /README.md /
DOCKERFILE
    cmp "$WORK/$name/weights/model.safetensors" "$MODEL/model.safetensors"
    step=$(sed -nE 's/^(#[0-9]+) \[.*COPY.*model\.safetensors.*/\1/p' "$WORK/$name.out" | head -n 1)
    [ -n "$step" ] || fail "no weights' step in $(cat "$WORK/$name.out")"
    KEPT=$(grep -c "^$step CACHED" "$WORK/$name.out" || true)
}

# new_readme_keeps_weights: the same Dockerfile before and after a commit that
# changes only the README.
new_readme_keeps_weights() {
    build_revision before
    new_readme
    build_revision after
    [ "$KEPT" = 1 ] || fail "the weights' step was not CACHED: $(cat "$WORK/after.out")"
    same_text "$(cat "$MODEL/README.md")" "$(cat "$WORK/after/README.md")" "a new README keeps the weights' step CACHED"
}

# pull_and_export [PREFIX]: pulls the image, and takes it out again.
pull_and_export() {
    local image=$PROXY/org/model:main container to
    to=$WORK/export-$(basename "$DOCKERD_DIR")
    docker pull -q "$image" >/dev/null
    container=$(docker create "$image" none 2>/dev/null)
    mkdir "$to"
    docker export "$container" | tar -x -C "$to"
    docker rm "$container" >/dev/null
    # Mount points that docker adds to every container.
    (cd "$to" && rm -r .dockerenv dev etc proc sys)
    same_tree "$MODEL" "$to" "${1:-}pull, create and export"
}

# start_containerd: one of its own, for `ctr`.
start_containerd() {
    local dir=$WORK/containerd i
    mkdir -p "$dir"
    cat >"$dir/config.toml" <<TOML
version = 2
root = "$dir/root"
state = "$dir/state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
address = "$dir/sock"
[plugins."io.containerd.internal.v1.opt"]
path = "$dir/opt"
TOML
    launch containerd containerd --config "$dir/config.toml"
    for ((i = 0; i < 100; i++)); do
        ctr version >/dev/null 2>&1 && return
        sleep 0.1
    done
    fail "containerd did not start"
}

ctr() { command ctr -a "$WORK/containerd/sock" "$@"; }

# ctr_gives_model WHAT IMAGE [ARGUMENT...]: pulled with the arguments, and mounted.
ctr_gives_model() {
    local what=$1 image=$2
    shift 2
    ctr images pull "$@" "$image" >"$WORK/pull.log"
    mkdir "$WORK/mounted"
    ctr images mount "$image" "$WORK/mounted" >/dev/null
    same_tree "$MODEL" "$WORK/mounted" "$what"
    ctr images unmount "$WORK/mounted" >/dev/null
}
