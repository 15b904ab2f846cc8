#!/usr/bin/env bash
# buildah starts from an image, and copies from one in a build.
. "$(dirname "$0")/lib.sh"
need buildah python3
need_root

start_all
container=$(buildah from -q --tls-verify=false "$PROXY/org/model:main")
same_tree "$MODEL" "$(buildah mount "$container")" "from and mount"
buildah umount "$container" >/dev/null
buildah rm "$container" >/dev/null

mkdir "$WORK/context"
build() {
    cat >"$WORK/Dockerfile"
    buildah bud -q --isolation chroot --tls-verify=false -f "$WORK/Dockerfile" -t "$1" "$WORK/context" >/dev/null
    container=$(buildah from -q --pull-never "$1")
    TREE=$(buildah mount "$container")
}
build whole <<DOCKERFILE
FROM scratch
COPY --from=$PROXY/org/model:main / .
DOCKERFILE
same_tree "$MODEL" "$TREE" "COPY --from, whole repository"

build part <<DOCKERFILE
FROM scratch
COPY --from=$PROXY/org/model:main /tokenizer /tokenizer
COPY --from=$PROXY/org/model:main /model.safetensors /
DOCKERFILE
mkdir "$WORK/part"
cp -r "$MODEL/tokenizer" "$MODEL/model.safetensors" "$WORK/part"
same_tree "$WORK/part" "$TREE" "COPY --from, a folder and a file"
buildah umount -a >/dev/null
