#!/usr/bin/env bash
# A newer dockerd: COPY --link, the step kept when only the README changed, and a
# pull into the containerd image store.
. "$(dirname "$0")/lib.sh"
. "$E2E/daemons.sh"
need containerd curl jq python3
need_root
need_docker
[ -n "$LATER_DOCKERD" ] || skip "no dockerd"

# A tag is asked for again each time, so that the next commit is seen at once.
start_all --tag-ttl 0s
start_dockerd dockerd "$LATER_DOCKERD" --storage-driver overlay2
say "dockerd $(docker version -f '{{.Server.Version}}')"
if ! build_link; then
    grep -q 'Unknown flag: link' "$WORK/link.out" && skip "no dockerd that knows COPY --link"
    fail "COPY --link: $(cat "$WORK/link.out")"
fi
same_tree "$(one_file)" "$WORK/link" "COPY --link, one file"

build link-whole <<DOCKERFILE
FROM scratch
COPY --link --from=$PROXY/org/model:main / /
DOCKERFILE
same_tree "$MODEL" "$WORK/link-whole" "COPY --link, whole repository"

LINK=--link new_readme_keeps_weights
pull_and_export
stop "$DOCKERD_PID"

start_dockerd_with_containerd_store store
pull_and_export "containerd image store: "
