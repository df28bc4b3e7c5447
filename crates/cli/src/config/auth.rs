//! `[auth]` and `[cors]`: keys that sign tokens, what is granted without being in a token, and pages of other origins.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use tidings::server::auth::{
    Access, AccessConfig, Algorithm, ApiKeyFile, BadAccess, GrantTemplates, KeyConfig, KeySource, Origins,
    Secret, Template,
};

use super::section::{Hidden, Section, Setting, quoted};
use super::source::{Node, Origin};
use super::{Mistake, Mistakes};

/// Who may do what, before the secrets in the data directory are looked at.
#[derive(Debug)]
pub(crate) struct AuthConfig {
    /// All but the key that the server makes for itself where none is configured.
    pub(crate) access: AccessConfig,
    /// Where each key was written.
    pub(crate) key_origins: Vec<Origin>,
    /// Where the settings beside the keys were written.
    pub(crate) origin: Origin,
}

impl AuthConfig {
    /// Reads the keys. `own` is the server's own secret, which counts where no key is configured.
    pub(crate) fn open(&self, own: Option<&Secret>) -> Result<Access, Mistakes> {
        let mut config = self.access.clone();
        if config.keys.is_empty() {
            config.keys.extend(own.map(|secret| KeyConfig::secret(secret.clone())));
        }
        Access::new(config).map_err(|bad| Mistakes(bad.into_iter().map(|bad| self.locate(bad)).collect()))
    }

    fn locate(&self, bad: BadAccess) -> Mistake {
        let origin = match &bad {
            BadAccess::Key { number, .. } | BadAccess::Client { number, .. } => {
                self.key_origins.get(number - 1)
            }
            BadAccess::Claim(_) | BadAccess::Cookie(_) | BadAccess::Anonymous(_) => Some(&self.origin),
            BadAccess::ApiKey | BadAccess::ApiKeys(_) => None,
        };
        Mistake { origin: origin.cloned().unwrap_or(Origin::Default), what: bad.to_string() }
    }
}

/// What the environment says outside of the settings.
#[derive(Debug, Default)]
pub(crate) struct Credentials {
    pub(crate) jwt_secret: Option<String>,
    pub(crate) api_key: Option<String>,
}

pub(super) fn read(
    mut section: Section<'_>,
    mut cors: Section<'_>,
    credentials: Credentials,
    data_dir: &Path,
    dev: bool,
) -> AuthConfig {
    let default = AccessConfig::default();
    let mut keys = Vec::new();
    let mut key_origins = Vec::new();
    if let Some(secret) = credentials.jwt_secret {
        keys.push(KeyConfig::secret(Secret::new(secret)));
        key_origins.push(Origin::Environment("TIDINGS_JWT_SECRET".to_owned()));
    }
    let given = section.sections("key");
    let access = AccessConfig {
        claim: section.get("claim", default.claim),
        leeway: section.within("leeway", default.leeway, Duration::ZERO..=Duration::from_secs(300)),
        endless_services: section.get("endless_services", default.endless_services),
        cookie: section.get("cookie", default.cookie),
        // After what stands in [auth] itself: in the file that `tidings check` prints nothing can follow its parts.
        grants: read_grants(section.section("grants")).unwrap_or_default(),
        anonymous: read_grants(section.section("anonymous")),
        api_key: credentials.api_key.map(Secret::new),
        api_keys: Some(ApiKeyFile::in_directory(data_dir)),
        origins: Origins::default(),
        dev,
        keys: Vec::new(),
    };
    for key in given {
        let origin = key.origin().clone();
        if let Some(key) = read_key(key) {
            keys.push(key);
            key_origins.push(origin);
        }
    }
    let origins = cors.get("origins", Origins::default());
    let origin = section.origin().clone();
    section.finish();
    cors.finish();
    AuthConfig { access: AccessConfig { keys, origins, ..access }, key_origins, origin }
}

