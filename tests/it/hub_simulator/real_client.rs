//! The real client is the judge: `huggingface_hub` downloads from the simulator as it does from the Hub.
//!
//! It is looked for at `HF_OCI_PYTHON`, in `target/e2e/venv`, and as `python3`.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use super::{CARD, world};
use crate::hub::{Hub, Options};

/// Downloads argv[1] (a kind, an id, a revision or nothing) to the folder argv[4]; prints the error's class if there is one.
const DOWNLOAD: &str = r#"
import sys
from huggingface_hub import snapshot_download
kind, repo, revision, folder = sys.argv[1:5]
try:
    snapshot_download(repo, repo_type=kind, revision=revision or None, local_dir=folder)
except Exception as error:
    sys.exit(type(error).__name__)
"#;

/// Asks everything but content, and prints what a Hub would say too.
const ASK: &str = r#"
from huggingface_hub import HfApi
from huggingface_hub.errors import *
api = HfApi()
info = api.model_info("org/tiny", revision="v1.0", files_metadata=True)
assert info.id == "Org/Tiny" and info.card_data.license == "apache-2.0", info
assert {s.rfilename: s.size for s in info.siblings}["weights/model.safetensors"] == 3000000, info
tree = list(api.list_repo_tree("Org/Tiny", recursive=True, revision="v1.0"))
assert len(tree) == 6, tree
assert [f.path for f in api.list_repo_tree("Org/Tiny", "sub dir")] == ["sub dir/été #1%?.txt"]
refs = api.list_repo_refs("Org/Tiny", include_pull_requests=True)
assert [b.name for b in refs.branches] == ["dev/x", "main"], refs
assert refs.pull_requests[0].ref == "refs/pr/1", refs
commits = api.list_repo_commits("Org/Tiny")
assert [c.title for c in commits] == ["Second", "initial commit"], commits
assert [m.id for m in api.list_models(search="TINY", author="Org")] == ["Org/Tiny"]
assert api.whoami(token="hf_out")["name"] == "outsider"
api.auth_check("org/gated", token="hf_in")

def fails(error, call, *args, **kwargs):
    try:
        call(*args, **kwargs)
    except error as caught:
        assert type(caught) is error, repr(caught)
    else:
        raise AssertionError(f"no {error.__name__}")

fails(GatedRepoError, api.auth_check, "org/gated", token="hf_out")
fails(GatedRepoError, api.hf_hub_download, "org/gated", "a.txt", token="hf_out")
fails(RepositoryNotFoundError, api.model_info, "no/where", token="hf_out")
fails(RepositoryNotFoundError, api.model_info, "org/secret", token="hf_out")
fails(DisabledRepoError, api.model_info, "org/closed", token="hf_out")
fails(RevisionNotFoundError, api.model_info, "Org/Tiny", revision="none")
fails(RemoteEntryNotFoundError, api.hf_hub_download, "Org/Tiny", "none")
fails(HfHubHTTPError, api.model_info, "Org/Tiny", token="hf_unknown")
print("ALL GOOD")
"#;

/// A python that has the client; nothing (with a note) if there is none. In CI there must be one.
fn python() -> Option<PathBuf> {
    let named = std::env::var_os("HF_OCI_PYTHON").map(PathBuf::from);
    let venv = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/e2e/venv/bin/python");
    let has_client = |python: &PathBuf| {
        let import = ["-c", "import huggingface_hub"];
        let output = Command::new(python).args(import).output();
        output.is_ok_and(|output| output.status.success())
    };
    let mut candidates = named.into_iter().chain([venv, "python3".into()]);
    let found = candidates.find(has_client);
    if found.is_none() {
        assert!(
            std::env::var_os("CI").is_none(),
            "huggingface_hub is not installed"
        );
        println!("SKIPPED: huggingface_hub is not installed");
    }
    found
}

/// Runs a script of the client against a simulator, with a home of its own.
fn run(python: &Path, hub: &Hub, home: &Path, token: &str, script: &str, args: &[&str]) -> Output {
    let mut command = Command::new(python);
    for name in [
        "HF_TOKEN",
        "HF_HUB_OFFLINE",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "http_proxy",
        "https_proxy",
    ] {
        command.env_remove(name);
    }
    if !token.is_empty() {
        command.env("HF_TOKEN", token);
    }
    command
        .arg("-c")
        .arg(script)
        .args(args)
        .env("HF_ENDPOINT", hub.url())
        .env("HF_HUB_DISABLE_XET", "1")
        .env("HF_HUB_DISABLE_TELEMETRY", "1")
        .env("HF_HOME", home)
        .output()
        .expect("python runs")
}

