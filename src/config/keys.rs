//! The table of settings: one row a key. Flags, environment variables, the file's keys and the help are all read from it.

/// The [`Key::value`] of settings that are on or off: their flags may stand without a value.
pub const SWITCH: &str = "BOOL";

/// The [`Key::value`] of settings that are lists: arrays in the file, with commas between elsewhere.
pub const LIST: &str = "LIST";

/// A setting, as the command line, the environment and the file name it.
#[derive(Debug)]
pub struct Key {
    /// Its path in the file: `section.key`, or `key` at the top.
    pub path: &'static str,
    /// Its flag, without the dashes.
    pub flag: &'static str,
    /// Its environment variables; the first one that is set and not empty counts.
    pub env: &'static [&'static str],
    /// What the help calls its value.
    pub value: &'static str,
    /// The default, spelled as in the file; `None` where the machine decides.
    pub default: Option<&'static str>,
    /// What it is, for the help.
    pub help: &'static str,
}

/// Every setting, in the order of `config.example.toml`. To add one: a row here, its field and its line in
/// [`Settings::resolve`](super::Settings::resolve), and its entry in `config.example.toml` (tests compare the three).
#[rustfmt::skip]
pub const KEYS: &[Key] = &[
    Key { path: "listen", flag: "listen", env: &["HF_OCI_LISTEN"], value: "HOST:PORT", default: Some("127.0.0.1:5000"),
          help: "Address that the registry is served on" },
    Key { path: "data_dir", flag: "data-dir", env: &["HF_OCI_DATA_DIR"], value: "DIR", default: None,
          help: "Folder of the cache, an OCI image layout [default: hf-oci in the platform's data folder]" },
    Key { path: "public_url", flag: "public-url", env: &["HF_OCI_PUBLIC_URL"], value: "URL", default: None,
          help: "Address by which clients reach the server, for logins [default: the one that each request comes by]" },
    Key { path: "tag_ttl", flag: "tag-ttl", env: &["HF_OCI_TAG_TTL"], value: "TIME", default: Some("5m"),
          help: "How long a branch or tag is believed before the upstream is asked again" },
    Key { path: "offline", flag: "offline", env: &["HF_OCI_OFFLINE", "HF_HUB_OFFLINE"], value: SWITCH, default: Some("false"),
          help: "Serve what is cached and never ask the upstream" },
    Key { path: "log", flag: "log", env: &["HF_OCI_LOG"], value: "FILTER", default: Some("info"),
          help: "Level (error, warn, info, debug, trace) or a filter such as info,hf_oci::fill=debug" },
    Key { path: "log_format", flag: "log-format", env: &["HF_OCI_LOG_FORMAT"], value: "FORMAT", default: Some("text"),
          help: "Form of the log on stderr: text or json" },
    Key { path: "upstream.url", flag: "upstream", env: &["HF_OCI_UPSTREAM", "HF_ENDPOINT"], value: "URL|DIR", default: Some("https://huggingface.co"),
          help: "The Hub, a mirror of it, a folder of repositories, or a Hugging Face cache" },
    Key { path: "upstream.token_file", flag: "upstream-token-file", env: &["HF_OCI_UPSTREAM_TOKEN_FILE"], value: "FILE", default: None,
          help: "File with the Hub token; HF_TOKEN beats it [default: HF_TOKEN_PATH, then $HF_HOME/token]" },
    Key { path: "upstream.connect_timeout", flag: "upstream-connect-timeout", env: &["HF_OCI_UPSTREAM_CONNECT_TIMEOUT"], value: "TIME", default: Some("10s"),
          help: "How long a connection to the upstream may take to open" },
    Key { path: "upstream.stall_timeout", flag: "upstream-stall-timeout", env: &["HF_OCI_UPSTREAM_STALL_TIMEOUT"], value: "TIME", default: Some("30s"),
          help: "How long the upstream may send nothing before the request is tried again" },
    Key { path: "upstream.share_private", flag: "upstream-share-private", env: &["HF_OCI_UPSTREAM_SHARE_PRIVATE"], value: SWITCH, default: Some("false"),
          help: "Without logins, serve what the server's Hub token opens to whoever reaches the server" },
    Key { path: "auth.mode", flag: "auth-mode", env: &["HF_OCI_AUTH_MODE"], value: "MODE", default: Some("none"),
          help: "Who may pull: none (whoever reaches the server), htpasswd (users of a file) or huggingface (each with a Hub token)" },
    Key { path: "auth.htpasswd_file", flag: "auth-htpasswd-file", env: &["HF_OCI_AUTH_HTPASSWD_FILE"], value: "FILE", default: None,
          help: "Names and bcrypt hashes (htpasswd -B) for the mode htpasswd; read again when it changes" },
    Key { path: "auth.ttl", flag: "auth-ttl", env: &["HF_OCI_AUTH_TTL"], value: "TIME", default: Some("5m"),
          help: "How long the Hub's word on who may read what is believed" },
    Key { path: "repositories.allow", flag: "repositories-allow", env: &["HF_OCI_REPOSITORIES_ALLOW"], value: LIST, default: None,
          help: "Serve only these repositories, such as org/*,datasets/** [default: all]" },
    Key { path: "repositories.deny", flag: "repositories-deny", env: &["HF_OCI_REPOSITORIES_DENY"], value: LIST, default: None,
          help: "Never serve these, whatever is allowed" },
    Key { path: "cache.max_size", flag: "cache-max-size", env: &["HF_OCI_CACHE_MAX_SIZE"], value: "SIZE", default: None,
          help: "The most that the cache takes; what was not used for longest goes first [default: what cache.min_free leaves]" },
    Key { path: "cache.min_free", flag: "cache-min-free", env: &["HF_OCI_CACHE_MIN_FREE"], value: "SIZE|N%", default: Some("5%"),
          help: "How much of the disk stays free, whoever fills it: a size, or hundredths of the disk" },
    Key { path: "fill.memory", flag: "fill-memory", env: &["HF_OCI_FILL_MEMORY"], value: "SIZE", default: Some("128MiB"),
          help: "Memory for the bytes in flight of all fills together, at least 32MiB" },
    Key { path: "fill.connections", flag: "fill-connections", env: &["HF_OCI_FILL_CONNECTIONS"], value: "N", default: Some("8"),
          help: "Parallel downloads of one fill" },
    Key { path: "fill.concurrent", flag: "fill-concurrent", env: &["HF_OCI_FILL_CONCURRENT"], value: "N", default: Some("8"),
          help: "Images that are filled at once; more wait for their turn" },
    Key { path: "fill.layers", flag: "fill-layers", env: &["HF_OCI_FILL_LAYERS"], value: "N", default: None,
          help: "Layers of one image that are filled at once [default: number of cores]" },
    Key { path: "fill.layout", flag: "layout", env: &["HF_OCI_FILL_LAYOUT"], value: "LAYOUT", default: Some("split"),
          help: "How files become layers: split (large files alone) or single; changes digests" },
    Key { path: "registry.wait", flag: "registry-wait", env: &["HF_OCI_REGISTRY_WAIT"], value: "TIME", default: Some("20s"),
          help: "How long a request for a cold image is held before its headers are sent early" },
    Key { path: "registry.drip", flag: "registry-drip", env: &["HF_OCI_REGISTRY_DRIP"], value: "TIME", default: Some("15s"),
          help: "After that, one byte every so often keeps idle timers quiet" },
    Key { path: "registry.max_waiting", flag: "registry-max-waiting", env: &["HF_OCI_REGISTRY_MAX_WAITING"], value: "N", default: Some("1000"),
          help: "Requests that may wait for cold images; more are answered 503 at once" },
    Key { path: "tls.cert", flag: "tls-cert", env: &["HF_OCI_TLS_CERT"], value: "FILE", default: None,
          help: "Certificate in PEM, with its chain; with it the registry speaks TLS only, and takes a changed file by itself" },
    Key { path: "tls.key", flag: "tls-key", env: &["HF_OCI_TLS_KEY"], value: "FILE", default: None,
          help: "Key of the certificate, in PEM" },
    Key { path: "server.drain", flag: "server-drain", env: &["HF_OCI_SERVER_DRAIN"], value: "TIME", default: Some("30s"),
          help: "How long requests may go on after SIGTERM or SIGINT" },
    Key { path: "server.max_connections", flag: "server-max-connections", env: &["HF_OCI_SERVER_MAX_CONNECTIONS"], value: "N", default: Some("10000"),
          help: "Connections served at once; more wait" },
    Key { path: "server.header_timeout", flag: "server-header-timeout", env: &["HF_OCI_SERVER_HEADER_TIMEOUT"], value: "TIME", default: Some("30s"),
          help: "How long a client may take to send a request's headers, and for the TLS handshake" },
    Key { path: "server.stall_timeout", flag: "server-stall-timeout", env: &["HF_OCI_SERVER_STALL_TIMEOUT"], value: "TIME", default: Some("10m"),
          help: "How long a client may take next to nothing of what is sent to it" },
];

