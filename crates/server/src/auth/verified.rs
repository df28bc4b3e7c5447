//! Tokens that were verified a moment ago: a client that reconnects costs a hash, not a signature.

use std::collections::HashMap;
use std::sync::Mutex;

use sha2::{Digest, Sha256};
use tidings_hub::Timestamp;

use super::claims::Lifetime;
use super::identity::Identity;

/// What is kept of a token whose signature is good. Whether it is still in force is asked anew each time.
#[derive(Debug, Clone)]
pub(super) struct Verified {
    pub(super) identity: Identity,
    pub(super) lifetime: Lifetime,
    /// When the signature was checked.
    pub(super) at: Timestamp,
}

/// A token's SHA-256: the token itself is not kept.
pub(super) type TokenHash = [u8; 32];

/// The hash of a token or key.
pub(super) fn hash(text: impl AsRef<[u8]>) -> TokenHash {
    Sha256::digest(text).into()
}

/// How many tokens a generation holds; at a few hundred bytes each, some megabytes in all.
const GENERATION: usize = 8192;

/// The tokens verified lately, in two generations: when the younger is full the older is forgotten. Bounded, and a
/// token in use stays.
#[derive(Debug, Default)]
pub(super) struct VerifiedTokens(Mutex<Generations>);

#[derive(Debug, Default)]
struct Generations {
    young: HashMap<TokenHash, Verified>,
    old: HashMap<TokenHash, Verified>,
    /// The version of the keys that all of them were verified with.
    keys: u64,
}

impl VerifiedTokens {
    /// What is known of a token that was verified with this version of the keys.
    pub(super) fn get(&self, hash: &TokenHash, keys: u64) -> Option<Verified> {
        let mut generations = self.lock(keys);
        if let Some(found) = generations.young.get(hash) {
            return Some(found.clone());
        }
        let found = generations.old.remove(hash)?;
        generations.insert(*hash, found.clone());
        Some(found)
    }

    /// Keeps what was verified with this version of the keys.
    pub(super) fn insert(&self, hash: TokenHash, verified: Verified, keys: u64) {
        self.lock(keys).insert(hash, verified);
    }

    /// A key that was withdrawn takes its tokens with it.
    fn lock(&self, keys: u64) -> std::sync::MutexGuard<'_, Generations> {
        let mut generations = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if generations.keys != keys {
            *generations = Generations { keys, ..Generations::default() };
        }
        generations
    }
}

impl Generations {
    fn insert(&mut self, hash: TokenHash, verified: Verified) {
        if self.young.len() >= GENERATION {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(hash, verified);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verified() -> Verified {
        Verified { identity: Identity::dev(), lifetime: Lifetime::default(), at: Timestamp(0) }
    }

    #[test]
    fn tokens_in_use_stay_and_the_number_is_bounded() {
        let tokens = VerifiedTokens::default();
        tokens.insert(hash("used"), verified(), 1);
        tokens.insert(hash("unused"), verified(), 1);
        for n in 0..5 * GENERATION {
            tokens.insert(hash(n.to_string()), verified(), 1);
            if n % 1000 == 0 {
                assert!(tokens.get(&hash("used"), 1).is_some(), "{n}");
            }
        }
        assert!(tokens.get(&hash("unused"), 1).is_none());
        let generations = tokens.0.lock().unwrap();
        assert!(generations.young.len() <= GENERATION && generations.old.len() <= GENERATION);
    }

    #[test]
    fn new_keys_forget_what_was_verified_with_the_old_ones() {
        let tokens = VerifiedTokens::default();
        tokens.insert(hash("a"), verified(), 1);
        assert!(tokens.get(&hash("a"), 2).is_none());
        assert!(tokens.get(&hash("a"), 2).is_none());
    }
}
