//! Promise: a setting comes from its flag, else the environment, else the file, else the default; and a wrong one is an error that
//! says where it stands and what is expected.

mod lists;

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
