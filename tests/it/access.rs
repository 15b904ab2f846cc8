//! Promise: nobody reads what they may not, cached or not, whatever they ask for; one table for each mode of auth.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hf_oci::auth::Mode;
use hf_oci::oci::Digest;
use hf_oci::registry::INDEX_PREFIX;
use reqwest::{Method, Response};

use crate::harness::{OciError, Proxy, Setup, header};
use crate::hub::{Files, Hub, Repo, World};
use crate::logins::{basic, bearer, gate};

/// The rows say who asks, for what kind of repository; the columns what they ask for, of a repository that this server never saw, and of
/// one that it has cached. `-` is a 404 to somebody who may read the repository: this blob is not here. A 404 is as for a repository that
/// does not exist.
const HUGGINGFACE: &str = "
                      cold                            cached
                      manifest blob tags range page   manifest blob tags range page
anonymous   public    200      -    200  -     200    200      200  200  206   200
anonymous   gated     401      401  401  401   401    401      401  401  401   401
anonymous   private   401      401  401  401   401    401      401  401  401   401
wrong       public    401      401  401  401   401    401      401  401  401   401
wrong       gated     401      401  401  401   401    401      401  401  401   401
wrong       private   401      401  401  401   401    401      401  401  401   401
pending     public    200      -    200  -     200    200      200  200  206   200
pending     gated     403      403  403  403   403    403      403  403  403   403
pending     private   404      404  404  404   404    404      404  404  404   404
approved    public    200      -    200  -     200    200      200  200  206   200
approved    gated     200      -    200  -     200    200      200  200  206   200
approved    private   200      -    200  -     200    200      200  200  206   200
revoked     public    401      401  401  401   401    401      401  401  401   401
revoked     gated     401      401  401  401   401    401      401  401  401   401
revoked     private   401      401  401  401   401    401      401  401  401   401
";

/// Here the names are users of the file: wrong has a wrong password, pending is not in the file yet, revoked not any more. The server's
/// own token opens everything.
const HTPASSWD: &str = "
                      cold                            cached
                      manifest blob tags range page   manifest blob tags range page
anonymous   public    401      401  401  401   401    401      401  401  401   401
anonymous   gated     401      401  401  401   401    401      401  401  401   401
anonymous   private   401      401  401  401   401    401      401  401  401   401
wrong       public    401      401  401  401   401    401      401  401  401   401
wrong       gated     401      401  401  401   401    401      401  401  401   401
wrong       private   401      401  401  401   401    401      401  401  401   401
pending     public    401      401  401  401   401    401      401  401  401   401
pending     gated     401      401  401  401   401    401      401  401  401   401
pending     private   401      401  401  401   401    401      401  401  401   401
approved    public    200      -    200  -     200    200      200  200  206   200
approved    gated     200      -    200  -     200    200      200  200  206   200
approved    private   200      -    200  -     200    200      200  200  206   200
revoked     public    401      401  401  401   401    401      401  401  401   401
revoked     gated     401      401  401  401   401    401      401  401  401   401
revoked     private   401      401  401  401   401    401      401  401  401   401
";

/// Without logins, on an address that others reach: the server's own token opens everything, and is not shared. Who asks does not matter.
const NONE_FOR_OTHERS: &str = "
                      cold                            cached
                      manifest blob tags range page   manifest blob tags range page
anonymous   public    200      -    200  -     200    200      200  200  206   200
anonymous   gated     403      403  403  403   403    403      403  403  403   403
anonymous   private   404      404  404  404   404    404      404  404  404   404
wrong       public    200      -    200  -     200    200      200  200  206   200
wrong       gated     403      403  403  403   403    403      403  403  403   403
wrong       private   404      404  404  404   404    404      404  404  404   404
pending     public    200      -    200  -     200    200      200  200  206   200
pending     gated     403      403  403  403   403    403      403  403  403   403
pending     private   404      404  404  404   404    404      404  404  404   404
approved    public    200      -    200  -     200    200      200  200  206   200
approved    gated     403      403  403  403   403    403      403  403  403   403
approved    private   404      404  404  404   404    404      404  404  404   404
revoked     public    200      -    200  -     200    200      200  200  206   200
revoked     gated     403      403  403  403   403    403      403  403  403   403
revoked     private   404      404  404  404   404    404      404  404  404   404
";

/// Without logins on the loopback, or with upstream.share_private: what the server's own token opens is for everybody.
const NONE: &str = "
                      cold                            cached
                      manifest blob tags range page   manifest blob tags range page
