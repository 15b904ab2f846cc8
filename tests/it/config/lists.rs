//! Promise: the lists that only a file can have, of upstreams and of rules, are read as they stand, and what is wrong is told with its line.

use std::time::Duration;

use hf_oci::image::Layout;

use super::{EXAMPLE, Tokens, error, resolve};

#[test]
fn upstreams_are_a_list_of_which_each_has_its_own_token_and_patterns() {
    let tokens = Tokens::new();
    let lines = EXAMPLE.lines().filter_map(|line| line.strip_prefix("#   "));
    let block: String = lines
        .skip_while(|line| *line != "[[upstreams]]")
        .take_while(|line| line.starts_with('[') || line.contains(" = "))
        .map(|line| format!("{line}\n"))
        .collect();
    let block = block.replace("/run/secrets/mirror-token", &tokens.path("named"));
    let hub = "[[upstreams]]\nurl = \"https://huggingface.co\"\n";
    let settings = resolve(&[], &[("HF_TOKEN", "hf_x")], Some(&format!("{block}{hub}")));
    let origins = settings.expect("settings").upstream.origins;
    let told: Vec<_> = origins
        .iter()
        .map(|o| (o.address.to_string(), o.token.is_some(), o.public))
        .collect();
    assert_eq!(
        told,
        [
            ("/srv/models".to_owned(), false, Some(true)),
            ("https://mirror.example".to_owned(), true, None),
            ("https://huggingface.co".to_owned(), true, None),
        ]
    );
    let rules = &origins[0].repositories;
    assert_eq!((rules.allow.len(), rules.deny.len()), (1, 1));
    // The Hub's token is not for a mirror.
    let mirror = "[[upstreams]]\nurl = \"https://mirror.example\"\n";
    let settings = resolve(&[], &[("HF_TOKEN", "hf_x")], Some(mirror)).expect("settings");
    assert!(!settings.upstream.has_token());
}

#[test]
fn a_wrong_upstream_is_told_with_its_line() {
    for (file, told) in [
        (
            "[[upstreams]]\nallow = []\n",
            "DIR/hf-oci.toml:1: upstreams.url: an upstream wants a url",
        ),
        (
            "[[upstreams]]\nurl = \"models\"\n",
            "DIR/hf-oci.toml:2: upstreams.url: ",
        ),
        (
            "[[upstreams]]\nurl = \"/x\"\nalow = []\n",
            "DIR/hf-oci.toml:3: upstreams.alow: unknown key; did you mean allow?",
        ),
        (
            "[[upstreams]]\ntoken = \"hf_secret\"\n",
            "DIR/hf-oci.toml:2: upstreams.token: unknown key; a token does not belong",
        ),
        (
            "[[upstreams]]\nurl = \"/x\"\ntoken_file = \"t\"\n",
            "DIR/hf-oci.toml:3: upstreams.token_file: a folder is asked without",
        ),
        (
            "[[upstreams]]\nurl = \"https://x\"\npublic = true\n",
            "DIR/hf-oci.toml:3: upstreams.public: only a folder",
        ),
        (
            "[[upstreams]]\nurl = \"/x\"\npublic = 7\n",
            "DIR/hf-oci.toml:3: upstreams.public: '7' is not true or false",
        ),
        (
            "[[upstreams]]\nurl = \"/x\"\nallow = [\"a b\"]\n",
            "DIR/hf-oci.toml:3: upstreams.allow: 'a b' is no pattern",
        ),
        (
            "[[upstreams]]\nurl = \"https://x\"\ntoken_file = \"/none\"\n",
            "DIR/hf-oci.toml:3: upstreams.token_file: there is no file /none",
        ),
        (
            "upstreams = \"/x\"\n",
            "DIR/hf-oci.toml:1: upstreams: this is a list; write [[upstreams]]",
        ),
        (
            "upstreams = [1]\n",
            "DIR/hf-oci.toml:1: upstreams: this is a list; write [[upstreams]]",
        ),
        (
            "[upstream]\nurl = \"/y\"\n[[upstreams]]\nurl = \"/x\"\n",
            "DIR/hf-oci.toml:2: upstream.url: there are [[upstreams]] too",
        ),
        (
            "[upstream]\ntoken_file = \"/t\"\n[[upstreams]]\nurl = \"https://huggingface.co\"\n",
            "DIR/hf-oci.toml:2: upstream.token_file: there are [[upstreams]]; set token_file in the entry",
        ),
    ] {
        let error = error(&[], &[], Some(file));
        assert!(error.starts_with(told), "{error}");
        assert!(!error.contains("hf_secret"), "{error}");
    }
}