/// One download and what must come of it.
struct Case {
    kind: &'static str,
    id: &'static str,
    revision: &'static str,
    token: &'static str,
    canonical: &'static str,
    error: Option<&'static str>,
}

const fn case(kind: &'static str, id: &'static str, canonical: &'static str) -> Case {
    Case {
        kind,
        id,
        revision: "",
        token: "",
        canonical,
        error: None,
    }
}

fn cases() -> Vec<Case> {
    let tiny = || case("model", "Org/Tiny", "Org/Tiny");
    let gated = || case("model", "org/gated", "org/gated");
    let failing = |token, error| Case {
        token,
        error: Some(error),
        ..gated()
    };
    let at = |revision| Case { revision, ..tiny() };
    let mut cases = vec![
        tiny(),
        at("v1.0"),
        at("dev/x"),
        at("refs/pr/1"),
        case("model", "oRG/tINY", "Org/Tiny"),
        case("model", "org/before", "Org/Tiny"),
        case("model", "gpt2", "gpt2"),
        case("dataset", "org/data", "datasets/org/data"),
        case("space", "org/app", "spaces/org/app"),
        Case {
            token: "hf_in",
            ..gated()
        },
        Case {
            token: "hf_in",
            ..case("model", "org/secret", "org/secret")
        },
        failing("", "GatedRepoError"),
        failing("hf_out", "GatedRepoError"),
    ];
    cases.push(Case {
        token: "hf_out",
        error: Some("RepositoryNotFoundError"),
        ..case("model", "org/secret", "org/secret")
    });
    cases
}

/// The files of a folder by path, without the client's own.
fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    let mut todo = vec![folder.to_owned()];
    while let Some(next) = todo.pop() {
        for entry in std::fs::read_dir(next).expect("a folder") {
            let path = entry.expect("an entry").path();
            let name = path
                .strip_prefix(folder)
                .expect("inside")
                .to_str()
                .expect("UTF-8");
            if path.is_dir() && name != ".cache" {
                todo.push(path);
            } else if path.is_file() {
                found.push((name.to_owned(), std::fs::read(&path).expect("a file")));
            }
        }
    }
    found.sort();
    found
}

fn check(python: &Path, hub: &Hub, case: &Case) {
    let home = tempfile::tempdir().expect("a folder");
    let folder = home.path().join("files");
    let args = [
        case.kind,
        case.id,
        case.revision,
        folder.to_str().expect("UTF-8"),
    ];
    let output = run(python, hub, home.path(), case.token, DOWNLOAD, &args);
    let stderr = String::from_utf8_lossy(&output.stderr);
    let what = format!("{args:?} {}: {stderr}", case.token);
    if let Some(error) = case.error {
        assert!(
            !output.status.success() && stderr.trim_end().ends_with(error),
            "{what}"
        );
        return;
    }
    assert!(output.status.success(), "{what}");
    let revision = if case.revision.is_empty() {
        "main"
    } else {
        case.revision
    };
    let commit = hub.at(case.canonical, revision);
    let held = commit.files.iter();
    let held: Vec<_> = held
        .map(|(path, entry)| (path.clone(), entry.content.to_bytes().to_vec()))
        .collect();
    assert!(files(&folder) == held, "other bytes: {what}");
}

#[tokio::test]
async fn downloads_every_kind_of_repository() {
    let Some(python) = python() else { return };
    let change = |options: &mut Options| {
        options.page_size = 2;
        options.gzip_text = true;
    };
    let hub = Hub::start(world().options(change)).await;
    for case in cases() {
        check(&python, &hub, &case);
    }
    assert!(
        hub.leaks().is_empty(),
        "the client keeps its token to itself"
    );
}

#[tokio::test]
async fn understands_every_answer() {
    let Some(python) = python() else { return };
    assert!(CARD.contains("license: apache-2.0"));
    let hub = Hub::start(world()).await;
    let home = tempfile::tempdir().expect("a folder");
    let output = run(&python, &hub, home.path(), "", ASK, &[]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(
        String::from_utf8_lossy(&output.stdout).trim(),
        "ALL GOOD",
        "{stderr}"
    );
}
