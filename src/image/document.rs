//! Config, manifests and index of an image. No clock and no machine in them: the same commit gives the same bytes anywhere.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::layer::Sealed;
use crate::oci::{
    Config, ConfigDetail, Descriptor, Digest, History, Index, MEDIA_CONFIG, MEDIA_INDEX,
    MEDIA_LAYER, MEDIA_MANIFEST, Manifest, Platform, RootFs,
};
use crate::repo::{Commit, RepoId};

/// Annotation of a layer: what it is made of.
pub const RECIPE: &str = "io.hf-oci.recipe";

/// Every Linux platform that clients ask for; all share the same layers.
const PLATFORMS: [(&str, Option<&str>); 9] = [
    ("amd64", None),
    ("arm64", None),
    ("arm", Some("v7")),
    ("arm", Some("v6")),
    ("386", None),
    ("ppc64le", None),
    ("s390x", None),
    ("riscv64", None),
    ("loong64", None),
];

/// A layer as images refer to it, and as the store remembers it by its recipe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerRecord {
    /// The descriptor, with the annotations that lazy readers need.
    pub descriptor: Descriptor,
    /// SHA-256 of the layer's uncompressed stream.
    pub diff_id: Digest,
}

impl LayerRecord {
    /// Describes a sealed layer.
    pub fn new(sealed: &Sealed, recipe: Digest) -> Self {
        let annotations = [
            (
                "containerd.io/snapshot/stargz/toc.digest",
                sealed.toc.to_string(),
            ),
            (
                "io.containers.estargz.uncompressed-size",
                sealed.uncompressed.to_string(),
            ),
            (RECIPE, recipe.to_string()),
        ];
        Self {
            descriptor: Descriptor {
                media_type: MEDIA_LAYER.to_owned(),
                digest: sealed.digest,
                size: sealed.size,
                platform: None,
                annotations: annotations.map(|(k, v)| (k.to_owned(), v)).into(),
            },
            diff_id: sealed.diff_id,
        }
    }
}

/// What an image is of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// The repository in its canonical spelling.
    pub repo: RepoId,
    /// The commit.
    pub commit: Commit,
    /// The selected file or folder; empty for all.
    pub path: String,
    /// The card's licence.
    pub license: Option<String>,
    /// What the image is restricted to, as [`Selected`](super::Selected) tells it.
    pub restricted: Vec<(&'static str, String)>,
}

impl Subject {
    /// The labels and annotations of the image. The source is the Hub's page, whatever mirror the bytes came from.
    fn labels(&self) -> BTreeMap<String, String> {
        let title = match self.path.as_str() {
            "" => self.repo.to_string(),
            path => format!("{}/{path}", self.repo),
        };
        let mut labels = BTreeMap::from([
            ("org.opencontainers.image.revision", self.commit.to_string()),
            (
                "org.opencontainers.image.source",
                format!("https://huggingface.co/{}", self.repo),
            ),
            ("org.opencontainers.image.title", title),
        ]);
        if let Some(license) = &self.license {
            labels.insert("org.opencontainers.image.licenses", license.clone());
        }
        labels.extend(self.restricted.iter().cloned());
        labels.into_iter().map(|(k, v)| (k.to_owned(), v)).collect()
    }
}

/// A document of an image: its descriptor and its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// Media type, digest and size.
    pub descriptor: Descriptor,
    /// The bytes.
    pub bytes: Vec<u8>,
}

impl Document {
    fn new(media_type: &str, value: &impl Serialize) -> Result<Self, serde_json::Error> {
        let bytes = serde_json::to_vec(value)?;
        let descriptor = Descriptor {
            media_type: media_type.to_owned(),
            digest: Digest::of(&bytes),
            size: bytes.len() as u64,
            platform: None,
            annotations: BTreeMap::new(),
        };
        Ok(Self { descriptor, bytes })
    }
}

/// The documents of an image over `layers`: configs and manifests for every platform, and, last, the index.
///
/// # Errors
/// None in practice: strings and numbers always have a JSON form.
pub fn documents(
    subject: &Subject,
    layers: &[LayerRecord],
) -> Result<Vec<Document>, serde_json::Error> {
    documents_labelled(&subject.labels(), layers)
}

