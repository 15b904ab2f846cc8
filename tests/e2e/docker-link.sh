#!/usr/bin/env bash
# A newer dockerd: COPY --link, the step kept when only the README changed, and a
# pull into the containerd image store.
. "$(dirname "$0")/lib.sh"
. "$E2E/dockerd.sh"
need containerd curl jq python3
need_root
need_docker
# Debian 12's dockerd is too old; tests/run unpacks a later Debian's beside it.
new=$CACHE/docker.io/usr/sbin/dockerd
[ -x "$new" ] || new=$(type -P dockerd) || skip "no dockerd"

start_all
start_dockerd dockerd "$new" --storage-driver overlay2
say "dockerd $(docker version -f '{{.Server.Version}}')"
mkdir "$WORK/one-file"
cp "$MODEL/model.safetensors" "$WORK/one-file"
if ! build_link; then
    grep -q 'Unknown flag: link' "$WORK/link.out" && skip "no dockerd that knows COPY --link"
    fail "COPY --link: $(cat "$WORK/link.out")"
fi
same_tree "$WORK/one-file" "$WORK/link" "COPY --link, one file"

build link-whole <<DOCKERFILE
FROM scratch
COPY --link --from=$PROXY/org/model:main / /
DOCKERFILE
same_tree "$MODEL" "$WORK/link-whole" "COPY --link, whole repository"

LINK=--link new_readme_keeps_weights
pull_and_export
stop "$DOCKERD_PID"

echo '{"features":{"containerd-snapshotter":true}}' >"$WORK/containerd-store.json"
start_dockerd store "$new" --config-file "$WORK/containerd-store.json"
pull_and_export "containerd image store: "
