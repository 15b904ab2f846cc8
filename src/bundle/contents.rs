//! `index.json` of a bundle: which images there are, and what is said of them.

use std::collections::{BTreeMap, BTreeSet};

use super::{MAX_DOCUMENT, MAX_IMAGES};
use crate::image::{ImageName, Layout, Selection};
use crate::oci::{Descriptor, Digest, Index, MEDIA_INDEX, MEDIA_MANIFEST, Tag};
use crate::repo::{Commit, RepoId, Visibility};

/// Annotation of an entry: its name and tag.
pub const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// Annotation of an entry: the repository in its canonical spelling.
pub const REPOSITORY: &str = "io.hf-oci.repository";
/// Annotation of an entry: the commit.
pub const COMMIT: &str = "io.hf-oci.commit";
/// Annotation of an entry: how the image was cut into layers.
pub const LAYOUT: &str = "io.hf-oci.layout";
/// Annotation of an entry: what the image is restricted to; without it that is nothing.
pub const SELECTION: &str = "io.hf-oci.selection";
/// Annotation of an entry of a data folder: when its name came to mean it.
pub const TIME: &str = "io.hf-oci.time";
/// Annotation of an entry: who may read the repository; without it that is not known.
pub const VISIBILITY: &str = "io.hf-oci.visibility";
/// Annotation of an entry of a data folder: that it is never evicted.
pub const PINNED: &str = "io.hf-oci.pinned";

/// Annotation of an entry: the name that containerd, and docker with its image store, give the image.
const CONTAINERD_NAME: &str = "io.containerd.image.name";

/// What all annotations of this program begin with.
const OURS: &str = "io.hf-oci.";
/// Annotation of the whole: the digest of `index.json` as it is without this one.
const SEAL: &str = "io.hf-oci.bundle.seal";
/// Annotation of the whole: the digest over the blobs that it leaves out.
const OMITS: &str = "io.hf-oci.bundle.omits";

/// What a bundle of this program says of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    /// The repository in its canonical spelling.
    pub repo: RepoId,
    /// The commit.
    pub commit: Commit,
    /// How the image was cut into layers.
    pub layout: Layout,
    /// What the image is restricted to beyond the name's path.
    pub selection: Selection,
    /// Who may read it, if that is known.
    pub visibility: Option<Visibility>,
}

/// An image that a bundle lists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its name; without one it is that of the repository that its labels tell.
    pub name: Option<ImageName>,
    /// Its tag; without one it is the commit that its labels tell.
    pub tag: Option<Tag>,
    /// Media type, digest and length of its index or, from other tools, its manifest.
    pub top: Descriptor,
    /// What is said of it; other tools say nothing.
    pub claims: Option<Claims>,
}

impl Listed {
    /// As messages call it.
    pub fn title(&self) -> String {
        match (&self.name, &self.tag) {
            (Some(name), Some(tag)) => format!("{name}:{tag}"),
            _ => format!("the image {}", self.top.digest),
        }
    }

    /// The descriptor that stands in `index.json`. Nothing of one site only, so that it is the same everywhere.
    pub fn descriptor(&self) -> Descriptor {
        let mut notes = BTreeMap::new();
        if let (Some(name), Some(tag)) = (&self.name, &self.tag) {
            notes.insert(REF_NAME.to_owned(), format!("{name}:{tag}"));
            // The long form of what users of docker write without a registry.
            let host = match name.as_str().contains('/') {
                true => "docker.io",
                false => "docker.io/library",
            };
            let long = format!("{host}/{name}:{tag}");
            notes.insert(CONTAINERD_NAME.to_owned(), long);
        }
        if let Some(claims) = &self.claims {
            let visibility = claims.visibility.map(|v| (VISIBILITY, v.to_string()));
            let told = [
                (REPOSITORY, claims.repo.to_string()),
                (COMMIT, claims.commit.to_string()),
                (LAYOUT, claims.layout.to_string()),
            ];
            let selection = &claims.selection;
            let selection = (!selection.is_all()).then(|| (SELECTION, selection.to_string()));
            let told = told.into_iter().chain(selection).chain(visibility);
            notes.extend(told.map(|(key, value)| (key.to_owned(), value)));
        }
        Descriptor {
            annotations: notes,
            ..self.top.clone()
        }
    }

