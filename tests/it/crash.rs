//! The real binary, killed at random moments: nothing published is wrong, nothing is lost, and no fill begins again.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use hf_oci::oci::Digest;

use crate::binary::Server;
use crate::hub::{Files, Hub, Repo, World};

/// Kills of one run; the long one is asked for by `HF_OCI_KILLS=100`.
fn kills() -> u32 {
    let asked = std::env::var("HF_OCI_KILLS").ok();
    asked.map_or(20, |n| n.parse().expect("a number"))
}

const FILE: u64 = 12 << 20;
const SMALL: u64 = 5 << 20;
const MODELS: u32 = 4;

/// More than the memory that fills may hold cannot be lost at once.
const WINDOW: u64 = 32 << 20;

/// Small numbers that look random; the seed is printed with a failure.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

fn world(models: u32, size: u64) -> World {
    (0..models).fold(World::new(), |world, n| {
        let files = Files::new()
            .file("README.md", format!("model {n}"))
            .pattern("a.bin", size, u64::from(n))
            .pattern("b.bin", size, u64::from(n) + 100);
        world.repo(Repo::model(format!("org/m{n}")).commit(files))
    })
}

/// What a run has seen, for those who read its output.
#[derive(Debug, Default)]
struct Figures {
    kills: u32,
    fills_begun: usize,
    fills_done: usize,
    images_evicted: usize,
    blobs_hashed: usize,
}

impl Figures {
    /// Counts what a killed server told, and holds the folder against its digests.
    fn killed(&mut self, log: &[String], data: &Path) {
        let count = |what: &str| log.iter().filter(|line| line.contains(what)).count();
        self.kills += 1;
        self.fills_begun += count("fill begins");
        self.fills_done += count("fill done");
        self.images_evicted += count("evicting an image");
        self.blobs_hashed += assert_sound(data);
    }
}

/// Every published blob is what its name says, and index.json names only what is there. Gives how many blobs there are.
fn assert_sound(data: &Path) -> usize {
    let blobs = data.join("blobs/sha256");
    let mut hashed = 0;
    for entry in fs::read_dir(&blobs).expect("a folder") {
        let path = entry.expect("an entry").path();
        let bytes = fs::read(&path).expect("a blob");
        assert_eq!(
            path.file_name().expect("a name").to_string_lossy(),
            Digest::of(&bytes).hex()
        );
        hashed += 1;
    }
    let Ok(text) = fs::read_to_string(data.join("index.json")) else {
        return hashed;
    };
    let index: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    for entry in index["manifests"].as_array().expect("manifests") {
        let digest: Digest = entry["digest"]
            .as_str()
            .expect("text")
            .parse()
            .expect("a digest");
        assert!(
            blobs.join(digest.hex()).exists(),
            "{digest} is named and not there"
        );
    }
    hashed
}

/// A layer is longer, a document is not: those that no image has yet are written again.
const LEAST: u64 = 1 << 20;

/// How far each unpublished layer is, in blocks that are not all zeros, and how many layers are published.
#[derive(Debug, Default)]
struct Held {
    staged: BTreeMap<String, usize>,
    published: usize,
}

impl Held {
    fn of(data: &Path) -> Self {
        const BLOCK: usize = 4096;
        let full = |bytes: &[u8]| {
            bytes
                .chunks(BLOCK)
                .filter(|b| b.iter().any(|x| *x != 0))
                .count()
        };
        let staging = fs::read_dir(data.join("staging")).expect("a folder");
        let staged = staging.filter_map(|entry| {
            let entry = entry.expect("an entry");
            let bytes = fs::read(entry.path().join("layer")).ok()?;
            Some((
                entry.file_name().to_string_lossy().into_owned(),
                full(&bytes),
            ))
        });
        Self {
            staged: staged.collect(),
            published: fs::read_dir(data.join("blobs/sha256"))
                .expect("a folder")
                .map(|entry| entry.expect("an entry").metadata().expect("a file"))
                .filter(|blob| blob.len() > LEAST)
                .count(),
        }
    }

    /// Every layer is at least as far as it was, or is published.
    fn assert_goes_on_from(&self, before: &Self) {
        let mut gone = 0;
        for (layer, was) in &before.staged {
            match self.staged.get(layer) {
                Some(is) => assert!(is >= was, "{layer} begins again: {is} blocks of {was}"),
                None => gone += 1,
            }
        }
        assert!(
            self.published >= before.published + gone,
            "{gone} layers are lost"
        );
    }
}

