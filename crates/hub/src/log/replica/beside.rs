//! What a replica keeps beside its records: notes, and what was stored under idempotency keys.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;

use tidings_wire::Position;

use crate::Timestamp;
use crate::log::{AppendError, Once};

/// How many keys are remembered at most: some 200 MB. Past that a batch with a key is refused, as one that is not
/// remembered would be stored twice.
const KEYS: usize = if cfg!(test) { 16 } else { 1 << 20 };

/// The answers that batches with idempotency keys were given.
#[derive(Debug, Default)]
pub(super) struct Answers {
    by_key: HashMap<[u8; 32], Answer>,
    /// The same keys, by when they may be forgotten.
    until: BTreeSet<(Timestamp, [u8; 32])>,
}

#[derive(Debug)]
struct Answer {
    body: [u8; 32],
    until: Timestamp,
    positions: Vec<Position>,
}

impl Answers {
    /// The answer of a batch that was stored before; `None` when it is to be stored now.
    pub(super) fn find(&self, once: &Once, now: Timestamp) -> Option<Result<Vec<Position>, AppendError>> {
        match self.by_key.get(&once.key).filter(|answer| answer.until > now) {
            Some(answer) if answer.body == once.body => Some(Ok(answer.positions.clone())),
            Some(_) => Some(Err(AppendError::KeyReused)),
            None if self.by_key.len() >= KEYS && !self.by_key.contains_key(&once.key) => {
                let detail = "too many idempotency keys are remembered; try again in a minute";
                Some(Err(AppendError::NotStored(detail.to_owned())))
            }
            None => None,
        }
    }

    /// Remembers an answer, in the place of one whose time is over.
    pub(super) fn keep(&mut self, once: &Once, positions: Vec<Position>) {
        let answer = Answer { body: once.body, until: once.until, positions };
        if let Some(old) = self.by_key.insert(once.key, answer) {
            self.until.remove(&(old.until, once.key));
        }
        self.until.insert((once.until, once.key));
    }

    /// Those that are remembered, in the order in which they may be forgotten.
    pub(super) fn in_order(&self) -> impl Iterator<Item = (Once, &[Position])> {
        self.until.iter().filter_map(|(until, key)| {
            let answer = self.by_key.get(key)?;
            Some((Once { key: *key, body: answer.body, until: *until }, &answer.positions[..]))
        })
    }

    /// Whether the time of any is over.
    pub(super) fn is_due(&self, now: Timestamp) -> bool {
        self.until.first().is_some_and(|(until, _)| *until <= now)
    }

    /// Forgets those whose time is over.
    pub(super) fn retain(&mut self, now: Timestamp) {
        while let Some((until, key)) = self.until.first().copied()
            && until <= now
        {
            self.until.pop_first();
            self.by_key.remove(&key);
        }
    }
}

/// Notes by name.
#[derive(Debug, Default)]
pub(super) struct Notes(BTreeMap<String, Vec<u8>>);

impl Notes {
    pub(super) fn get(&self, name: &str) -> Option<Vec<u8>> {
        self.0.get(name).cloned()
    }

    pub(super) fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Vec<(String, Vec<u8>)> {
        let from = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        self.0
            .range::<str, _>((from, Bound::Unbounded))
            .take_while(|(name, _)| name.starts_with(prefix))
            .take(limit)
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect()
    }

    pub(super) fn set(&mut self, name: String, value: Option<Vec<u8>>) {
        match value {
            Some(value) => drop(self.0.insert(name, value)),
            None => drop(self.0.remove(&name)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn past_the_cap_keys_are_refused_and_not_forgotten() {
        let once = |key: u8| Once { key: [key; 32], body: [0; 32], until: Timestamp(100 + u64::from(key)) };
        let mut answers = Answers::default();
        for key in 0..16 {
            assert_eq!(answers.find(&once(key), Timestamp(1)), None);
            answers.keep(&once(key), Vec::new());
        }
        assert!(matches!(answers.find(&once(16), Timestamp(1)), Some(Err(AppendError::NotStored(_)))));
        assert_eq!(answers.find(&once(0), Timestamp(1)), Some(Ok(Vec::new())), "what is known is known");
        answers.retain(Timestamp(100));
        assert_eq!(answers.find(&once(16), Timestamp(100)), None, "there is a place again");
        assert_eq!(answers.by_key.len(), answers.until.len());
    }
}
