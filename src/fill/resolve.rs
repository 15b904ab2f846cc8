//! Freshness: what a tag means now, how long that is believed, and what stands in when the upstream does not answer.

mod doubts;

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use moka::Expiry;
use moka::future::Cache;

pub(super) use self::doubts::Doubts;
use super::{Asker, Credential, Outcome, Rules, Shared};
use crate::error::{Error, Kind};
use crate::hub::{Refs, Resolved, UpstreamError};
use crate::image::{ImageName, Quantisation};
use crate::oci::Tag;
use crate::repo::{Commit, RepoId, RepoKind, Visibility};
use crate::store::{ImageKey, Reference};

/// How long a stale answer is given before the upstream is tried again.
const STALE: Duration = Duration::from_secs(30);

/// How long "there is no such thing" is believed.
const NEGATIVE: Duration = Duration::from_secs(5);

/// How long a commit is believed to be one of its repository.
const COMMIT: Duration = Duration::from_secs(24 * 3600);

/// The most answers that are remembered.
const CAPACITY: u64 = 100_000;

/// The most revisions that an error message lists.
const SHOWN: usize = 12;

/// What a tag means.
#[derive(Debug, Clone)]
pub(super) struct Head {
    /// The repository in its canonical spelling.
    pub repo: RepoId,
    /// The commit.
    pub commit: Commit,
    /// Whether the content is only for those whom the owner let in.
    pub gated: bool,
    /// Who may read it; during an outage, who might when that was last known.
    pub visibility: Visibility,
    /// Why the upstream was not heard, if this is only what was known before.
    pub outage: Option<Error>,
    /// Whether it can never mean another commit.
    fixed: bool,
    /// The quantisation that the tag means, of this commit.
    quantisation: Option<Quantisation>,
    /// How the tag is noted, if it is not spelled so.
    spelled: Option<Tag>,
    /// The last known image, if that is what is told.
    known: Option<(ImageKey, Reference)>,
}

impl Head {
    /// The tag under which the image is noted: a commit by its 40 digits, however it was spelled, so that spellings do not pile up.
    /// A quantisation is noted in lower case, for the same reason.
    pub(super) fn noted(&self, tag: &Tag) -> Tag {
        if let Some(spelled) = &self.spelled {
            return spelled.clone();
        }
        let commit = self.commit.to_string();
        let begins = is_hex(tag.as_str()) && commit.starts_with(&tag.as_str().to_ascii_lowercase());
        let noted = if begins { commit.parse().ok() } else { None };
        noted.unwrap_or_else(|| tag.clone())
    }

    /// What the tag was last noted to mean, if that is what is told.
    pub(super) fn known(&self) -> Option<&Reference> {
        self.known.as_ref().map(|(_, reference)| reference)
    }

    /// The key of the image that is meant.
    pub(super) fn key(&self, shared: &Shared, name: &ImageName) -> ImageKey {
        let known = self.known.as_ref().map(|(key, _)| key.clone());
        known.unwrap_or_else(|| shared.key(name, self.quantisation.clone(), self.commit))
    }
}

type Answer = Result<Head, Error>;

/// An answer, and when it was asked for.
type Told = (Instant, Answer);

/// What is asked, and with which credential: an answer is for those who ask with the same.
type Question = (Option<Credential>, ImageName, Tag);

/// What tags mean, remembered.
pub(super) struct Heads {
    shared: Arc<Shared>,
    cache: Cache<Question, Told>,
}

/// Tags for their time to live, commits for long, "no" for seconds, failures not at all.
struct Ttl {
    tag: Duration,
    rules: Arc<Rules>,
}

impl Expiry<Question, Told> for Ttl {
    fn expire_after_create(
        &self,
        (_, name, _): &Question,
        (_, answer): &Told,
        _: Instant,
    ) -> Option<Duration> {
        let rule = self.rules.of(name.repo());
        let tag = rule.and_then(|rule| rule.ttl).unwrap_or(self.tag);
        Some(match answer {
            Ok(head) if head.outage.is_some() => STALE.min(tag),
            Ok(head) if head.fixed => COMMIT,
            Ok(_) => tag,
            Err(error) => match error.kind {
                Kind::NameUnknown | Kind::ManifestUnknown | Kind::Denied | Kind::Offline => {
                    NEGATIVE
                }
                _ => Duration::ZERO,
            },
        })
    }
}

