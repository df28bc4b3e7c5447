//! Chance that can be repeated.

use std::time::{SystemTime, UNIX_EPOCH};

/// The seed of this run.
pub(crate) fn seed() -> u64 {
    match std::env::var("FAULTS_SEED") {
        Ok(text) => text.parse().expect("FAULTS_SEED is a number"),
        Err(_) => SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_nanos() as u64),
    }
}

/// Xorshift64*: enough to choose places to break.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Dice {
        Dice(seed | 1)
    }

    /// A number below this one.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 16) % end.max(1)
    }
}
