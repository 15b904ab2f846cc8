//! Failures as the distribution specification spells them: one place where a kind becomes a status and a code.

use std::time::Duration;

use bytes::Bytes;
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER};
use hyper::{Response, StatusCode};

use super::reply;
use crate::error::{Error, Kind};
use crate::server::Body;

/// Wait so long if a limit was hit and nobody said how long it lasts.
const DEFAULT_RETRY: Duration = Duration::from_secs(30);

/// The status and the OCI code of a kind of failure.
pub const fn status(kind: Kind) -> (StatusCode, &'static str) {
    match kind {
        Kind::NameInvalid => (StatusCode::BAD_REQUEST, "NAME_INVALID"),
        Kind::TagInvalid => (StatusCode::BAD_REQUEST, "TAG_INVALID"),
        Kind::DigestInvalid => (StatusCode::BAD_REQUEST, "DIGEST_INVALID"),
        Kind::Unauthorized => (StatusCode::UNAUTHORIZED, "UNAUTHORIZED"),
        Kind::Denied => (StatusCode::FORBIDDEN, "DENIED"),
        Kind::NameUnknown => (StatusCode::NOT_FOUND, "NAME_UNKNOWN"),
        Kind::ManifestUnknown => (StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN"),
        Kind::Offline => (StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN"),
        Kind::BlobUnknown => (StatusCode::NOT_FOUND, "BLOB_UNKNOWN"),
        Kind::ManifestInvalid => (StatusCode::UNPROCESSABLE_ENTITY, "MANIFEST_INVALID"),
        Kind::TooManyRequests(_) => (StatusCode::TOO_MANY_REQUESTS, "TOOMANYREQUESTS"),
        Kind::BadGateway | Kind::TokenRefused => (StatusCode::BAD_GATEWAY, "UNAVAILABLE"),
        Kind::GatewayTimeout => (StatusCode::GATEWAY_TIMEOUT, "UNAVAILABLE"),
        Kind::InsufficientStorage => (StatusCode::INSUFFICIENT_STORAGE, "UNAVAILABLE"),
        Kind::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "UNAVAILABLE"),
        Kind::Unsupported => (StatusCode::METHOD_NOT_ALLOWED, "UNSUPPORTED"),
        Kind::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "UNKNOWN"),
    }
}

/// The answer for a failure. Of an internal one the client only learns `request`, the number under which the log has the rest.
pub fn answer(error: &Error, request: u64) -> Response<Body> {
    let (status, code) = status(error.kind);
    let mut response = if error.kind == Kind::Internal {
        let message =
            format!("the registry failed; its log has the reason under request {request}");
        custom(status, code, &message)
    } else {
        custom(status, code, &error.message)
    };
    let headers = response.headers_mut();
    let retry = match error.kind {
        Kind::TooManyRequests(wait) => Some(wait.unwrap_or(DEFAULT_RETRY)),
        Kind::Unavailable => Some(DEFAULT_RETRY),
        _ => None,
    };
    if let Some(wait) = retry {
        headers.insert(RETRY_AFTER, seconds(wait).into());
    }
    if error.kind == Kind::Unsupported {
        headers.insert(ALLOW, reply::constant("GET, HEAD"));
    }
    response
}

/// An answer in the same shape for what has no kind, because only HTTP knows it.
pub fn custom(status: StatusCode, code: &str, message: &str) -> Response<Body> {
    let body = serde_json::json!({
        "errors": [{ "code": code, "message": message, "detail": null }]
    });
    let mut response = reply::full(status, Bytes::from(body.to_string()));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, reply::constant("application/json"));
    headers.insert(CACHE_CONTROL, reply::constant("no-store"));
    response
}

/// Whole seconds, rounded up, at least one.
fn seconds(wait: Duration) -> u64 {
    let whole = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
    whole.max(1)
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use hyper::header::CONTENT_LENGTH;
    use serde_json::Value;

    use super::*;

    async fn told(error: &Error) -> (Response<()>, Value) {
        let (head, body) = answer(error, 7).into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        assert_eq!(
            head.headers[CONTENT_LENGTH].to_str().unwrap(),
            body.len().to_string()
        );
        (
            Response::from_parts(head, ()),
            serde_json::from_slice(&body).unwrap(),
        )
    }

    #[tokio::test]
    async fn a_failure_has_the_specifications_shape() {
        let (head, body) = told(&Error::new(Kind::ManifestUnknown, "no \"x\" in org/m")).await;
        assert_eq!(head.status(), 404);
        assert_eq!(head.headers()[CONTENT_TYPE], "application/json");
        assert_eq!(
            body,
            serde_json::json!({"errors": [{"code": "MANIFEST_UNKNOWN", "message": "no \"x\" in org/m", "detail": null}]})
        );
    }

    #[tokio::test]
    async fn an_internal_failure_keeps_its_reason_to_the_log() {
        let (head, body) = told(&Error::new(Kind::Internal, "/srv/secret: EIO")).await;
        assert_eq!(head.status(), 500);
        let message = body["errors"][0]["message"].as_str().unwrap();
        assert!(!message.contains("secret") && message.contains("request 7"));
    }

    #[tokio::test]
    async fn a_limit_says_how_long_to_wait() {
        for (wait, header) in [
            (None, "30"),
            (Some(Duration::from_millis(1500)), "2"),
            (Some(Duration::ZERO), "1"),
        ] {
            let (head, _) = told(&Error::new(Kind::TooManyRequests(wait), "slow down")).await;
            assert_eq!(head.status(), 429);
            assert_eq!(head.headers()[RETRY_AFTER], header);
        }
    }

    #[tokio::test]
    async fn a_push_is_told_what_is_allowed() {
        let (head, _) = told(&Error::new(Kind::Unsupported, "pull only")).await;
        assert_eq!(
            (head.status(), &head.headers()[ALLOW]),
            (
                StatusCode::METHOD_NOT_ALLOWED,
                &reply::constant("GET, HEAD")
            )
        );
    }
}
