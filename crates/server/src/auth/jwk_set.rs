//! Sets of keys (JWKS, RFC 7517).

use std::str::FromStr;

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey};
use serde::Deserialize;

use super::jwt::VerifyingKey;
use super::key_source::{KeyTerms, suits};

/// How many keys a set may have: each that fits is tried with a token that names none.
const MOST_KEYS: usize = 64;

/// Why a set of keys can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadJwks {
    /// It is no set.
    #[error("it is not a set of keys in JSON: {{\"keys\": […]}}")]
    Form,
    /// It has too many keys.
    #[error("it has {0} keys, {MOST_KEYS} are allowed")]
    TooMany(usize),
    /// None of its keys can be used.
    #[error("none of its keys is one to verify signatures with that this server knows{}", if *.0 { ", for the alg that is configured" } else { "" })]
    NoneUsable(bool),
}

/// Whether a set may have shared secrets (`oct`).
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Shared {
    Allowed,
    /// The set was fetched: what is public is no secret.
    Ignored,
}

#[derive(Deserialize)]
struct Set {
    keys: Vec<serde_json::Value>,
}

/// The keys of a set that tokens can be verified with. Keys for other purposes and of unknown kinds are passed over
/// (RFC 7517, section 5).
pub(super) fn read(json: &[u8], terms: &KeyTerms, shared: Shared) -> Result<Vec<VerifyingKey>, BadJwks> {
    let set: Set = serde_json::from_slice(json).map_err(|_| BadJwks::Form)?;
    if set.keys.len() > MOST_KEYS {
        return Err(BadJwks::TooMany(set.keys.len()));
    }
    let keys: Vec<_> = set
        .keys
        .into_iter()
        .filter_map(|key| serde_json::from_value(key).ok())
        .filter_map(|jwk| usable(&jwk, terms, shared))
        .collect();
    if keys.is_empty() { Err(BadJwks::NoneUsable(terms.algorithm.is_some())) } else { Ok(keys) }
}

fn usable(jwk: &Jwk, terms: &KeyTerms, shared: Shared) -> Option<VerifyingKey> {
    let to_verify = jwk.common.public_key_use.as_ref().is_none_or(|usage| *usage == PublicKeyUse::Signature)
        && jwk.common.key_operations.as_ref().is_none_or(|all| all.contains(&KeyOperations::Verify));
    let algorithm = algorithm(jwk, terms.algorithm)?;
    let is_shared = algorithm.family() == AlgorithmFamily::Hmac;
    if !to_verify || (is_shared && shared == Shared::Ignored) {
        return None;
    }
    let key = DecodingKey::from_jwk(jwk).ok().filter(|key| suits(key, algorithm))?;
    Some(terms.key(algorithm, jwk.common.key_id.clone(), key))
}

/// The one algorithm of a key: what it says itself, and else what its kind is for; in any case no other than the
/// configured one.
fn algorithm(jwk: &Jwk, configured: Option<Algorithm>) -> Option<Algorithm> {
    let said = match jwk.common.key_algorithm {
        Some(name) => Some(Algorithm::from_str(&name.to_string()).ok()?),
        None => None,
    };
    let by_kind = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => Algorithm::RS256,
        AlgorithmParameters::EllipticCurve(key) => match key.curve {
            EllipticCurve::P256 => Algorithm::ES256,
            EllipticCurve::P384 => Algorithm::ES384,
            _ => return None,
        },
        AlgorithmParameters::OctetKeyPair(_) => Algorithm::EdDSA,
        AlgorithmParameters::OctetKey(_) => Algorithm::HS256,
        _ => return None,
    };
    match (said, configured) {
        (Some(said), Some(configured)) => (said == configured).then_some(said),
        (Some(said), None) => Some(said),
        (None, Some(configured)) => (configured.family() == by_kind.family()).then_some(configured),
        (None, None) => Some(by_kind),
    }
}
