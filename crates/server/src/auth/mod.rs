//! Access: who sent a request, and what they may.
//!
//! [`Access::identify`] is the only way from a request to an [`Identity`], on every path and for every transport.
//! What is not there, deliberately: no token is kept (only hashes are), none is logged, and nothing here looks at
//! the clock.

mod api_keys;
mod claims;
mod cors;
mod credential;
mod date;
mod dev;
mod grants;
mod identity;
mod jwk_set;
mod jwt;
mod key_source;
mod mint;
mod origin;
mod remote_keys;
mod secret;
mod verified;

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::StatusCode;
use http::header::{HeaderValue, RETRY_AFTER};
use http::request::Parts;
pub use jsonwebtoken::Algorithm;
use tidings_hub::Timestamp;

pub use api_keys::{ApiKey, ApiKeyError, ApiKeyFile};
pub use cors::Cors;
pub use date::BadDate;
pub(crate) use grants::pattern;
pub use grants::{BadTemplate, GrantTemplates, Grants, Template};
pub use identity::{Identity, Source};
pub use jwk_set::BadJwks;
pub use jwt::TokenError;
pub use key_source::{BadKey, KeyConfig, KeySource};
pub use mint::{MintError, NewToken};
pub use origin::{BadOrigin, Origin, Origins};
pub use secret::{CursorSecret, Secret, Secrets, SecretsError};

use api_keys::ApiKeys;
use claims::Claims;
use credential::Credential;
pub(crate) use identity::invalid_token;
use identity::unauthorized;
use jwt::{Clock, Token, VerifyingKey};
use key_source::Keys;
use remote_keys::RemoteKeys;
use verified::{TokenHash, Verified, VerifiedTokens};

use crate::Problem;

/// Who may come in, and how it is known.
#[derive(Debug, Clone)]
pub struct AccessConfig {
    /// The keys that tokens are verified with.
    pub keys: Vec<KeyConfig>,
    /// The name of the claim with the rights.
    pub claim: String,
    /// The rights of every valid token, besides its own.
    pub grants: GrantTemplates,
    /// The rights of everybody, with and without a token. `None`: a credential is needed.
    pub anonymous: Option<GrantTemplates>,
    /// How far the issuer's clock may differ: so much longer is a token good, and so much earlier.
    pub leeway: Duration,
    /// Whether tokens without a user (`sub`) may be without an end (`exp`).
    pub endless_services: bool,
    /// A key that may do everything, from the environment.
    pub api_key: Option<Secret>,
    /// The file of API keys.
    pub api_keys: Option<ApiKeyFile>,
    /// The name of the cookie that may carry a token.
    pub cookie: String,
    /// The pages of other origins whose cookies count; the same as for [`Cors`].
    pub origins: Origins,
    /// Whether anybody on this machine may do anything.
    pub dev: bool,
}

impl Default for AccessConfig {
    fn default() -> AccessConfig {
        AccessConfig {
            keys: Vec::new(),
            claim: "tidings".to_owned(),
            grants: GrantTemplates::default(),
            anonymous: None,
            leeway: Duration::ZERO,
            endless_services: false,
            api_key: None,
            api_keys: None,
            cookie: "tidings_token".to_owned(),
            origins: Origins::default(),
            dev: false,
        }
    }
}

/// One mistake in an [`AccessConfig`].
#[derive(Debug, thiserror::Error)]
pub enum BadAccess {
    /// A key can't be used.
    #[error("[[auth.key]] {number}: {bad}")]
    Key {
        /// Which one, counted from 1.
        number: usize,
        /// What is wrong with it.
        bad: BadKey,
    },
    /// The HTTP client for `jwks_url` can't be made.
    #[error("[[auth.key]] {number}: {error}")]
    Client {
        /// Which one, counted from 1.
        number: usize,
        /// What the client said.
        error: String,
    },
    /// The claim's name is taken by the standard, or empty.
    #[error("[auth] claim = {0:?}: that name is taken (RFC 7519), or empty")]
    Claim(String),
    /// The cookie's name is none.
    #[error("[auth] cookie = {0:?} is no name of a cookie (letters, digits, \"_\", \"-\", \".\")")]
    Cookie(String),
    /// The key of the environment is empty.
    #[error("TIDINGS_API_KEY is empty")]
    ApiKey,
    /// A grant for everybody that needs a user.
    #[error("[auth] anonymous: {0:?} needs a user, and there is none without a token")]
    Anonymous(String),
    /// The file of API keys can't be used.
    #[error("{0}")]
    ApiKeys(#[from] ApiKeyError),
}

/// Who may come in. One for the whole server.
pub struct Access {
    keys: Vec<VerifyingKey>,
    remote: Vec<RemoteKeys>,
    /// Counted up whenever remote keys change, so that tokens of withdrawn ones are verified anew.
    keys_version: AtomicU64,
    verified: VerifiedTokens,
    api_keys: ApiKeys,
    claim: String,
    grants: GrantTemplates,
    /// What everybody may, if that is configured.
    anonymous: Option<Arc<Grants>>,
    clock: Clock,
    endless_services: bool,
    cookie: String,
    origins: Origins,
    dev: bool,
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access")
            .field("keys", &self.keys.len())
            .field("dev", &self.dev)
            .finish_non_exhaustive()
    }
}

