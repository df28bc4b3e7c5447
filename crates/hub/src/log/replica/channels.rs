//! The channels of a replica: which records each still has, and what it lost.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use tidings_wire::{Channel, Event, Key, Sequence};

use super::list::List;
use super::saved::{Saved, SavedChannel};
use crate::log::{Caps, ChannelInfo, Names, Retention};
use crate::{Timestamp, View};

/// How many channels without a record are remembered with what they lost. Past that the ones that lost their last
/// record the longest ago are forgotten.
const REMEMBERED: usize = 65_536;

/// All channels that have a record, and the remembered ones that had.
#[derive(Debug)]
pub(super) struct Channels {
    by_name: HashMap<Channel, ChannelState>,
    /// The same, in order.
    names: Names,
    /// Those without a record, by what they lost.
    empty: BTreeSet<(Sequence, Channel)>,
    /// The newest record that any forgotten channel lost. A channel that is not known may be one of them.
    forgotten: Sequence,
    /// When the oldest record of a channel is due, or before: never after it, whatever the clocks say that records were
    /// stamped by. Each channel with a cap by age and a record is in here, once.
    due: BTreeSet<(Timestamp, Channel)>,
    /// The channels that have ended, each with the record that ended it.
    ended: HashMap<Channel, Sequence>,
    retention: Retention,
}

/// One channel.
#[derive(Debug)]
pub(super) struct ChannelState {
    /// Its records.
    pub(super) records: List,
    /// Those of them that have a key, the oldest first.
    keys: HashMap<Key, VecDeque<Sequence>>,
    pub(super) caps: Caps,
    /// No record up to this one is in the channel any more.
    gone: Sequence,
    /// The newest removed record whose `ttl` was not over then.
    floor: Sequence,
    /// The newest record that was ever in it.
    newest: Sequence,
    /// Where it is in `due`.
    due: Option<Timestamp>,
}

/// What is the oldest record of a channel now that another one is gone.
pub(super) struct NowOldest {
    pub(super) sequence: Sequence,
    age: Duration,
    due: Timestamp,
}

impl NowOldest {
    /// Whether the channel is in `due` too late for it, if that is when it was stored.
    pub(super) fn is_due_before(&self, time: Timestamp) -> bool {
        time.plus(self.age) < self.due
    }
}

impl ChannelState {
    /// Whether the channel has not lost this record, which was published to it.
    pub(super) fn holds(&self, sequence: Sequence, event: &Event) -> bool {
        // Only one with a key is ever taken from one of its channels without being its oldest.
        sequence > self.gone && (event.key.is_none() || self.records.has(sequence))
    }

    /// Whether a cap by count or bytes is exceeded.
    pub(super) fn over(&self) -> bool {
        self.caps.count.is_some_and(|cap| self.records.len() > cap)
            || self.caps.bytes.is_some_and(|cap| self.records.bytes() > cap)
    }

    /// Its records with a key, the newest first.
    pub(super) fn keyed(&self, key: &Key) -> impl Iterator<Item = Sequence> {
        self.keys.get(key).into_iter().flatten().rev().copied()
    }

    fn now_oldest(&self) -> Option<NowOldest> {
        Some(NowOldest { sequence: self.records.oldest()?, age: self.caps.age?, due: self.due? })
    }

    /// Forgets the key of a record that goes.
    fn forget_key(&mut self, key: Option<&Key>, sequence: Sequence) {
        if let Some(key) = key
            && let Some(records) = self.keys.get_mut(key)
        {
            if let Ok(at) = records.binary_search(&sequence) {
                records.remove(at);
            }
            if records.is_empty() {
                self.keys.remove(key);
            }
        }
    }
}

impl Channels {
    pub(super) fn new(retention: Retention) -> Channels {
        Channels {
            by_name: HashMap::new(),
            names: Names::default(),
            empty: BTreeSet::new(),
            forgotten: Sequence::START,
            due: BTreeSet::new(),
            ended: HashMap::new(),
            retention,
        }
    }

    pub(super) fn retention(&self) -> &Retention {
        &self.retention
    }

