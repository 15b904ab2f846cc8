#!/usr/bin/env bash
# The whole trip: filled online, exported, and imported beside an offline server
# in a network without routes, where `docker build` runs the same Dockerfile and
# gives the same layers.
. "$(dirname "$0")/lib.sh"
. "$E2E/daemons.sh"
need dockerd containerd curl jq tar python3 unshare nsenter ip
need_root
need_docker

PORT=5000
# Into the root: BuildKit gives folders that it makes the time of the build.
cat >"$WORK/Dockerfile" <<DOCKERFILE
FROM scratch
COPY --from=127.0.0.1:$PORT/org/model:main / /
COPY --from=127.0.0.1:$PORT/org/model/tokenizer:main / /
DOCKERFILE
mkdir "$WORK/context"

# inside PID COMMAND...: in the network of a process. The ports are fixed there.
inside() {
    local pid=$1
    shift
    nsenter -t "$pid" -n "$@"
}

# a_network NAME: an empty one, with nothing but its loopback; PID has it.
a_network() {
    launch "$1" unshare -n sleep 600
    PID=$LAUNCHED
    local i
    for ((i = 0; i < 100; i++)); do
        [ "$(readlink "/proc/$PID/ns/net")" != "$(readlink /proc/self/ns/net)" ] && break
        sleep 0.05
    done
    inside "$PID" ip link set lo up
    [ -z "$(inside "$PID" ip route)" ] || fail "the network of $1 has routes"
}

# build_there NAME PID: a new daemon in that network builds the Dockerfile; LAYERS
# are the image's.
build_there() {
    local name=$1 i
    DOCKERD_DIR=$WORK/$name
    mkdir "$DOCKERD_DIR"
    echo '{}' >"$DOCKERD_DIR/daemon.json"
    launch "$name" nsenter -t "$2" -n dockerd --config-file "$DOCKERD_DIR/daemon.json" \
        --data-root "$DOCKERD_DIR/data" --exec-root "$DOCKERD_DIR/exec" --pidfile "$DOCKERD_DIR/pid" \
        -H "unix://$DOCKERD_DIR/sock" --iptables=false --bridge=none --ip-forward=false --ip-masq=false --storage-driver overlay2
    local pid=$LAUNCHED
    for ((i = 0; i < 300; i++)); do
        docker version >/dev/null 2>&1 && break
        kill -0 "$pid" 2>/dev/null || fail "dockerd did not start"
        sleep 0.1
    done
    docker build --progress=plain -t built -f "$WORK/Dockerfile" "$WORK/context" >"$WORK/$name.out" 2>&1 ||
        { cat "$WORK/$name.out" >&2; fail "the build failed"; }
    LAYERS=$(docker image inspect -f '{{json .RootFS.Layers}}' built)
    stop "$pid"
}

# Online: a network with the simulator, the server and a builder.
small_model "$MODEL"
publish models/org/model "$MODEL"
a_network online
online=$PID
launch hub nsenter -t "$online" -n "$HUB" "$REPOS" --listen 127.0.0.1:4000
wait_url "$WORK/hub.log" "$LAUNCHED" >/dev/null || fail "the simulator did not start"
HUB_PID=$LAUNCHED
launch proxy nsenter -t "$online" -n "$HF_OCI" serve --listen "127.0.0.1:$PORT" --data-dir "$WORK/online-data" --upstream http://127.0.0.1:4000
wait_url "$WORK/proxy.log" "$LAUNCHED" >/dev/null || fail "the proxy did not start"
PROXY_PID=$LAUNCHED
build_there docker-online "$online"
there=$LAYERS
ok "built online: $there"
"$HF_OCI" export --data-dir "$WORK/online-data" org/model:main org/model/tokenizer:main -o "$WORK/bundle.tar"
stop "$PROXY_PID"
stop "$HUB_PID"
ok "exported, $(stat -c %s "$WORK/bundle.tar") bytes"

# The other site: nothing of the first but the bundle and the Dockerfile.
a_network offline
launch offline-proxy nsenter -t "$PID" -n "$HF_OCI" serve --offline --listen "127.0.0.1:$PORT" --data-dir "$WORK/offline-data"
wait_url "$WORK/offline-proxy.log" "$LAUNCHED" >/dev/null || fail "the offline server did not start"
get() { inside "$PID" curl -sS -o /dev/null -w '%{http_code}' "http://127.0.0.1:$PORT/v2/org/model/manifests/main"; }
same_text 404 "$(get)" "the offline server has nothing"
inside "$PID" "$HF_OCI" import --data-dir "$WORK/offline-data" "$WORK/bundle.tar"
same_text 200 "$(get)" "it serves at once what is imported"
build_there docker-offline "$PID"
same_text "$there" "$LAYERS" "the same Dockerfile gives the same layers"
"$HF_OCI" verify --data-dir "$WORK/offline-data" | grep -q 'all are what they should be' || fail "the imported cache is not whole"
ok "every imported blob is what it should be"
