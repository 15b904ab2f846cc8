#!/usr/bin/env bash
# Two proxies that never met, with other settings and an empty folder each, make
# the same image; so does a second implementation of the format, in Python.
. "$(dirname "$0")/lib.sh"
need curl jq python3

digest() {
    curl -fsS -H 'Accept: application/vnd.oci.image.index.v1+json' "$PROXY_URL/v2/org/model/manifests/main" |
        sha256sum | sed 's/^/sha256:/; s/ .*//'
}

small_model "$MODEL"
# A large file of its own layer, so that layers are filled side by side.
bytes large $((256 << 20)) >"$MODEL/a-large.bin"
publish models/org/model "$MODEL"
start_hub "$REPOS"
start_proxy one --fill-connections 1
one=$(digest)
one_data=$DATA
stop "$PROXY_PID"
start_proxy many --fill-connections 16
same_text "$one" "$(digest)" "the same index digest with 1 and with 16 connections"
diff <(ls "$one_data/blobs/sha256") <(ls "$DATA/blobs/sha256") || fail "the blobs differ"
ok "the same set of blobs"

python3 "$ROOT/docs/layer_format.py" >/dev/null || fail "docs/layer_format.py does not give the test vector of the page"
python3 "$E2E/layers.py" "$MODEL" >"$WORK/expected"
blob() { cat "$DATA/blobs/sha256/${1#sha256:}"; }
manifest=$(blob "$(blob "$one" | jq -r '.manifests[0].digest')")
config=$(blob "$(jq -r .config.digest <<<"$manifest")")
jq -r --argjson config "$config" '
    [.layers, $config.rootfs.diff_ids] | transpose[]
    | [.[0].digest, .[1], .[0].annotations["containerd.io/snapshot/stargz/toc.digest"], .[0].size] | join(" ")
' <<<"$manifest" >"$WORK/got"
diff "$WORK/expected" "$WORK/got" >"$WORK/difference" || fail "layers: $(cat "$WORK/difference")"
ok "the layers of a second implementation"

# Pinned: a change of any byte of any document is a new format.
same_text "$(cat "$E2E/golden-index.txt")" "$one" "the pinned index digest"
