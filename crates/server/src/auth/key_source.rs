//! The keys that tokens are verified with, as they are configured.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey, DecodingKeyKind};

use super::Secret;
use super::jwk_set::{self, BadJwks};
use super::jwt::VerifyingKey;
use super::origin::is_local_authority;

/// One `[[auth.key]]`.
#[derive(Debug, Clone)]
pub struct KeyConfig {
    /// The one algorithm that the key is for. A set of keys may leave it out: then each key says its own.
    pub algorithm: Option<Algorithm>,
    /// Where the key is.
    pub source: KeySource,
    /// The key's id; tokens that name another are not tried with it.
    pub kid: Option<String>,
    /// What `iss` must be. `None`: it is not looked at.
    pub issuer: Option<String>,
    /// What `aud` must name one of. Empty: it is not looked at.
    pub audience: Vec<String>,
}

impl KeyConfig {
    /// A shared secret for HS256, and nothing else to be checked.
    pub fn secret(secret: Secret) -> KeyConfig {
        KeyConfig {
            algorithm: Some(Algorithm::HS256),
            source: KeySource::Secret(secret),
            kid: None,
            issuer: None,
            audience: Vec::new(),
        }
    }
}

/// Where a key is.
#[derive(Debug, Clone)]
pub enum KeySource {
    /// A shared secret, as it stands.
    Secret(Secret),
    /// A file: a shared secret (HS…), a public key in PEM, or a set of keys (JWKS).
    File(PathBuf),
    /// A file with a set of keys (JWKS).
    JwksFile(PathBuf),
    /// A set of keys (JWKS) to be fetched, and again when a token names one that is not in it.
    JwksUrl(String),
}

/// Why a configured key can't be used.
#[derive(Debug, thiserror::Error)]
pub enum BadKey {
    /// The file can't be read.
    #[error("can't read {}: {error}", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// `alg` is missing.
    #[error("alg is missing: a secret or a file in PEM is for one algorithm, say which")]
    NoAlgorithm,
    /// A secret without a byte.
    #[error("the secret is empty")]
    EmptySecret,
    /// A public key given as the secret of HS…: anybody who has it could sign.
    #[error(
        "the secret is a key in PEM; for a public key set alg to RS256, ES256 or EdDSA, and file to its path"
    )]
    PemAsSecret,
    /// A secret for an algorithm with public keys.
    #[error("{0:?} has public keys: set file, jwks_file or jwks_url instead of secret")]
    SecretForPublic(Algorithm),
    /// A shared secret in a set that is fetched over the network.
    #[error("{0:?} has a shared secret, which is not fetched over the network: set secret or file")]
    UrlForSecret(Algorithm),
    /// A private key.
    #[error("{} has a private key; this server needs only the public one: openssl pkey -in … -pubout", .0.display())]
    Private(PathBuf),
    /// No public key in PEM.
    #[error("{} is not a public key in PEM (\"BEGIN PUBLIC KEY\") for {algorithm:?}", path.display())]
    Pem {
        /// Which file.
        path: PathBuf,
        /// What it was to be for.
        algorithm: Algorithm,
    },
    /// The set can't be used.
    #[error("{}: {bad}", path.display())]
    Jwks {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        bad: BadJwks,
    },
    /// The URL can't be used.
    #[error("jwks_url has to be a URL that begins with https:// (or http://), without a user or password")]
    Url,
}

/// What a configured key turns into.
pub(super) enum Keys {
    /// Keys that stay.
    Fixed(Vec<VerifyingKey>),
    /// Keys that are fetched.
    Remote(String, KeyTerms),
}

/// What all keys of one `[[auth.key]]` share.
#[derive(Debug, Clone)]
pub(super) struct KeyTerms {
    pub(super) algorithm: Option<Algorithm>,
    pub(super) issuer: Option<Arc<str>>,
    pub(super) audience: Arc<[String]>,
}

impl KeyTerms {
    pub(super) fn key(&self, algorithm: Algorithm, kid: Option<String>, key: DecodingKey) -> VerifyingKey {
        VerifyingKey { algorithm, kid, key, issuer: self.issuer.clone(), audience: self.audience.clone() }
    }
}