/// The row of `path`.
pub(super) fn find(path: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.path == path)
}

/// The path of the table that is nearest to `wrong`, for a hint. `None` if nothing is near.
pub(super) fn nearest<'a>(
    wrong: &str,
    names: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let near = names.into_iter().map(|name| (distance(wrong, name), name));
    near.min()
        .filter(|(distance, name)| *distance * 3 <= name.len())
        .map(|(_, name)| name)
}

/// Levenshtein's distance in bytes.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_and_variables_follow_from_the_path() {
        for key in KEYS {
            let path = match key.path {
                "upstream.url" => "upstream",
                path => path,
            };
            let env = format!("HF_OCI_{}", path.replace('.', "_").to_uppercase());
            assert_eq!(key.env[0], env);
            let path = match path {
                "fill.layout" => "layout",
                path => path,
            };
            assert_eq!(key.flag, path.replace(['.', '_'], "-"));
        }
    }

    #[test]
    fn a_slip_of_the_finger_finds_its_key() {
        let names = || KEYS.iter().map(|key| key.path);
        assert_eq!(nearest("fill.memroy", names()), Some("fill.memory"));
        assert_eq!(nearest("upstream.ur", names()), Some("upstream.url"));
        assert_eq!(nearest("colour", names()), None);
    }
}
