//! Certificates of a Redis that speaks TLS.

// Each test file uses its part of this.
#![allow(dead_code, unreachable_pub)]

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// An authority that nobody knows, and a server's certificate that it has signed: for `localhost` and `127.0.0.1`.
pub struct Certificates(TempDir);

fn openssl(dir: &Path, words: &str) {
    let made = Command::new("openssl").args(words.split(' ')).current_dir(dir).output();
    let made = made.expect("openssl has to be installed; scripts/test does that");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}

impl Certificates {
    pub fn make() -> Certificates {
        let dir = tempfile::tempdir().unwrap();
        let new = "-nodes -newkey ec -pkeyopt ec_paramgen_curve:prime256v1";
        openssl(
            dir.path(),
            &format!("req -x509 -days 2 -subj /CN=authority {new} -keyout ca.key -out ca.pem"),
        );
        openssl(dir.path(), &format!("req -subj /CN=localhost {new} -keyout own.key -out own.csr"));
        std::fs::write(dir.path().join("names"), "subjectAltName=DNS:localhost,IP:127.0.0.1\n").unwrap();
        openssl(
            dir.path(),
            "x509 -req -days 2 -in own.csr -CA ca.pem -CAkey ca.key -CAcreateserial -extfile names -out own.pem",
        );
        Certificates(dir)
    }

    /// The authority's certificate, in PEM.
    pub fn authority(&self) -> PathBuf {
        self.0.path().join("ca.pem")
    }

    /// What a `redis-server` is given to speak TLS at a port.
    pub fn options(&self, port: u16) -> Vec<String> {
        let path = |name: &str| self.0.path().join(name).to_str().unwrap().to_owned();
        [
            ("--tls-port", port.to_string()),
            ("--tls-cert-file", path("own.pem")),
            ("--tls-key-file", path("own.key")),
            ("--tls-ca-cert-file", path("ca.pem")),
            ("--tls-auth-clients", "no".to_owned()),
        ]
        .into_iter()
        .flat_map(|(name, value)| [name.to_owned(), value])
        .collect()
    }
}