    /// Other rules, for all channels. Whoever asks removes what they don't allow.
    pub(super) fn set_retention(&mut self, retention: Retention) {
        self.retention = retention;
        // What is due and when is found again with the oldest record of each.
        self.due.clear();
        for (channel, state) in &mut self.by_name {
            state.caps = self.retention.caps(channel);
            state.due = None;
        }
    }

    /// All channels that are known, in order.
    pub(super) fn known(&self) -> impl Iterator<Item = &Channel> {
        self.names.iter()
    }

    pub(super) fn save(&self, saved: &mut Saved) {
        saved.forgotten = self.forgotten;
        let state = |channel: &Channel| {
            let state = self.by_name.get(channel)?;
            let channel = channel.clone();
            Some(SavedChannel { channel, gone: state.gone, floor: state.floor, newest: state.newest })
        };
        saved.channels = self.names.iter().filter_map(state).collect();
    }

    /// Knows channels again that have no record yet.
    pub(super) fn load(&mut self, forgotten: Sequence, channels: Vec<SavedChannel>) {
        self.forgotten = forgotten;
        for SavedChannel { channel, gone, floor, newest } in channels {
            self.know(&channel, gone, floor, newest);
        }
    }

    fn know(&mut self, channel: &Channel, gone: Sequence, floor: Sequence, newest: Sequence) {
        let state = ChannelState {
            records: List::default(),
            keys: HashMap::new(),
            caps: self.retention.caps(channel),
            gone,
            floor,
            newest,
            due: None,
        };
        self.by_name.insert(channel.clone(), state);
        self.names.insert(channel.clone());
        self.empty.insert((floor, channel.clone()));
    }

    /// Whether any channel has a record that may be due.
    pub(super) fn is_due(&self, now: Timestamp) -> bool {
        self.due.first().is_some_and(|(due, _)| *due <= now)
    }

    pub(super) fn get(&self, channel: &Channel) -> Option<&ChannelState> {
        self.by_name.get(channel)
    }

    /// How many channels have a record.
    pub(super) fn kept(&self) -> u64 {
        (self.by_name.len() - self.empty.len()) as u64
    }

    /// The record that ended a channel.
    pub(super) fn ended(&self, channel: &Channel) -> Option<Sequence> {
        self.ended.get(channel).copied()
    }

    /// Whether any channel has ended.
    pub(super) fn has_ended(&self) -> bool {
        !self.ended.is_empty()
    }

    /// Says that a record, which was just added, is the last one of a channel.
    pub(super) fn end(&mut self, channel: &Channel, sequence: Sequence) {
        self.ended.insert(channel.clone(), sequence);
    }

    /// A channel that lost the record that ended it begins anew.
    fn reopen(&mut self, channel: &Channel, lost: Sequence) {
        if self.ended.get(channel) == Some(&lost) {
            self.ended.remove(channel);
        }
    }

    /// Adds a record, the newest of all, to a channel.
    pub(super) fn push(
        &mut self,
        channel: &Channel,
        sequence: Sequence,
        bytes: usize,
        time: Timestamp,
        key: Option<&Key>,
    ) -> &ChannelState {
        if !self.by_name.contains_key(channel) {
            self.know(channel, self.forgotten, self.forgotten, Sequence::START);
        }
        let state = self.by_name.get_mut(channel).expect("it was just put in");
        if state.records.is_empty() {
            self.empty.remove(&(state.floor, channel.clone()));
            if let Some(age) = state.caps.age
                && state.due.is_none_or(|due| time.plus(age) < due)
            {
                schedule(&mut self.due, channel, state, time.plus(age));
            }
        }
        state.records.push(sequence, bytes);
        state.newest = state.newest.max(sequence);
        if let Some(key) = key {
            state.keys.entry(key.clone()).or_default().push_back(sequence);
        }
        state
    }

