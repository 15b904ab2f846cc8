#!/usr/bin/env bash
# skopeo, podman and docker take an exported bundle; hf-oci takes what skopeo has
# written; two revisions share what they share.
. "$(dirname "$0")/lib.sh"
. "$E2E/daemons.sh"
need skopeo podman dockerd containerd curl jq tar python3
need_root
need_docker

small_model "$MODEL"
publish models/org/model "$MODEL"
# A layer of its own, and a README that two revisions do not share.
mkdir -p "$WORK/large" "$REPOS/models/org/large/.revisions/1"
bytes large $((270 << 20)) >"$WORK/large/model.safetensors"
echo one >"$WORK/large/README.md"
publish models/org/large "$WORK/large"
start_hub "$REPOS"
start_proxy proxy
pull() { skopeo inspect --tls-verify=false --raw "docker://$PROXY/$1" >/dev/null; }
first=$(commit_of models/org/large)
for image in org/model:main org/model/tokenizer:main "org/large:$first"; do pull "$image"; done
echo two >"$REPOS/models/org/large/.revisions/1/README.md"
curl -fsS -X POST "$HUB_URL/-/reload" >/dev/null
second=$(commit_of models/org/large)
[ "$first" != "$second" ] || fail "the simulator has one revision"
pull "org/large:$second"

export_to() {
    local file=$1
    shift
    "$HF_OCI" export --data-dir "$DATA" "$@" -o "$file" >"$WORK/exported"
}
size() { stat -c %s "$1"; }

# Beside the running server, and without it: the same bytes.
bundle=$WORK/bundle.tar
export_to "$bundle" org/model:main org/model/tokenizer:main
stop "$PROXY_PID"
export_to "$WORK/again.tar" org/model:main org/model/tokenizer:main
cmp "$bundle" "$WORK/again.tar" && ok "the same bytes with and without a server"

export_to "$WORK/one.tar" "org/large:$first" --list "$WORK/one.list"
export_to "$WORK/two.tar" "org/large:$first" "org/large:$second"
export_to "$WORK/next.tar" "org/large:$second" --since "$WORK/one.list"
one=$(size "$WORK/one.tar") two=$(size "$WORK/two.tar")
[ "$two" -le $((one * 101 / 100 + 4)) ] || fail "two revisions take $two bytes, one of them $one"
ok "two revisions take $two bytes, one of them $one"
[ "$(size "$WORK/next.tar")" -le $((one / 100)) ] || fail "the incremental bundle takes $(size "$WORK/next.tar") bytes"
ok "the incremental bundle takes $(size "$WORK/next.tar") bytes"
"$HF_OCI" import --data-dir "$WORK/other" "$WORK/one.tar" >/dev/null
"$HF_OCI" import --data-dir "$WORK/other" "$WORK/next.tar" >/dev/null
"$HF_OCI" verify --data-dir "$WORK/other" | grep -q 'all are what they should be' || fail "the imported cache is not whole"
ok "both are imported, one after the other"

skopeo_gives_model "skopeo reads it" "oci-archive:$bundle:org/model:main"

podman pull -q "oci-archive:$bundle:org/model:main" >"$WORK/podman.id"
same_tree "$MODEL" "$(podman image mount "$(cat "$WORK/podman.id")")" "podman pulls it"
podman image unmount -a >/dev/null
podman rmi -af >/dev/null
export_to "$WORK/single.tar" org/model:main
podman load -q -i "$WORK/single.tar" >/dev/null
same_tree "$MODEL" "$(podman image mount docker.io/org/model:main)" "podman loads it"
podman image unmount -a >/dev/null

# docker_gives_model IMAGE WHAT
docker_gives_model() {
    local to container
    to=$WORK/export-$(basename "$DOCKERD_DIR")
    container=$(docker create "$1" none 2>/dev/null)
    mkdir "$to"
    docker export "$container" | tar -x -C "$to"
    docker rm "$container" >/dev/null
    (cd "$to" && rm -r .dockerenv dev etc proc sys)
    same_tree "$MODEL" "$to" "$2"
}

start_dockerd dockerd "$(type -P dockerd)" --storage-driver overlay2
say "dockerd $(docker version -f '{{.Server.Version}}')"
skopeo copy -q "oci-archive:$bundle:org/model:main" docker-daemon:org/model:main \
    --dest-daemon-host "unix://$DOCKERD_DIR/sock"
docker_gives_model org/model:main "skopeo copies it to docker's daemon"
stop "$DOCKERD_PID"

if [ -x "$LATER_DOCKERD" ] && [[ $("$LATER_DOCKERD" --version) != *" 20."* ]]; then
    start_dockerd_with_containerd_store later
    say "dockerd $(docker version -f '{{.Server.Version}}')"
    docker load -q -i "$bundle" >"$WORK/loaded"
    [ "$(grep -c 'org/model' "$WORK/loaded")" = 2 ] || fail "docker load: $(cat "$WORK/loaded")"
    docker_gives_model org/model:main "docker load, with containerd's store"
    stop "$DOCKERD_PID"
else
    say "no dockerd with containerd's image store"
fi

# The other way round: what skopeo has copied from the server. One platform of it
# is enough: the image has the same digest.
start_proxy proxy
wanted=$(curl -fsS "$PROXY_URL/v2/org/model/manifests/main" | sha256sum | cut -d' ' -f1)
for all in "" --all; do
    to=$WORK/skopeo${all#--}
    skopeo copy -q ${all:+"$all"} --src-tls-verify=false "docker://$PROXY/org/model:main" "oci-archive:$to.tar:org/model:main"
    "$HF_OCI" import --data-dir "$to" --public "$to.tar" >/dev/null
    same_text "sha256:$wanted" "$(jq -r '.manifests[0].digest' "$to/index.json")" "what skopeo copied is imported ${all:---one platform}"
done
