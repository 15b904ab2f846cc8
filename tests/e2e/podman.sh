#!/usr/bin/env bash
# podman pulls an image; what it mounts and exports is the repository.
. "$(dirname "$0")/lib.sh"
need podman tar python3
need_root

start_all
# vfs unpacks without any help of the kernel, overlay is what people use.
for DRIVER in overlay vfs; do
    podman_gives_model "$DRIVER: pull and mount"
    container=$(podman create "$PROXY/org/model:main" none)
    mkdir -p "$WORK/export-$DRIVER"
    podman export "$container" | tar -x -C "$WORK/export-$DRIVER"
    same_tree "$MODEL" "$WORK/export-$DRIVER" "$DRIVER: export"
    same_text apache-2.0 "$(podman image inspect -f '{{index .Labels "org.opencontainers.image.licenses"}}' "$PROXY/org/model:main")" "$DRIVER: labels"
    podman rm -f "$container" >/dev/null
    podman rmi -f "$PROXY/org/model:main" >/dev/null
    podman pull -q --tls-verify=false --arch arm64 "$PROXY/org/model:main" >/dev/null
    same_text arm64 "$(podman image inspect -f '{{.Architecture}}' "$PROXY/org/model:main")" "$DRIVER: arm64"
    podman rmi -f "$PROXY/org/model:main" >/dev/null
    rm -rf "$WORK/storage" "$WORK/run"
done
