//! Rules for some repositories: `[[repositories]]`, or `[[repositories.rules]]` beside `allow` and `deny`. Of the file only.

use std::fmt::Display;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use toml::de::{DeTable, DeValue};

use super::keys;
use super::source::{ConfigError, Place, scalar};
use super::value::{Switch, Time};
use crate::fill::Rule;
use crate::image::{Filter, ImageName, Pattern};
use crate::oci::Tag;
use crate::repo::{Glob, RepoId};

/// The most rules, and the most values of a list.
const MOST: usize = 1000;

/// The shortest time between two rounds of prefetching.
const SHORTEST: Time = Time(Duration::from_secs(60));

/// The keys of a rule.
const KEYS: [&str; 8] = [
    "match", "include", "exclude", "layout", "pin", "ttl", "prefetch", "every",
];

/// Where a byte of the file is, as errors tell it, for a key of a rule.
type Locate<'a> = dyn Fn(usize, &str) -> Place + 'a;

/// A value of a rule: its texts, and where it stands.
struct Value {
    place: Place,
    texts: Vec<String>,
}

impl Value {
    fn fail(&self, why: impl Into<String>) -> ConfigError {
        ConfigError::new(self.place.clone(), why)
    }

    /// All texts, read.
    fn all<T: FromStr<Err: Display>>(&self) -> Result<Vec<T>, ConfigError> {
        let read = |text: &String| text.parse().map_err(|e: T::Err| self.fail(e.to_string()));
        self.texts.iter().map(read).collect()
    }

    /// The only text, read.
    fn one<T: FromStr<Err: Display>>(&self) -> Result<T, ConfigError> {
        match self.all()?.pop() {
            Some(value) if self.texts.len() == 1 => Ok(value),
            _ => Err(self.fail("one value is expected, not a list")),
        }
    }
}

