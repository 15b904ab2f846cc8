use std::collections::HashMap;

use serde_json::{Value, json};

use super::*;
use crate::image::{Selection, Subject, documents};
use crate::layer::Sealed;

/// Documents by their digests, of which a hostile hand changes some.
struct Bundle {
    listed: Listed,
    documents: HashMap<Digest, Vec<u8>>,
}

const COMMIT: &str = "0123456789012345678901234567890123456789";

fn bundle() -> Bundle {
    let sealed = Sealed {
        digest: Digest::of(b"blob"),
        size: 4,
        diff_id: Digest::of(b"diff"),
        toc: Digest::of(b"toc"),
        uncompressed: 9,
    };
    let subject = Subject {
        repo: "Org/Model".parse().expect("an id"),
        commit: COMMIT.parse().expect("a commit"),
        path: "sub".into(),
        license: Some("mit".into()),
        restricted: Vec::new(),
    };
    let layers = [LayerRecord::new(&sealed, Digest::of(b"recipe"))];
    let all = documents(&subject, &layers).expect("JSON");
    Bundle {
        listed: Listed {
            name: Some(ImageName::parse("org/model/sub").expect("a name")),
            tag: Some("main".parse().expect("a tag")),
            top: all[18].descriptor.clone(),
            claims: Some(Claims {
                repo: subject.repo,
                commit: subject.commit,
                layout: Layout::Split,
                selection: Selection::default(),
                visibility: None,
            }),
        },
        documents: all
            .into_iter()
            .map(|d| (d.descriptor.digest, d.bytes))
            .collect(),
    }
}

impl Bundle {
    fn check(&self) -> Result<Checked, Refusal> {
        check(&self.listed, &mut |digest| {
            let found = self.documents.get(digest).cloned();
            found.ok_or_else(|| Refusal::new(digest.to_string(), "is missing"))
        })
    }

    fn value(&self, digest: &Digest) -> Value {
        serde_json::from_slice(&self.documents[digest]).expect("JSON")
    }

    /// Puts a document, as this program writes it if it can be understood; gives its descriptor's changed part.
    fn put<T: DeserializeOwned + Serialize>(&mut self, value: &Value) -> (Digest, usize) {
        let text = value.to_string();
        let typed: Option<T> = serde_json::from_str(&text).ok();
        let bytes = typed.map_or(text.into_bytes(), |t| serde_json::to_vec(&t).expect("JSON"));
        let (digest, length) = (Digest::of(&bytes), bytes.len());
        self.documents.insert(digest, bytes);
        (digest, length)
    }

    /// Changes the first manifest, and all that leads to it.
    fn with_manifest(mut self, change: impl FnOnce(&mut Self, &mut Value)) -> Self {
        let mut index = self.value(&self.listed.top.digest);
        let first = index["manifests"][0]["digest"].as_str().expect("a digest");
        let mut manifest = self.value(&first.parse().expect("a digest"));
        change(&mut self, &mut manifest);
        let (digest, size) = self.put::<Manifest>(&manifest);
        index["manifests"][0]["digest"] = json!(digest);
        index["manifests"][0]["size"] = json!(size);
        self.with_index(|to| *to = index)
    }

    fn with_index(mut self, change: impl FnOnce(&mut Value)) -> Self {
        let mut index = self.value(&self.listed.top.digest);
        change(&mut index);
        let (digest, size) = self.put::<Index>(&index);
        self.listed.top.digest = digest;
        self.listed.top.size = size as u64;
        self
    }

    fn refused(&self, part: &str) {
        let checked = self.check().map(|checked| checked.index);
        let why = checked.expect_err(part).to_string();
        assert!(why.contains(part), "{why}");
    }
}

#[test]
fn an_image_is_followed_to_all_of_its_blobs() {
    let bundle = bundle();
    let checked = bundle.check().expect("an image");
    assert_eq!((checked.blobs.len(), checked.documents.len()), (20, 19));
    assert_eq!(checked.blobs[&Digest::of(b"blob")], 4);
    assert_eq!(checked.index.0, bundle.listed.top.digest);
    assert!(checked.made.is_empty());
}

#[test]
fn a_single_platform_is_completed_to_the_same_image() {
    let mut bundle = bundle();
    let index = bundle.listed.top.clone();
    let first = bundle.value(&index.digest)["manifests"][0].clone();
    bundle.listed = Listed {
        name: None,
        tag: None,
        top: serde_json::from_value(first).expect("a descriptor"),
        claims: None,
    };
    let checked = bundle.check().expect("an image");
    assert_eq!(checked.index, (index.digest, index.size));
    assert_eq!((checked.blobs.len(), checked.made.len()), (3, 17));
    assert_eq!(checked.name.as_str(), "org/model/sub");
    assert_eq!(checked.tag.as_str(), COMMIT);
}

#[test]
fn other_media_types_are_refused_wherever_they_are() {
    let layer = |m: &mut Value, kind: &str| m["layers"][0]["mediaType"] = json!(kind);
    for kind in [
        "application/vnd.oci.image.layer.v1.tar",
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
    ] {
        bundle()
            .with_manifest(|_, m| layer(m, kind))
            .refused("media type");
    }
    let config = |m: &mut Value| m["config"]["mediaType"] = json!("application/json");
    bundle()
        .with_manifest(|_, m| config(m))
        .refused("media type");
    let inner = |i: &mut Value| i["manifests"][0]["mediaType"] = json!(MEDIA_INDEX);
    bundle().with_index(inner).refused("no manifest");
    let own = |i: &mut Value| i["mediaType"] = json!("text/html");
    bundle().with_index(own).refused("not an image index");
}

