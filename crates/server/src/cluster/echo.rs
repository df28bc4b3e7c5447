//! Whether a node hears what it says itself: all that it can know of its line to the others.

use std::time::{Duration, Instant};

/// How long it takes for silence that it hears nothing of itself, which it should with each beat. Shorter than a lease:
/// before anybody else is given up, it is known whose silence it is.
const SILENCE: Duration = Duration::from_secs(3);
/// How long it has to hear itself until it knows who else is there: each of them has said so by then.
const SETTLED: Duration = Duration::from_millis(1500);

/// How a node hears itself.
#[derive(Debug)]
pub(super) struct Echo {
    /// When it heard itself last; at first, when it began to listen.
    heard: Instant,
    /// Since when it does without a break.
    since: Option<Instant>,
    /// When its line was made anew.
    renewed: Instant,
    /// That it hears nothing was said.
    told: bool,
}

impl Echo {
    /// It begins to listen.
    pub(super) fn new(now: Instant) -> Echo {
        Echo { heard: now, since: None, renewed: now, told: false }
    }

    /// It hears itself. True if it did not before.
    pub(super) fn heard(&mut self, now: Instant) -> bool {
        let again = self.since.is_none() || self.is_deaf(now);
        if again {
            self.since = Some(now);
        }
        self.heard = now;
        if std::mem::take(&mut self.told) {
            tracing::info!("this node hears itself again where nodes speak to each other");
        }
        again
    }

    /// Whether its line is to be made anew. To be called a few times a second.
    pub(super) fn renews(&mut self, now: Instant) -> bool {
        if !self.is_deaf(now) || now.saturating_duration_since(self.renewed) < SILENCE {
            return false;
        }
        self.renewed = now;
        if !std::mem::replace(&mut self.told, true) {
            tracing::warn!(
                "this node does not hear itself where nodes speak to each other, and connects anew"
            );
        }
        true
    }

    /// Whether nobody can be heard.
    pub(super) fn is_deaf(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.heard) >= SILENCE
    }

    /// Whether it knows who else is there.
    pub(super) fn is_settled(&self, now: Instant) -> bool {
        let settled = |since| now.saturating_duration_since(since) >= SETTLED;
        !self.is_deaf(now) && self.since.is_some_and(settled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_made_anew_as_long_as_nothing_is_heard() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut echo = Echo::new(start);
        assert!(!echo.renews(at(2)));
        let renewed: Vec<u64> = (3..10).filter(|second| echo.renews(at(*second))).collect();
        assert_eq!(renewed, [3, 6, 9]);
        assert!(echo.heard(at(10)));
        assert!((11..13).all(|second| !echo.renews(at(second)) && !echo.heard(at(second))));
        assert!(!echo.is_deaf(at(14)));
        assert!(echo.is_deaf(at(15)) && echo.renews(at(15)));
        assert!(echo.heard(at(16)), "after a break");
    }

    #[test]
    fn who_has_just_begun_to_hear_does_not_know_who_is_there() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut echo = Echo::new(start);
        assert!(!echo.is_settled(at(2)), "it has heard nothing");
        echo.heard(at(2));
        assert!(!echo.is_settled(at(3)));
        echo.heard(at(3));
        assert!(echo.is_settled(at(4)) && !echo.is_settled(at(6)));
        echo.heard(at(7));
        assert!(!echo.is_settled(at(8)) && echo.is_settled(at(9)));
    }
}
