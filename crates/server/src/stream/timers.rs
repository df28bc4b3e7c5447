//! One coarse wheel for all that has to happen to a worker's connections in time. Time is passed in.

use std::time::Duration;

use super::conn::CloseReason;

/// How long a tick is. What must happen within a second (a token's end) then has three to spare.
pub(crate) const TICK: Duration = Duration::from_millis(250);
/// How far the wheel reaches, in ticks: 64 s. Whoever waits longer is looked at on the way, which a heartbeat of 15 s
/// asks for anyway.
const REACH: u32 = 256;
/// How long a connection that is being closed may take for its last bytes, in ticks: with the tick that passed before
/// somebody looked, less than a second.
const FAREWELL: u32 = 2;

/// A moment, counted from the worker's start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Tick(pub(crate) u32);

impl Tick {
    /// After everything.
    pub(crate) const NEVER: Tick = Tick(u32::MAX);

    /// The tick in which so much time since the start is over.
    pub(crate) fn at(since_start: Duration) -> Tick {
        Tick(ticks(since_start))
    }

    /// So much later, at least one tick.
    pub(crate) fn after(self, duration: Duration) -> Tick {
        self.plus(ticks(duration).max(1))
    }

    fn plus(self, ticks: u32) -> Tick {
        Tick(self.0.saturating_add(ticks))
    }
}

fn ticks(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis() / TICK.as_millis()).unwrap_or(u32::MAX)
}

/// A connection, also after its slot was given to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Key {
    pub(crate) slot: u32,
    pub(crate) generation: u32,
}

/// Which connections are to be looked at when. A connection may be armed more than once; who is looked at too early
/// has nothing due and is armed again.
#[derive(Debug)]
pub(crate) struct Wheel {
    buckets: Vec<Vec<Key>>,
    /// Everything up to this tick was handed out.
    done: Tick,
}

impl Wheel {
    pub(crate) fn new() -> Wheel {
        Wheel { buckets: vec![Vec::new(); REACH as usize], done: Tick(0) }
    }

    /// Arms a connection for a tick or, if that is too far off, for the last one in reach; says which it is.
    pub(crate) fn arm(&mut self, at: Tick, key: Key) -> Tick {
        let at = at.clamp(self.done.plus(1), self.done.plus(REACH - 1));
        self.buckets[(at.0 % REACH) as usize].push(key);
        at
    }

    /// Moves the connections whose time has come by `now` to `due`.
    pub(crate) fn expire(&mut self, now: Tick, due: &mut Vec<Key>) {
        let passed = now.0.saturating_sub(self.done.0).min(REACH);
        for tick in now.0 + 1 - passed..=now.0 {
            due.append(&mut self.buckets[(tick % REACH) as usize]);
        }
        self.done = self.done.max(now);
    }
}

/// How long things may take for every connection of a server.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spans {
    pub(crate) heartbeat: Duration,
    pub(crate) progress: Duration,
    pub(crate) position: Duration,
}

/// What is due for a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Due {
    Nothing,
    /// A sign of life.
    Heartbeat,
    /// To begin the end.
    Finish(CloseReason),
    /// To end without another byte.
    Cut(CloseReason),
}

/// One connection's times.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadlines {
    /// The tick for which the wheel has it.
    pub(crate) armed: Tick,
    /// When its socket last took a byte.
    wrote: Tick,
    /// Since when its socket takes none though there are some.
    stuck: Tick,
    /// When its life is over.
    lifetime: Tick,
    /// When its token ends.
    expires: Tick,
    /// When its end must be over, once that has begun.
    gone_by: Tick,
    /// How many ticks it may be silent.
    silence: u32,
    ending: Option<CloseReason>,
}

