//! Which repositories are served at all: globs over `[datasets/|spaces/]org/name`, in lower case.

use crate::error::{Error, Kind};
use crate::repo::{Glob, RepoId};

/// What is served: everything, unless `deny` has it, or `allow` has patterns and none of them is for it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules {
    /// If there are any, only what one of them stands for is served.
    pub allow: Vec<Glob>,
    /// What one of them stands for is not served, whatever `allow` says.
    pub deny: Vec<Glob>,
}

impl Rules {
    /// Whether everything is served.
    pub fn is_empty(&self) -> bool {
        self.allow.is_empty() && self.deny.is_empty()
    }

    /// Whether `deny` has it, whatever `allow` says.
    pub fn denies(&self, repo: &RepoId) -> bool {
        let text = repo.folded().to_string();
        self.deny.iter().any(|rule| rule.matches(&text))
    }

    /// Refuses what is not served, naming the rule.
    pub fn check(&self, repo: &RepoId) -> Result<(), Error> {
        let text = repo.folded().to_string();
        let refused = |why: String| {
            let message = format!("{repo} is not served here: {why}");
            Err(Error::new(Kind::Denied, message))
        };
        if let Some(rule) = self.deny.iter().find(|rule| rule.matches(&text)) {
            return refused(format!("repositories.deny has '{rule}'"));
        }
        if !self.allow.is_empty() && !self.allow.iter().any(|rule| rule.matches(&text)) {
            let rules: Vec<String> = self.allow.iter().map(Glob::to_string).collect();
            let rules = rules.join("', '");
            return refused(format!("repositories.allow has only '{rules}'"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deny_beats_allow_and_the_rule_is_named() {
        let glob = |text: &str| text.parse::<Glob>().expect(text);
        let rules = Rules {
            allow: vec![glob("org/*"), glob("datasets/**")],
            deny: vec![glob("org/secret*")],
        };
        let told = |id: &str| {
            let repo: RepoId = id.parse().expect("an id");
            rules.check(&repo).map_err(|e| (e.kind, e.message))
        };
        assert_eq!(told("Org/Model"), Ok(()));
        let (kind, message) = told("Org/Secret-1").expect_err("denied");
        assert_eq!(kind, Kind::Denied);
        assert!(
            message.contains("repositories.deny has 'org/secret*'"),
            "{message}"
        );
        let (_, message) = told("gpt2").expect_err("not allowed");
        assert!(
            message.contains("repositories.allow") && message.contains("org/*"),
            "{message}"
        );
        assert!(
            Rules::default()
                .check(&"a/b".parse().expect("an id"))
                .is_ok()
        );
    }
}