/// As [`documents`], with the labels as they are.
///
/// # Errors
/// None in practice: strings and numbers always have a JSON form.
pub fn documents_labelled(
    labels: &BTreeMap<String, String>,
    layers: &[LayerRecord],
) -> Result<Vec<Document>, serde_json::Error> {
    let mut out = Vec::with_capacity(2 * PLATFORMS.len() + 1);
    let mut manifests = Vec::with_capacity(PLATFORMS.len());
    for (architecture, variant) in PLATFORMS {
        let platform = Platform {
            architecture: architecture.to_owned(),
            os: "linux".to_owned(),
            variant: variant.map(str::to_owned),
        };
        let config = Document::new(MEDIA_CONFIG, &config(&platform, layers, labels))?;
        let manifest = Document::new(
            MEDIA_MANIFEST,
            &Manifest {
                schema_version: 2,
                media_type: MEDIA_MANIFEST.to_owned(),
                config: config.descriptor.clone(),
                layers: layers.iter().map(|l| l.descriptor.clone()).collect(),
                annotations: labels.clone(),
            },
        )?;
        manifests.push(Descriptor {
            platform: Some(platform),
            ..manifest.descriptor.clone()
        });
        out.extend([config, manifest]);
    }
    let index = Index {
        schema_version: 2,
        media_type: MEDIA_INDEX.to_owned(),
        manifests,
        annotations: labels.clone(),
    };
    out.push(Document::new(MEDIA_INDEX, &index)?);
    Ok(out)
}

fn config(
    platform: &Platform,
    layers: &[LayerRecord],
    labels: &BTreeMap<String, String>,
) -> Config {
    // Some clients stumble over a config without a time; the epoch is everybody's.
    let created = "1970-01-01T00:00:00Z";
    let history = layers.iter().map(|layer| History {
        created: created.to_owned(),
        created_by: format!("hf-oci layer {}", layer.descriptor.digest),
    });
    Config {
        created: created.to_owned(),
        architecture: platform.architecture.clone(),
        variant: platform.variant.clone(),
        os: platform.os.clone(),
        config: ConfigDetail {
            labels: labels.clone(),
        },
        rootfs: RootFs {
            kind: "layers".to_owned(),
            diff_ids: layers.iter().map(|l| l.diff_id).collect(),
        },
        history: history.collect(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::image::{Filter, LeftOut, Selection};

    fn image() -> Vec<Document> {
        restricted(Vec::new())
    }

    fn restricted(restricted: Vec<(&'static str, String)>) -> Vec<Document> {
        let sealed = Sealed {
            digest: Digest::of(b"blob"),
            size: 4,
            diff_id: Digest::of(b"diff"),
            toc: Digest::of(b"toc"),
            uncompressed: 9,
        };
        let subject = Subject {
            repo: "Org/Model".parse().expect("an id"),
            commit: "0123456789012345678901234567890123456789"
                .parse()
                .expect("a commit"),
            path: String::new(),
            license: Some("mit".into()),
            restricted,
        };
        documents(
            &subject,
            &[LayerRecord::new(&sealed, Digest::of(b"recipe"))],
        )
        .expect("JSON")
    }

    #[test]
    fn the_index_begins_with_the_bytes_that_may_be_sent_early() {
        let index = image().pop().expect("an index");
        let text = String::from_utf8(index.bytes).expect("text");
        assert!(text.starts_with(
            r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:"#
        ));
    }

    #[test]
    fn documents_are_golden() {
        let index = image().pop().expect("an index");
        assert_eq!(
            index.descriptor.digest.hex(),
            "65280c2df5fcfb13a12354ff507ba0fd36811660f58f578b2afe9d01374173cf"
        );
    }

    #[test]
    fn documents_of_a_selection_are_golden_and_tell_it() {
        let filter = Filter::new(vec!["*.json".parse().expect("a pattern")], Vec::new());
        let filter = Some(Arc::new(filter.expect("few")));
        let selection = Selection::new("Q4_K_M".parse().ok(), filter);
        let labels = selection.labels(LeftOut { files: 3, bytes: 7 });
        let index = restricted(labels).pop().expect("an index");
        let text = String::from_utf8(index.bytes).expect("text");
        let told = r#""annotations":{"io.hf-oci.excluded-bytes":"7","io.hf-oci.excluded-files":"3","io.hf-oci.include":"*.json","io.hf-oci.quantisation":"q4_k_m","org."#;
        assert!(text.contains(told), "{text}");
        assert_eq!(
            index.descriptor.digest.hex(),
            "cda913fd99abdd6889d39022b15c34b82ca8a280d52f7c140a7fb02ca2418e3d"
        );
    }

    #[test]
    fn all_platforms_share_the_layers_and_differ_in_digest() {
        let documents = image();
        let manifests: Vec<Manifest> = documents
            .iter()
            .filter(|d| d.descriptor.media_type == MEDIA_MANIFEST)
            .map(|d| serde_json::from_slice(&d.bytes).expect("a manifest"))
            .collect();
        assert_eq!(manifests.len(), 9);
        assert!(manifests.iter().all(|m| m.layers == manifests[0].layers));
        let digests: std::collections::BTreeSet<_> =
            documents.iter().map(|d| d.descriptor.digest).collect();
        assert_eq!(digests.len(), 19);
    }
}
