//! Getting blobs and manifests to a registry.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderName};
use reqwest::{Body, Method, StatusCode, Url};

use super::body::{Reading, Watch};
use super::error::PushError;
use super::http::{Registry, Scope, header};
use super::retry::retry;
use super::{Blob, How};
use crate::oci::Digest;

const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

impl Registry {
    /// Sees to it that a repository has a blob. It is taken from the repository `from`, if the registry can do that; else it is sent, and
    /// `sent` counts its bytes. What fails is begun anew, after a look whether it is there by now.
    pub(super) async fn blob(
        &self,
        repository: &str,
        blob: &Blob,
        from: Option<&str>,
        sent: &Arc<AtomicU64>,
    ) -> Result<How, PushError> {
        retry(&self.retries, || async {
            let plain = Scope {
                repository,
                from: None,
            };
            if self.has(blob, plain).await? {
                return Ok(How::Present);
            }
            let offered = match from {
                Some(_) => self.mount(blob, Scope { repository, from }).await?,
                None => Offer::Nothing,
            };
            let to = match offered {
                Offer::Mounted => return Ok(How::Mounted),
                Offer::Upload(to) => to,
                Offer::Nothing => self.begin(plain).await?,
            };
            let watch = Watch::new(sent, blob.size);
            let put = self.put(blob, &to, plain, &watch).await;
            if put.is_err() {
                watch.undo();
            }
            put.map(|()| How::Pushed)
        })
        .await
    }

    async fn has(&self, blob: &Blob, scope: Scope<'_>) -> Result<bool, PushError> {
        let url = self.url(scope.repository, &format!("blobs/{}", blob.digest));
        let Some(headers) = self.head(url, scope, None).await? else {
            return Ok(false);
        };
        // One that was cut short, of a registry whose disk was full, is sent again.
        let length = header(&headers, CONTENT_LENGTH).and_then(|text| text.parse::<u64>().ok());
        Ok(length.is_none_or(|length| length == blob.size))
    }

    async fn mount(&self, blob: &Blob, scope: Scope<'_>) -> Result<Offer, PushError> {
        let mut url = self.url(scope.repository, "blobs/uploads/");
        url.query_pairs_mut()
            .append_pair("mount", &blob.digest.to_string())
            .extend_pairs(scope.from.map(|from| ("from", from)));
        let answer = self.post(&url, scope).await?;
        Ok(match answer.status() {
            StatusCode::CREATED => Offer::Mounted,
            StatusCode::ACCEPTED => Offer::Upload(self.location(&url, &answer)?),
            // Registries that cannot do it say so in several ways.
            _ => Offer::Nothing,
        })
    }

    async fn begin(&self, scope: Scope<'_>) -> Result<Url, PushError> {
        let url = self.url(scope.repository, "blobs/uploads/");
        let answer = self.post(&url, scope).await?;
        match answer.status() {
            StatusCode::ACCEPTED => self.location(&url, &answer),
            _ => Err(self.refused(answer).await),
        }
    }

    async fn post(&self, url: &Url, scope: Scope<'_>) -> Result<reqwest::Response, PushError> {
        self.send(Method::POST, url, scope, None, |request| {
            request.header(CONTENT_LENGTH, 0)
        })
        .await
    }

    /// Sends a blob in one request: what was verified here is not put together from parts there.
    async fn put(
        &self,
        blob: &Blob,
        to: &Url,
        scope: Scope<'_>,
        watch: &Watch,
    ) -> Result<(), PushError> {
        let mut url = to.clone();
        url.query_pairs_mut()
            .append_pair("digest", &blob.digest.to_string());
        let answer = self
            .send(Method::PUT, &url, scope, Some(watch), |request| {
                request
                    .header(CONTENT_TYPE, "application/octet-stream")
                    .header(CONTENT_LENGTH, blob.size)
                    .body(Body::wrap(Reading::begin(blob, watch)))
            })
            .await?;
        if let Some(fault) = watch.fault() {
            return Err(fault);
        }
        match answer.status() {
            status if status.is_success() => Ok(()),
            _ => Err(self.refused(answer).await),
        }
    }

    /// Sees to it that a digest or tag of a repository means a manifest or index, and tells whether it had to be written.
    pub(super) async fn manifest(
        &self,
        repository: &str,
        reference: &str,
        media_type: &'static str,
        bytes: &[u8],
    ) -> Result<bool, PushError> {
        let scope = Scope {
            repository,
            from: None,
        };
        let url = self.url(repository, &format!("manifests/{reference}"));
        let digest = Digest::of(bytes).to_string();
        retry(&self.retries, || async {
            let found = self.head(url.clone(), scope, Some(media_type)).await?;
            let means = found
                .as_ref()
                .and_then(|headers| header(headers, CONTENT_DIGEST));
            if means == Some(&digest) || (found.is_some() && means.is_none() && reference == digest)
            {
                return Ok(false);
            }
            let answer = self
                .send(Method::PUT, &url, scope, None, |request| {
                    request
                        .header(CONTENT_TYPE, media_type)
                        .body(bytes.to_vec())
                })
                .await?;
            if !answer.status().is_success() {
                return Err(self.refused(answer).await);
            }
            let means = header(answer.headers(), CONTENT_DIGEST);
            match means.is_none_or(|means| means == digest) {
                true => Ok(true),
                false => Err(PushError::other(format!(
                    "the registry stores the manifest {digest} with other bytes than it got"
                ))),
            }
        })
        .await
    }
}

/// What a registry answers when it is asked to take a blob from another repository.
enum Offer {
    Mounted,
    /// It wants it sent, to there.
    Upload(Url),
    Nothing,
}