impl Deadlines {
    /// Of a connection that begins now. `spread` (0–255) differs from one to the next, so that not all that were
    /// written to at once get their heartbeats at once.
    pub(crate) fn new(
        now: Tick,
        spans: &Spans,
        lifetime: Option<Duration>,
        token: Option<Duration>,
        spread: u8,
    ) -> Deadlines {
        let longest = ticks(spans.heartbeat).max(1);
        Deadlines {
            armed: Tick::NEVER,
            wrote: now,
            stuck: Tick::NEVER,
            lifetime: lifetime.map_or(Tick::NEVER, |lifetime| now.after(lifetime)),
            // `now` began up to a tick ago, and the rest of the duration below a tick is cut off: two ticks more, and
            // it is never too early. Whoever is told too early comes back with a token that is still good.
            expires: token.map_or(Tick::NEVER, |token| now.after(token).plus(2)),
            gone_by: Tick::NEVER,
            silence: longest - longest / 4 * u32::from(spread) / 255,
            ending: None,
        }
    }

    /// The socket took bytes, and whether it took all there were.
    pub(crate) fn wrote(&mut self, now: Tick, all: bool) {
        self.wrote = now;
        self.stuck = if all { Tick::NEVER } else { now };
    }

    /// The socket took nothing.
    pub(crate) fn stuck(&mut self, now: Tick) {
        self.stuck = self.stuck.min(now);
    }

    /// There is nothing that the socket should take: what it did not take is not wanted any more.
    pub(crate) fn idle(&mut self) {
        self.stuck = Tick::NEVER;
    }

    /// The end begins, unless it has begun already.
    pub(crate) fn end(&mut self, now: Tick, reason: CloseReason) -> bool {
        let begins = self.ending.is_none();
        if begins {
            self.ending = Some(reason);
            self.gone_by = now.plus(FAREWELL);
        }
        begins
    }

    /// Why it ends, once that has begun.
    pub(crate) fn ending(&self) -> Option<CloseReason> {
        self.ending
    }

    /// What is due now.
    pub(crate) fn due(&self, now: Tick, spans: &Spans) -> Due {
        if let Some(reason) = self.ending {
            return if now >= self.gone_by { Due::Cut(reason) } else { Due::Nothing };
        }
        if now >= self.expires {
            Due::Finish(CloseReason::Expired)
        } else if now >= self.lifetime {
            Due::Finish(CloseReason::Lifetime)
        } else if now >= self.stuck.after(spans.progress) {
            Due::Cut(CloseReason::Slow)
        } else if self.stuck == Tick::NEVER && now >= self.wrote.plus(self.silence) {
            Due::Heartbeat
        } else {
            Due::Nothing
        }
    }

