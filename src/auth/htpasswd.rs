//! Users of this server: a file of names and bcrypt hashes, as `htpasswd -B` writes it.
//!
//! The file is looked at again when a request comes, at most once a second. Checking a password takes a tenth of a second of a core by
//! intent, so that is done on few threads, and its outcome is remembered for a while under a keyed hash.

use std::collections::{BTreeMap, HashMap};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use moka::Expiry;
use moka::future::Cache;
use tokio::sync::Semaphore;

use super::key::Key;
use super::presented::Secret;
use super::turns::Waiting;
use crate::error::{Error, Kind};
use crate::fill::Credential;

/// How often the file is looked at, at most.
const LOOK: Duration = Duration::from_secs(1);
/// How long a right password is remembered, and a wrong one.
const RIGHT: Duration = Duration::from_secs(60);
const WRONG: Duration = Duration::from_secs(5);
/// Passwords that are checked at once, and that may wait for it.
const AT_ONCE: usize = 2;
const WAITING: usize = 64;
/// What there may be too many of.
pub(super) const LOGINS: &str = "logins are being checked";
/// The largest file.
const MAX_FILE: u64 = 4 << 20;
/// The dearest hash that is taken: 2^16 rounds are some seconds.
const MAX_COST: u32 = 16;
/// Checked for names that are not in the file, at the cost that most of the file have, so that their answers take as long. Whatever its
/// password is, it opens nothing.
const NOBODY: &str = "$2b$10$N9qo8uLOickgx2ZMRZoMyeIjZAgcfl7p92ldGxad68LJZdL17lhWy";

/// The users of a file.
#[derive(Debug, Default)]
struct Users {
    /// By name.
    hashes: HashMap<String, String>,
    /// For all other names.
    nobody: String,
}

impl Users {
    fn new(hashes: HashMap<String, String>) -> Self {
        let mut costs = BTreeMap::<u32, usize>::new();
        for cost in hashes.values().filter_map(|hash| cost(hash)) {
            *costs.entry(cost).or_default() += 1;
        }
        let usual = costs
            .into_iter()
            .max_by_key(|(cost, count)| (*count, *cost));
        let nobody = match usual {
            Some((cost, _)) => NOBODY.replacen("$10$", &format!("${cost:02}$"), 1),
            None => NOBODY.to_owned(),
        };
        Self { hashes, nobody }
    }
}

/// What the file was when it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

struct State {
    users: Arc<Users>,
    stamp: Option<Stamp>,
    looked: Instant,
}

/// The users of a file.
pub(super) struct Htpasswd {
    path: PathBuf,
    state: Arc<Mutex<State>>,
    key: Key,
    checked: Cache<Credential, bool>,
    threads: Arc<Semaphore>,
    waiting: AtomicUsize,
}

struct Ttl;

impl Expiry<Credential, bool> for Ttl {
    fn expire_after_create(&self, _: &Credential, right: &bool, _: Instant) -> Option<Duration> {
        Some(if *right { RIGHT } else { WRONG })
    }
}

impl Htpasswd {
    /// Reads the file. Blocks.
    pub(super) fn open(path: &Path, key: Key) -> Result<Self, String> {
        let (users, stamp) = read(path)?;
        tracing::info!(users = users.hashes.len(), file = %path.display(), "the users are read");
        Ok(Self {
            path: path.to_owned(),
            state: Arc::new(Mutex::new(State {
                users: Arc::new(users),
                stamp: Some(stamp),
                looked: Instant::now(),
            })),
            key,
            checked: Cache::builder()
                .max_capacity(10_000)
                .expire_after(Ttl)
                .build(),
            threads: Arc::new(Semaphore::new(AT_ONCE)),
            waiting: AtomicUsize::new(0),
        })
    }

