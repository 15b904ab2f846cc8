//! Rules for some repositories: what their images hold, how they are cut, how long their tags are believed, and what is filled ahead.

use std::sync::Arc;
use std::time::Duration;

use crate::image::{Filter, ImageName, Layout};
use crate::oci::Tag;
use crate::repo::{Glob, RepoId};

/// A rule. What it does not say is as without it.
#[derive(Debug, Clone, Default)]
pub struct Rule {
    /// The repositories that it is for, as they are asked for.
    pub matches: Vec<Glob>,
    /// Which of their files images hold.
    pub filter: Option<Arc<Filter>>,
    /// How they are cut into layers.
    pub layout: Option<Layout>,
    /// Whether images are pinned when they are filled.
    pub pin: bool,
    /// How long their tags are believed.
    pub ttl: Option<Duration>,
    /// What is filled when the server starts.
    pub prefetch: Vec<(ImageName, Tag)>,
    /// How often that is done again; never zero.
    pub every: Option<Duration>,
}

impl Rule {
    /// Whether it is for a repository.
    pub fn is_for(&self, repo: &RepoId) -> bool {
        self.has(&repo.folded().to_string())
    }

    fn has(&self, folded: &str) -> bool {
        self.matches.iter().any(|glob| glob.matches(folded))
    }

    /// What a person knows it by: its patterns of repositories.
    pub fn name(&self) -> String {
        let globs: Vec<String> = self.matches.iter().map(Glob::to_string).collect();
        globs.join(", ")
    }
}

/// All rules, in their order.
#[derive(Debug, Clone, Default)]
pub struct Rules(pub Vec<Rule>);

impl Rules {
    /// The first rule that is for a repository.
    pub fn of(&self, repo: &RepoId) -> Option<&Rule> {
        if self.0.is_empty() {
            return None;
        }
        let folded = repo.folded().to_string();
        self.0.iter().find(|rule| rule.has(&folded))
    }
}
