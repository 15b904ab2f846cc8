//! Content on the Hub's side: where a file is, and the small ones that the Hub serves itself.

use super::access;
use super::answer::Answer;
use super::api::{self, Call};
use super::routes::Named;
use super::world::{Commit, Entry};

type Outcome = Result<Answer, Box<Answer>>;

impl Call<'_> {
    /// `/{id}/resolve/{rev}/{path}`: a redirect that carries the file's metadata.
    ///
    /// `sign` gives the URL of a file in LFS.
    pub fn resolve(
        &self,
        named: &Named,
        revision: &str,
        path: &str,
        sign: impl FnOnce(&str, &Entry) -> String,
    ) -> Outcome {
        let repo = access::visible(self.world, self.viewer, named.kind, &named.id, false)?;
        access::readable(self.viewer, repo)?;
        let commit = access::revision(repo, revision)?;
        let entry = entry(commit, path)?;
        if entry.lfs {
            let url = sign(&format!("{}/{path}", repo.key()), entry);
            let answer = metadata(Answer::redirect(302, &url), commit, entry);
            let xet = api::xet_hash(self.world.options.xet, entry);
            return Ok(match xet {
                Some(hash) => answer.with("x-xet-hash", hash),
                None => answer,
            });
        }
        let oid = entry.content.blob_id();
        let location = api::cache_path(repo, &commit.id, revision, path, oid);
        Ok(metadata(Answer::redirect(307, &location), commit, entry))
    }

    /// `/api/resolve-cache/…`: the bytes of a git file.
    pub fn resolve_cache(&self, named: &Named, commit: &str, path: &str) -> Outcome {
        let repo = access::visible(self.world, self.viewer, named.kind, &named.id, false)?;
        access::readable(self.viewer, repo)?;
        let commit = access::revision(repo, commit)?;
        let entry = entry(commit, path)?;
        if entry.lfs {
            return Err(access::no_entry(commit));
        }
        let answer = Answer::file(entry.content.clone())
            .with("etag", format!("\"{}\"", entry.content.blob_id()))
            .with("x-repo-commit", &commit.id)
            .with("content-type", content_type(path))
            .with("content-disposition", "inline");
        Ok(answer)
    }
}

fn entry<'a>(commit: &'a Commit, path: &str) -> Result<&'a Entry, Box<Answer>> {
    commit
        .files
        .get(path)
        .ok_or_else(|| access::no_entry(commit))
}

/// What only the Hub's own hop tells.
fn metadata(answer: Answer, commit: &Commit, entry: &Entry) -> Answer {
    let etag = match entry.lfs {
        true => entry.content.sha256(),
        false => entry.content.blob_id(),
    };
    answer
        .with("x-repo-commit", &commit.id)
        .with("accept-ranges", "bytes")
        .with("x-linked-size", entry.content.size().to_string())
        .with("x-linked-etag", format!("\"{etag}\""))
}

fn content_type(path: &str) -> &'static str {
    match path.rsplit_once('.').map(|(_, ext)| ext) {
        Some("json") => "application/json; charset=utf-8",
        Some("md" | "txt" | "py" | "yaml" | "yml" | "csv") => "text/plain; charset=utf-8",
        None => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    }
}
