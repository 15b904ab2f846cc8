#!/usr/bin/env bash
# dockerd with BuildKit builds the README's Dockerfiles, keeps the weights' step
# when only the README changed, and pulls.
. "$(dirname "$0")/lib.sh"
. "$E2E/daemons.sh"
need dockerd containerd curl jq python3
need_root
need_docker

publish_other_kinds
# A tag is asked for again each time, so that the next commit is seen at once.
start_all --tag-ttl 0s
start_dockerd dockerd "$(type -P dockerd)" --storage-driver overlay2
say "dockerd $(docker version -f '{{.Server.Version}}')"

build_whole whole org/model "$MODEL" "whole repository"
build_whole dataset datasets/org/data:main "$DATASET" "a dataset"
build_whole space spaces/org/demo "$SPACE" "a space"

build pinned <<DOCKERFILE
FROM scratch
COPY --from=$PROXY/org/model:$(commit_of models/org/model) / /models/demo/
DOCKERFILE
same_tree "$MODEL" "$WORK/pinned/models/demo" "a commit, into a folder"

build file <<DOCKERFILE
FROM scratch
COPY --from=$PROXY/org/model:main /model.safetensors /
DOCKERFILE
same_tree "$(one_file)" "$WORK/file" "one file by its path in the image"

build_whole selected org/model/model.safetensors:main "$WORK/one-file" "one file by its path in the name"

mkdir "$WORK/one-folder"
cp -r "$MODEL/tokenizer" "$WORK/one-folder"
build folder <<DOCKERFILE
FROM scratch
COPY --from=$PROXY/org/model:main /tokenizer /tokenizer
DOCKERFILE
same_tree "$WORK/one-folder" "$WORK/folder" "one folder by its path in the image"

build_whole selected-folder org/model/tokenizer:main "$WORK/one-folder" "one folder by its path in the name"

new_readme_keeps_weights

# This BuildKit may be too old for --link; then it must say so, and docker-link.sh has a newer one.
if build_link 2>/dev/null; then
    same_tree "$(one_file)" "$WORK/link" "COPY --link"
else
    grep -q 'Unknown flag: link' "$WORK/link.out" || fail "COPY --link: $(cat "$WORK/link.out")"
    say "this dockerd's Dockerfile frontend does not know COPY --link"
fi

pull_and_export
