#!/usr/bin/env bash
# What hf-oci copies to docker-registry is there with the same digests, moves once,
# is mounted where repositories share it, and needs the login that docker left.
. "$(dirname "$0")/lib.sh"
need docker-registry skopeo curl jq tar python3 perl

small_model "$MODEL"
publish models/org/model "$MODEL"
# A layer of its own, which two revisions and two names share.
mkdir -p "$WORK/large"
bytes large $((270 << 20)) >"$WORK/large/model.safetensors"
echo one >"$WORK/large/README.md"
publish models/org/large "$WORK/large"
cp -al "$REPOS/models/org/large" "$REPOS/models/org/second"
start_hub "$REPOS"
start_proxy proxy
fill() { skopeo inspect --tls-verify=false --raw "docker://$PROXY/$1" | sha256sum | cut -d' ' -f1; }
model=$(fill org/model:main) large=$(fill org/large:main) second=$(fill org/second:main)

# asked METHOD PATTERN: how many such requests docker-registry logged.
asked() {
    jq -R 'fromjson? | select(.msg == "response completed")' "$WORK/registry.log" |
        jq -s --arg method "$1" --arg pattern "$2" \
            '[.[] | select(.["http.request.method"] == $method and (.["http.request.uri"] | test($pattern)))] | length'
}

copy() { "$HF_OCI" copy --data-dir "$DATA" --plain-http "$@" 2>"$WORK/copy.err"; }

start_registry registry
copy org/model:main "$REGISTRY/mirror" >"$WORK/copied"
same_text "$REGISTRY/mirror/org/model:main@sha256:$model" "$(cat "$WORK/copied")" "an image is copied beside the server"
there=$(skopeo inspect --tls-verify=false --raw "docker://$REGISTRY/mirror/org/model:main" | sha256sum | cut -d' ' -f1)
same_text "$model" "$there" "the registry has the same index"
skopeo_gives_model "skopeo pulls it from there" "docker://$REGISTRY/mirror/org/model:main" --src-tls-verify=false
# skopeo holds every blob against its digest; --all takes all platforms.
skopeo copy -q --all --src-tls-verify=false "docker://$REGISTRY/mirror/org/model:main" "dir:$WORK/all"
ok "skopeo pulls all of its platforms"

copy org/large:main org/second:main "$REGISTRY/mirror" --json >"$WORK/events"
mounted=$(jq -s '[.[] | select(.how == "mounted")] | length' "$WORK/events")
[ "$mounted" -ge 1 ] || fail "nothing is mounted: $(cat "$WORK/events")"
[ "$(jq -s '[.[] | select(.how == "pushed" and .size > 1000000)] | length' "$WORK/events")" = 1 ] || fail "the shared layer is sent more than once"
[ "$(asked POST 'mount=.*from=mirror%2Forg%2Flarge')" = "$mounted" ] || fail "the registry saw other mounts"
ok "a shared layer is sent once and mounted ($mounted blobs)"
for image in "large $large" "second $second"; do
    there=$(skopeo inspect --tls-verify=false --raw "docker://$REGISTRY/mirror/org/${image% *}:main" | sha256sum | cut -d' ' -f1)
    same_text "${image#* }" "$there" "org/${image% *} has the same index there"
done

stop "$PROXY_PID"
posts=$(asked POST . ) puts=$(asked PUT .)
copy org/model:main org/large:main org/second:main "$REGISTRY/mirror" --json >"$WORK/events"
same_text "0 0" "$(jq -s -r '[.[] | select(.event == "copied")] | "\(map(.pushed + .mounted + .manifests) | add) \(map(.bytes) | add)"' "$WORK/events")" \
    "a second run, without the server, moves no blob"
same_text "$posts $puts" "$(asked POST .) $(asked PUT .)" "the registry was asked for no upload ($(asked HEAD .) HEADs)"
stop "$REGISTRY_PID"

# bcrypt as `htpasswd -B` makes it.
hash=$(perl -e 'print crypt("secret", "\$2y\$06\$abcdefghijklmnopqrstuu")')
[[ $hash == "\$2y\$"* ]] || skip "the rest: no bcrypt in this perl"
echo "ann:$hash" >"$WORK/users"
start_registry closed "auth: {htpasswd: {realm: closed, path: $WORK/users}}"
code=0
copy org/model:main "$REGISTRY" >"$WORK/copied" || code=$?
same_text 4 "$code" "without a login it is refused"
grep -q 'docker login' "$WORK/copy.err" || fail "it does not say what to do: $(cat "$WORK/copy.err")"
echo secret | skopeo login --tls-verify=false -u ann --password-stdin "$REGISTRY" >"$WORK/login.log"
copy org/model:main "$REGISTRY" >"$WORK/copied"
there=$(skopeo inspect --tls-verify=false --raw "docker://$REGISTRY/org/model:main" | sha256sum | cut -d' ' -f1)
same_text "$model" "$there" "with the login of Docker's configuration it is copied"