impl Access {
    /// Checks the configuration and reads the keys.
    ///
    /// # Errors
    /// With everything that is wrong, not only the first.
    pub fn new(config: AccessConfig) -> Result<Access, Vec<BadAccess>> {
        let mut mistakes = check(&config);
        let mut keys = Vec::new();
        let mut remote = Vec::new();
        for (at, key) in config.keys.iter().enumerate() {
            let number = at + 1;
            match Keys::load(key) {
                Ok(Keys::Fixed(more)) => keys.extend(more),
                Ok(Keys::Remote(url, terms)) => match RemoteKeys::new(url, terms) {
                    Ok(more) => remote.push(more),
                    Err(error) => mistakes.push(BadAccess::Client { number, error: error.to_string() }),
                },
                Err(bad) => mistakes.push(BadAccess::Key { number, bad }),
            }
        }
        let anonymous = config.anonymous.as_ref().map(|templates| templates.resolve(None));
        let public = anonymous.clone().unwrap_or_default();
        let api_keys = match ApiKeys::open(config.api_keys, config.api_key.as_ref(), public) {
            Ok(api_keys) if mistakes.is_empty() => api_keys,
            Ok(_) => return Err(mistakes),
            Err(error) => {
                mistakes.push(error.into());
                return Err(mistakes);
            }
        };
        Ok(Access {
            keys,
            remote,
            keys_version: AtomicU64::new(0),
            verified: VerifiedTokens::default(),
            api_keys,
            claim: config.claim,
            grants: config.grants,
            anonymous: anonymous.map(Arc::new),
            clock: Clock { leeway: config.leeway, early: EARLY },
            endless_services: config.endless_services,
            cookie: config.cookie,
            origins: Origins { local: config.origins.local || config.dev, ..config.origins },
            dev: config.dev,
        })
    }

    /// Who sent a request.
    ///
    /// # Errors
    /// 401 `unauthorized` without a credential where one is needed, 401 `invalid_token` with a bad one, 503 when the
    /// keys to check it with can't be fetched; with `--dev` 403 and 421 for what is not from this machine.
    pub async fn identify(
        &self,
        parts: &Parts,
        peer: SocketAddr,
        now: Timestamp,
    ) -> Result<Identity, Problem> {
        self.guard(parts, peer)?;
        let found = Credential::find(parts, &self.cookie, &self.origins)?;
        if !self.dev {
            return self.identify_credential(found, now).await;
        }
        // Another server's cookie for localhost is nobody's mistake.
        let from_cookie = matches!(found, Credential::Cookie(_));
        match found {
            Credential::None | Credential::UntrustedCookie => Ok(Identity::dev()),
            found => match self.identify_credential(found, now).await {
                Ok(identity) => Ok(identity.with_everything()),
                Err(_) if from_cookie => Ok(Identity::dev()),
                Err(problem) => Err(problem),
            },
        }
    }

    /// With `--dev`: whether a request is from this machine. To be asked for every path; [`Access::identify`] does.
    ///
    /// # Errors
    /// 403 or 421, with the reason.
    pub fn guard(&self, parts: &Parts, peer: SocketAddr) -> Result<(), Problem> {
        if self.dev { dev::check(parts, peer) } else { Ok(()) }
    }

    async fn identify_credential(&self, found: Credential, now: Timestamp) -> Result<Identity, Problem> {
        match found {
            Credential::Bearer(text) => {
                let hash = verified::hash(text.expose());
                if text.expose().starts_with(api_keys::PREFIX) {
                    return self.identify_key(&hash, now);
                }
                match self.api_keys.configured(&hash) {
                    Some(identity) => Ok(identity),
                    None => self.identify_token(&text, hash, now).await,
                }
            }
            Credential::ApiKey(key) => self.identify_key(&verified::hash(key.expose()), now),
            Credential::Query(text) | Credential::Cookie(text) => {
                if text.expose().starts_with(api_keys::PREFIX) {
                    return Err(invalid_token(
                        "an API key is sent in Authorization or X-API-Key, not in a query or cookie".into(),
                    ));
                }
                let hash = verified::hash(text.expose());
                self.identify_token(&text, hash, now).await
            }
            Credential::UntrustedCookie => self.identify_nobody(
                "; there is a cookie, but a cookie counts only from a page of this server (Sec-Fetch-Site: \
                 same-origin) or of one of the origins in [cors] origins",
            ),
            Credential::None => self.identify_nobody(""),
        }
    }

    fn identify_nobody(&self, but: &str) -> Result<Identity, Problem> {
        match &self.anonymous {
            Some(grants) => Ok(Identity::anonymous(grants.clone())),
            None => Err(unauthorized(format!(
                "send a token: Authorization: Bearer …, the query parameter token, or the cookie {}{but}",
                self.cookie
            ))),
        }
    }

