//! Random schedules, done by a log and by the model, which have to agree on every answer.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use tidings_wire::{ConnectionId, Data, Epoch, Key, Position, Sequence, TagValue, Tags};

use super::model::Model;
use super::{Logs, at, channel, event, read_all, view, wait};
use crate::log::{
    AppendError, Caps, Located, Log, NewRecord, Order, ReadLimit, Record, Retention, Selection, Tail,
    TailItem,
};
use crate::{Timestamp, View};

const CHANNELS: [&str; 6] = ["a", "a/x", "a/y", "b", "$all", "$user/7"];
const VIEWS: [&str; 10] = ["a", "a/x", "b", "$all", "$user/7", "*", "**", "a/*", "$user/*", "nothing"];
/// How many keys there are.
const KEYS: usize = 3;
/// How many tails follow at once.
const TAILS: usize = 4;

#[derive(Debug, Clone)]
enum Step {
    Append(Vec<Fresh>),
    Wait(u64),
    Retain,
    Purge(usize),
    /// Of a record so far behind the head.
    Delete(u64),
    Read {
        /// Index of a view, and how far behind the head.
        selections: Vec<(usize, u64)>,
        newest: bool,
        through: u64,
        records: usize,
        bytes: usize,
    },
    Newest {
        views: Vec<usize>,
        count: usize,
        through: u64,
    },
    Keyed {
        channel: usize,
        key: usize,
        after: u64,
        limit: usize,
    },
    Tail(u64),
    Drain,
    Reopen,
}

/// An event of an append.
#[derive(Debug, Clone)]
struct Fresh {
    targets: Vec<usize>,
    size: usize,
    ttl: Option<u32>,
    store: bool,
    key: Option<usize>,
    end: bool,
    excludes: bool,
    tagged: bool,
}

fn fresh() -> impl Strategy<Value = Fresh> {
    let targets = prop_oneof![
        5 => prop::collection::vec(0..CHANNELS.len(), 1..2),
        2 => prop::collection::vec(0..CHANNELS.len(), 2..5),
        // Often enough the same ones for one state to take the place of another.
        2 => prop::sample::select(vec![vec![1, 3], vec![3, 1], vec![0, 1, 2]]),
    ];
    let said = (0..40_usize, prop::option::weighted(0.2, 0..6_u32), prop::bool::weighted(0.9));
    let key = prop::option::weighted(0.5, 0..KEYS);
    let chosen_by = (key, prop::bool::weighted(0.1), prop::bool::weighted(0.2));
    let fresh = (targets, said, prop::bool::weighted(0.02), chosen_by);
    fresh.prop_map(|(targets, (size, ttl, store), end, (key, excludes, tagged))| Fresh {
        targets,
        size,
        ttl,
        store,
        key,
        end,
        excludes,
        tagged,
    })
}

fn step() -> impl Strategy<Value = Step> {
    let selections = prop::collection::vec((0..VIEWS.len(), 0..40_u64), 0..4);
    prop_oneof![
        12 => prop::collection::vec(fresh(), 1..5).prop_map(Step::Append),
        3 => (0..4000_u64).prop_map(Step::Wait),
        3 => Just(Step::Retain),
        2 => (0..CHANNELS.len()).prop_map(Step::Purge),
        1 => (0..20_u64).prop_map(Step::Delete),
        6 => (selections, any::<bool>(), 0..30_u64, 1..8_usize, 1..100_usize).prop_map(
            |(selections, newest, through, records, bytes)| Step::Read {
                selections, newest, through, records, bytes
            }
        ),
        2 => (prop::collection::vec(0..VIEWS.len(), 0..4), 0..4_usize, 0..10_u64)
            .prop_map(|(views, count, through)| Step::Newest { views, count, through }),
        3 => (0..CHANNELS.len(), 0..KEYS, 0..20_u64, 0..4_usize)
            .prop_map(|(channel, key, after, limit)| Step::Keyed { channel, key, after, limit }),
        1 => (0..20_u64).prop_map(Step::Tail),
        1 => Just(Step::Drain),
        1 => Just(Step::Reopen),
    ]
}

fn caps() -> impl Strategy<Value = Caps> {
    let age = prop::option::weighted(0.3, (500..6000_u64).prop_map(Duration::from_millis));
    let count = prop::option::weighted(0.3, 0..12_u64);
    let bytes = prop::option::weighted(0.3, 0..200_u64);
    let state_only = prop::bool::weighted(0.4);
    (age, count, bytes, state_only).prop_map(|(age, count, bytes, state_only)| Caps {
        age,
        count,
        bytes,
        state_only,
    })
}

