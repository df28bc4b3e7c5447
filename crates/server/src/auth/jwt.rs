//! JSON Web Tokens (RFC 7519, with the cautions of RFC 8725).
//!
//! The token never chooses how it is checked: each key has one algorithm, and only keys of the token's algorithm are
//! tried. `kid` selects among the keys that there are; nothing is looked up by it.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, crypto};
use serde::Deserialize;
use serde::de::IgnoredAny;
use tidings_hub::Timestamp;
use tidings_wire::BadName;

use super::Secret;
use super::claims::{Claims, Lifetime};
use super::date::BadDate;
use super::grants::BadTemplate;

/// The longest token. Cookies and queries are shorter anyway.
const LONGEST: usize = 16 * 1024;

/// Why a token is refused. The words never repeat anything of the token but names of this server.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It is not three parts of base64url with JSON in the first.
    #[error("it is not a JWT: three parts of base64url, split by \".\"")]
    Form,
    /// It is very long.
    #[error("it has {len} bytes, {max} are allowed", max = LONGEST)]
    TooLong {
        /// How long it is.
        len: usize,
    },
    /// `alg` is `none`.
    #[error("it is not signed (alg \"none\")")]
    Unsigned,
    /// `alg` is something else.
    #[error("its algorithm is not one of HS256/384/512, RS256/384/512, PS256/384/512, ES256/384 and EdDSA")]
    Algorithm,
    /// `crit` names extensions, of which this server has none (RFC 7515, section 4.1.11).
    #[error("it demands extensions (crit) that this server does not have")]
    Critical,
    /// No key fits its `alg` and `kid`.
    #[error("this server has no key for its algorithm and key id (alg, kid)")]
    NoKey,
    /// No key that fits verifies it.
    #[error(
        "its signature is by no key that this server has: it was signed with another secret. `tidings token` signs with that of its data directory (--data-dir) or configuration, which has to be the server's"
    )]
    Signature,
    /// The second part is not an object of claims, each once.
    #[error("its claims are not a JSON object with each name once")]
    Claims,
    /// A date is not one.
    #[error("its {claim} {bad}")]
    Date {
        /// Which claim.
        claim: &'static str,
        /// What it is.
        bad: BadDate,
    },
    /// There is no end.
    #[error("it has no exp, which says when it ends")]
    Endless,
    /// It is over.
    #[error("it has expired")]
    Expired,
    /// It is not good yet.
    #[error("its {0} is in the future")]
    NotYet(&'static str),
    /// Another issuer than the key's.
    #[error("its issuer (iss) is not the one configured for the key")]
    Issuer,
    /// Meant for another service.
    #[error("its audience (aud) does not name this service")]
    Audience,
    /// A claim is of another type.
    #[error("its {0} is not text")]
    NotText(&'static str),
    /// `sub` can't be the id of a user.
    #[error("its sub can't be a user's id: {0}")]
    User(BadName),
    /// The claim with the rights is not what it should be.
    #[error(
        "its claim with the grants is not an object of subscribe, publish, presence, admin and info, each once"
    )]
    Granted,
    /// A list of grants is none.
    #[error("its {0} grants are not a list of patterns")]
    NotPatterns(&'static str),
    /// A grant is no pattern.
    #[error("one of its {member} grants is not a pattern: {bad}")]
    Pattern {
        /// Which list.
        member: &'static str,
        /// What is wrong with it.
        bad: BadTemplate,
    },
    /// `admin` is no boolean.
    #[error("its admin is neither true nor false")]
    Admin,
    /// `info` is no object.
    #[error("its info is not an object")]
    Info,
}

/// A key with the one algorithm that it is for.
#[derive(Clone)]
pub(super) struct VerifyingKey {
    pub(super) algorithm: Algorithm,
    pub(super) kid: Option<String>,
    pub(super) key: DecodingKey,
    pub(super) issuer: Option<Arc<str>>,
    /// Any of these; none: not checked.
    pub(super) audience: Arc<[String]>,
}

impl VerifyingKey {
    /// A token that names a key is only tried with that one, and with keys that have no name.
    fn fits(&self, token: &Token<'_>) -> bool {
        let named = match (&token.kid, &self.kid) {
            (Some(asked), Some(mine)) => asked == mine,
            _ => true,
        };
        self.algorithm == token.algorithm && named
    }

    fn verifies(&self, token: &Token<'_>) -> bool {
        crypto::verify(token.signature, token.signed.as_bytes(), &self.key, self.algorithm).unwrap_or(false)
    }

