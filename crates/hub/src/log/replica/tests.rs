//! The same steps lead to the same state, also where it was written down and read again in between, and whatever the
//! clocks say that events were stamped by.

use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use tidings_wire::{Channel, Epoch, Event, Position, Sequence, Targets};

use super::Replica;
use crate::Timestamp;
use crate::log::{Caps, NewRecord, Once, Retention, TailItem, Terms};

const CHANNELS: [&str; 4] = ["a", "a/x", "b", "c"];
const AGE: u64 = 100;

#[derive(Debug, Clone)]
enum Step {
    Append {
        targets: Vec<usize>,
        time: u64,
        key: Option<usize>,
        end: bool,
        ttl: Option<u32>,
        once: Option<u8>,
    },
    Retain(u64),
    Purge(usize),
    /// So far behind the head.
    Delete(u64),
    Rules(Option<u64>),
    /// The one is written down and read again.
    Reload,
}

/// By a clock that is far from the others now and then.
fn time() -> impl Strategy<Value = u64> {
    prop_oneof![4 => 1000..1100_u64, 1 => 500..2000_u64]
}

fn step() -> impl Strategy<Value = Step> {
    let targets = prop::collection::vec(0..CHANNELS.len(), 1..4);
    let rest =
        (prop::option::of(0..2_usize), prop::bool::weighted(0.1), prop::option::weighted(0.2, 0..2_u32));
    let append = (targets, time(), rest, prop::option::weighted(0.2, 0..3_u8)).prop_map(
        |(targets, time, (key, end, ttl), once)| Step::Append { targets, time, key, end, ttl, once },
    );
    prop_oneof![
        12 => append,
        3 => (1000..1300_u64).prop_map(Step::Retain),
        1 => (0..CHANNELS.len()).prop_map(Step::Purge),
        1 => (0..10_u64).prop_map(Step::Delete),
        1 => prop::option::of(1..6_u64).prop_map(Step::Rules),
        3 => Just(Step::Reload),
    ]
}

fn retention(total: Option<u64>) -> Retention {
    let age = Some(Duration::from_millis(AGE));
    let caps = Caps { age, count: Some(3), ..Caps::default() };
    let states = Caps { age, state_only: true, ..Caps::default() };
    Retention {
        rules: vec![("b".parse().unwrap(), states)],
        default: caps,
        total: Caps { age: Some(Duration::from_millis(2 * AGE)), count: total, ..Caps::default() },
    }
}

/// What it answers, and says to its tails.
fn make(replica: &mut Replica, step: &Step) -> (String, Vec<TailItem>) {
    let mut items = Vec::new();
    let answer = match step {
        Step::Append { targets, time, key, end, ttl, once } => {
            let channels: Vec<Channel> = targets.iter().map(|at| CHANNELS[*at].parse().unwrap()).collect();
            let event = Event {
                key: key.map(|key| key.to_string().parse().unwrap()),
                end: *end,
                ttl: *ttl,
                ..Event::new(Targets::new(channels).unwrap(), "x".into())
            };
            let time = Timestamp(*time);
            let until = time.plus(Duration::from_millis(AGE));
            let terms = Terms {
                once: once.map(|key| Once { key: [key; 32], body: [0; 32], until }),
                ..Terms::default()
            };
            let batch = vec![NewRecord { time, event: Arc::new(event) }];
            format!("{:?}", replica.append(batch, terms, Duration::ZERO, &mut items))
        }
        Step::Retain(now) => {
            replica.retain(Timestamp(*now));
            String::new()
        }
        Step::Purge(at) => replica.purge(CHANNELS[*at].parse().unwrap(), &mut items).to_string(),
        Step::Delete(behind) => {
            let Position { epoch, sequence } = replica.head();
            let sequence = Sequence(sequence.0.saturating_sub(*behind));
            replica.delete(Position { epoch, sequence }, &mut items).to_string()
        }
        Step::Rules(total) => {
            replica.set_retention(retention(*total), Timestamp(1100));
            String::new()
        }
        Step::Reload => String::new(),
    };
    (answer, items)
}

proptest! {
    #[test]
    fn a_replica_that_was_read_again_does_the_same(steps in prop::collection::vec(step(), 1..80)) {
        let mut running = Replica::new(Epoch(1), retention(Some(8)));
        let mut read_again = Replica::new(Epoch(1), retention(Some(8)));
        for step in steps {
            if matches!(step, Step::Reload) {
                read_again = Replica::load(read_again.save()).unwrap();
            }
            prop_assert_eq!(make(&mut running, &step), make(&mut read_again, &step), "{:?}", step);
            prop_assert_eq!(running.save(), read_again.save(), "{:?}", step);
        }
    }
}
