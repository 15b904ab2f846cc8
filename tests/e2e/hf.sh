#!/usr/bin/env bash
# The real huggingface_hub client against the simulator: what the proxy is tested
# with behaves as the Hub's own client expects.
. "$(dirname "$0")/lib.sh"
. "$E2E/hf-client.sh"
need curl jq python3
need_hf

small_model "$MODEL"
mkdir -p "$WORK/gated"
echo '{"secret":1}' >"$WORK/gated/config.json"
publish models/org/model "$MODEL"
publish_other_kinds
publish models/org/closed "$WORK/gated" '{"gated": "auto", "tokens": ["hf_good"]}'
start_hub "$REPOS"

hf_download model org/model
same_tree "$MODEL" "$WORK/model" "a model"
hf_download data org/data --repo-type dataset
same_tree "$DATASET" "$WORK/data" "a dataset"
hf_download demo org/demo --repo-type space
same_tree "$SPACE" "$WORK/demo" "a space"

before=$(commit_of models/org/model)
cp -r "$MODEL" "$WORK/model-before"
new_readme
hf_download commit org/model --revision "$before"
same_tree "$WORK/model-before" "$WORK/commit" "a commit that is not the newest"
hf_download newest org/model --revision main
same_tree "$MODEL" "$WORK/newest" "the newest commit"

# refused WHAT PATTERN ID [ARGUMENT...]: the client fails, and says why.
refused() {
    local what=$1 pattern=$2
    shift 2
    # The client is content with a folder that is there already.
    rm -rf "$WORK/refused"
    if hf_download refused "$@" 2>"$WORK/refused.log"; then fail "$what: downloaded"; fi
    grep -qiE "$pattern" "$WORK/refused.log" || fail "$what: not a word of '$pattern': $(tail -n 3 "$WORK/refused.log")"
    ok "$what"
}
refused "a gated repository, without a token" 'gated|restricted|requires approval' org/closed
HF_TOKEN=hf_unknown refused "a gated repository, with an unknown token" '401|invalid|token' org/closed
HF_TOKEN=hf_good hf_download opened org/closed
same_tree "$WORK/gated" "$WORK/opened" "a gated repository, with a token"
refused "a repository that does not exist" 'not found|401|404' org/missing
refused "a revision that does not exist" 'revision' org/model --revision nowhere

# The library, not only the command: the calls that other tools make.
HF_ENDPOINT=$HUB_URL "$HF_PYTHON" - "$HUB_URL" "$MODEL" <<'PY'
import os, sys
from huggingface_hub import HfApi, hf_hub_download

endpoint, folder = sys.argv[1:]
api = HfApi(endpoint=endpoint)
info = api.model_info("org/model", files_metadata=False)
names = sorted(os.path.relpath(os.path.join(at, f), folder) for at, _, fs in os.walk(folder) for f in fs)
assert sorted(s.rfilename for s in info.siblings) == names, info.siblings
assert api.model_info("ORG/Model").id == "org/model"
tree = {f.path: f.size for f in api.list_repo_tree("org/model", recursive=True) if hasattr(f, "size")}
assert tree == {n: os.path.getsize(os.path.join(folder, n)) for n in names}, tree
refs = api.list_repo_refs("org/model")
assert [b.target_commit for b in refs.branches if b.name == "main"] == [info.sha], refs
assert api.file_exists("org/model", "config.json") and not api.file_exists("org/model", "none.json")
path = hf_hub_download("org/model", "config.json", endpoint=endpoint)
assert open(path, "rb").read() == open(os.path.join(folder, "config.json"), "rb").read()
PY
ok "the library's calls: info, case folding, tree, refs, file_exists, hf_hub_download"