fn retention() -> impl Strategy<Value = Retention> {
    let pattern = prop::sample::select(&["a/*", "a", "$user/*", "**", "$all"][..]);
    let rule = (pattern.prop_map(|text| text.parse().expect("a good pattern")), caps());
    (prop::collection::vec(rule, 0..3), caps(), prop_oneof![Just(Caps::default()), caps()])
        .prop_map(|(rules, default, total)| Retention { rules, default, total })
}

/// Runs many schedules, each on a log of its own: 300, or `TIDINGS_LOG_SCHEDULES`.
///
/// # Panics
/// When the log and the model disagree.
pub fn run<L: Logs>(factory: &mut dyn FnMut() -> L) {
    let cases = std::env::var("TIDINGS_LOG_SCHEDULES").map_or(300, |count| count.parse().expect("a number"));
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let factory = std::cell::RefCell::new(factory);
    let result = TestRunner::new(config).run(
        &(retention(), prop::collection::vec(step(), 1..120)),
        |(retention, steps)| {
            let mut logs = (factory.borrow_mut())();
            Run::new(&mut logs, retention).steps(steps)
        },
    );
    if let Err(failure) = result {
        panic!("{failure}");
    }
}

struct Run<'a, L> {
    logs: &'a mut L,
    /// Empty only while it is opened again: nothing else may hold the old one then.
    log: Option<Arc<dyn Log>>,
    model: Model,
    now: u64,
    tails: VecDeque<(Box<dyn Tail>, Vec<TailItem>)>,
}