    /// When something is due next, if nothing happens meanwhile.
    pub(crate) fn next(&self, spans: &Spans) -> Tick {
        if self.ending.is_some() {
            return self.gone_by;
        }
        let wrote_or_stuck = match self.stuck {
            Tick::NEVER => self.wrote.plus(self.silence),
            stuck => stuck.after(spans.progress),
        };
        wrote_or_stuck.min(self.lifetime).min(self.expires)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPANS: Spans = Spans {
        heartbeat: Duration::from_secs(15),
        progress: Duration::from_secs(30),
        position: Duration::from_secs(3600),
    };

    fn key(slot: u32) -> Key {
        Key { slot, generation: 0 }
    }

    fn seconds(seconds: u64) -> Tick {
        Tick::at(Duration::from_secs(seconds))
    }

    #[test]
    fn the_wheel_hands_out_each_key_once_at_its_tick() {
        let mut wheel = Wheel::new();
        for (slot, at) in [(0, 1), (1, 3), (2, 3), (3, 255)] {
            assert_eq!(wheel.arm(Tick(at), key(slot)), Tick(at));
        }
        assert_eq!(wheel.arm(Tick(0), key(4)), Tick(1), "what is over comes next");
        assert_eq!(wheel.arm(Tick::NEVER, key(5)), Tick(255), "what is out of reach comes as late as can be");
        let mut check = |now: u32, slots: &[u32]| {
            let mut due = Vec::new();
            wheel.expire(Tick(now), &mut due);
            assert_eq!(due.iter().map(|key| key.slot).collect::<Vec<_>>(), slots, "at {now}");
        };
        check(0, &[]);
        check(1, &[0, 4]);
        check(1, &[]);
        check(2, &[]);
        check(254, &[1, 2]);
        check(255, &[3, 5]);
    }

    #[test]
    fn the_wheel_survives_a_long_sleep() {
        let mut wheel = Wheel::new();
        wheel.arm(Tick(200), key(0));
        wheel.expire(Tick(100_000), &mut Vec::new());
        assert_eq!(wheel.arm(Tick(100_010), key(1)), Tick(100_010));
        let mut due = Vec::new();
        wheel.expire(Tick(100_009), &mut due);
        assert_eq!(due, []);
        wheel.expire(Tick(100_010), &mut due);
        assert_eq!(due, [key(1)]);
    }

    #[test]
    fn heartbeats_come_when_nothing_was_written_and_are_spread() {
        let mut times = Deadlines::new(seconds(0), &SPANS, None, None, 0);
        assert_eq!(times.next(&SPANS), seconds(15));
        assert_eq!(times.due(seconds(14), &SPANS), Due::Nothing);
        assert_eq!(times.due(seconds(15), &SPANS), Due::Heartbeat);
        times.wrote(seconds(10), true);
        assert_eq!(times.due(seconds(15), &SPANS), Due::Nothing);
        assert_eq!(times.next(&SPANS), seconds(25));
        let next = |spread| Deadlines::new(seconds(0), &SPANS, None, None, spread).next(&SPANS).0;
        assert_eq!([0, 128, 255].map(next), [60, 53, 45], "in the last quarter of the interval");
    }

    #[test]
    fn a_stuck_connection_is_cut_unless_it_moves() {
        let mut times = Deadlines::new(seconds(0), &SPANS, None, None, 0);
        times.wrote(seconds(5), false);
        times.stuck(seconds(20));
        assert_eq!(times.due(seconds(34), &SPANS), Due::Nothing, "and no heartbeat into a full socket");
        assert_eq!(times.due(seconds(35), &SPANS), Due::Cut(CloseReason::Slow));
        assert_eq!(times.next(&SPANS), seconds(35));
        times.wrote(seconds(34), false);
        assert_eq!(times.due(seconds(63), &SPANS), Due::Nothing);
        assert_eq!(times.due(seconds(64), &SPANS), Due::Cut(CloseReason::Slow));
        times.wrote(seconds(63), true);
        assert_eq!(times.due(seconds(64), &SPANS), Due::Nothing);
    }

    #[test]
    fn a_token_and_a_life_end_and_the_end_ends_too() {
        let minute = Some(Duration::from_secs(60));
        let mut times = Deadlines::new(seconds(0), &SPANS, minute, None, 0);
        times.wrote(seconds(59), true);
        assert_eq!(times.due(seconds(60), &SPANS), Due::Finish(CloseReason::Lifetime));
        let mut times = Deadlines::new(seconds(0), &SPANS, None, minute, 0);
        times.wrote(seconds(59), true);
        let end = seconds(60).plus(2);
        assert_eq!(times.next(&SPANS), end);
        assert_eq!(
            times.due(seconds(60).plus(1), &SPANS),
            Due::Nothing,
            "the tick may have begun before the stream"
        );
        assert_eq!(times.due(end, &SPANS), Due::Finish(CloseReason::Expired));
        assert!(times.end(end, CloseReason::Expired));
        assert!(!times.end(end, CloseReason::Kicked), "the first reason counts");
        assert_eq!(times.due(end, &SPANS), Due::Nothing);
        assert!(times.next(&SPANS) < end.plus(4));
        assert_eq!(times.due(end.plus(4), &SPANS), Due::Cut(CloseReason::Expired));
    }
}
