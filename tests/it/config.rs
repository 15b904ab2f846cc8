//! Promise: a setting comes from its flag, else the environment, else the file, else the default; and a wrong one is an error that
//! says where it stands and what is expected.

use std::path::Path;
use std::time::Duration;

use hf_oci::config::{AuthMode, Environment, Flags, KEYS, LogFormat, Settings, Sources};
use hf_oci::image::Layout;

const EXAMPLE: &str = include_str!("../../config.example.toml");

/// Settings from all places, with `/data` as the folder for data.
fn resolve(
    flags: &[(&'static str, &str)],
    env: &[(&str, &str)],
    file: Option<&str>,
) -> Result<Settings, String> {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("hf-oci.toml");
    if let Some(text) = file {
        std::fs::write(&path, text).expect("a file");
    }
    let flags: Flags = flags.iter().map(|(k, v)| (*k, (*v).to_owned())).collect();
    let env: Environment = env.iter().copied().collect();
    let env = env.with_data_home("/data");
    let sources = Sources::load(flags, file.map(|_| path.as_path()), env);
    let settings = sources.and_then(|sources| Settings::resolve(&sources));
    settings.map_err(|error| {
        let text = error.to_string();
        text.replace(&dir.path().display().to_string(), "DIR")
    })
}

fn error(flags: &[(&'static str, &str)], env: &[(&str, &str)], file: Option<&str>) -> String {
    resolve(flags, env, file).expect_err("an error")
}

#[test]
fn without_any_setting_the_server_starts_on_the_loopback() {
    let settings = resolve(&[], &[], None).expect("defaults");
    assert_eq!(settings.listen.to_string(), "127.0.0.1:5000");
    assert_eq!(settings.data_dir, Path::new("/data/hf-oci"));
    assert_eq!(settings.tag_ttl, Duration::from_secs(300));
    assert_eq!(settings.log_format, LogFormat::Text);
    assert!(format!("{:?}", settings.upstream).contains("huggingface.co"));
    assert!(!settings.upstream.has_token());
    assert_eq!(settings.fill.memory, 128 << 20);
    assert_eq!(settings.fill.connections, 8);
    assert!(settings.fill.layers >= 1);
    assert_eq!(settings.fill.layout, Layout::Split);
    assert_eq!(settings.registry.wait, Duration::from_secs(20));
    assert_eq!(settings.registry.drip, Duration::from_secs(15));
    assert_eq!(settings.server.drain, Duration::from_secs(30));
    assert_eq!(settings.server.max_connections, 10_000);
    assert_eq!(settings.server.stall_timeout, Duration::from_secs(600));
    assert_eq!(settings.fill.concurrent, 8);
    assert_eq!(settings.registry.max_waiting, 1000);
    assert!(settings.tls.is_none());
}

#[test]
fn the_example_holds_every_default() {
    let plain = resolve(&[], &[], None).expect("defaults");
    let example = resolve(&[], &[], Some(EXAMPLE)).expect("the example");
    assert_eq!(format!("{example:#?}"), format!("{plain:#?}"));
}

#[test]
fn the_example_names_every_key_flag_and_variable() {
    let mut section = String::new();
    let mut named = Vec::new();
    for line in EXAMPLE.lines() {
        if let Some(name) = line.strip_prefix('[') {
            section = name.replace(']', ".");
        }
        let line = line.strip_prefix("# ").unwrap_or(line);
        let (name, _) = line.split_once(" = ").unwrap_or_default();
        if !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_') {
            named.push(format!("{section}{name}"));
        }
    }
    let keys: Vec<_> = KEYS.iter().map(|key| key.path).collect();
    assert_eq!(named, keys);
    for key in KEYS {
        let names = format!("[--{}, {}]", key.flag, key.env.join(", "));
        assert!(EXAMPLE.contains(&names), "{names}");
        if let Some(default) = key.default {
            let (_, name) = key.path.rsplit_once('.').unwrap_or(("", key.path));
            let text = format!("\n{name} = \"{default}\"\n");
            let number = format!("\n{name} = {default}\n");
            assert!(
                EXAMPLE.contains(&text) || EXAMPLE.contains(&number),
                "{text}"
            );
        }
    }
}

#[test]
fn what_the_example_has_in_comments_can_be_used() {
    let mut text = String::new();
    for line in EXAMPLE.lines() {
        let (name, _) = line
            .trim_start_matches("# ")
            .split_once(" = ")
            .unwrap_or_default();
        let is_key = KEYS
            .iter()
            .any(|key| key.path.rsplit('.').next() == Some(name));
        let line = if is_key {
            line.trim_start_matches("# ")
        } else {
            line
        };
        text.push_str(line);
        text.push('\n');
    }
    let text = text.replace("/run/secrets/hf-token", "DIR-DOES-NOT-EXIST");
    let text = text.replace("mode = \"none\"", "mode = \"htpasswd\"");
    let settings = resolve(&[], &[("HF_TOKEN", "hf_x")], Some(&text)).expect("settings");
    assert_eq!(settings.data_dir, Path::new("/var/lib/hf-oci"));
    assert_eq!(settings.fill.layers, 4);
    assert_eq!(settings.cache.max_size, Some(500 << 30));
}

#[test]
fn a_flag_beats_the_environment_which_beats_the_file_which_beats_the_default() {
    let flag: &[_] = &[("fill.memory", "64MiB")];
    let env: &[_] = &[("HF_OCI_FILL_MEMORY", "96MiB")];
    let file = Some("[fill]\nmemory = \"256MiB\"\n");
    let memory = |flags, env, file| resolve(flags, env, file).expect("settings").fill.memory >> 20;
    assert_eq!(memory(flag, env, file), 64);
    assert_eq!(memory(&[], env, file), 96);
    assert_eq!(memory(&[], &[], file), 256);
    assert_eq!(memory(&[], &[], None), 128);
}

#[test]
fn every_key_works_in_every_place() {
    for key in KEYS {
        let wrong = |place: Result<Settings, String>| place.expect_err(key.path);
        // A value that no setting takes: none is a path that exists, a number, a size, a time, an address or a choice.
        let bad = "~nobody/nothing";
        let (section, name) = key.path.rsplit_once('.').unwrap_or(("", key.path));
        let head = if section.is_empty() {
            String::new()
        } else {
            format!("[{section}]\n")
        };
        let toml = format!("{head}{name} = \"{bad}\"\n");
        let line = toml.lines().count();
        if key.path == "data_dir" {
            continue;
        }
        let told = wrong(resolve(&[(key.path, bad)], &[], None));
        assert!(told.starts_with(&format!("--{}: ", key.flag)), "{told}");
        for env in key.env {
            let told = wrong(resolve(&[], &[(env, bad)], None));
            assert!(
                told.starts_with(&format!("environment variable {env}: ")),
                "{told}"
            );
        }
        let told = wrong(resolve(&[], &[], Some(&toml)));
        let place = format!("DIR/hf-oci.toml:{line}: {}: ", key.path);
        assert!(told.starts_with(&place), "{told}");
    }
}

#[test]
fn an_empty_variable_is_not_set() {
    let env: Vec<_> = KEYS
        .iter()
        .flat_map(|key| key.env)
        .map(|env| (*env, ""))
        .collect();
    let settings = resolve(&[], &env, None).expect("settings");
    assert_eq!(settings.listen.to_string(), "127.0.0.1:5000");
    assert!(resolve(&[], &[("HF_OCI_CONFIG", ""), ("HF_TOKEN", "")], None).is_ok());
}

#[test]
fn unknown_keys_are_errors_with_file_line_and_key() {
    assert_eq!(
        error(&[], &[], Some("# mine\n[fill]\nmemroy = \"1GiB\"\n")),
        "DIR/hf-oci.toml:3: fill.memroy: unknown key; did you mean fill.memory?"
    );
    assert_eq!(
        error(&[], &[], Some("[colours]\nred = 1\n")),
        "DIR/hf-oci.toml:1: colours: unknown key; config.example.toml has them all"
    );
    let token = error(&[], &[], Some("upstream = { token = \"hf_secret\" }"));
    assert!(
        token.contains("upstream.token: ") && token.contains("HF_TOKEN"),
        "{token}"
    );
    assert!(!token.contains("hf_secret"), "{token}");
    let section = error(&[], &[], Some("upstream = \"https://mirror\""));
    assert!(section.contains("write [upstream]"), "{section}");
}

#[test]
fn wrong_values_say_what_is_expected() {
    assert_eq!(
        error(&[], &[("HF_OCI_TAG_TTL", "300")], None),
        "environment variable HF_OCI_TAG_TTL: '300' is not a length of time with its unit, such as 500ms, 30s, 5m or 1h 30m (at most a year)"
    );
    assert_eq!(
        error(&[("fill.memory", "16MiB")], &[], None),
        "--fill-memory: 16MiB is too little; 32MiB is the least"
    );
    assert_eq!(
        error(&[], &[], Some("[fill]\nconnections = 0\n")),
        "DIR/hf-oci.toml:2: fill.connections: 0 is not between 1 and 256"
    );
    assert_eq!(
        error(&[], &[], Some("\nlisten = [1]\n")),
        "DIR/hf-oci.toml:2: listen: a string or a whole number is expected, not array"
    );
    let syntax = error(&[], &[], Some("# x\nlisten = 127.0.0.1\n"));
    assert!(syntax.starts_with("DIR/hf-oci.toml:2: "), "{syntax}");
    let zero = error(&[("registry.drip", "0s")], &[], None);
    assert!(zero.contains("too little"), "{zero}");
}

#[test]
fn lists_are_arrays_in_the_file_and_have_commas_elsewhere() {
    let list = "[repositories]\nallow = [\"Org/*\", \"datasets/**\"]\ndeny = []\n";
    let told = |settings: Result<Settings, String>| {
        let rules = settings.expect("settings").repositories;
        let texts = |globs: &[hf_oci::auth::Glob]| {
            globs.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        (texts(&rules.allow), texts(&rules.deny))
    };
    let two = vec!["org/*".to_owned(), "datasets/**".to_owned()];
    assert_eq!(told(resolve(&[], &[], Some(list))), (two.clone(), vec![]));
    let env = [("HF_OCI_REPOSITORIES_DENY", "org/*, datasets/**")];
    assert_eq!(told(resolve(&[], &env, None)), (vec![], two));
    let wrong = error(&[], &[], Some("[repositories]\nallow = [[1]]\n"));
    assert!(wrong.contains("allow: a string or"), "{wrong}");
}

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

#[test]
fn a_mode_with_users_wants_their_file() {
    let wrong = error(&[("auth.mode", "htpasswd")], &[], None);
    assert!(
        wrong.starts_with("--auth-mode: auth.htpasswd_file is missing"),
        "{wrong}"
    );
    let file = ("HF_OCI_AUTH_HTPASSWD_FILE", "/users");
    let open = error(&[], &[file], None);
    assert!(open.contains("auth.mode is not htpasswd"), "{open}");
    let settings = resolve(&[("auth.mode", "htpasswd")], &[file], None).expect("settings");
    assert_eq!(settings.auth.mode, AuthMode::Htpasswd("/users".into()));
    assert_eq!(settings.auth.ttl, Duration::from_secs(300));
    assert!(!settings.upstream.share_private);
}

#[test]
fn the_file_can_be_named_by_flag_or_variable_and_must_be_there() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("x.toml");
    std::fs::write(&path, "listen = \"127.0.0.1:7\"").expect("a file");
    let env = |path: &Path| -> Environment {
        [("HF_OCI_CONFIG", path.as_os_str())].into_iter().collect()
    };
    let sources =
        Sources::load(Flags::new(), None, env(&path).with_data_home("/d")).expect("sources");
    assert_eq!(
        Settings::resolve(&sources).expect("settings").listen.port,
        7
    );

    let missing = dir.path().join("missing.toml");
    let told = Sources::load(Flags::new(), None, env(&missing))
        .expect_err("none")
        .to_string();
    assert!(
        told.starts_with("environment variable HF_OCI_CONFIG: cannot read /"),
        "{told}"
    );
    let told = Sources::load(Flags::new(), Some(&missing), Environment::default());
    let told = told.expect_err("none").to_string();
    assert!(told.starts_with("--config: cannot read /"), "{told}");
}

#[test]
fn the_hubs_own_variables_count() {
    let upstream = |env: &[(&str, &str)]| {
        let settings = resolve(&[], env, None).expect("settings");
        format!("{:?}", settings.upstream.origins)
    };
    assert!(upstream(&[("HF_ENDPOINT", "https://mirror.example")]).contains("mirror.example"));
    let both: &[_] = &[
        ("HF_ENDPOINT", "https://other.example"),
        ("HF_OCI_UPSTREAM", "https://mirror.example"),
    ];
    assert!(upstream(both).contains("mirror.example"));
}

/// A folder with a token file of each kind.
struct Tokens {
    dir: tempfile::TempDir,
}

impl Tokens {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        for path in ["home/.cache/huggingface", "hf"] {
            std::fs::create_dir_all(dir.path().join(path)).expect("a folder");
        }
        for path in ["home/.cache/huggingface/token", "hf/token", "named"] {
            std::fs::write(dir.path().join(path), "hf_good\n").expect("a file");
        }
        std::fs::write(dir.path().join("bad"), "hf_bad\0").expect("a file");
        std::fs::write(dir.path().join("blank"), " \n").expect("a file");
        Self { dir }
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    /// Whether there is a token, or the error.
    fn find(&self, flag: &str, env: &[(&str, &str)], file: &str) -> Result<bool, String> {
        let place = |name: &str| {
            if name.starts_with("hf_") {
                name.to_owned()
            } else {
                self.path(name)
            }
        };
        let env: Vec<_> = env.iter().map(|(k, v)| (*k, place(v))).collect();
        let env: Vec<_> = env.iter().map(|(k, v)| (*k, v.as_str())).collect();
        let path = self.path(flag);
        let flags: &[_] = if flag.is_empty() {
            &[]
        } else {
            &[("upstream.token_file", path.as_str())]
        };
        let file = (!file.is_empty())
            .then(|| format!("[upstream]\ntoken_file = \"{}\"\n", self.path(file)));
        resolve(flags, &env, file.as_deref()).map(|settings| settings.upstream.has_token())
    }
}

#[test]
fn the_token_is_found_where_the_hubs_tools_keep_it() {
    let tokens = Tokens::new();
    assert_eq!(tokens.find("", &[], ""), Ok(false));
    assert_eq!(tokens.find("", &[("HF_TOKEN", "hf_x")], ""), Ok(true));
    assert_eq!(tokens.find("", &[("HOME", "home")], ""), Ok(true));
    assert_eq!(
        tokens.find("", &[("HF_HOME", "hf"), ("HOME", "nowhere")], ""),
        Ok(true)
    );
    assert_eq!(
        tokens.find("", &[("XDG_CACHE_HOME", "home/.cache")], ""),
        Ok(true)
    );
    assert_eq!(
        tokens.find("", &[("HF_HOME", "nowhere"), ("HOME", "home")], ""),
        Ok(false)
    );
    assert_eq!(tokens.find("", &[("HF_TOKEN_PATH", "named")], ""), Ok(true));
    assert_eq!(
        tokens.find("", &[("HF_TOKEN_PATH", "nowhere"), ("HOME", "home")], ""),
        Ok(false)
    );
    assert_eq!(tokens.find("", &[], "named"), Ok(true));
    assert_eq!(tokens.find("named", &[], ""), Ok(true));
}

#[test]
fn the_tokens_places_have_the_order_of_all_settings() {
    let tokens = Tokens::new();
    // Where a bad one is told, it was the one that counted.
    let bad = |flag, env: &[(&str, &str)], file| tokens.find(flag, env, file).is_err();
    assert!(bad("bad", &[("HF_TOKEN", "hf_x")], "named"));
    assert!(!bad(
        "",
        &[("HF_TOKEN", "hf_x"), ("HF_OCI_UPSTREAM_TOKEN_FILE", "bad")],
        "bad"
    ));
    assert!(bad(
        "",
        &[
            ("HF_OCI_UPSTREAM_TOKEN_FILE", "bad"),
            ("HF_TOKEN_PATH", "named")
        ],
        "named"
    ));
    assert!(bad("", &[("HF_TOKEN_PATH", "bad")], "named"));
    assert!(bad("", &[("HOME", "home")], "bad"));
}

#[test]
fn a_token_file_that_a_setting_names_must_hold_a_token() {
    let tokens = Tokens::new();
    for name in ["nowhere", "blank", "bad"] {
        let told = tokens.find(name, &[], "").expect_err(name);
        assert!(told.starts_with("--upstream-token-file: "), "{told}");
        assert!(
            told.contains(&tokens.path(name)) && !told.contains("hf_bad"),
            "{told}"
        );
    }
    let told = tokens
        .find("", &[("HF_TOKEN", "hf_a\nb")], "")
        .expect_err("no token");
    assert!(
        told.starts_with("environment variable HF_TOKEN: ") && !told.contains("hf_a"),
        "{told}"
    );
}

#[test]
fn a_token_never_prints() {
    let settings = resolve(&[], &[("HF_TOKEN", "hf_secret")], None).expect("settings");
    assert!(settings.upstream.has_token());
    assert!(!format!("{settings:?}{settings:#?}").contains("secret"));
}

#[test]
fn variables_that_are_no_settings_are_told() {
    let env: Environment = [
        ("HF_OCI_FILL_MEMROY", "1GiB"),
        ("HF_OCI_SERVICE_HOST", "10.0.0.1"),
        ("HF_OCI_PORT", "tcp://10.0.0.1:5000"),
        ("HF_OCI_PORT_5000_TCP_PORT", "5000"),
        ("HF_OCI_CONFIG", ""),
        ("HF_HUB_OFFLINE", "1"),
    ]
    .into_iter()
    .collect();
    let sources = Sources::load(Flags::new(), None, env).expect("sources");
    assert_eq!(
        sources.warnings(),
        [
            "the environment variable HF_OCI_FILL_MEMROY is no setting; did you mean HF_OCI_FILL_MEMORY?"
        ]
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
    let page = include_str!("../../docs/mirrors.md");
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
