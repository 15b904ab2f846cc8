#!/usr/bin/env bash
# The reference eStargz reader opens every layer, from the whole blob and through
# HTTP ranges, verifies the TOC and every chunk, and finds the repository's bytes.
. "$(dirname "$0")/lib.sh"
need python3

GO=$(command -v go || echo /usr/lib/go-1.19/bin/go)
[ -x "$GO" ] || skip "no go"
# Debian's Go libraries: unpacked by tests/run, or installed.
gopath=
for at in "$CACHE/gocode/usr/share/gocode" /usr/share/gocode; do
    [ -d "$at/src/github.com/containerd/stargz-snapshotter/estargz" ] && gopath=$at && break
done
[ -n "$gopath" ] || skip "no golang-github-containerd-stargz-snapshotter-dev"

(cd "$E2E/estargz" && GO111MODULE=off GOPATH=$gopath GOCACHE=$CACHE/go-build GOFLAGS='' "$GO" build -o "$WORK/estargz" .)

small_model "$MODEL"
# Large enough for a layer of its own.
bytes large $((257 << 20)) >"$MODEL/large.bin"
publish models/org/model "$MODEL"
start_hub "$REPOS"
start_proxy proxy
"$WORK/estargz" -registry "$PROXY_URL" -repo org/model -ref main -dir "$MODEL"