impl Heads {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let ttl = Ttl {
            tag: shared.settings.tag_ttl,
            rules: Arc::clone(&shared.settings.rules),
        };
        Self {
            shared,
            cache: Cache::builder()
                .max_capacity(CAPACITY)
                .expire_after(ttl)
                .build(),
        }
    }

    /// Has what `tag` of `name` means asked for anew.
    pub(super) async fn ask_again(&self, asker: &Asker, name: &ImageName, tag: &Tag) {
        let key = (asker.credential, name.clone(), tag.clone());
        self.cache.invalidate(&key).await;
    }

    /// Asks again for everything.
    pub(super) fn forget(&self) {
        self.cache.invalidate_all();
    }

    /// What `tag` of `name` means. Requests that ask the same at once are one question to the upstream. What is remembered is asked again if
    /// a fill found out since that it is true no longer.
    pub(super) async fn head(
        &self,
        asker: &Asker,
        name: &ImageName,
        tag: &Tag,
    ) -> Result<(Head, Outcome), Error> {
        let key = (asker.credential, name.clone(), tag.clone());
        let (mut fresh, (at, mut answer)) = self.entry(asker, key.clone()).await;
        if let Ok(head) = &answer
            && self.shared.doubts.has(&head.repo, head.commit, at)
        {
            self.cache.invalidate(&key).await;
            (fresh, (_, answer)) = self.entry(asker, key).await;
        }
        let head = answer?;
        let outcome = match (&head.outage, fresh) {
            (Some(_), _) => Outcome::Stale,
            (None, true) => Outcome::Revalidated,
            (None, false) => Outcome::Hit,
        };
        Ok((head, outcome))
    }

    /// What is remembered, or is asked for now: whether it is that, and the answer.
    async fn entry(&self, asker: &Asker, key: Question) -> (bool, Told) {
        let (_, name, tag) = key.clone();
        let at = Instant::now();
        let shared = self.shared.on_behalf(asker);
        let asked = ask(shared, asker.has_credential(), name, tag);
        let told = asked.map(|answer| (at, answer));
        let entry = self.cache.entry(key).or_insert_with(told).await;
        (entry.is_fresh(), entry.into_value())
    }
}

/// Asks the upstream, or lets the last known image stand in. `personal`: with a credential that is not the server's.
async fn ask(shared: Arc<Shared>, personal: bool, name: ImageName, tag: Tag) -> Answer {
    let known = shared.store.reference(&name, &tag);
    let asked = meaning(&shared, &name, &tag);
    let Some(known) = known else {
        return match asked.await {
            Err(error) if error.kind == Kind::Offline => offline(&shared, &name, &tag),
            answer => answer,
        };
    };
    let limit = shared.settings.revalidate;
    let outage = match tokio::time::timeout(limit, asked).await {
        // That the server's own token is refused is the server's trouble; that a client's is, is the client's.
        Ok(Err(error)) if is_outage(&error) || (error.kind == Kind::TokenRefused && !personal) => {
            error
        }
        Ok(answer) => return answer,
        Err(_) => Error::new(
            Kind::GatewayTimeout,
            format!("the upstream did not answer within {} s", limit.as_secs()),
        ),
    };
    let outage = match outage.kind {
        Kind::Offline => missing(&shared, &name, &tag),
        _ => {
            tracing::warn!(%name, %tag, commit = %known.commit, error = %outage, outcome = "stale", "serving the last known image");
            outage
        }
    };
    Ok(Head {
        quantisation: None,
        spelled: None,
        repo: known.repo.clone(),
        commit: known.commit,
        gated: false,
        visibility: last_known(&shared, &name),
        outage: Some(outage),
        fixed: false,
        known: known.key().map(|key| (key, known)),
    })
}

/// Who might read a repository when that was last known. What is not known is private.
fn last_known(shared: &Shared, name: &ImageName) -> Visibility {
    let known = shared.store.visibility(name.repo());
    known.unwrap_or(Visibility::Private)
}

pub(super) const fn is_outage(error: &Error) -> bool {
    matches!(
        error.kind,
        Kind::BadGateway | Kind::GatewayTimeout | Kind::TooManyRequests(_) | Kind::Offline
    )
}

/// What a tag that was never pulled means offline: a commit that it is or begins, if images of that are here.
fn offline(shared: &Shared, name: &ImageName, tag: &Tag) -> Answer {
    let repo = name.repo();
    let missing = missing(shared, name, tag);
    let prefix = tag.as_str().to_ascii_lowercase();
    let known = shared.store.known_commits(repo).into_iter();
    let mut commits = known.filter(|c| is_hex(&prefix) && c.to_string().starts_with(&prefix));
    match (commits.next(), commits.next()) {
        (Some(commit), None) => Ok(Head {
            known: None,
            quantisation: None,
            spelled: None,
            repo: repo.clone(),
            commit,
            gated: false,
            visibility: last_known(shared, name),
            outage: Some(missing),
            fixed: false,
        }),
        _ => Err(missing),
    }
}

/// Says what is not here, and what is.
fn missing(shared: &Shared, name: &ImageName, tag: &Tag) -> Error {
    let tags = shared.store.known_tags(name.repo());
    let shown: Vec<&str> = tags.iter().map(String::as_str).take(SHOWN).collect();
    let known = match shown.as_slice() {
        [] => format!("nothing of {} is here", name.repo()),
        shown => format!("of {} it has {}", name.repo(), shown.join(", ")),
    };
    Error::new(
        Kind::Offline,
        format!(
            "the server is offline and does not have {name}:{tag}; pull it while online or import it ({known})"
        ),
    )
}

