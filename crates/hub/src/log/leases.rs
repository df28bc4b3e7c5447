//! Who has which lease.

use std::collections::HashMap;
use std::ops::Add;
use std::time::{Duration, Instant};

use super::{Holder, Lease};

/// The leases of one log, counted on its clock.
#[derive(Debug)]
pub struct Leases<T = Instant> {
    by_name: HashMap<String, Held<T>>,
}

#[derive(Debug)]
struct Held<T> {
    lease: Lease,
    until: T,
}

impl<T> Default for Leases<T> {
    fn default() -> Leases<T> {
        Leases { by_name: HashMap::new() }
    }
}

/// What is said to who asks for a lease.
#[derive(Debug, PartialEq, Eq)]
pub enum Asked {
    /// The answer: it was renewed, or another holder has it, or it was given back.
    Answer(Option<Lease>),
    /// Nobody has it: it is the asker's with [`Leases::begin`].
    Free {
        /// The largest number that a lease with this name had here; 0 if none had.
        last: u64,
    },
}

impl<T: Copy + Ord + Add<Duration, Output = T>> Leases<T> {
    /// Renews a lease, or says whether it can be had.
    pub fn ask(&mut self, name: &str, holder: Holder, for_: Duration, now: T) -> Asked {
        let Some(held) = self.by_name.get_mut(name) else {
            return if for_.is_zero() { Asked::Answer(None) } else { Asked::Free { last: 0 } };
        };
        let lasts = held.until > now;
        match (held.lease.holder == holder, for_.is_zero()) {
            (true, true) => {
                held.until = now;
                Asked::Answer(None)
            }
            (true, false) if lasts => {
                held.until = now + for_;
                Asked::Answer(Some(held.lease.clone()))
            }
            (_, false) if !lasts => Asked::Free { last: held.lease.number },
            (false, _) | (true, false) => Asked::Answer(None),
        }
    }

    /// A new lease, in the place of one that has ended.
    pub fn begin(&mut self, lease: Lease, for_: Duration, now: T) {
        self.put_back(lease, now + for_);
    }

    /// All of them with their ends, those that have ended included, in the order of their names.
    pub fn all(&self) -> Vec<(Lease, T)> {
        let mut all: Vec<_> = self.by_name.values().map(|held| (held.lease.clone(), held.until)).collect();
        all.sort_by(|(one, _), (other, _)| one.name.cmp(&other.name));
        all
    }

    /// Puts one back, with its end.
    pub fn put_back(&mut self, lease: Lease, until: T) {
        self.by_name.insert(lease.name.clone(), Held { lease, until });
    }

    /// Whether a lease lasts.
    pub fn lasts(&self, lease: &Lease, now: T) -> bool {
        self.by_name.get(&lease.name).is_some_and(|held| held.lease == *lease && held.until > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Holder = Holder([1; 16]);
    const OTHER: Holder = Holder([2; 16]);
    const TEN: Duration = Duration::from_secs(10);

    #[test]
    fn a_lease_is_one_holders_until_its_time_is_over() {
        let mut leases = Leases::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let lease = |holder, number| Lease { name: "a".to_owned(), holder, number };
        let first = lease(ONE, 1);

        assert_eq!(leases.ask("a", ONE, TEN, at(0)), Asked::Free { last: 0 });
        assert!(!leases.lasts(&first, at(0)));
        leases.begin(first.clone(), TEN, at(0));
        assert_eq!(leases.ask("a", OTHER, TEN, at(9)), Asked::Answer(None));
        assert_eq!(leases.ask("b", OTHER, TEN, at(9)), Asked::Free { last: 0 }, "that is another one");
        assert_eq!(leases.ask("a", ONE, TEN, at(9)), Asked::Answer(Some(first.clone())));
        assert_eq!(leases.ask("a", OTHER, TEN, at(18)), Asked::Answer(None));
        assert!(leases.lasts(&first, at(18)));
        assert!(!leases.lasts(&first, at(19)));

        assert_eq!(leases.ask("a", ONE, TEN, at(19)), Asked::Free { last: 1 }, "too late to renew it");
        let second = lease(OTHER, 2);
        leases.begin(second.clone(), TEN, at(20));
        assert!(leases.lasts(&second, at(21)));
        assert!(!leases.lasts(&first, at(21)));
        assert!(!leases.lasts(&lease(ONE, 2), at(21)) && !leases.lasts(&lease(OTHER, 1), at(21)));
    }

    #[test]
    fn only_who_has_it_gives_it_back() {
        let mut leases = Leases::default();
        let now = Instant::now();
        let lease = Lease { name: "a".to_owned(), holder: ONE, number: 7 };
        assert_eq!(leases.ask("a", ONE, Duration::ZERO, now), Asked::Answer(None));
        leases.begin(lease.clone(), TEN, now);
        assert_eq!(leases.ask("a", OTHER, Duration::ZERO, now), Asked::Answer(None));
        assert!(leases.lasts(&lease, now));
        assert_eq!(leases.ask("a", ONE, Duration::ZERO, now), Asked::Answer(None));
        assert!(!leases.lasts(&lease, now));
        assert_eq!(leases.ask("a", OTHER, TEN, now), Asked::Free { last: 7 });
        assert_eq!(leases.ask("a", OTHER, Duration::ZERO, now), Asked::Answer(None));
    }
}
