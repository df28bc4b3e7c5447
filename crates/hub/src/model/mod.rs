//! Random schedules of everything that can happen to a delivery, against a plain model.
//!
//! No thread and no clock: the tail, the workers' turns, the sockets, the pool that reads the log and the clients'
//! connections are all moved by the schedule, a step at a time, on virtual time. A failure names its seed; run it
//! alone with `TIDINGS_MODEL_SEED`. `TIDINGS_MODEL_STEPS` makes the run longer.

mod asking;
mod connection;
mod plain;
mod receiving;
mod schedule;

use std::collections::BTreeMap;

use self::schedule::World;

const STEPS_A_SEED: u32 = 2_000;

/// How many random schedules the models of durable subscriptions and of presence do: `TIDINGS_SCHEDULES`, or what is
/// usual.
pub(crate) fn schedules(usual: u32) -> u32 {
    std::env::var("TIDINGS_SCHEDULES").map_or(usual, |count| count.parse().expect("a number of schedules"))
}

/// What a run has met, and how often.
type Seen = BTreeMap<&'static str, u64>;

/// A schedule that never met one of these proves nothing about it.
const TO_BE_MET: [&str; 32] = [
    "an event",
    "an event that isn't kept",
    "a gap: expired",
    "a gap: unknown",
    "a gap: limit",
    "a gap in mid-stream",
    "a resumed stream",
    "a stream resumed before its first event",
    "a history",
    "the newest of each key",
    "all that is kept",
    "a page",
    "a page with what has ended",
    "a restart",
    "a farewell",
    "a wait between looking for a place and going there",
    "an event of a key that was passed over",
    "a number of events passed over",
    "an event of a key in several channels",
    "an event that a filter holds back",
    "an event that comes past a filter",
    "a change",
    "a change in the middle of a block",
    "a change while the log is read",
    "a change long after its channels were looked at",
    "an end",
    "an end without a word",
    "an end after a change",
    "an end that was seen before",
    "an end with nothing to say it",
    "a channel that begins anew",
    "an event for a channel that has ended",
];

/// A small, fast generator (xorshift64*), so that a seed is a whole schedule.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % below.max(1)
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        let at = self.roll(from.len() as u64);
        &from[usize::try_from(at).unwrap()]
    }

    fn once_in(&mut self, times: u64) -> bool {
        self.roll(times) == 0
    }
}

#[test]
fn nothing_is_lost_silently_doubled_or_out_of_order() {
    let steps: u32 = std::env::var("TIDINGS_MODEL_STEPS")
        .map_or(1_000_000, |steps| steps.parse().expect("a number of steps"));
    let only: Option<u64> =
        std::env::var("TIDINGS_MODEL_SEED").ok().map(|seed| seed.parse().expect("a seed"));
    let mut total = Seen::default();
    let seeds = match only {
        Some(seed) => seed..seed + 1,
        None => 1..u64::from(steps / STEPS_A_SEED) + 1,
    };
    for seed in seeds {
        let run = std::panic::catch_unwind(|| {
            let mut world = World::new(seed);
            for _ in 0..STEPS_A_SEED {
                world.step();
            }
            world.settle();
            world.seen
        });
        let seen = run.unwrap_or_else(|_| panic!("the schedule of TIDINGS_MODEL_SEED={seed} failed"));
        for (what, count) in seen {
            *total.entry(what).or_default() += count;
        }
    }
    let missed: Vec<_> = TO_BE_MET.iter().filter(|what| !total.contains_key(*what)).collect();
    assert!(only.is_some() || missed.is_empty(), "the schedules never met {missed:?}, but {total:#?}");
}