impl Keys {
    pub(super) fn load(config: &KeyConfig) -> Result<Keys, BadKey> {
        let terms = KeyTerms {
            algorithm: config.algorithm,
            issuer: config.issuer.as_deref().map(Arc::from),
            audience: config.audience.clone().into(),
        };
        let one = |algorithm, key| Ok(Keys::Fixed(vec![terms.key(algorithm, config.kid.clone(), key)]));
        match &config.source {
            KeySource::Secret(secret) => {
                let algorithm = config.algorithm.ok_or(BadKey::NoAlgorithm)?;
                one(algorithm, shared(algorithm, secret.expose())?)
            }
            KeySource::File(path) => {
                let text = read(path)?;
                if text.trim_start().starts_with('{') {
                    return jwks(path, &text, &terms);
                }
                let algorithm = config.algorithm.ok_or(BadKey::NoAlgorithm)?;
                match algorithm.family() {
                    AlgorithmFamily::Hmac => {
                        let line = text.strip_suffix('\n').unwrap_or(&text);
                        one(algorithm, shared(algorithm, line.strip_suffix('\r').unwrap_or(line))?)
                    }
                    _ => one(algorithm, public(path, &text, algorithm)?),
                }
            }
            KeySource::JwksFile(path) => jwks(path, &read(path)?, &terms),
            KeySource::JwksUrl(url) => match config.algorithm {
                Some(algorithm) if algorithm.family() == AlgorithmFamily::Hmac => {
                    Err(BadKey::UrlForSecret(algorithm))
                }
                _ if !is_fetchable(url) => Err(BadKey::Url),
                _ => Ok(Keys::Remote(url.clone(), terms)),
            },
        }
    }
}

fn read(path: &Path) -> Result<String, BadKey> {
    fs::read_to_string(path).map_err(|error| BadKey::Io { path: path.to_owned(), error })
}

/// Shorter secrets than the hash is long can be guessed offline by anybody who has one token.
const SHORTEST_GOOD_SECRET: usize = 32;

fn shared(algorithm: Algorithm, secret: &str) -> Result<DecodingKey, BadKey> {
    if algorithm.family() != AlgorithmFamily::Hmac {
        return Err(BadKey::SecretForPublic(algorithm));
    }
    if secret.is_empty() {
        return Err(BadKey::EmptySecret);
    }
    if secret.trim_start().starts_with("-----BEGIN") {
        return Err(BadKey::PemAsSecret);
    }
    if secret.len() < SHORTEST_GOOD_SECRET {
        tracing::warn!(
            bytes = secret.len(),
            "a secret for tokens is short: whoever has one token can try to guess it; take {SHORTEST_GOOD_SECRET} random bytes or more"
        );
    }
    Ok(DecodingKey::from_secret(secret.as_bytes()))
}

fn public(path: &Path, text: &str, algorithm: Algorithm) -> Result<DecodingKey, BadKey> {
    if text.contains("PRIVATE KEY-----") {
        return Err(BadKey::Private(path.to_owned()));
    }
    let bad = || BadKey::Pem { path: path.to_owned(), algorithm };
    if !text.contains("-----BEGIN PUBLIC KEY-----") && !text.contains("-----BEGIN RSA PUBLIC KEY-----") {
        return Err(bad());
    }
    let key = match algorithm.family() {
        AlgorithmFamily::Rsa => DecodingKey::from_rsa_pem(text.as_bytes()),
        AlgorithmFamily::Ec => DecodingKey::from_ec_pem(text.as_bytes()),
        AlgorithmFamily::Ed => DecodingKey::from_ed_pem(text.as_bytes()),
        AlgorithmFamily::Hmac => return Err(bad()),
    };
    key.ok().filter(|key| suits(key, algorithm)).ok_or_else(bad)
}

/// Whether a key is on the algorithm's curve: found out now, not with the first token.
pub(super) fn suits(key: &DecodingKey, algorithm: Algorithm) -> bool {
    let length = match key.kind() {
        DecodingKeyKind::SecretOrDer(bytes) => bytes.len(),
        DecodingKeyKind::RsaModulusExponent { n, .. } => n.len(),
    };
    key.family() == algorithm.family()
        && match algorithm {
            Algorithm::ES256 => length == 65,
            Algorithm::ES384 => length == 97,
            Algorithm::EdDSA => length == 32,
            // Shorter moduli are refused by the verifier, with every token.
            _ if algorithm.family() == AlgorithmFamily::Rsa => length >= 256,
            _ => true,
        }
}

fn jwks(path: &Path, text: &str, terms: &KeyTerms) -> Result<Keys, BadKey> {
    let keys = jwk_set::read(text.as_bytes(), terms, jwk_set::Shared::Allowed);
    keys.map(Keys::Fixed).map_err(|bad| BadKey::Jwks { path: path.to_owned(), bad })
}

/// Over plain HTTP whoever is in between could put a key of their own into the set. Inside a cluster that is the
/// operator's decision, but one to be seen.
fn is_fetchable(url: &str) -> bool {
    let Ok(url) = url.parse::<http::Uri>() else { return false };
    let Some(authority) = url.authority() else { return false };
    if url.scheme_str() == Some("http") && !is_local_authority(authority.as_str()) {
        tracing::warn!(%url, "keys that are fetched without https can be exchanged on the way");
    }
    matches!(url.scheme_str(), Some("https" | "http")) && !authority.as_str().contains('@')
}
