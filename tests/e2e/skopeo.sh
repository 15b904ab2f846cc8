#!/usr/bin/env bash
# skopeo inspects and copies images, from the registry and from the data folder,
# and shows why it cannot.
. "$(dirname "$0")/lib.sh"
need skopeo jq tar python3

PLATFORMS='386
amd64
arm/v6
arm/v7
arm64
loong64
ppc64le
riscv64
s390x'

mkdir "$WORK/hostile" "$WORK/gated"
echo x >"$WORK/hostile/.wh.config.json"
echo '{}' >"$WORK/gated/config.json"
publish models/org/hostile "$WORK/hostile"
publish models/org/gated "$WORK/gated" '{"gated": "auto"}'
start_all
image=docker://$PROXY/org/model

skopeo inspect --tls-verify=false "$image:main" >"$WORK/inspect"
label() { jq -r ".Labels[\"org.opencontainers.image.$1\"]" "$WORK/inspect"; }
[[ $(label revision) =~ ^[0-9a-f]{40}$ ]] || fail "the revision label is '$(label revision)'"
[[ $(label source) == http*/org/model ]] || fail "the source label is '$(label source)'"
[[ $(label title) == *model ]] || fail "the title label is '$(label title)'"
same_text apache-2.0 "$(label licenses)" "labels"
same_text '["main"]' "$(jq -c .RepoTags "$WORK/inspect")" "inspect: tags"
same_text '["main"]' "$(skopeo list-tags --tls-verify=false "$image" | jq -c .Tags)" "list-tags"

skopeo inspect --tls-verify=false --raw "$image:main" >"$WORK/index"
same_text "sha256:$(sha256sum <"$WORK/index" | cut -d' ' -f1)" "$(jq -r .Digest "$WORK/inspect")" "index digest"
same_text "$PLATFORMS" \
    "$(jq -r '.manifests[].platform | [.architecture, .variant // empty] | join("/")' "$WORK/index" | sort)" "platforms"

layers() { jq -c '[.layers[].digest]' "$1/manifest.json"; }
for platform in amd64 arm64 arm/v7 riscv64; do
    to=$WORK/dir-${platform/\//-}
    variant=()
    [[ $platform == */* ]] && variant=(--override-variant "${platform#*/}")
    skopeo copy -q --override-arch "${platform%/*}" "${variant[@]}" --src-tls-verify=false "$image:main" "dir:$to"
    same_text "$(layers "$WORK/dir-amd64")" "$(layers "$to")" "$platform has the same layers"
    config=$(jq -r .config.digest "$to/manifest.json")
    same_text "$platform" "$(jq -r '[.architecture, .variant // empty] | join("/")' "$to/${config#sha256:}")" "$platform config"
done
skopeo_gives_model "copy to dir" "$image:main" --src-tls-verify=false

skopeo copy -q --all --src-tls-verify=false "$image:main" "oci:$WORK/oci:main"
same_text "$(jq -r .Digest "$WORK/inspect")" "$(jq -r '.manifests[0].digest' "$WORK/oci/index.json")" "copy --all keeps the digest"
skopeo_gives_model "copy to an OCI layout" "oci:$WORK/oci:main"

# refused NAME TEXT: the client fails, and shows its user the cause.
refused() {
    if skopeo inspect --tls-verify=false "docker://$PROXY/$1" >"$WORK/refused.log" 2>&1; then fail "$1: not refused"; fi
    grep -qF "$2" "$WORK/refused.log" || fail "$1: not a word of '$2'"
    ok "$1 is refused: $2"
}
refused org/missing 'org/missing does not exist at the upstream'
refused org/model:nothing "it has main"
refused org/model/nothing:main "there is no file or folder 'nothing'"
refused org/gated 'ask for access at https://huggingface.co/org/gated'
refused org/hostile 'cannot be put into an image'

# The data folder is a layout of its own, while the server runs and after.
for state in running stopped; do
    [ "$state" = running ] || stop "$PROXY_PID"
    skopeo_gives_model "copy from the data folder, server $state" "oci:$DATA:org/model:main"
done
same_text "$(jq -r .Digest "$WORK/inspect")" \
    "$(skopeo inspect --raw "oci:$DATA:org/model:main" | sha256sum | sed 's/^/sha256:/; s/ .*//')" "the data folder has the same index"