/// Whether a text may be a commit or the beginning of one.
fn is_hex(text: &str) -> bool {
    (8..=40).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// The order of the grammar: the default branch, a commit or the unique beginning of one, a branch or tag of exactly this name, the same
/// with `--` read as `/`, a quantisation of the default branch.
async fn meaning(shared: &Shared, name: &ImageName, tag: &Tag) -> Answer {
    let repo = name.repo();
    let upstream = &shared.upstream;
    let text = tag.as_str();
    if text == "latest" {
        return Ok(head(upstream.resolve(repo, None).await?, false));
    }
    if let Ok(commit) = text.parse::<Commit>() {
        let revision = commit.to_string();
        let resolved = upstream.resolve(repo, Some(&revision)).await?;
        // An upstream that has a part of the commit gives what stands for that now.
        let fixed = resolved.commit == commit;
        return Ok(head(resolved, fixed));
    }
    if let Some(commit) = by_prefix(shared, repo, text).await? {
        let revision = commit.to_string();
        return Ok(head(upstream.resolve(repo, Some(&revision)).await?, false));
    }
    let mut tried = Vec::new();
    let slashed = text.contains("--").then(|| text.replace("--", "/"));
    let quantisation = match repo.kind() {
        RepoKind::Model => text.parse::<Quantisation>().ok(),
        RepoKind::Dataset | RepoKind::Space => None,
    };
    // A branch that is called as the quantisation is noted would be noted as that.
    let lower = quantisation.as_ref().map(|q| q.as_str().to_owned());
    let lower = lower.filter(|lower| lower != text);
    for revision in std::iter::once(text.to_owned()).chain(slashed).chain(lower) {
        match upstream.resolve(repo, Some(&revision)).await {
            Ok(resolved) => {
                let is_lower = revision.eq_ignore_ascii_case(text) && revision != text;
                return Ok(Head {
                    spelled: is_lower.then(|| revision.parse().ok()).flatten(),
                    ..head(resolved, false)
                });
            }
            Err(UpstreamError::RevisionUnknown { .. }) => tried.push(format!("'{revision}'")),
            Err(error) => return Err(error.into()),
        }
    }
    if let Some(quantisation) = quantisation {
        // Whether it exists, the listing tells whoever fills.
        return Ok(Head {
            spelled: quantisation.as_str().parse().ok(),
            quantisation: Some(quantisation),
            ..head(upstream.resolve(repo, None).await?, false)
        });
    }
    Err(unknown(shared, repo, text, &tried).await)
}

fn head(resolved: Resolved, fixed: bool) -> Head {
    Head {
        visibility: resolved.visibility(),
        repo: resolved.repo,
        commit: resolved.commit,
        gated: resolved.gated,
        outage: None,
        fixed,
        quantisation: None,
        spelled: None,
        known: None,
    }
}

/// The one commit that 8 to 39 hex digits begin, if there is one; several are an error.
async fn by_prefix(shared: &Shared, repo: &RepoId, text: &str) -> Result<Option<Commit>, Error> {
    if !is_hex(text) || text.len() == 40 {
        return Ok(None);
    }
    let prefix = text.to_ascii_lowercase();
    let mut commits = shared.upstream.commits(repo, &prefix).await?;
    let known = shared.store.known_commits(repo).into_iter();
    commits.extend(known.filter(|c| c.to_string().starts_with(&prefix)));
    commits.sort_unstable();
    commits.dedup();
    match commits.as_slice() {
        [] => Ok(None),
        [one] => Ok(Some(*one)),
        several => {
            let several: Vec<String> = several.iter().take(SHOWN).map(Commit::to_string).collect();
            Err(Error::new(
                Kind::ManifestUnknown,
                format!(
                    "'{text}' is the beginning of several commits of {repo}: {}; give more digits",
                    several.join(", ")
                ),
            ))
        }
    }
}

/// Says what was tried and what exists.
async fn unknown(shared: &Shared, repo: &RepoId, tag: &str, tried: &[String]) -> Error {
    let refs = shared.upstream.refs(repo).await.unwrap_or_default();
    Error::new(
        Kind::ManifestUnknown,
        format!(
            "{repo} has no revision for the tag '{tag}': tried a branch or tag {}; it has {}",
            tried.join(" and "),
            listed(&refs)
        ),
    )
}

/// The names of some revisions, clipped.
fn listed(refs: &Refs) -> String {
    let names: Vec<&str> = refs
        .branches
        .iter()
        .chain(&refs.tags)
        .map(|(name, _)| name.as_str())
        .collect();
    let shown = names
        .iter()
        .take(SHOWN)
        .copied()
        .collect::<Vec<_>>()
        .join(", ");
    match names.len() {
        0 => "no listed branches or tags".to_owned(),
        n if n > SHOWN => format!("{shown} and {} more", n - SHOWN),
        _ => shown,
    }
}

#[cfg(test)]
mod tests;