anonymous   public    200      -    200  -     200    200      200  200  206   200
anonymous   gated     200      -    200  -     200    200      200  200  206   200
anonymous   private   200      -    200  -     200    200      200  200  206   200
wrong       public    200      -    200  -     200    200      200  200  206   200
wrong       gated     200      -    200  -     200    200      200  200  206   200
wrong       private   200      -    200  -     200    200      200  200  206   200
pending     public    200      -    200  -     200    200      200  200  206   200
pending     gated     200      -    200  -     200    200      200  200  206   200
pending     private   200      -    200  -     200    200      200  200  206   200
approved    public    200      -    200  -     200    200      200  200  206   200
approved    gated     200      -    200  -     200    200      200  200  206   200
approved    private   200      -    200  -     200    200      200  200  206   200
revoked     public    200      -    200  -     200    200      200  200  206   200
revoked     gated     200      -    200  -     200    200      200  200  206   200
revoked     private   200      -    200  -     200    200      200  200  206   200
";

const COLUMNS: [&str; 5] = ["manifest", "blob", "tags", "range", "page"];
const WHO: [&str; 5] = ["anonymous", "wrong", "pending", "approved", "revoked"];
const KINDS: [&str; 3] = ["public", "gated", "private"];

#[tokio::test(flavor = "multi_thread")]
async fn who_may_read_what_with_logins_of_the_hub() {
    check(HUGGINGFACE, Mode::HuggingFace).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_read_what_with_users_of_a_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("users");
    write_users(&file, &["approved", "wrong", "revoked"]);
    check(HTPASSWD, Mode::Htpasswd(file)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_read_what_without_logins_on_an_address_that_others_reach() {
    check(NONE_FOR_OTHERS, Mode::Public).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_read_what_without_logins_on_the_loopback() {
    check(NONE, Mode::Open).await;
}

/// A cell of a table, and where it stands.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Cell {
    who: &'static str,
    kind: &'static str,
    cached: bool,
    column: &'static str,
}

impl Cell {
    /// Each row and half has a repository of its own, so that no cell warms another one's.
    fn repo(&self) -> String {
        let state = if self.cached { "cached" } else { "cold" };
        format!("org/{}-{}-{state}", self.kind, self.who)
    }
}

fn all_cells() -> impl Iterator<Item = Cell> {
    let rows = WHO.iter().flat_map(|who| KINDS.map(|kind| (who, kind)));
    rows.flat_map(|(who, kind)| {
        [false, true].into_iter().flat_map(move |cached| {
            COLUMNS.map(|column| Cell {
                who,
                kind,
                cached,
                column,
            })
        })
    })
}

/// What a table expects of each cell.
fn read(table: &str) -> BTreeMap<Cell, String> {
    let rows = table.lines().filter(|line| !line.is_empty()).skip(2);
    let words = rows.flat_map(|row| row.split_whitespace().skip(2));
    let cells: Vec<String> = words.map(str::to_owned).collect();
    let order = table.lines().filter(|line| !line.is_empty()).skip(2);
    let heads = order.map(|row| row.split_whitespace().take(2).collect::<Vec<_>>());
    let wanted = WHO
        .iter()
        .flat_map(|who| KINDS.map(|kind| vec![*who, kind]));
    assert!(heads.eq(wanted), "the rows are in order");
    assert_eq!(cells.len(), all_cells().count());
    all_cells().zip(cells).collect()
}

fn files(repo: &str, more: u64) -> Files {
    let seed = repo.bytes().map(u64::from).sum::<u64>() * 1000 + repo.len() as u64 + more;
    Files::new()
        .file("config.json", format!("{{\"name\":\"{repo}\"}}"))
        .pattern("w.bin", 100_000, seed)
}

fn world() -> World {
    let mut world = World::new()
        .user("hf_pending", "pending")
        .user("hf_revoked", "revoked")
        .user("hf_server", "server")
        .user("hf_approved", "approved");
    for cell in all_cells().filter(|cell| cell.column == COLUMNS[0]) {
        let id = cell.repo();
        let repo = Repo::model(&id).lfs_threshold(1000);
        let repo = repo.commit(files(&id, 0)).tag("v1").commit(files(&id, 1));
        let repo = ["hf_approved", "hf_revoked", "hf_server"]
            .iter()
            .fold(repo, |repo, token| repo.allow(token));
        world = world.repo(match cell.kind {
            "gated" => repo.gated("manual"),
            "private" => repo.private(),
            _ => repo,
        });
    }
    world
}

/// Digests of the image at `v1` of each repository.
type Truth = BTreeMap<String, (Digest, Digest)>;

/// Pulls one half of the repositories into a folder, by a proxy that may read them all.
async fn pull(hub: &Hub, folder: &Path, cached: bool) -> Truth {
    let setup = Setup {
        token: Some("hf_server"),
        ..Setup::default()
    };
    let proxy = Proxy::start_on_with(hub, folder, setup).await;
    let mut truth = Truth::new();
    let first = |cell: &Cell| cell.cached == cached && cell.column == COLUMNS[0];
    for cell in all_cells().filter(first) {
        let repo = cell.repo();
        let (index, _) = proxy.index(&repo, "v1").await;
        let (manifest, _) = proxy.manifest(&repo, "v1").await;
        truth.insert(repo, (index, manifest.layers[0].digest));
    }
    proxy.stop().await;
    truth
}

/// Everything that a table asks.
async fn check(table: &str, mode: Mode) {
    let wanted = read(table);
    let hub = Hub::start(world()).await;
    let [folder, elsewhere] = [(); 2].map(|()| tempfile::tempdir().expect("a folder"));
    let mut truth = pull(&hub, folder.path(), true).await;
    truth.extend(pull(&hub, elsewhere.path(), false).await);
    let mut setup = Setup {
        token: Some("hf_server"),
        gate: Some(gate(mode.clone(), Duration::ZERO)),
        ..Setup::default()
    };
    setup.registry.wait = Duration::from_millis(300);
    setup.registry.drip = Duration::from_millis(10);
    let proxy = Proxy::start_on_with(&hub, folder.path(), setup).await;

    let logins = logins(&proxy, &mode).await;
    revoke(&hub, &proxy, &mode, &logins).await;
    let mut wrong = String::new();
    let column = |name: &str| COLUMNS.iter().position(|column| *column == name);
    // The manifest fills, and so does the page: they come last.
    let mut order: Vec<_> = wanted.iter().collect();
    order.sort_by_key(|(cell, _)| (column(cell.column) == Some(0), column(cell.column)));
    for (cell, wanted) in order {
        for login in &logins[cell.who] {
            for (what, got) in asked(&hub, &proxy, &truth, cell, login.as_deref()).await {
                if got != *wanted {
                    let Cell { who, kind, .. } = cell;
                    let half = if cell.cached { "cached" } else { "cold" };
                    let how = login.as_deref().map_or("nothing", |l| &l[..6]);
                    let _ = writeln!(
                        wrong,
                        "{who} × {kind} × {half} × {} ({what}, presenting {how}): {got}, not {wanted}",
                        cell.column
                    );
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{mode:?}:\n{wrong}");
    assert!(hub.leaks().is_empty(), "a token went to the CDN");
}

/// The `Authorization` headers with which each of those asks: all of them must have the same effect.
async fn logins(proxy: &Proxy, mode: &Mode) -> BTreeMap<&'static str, Vec<Option<String>>> {
    let mut logins = BTreeMap::new();
    for who in WHO {
        let password = basic("any", &format!("hf_{who}"));
        let presented = match (mode, who) {
            (Mode::HuggingFace, "anonymous") => vec![None, bearer(proxy, None).await],
            (Mode::HuggingFace, _) => {
                let bearer = bearer(proxy, password.as_deref()).await;
                assert_eq!(bearer.is_none(), who == "wrong", "a token for {who}");
                let garbage = (who == "wrong").then(|| "Bearer hf_wrong".to_owned());
                vec![password, bearer.or(garbage)]
            }
            (_, "anonymous") => vec![None],
            (Mode::Htpasswd(_), "wrong") => vec![basic("wrong", "hf_other")],
            (Mode::Htpasswd(_), who) => vec![basic(who, &format!("hf_{who}"))],
            (Mode::Open | Mode::Public, _) => vec![password],
        };
        logins.insert(who, presented);
    }
    logins
}

/// Takes away what "revoked" had until now, and sees that it had it.
async fn revoke(
    hub: &Hub,
    proxy: &Proxy,
    mode: &Mode,
    logins: &BTreeMap<&'static str, Vec<Option<String>>>,
) {
    const PATH: &str = "/v2/org/private-revoked-cached/tags/list";
    let status = async |login: &Option<String>| {
        let headers: Vec<_> = login
            .iter()
            .map(|l| ("authorization", l.as_str()))
            .collect();
        proxy
            .send(Method::GET, PATH, &headers)
            .await
            .status()
            .as_u16()
    };
    if let Mode::HuggingFace | Mode::Htpasswd(_) = mode {
        for login in &logins["revoked"] {
            assert_eq!(status(login).await, 200, "before it is revoked");
        }
    }
    hub.edit(|world| world.revoke("hf_revoked"));
    if let Mode::Htpasswd(file) = mode {
        write_users(file, &["approved", "wrong"]);
        // The file is looked at once a second.
        let mut tries = 0;
        while status(&logins["revoked"][0]).await != 401 {
            tries += 1;
            assert!(
                tries < 500,
                "a user that was taken out of the file is let in"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

fn write_users(file: &Path, names: &[&str]) {
    let line = |name: &&str| {
        let hash = bcrypt::hash(format!("hf_{name}"), 4).expect("a hash");
        format!("{name}:{hash}\n")
    };
    let new: PathBuf = file.with_extension("new");
    std::fs::write(&new, names.iter().map(line).collect::<String>()).expect("a file");
    std::fs::rename(new, file).expect("a file");
}

/// Sends the requests of a cell. Gives what each was, and what came of it.
async fn asked(
    hub: &Hub,
    proxy: &Proxy,
    truth: &Truth,
    cell: &Cell,
    login: Option<&str>,
) -> Vec<(&'static str, String)> {
    let repo = cell.repo();
    let (index, layer) = &truth[&repo];
    let manifest = format!("/v2/{repo}/manifests");
    let blob = format!("/v2/{repo}/blobs/{layer}");
    let send = async |method: Method, path: &str, range: Option<&str>| {
        let mut headers = vec![("accept", "*/*")];
        headers.extend(login.map(|login| ("authorization", login)));
        headers.extend(range.map(|range| ("range", range)));
        let seen = method != Method::HEAD;
        result(proxy.send(method, path, &headers).await, seen).await
    };
    let (get, head) = (Method::GET, Method::HEAD);
    match cell.column {
        "manifest" => {
            let tag = send(get.clone(), &format!("{manifest}/v1"), None).await;
            let tag_head = send(head, &format!("{manifest}/v1"), None).await;
            let digest = send(get, &format!("{manifest}/{index}"), None).await;
            vec![
                ("GET", tag.clone()),
                ("HEAD", hidden(tag_head, &tag)),
                ("by digest", digest),
            ]
        }
        "blob" => {
            let whole = send(get, &blob, None).await;
            let headed = send(head, &blob, None).await;
            vec![("GET", whole.clone()), ("HEAD", hidden(headed, &whole))]
        }
        "tags" => vec![(
            "GET",
            send(get, &format!("/v2/{repo}/tags/list"), None).await,
        )],
        "range" => {
            let one = send(get.clone(), &blob, Some("bytes=0-1")).await;
            vec![
                ("one", one),
                ("two", send(get, &blob, Some("bytes=0-1,9-9")).await),
            ]
        }
        _ => {
            // The answer to whoever waits for a fill. In the right half somebody else's is under way, or the same one's.
            let headers: Vec<_> = login.iter().map(|l| ("authorization", *l)).collect();
            hub.pause();
            let response = proxy.send(get, &format!("{manifest}/main"), &headers).await;
            hub.resume();
            if response.status() != 200 {
                return vec![("GET", result(response, true).await)];
            }
            let whole = response.bytes().await.expect("what was begun is ended");
            assert!(whole.starts_with(INDEX_PREFIX));
            vec![("GET", "200".to_owned())]
        }
    }
}

/// A HEAD has no body that tells a 404 from another.
fn hidden(head: String, get: &str) -> String {
    match (&*head, get) {
        ("404?", "-" | "404") => get.to_owned(),
        _ => head,
    }
}

/// A status as the tables have it. What must come with it is checked here. `seen`: the answer has a body.
async fn result(response: Response, seen: bool) -> String {
    let status = response.status().as_u16();
    if status < 400 {
        // To its end: what was answered early is only then there for whoever asks next.
        return match response.bytes().await {
            Ok(_) => status.to_string(),
            Err(_) => format!("{status}, cut off"),
        };
    }
    let challenge = header(&response, "www-authenticate");
    assert_eq!(
        challenge.is_some(),
        status == 401,
        "a challenge with {status}"
    );
    if !seen {
        return match status {
            404 => "404?".to_owned(),
            _ => status.to_string(),
        };
    }
    let error = OciError::of(response).await;
    match (error.status, &*error.code) {
        (404, "BLOB_UNKNOWN" | "MANIFEST_UNKNOWN") => "-".to_owned(),
        (404, "NAME_UNKNOWN") | (401, "UNAUTHORIZED") | (403, "DENIED") => status.to_string(),
        _ => format!("{status} {}", error.code),
    }
}
