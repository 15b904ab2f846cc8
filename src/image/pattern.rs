//! Patterns of files, as rules have them.

use std::fmt;
use std::str::FromStr;

use crate::repo::wildcard;

/// The longest pattern.
const LONGEST: usize = 256;

/// A pattern of files: `*` stands for any characters of one component, `**`, as a whole component, for any number of components. One
/// without a `/` is for the names of files, wherever they lie. Letter case counts.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Pattern(String);

/// Why a text is no pattern of files.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{0}' is no pattern of files, such as *.safetensors, original/** or README.md: up to 256 bytes without ',' or control characters, \
     relative, '**' as a whole component only"
)]
pub struct PatternError(String);

impl Pattern {
    /// Whether it stands for a file.
    pub fn matches(&self, path: &str) -> bool {
        let text = match self.0.contains('/') {
            true => path,
            false => path.rsplit('/').next().unwrap_or(path),
        };
        self.0 == "**" || wildcard(&self.0, text)
    }

    /// The pattern.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Pattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        let component = |part: &str| {
            let dots = matches!(part, "" | "." | "..");
            !dots && (part == "**" || !part.contains("**"))
        };
        let sound = |c: char| !c.is_control() && c != ',';
        if text.len() <= LONGEST && text.chars().all(sound) && text.split('/').all(component) {
            Ok(Self(text.to_owned()))
        } else {
            Err(PatternError(text.chars().take(100).collect()))
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fits(pattern: &str, path: &str) -> bool {
        pattern.parse::<Pattern>().expect(pattern).matches(path)
    }

    #[test]
    fn a_pattern_without_a_slash_is_for_names_and_one_with_it_for_paths() {
        for (pattern, path, yes) in [
            ("*.safetensors", "model.safetensors", true),
            ("*.safetensors", "unet/model.safetensors", true),
            ("*.safetensors", "model.safetensors.index.json", false),
            ("README.md", "a/README.md", true),
            ("README.md", "readme.md", false),
            ("original/**", "original/a/b", true),
            ("original/**", "x/original/a", false),
            ("**/original/**", "x/original/a", true),
            ("original/*", "original/a/b", false),
            ("a/*.bin", "a/x.bin", true),
            ("/a".trim_start_matches('/'), "b/a", true),
            ("**", "a/b", true),
            ("*", "a/b", true),
            ("[a]?.txt", "[a]?.txt", true),
        ] {
            assert_eq!(fits(pattern, path), yes, "{pattern} {path}");
        }
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        let long = "a".repeat(257);
        for text in [
            "", "/a", "a/", "a//b", "../a", "./a", "a**", "a,b", "a\nb", &long,
        ] {
            assert!(text.parse::<Pattern>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_pattern_full_of_stars_ends_soon() {
        let pattern = "*a".repeat(127);
        let path = format!("{}b", "a/".repeat(60) + &"a".repeat(200));
        assert!(!fits(&pattern, &path));
        let deep = format!("{}x", "**/*a*/".repeat(36));
        assert!(!fits(&deep, &path));
    }
}