    fn accepts(&self, claims: &Claims) -> Result<(), TokenError> {
        if self.issuer.is_some() && self.issuer.as_deref() != claims.issuer.as_deref() {
            return Err(TokenError::Issuer);
        }
        if !self.audience.is_empty() && !claims.audience.iter().any(|aud| self.audience.contains(aud)) {
            return Err(TokenError::Audience);
        }
        Ok(())
    }
}

/// A token taken apart, nothing of it believed.
pub(super) struct Token<'a> {
    algorithm: Algorithm,
    kid: Option<String>,
    /// Header and claims as they were signed.
    signed: &'a str,
    claims: &'a str,
    signature: &'a str,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    crit: Option<IgnoredAny>,
}

impl<'a> Token<'a> {
    pub(super) fn read(text: &'a str) -> Result<Token<'a>, TokenError> {
        if text.len() > LONGEST {
            return Err(TokenError::TooLong { len: text.len() });
        }
        let (signed, signature) = text.rsplit_once('.').ok_or(TokenError::Form)?;
        let (header, claims) = signed.split_once('.').ok_or(TokenError::Form)?;
        if claims.contains('.') {
            return Err(TokenError::Form);
        }
        let header = URL_SAFE_NO_PAD.decode(header).map_err(|_| TokenError::Form)?;
        let header: Header = serde_json::from_slice(&header).map_err(|_| TokenError::Form)?;
        if header.alg.eq_ignore_ascii_case("none") {
            return Err(TokenError::Unsigned);
        }
        let algorithm = header.alg.parse().map_err(|_| TokenError::Algorithm)?;
        if header.crit.is_some() {
            return Err(TokenError::Critical);
        }
        Ok(Token { algorithm, kid: header.kid, signed, claims, signature })
    }

    /// Whether one of the keys may have signed this.
    pub(super) fn has_key_among(&self, keys: &[VerifyingKey]) -> bool {
        keys.iter().any(|key| key.fits(self))
    }

    /// The claims, if a key that fits has signed them and lets its issuer and audience pass. `own` is the name of
    /// this server's claim.
    pub(super) fn verify<'k>(
        &self,
        keys: impl IntoIterator<Item = &'k VerifyingKey>,
        own: &str,
    ) -> Result<Claims, TokenError> {
        let mut refusal = TokenError::NoKey;
        for key in keys.into_iter().filter(|key| key.fits(self)) {
            if !key.verifies(self) {
                if refusal == TokenError::NoKey {
                    refusal = TokenError::Signature;
                }
                continue;
            }
            let claims = URL_SAFE_NO_PAD.decode(self.claims).map_err(|_| TokenError::Form)?;
            let claims = Claims::read(&claims, own)?;
            match key.accepts(&claims) {
                Ok(()) => return Ok(claims),
                // One secret may be configured for two issuers.
                Err(error) => refusal = error,
            }
        }
        Err(refusal)
    }
}

/// Signs claims, a JSON object, with a shared secret.
///
/// # Errors
/// When the algorithm is not one with a shared secret.
pub(super) fn sign(
    algorithm: Algorithm,
    secret: &Secret,
    claims: &serde_json::Value,
) -> Result<Secret, TokenError> {
    let header = serde_json::json!({ "alg": algorithm, "typ": "JWT" });
    let part = |json: &serde_json::Value| URL_SAFE_NO_PAD.encode(json.to_string());
    let signed = format!("{}.{}", part(&header), part(claims));
    let key = EncodingKey::from_secret(secret.expose().as_bytes());
    let signature = crypto::sign(signed.as_bytes(), &key, algorithm).map_err(|_| TokenError::Algorithm)?;
    Ok(Secret::new(format!("{signed}.{signature}")))
}

/// Whether a token is good at a time. The beginning of a token that was just made must not fail by a clock that is a
/// little behind; its end is exact unless a leeway is configured, so that it closes its streams when it says.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    /// How far clocks may differ.
    pub(super) leeway: std::time::Duration,
    /// The same for beginnings, at the least.
    pub(super) early: std::time::Duration,
}

impl Clock {
    pub(super) fn check(&self, token: &Lifetime, now: Timestamp) -> Result<(), TokenError> {
        if token.expires.is_some_and(|end| now >= end.plus(self.leeway)) {
            return Err(TokenError::Expired);
        }
        let latest = now.plus(self.leeway.max(self.early));
        if token.not_before.is_some_and(|begin| begin > latest) {
            return Err(TokenError::NotYet("nbf"));
        }
        if token.issued.is_some_and(|issued| issued > latest) {
            return Err(TokenError::NotYet("iat"));
        }
        Ok(())
    }
}