#[test]
fn the_upstream_may_be_a_path_and_a_flag_beats_the_list() {
    let shown = |flags: &[(&'static str, &str)], env: &[(&str, &str)], file| {
        let origins = resolve(flags, env, file)
            .expect("settings")
            .upstream
            .origins;
        let shown: Vec<_> = origins.iter().map(|o| o.address.to_string()).collect();
        shown.join(" ")
    };
    let home: &[_] = &[("HOME", "/home/me")];
    for (text, path) in [
        ("/srv/models", "/srv/models"),
        ("./models", "./models"),
        ("..", ".."),
        ("~/models", "/home/me/models"),
        ("file:///srv/models", "/srv/models"),
    ] {
        assert_eq!(shown(&[("upstream.url", text)], home, None), path);
    }
    for wrong in ["models", "file://models", "~nobody/x", "oci://proxy:5000"] {
        assert!(
            resolve(&[("upstream.url", wrong)], &[], None).is_err(),
            "{wrong}"
        );
    }
    let list = Some("[[upstreams]]\nurl = \"/a\"\n[[upstreams]]\nurl = \"/b\"\n");
    assert_eq!(shown(&[], &[], list), "/a /b");
    assert_eq!(shown(&[("upstream.url", "/c")], &[], list), "/c");
    assert_eq!(
        shown(&[], &[("HF_ENDPOINT", "https://mirror")], list),
        "https://mirror"
    );
}
/// The rules of a file.
fn rules(text: &str) -> Result<Vec<hf_oci::fill::Rule>, String> {
    resolve(&[], &[], Some(text)).map(|settings| settings.rules.0.clone())
}

#[test]
fn rules_are_tables_of_the_file_in_their_order() {
    let text = r#"
[[repositories]]
match = ["org/model-gguf", "Org/Other"]
exclude = ["*.bin", "original/**"]
include = "**"
layout = "single"
pin = true
ttl = "1h"
prefetch = [":q4_k_m", "org/other:v1", "org/other"]
every = "6h"

[[repositories]]
match = "datasets/**"
"#;
    let rules = rules(text).expect("rules");
    let first = &rules[0];
    assert_eq!(first.name(), "org/model-gguf, org/other");
    let filter = first.filter.as_ref().expect("a filter").to_string();
    assert_eq!(filter, "include **; exclude *.bin, original/**");
    assert_eq!((first.layout, first.pin), (Some(Layout::Single), true));
    let hours = |h: u64| Some(Duration::from_secs(3600 * h));
    assert_eq!((first.ttl, first.every), (hours(1), hours(6)));
    let wanted = first.prefetch.iter().map(|(n, t)| format!("{n}:{t}"));
    let wanted: Vec<String> = wanted.collect();
    assert_eq!(
        wanted,
        [
            "org/model-gguf:q4_k_m",
            "org/other:q4_k_m",
            "org/other:v1",
            "org/other:latest"
        ]
    );
    assert_eq!(rules[1].name(), "datasets/**");
    assert!(rules[1].filter.is_none() && !rules[1].pin);
}

#[test]
fn rules_stand_beside_what_is_served() {
    let text = "[repositories]\nallow = [\"org/*\"]\n[[repositories.rules]]\nmatch = \"org/a\"\n";
    let settings = resolve(&[], &[], Some(text)).expect("settings");
    assert_eq!(settings.repositories.allow.len(), 1);
    assert_eq!(settings.rules.0.len(), 1);
    let both = "[repositories]\nallow = [\"org/*\"]\n[[repositories]]\nmatch = \"org/a\"\n";
    let told = rules(both).expect_err("two of a name");
    assert!(
        told.contains("write rules as [[repositories.rules]]"),
        "{told}"
    );
}

#[test]
fn a_wrong_rule_is_told_with_its_line() {
    for (lines, wanted) in [
        (
            "pin = true",
            "DIR/hf-oci.toml:1: repositories: match is missing",
        ),
        (
            "match = []",
            "DIR/hf-oci.toml:2: repositories.match: no pattern",
        ),
        ("match = \"[a]\"", "'[a]' is no pattern of repositories"),
        (
            "match = \"a/b\"\nexlude = \"x\"",
            "DIR/hf-oci.toml:3: repositories.exlude: unknown key; did you mean exclude?",
        ),
        (
            "match = \"a/b\"\nexclude = [\"a//b\"]",
            "DIR/hf-oci.toml:3: repositories.exclude: 'a//b' is no pattern of files",
        ),
        (
            "match = \"a/b\"\nlayout = \"odd\"",
            "repositories.layout: 'odd' is no layout",
        ),
        (
            "match = \"a/b\"\npin = [true, true]",
            "repositories.pin: one value",
        ),
        (
            "match = \"a/b\"\nttl = 5",
            "repositories.ttl: '5' is not a length of time",
        ),
        (
            "match = \"a/b\"\nevery = \"1h\"",
            "repositories.every: prefetch is missing",
        ),
        (
            "match = \"a/b\"\nprefetch = \":x\"\nevery = \"1s\"",
            "repositories.every: 1s is too little; 1m is the least",
        ),
        (
            "match = \"a/*\"\nprefetch = \":x\"",
            "repositories.prefetch: ':x': a/* has no end of repositories",
        ),
        (
            "match = \"a/*\"\nprefetch = \"b/c:x\"",
            "'b/c:x': the rule is not for this repository",
        ),
        (
            "match = \"a/*\"\nprefetch = \"a/B:x\"",
            "'a/B:x': 'B' is not a component",
        ),
        (
            "match = \"**\"\n[[repositories]]\nmatch = \"a/*\"\nprefetch = \"a/b\"",
            "the rule of ** is for this repository before",
        ),
    ] {
        let told = rules(&format!("[[repositories]]\n{lines}\n")).expect_err(lines);
        assert!(told.contains(wanted), "{told}");
    }
    let many = format!(
        "[[repositories]]\nmatch = \"a/b\"\nexclude = [{}]\n",
        "\"x\",".repeat(33)
    );
    let told = rules(&many).expect_err("too many");
    assert!(told.contains("33 patterns are more than the 32"), "{told}");
    let told = rules("repositories = [1]").expect_err("no table");
    assert!(told.contains("write [[repositories]]"), "{told}");
}

#[test]
fn the_rules_that_the_documents_show_can_be_used() {
    let page = include_str!("../../../docs/mirrors.md");
    let (_, rest) = page.split_once("## Rules").expect("the section");
    let (_, rest) = rest.split_once("```toml\n").expect("a block");
    let (block, _) = rest.split_once("```").expect("its end");
    let shown = rules(block).expect("rules");
    assert_eq!(shown.len(), 2);
    assert!(!shown[1].prefetch.is_empty());

    let (_, rest) = EXAMPLE
        .split_once("# [[repositories.rules]]\n")
        .expect("the example");
    let lines = rest.lines().take_while(|line| line.starts_with("#     "));
    let lines: Vec<&str> = lines.map(|line| line.trim_start_matches('#')).collect();
    let shown = rules(&format!("[[repositories.rules]]\n{}\n", lines.join("\n"))).expect("a rule");
    let keys = lines.iter().filter(|line| line.contains(" = "));
    assert_eq!((shown.len(), keys.count()), (1, 8));
}