/// Asks for a model until it is there: resumed fills may have the room just now.
async fn pull(http: &reqwest::Client, server: &Server, n: u64) {
    for _ in 0..200 {
        let url = format!("{}/v2/org/m{n}/manifests/main", server.url);
        let answer = http.get(&url).send().await.expect("an answer");
        let status = answer.status().as_u16();
        answer.bytes().await.expect("a whole document");
        if status == 200 {
            return;
        }
        assert_eq!(status, 507);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("org/m{n} finds no room");
}

/// Room for half of the models: each fill evicts another image.
#[tokio::test(flavor = "multi_thread")]
async fn killed_in_the_midst_of_evictions_it_stays_sound() {
    let hub = Hub::start(world(MODELS, SMALL)).await;
    let folder = tempfile::tempdir().expect("a folder");
    let mut dice = dice();
    let _ = rustls::crypto::ring::default_provider().install_default();
    let http = reqwest::Client::new();
    let max_size = u64::from(MODELS) / 2 * 2 * SMALL + (2 << 20);
    let max = max_size.to_string();
    let limits = ["--cache-max-size", &max, "--cache-min-free", "0"];
    let mut figures = Figures::default();
    for kill in 0..kills() {
        let server = Server::start(folder.path(), &hub, &limits);
        if kill % 5 == 4 {
            garble(&folder.path().join("index"), &mut dice);
        }
        // One is there; the next evicts, or the kill meets its eviction.
        let n = dice.roll(u64::from(MODELS));
        pull(&http, &server, n).await;
        let next = (n + 1 + dice.roll(u64::from(MODELS) - 1)) % u64::from(MODELS);
        let url = format!("{}/v2/org/m{next}/manifests/main", server.url);
        let moment = Duration::from_millis(1 + dice.roll(120));
        drop(http.get(url).timeout(moment).send().await);
        figures.killed(&server.kill(), folder.path());
    }
    let server = Server::start(folder.path(), &hub, &limits);
    for n in 0..u64::from(MODELS) {
        pull(&http, &server, n).await;
    }
    server.stop();
    assert_sound(folder.path());
    let blobs = fs::read_dir(folder.path().join("blobs/sha256")).expect("a folder");
    let bytes: u64 = blobs
        .map(|e| e.expect("an entry").metadata().expect("a file").len())
        .sum();
    println!("{figures:?}, {bytes} bytes of at most {max_size}");
    assert!(figures.images_evicted > 0, "nothing was evicted");
    assert!(bytes <= max_size, "{bytes}");
}

fn dice() -> Dice {
    let since = SystemTime::UNIX_EPOCH.elapsed().expect("a clock");
    let seed = since.as_nanos() as u64;
    println!("seed {seed}");
    Dice(seed)
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_moment_it_loses_nothing_and_begins_nothing_again() {
    let kills = kills();
    // Some are done and new ones are wanted, all the time.
    let models = kills / 5 + MODELS;
    let hub = Hub::start(world(models, FILE)).await;
    let folder = tempfile::tempdir().expect("a folder");
    let mut dice = dice();
    let _ = rustls::crypto::ring::default_provider().install_default();
    let http = reqwest::Client::new();
    let (mut figures, mut held) = (Figures::default(), Held::default());
    for kill in 0..kills {
        let server = Server::start(folder.path(), &hub, &[]);
        if kill % 4 == 3 {
            garble(&folder.path().join("index"), &mut dice);
        }
        for n in kill / 5..kill / 5 + MODELS {
            let url = format!("{}/v2/org/m{n}/manifests/main", server.url);
            let asked = http
                .get(url)
                .timeout(Duration::from_millis(1 + dice.roll(50)))
                .send();
            drop(asked.await);
        }
        let life = if kill % 3 == 2 { 2000 } else { 120 };
        tokio::time::sleep(Duration::from_millis(dice.roll(life))).await;
        figures.killed(&server.kill(), folder.path());
        let now = Held::of(folder.path());
        now.assert_goes_on_from(&held);
        held = now;
    }
    let server = Server::start(folder.path(), &hub, &[]);
    for n in 0..u64::from(models) {
        pull(&http, &server, n).await;
    }
    server.kill();
    assert_sound(folder.path());
    let total = u64::from(models) * 2 * FILE;
    let lost = hub.bytes().saturating_sub(total);
    println!("{figures:?}, {} bytes fetched of {total}", hub.bytes());
    assert!(figures.fills_done > 0, "nothing was filled");
    assert!(
        lost <= u64::from(kills) * WINDOW,
        "{lost} bytes were fetched twice"
    );
}

/// Overwrites some bytes of some files of the index, as a failing disk might.
fn garble(folder: &Path, dice: &mut Dice) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    for entry in entries {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            garble(&path, dice);
        } else if let Ok(mut bytes) = fs::read(&path)
            && !bytes.is_empty()
        {
            for _ in 0..16 {
                let at = dice.roll(bytes.len() as u64) as usize;
                bytes[at] = dice.roll(256) as u8;
            }
            fs::write(&path, bytes).expect("written");
        }
    }
}