/// Reads the rules of an array of tables.
pub(super) fn read(
    rules: &[toml::Spanned<DeValue<'_>>],
    locate: &Locate<'_>,
) -> Result<Vec<Rule>, ConfigError> {
    if rules.len() > MOST {
        let why = format!(
            "{} rules are more than the {MOST} that there may be",
            rules.len()
        );
        return Err(ConfigError::new(locate(rules[MOST].span().start, ""), why));
    }
    let mut read: Vec<Rule> = Vec::new();
    for rule in rules {
        let place = locate(rule.span().start, "");
        let DeValue::Table(table) = rule.get_ref() else {
            let why = "a rule is a table: write [[repositories]] and its keys beneath";
            return Err(ConfigError::new(place, why));
        };
        let rule = one(table, place, locate, &read)?;
        read.push(rule);
    }
    Ok(read)
}

/// Reads a rule; those `before` it go first.
fn one(
    table: &DeTable<'_>,
    place: Place,
    locate: &Locate<'_>,
    before: &[Rule],
) -> Result<Rule, ConfigError> {
    if let Some((name, _)) = table
        .iter()
        .find(|(name, _)| !KEYS.contains(&&*name.get_ref().to_string()))
    {
        let text = name.get_ref().to_string();
        let why = match keys::nearest(&text, KEYS) {
            Some(near) => format!("unknown key; did you mean {near}?"),
            None => format!("unknown key; a rule has {}", KEYS.join(", ")),
        };
        return Err(ConfigError::new(locate(name.span().start, &text), why));
    }
    let get = |key: &str| value(table, key, locate);
    let Some(matches) = get("match")? else {
        let why = "match is missing: which repositories the rule is for, such as [\"org/*\"]";
        return Err(ConfigError::new(place, why));
    };
    let globs = matches.all()?;
    if globs.is_empty() {
        return Err(matches.fail("no pattern, so the rule is for no repository"));
    }
    let mut rule = Rule {
        matches: globs,
        filter: filter(get("include")?, get("exclude")?)?,
        layout: get("layout")?.map(|v| v.one()).transpose()?,
        pin: get("pin")?
            .map(|v| v.one::<Switch>())
            .transpose()?
            .is_some_and(|pin| pin.0),
        ttl: get("ttl")?
            .map(|v| v.one::<Time>())
            .transpose()?
            .map(|ttl| ttl.0),
        ..Rule::default()
    };
    let wanted = get("prefetch")?;
    if let Some(wanted) = &wanted {
        rule.prefetch = prefetch(wanted, &rule, before)?;
    }
    if let Some(every) = get("every")? {
        let Time(time) = every.one()?;
        if rule.prefetch.is_empty() {
            return Err(every.fail("prefetch is missing: it is what is done again"));
        }
        if time < SHORTEST.0 {
            return Err(every.fail(format!(
                "{} is too little; {SHORTEST} is the least",
                Time(time)
            )));
        }
        rule.every = Some(time);
    }
    Ok(rule)
}

/// The value of a key, if it is there: a scalar, or an array of some.
fn value(
    table: &DeTable<'_>,
    key: &str,
    locate: &Locate<'_>,
) -> Result<Option<Value>, ConfigError> {
    let Some((name, value)) = table.iter().find(|(name, _)| name.get_ref() == key) else {
        return Ok(None);
    };
    let place = locate(name.span().start, key);
    let texts = match value.get_ref() {
        DeValue::Array(values) => values.iter().map(|v| scalar(v.get_ref())).collect(),
        value => scalar(value).map(|text| vec![text]),
    };
    match texts {
        Ok(texts) if texts.len() > MOST => {
            let why = format!("{} values are more than the {MOST} of a list", texts.len());
            Err(ConfigError::new(place, why))
        }
        Ok(texts) => Ok(Some(Value { place, texts })),
        Err(why) => Err(ConfigError::new(place, why)),
    }
}

fn filter(
    include: Option<Value>,
    exclude: Option<Value>,
) -> Result<Option<Arc<Filter>>, ConfigError> {
    let Some(last) = exclude.as_ref().or(include.as_ref()) else {
        return Ok(None);
    };
    let patterns = |list: &Option<Value>| -> Result<Vec<Pattern>, ConfigError> {
        list.as_ref().map_or(Ok(Vec::new()), Value::all)
    };
    let filter = Filter::new(patterns(&include)?, patterns(&exclude)?);
    let filter = filter.map_err(|error| last.fail(error.to_string()))?;
    Ok(Some(Arc::new(filter)))
}

/// What a rule wants prefetched: `NAME`, `NAME:TAG`, or `:TAG` for each repository that it is for.
fn prefetch(
    wanted: &Value,
    rule: &Rule,
    before: &[Rule],
) -> Result<Vec<(ImageName, Tag)>, ConfigError> {
    let mut out = Vec::new();
    for text in &wanted.texts {
        let fail = |error: &dyn Display| wanted.fail(format!("'{text}': {error}"));
        let (name, tag) = text.rsplit_once(':').unwrap_or((text, "latest"));
        let tag: Tag = tag.parse().map_err(|e| fail(&e))?;
        let names = match name {
            "" => every_name(rule).map_err(|why| fail(&why))?,
            name => vec![name.to_owned()],
        };
        for name in names {
            let name = ImageName::parse(&name).map_err(|e| fail(&e))?;
            if !rule.is_for(name.repo()) {
                return Err(fail(&"the rule is not for this repository"));
            }
            if let Some(first) = before.iter().find(|rule| rule.is_for(name.repo())) {
                let why = format!("the rule of {} is for this repository before", first.name());
                return Err(fail(&why));
            }
            out.push((name, tag.clone()));
        }
    }
    Ok(out)
}

/// The names of all repositories that a rule is for.
fn every_name(rule: &Rule) -> Result<Vec<String>, String> {
    let spell = |glob: &Glob| {
        if !glob.is_plain() {
            return Err(format!("{glob} has no end of repositories; name them"));
        }
        let repo: RepoId = glob
            .to_string()
            .parse()
            .map_err(|e| format!("{glob}: {e}"))?;
        Ok(ImageName::spell(&repo, ""))
    };
    rule.matches.iter().map(spell).collect()
}
