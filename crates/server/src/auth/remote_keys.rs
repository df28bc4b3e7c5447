//! Sets of keys that are fetched (`jwks_url`), and again when the issuer has changed them.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tidings_hub::Timestamp;
use tokio::sync::Mutex;

use super::jwk_set::{self, BadJwks};
use super::jwt::{Token, VerifyingKey};
use super::key_source::KeyTerms;
use super::verified::{TokenHash, hash};

/// How long a set is used before it is fetched again: a key that was withdrawn is refused after that.
pub(super) const MAX_AGE: Duration = Duration::from_secs(600);
/// The least time between two fetches, whatever key ids the tokens name.
const BETWEEN_FETCHES: Duration = Duration::from_secs(10);
/// What one fetch may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// How large a set may be, in bytes.
const LARGEST: usize = 256 * 1024;

/// The keys of one `[[auth.key]]` with a `jwks_url`.
///
/// A key belongs to the set it came with: the same `kid` at two issuers is two keys, each with its own terms.
pub(super) struct RemoteKeys {
    url: String,
    terms: KeyTerms,
    client: reqwest::Client,
    set: RwLock<Fetched>,
    /// One fetch at a time; whoever waits for it finds its result.
    attempt: Mutex<Option<Attempt>>,
}

#[derive(Clone, Default)]
struct Fetched {
    keys: Arc<[VerifyingKey]>,
    at: Option<Timestamp>,
    /// Of the answer's bytes: whether the next one says anything else.
    hash: Option<TokenHash>,
}

#[derive(Clone, Copy)]
struct Attempt {
    at: Timestamp,
    succeeded: bool,
}

/// The set could not be fetched when it was needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unavailable;

/// What fetching a set met. It tells nothing of the answer's content.
#[derive(Debug, thiserror::Error)]
enum FetchError {
    #[error("{0}")]
    Http(#[from] reqwest::Error),
    #[error("the answer is {0}")]
    Status(u16),
    #[error("the answer has more than {LARGEST} bytes")]
    TooLarge,
    #[error("{0}")]
    Set(#[from] BadJwks),
}

impl RemoteKeys {
    pub(super) fn new(url: String, terms: KeyTerms) -> Result<RemoteKeys, reqwest::Error> {
        let client = reqwest::Client::builder()
            .timeout(TIMEOUT)
            // Whoever answers there must not choose what is asked next.
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("tidings/", env!("CARGO_PKG_VERSION")))
            .build()?;
        Ok(RemoteKeys { url, terms, client, set: RwLock::default(), attempt: Mutex::default() })
    }

    /// The keys to verify a token with. They are fetched first if there are none yet, they are old, or none of them
    /// fits the token; but not too often. The flag tells whether they are others than before.
    pub(super) async fn for_token(
        &self,
        token: &Token<'_>,
        now: Timestamp,
    ) -> Result<(Arc<[VerifyingKey]>, bool), Unavailable> {
        let known = self.current();
        if is_fresh(&known, now) && token.has_key_among(&known.keys) {
            return Ok((known.keys, false));
        }
        let mut attempt = if token.has_key_among(&known.keys) {
            // Old keys are good enough while another request fetches new ones.
            let Ok(attempt) = self.attempt.try_lock() else { return Ok((known.keys, false)) };
            attempt
        } else {
            self.attempt.lock().await
        };
        // Another request may have fetched them while this one waited.
        let known = self.current();
        if is_fresh(&known, now) && token.has_key_among(&known.keys) {
            return Ok((known.keys, false));
        }
        let may_fetch = attempt.is_none_or(|last| now < last.at || now.since(last.at) >= BETWEEN_FETCHES);
        let mut renewed = false;
        if may_fetch {
            renewed = self.fetch_and_keep(&mut attempt, now).await;
        }
        let known = self.current();
        let fetched_lately = attempt.is_some_and(|last| last.succeeded);
        if token.has_key_among(&known.keys) || fetched_lately {
            return Ok((known.keys, renewed));
        }
        Err(Unavailable)
    }

    async fn fetch_and_keep(&self, attempt: &mut Option<Attempt>, now: Timestamp) -> bool {
        // Kept first: a request that is given up while it fetches must not let the next one fetch at once.
        *attempt = Some(Attempt { at: now, succeeded: false });
        match self.fetch().await {
            Ok((keys, hash)) => {
                *attempt = Some(Attempt { at: now, succeeded: true });
                let mut set = self.set.write().unwrap_or_else(PoisonError::into_inner);
                let renewed = set.hash != Some(hash);
                *set = Fetched { keys: keys.into(), at: Some(now), hash: Some(hash) };
                renewed
            }
            Err(error) => {
                tracing::warn!(url = %self.url, "can't fetch the keys that tokens are verified with: {error}");
                false
            }
        }
    }

    async fn fetch(&self) -> Result<(Vec<VerifyingKey>, TokenHash), FetchError> {
        let mut response = self.client.get(&self.url).header("accept", "application/json").send().await?;
        if response.status() != reqwest::StatusCode::OK {
            return Err(FetchError::Status(response.status().as_u16()));
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await? {
            if body.len() + chunk.len() > LARGEST {
                return Err(FetchError::TooLarge);
            }
            body.extend_from_slice(&chunk);
        }
        Ok((jwk_set::read(&body, &self.terms, jwk_set::Shared::Ignored)?, hash(&body)))
    }

    fn current(&self) -> Fetched {
        self.set.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A set from a future that the clock was set back from is not fresh.
fn is_fresh(fetched: &Fetched, now: Timestamp) -> bool {
    fetched.at.is_some_and(|at| at <= now && now.since(at) < MAX_AGE)
}