    /// Whether `password` is that of `user`.
    pub(super) async fn check(&self, user: &str, password: &Secret) -> Result<bool, Error> {
        let users = self.users().await;
        let known = users.hashes.get(user);
        let hash = known.unwrap_or(&users.nobody).as_str();
        let parts = [user, password.reveal(), hash].map(str::as_bytes);
        let key = self.key.hash("password", &parts);
        let checked = self
            .checked
            .try_get_with(key, self.verify(hash.to_owned(), password.clone()))
            .await;
        let right = checked.map_err(|error| (*error).clone())?;
        Ok(right && known.is_some())
    }

    async fn verify(&self, hash: String, password: Secret) -> Result<bool, Error> {
        let _waiting = Waiting::new(&self.waiting, AT_ONCE + WAITING, LOGINS)?;
        let threads = Arc::clone(&self.threads);
        let closed = |_| Error::new(Kind::Unavailable, "the server is stopping; ask again");
        let thread = threads.acquire_owned().await.map_err(closed)?;
        let verified = tokio::task::spawn_blocking(move || {
            // Held to the end of the work, even if nobody waits for it any more.
            let _thread = thread;
            bcrypt::verify(password.reveal(), &hash).unwrap_or(false)
        });
        let lost = |_| Error::new(Kind::Internal, "checking a password was lost");
        verified.await.map_err(lost)
    }

    /// The users as the file has them now, or had them a second ago.
    async fn users(&self) -> Arc<Users> {
        let (users, stamp) = {
            let mut state = lock(&self.state);
            if state.looked.elapsed() < LOOK {
                return state.users.clone();
            }
            state.looked = Instant::now();
            (state.users.clone(), state.stamp)
        };
        let (path, state) = (self.path.clone(), self.state.clone());
        let renewed = tokio::task::spawn_blocking(move || renew(&path, stamp, &state)).await;
        renewed.unwrap_or(users)
    }
}

/// Reads the file again if it is another one than before. One that cannot be read changes nothing: editors take files away for moments.
fn renew(path: &Path, before: Option<Stamp>, state: &Mutex<State>) -> Arc<Users> {
    let now = std::fs::metadata(path).ok().map(|m| stamp(&m));
    if now == before {
        return lock(state).users.clone();
    }
    match read(path) {
        Ok((users, stamp)) => {
            tracing::info!(users = users.hashes.len(), file = %path.display(), "the users are read again");
            let mut state = lock(state);
            state.users = Arc::new(users);
            state.stamp = Some(stamp);
            state.users.clone()
        }
        Err(error) => {
            tracing::error!(%error, "the users stay as they were");
            let mut state = lock(state);
            state.stamp = now;
            state.users.clone()
        }
    }
}

fn lock(state: &Mutex<State>) -> std::sync::MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn stamp(metadata: &std::fs::Metadata) -> Stamp {
    Stamp {
        inode: metadata.ino(),
        size: metadata.size(),
        modified: (metadata.mtime(), metadata.mtime_nsec()),
        changed: (metadata.ctime(), metadata.ctime_nsec()),
    }
}

/// Reads the file. Its stamp is from before, so that a change during the reading is seen as one.
fn read(path: &Path) -> Result<(Users, Stamp), String> {
    let told = |error: std::io::Error| format!("cannot read {}: {error}", path.display());
    let stamp = stamp(&std::fs::metadata(path).map_err(told)?);
    if stamp.size > MAX_FILE {
        let path = path.display();
        return Err(format!("{path} is too large for a file of users"));
    }
    let text = std::fs::read_to_string(path).map_err(told)?;
    Ok((parse(&text), stamp))
}

/// The users of a file's text. What is no bcrypt hash is left out, with a warning that does not repeat it.
fn parse(text: &str) -> Users {
    let mut users = HashMap::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        match line.split_once(':') {
            Some((user, hash)) if !user.is_empty() && is_bcrypt(hash) => {
                users.insert(user.to_owned(), hash.to_owned());
            }
            _ => tracing::warn!(
                line = number + 1,
                "a line of auth.htpasswd_file is no name and bcrypt hash (htpasswd -B) and is left out"
            ),
        }
    }
    Users::new(users)
}

/// The cost of a bcrypt hash.
fn cost(hash: &str) -> Option<u32> {
    hash.split('$').nth(2)?.parse().ok()
}