#[test]
fn what_this_program_does_not_write_is_refused() {
    let urls = |m: &mut Value| m["layers"][0]["urls"] = json!(["https://elsewhere"]);
    // The field is lost when it is understood, so the bytes are put as they are.
    let mut hostile = bundle();
    let mut index = hostile.value(&hostile.listed.top.digest);
    let first = index["manifests"][0]["digest"].as_str().expect("text");
    let mut manifest = hostile.value(&first.parse().expect("a digest"));
    urls(&mut manifest);
    let (digest, size) = hostile.put::<Value>(&manifest);
    index["manifests"][0]["digest"] = json!(digest);
    index["manifests"][0]["size"] = json!(size);
    hostile
        .with_index(|to| *to = index)
        .refused("is not written as hf-oci writes it");
}

#[test]
fn parts_that_do_not_fit_together_are_refused() {
    let none = |m: &mut Value| m["layers"] = json!([]);
    bundle().with_manifest(|_, m| none(m)).refused("no layer");
    let size = |m: &mut Value| m["layers"][0]["size"] = json!(5);
    bundle()
        .with_manifest(|_, m| size(m))
        .refused("two lengths");
    let zero = |m: &mut Value| m["layers"][0]["size"] = json!(0);
    bundle().with_manifest(|_, m| zero(m)).refused("a length");
    let made = |m: &mut Value| m["layers"][0]["annotations"] = json!({});
    bundle().with_manifest(|_, m| made(m)).refused("made of");
    let label = |m: &mut Value| m["annotations"] = json!({});
    bundle()
        .with_manifest(|_, m| label(m))
        .refused("different things");
    let empty = |i: &mut Value| i["manifests"] = json!([]);
    bundle()
        .with_index(empty)
        .refused("no manifest, or too many");
    let other = |i: &mut Value| i["manifests"][0]["platform"]["os"] = json!("windows");
    bundle().with_index(other).refused("different things");
    let short = |i: &mut Value| i["manifests"][0]["size"] = json!(7);
    bundle().with_index(short).refused("another length");
}

#[test]
fn layers_and_diff_ids_are_as_many() {
    let more = |bundle: &mut Bundle, manifest: &mut Value| {
        let digest = manifest["config"]["digest"].as_str().expect("text");
        let mut config = bundle.value(&digest.parse().expect("a digest"));
        config["rootfs"]["diff_ids"] = json!([Digest::of(b"1"), Digest::of(b"2")]);
        let (digest, size) = bundle.put::<Config>(&config);
        manifest["config"]["digest"] = json!(digest);
        manifest["config"]["size"] = json!(size);
    };
    bundle().with_manifest(more).refused("different layers");
}

#[test]
fn labels_speak_for_the_image() {
    let mut other = bundle();
    if let Some(claims) = &mut other.listed.claims {
        claims.commit = "1".repeat(40).parse().expect("a commit");
    }
    other.refused("another commit than its labels");
    let mut named = bundle();
    named.listed.claims = None;
    named.listed.name = Some(ImageName::parse("org/other").expect("a name"));
    named.refused("another repository than its name");
}

#[test]
fn what_an_image_costs_to_look_at_is_bounded() {
    let long = |m: &mut Value| m["annotations"]["zz"] = json!("z".repeat(MAX_LABELS));
    bundle()
        .with_manifest(|_, m| long(m))
        .refused("longer labels");
    let longer = |m: &mut Value| m["annotations"]["zz"] = json!("z".repeat(1 << 20));
    bundle()
        .with_manifest(|_, m| longer(m))
        .refused("longer than a document may be");
    let twice = |i: &mut Value| i["manifests"][1] = i["manifests"][0].clone();
    bundle().with_index(twice).refused("a manifest twice");
}

#[test]
fn a_repository_that_was_renamed_keeps_its_labels() {
    let mut renamed = bundle();
    if let Some(claims) = &mut renamed.listed.claims {
        claims.repo = "Other/Model".parse().expect("an id");
    }
    let checked = renamed.check().expect("an image");
    assert_eq!(checked.repo.to_string(), "Other/Model");
}

#[test]
fn a_platform_whose_labels_are_too_long_for_an_index_is_refused() {
    let pad = |bytes: usize| {
        let value = "z".repeat(bytes);
        bundle().with_manifest(|bundle, manifest| {
            manifest["annotations"]["zz"] = json!(value);
            let digest = manifest["config"]["digest"].as_str().expect("text");
            let mut config = bundle.value(&digest.parse().expect("a digest"));
            config["config"]["Labels"]["zz"] = json!(value);
            let (digest, size) = bundle.put::<Config>(&config);
            manifest["config"]["digest"] = json!(digest);
            manifest["config"]["size"] = json!(size);
        })
    };
    // The index has its manifests besides, so there would be a length that fits into a manifest and not into an index.
    let mut long = pad(MAX_DOCUMENT as usize - 1500);
    let first = long.value(&long.listed.top.digest)["manifests"][0].clone();
    long.listed = Listed {
        top: serde_json::from_value(first).expect("a descriptor"),
        name: None,
        tag: None,
        claims: None,
    };
    assert!(long.listed.top.size <= MAX_DOCUMENT);
    long.refused("longer labels");
}

#[test]
fn a_missing_document_is_named() {
    let mut bundle = bundle();
    let top = bundle.listed.top.digest;
    bundle.documents.retain(|digest, _| *digest == top);
    bundle.refused("is missing");
}
