//! `hf-oci cert`: a self-signed certificate, and the lines that make clients trust it.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use clap::Args;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};

use super::Failure;

/// Makes a self-signed certificate for the proxy, and prints what clients need to trust it
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hf-oci cert proxy
  hf-oci cert proxy proxy.example.org 10.0.0.5 --out /etc/hf-oci

Then: hf-oci serve --listen 0.0.0.0:5000 --tls-cert proxy.crt --tls-key proxy.key")]
pub(super) struct Cert {
    /// Names and addresses under which clients reach the proxy; the first one names the files
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
    /// Folder for NAME.crt and NAME.key
    #[arg(long, value_name = "DIR", default_value = ".")]
    out: PathBuf,
    /// Days that it is good for
    #[arg(long, value_name = "N", default_value_t = 825, value_parser = clap::value_parser!(u32).range(1..=3650))]
    days: u32,
    /// Port that clients use, for the printed lines
    #[arg(long, default_value_t = 5000)]
    port: u16,
    /// Replace files that are there
    #[arg(long)]
    force: bool,
}

impl Cert {
    pub(super) fn run(self) -> Result<(), Failure> {
        let name = &self.names[0];
        if name.contains(['/', '\0']) {
            return Err(Failure::new(format!("'{name}' is not the name of a host")));
        }
        let (cert, key) = self.make()?;
        std::fs::create_dir_all(&self.out).map_err(|error| {
            Failure::new(format!("cannot make the folder {}", self.out.display())).from(error)
        })?;
        let place = |ending: &str| self.out.join(format!("{name}.{ending}"));
        let (cert_path, key_path) = (place("crt"), place("key"));
        // The key first: a certificate without its key is of no use, and is not left behind.
        write(&key_path, &key, 0o600, self.force)?;
        write(&cert_path, &cert, 0o644, self.force)?;
        print!("{}", advice(name, self.port, &cert_path, &key_path));
        Ok(())
    }

    /// The PEM of the certificate and of its key.
    fn make(&self) -> Result<(String, String), Failure> {
        let failed = |error: rcgen::Error| Failure::new("no certificate was made").from(error);
        let mut params = CertificateParams::new(self.names.clone()).map_err(failed)?;
        let now = SystemTime::now();
        let day = Duration::from_secs(24 * 3600);
        // A client's clock may be a little behind.
        params.not_before = (now - day).into();
        params.not_after = (now + day * self.days).into();
        params.distinguished_name = DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::CommonName, self.names[0].as_str());
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate().map_err(failed)?;
        let cert = params.self_signed(&key).map_err(failed)?;
        Ok((cert.pem(), key.serialize_pem()))
    }
}

fn write(path: &Path, text: &str, mode: u32, force: bool) -> Result<(), Failure> {
    let mut options = OpenOptions::new();
    options.write(true).mode(mode);
    match force {
        true => options.create(true).truncate(true),
        false => options.create_new(true),
    };
    let written = options
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|error| {
        let there = error.kind() == std::io::ErrorKind::AlreadyExists;
        let failure = Failure::new(format!("cannot write {}", path.display())).from(error);
        match there {
            true => failure.next("--force replaces it"),
            false => failure,
        }
    })
}

fn advice(name: &str, port: u16, cert: &Path, key: &Path) -> String {
    let (cert, key) = (cert.display(), key.display());
    format!(
        r#"{cert} and {key} are written. Serve with them:

  hf-oci serve --listen 0.0.0.0:{port} --tls-cert {cert} --tls-key {key}

Docker, on each host (no restart needed):

  mkdir -p /etc/docker/certs.d/{name}:{port} && cp {cert} /etc/docker/certs.d/{name}:{port}/ca.crt

BuildKit, buildkitd.toml:

  [registry."{name}:{port}"]
    ca = ["/etc/buildkit/{name}.crt"]

containerd, /etc/containerd/certs.d/{name}:{port}/hosts.toml:

  server = "https://{name}:{port}"
  [host."https://{name}:{port}"]
    capabilities = ["pull", "resolve"]
    ca = "/etc/containerd/certs.d/{name}:{port}/ca.crt"

podman, buildah and skopeo:

  mkdir -p /etc/containers/certs.d/{name}:{port} && cp {cert} /etc/containers/certs.d/{name}:{port}/ca.crt
"#
    )
}
