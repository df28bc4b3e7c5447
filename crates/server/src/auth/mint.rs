//! Making tokens: what `tidings token` prints.

use std::time::Duration;

use serde_json::{Map, Value, json};
use tidings_hub::Timestamp;
use tidings_wire::UserId;

use super::jwt;
use super::key_source::{KeyConfig, KeySource};
use super::{Algorithm, GrantTemplates, Secret, Template};

/// A token to be made.
#[derive(Debug, Clone, Default)]
pub struct NewToken {
    /// The user. None: the token is a service's.
    pub user: Option<UserId>,
    /// What it may, besides what is configured for every token.
    pub grants: GrantTemplates,
    /// Whether the administrative calls may be used.
    pub admin: bool,
    /// What others may read about the user, where they may see who is there.
    pub info: Option<Map<String, Value>>,
    /// How long it is good.
    pub ttl: Duration,
}

/// Why no token can be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MintError {
    /// The configured key is a public one.
    #[error("the configured key only verifies tokens; whoever has the private key makes them")]
    PublicKey,
    /// The key's file can't be read.
    #[error("can't read the secret: {0}")]
    Secret(String),
}

impl NewToken {
    /// The token, signed with a configured key and meant for a server that has it. `claim` is the name of the claim
    /// with the rights.
    ///
    /// # Errors
    /// When the key is no shared secret.
    pub fn sign(&self, key: &KeyConfig, claim: &str, now: Timestamp) -> Result<Secret, MintError> {
        let secret = match &key.source {
            KeySource::Secret(secret) => secret.clone(),
            KeySource::File(path) => {
                let text =
                    std::fs::read_to_string(path).map_err(|error| MintError::Secret(error.to_string()))?;
                let line = text.strip_suffix('\n').unwrap_or(&text);
                Secret::new(line.strip_suffix('\r').unwrap_or(line))
            }
            KeySource::JwksFile(_) | KeySource::JwksUrl(_) => return Err(MintError::PublicKey),
        };
        let algorithm = key.algorithm.unwrap_or(Algorithm::HS256);
        let claims = self.claims(key, claim, now);
        jwt::sign(algorithm, &secret, &claims).map_err(|_| MintError::PublicKey)
    }

    fn claims(&self, key: &KeyConfig, claim: &str, now: Timestamp) -> Value {
        let mut claims = Map::new();
        if let Some(user) = &self.user {
            claims.insert("sub".into(), user.as_str().into());
        }
        claims.insert("iat".into(), (now.0 / 1000).into());
        // To the second, and never shorter than asked.
        claims.insert("exp".into(), now.plus(self.ttl).0.div_ceil(1000).into());
        if let Some(issuer) = &key.issuer {
            claims.insert("iss".into(), issuer.as_str().into());
        }
        if let Some(audience) = key.audience.first() {
            claims.insert("aud".into(), audience.as_str().into());
        }
        let mut rights = Map::new();
        let lists = [
            ("subscribe", &self.grants.subscribe),
            ("publish", &self.grants.publish),
            ("presence", &self.grants.presence),
        ];
        for (name, templates) in lists {
            if !templates.is_empty() {
                let texts: Vec<&str> = templates.iter().map(Template::as_str).collect();
                rights.insert(name.into(), json!(texts));
            }
        }
        if self.admin {
            rights.insert("admin".into(), true.into());
        }
        if let Some(info) = &self.info {
            rights.insert("info".into(), info.clone().into());
        }
        if !rights.is_empty() {
            claims.insert(claim.into(), rights.into());
        }
        Value::Object(claims)
    }
}
