//! The matrix: which fault, at which moment, and what has to come of it.

use std::sync::LazyLock;
use std::time::Duration;

use crate::hub::{Content, Effect, Fault, Files, Record, Repo, World};

/// Bytes of one read of a large file.
pub const PIECE: u64 = 8 << 20;

/// The file of three pieces that faults of content meet.
const LARGE: u64 = 2 * PIECE + 100_000;

/// The same file where it is not about its bytes.
const LITTLE: u64 = 100_000;

/// How long a silent upstream counts as stalled.
pub const STALL: Duration = Duration::from_millis(1500);

const CARD: &str = "---\nlicense: apache-2.0\n---\n# A model\n";

/// What is asked of the upstream when the fault happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    Info,
    Tree,
    Refs,
    Resolve,
    First,
    Middle,
    Last,
    Small,
    Card,
}

use Moment::{Card, First, Info, Last, Middle, Refs, Resolve, Small, Tree};

impl Moment {
    pub const ALL: [Self; 9] = [Info, Tree, Refs, Resolve, First, Middle, Last, Small, Card];

    /// The head of its column.
    pub const fn title(self) -> &'static str {
        match self {
            Info => "revision",
            Tree => "listing",
            Refs => "refs",
            Resolve => "resolve",
            First => "first piece",
            Middle => "middle piece",
            Last => "last piece",
            Small => "small file",
            Card => "README for the licence",
        }
    }

    /// The rule that matches its requests.
    pub fn fault(self) -> Fault {
        match self {
            Info => Fault::hub("").route("info"),
            Tree => Fault::hub("").route("tree"),
            Refs => Fault::hub("").route("refs"),
            Resolve => Fault::hub("w.bin").route("resolve"),
            First => Fault::cdn("w.bin").range_start(0..PIECE),
            Middle => Fault::cdn("w.bin").range_start(PIECE..2 * PIECE),
            Last => Fault::cdn("w.bin").range_start(2 * PIECE..LARGE),
            Small => Fault::hub("config.json").route("resolve-cache"),
            Card => Fault::hub("README.md").route("resolve-cache"),
        }
    }

    /// Whether a request may be one of its own, at least of its kind.
    pub fn is_of(self, record: &Record) -> bool {
        let route = match self {
            Info => "info",
            Tree => "tree",
            Refs => "refs",
            Resolve => "resolve",
            First | Middle | Last => "cdn",
            Small | Card => "resolve-cache",
        };
        record.route == route
    }

    /// The image that is pulled. Only a selection without the README makes the licence a request of its own.
    pub const fn image(self) -> &'static str {
        match self {
            Card => "org/m/w.bin",
            _ => "org/m",
        }
    }

    /// The file whose bytes come at it, or would come after it.
    pub const fn file(self) -> &'static str {
        match self {
            Small => "config.json",
            Card => "README.md",
            _ => "w.bin",
        }
    }

    pub const fn is_piece(self) -> bool {
        matches!(self, First | Middle | Last)
    }

    const fn is_content(self) -> bool {
        self.is_piece() || matches!(self, Small | Card)
    }

    /// Whether the answer has a body that anybody reads.
    const fn has_body(self) -> bool {
        !matches!(self, Resolve)
    }

    /// Where a body is cut: in the middle of it.
    const fn cut(self) -> u64 {
        match self {
            First | Middle => 3_000_000,
            Last => 50_000,
            _ => 10,
        }
    }

    /// A byte of the file that comes at this moment.
    const fn byte(self) -> u64 {
        match self {
            First => 5,
            Middle => PIECE + 5,
            Last => 2 * PIECE + 5,
            _ => 5,
        }
    }

    /// Bytes a second: about a second for the whole body.
    const fn slow(self) -> u64 {
        match self {
            First | Middle => PIECE,
            Last => 100_000,
            _ => 500,
        }
    }

    /// What the upstream holds.
    pub fn world(self) -> World {
        static CONTENTS: LazyLock<[Content; 2]> = LazyLock::new(|| {
            [LARGE, LITTLE].map(|size| {
                let bytes: Vec<u8> = (0..size).map(|i| (i * 31 + (i >> 9)) as u8).collect();
                Content::memory(bytes).lfs(true)
            })
        });
        let large = usize::from(!self.is_piece());
        let files = Files::new()
            .file("README.md", CARD)
            .file("config.json", "{\"model_type\":\"demo\"}\n")
            .file("w.bin", CONTENTS[large].clone());
        World::new().repo(Repo::model("org/m").commit(files))
    }
}

/// Bytes that come more than once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extra {
    /// Not one.
    Nothing,
    /// At most what was on its way in the broken body: the rest of a piece.
    Piece,
    /// At most the file.
    File,
    /// At most the file and what was read ahead of it.
    Ahead,
}

