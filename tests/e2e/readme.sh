#!/usr/bin/env bash
# What the README says to type works: its commands, its Dockerfile, every
# reference of its table, and its configuration files.
. "$(dirname "$0")/lib.sh"
. "$E2E/daemons.sh"
. "$E2E/hf-client.sh"
need cargo skopeo containerd ctr curl jq python3 docker-registry
need_root
need_docker
# For PyYAML, which comes with the client.
need_hf
README=$ROOT/README.md

# block LANGUAGE TEXT: the fenced block in that language that holds the text.
block() {
    python3 - "$README" "$@" <<'PY'
import re, sys
readme, language, text = sys.argv[1:]
blocks = re.findall(r"^```(\w*)\n(.*?)^```", open(readme).read(), re.M | re.S)
found = [body for kind, body in blocks if kind == language and text in body]
if len(found) != 1:
    sys.exit(f"{len(found)} {language} blocks with {text!r} in the README")
print(found[0], end="")
PY
}

# Repositories for each name that the README uses.
small_model "$MODEL"
mkdir -p "$MODEL/onnx"
echo onnx >"$MODEL/onnx/model.onnx"
echo '*.bin filter=lfs' >"$MODEL/.gitattributes"
for id in models/org/model models/Qwen/Qwen2.5-0.5B-Instruct datasets/stanfordnlp/imdb spaces/org/app; do
    settings='{}'
    [ $id != models/org/model ] || settings='{"tags": {"v1.0": "base"}, "revisions": {"pr": {"pr": 1}}}'
    publish $id "$MODEL" "$settings"
done
publish models/gpt2 "$MODEL" '{}'
mkdir "$WORK/gguf"
echo quantised >"$WORK/gguf/model-Q4_K_M.gguf"
echo '# Quantised' >"$WORK/gguf/README.md"
publish models/org/model-gguf "$WORK/gguf" '{}'
mkdir -p "$REPOS/models/org/model/.revisions/pr"
echo request >"$REPOS/models/org/model/.revisions/pr/pull.txt"
start_hub "$REPOS"

# The first command, as it stands; its own folder stands in for the user's, the
# simulator for the Hub, and a free port for 5000 if that one is taken.
command=$(block sh 'cargo run' | head -n 1)
if (exec 3<>/dev/tcp/127.0.0.1/5000) 2>/dev/null; then
    say "port 5000 is taken; another one is used"
    command+=' --listen 127.0.0.1:0'