fn read_key(mut section: Section<'_>) -> Option<KeyConfig> {
    let algorithm: Option<Alg> = section.find("alg");
    let secret: Option<Hidden> = section.find("secret");
    let file: Option<PathBuf> = section.find("file");
    let jwks_file: Option<PathBuf> = section.find("jwks_file");
    let jwks_url: Option<String> = section.find("jwks_url");
    let kid = section.find("kid");
    let issuer = section.find("issuer");
    let audience: OneOrMore = section.find("audience").unwrap_or_default();
    let mut sources: Vec<KeySource> = Vec::new();
    sources.extend(secret.map(|Hidden(secret)| KeySource::Secret(Secret::new(secret))));
    sources.extend(file.map(KeySource::File));
    sources.extend(jwks_file.map(KeySource::JwksFile));
    sources.extend(jwks_url.map(KeySource::JwksUrl));
    let source = match (sources.pop(), sources.is_empty()) {
        (Some(source), true) => Some(source),
        (None, _) => {
            // One that is there and wrong has been reported.
            if !["secret", "file", "jwks_file", "jwks_url"].iter().any(|name| section.has(name)) {
                let what = "a key needs one of secret, file, jwks_file and jwks_url".to_owned();
                section.mistake(section.origin().clone(), what);
            }
            None
        }
        (Some(_), false) => {
            let what = "a key has only one of secret, file, jwks_file and jwks_url".to_owned();
            section.mistake(section.origin().clone(), what);
            None
        }
    };
    section.finish();
    Some(KeyConfig {
        algorithm: algorithm.map(|Alg(alg)| alg),
        source: source?,
        kid,
        issuer,
        audience: audience.0,
    })
}

/// `None` when nothing is said.
fn read_grants(mut section: Section<'_>) -> Option<GrantTemplates> {
    let said = !section.is_unsaid();
    let grants = GrantTemplates {
        subscribe: section.find("subscribe").unwrap_or_default(),
        publish: section.find("publish").unwrap_or_default(),
        presence: section.find("presence").unwrap_or_default(),
    };
    section.finish();
    said.then_some(grants)
}

/// The algorithm of a key, by its name in a token's header (RFC 7518, RFC 8037).
#[derive(Debug, Clone, Copy)]
struct Alg(Algorithm);

impl Setting for Alg {
    fn read(node: &Node) -> Result<Alg, String> {
        let text = String::read(node)?;
        Algorithm::from_str(&text).map(Alg).map_err(|_| {
            format!(
                "{text:?} is none of HS256, HS384, HS512, RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, EdDSA"
            )
        })
    }

    fn show(&self) -> String {
        quoted(&format!("{:?}", self.0))
    }
}

/// A text, or a list of them.
#[derive(Debug, Default)]
struct OneOrMore(Vec<String>);

impl Setting for OneOrMore {
    fn read(node: &Node) -> Result<OneOrMore, String> {
        String::read(node).map(|one| vec![one]).or_else(|_| Vec::read(node)).map(OneOrMore)
    }

    fn show(&self) -> String {
        self.0.show()
    }
}

impl Setting for Origins {
    fn read(node: &Node) -> Result<Origins, String> {
        let list: Vec<String> = Vec::read(node)?;
        Origins::parse(list.iter().map(String::as_str))
            .map_err(|(text, bad)| format!("{text:?} can't be used: {bad}"))
    }

    fn show(&self) -> String {
        let any = self.any.then(|| "*".to_owned());
        any.into_iter()
            .chain(self.listed.iter().map(|origin| origin.as_str().to_owned()))
            .collect::<Vec<_>>()
            .show()
    }
}

impl Setting for Template {
    fn read(node: &Node) -> Result<Template, String> {
        let text = String::read(node)?;
        text.parse().map_err(|bad| format!("{text:?} can't be granted: {bad}"))
    }

    fn show(&self) -> String {
        quoted(self.as_str())
    }
}