    /// Removes the oldest record of a channel, which has this key. `lost`: its `ttl` was not over, so that who has not
    /// seen it misses it. Whoever asks for this or [`Channels::take_out`] looks when the one that is the oldest now is due.
    pub(super) fn pop(&mut self, channel: &Channel, key: Option<&Key>, lost: bool) -> Option<NowOldest> {
        let state = self.by_name.get_mut(channel)?;
        let sequence = state.records.pop()?;
        state.gone = sequence;
        if lost {
            state.floor = sequence;
        }
        state.forget_key(key, sequence);
        let empty = state.records.is_empty();
        let now_oldest = state.now_oldest();
        self.reopen(channel, sequence);
        if empty {
            self.emptied(channel);
        }
        now_oldest
    }

    /// Takes one record, which has this key, out of the middle of a channel: nobody misses it. Says whether it was
    /// there, and what is the oldest one now.
    pub(super) fn take_out(
        &mut self,
        channel: &Channel,
        sequence: Sequence,
        key: Option<&Key>,
    ) -> (bool, Option<NowOldest>) {
        let Some(state) = self.by_name.get_mut(channel) else { return (false, None) };
        if !state.records.take_out(sequence) {
            return (false, None);
        }
        state.forget_key(key, sequence);
        let empty = state.records.is_empty();
        let now_oldest = state.now_oldest();
        self.reopen(channel, sequence);
        if empty {
            self.emptied(channel);
        }
        (true, now_oldest)
    }

    fn emptied(&mut self, channel: &Channel) {
        let Some(state) = self.by_name.get_mut(channel) else { return };
        state.keys.shrink_to_fit();
        self.empty.insert((state.floor, channel.clone()));
        if self.empty.len() > REMEMBERED
            && let Some((floor, channel)) = self.empty.pop_first()
        {
            self.forgotten = self.forgotten.max(floor);
            self.names.remove(&channel);
            if let Some(state) = self.by_name.remove(&channel)
                && let Some(due) = state.due
            {
                self.due.remove(&(due, channel));
            }
        }
    }

    /// A channel whose oldest record may be due at `now`. Whoever asks removes what is due and then says the time of
    /// the oldest record that is left to [`Channels::oldest_is`].
    pub(super) fn next_due(&mut self, now: Timestamp) -> Option<Channel> {
        if self.due.first().is_none_or(|(due, _)| *due > now) {
            return None;
        }
        let (_, channel) = self.due.pop_first()?;
        if let Some(state) = self.by_name.get_mut(&channel) {
            state.due = None;
        }
        Some(channel)
    }

    /// When the oldest record of a channel was published.
    pub(super) fn oldest_is(&mut self, channel: &Channel, time: Timestamp) {
        if let Some(state) = self.by_name.get_mut(channel)
            && let Some(age) = state.caps.age
        {
            schedule(&mut self.due, channel, state, time.plus(age));
        }
    }

    /// The newest record that was removed from a view.
    pub(super) fn floor(&self, view: &View) -> Sequence {
        match view {
            View::Channel(channel) => self.by_name.get(channel).map_or(self.forgotten, |state| state.floor),
            View::Pattern(_) => self
                .names
                .shown_by(view)
                .filter_map(|channel| self.by_name.get(channel))
                .map(|state| state.floor)
                .fold(self.forgotten, Ord::max),
        }
    }

    /// The names of the known channels.
    pub(super) fn names(&self) -> &Names {
        &self.names
    }

    /// Channels with a record.
    pub(super) fn list(&self, prefix: &str, after: Option<&Channel>, limit: usize) -> Vec<ChannelInfo> {
        self.names
            .beginning_with(prefix, after)
            .filter_map(|channel| Some((channel, self.by_name.get(channel)?)))
            .filter(|(_, state)| !state.records.is_empty())
            .take(limit)
            .map(|(channel, state)| ChannelInfo {
                channel: channel.clone(),
                newest: state.newest,
                records: state.records.len(),
                bytes: state.records.bytes(),
            })
            .collect()
    }
}

/// Puts a channel to another place in what is due.
fn schedule(
    due: &mut BTreeSet<(Timestamp, Channel)>,
    channel: &Channel,
    state: &mut ChannelState,
    at: Timestamp,
) {
    if let Some(old) = state.due.replace(at) {
        due.remove(&(old, channel.clone()));
    }
    due.insert((at, channel.clone()));
}