impl<'a, L: Logs> Run<'a, L> {
    fn new(logs: &'a mut L, retention: Retention) -> Run<'a, L> {
        let log = logs.create(retention.clone());
        let model = Model::new(log.head().epoch, retention);
        Run { logs, log: Some(log), model, now: 100_000, tails: VecDeque::new() }
    }

    fn log(&self) -> &dyn Log {
        self.log.as_deref().expect("it is open")
    }

    fn steps(mut self, steps: Vec<Step>) -> Result<(), TestCaseError> {
        for step in steps {
            self.step(step)?;
            self.compare()?;
        }
        self.drain()?;
        self.log().close();
        Ok(())
    }

    fn step(&mut self, step: Step) -> Result<(), TestCaseError> {
        match step {
            Step::Append(batch) => {
                let batch: Vec<NewRecord> = batch.iter().map(|fresh| self.record(fresh)).collect();
                let items = match self.model.append(&batch) {
                    Ok(items) => items,
                    Err(ended) => {
                        prop_assert_eq!(wait(self.log().append(batch)), Err(AppendError::Ended(ended)));
                        return Ok(());
                    }
                };
                let positions = wait(self.log().append(batch)).expect("it is stored");
                let expected: Vec<Position> = items
                    .iter()
                    .map(|item| match item {
                        TailItem::Stored(record) | TailItem::Ephemeral(record) => record.position,
                        other => unreachable!("an append announces no {other:?}"),
                    })
                    .collect();
                prop_assert_eq!(positions, expected);
                self.announced(&items);
            }
            Step::Wait(ms) => self.now += ms,
            Step::Retain => {
                self.model.retain(Timestamp(self.now));
                self.log().retain(Timestamp(self.now));
            }
            Step::Purge(index) => {
                let channel = channel(CHANNELS[index]);
                let (removed, items) = self.model.purge(&channel);
                prop_assert_eq!(wait(self.log().purge(channel)), Ok(removed));
                self.announced(&items);
            }
            Step::Delete(behind) => {
                let mut position = self.model.head();
                position.sequence = self.behind(behind);
                let (removed, items) = self.model.delete(position);
                prop_assert_eq!(wait(self.log().delete(position)), Ok(removed));
                self.announced(&items);
            }
            Step::Read { selections, newest, through, records, bytes } => {
                let selections: Vec<Selection> = selections
                    .into_iter()
                    .map(|(index, behind)| Selection { view: view(VIEWS[index]), after: self.behind(behind) })
                    .collect();
                let order = if newest { Order::Newest } else { Order::Oldest };
                let limit = ReadLimit { through: self.behind(through), records, bytes };
                let (expected, floor) = self.model.read(&selections, order, limit, Timestamp(self.now));
                // The first page says the floor of the whole; later ones only that of what they have yet to read.
                let first = self.log().read(&selections, order, limit, Timestamp(self.now)).expect("a page");
                prop_assert_eq!(first.floor, floor);
                let page = read_all(self.log(), &selections, order, limit, self.now);
                prop_assert_eq!(page.records, expected);
            }
            Step::Newest { views, count, through } => {
                let views: Vec<View> = views.into_iter().map(|index| view(VIEWS[index])).collect();
                let through = self.behind(through);
                let found = self.log().newest(&views, count, through).expect("it can be read");
                prop_assert_eq!(found, self.model.newest(&views, count, through));
            }
            Step::Keyed { channel: at, key, after, limit } => {
                let (channel, key, after) = (channel(CHANNELS[at]), self.key(key), self.behind(after));
                let found = self.log().keyed(&channel, &key, after, limit).expect("it can be read");
                let newer = |record: &&Record| record.position.sequence > after;
                let expected: Vec<Record> =
                    self.model.keyed(&channel, &key).take_while(newer).take(limit).cloned().collect();
                prop_assert_eq!(found, expected);
            }
            Step::Tail(behind) => {
                let after = self.behind(behind);
                let tail = self.log().tail(after).expect("it can be read");
                self.tails.push_back((tail, self.model.tail(after)));
                if self.tails.len() > TAILS {
                    self.tails.pop_front();
                }
            }
            Step::Drain => self.drain()?,
            Step::Reopen => {
                // An orderly end ends the tails; what they were owed is checked first.
                self.drain()?;
                self.tails.clear();
                let log = self.log.take().expect("it is open");
                self.log = Some(self.logs.reopen(log));
            }
        }
        Ok(())
    }

    fn record(&self, fresh: &Fresh) -> NewRecord {
        let targets: Vec<&str> = fresh.targets.iter().map(|index| CHANNELS[*index]).collect();
        let mut event = event(&targets, &"x".repeat(fresh.size));
        event.ttl = fresh.ttl;
        event.store = fresh.store;
        event.key = fresh.key.map(|key| self.key(key));
        event.end = fresh.end;
        if fresh.end && fresh.size == 0 {
            event.data = Data::Nothing;
        }
        if fresh.tagged {
            event.tags = Tags::new([("tagged".into(), TagValue::Bool(true))]).expect("good tags");
        }
        event.exclude.connection = fresh.excludes.then_some(ConnectionId(1));
        at(self.now, event)
    }

    fn key(&self, key: usize) -> Key {
        format!("key {key}").parse().expect("a good key")
    }

    fn behind(&self, count: u64) -> Sequence {
        Sequence(self.model.head().sequence.0.saturating_sub(count))
    }

    fn announced(&mut self, items: &[TailItem]) {
        for (_, owed) in &mut self.tails {
            owed.extend_from_slice(items);
        }
    }

    /// Every tail returns what it owes.
    fn drain(&mut self) -> Result<(), TestCaseError> {
        for (tail, owed) in &mut self.tails {
            let mut got = Vec::new();
            while got.len() < owed.len() {
                let items = tail.next(Duration::from_secs(10)).expect("it can be read").expect("it is open");
                prop_assert!(!items.is_empty(), "a tail kept back {:?}", &owed[got.len()..]);
                got.extend(items);
            }
            prop_assert_eq!(&got, &*owed);
            owed.clear();
        }
        Ok(())
    }

    /// What has to agree at any time.
    fn compare(&self) -> Result<(), TestCaseError> {
        let head = self.model.head();
        prop_assert_eq!(self.log().head(), head);
        let (records, bytes) = self.model.kept();
        let stats = self.log().stats();
        let channels = self.model.channels("", None, usize::MAX);
        prop_assert_eq!(
            (stats.records, stats.bytes, stats.channels),
            (records, bytes, channels.len() as u64)
        );
        prop_assert_eq!(self.log().channels("", None, usize::MAX).expect("it can be read"), channels);
        let after = channel("a/x");
        prop_assert_eq!(
            self.log().channels("a", Some(&after), 1).expect("it can be read"),
            self.model.channels("a", Some(&after), 1)
        );
        for text in VIEWS {
            prop_assert_eq!(
                self.log().floor(&[view(text)]),
                self.model.floor(&view(text)),
                "floor of {}",
                text
            );
        }
        for channel in CHANNELS.map(channel) {
            prop_assert_eq!(self.log().ended(&channel), self.model.ended(&channel), "end of {:?}", channel);
        }
        let ahead = Position { sequence: head.sequence.next(), ..head };
        prop_assert_eq!(self.log().locate(head), Located::Here(head.sequence));
        prop_assert_eq!(self.log().locate(ahead), Located::Ahead);
        let other = Position { epoch: Epoch(head.epoch.0 + 1), ..head };
        prop_assert_eq!(self.log().locate(other), Located::Unknown);
        Ok(())
    }
}