    /// Reads a descriptor that [`descriptor`](Self::descriptor) gave: nothing may be missing or stand there besides.
    pub fn parse(descriptor: Descriptor) -> Result<Self, String> {
        let text = |key: &str| {
            let value = descriptor.annotations.get(key).map(String::as_str);
            value.ok_or_else(|| format!("an entry has no annotation {key}"))
        };
        let bad = |key: &str| format!("an entry's annotation {key} makes no sense");
        let (name, tag) = reference(text(REF_NAME)?)?;
        let visibility = text(VISIBILITY).ok().map(str::parse).transpose();
        let claims = Claims {
            repo: text(REPOSITORY)?.parse().map_err(|_| bad(REPOSITORY))?,
            commit: text(COMMIT)?.parse().map_err(|_| bad(COMMIT))?,
            layout: text(LAYOUT)?.parse().map_err(|_| bad(LAYOUT))?,
            selection: text(SELECTION)
                .unwrap_or_default()
                .parse()
                .map_err(|_| bad(SELECTION))?,
            visibility: visibility.map_err(|_| bad(VISIBILITY))?,
        };
        let listed = Self {
            name,
            tag: Some(tag),
            top: bare(&descriptor)?,
            claims: Some(claims),
        };
        match listed.name.is_some() && listed.descriptor() == descriptor {
            true => Ok(listed),
            false => Err("an entry says more or other things than a bundle's does".to_owned()),
        }
    }

    /// Reads a descriptor that another tool wrote.
    fn foreign(descriptor: &Descriptor) -> Result<Self, String> {
        let (name, tag) = match descriptor.annotations.get(REF_NAME) {
            Some(text) => reference(text).map(|(name, tag)| (name, Some(tag)))?,
            None => (None, None),
        };
        Ok(Self {
            name,
            tag,
            top: bare(descriptor)?,
            claims: None,
        })
    }
}

/// What a descriptor of an image points at.
fn bare(descriptor: &Descriptor) -> Result<Descriptor, String> {
    if !matches!(descriptor.media_type.as_str(), MEDIA_INDEX | MEDIA_MANIFEST) {
        return Err(format!(
            "it lists something of the media type {:?}, which is no image",
            clip(&descriptor.media_type)
        ));
    }
    Ok(Descriptor {
        platform: None,
        annotations: BTreeMap::new(),
        ..descriptor.clone()
    })
}

/// `NAME:TAG`, or only a tag.
fn reference(text: &str) -> Result<(Option<ImageName>, Tag), String> {
    let why = |why: String| format!("it lists an image as {:?}: {why}", clip(text));
    let (name, tag) = match text.rsplit_once(':') {
        Some((name, tag)) => (Some(name), tag),
        None => (None, text),
    };
    let name = name.map(ImageName::parse).transpose();
    let name = name.map_err(|error| why(error.to_string()))?;
    let tag = tag
        .parse()
        .map_err(|e: crate::oci::ReferenceError| why(e.to_string()))?;
    Ok((name, tag))
}

fn clip(text: &str) -> String {
    text.chars().take(300).collect()
}

/// What `index.json` of a bundle says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contents {
    /// The images.
    pub images: Vec<Listed>,
    /// The digest over the blobs that are left out; `None` if none is.
    pub omits: Option<Digest>,
}

impl Contents {
    /// The bytes of `index.json`: the images ascending by name and tag, and the seal.
    pub fn render(mut self) -> Result<Vec<u8>, serde_json::Error> {
        self.images.sort_by_key(Listed::title);
        let mut index = Index {
            schema_version: 2,
            media_type: MEDIA_INDEX.to_owned(),
            manifests: self.images.iter().map(Listed::descriptor).collect(),
            annotations: BTreeMap::new(),
        };
        if let Some(omits) = self.omits {
            index.annotations.insert(OMITS.into(), omits.to_string());
        }
        let seal = Digest::of(&serde_json::to_vec(&index)?);
        index.annotations.insert(SEAL.into(), seal.to_string());
        serde_json::to_vec(&index)
    }

