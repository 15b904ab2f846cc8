//! From a method and a path to what is asked. Pure.
//!
//! A name may have components such as `manifests`, `blobs` or `tags` (they are paths in a repository), so a path is read from its right
//! end. It is percent-decoded once, as a whole; queries are not looked at here.

use std::borrow::Cow;

use hyper::Method;
use percent_encoding::percent_decode_str;

use crate::error::{Error, Kind};
use crate::image::ImageName;
use crate::oci::{Digest, Reference, ReferenceError};

/// What a GET or HEAD asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// `/`: for people.
    Home,
    /// `/healthz`
    Health,
    /// `/token`: where logins become tokens.
    Token,
    /// `/v2/`
    Base,
    /// `/v2/_catalog`
    Catalog,
    /// `/v2/NAME/manifests/REFERENCE`
    Manifest(ImageName, Reference),
    /// `/v2/NAME/blobs/DIGEST`
    Blob(ImageName, Digest),
    /// `/v2/NAME/tags/list`
    Tags(ImageName),
    /// `/v2/NAME/referrers/DIGEST`
    Referrers(ImageName, Digest),
}

/// Why a request has no route.
#[derive(Debug)]
pub enum Refusal {
    /// No such path: 404.
    Path,
    /// Something is there, but only to read: 405.
    Method,
    /// The name, tag or digest breaks its grammar.
    Invalid(Error),
}

/// Reads the path of a request, without its query.
pub fn route(method: &Method, path: &str) -> Result<Route, Refusal> {
    let read = matches!(*method, Method::GET | Method::HEAD);
    let path = decode(path)?;
    let route = match path.as_ref() {
        "/" => Route::Home,
        "/healthz" => Route::Health,
        "/token" => Route::Token,
        "/v2" | "/v2/" => Route::Base,
        "/v2/_catalog" => Route::Catalog,
        other => {
            let rest = other.strip_prefix("/v2/").ok_or(Refusal::Path)?;
            // Before the name is read: whoever pushes is told that there is no pushing, whatever the name.
            if !read {
                return Err(Refusal::Method);
            }
            return repository(rest);
        }
    };
    // A login may come as a form.
    if read || (route == Route::Token && *method == Method::POST) {
        Ok(route)
    } else {
        Err(Refusal::Method)
    }
}

fn decode(path: &str) -> Result<Cow<'_, str>, Refusal> {
    percent_decode_str(path)
        .decode_utf8()
        .map_err(|_| invalid(Kind::NameInvalid, "the path of the request is not UTF-8"))
}

/// Reads what stands behind `/v2/`, from the right.
fn repository(rest: &str) -> Result<Route, Refusal> {
    let mut parts = rest.rsplitn(3, '/');
    let (Some(last), Some(verb), Some(name)) = (parts.next(), parts.next(), parts.next()) else {
        return Err(Refusal::Path);
    };
    match (verb, last) {
        ("tags", "list") => Ok(Route::Tags(parse_name(name)?)),
        ("blobs", "uploads") | ("uploads", _) if is_upload(name, verb) => Err(Refusal::Method),
        ("manifests", text) => {
            let name = parse_name(name)?;
            Ok(Route::Manifest(name, parse_reference(text)?))
        }
        ("blobs", text) => {
            let name = parse_name(name)?;
            Ok(Route::Blob(name, parse_digest(text)?))
        }
        ("referrers", text) => {
            let name = parse_name(name)?;
            Ok(Route::Referrers(name, parse_digest(text)?))
        }
        _ => Err(Refusal::Path),
    }
}

/// `NAME/blobs/uploads`, `NAME/blobs/uploads/` and `NAME/blobs/uploads/SESSION`, given what stands left of the last two parts.
fn is_upload(name: &str, verb: &str) -> bool {
    verb == "blobs" || name.ends_with("/blobs")
}

fn parse_name(text: &str) -> Result<ImageName, Refusal> {
    ImageName::parse(text).map_err(|e| invalid(Kind::NameInvalid, e))
}

fn parse_digest(text: &str) -> Result<Digest, Refusal> {
    text.parse().map_err(|e| invalid(Kind::DigestInvalid, e))
}

fn parse_reference(text: &str) -> Result<Reference, Refusal> {
    text.parse().map_err(|e| match e {
        ReferenceError::Digest(e) => invalid(Kind::DigestInvalid, e),
        ReferenceError::Tag(_) => invalid(Kind::TagInvalid, e),
    })
}

