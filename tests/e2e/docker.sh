#!/usr/bin/env bash
# dockerd with BuildKit builds the README's Dockerfiles, keeps the weights' step
# when only the README changed, and pulls.
. "$(dirname "$0")/lib.sh"
. "$E2E/dockerd.sh"
need dockerd containerd curl jq python3
need_root
need_docker

start_all
start_dockerd dockerd "$(type -P dockerd)" --storage-driver overlay2
say "dockerd $(docker version -f '{{.Server.Version}}')"

build whole <<DOCKERFILE
FROM scratch
COPY --from=$PROXY/org/model / .
DOCKERFILE
same_tree "$MODEL" "$WORK/whole" "whole repository"

build pinned <<DOCKERFILE
FROM scratch
COPY --from=$PROXY/org/model:$(commit_of models/org/model) / /models/demo/
DOCKERFILE
same_tree "$MODEL" "$WORK/pinned/models/demo" "a commit, into a folder"

build file <<DOCKERFILE
FROM scratch
COPY --from=$PROXY/org/model:main /model.safetensors /
DOCKERFILE
mkdir "$WORK/one-file"
cp "$MODEL/model.safetensors" "$WORK/one-file"
same_tree "$WORK/one-file" "$WORK/file" "one file by its path in the image"

build selected <<DOCKERFILE
FROM scratch
COPY --from=$PROXY/org/model/model.safetensors:main / .
DOCKERFILE
same_tree "$WORK/one-file" "$WORK/selected" "one file by its path in the name"

mkdir "$WORK/one-folder"
cp -r "$MODEL/tokenizer" "$WORK/one-folder"
build folder <<DOCKERFILE
FROM scratch
COPY --from=$PROXY/org/model:main /tokenizer /tokenizer
DOCKERFILE
same_tree "$WORK/one-folder" "$WORK/folder" "one folder by its path in the image"

build selected-folder <<DOCKERFILE
FROM scratch
COPY --from=$PROXY/org/model/tokenizer:main / .
DOCKERFILE
same_tree "$WORK/one-folder" "$WORK/selected-folder" "one folder by its path in the name"

new_readme_keeps_weights

# This BuildKit may be too old for --link; then it must say so, and docker-link.sh has a newer one.
if build_link 2>/dev/null; then
    same_tree "$WORK/one-file" "$WORK/link" "COPY --link"
else
    grep -q 'Unknown flag: link' "$WORK/link.out" || fail "COPY --link: $(cat "$WORK/link.out")"
    say "this dockerd's Dockerfile frontend does not know COPY --link"
fi

pull_and_export