/// What has to come of a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ends {
    /// The pull succeeds.
    Survives(Extra),
    /// The client gets this status and code, and nothing is published.
    Fails(u16, &'static str),
}

/// One cell.
#[derive(Debug, Clone)]
pub struct Case {
    pub effect: Effect,
    /// How many requests meet it; None: all.
    pub times: Option<u64>,
    pub ends: Ends,
}

/// One row.
pub struct Row {
    pub name: &'static str,
    /// The case at a moment, if there can be one.
    pub case: fn(Moment) -> Option<Case>,
}

const BAD: Ends = Ends::Fails(502, "UNAVAILABLE");
const SLOW: Ends = Ends::Fails(504, "UNAVAILABLE");
const LIMIT: Ends = Ends::Fails(429, "TOOMANYREQUESTS");
const FREE: Ends = Ends::Survives(Extra::Nothing);
const PART: Ends = Ends::Survives(Extra::Piece);
const AGAIN: Ends = Ends::Survives(Extra::File);
const AHEAD: Ends = Ends::Survives(Extra::Ahead);

/// The time that a silent answer takes: longer than anybody waits.
const LONG: Duration = Duration::from_secs(60);

fn case(possible: bool, effect: Effect, times: impl Into<Option<u64>>, ends: Ends) -> Option<Case> {
    let times = times.into();
    possible.then_some(Case {
        effect,
        times,
        ends,
    })
}

fn status(code: u16) -> Effect {
    Effect::Status(code, vec![])
}

/// All rows.
#[rustfmt::skip]
pub const ROWS: &[Row] = &[
    Row { name: "status 500, once", case: |_| case(true, status(500), 1, FREE) },
    Row { name: "status 503, always", case: |_| case(true, status(503), None, BAD) },
    Row { name: "429, wait 1 s", case: |_| case(true, Effect::RateLimited { t: 1 }, 1, FREE) },
    Row { name: "429, wait 1 h", case: |_| case(true, Effect::RateLimited { t: 3600 }, 1, LIMIT) },
    Row { name: "connection closed, once", case: |_| case(true, Effect::Hangup, 1, FREE) },
    Row { name: "connection closed, always", case: |_| case(true, Effect::Hangup, None, BAD) },
    Row { name: "no answer, once", case: |_| case(true, Effect::Delay(LONG), 1, FREE) },
    Row { name: "no answer, always", case: |_| case(true, Effect::Delay(LONG), None, SLOW) },
    Row { name: "body cut, twice", case: |m| case(m.has_body(), Effect::DropAfter(m.cut()), 2, PART) },
    Row { name: "body falls silent, once", case: |m| case(m.has_body(), Effect::StallAfter(m.cut(), LONG), 1, PART) },
    Row { name: "body silent, always", case: |m| case(m.has_body(), Effect::StallAfter(0, LONG), None, SLOW) },
    Row { name: "body slow, never silent", case: |m| case(m.has_body(), Effect::Slow(m.slow()), None, FREE) },
    Row { name: "wrong byte, once", case: |m| case(m.is_content(), Effect::Corrupt(m.byte()), 1, AHEAD) },
    Row { name: "wrong byte, always", case: |m| case(m.is_content(), Effect::Corrupt(m.byte()), None, BAD) },
    Row { name: "range ignored", case: |m| case(m.is_piece(), Effect::IgnoreRange, None, AGAIN) },
    Row { name: "address expired, once", case: |m| case(m.is_piece() || m == Resolve, Effect::ExpireSignature, 1, FREE) },
    Row { name: "address expired, always", case: |m| case(m.is_piece() || m == Resolve, Effect::ExpireSignature, None, BAD) },
    Row { name: "403 on a valid range, twice", case: |m| case(m.is_piece(), status(403), 2, FREE) },
    Row { name: "no two reads at once (503)", case: |m| case(m.is_piece(), Effect::Crowd(1, 503), None, FREE) },
    Row { name: "another size than listed", case: |m| match m {
        Info | Refs => None,
        // Only a header of the redirect tells it, on which nothing rests.
        Resolve => case(true, Effect::SizeLie(LITTLE + 1), None, FREE),
        Tree => case(true, Effect::SizeLie(5), None, BAD),
        _ => case(true, Effect::SizeLie(LARGE + 1), None, BAD),
    } },
    Row { name: "body compressed unasked", case: |m| case(m.is_content(), Effect::Header("content-encoding", "gzip".into()), None, BAD) },
    Row { name: "the branch moves meanwhile", case: |m| case(!matches!(m, Info | Refs), Effect::Hold("moved"), 1, FREE) },
];