    fn identify_key(&self, hash: &TokenHash, now: Timestamp) -> Result<Identity, Problem> {
        let identity = self.api_keys.identify(hash, now);
        identity.ok_or_else(|| invalid_token("there is no such API key, or it was revoked".into()))
    }

    async fn identify_token(
        &self,
        text: &Secret,
        hash: TokenHash,
        now: Timestamp,
    ) -> Result<Identity, Problem> {
        let refused = |error: TokenError| invalid_token(error.to_string());
        let version = self.keys_version.load(Ordering::Acquire);
        let known = self.verified.get(&hash, version).filter(|known| self.still_counts(known, now));
        let verified = match known {
            Some(verified) => verified,
            None => {
                let verified = self.verify(text.expose(), now).await?;
                // By the version from before: if the keys have changed since, it is not found, and verified anew.
                self.verified.insert(hash, verified.clone(), version);
                verified
            }
        };
        self.clock.check(&verified.lifetime, now).map_err(refused)?;
        Ok(verified.identity)
    }

    /// Keys that are fetched may have been withdrawn since; those that are configured stay.
    fn still_counts(&self, known: &Verified, now: Timestamp) -> bool {
        self.remote.is_empty() || (known.at <= now && now.since(known.at) < remote_keys::MAX_AGE)
    }

    /// Who a token says it is, its signature and its issuer being right; not whether it is in force now.
    async fn verify(&self, text: &str, now: Timestamp) -> Result<Verified, Problem> {
        let refused = |error: TokenError| invalid_token(error.to_string());
        let token = Token::read(text).map_err(refused)?;
        let claims = match token.verify(&self.keys, &self.claim) {
            Err(_) if !self.remote.is_empty() => self.verify_remotely(&token, now).await?,
            claims => claims.map_err(refused)?,
        };
        if claims.lifetime.expires.is_none() && !(claims.user.is_none() && self.endless_services) {
            return Err(refused(TokenError::Endless));
        }
        let user = claims.user;
        let own = claims.granted.grants.resolve(user.as_ref());
        let public = self.anonymous.as_deref().cloned().unwrap_or_default();
        let grants = own.and(self.grants.resolve(user.as_ref())).and(public);
        let expires = claims.lifetime.expires.map(|end| end.plus(self.clock.leeway));
        let identity = Identity::token(user, claims.granted.admin, expires, claims.granted.info, grants);
        Ok(Verified { identity, lifetime: claims.lifetime, at: now })
    }

    /// The claims of a token that the keys at hand did not let pass.
    async fn verify_remotely(&self, token: &Token<'_>, now: Timestamp) -> Result<Claims, Problem> {
        let mut fetched = Vec::new();
        let mut unavailable = false;
        for remote in &self.remote {
            match remote.for_token(token, now).await {
                Ok((keys, renewed)) => {
                    if renewed {
                        self.keys_version.fetch_add(1, Ordering::AcqRel);
                    }
                    fetched.push(keys);
                }
                Err(remote_keys::Unavailable) => unavailable = true,
            }
        }
        let keys = self.keys.iter().chain(fetched.iter().flat_map(|keys| keys.iter()));
        match token.verify(keys, &self.claim) {
            // The key may be among those that could not be had: whoever comes back later may be let in.
            Err(_) if unavailable => Err(keys_unavailable()),
            claims => claims.map_err(|error| invalid_token(error.to_string())),
        }
    }
}

/// How much in the future a token may begin at least: whoever made it a moment ago may have a clock that is ahead.
const EARLY: Duration = Duration::from_secs(5);

fn keys_unavailable() -> Problem {
    Problem::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "keys_unavailable",
        "The token can't be checked now",
        "the keys of its issuer can't be fetched at the moment; try again",
    )
    .header(RETRY_AFTER, HeaderValue::from_static("10"))
}

fn check(config: &AccessConfig) -> Vec<BadAccess> {
    let mut mistakes = Vec::new();
    if ["", "sub", "exp", "nbf", "iat", "iss", "aud", "jti"].contains(&config.claim.as_str()) {
        mistakes.push(BadAccess::Claim(config.claim.clone()));
    }
    let in_cookie = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
    if config.cookie.is_empty() || !config.cookie.bytes().all(in_cookie) {
        mistakes.push(BadAccess::Cookie(config.cookie.clone()));
    }
    if config.api_key.as_ref().is_some_and(|key| key.expose().trim().is_empty()) {
        mistakes.push(BadAccess::ApiKey);
    }
    if let Some(grants) = &config.anonymous {
        let all = grants.subscribe.iter().chain(&grants.publish).chain(&grants.presence);
        mistakes.extend(all.filter(|t| t.needs_user()).map(|t| BadAccess::Anonymous(t.to_string())));
    }
    mistakes
}

#[cfg(test)]
mod tests;