fn invalid(kind: Kind, why: impl ToString) -> Refusal {
    Refusal::Invalid(Error::new(kind, why.to_string()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn get(path: &str) -> Result<Route, Refusal> {
        route(&Method::GET, path)
    }

    /// The outcome in one line: the route with its parts, or the refusal.
    fn told(path: &str) -> String {
        match get(path) {
            Ok(Route::Manifest(n, Reference::Tag(t))) => format!("manifest {n} tag {t}"),
            Ok(Route::Manifest(n, Reference::Digest(_))) => format!("manifest {n} digest"),
            Ok(Route::Blob(n, _)) => format!("blob {n}"),
            Ok(Route::Tags(n)) => format!("tags {n}"),
            Ok(Route::Referrers(n, _)) => format!("referrers {n}"),
            Ok(other) => format!("{other:?}"),
            Err(Refusal::Path) => "404".into(),
            Err(Refusal::Method) => "405".into(),
            Err(Refusal::Invalid(e)) => format!("{:?}", e.kind),
        }
    }

    fn digest() -> Digest {
        Digest::of(b"x")
    }

    #[test]
    fn the_fixed_paths_are_known() {
        assert_eq!(told("/"), "Home");
        assert_eq!(told("/healthz"), "Health");
        assert_eq!(told("/v2"), "Base");
        assert_eq!(told("/v2/"), "Base");
        assert_eq!(told("/v2/_catalog"), "Catalog");
    }

    #[test]
    fn the_paths_of_a_repository_are_known() {
        let d = digest();
        assert_eq!(
            told("/v2/org/model/manifests/latest"),
            "manifest org/model tag latest"
        );
        assert_eq!(
            told(&format!("/v2/gpt2/manifests/{d}")),
            "manifest gpt2 digest"
        );
        assert_eq!(
            told(&format!("/v2/datasets/squad/blobs/{d}")),
            "blob datasets/squad"
        );
        assert_eq!(told("/v2/org/model/tags/list"), "tags org/model");
        assert_eq!(
            told(&format!("/v2/org/model/referrers/{d}")),
            "referrers org/model"
        );
    }

    #[test]
    fn names_may_have_the_protocols_own_words_as_components() {
        let d = digest();
        for name in [
            "org/m/manifests",
            "org/m/blobs/uploads",
            "org/m/tags/list",
            "org/m/referrers/x/blobs",
            "manifests/blobs/tags",
            "v2/v2/v2",
        ] {
            assert_eq!(
                told(&format!("/v2/{name}/manifests/list")),
                format!("manifest {name} tag list")
            );
            assert_eq!(
                told(&format!("/v2/{name}/blobs/{d}")),
                format!("blob {name}")
            );
            assert_eq!(
                told(&format!("/v2/{name}/tags/list")),
                format!("tags {name}")
            );
        }
    }

    #[test]
    fn a_path_is_percent_decoded_once() {
        let d = digest().to_string();
        assert_eq!(
            told("/v2/org%2Fmodel/manifests/v1%2E0"),
            "manifest org/model tag v1.0"
        );
        assert_eq!(
            told(&format!("/v2/org/model/blobs/{}", d.replace(':', "%3A"))),
            "blob org/model"
        );
        assert_eq!(told("/v2/org%252Fmodel/manifests/x"), "NameInvalid");
        assert_eq!(told("/v2/org/%FF/manifests/x"), "NameInvalid");
    }

    #[test]
    fn bad_names_tags_and_digests_are_told_apart() {
        assert_eq!(told("/v2/Org/Model/manifests/latest"), "NameInvalid");
        assert_eq!(told("/v2//org/manifests/latest"), "NameInvalid");
        assert_eq!(told("/v2/org/../manifests/latest"), "NameInvalid");
        assert_eq!(told("/v2/org/m/manifests/.latest"), "TagInvalid");
        assert_eq!(told("/v2/org/m/manifests/"), "TagInvalid");
        assert_eq!(
            told(&format!("/v2/org/m/manifests/{}", "a".repeat(129))),
            "TagInvalid"
        );
        assert_eq!(told("/v2/org/m/manifests/sha256:12"), "DigestInvalid");
        assert_eq!(told("/v2/org/m/blobs/latest"), "DigestInvalid");
        assert_eq!(told("/v2/org/m/referrers/x"), "DigestInvalid");
    }

    #[test]
    fn other_paths_are_not_found() {
        for path in [
            "/v1/",
            "/v2x",
            "/v2/org",
            "/v2/org/model",
            "/v2/manifests/latest",
            "/v2/org/model/tags",
            "/v2/org/model/tags/list/",
            "/v2/org/model/tags/all",
            "/v2/_catalog/",
            "/healthz/",
            "/favicon.ico",
            "",
        ] {
            assert_eq!(told(path), "404", "{path}");
        }
    }

    #[test]
    fn pushes_are_told_that_there_is_only_pulling() {
        for path in [
            "/v2/org/m/blobs/uploads",
            "/v2/org/m/blobs/uploads/",
            "/v2/org/m/blobs/uploads/some-id",
        ] {
            assert_eq!(told(path), "405", "{path}");
        }
        for method in [Method::POST, Method::PUT, Method::PATCH, Method::DELETE] {
            for path in [
                "/v2/",
                "/v2/org/m/blobs/uploads/",
                "/v2/Any/NAME/manifests/x",
                "/healthz",
                "/",
            ] {
                assert!(
                    matches!(route(&method, path), Err(Refusal::Method)),
                    "{method} {path}"
                );
            }
            assert!(matches!(route(&method, "/other"), Err(Refusal::Path)));
        }
        assert!(get("/v2/org/m/tags/list").is_ok());
        assert!(route(&Method::HEAD, "/v2/org/m/tags/list").is_ok());
    }

    proptest! {
        #[test]
        fn no_path_makes_the_router_panic(path in ".{0,120}") {
            let _ = get(&path);
            let _ = get(&format!("/v2/{path}"));
        }

        #[test]
        fn every_valid_name_and_tag_come_back(name in "[a-z0-9]{1,8}(/[a-z0-9]{1,8}){0,4}", tag in "[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}") {
            let path = format!("/v2/{name}/manifests/{tag}");
            if ImageName::parse(&name).is_ok() {
                prop_assert_eq!(told(&path), format!("manifest {name} tag {tag}"));
            }
        }
    }
}
