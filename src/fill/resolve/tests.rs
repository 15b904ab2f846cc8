use std::ops::Range;
use std::sync::Arc;

use futures_util::future::BoxFuture;

use super::*;
use crate::fill::{FillSettings, Images};
use crate::hub::{Access, ByteStream, RemoteFile, Upstream};
use crate::repo::Snapshot;
use crate::store::Store;

/// An upstream that knows some commits and the branch `deadbeef`.
struct Known(Vec<&'static str>);

fn commit(text: &str) -> Commit {
    format!("{text:0<40}").parse().expect("a commit")
}

impl Upstream for Known {
    fn resolve<'a>(
        &'a self,
        repo: &'a RepoId,
        revision: Option<&'a str>,
    ) -> BoxFuture<'a, Result<Resolved, UpstreamError>> {
        let revision = revision.unwrap_or("main");
        let commit = match revision {
            "deadbeef" => Some(commit("9")),
            sha => sha.parse().ok(),
        };
        let answer = commit.map(|commit| Resolved {
            repo: repo.clone(),
            commit,
            private: false,
            gated: false,
        });
        Box::pin(async move {
            answer.ok_or_else(|| UpstreamError::RevisionUnknown {
                repo: repo.clone(),
                revision: revision.to_owned(),
            })
        })
    }

    fn access<'a>(&'a self, _: &'a RepoId) -> BoxFuture<'a, Result<Access, UpstreamError>> {
        Box::pin(async { Ok(Access::Granted) })
    }

    fn refs<'a>(&'a self, _: &'a RepoId) -> BoxFuture<'a, Result<Refs, UpstreamError>> {
        Box::pin(async { Ok(Refs::default()) })
    }

    fn commits<'a>(
        &'a self,
        _: &'a RepoId,
        prefix: &'a str,
    ) -> BoxFuture<'a, Result<Vec<Commit>, UpstreamError>> {
        let fits = self
            .0
            .iter()
            .map(|c| commit(c))
            .filter(|c| c.to_string().starts_with(prefix));
        let fits = fits.collect();
        Box::pin(async { Ok(fits) })
    }

    fn snapshot<'a>(
        &'a self,
        _: &'a RepoId,
        _: Commit,
    ) -> BoxFuture<'a, Result<Snapshot, UpstreamError>> {
        Box::pin(async { Err(UpstreamError::Unavailable("not of this test".into())) })
    }

    fn read<'a>(
        &'a self,
        _: &'a RemoteFile,
        _: Range<u64>,
    ) -> BoxFuture<'a, Result<ByteStream, UpstreamError>> {
        Box::pin(async { Err(UpstreamError::Unavailable("not of this test".into())) })
    }
}

async fn meaning_of(tag: &str) -> Result<Commit, Error> {
    let folder = tempfile::tempdir().expect("a folder");
    let store = Arc::new(Store::open(folder.path()).expect("a store"));
    let upstream = Known(vec!["aaaaaaaa1", "aaaaaaaa2", "bbbbbbbb"]);
    let images = Images::new(Arc::new(upstream), store, FillSettings::default());
    let name = ImageName::parse("org/m").expect("a name");
    let (head, _) = images
        .heads
        .head(&images.own(), &name, &tag.parse().expect("a tag"))
        .await?;
    Ok(head.commit)
}

#[tokio::test]
async fn the_unique_beginning_of_a_commit_means_it() {
    assert_eq!(
        meaning_of("bbbbbbbb").await.expect("one"),
        commit("bbbbbbbb")
    );
    assert_eq!(
        meaning_of("AAAAAAAA2").await.expect("one"),
        commit("aaaaaaaa2")
    );
}

#[tokio::test]
async fn a_beginning_of_several_commits_is_ambiguous_and_names_them() {
    let error = meaning_of("aaaaaaaa").await.expect_err("two");
    assert_eq!(error.kind, Kind::ManifestUnknown);
    for sha in ["aaaaaaaa1", "aaaaaaaa2"] {
        assert!(
            error.message.contains(&commit(sha).to_string()),
            "{}",
            error.message
        );
    }
}

#[tokio::test]
async fn hex_digits_that_begin_no_commit_may_be_a_branch() {
    assert_eq!(meaning_of("deadbeef").await.expect("a branch"), commit("9"));
}

#[tokio::test]
async fn seven_digits_are_no_beginning_of_a_commit() {
    assert!(meaning_of("bbbbbbb").await.is_err());
}
