//! A key that lives as long as the process: what is hashed or signed with it means nothing to anyone else, nor after a restart.

use ring::hmac;
use ring::rand::SystemRandom;

use crate::fill::Credential;

/// A random key for keyed hashes and signatures.
#[derive(Clone)]
pub(super) struct Key(hmac::Key);

/// The system has no random numbers to give.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the system gives no random numbers for a key")]
pub(super) struct NoRandom;

impl Key {
    /// A new key.
    pub(super) fn random() -> Result<Self, NoRandom> {
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new());
        key.map(Self).map_err(|_| NoRandom)
    }

    /// The keyed hash of some parts, told apart by their lengths; `purpose` keeps uses of the key apart.
    pub(super) fn hash(&self, purpose: &str, parts: &[&[u8]]) -> Credential {
        let mut context = hmac::Context::with_key(&self.0);
        for part in std::iter::once(&purpose.as_bytes()).chain(parts) {
            context.update(&(part.len() as u64).to_le_bytes());
            context.update(part);
        }
        let mut short = [0; 16];
        short.copy_from_slice(&context.sign().as_ref()[..16]);
        Credential(short)
    }

    /// Signs `message`.
    pub(super) fn sign(&self, message: &[u8]) -> hmac::Tag {
        hmac::sign(&self.0, message)
    }

    /// Whether `tag` signs `message`, found out in constant time.
    pub(super) fn verify(&self, message: &[u8], tag: &[u8]) -> bool {
        hmac::verify(&self.0, message, tag).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_differ_by_key_purpose_and_where_parts_end() {
        let (one, other) = (Key::random().unwrap(), Key::random().unwrap());
        let hash = one.hash("a", &[b"user", b"word"]);
        assert_eq!(hash, one.hash("a", &[b"user", b"word"]));
        assert_ne!(hash, other.hash("a", &[b"user", b"word"]));
        assert_ne!(hash, one.hash("b", &[b"user", b"word"]));
        assert_ne!(hash, one.hash("a", &[b"userw", b"ord"]));
    }

    #[test]
    fn a_signature_is_of_its_message_and_key() {
        let (one, other) = (Key::random().unwrap(), Key::random().unwrap());
        let tag = one.sign(b"message");
        assert!(one.verify(b"message", tag.as_ref()));
        assert!(!one.verify(b"messagf", tag.as_ref()));
        assert!(!other.verify(b"message", tag.as_ref()));
        assert!(!one.verify(b"message", b""));
    }
}