    /// Understands `index.json`, of this program or of a standard tool, or tells why not.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        if bytes.len() as u64 > MAX_DOCUMENT {
            return Err("it is too long".to_owned());
        }
        let index: Index =
            serde_json::from_slice(bytes).map_err(|error| format!("it is no index: {error}"))?;
        if index.schema_version != 2 || !matches!(index.media_type.as_str(), "" | MEDIA_INDEX) {
            return Err("it is not an image index of version 2".to_owned());
        }
        if index.manifests.is_empty() {
            return Err("it lists no image".to_owned());
        }
        if index.manifests.len() > MAX_IMAGES {
            return Err(format!("it lists more than {MAX_IMAGES} images"));
        }
        match index.annotations.contains_key(SEAL) {
            true => Self::sealed(index, bytes),
            false => Self::foreign(&index),
        }
    }

    fn sealed(mut index: Index, bytes: &[u8]) -> Result<Self, String> {
        let damaged = || "it was damaged or changed: its seal is not of it".to_owned();
        let same = serde_json::to_vec(&index).is_ok_and(|again| again == bytes);
        let seal = index.annotations.remove(SEAL);
        let bare = serde_json::to_vec(&index).map_err(|_| damaged())?;
        if !same || seal != Some(Digest::of(&bare).to_string()) {
            return Err(damaged());
        }
        let omits = index.annotations.remove(OMITS).map(|text| text.parse());
        let omits = omits.transpose().map_err(|_| damaged())?;
        let images = index.manifests.into_iter().map(Listed::parse);
        let contents = Self {
            images: images.collect::<Result<_, _>>()?,
            omits,
        };
        // In order, each once, and nothing else.
        let titles = contents.images.iter().map(Listed::title);
        match titles.is_sorted_by(|a, b| a < b) && index.annotations.is_empty() {
            true => Ok(contents),
            false => Err("its entries are not in order, or not each once".to_owned()),
        }
    }

    fn foreign(index: &Index) -> Result<Self, String> {
        let inside = index.manifests.iter().map(|entry| &entry.annotations);
        let mut notes = inside.chain([&index.annotations]).flat_map(BTreeMap::keys);
        if notes.any(|key| key.starts_with(OURS)) {
            return Err(
                "it has annotations of hf-oci, and no seal: it was damaged or changed, or is of a data folder"
                    .to_owned(),
            );
        }
        let mut seen = BTreeSet::new();
        let mut images = Vec::new();
        for entry in &index.manifests {
            let image = Listed::foreign(entry)?;
            // Tools that know more names of an image list it once for each.
            let name = image.name.as_ref().map(ToString::to_string);
            let tag = image.tag.as_ref().map(ToString::to_string);
            if seen.insert((name, tag, image.top.digest)) {
                images.push(image);
            }
        }
        Ok(Self {
            images,
            omits: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(name: &str) -> Listed {
        Listed {
            name: Some(ImageName::parse(name).expect("a name")),
            tag: Some("main".parse().expect("a tag")),
            top: Descriptor {
                media_type: MEDIA_INDEX.to_owned(),
                digest: Digest::of(name.as_bytes()),
                size: 12,
                platform: None,
                annotations: BTreeMap::new(),
            },
            claims: Some(Claims {
                repo: "Org/Model".parse().expect("an id"),
                commit: "0123456789012345678901234567890123456789"
                    .parse()
                    .expect("a commit"),
                layout: Layout::Split,
                selection: r#"{"quantisation":"q4_k_m"}"#.parse().expect("a selection"),
                visibility: Some(Visibility::Gated),
            }),
        }
    }

    fn contents() -> Contents {
        Contents {
            images: vec![listed("org/b"), listed("org/a")],
            omits: Some(Digest::of(b"left out")),
        }
    }

    #[test]
    fn an_index_reads_back_in_order() {
        let bytes = contents().render().expect("JSON");
        let read = Contents::parse(&bytes).expect("contents");
        assert_eq!(read.images, [listed("org/a"), listed("org/b")]);
        assert_eq!(read.omits, contents().omits);
    }

    #[test]
    fn no_flipped_bit_goes_unseen() {
        let good = contents().render().expect("JSON");
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Contents::parse(&bad).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn an_index_has_a_bounded_number_of_images() {
        let mut many = contents();
        let names = (0..=MAX_IMAGES).map(|n| listed(&format!("org/m{n}")));
        many.images = names.collect();
        let bytes = many.render().expect("JSON");
        assert!(bytes.len() as u64 <= MAX_DOCUMENT);
        let why = Contents::parse(&bytes).expect_err("too many");
        assert!(why.contains("more than 4096"), "{why}");
    }

    #[test]
    fn what_another_tool_lists_twice_is_one_image() {
        let digest = Digest::of(b"x");
        let entry = format!(
            r#"{{"mediaType":"{MEDIA_MANIFEST}","digest":"{digest}","size":3,"annotations":{{"org.opencontainers.image.ref.name":"v1"}}}}"#
        );
        let text = format!(r#"{{"schemaVersion":2,"manifests":[{entry},{entry}]}}"#);
        let read = Contents::parse(text.as_bytes()).expect("contents");
        assert_eq!(read.images.len(), 1);
    }

    #[test]
    fn an_index_of_another_tool_has_only_names() {
        let digest = Digest::of(b"x");
        let text = |annotations: &str| {
            format!(
                r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"{MEDIA_MANIFEST}","digest":"{digest}","size":3,"annotations":{annotations}}}]}}"#
            )
        };
        let parse = |annotations: &str| Contents::parse(text(annotations).as_bytes());
        let read = parse(r#"{"org.opencontainers.image.ref.name":"org/a:main"}"#);
        assert_eq!(read.expect("contents").images[0].title(), "org/a:main");
        let read = parse(r#"{"org.opencontainers.image.ref.name":"v1"}"#).expect("contents");
        assert_eq!(read.images[0].name, None);
        assert_eq!(read.images[0].tag, Some("v1".parse().expect("a tag")));
        for bad in [
            r#"{"org.opencontainers.image.ref.name":"proxy:5000/org/a:main"}"#,
            r#"{"org.opencontainers.image.ref.name":"../a:main"}"#,
            r#"{"io.hf-oci.visibility":"public"}"#,
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