/// `$2y$10$` and 53 characters; also `2a` and `2b`.
fn is_bcrypt(hash: &str) -> bool {
    let Some((cost, rest)) = ["$2y$", "$2b$", "$2a$"]
        .iter()
        .find_map(|prefix| hash.strip_prefix(prefix))
        .and_then(|rest| rest.split_once('$'))
    else {
        return false;
    };
    let known = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'/');
    let bearable = cost
        .parse()
        .is_ok_and(|cost| (4..=MAX_COST).contains(&cost));
    bearable && rest.len() == 53 && rest.bytes().all(known)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> Secret {
        Secret::new(text)
    }

    fn hash(password: &str) -> String {
        bcrypt::hash(password, 4).unwrap()
    }

    #[test]
    fn only_bcrypt_is_taken() {
        let good = hash("x");
        let text = format!(
            "# users\n\nann:{good}\n bob:{} \nmd5:$apr1$lZL6V/ci$eIMz/iKDkbtys/uU7LEK00\nplain:secret\nsha:{{SHA}}W6ph5Mm5Pz8GgiULbPgzG37mj9g=\n:{good}\nnone\ndear:{}\n",
            good.replace("$2b$", "$2y$"),
            good.replace("$04$", "$31$"),
        );
        let users = parse(&text);
        let mut names: Vec<_> = users.hashes.keys().map(String::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["ann", "bob"]);
    }

    #[test]
    fn a_name_that_is_not_in_the_file_costs_what_most_of_them_do() {
        let at = |cost| bcrypt::hash("x", cost).unwrap();
        for (costs, wanted) in [(&[5, 4, 5][..], 5), (&[4], 4), (&[4, 5], 5), (&[], 10)] {
            let lines = costs.iter().enumerate();
            let text: String = lines.map(|(n, c)| format!("u{n}:{}\n", at(*c))).collect();
            let users = parse(&text);
            assert!(is_bcrypt(&users.nobody), "{}", users.nobody);
            assert_eq!(cost(&users.nobody), Some(wanted), "{costs:?}");
        }
    }

    #[tokio::test]
    async fn passwords_are_checked_and_the_file_is_read_again_when_it_changes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("users");
        std::fs::write(&path, format!("ann:{}\n", hash("one"))).unwrap();
        let users = Htpasswd::open(&path, Key::random().unwrap()).unwrap();
        assert!(users.check("ann", &secret("one")).await.unwrap());
        assert!(!users.check("ann", &secret("two")).await.unwrap());
        assert!(!users.check("bob", &secret("one")).await.unwrap());
        std::fs::write(&path, format!("ann:{}\n", hash("two"))).unwrap();
        tokio::time::sleep(LOOK + Duration::from_millis(50)).await;
        assert!(!users.check("ann", &secret("one")).await.unwrap());
        assert!(users.check("ann", &secret("two")).await.unwrap());
        std::fs::remove_file(&path).unwrap();
        tokio::time::sleep(LOOK + Duration::from_millis(50)).await;
        assert!(users.check("ann", &secret("two")).await.unwrap());
    }

    #[tokio::test]
    async fn a_password_is_checked_once_in_a_while_and_few_may_wait() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("users");
        std::fs::write(&path, format!("ann:{}\n", hash("one"))).unwrap();
        let users = Htpasswd::open(&path, Key::random().unwrap()).unwrap();
        let right = secret("one");
        let same = (0..500).map(|_| users.check("ann", &right));
        let same = futures_util::future::join_all(same).await;
        assert!(same.into_iter().all(|right| right.unwrap()));
        let wrong: Vec<Secret> = (0..200).map(|i| secret(&format!("{i}"))).collect();
        let wrong = wrong.iter().map(|w| users.check("ann", w));
        let wrong = futures_util::future::join_all(wrong).await;
        let refused = wrong.iter().filter(|r| r.is_err()).count();
        assert!(refused > 0, "{refused}");
        assert_eq!(users.waiting.load(std::sync::atomic::Ordering::Relaxed), 0);
    }
}
