//! The server's credential at the Hub.

use std::fmt;

use reqwest::header::HeaderValue;

/// A Hub token. Nothing of it can be printed, compared or serialized; its only way out is the `Authorization` header.
#[derive(Clone)]
pub struct Token(HeaderValue);

/// The text cannot be a token. It is not repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the Hub token is empty or has characters that no token has")]
pub struct TokenError;

impl Token {
    /// Takes a token as it stands in a variable or a file: space around it does not count.
    pub fn new(text: &str) -> Result<Self, TokenError> {
        let text = text.trim();
        if text.is_empty() || text.len() > 4096 || !text.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(TokenError);
        }
        let mut value = HeaderValue::from_str(&format!("Bearer {text}")).map_err(|_| TokenError)?;
        value.set_sensitive(true);
        Ok(Self(value))
    }

    /// The value of the `Authorization` header, marked sensitive.
    pub(super) fn header(&self) -> &HeaderValue {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(hidden)")
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("hidden")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_a_token_is_printed() {
        let token = Token::new(" hf_Secret\n").expect("a token");
        let printed = format!("{token} {token:?} {token:#?} {:?}", token.header());
        assert!(!printed.contains("ecret") && !printed.contains("hf_"));
        assert_eq!(token.header().as_bytes(), b"Bearer hf_Secret");
    }

    #[test]
    fn what_no_header_can_carry_is_no_token() {
        for text in ["", " \n", "hf_a b", "hf_\u{e9}", "a\r\nX-Evil: 1", "a\0"] {
            assert_eq!(Token::new(text).err(), Some(TokenError), "{text:?}");
        }
    }
}