fi
mkdir "$WORK/home"
launch proxy env -C "$ROOT" XDG_DATA_HOME="$WORK/home" HF_ENDPOINT="$HUB_URL" bash -c "exec $command"
# It may have to be built first.
PROXY_URL=$(wait_url "$WORK/proxy.log" "$LAUNCHED" 500) || fail "'$command' did not start"
PROXY=${PROXY_URL#http://}
ok "$command"
# The health check of docker-compose.yml.
"$HF_OCI" health --server "$PROXY_URL" >/dev/null
ok "hf-oci health"
# Not run, since it is what runs this.
grep -q '`tests/run`' "$README" || fail "the README does not name tests/run"

commit=$(commit_of models/org/model)
references=$(grep -oE '^\| `proxy:5000/[^`]+`' "$README" | tr -d '|` ')
[ "$(wc -l <<<"$references")" -ge 10 ] || fail "the README's table of names has only: $references"
for reference in $references; do
    # The one example that cannot be taken literally is a commit.
    real=$(sed -E "s/^proxy:5000/$PROXY/; s/:[0-9a-f]{8}\$/:${commit:0:8}/" <<<"$reference")
    skopeo inspect --tls-verify=false "docker://$real" >"$WORK/inspect" || fail "$reference"
    ok "$reference is $(jq -r '.Labels["org.opencontainers.image.source"]' "$WORK/inspect")"
done

# The Dockerfile. Its base image and its syntax line would be downloads, so both
# are left out; a frontend that knows --link is that of the newer dockerd.
[ -n "$LATER_DOCKERD" ] || skip "no dockerd"
start_dockerd dockerd "$LATER_DOCKERD" --storage-driver overlay2
block dockerfile 'COPY --link' |
    sed -E "/^# syntax=/d; s/^FROM .*/FROM scratch/; s/127\.0\.0\.1:5000/$PROXY/" >"$WORK/Dockerfile"
say "$(grep COPY "$WORK/Dockerfile")"
build image <"$WORK/Dockerfile"
same_tree "$MODEL" "$WORK/image/model" "the Dockerfile"

# A plain pull of what the text names.
docker pull -q "$PROXY/gpt2" >/dev/null
ok "docker pull"

# containerd's file sends the README's own name to the address used here.
mkdir -p "$WORK/containerd" "$WORK/certs.d/proxy:5000"
block toml '[host."http' | sed "s|http://proxy:5000|$PROXY_URL|" >"$WORK/certs.d/proxy:5000/hosts.toml"
start_containerd
ctr_gives_model "hosts.toml: containerd pulls by the name proxy:5000" \
    proxy:5000/qwen/qwen2.5-0.5b-instruct:main --hosts-dir "$WORK/certs.d"

# The commands for mirrors, each as it stands: on the folder of the server above, and the import at another site. Only the registry's address is
# the one used here.
mkdir "$WORK/bin" "$WORK/away" "$WORK/there"
ln -s "$HF_OCI" "$WORK/bin/hf-oci"
start_registry registry
while read -r line; do
    home=$WORK/home
    [[ $line != *import* ]] || home=$WORK/away
    line=${line//proxy:5001/$REGISTRY}
    env -C "$WORK/there" PATH="$WORK/bin:$PATH" XDG_DATA_HOME="$home" HF_ENDPOINT="$HUB_URL" bash -c "$line" >"$WORK/typed" 2>&1 ||
        fail "$line: $(cat "$WORK/typed")"
    ok "$line"
done < <(block sh 'hf-oci pull')
[ -s "$WORK/away/hf-oci/index.json" ] || fail "nothing was imported"
skopeo inspect --tls-verify=false "docker://$REGISTRY/mirror/org/model:main" >/dev/null || fail "nothing was copied"
ok "the other site and the registry have the image"

# What cannot be run here must at least be well-formed.
block json insecure-registries >"$WORK/daemon.json"
jq -e . "$WORK/daemon.json" >/dev/null
if "$LATER_DOCKERD" --help | grep -q -- --validate; then
    "$LATER_DOCKERD" --validate --config-file "$WORK/daemon.json" >"$WORK/validate.log" 2>&1 || fail daemon.json
fi
ok "daemon.json"
block toml 'registry."proxy:5000"' | python3 -c 'import sys, tomllib; assert tomllib.loads(sys.stdin.read())["registry"]["proxy:5000"]["http"]'
ok "buildkitd.toml"
block yaml 'volumeMounts' | "$HF_PYTHON" -c 'import sys, yaml; assert yaml.safe_load(sys.stdin)["spec"]["volumes"][0]["image"]["reference"]'
"$HF_PYTHON" - "$ROOT" <<'PY'
import os, sys, yaml
root = sys.argv[1]
services = yaml.safe_load(open(f"{root}/docker-compose.yml"))["services"]
assert "health" in services["proxy"]["healthcheck"]["test"]
for service in services.values():
    for volume in service.get("volumes", []):
        source = volume.split(":")[0]
        assert not source.startswith(".") or os.path.exists(os.path.join(root, source)), source
PY
ok "the volume for Kubernetes and docker-compose.yml are well-formed"

missing=$(python3 - "$README" <<'PY'
import os, re, sys
readme = sys.argv[1]
links = re.findall(r"\]\(([^)#]+)", open(readme).read())
print(*(l for l in links if "://" not in l and not os.path.exists(os.path.join(os.path.dirname(readme), l))))
PY
)
[ -z "$missing" ] || fail "links to files that are not there: $missing"
ok "links"
