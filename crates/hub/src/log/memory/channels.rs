//! The channels of a log in memory: which records each still has, and what it lost.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::ops::Bound;

use tidings_wire::{Channel, Sequence};

use crate::log::{Caps, ChannelInfo, Retention};
use crate::{Timestamp, View};

/// How many channels without a record are remembered with what they lost. Past that the ones that lost their last
/// record the longest ago are forgotten.
const REMEMBERED: usize = 65_536;

/// All channels that have a record, and the remembered ones that had.
#[derive(Debug)]
pub(super) struct Channels {
    by_name: HashMap<Channel, ChannelState>,
    /// The same, in order.
    names: BTreeSet<Channel>,
    /// Those without a record, by what they lost.
    empty: BTreeSet<(Sequence, Channel)>,
    /// The newest record that any forgotten channel lost. A channel that is not known may be one of them.
    forgotten: Sequence,
    /// When the oldest record of a channel is due, at the earliest. Each channel with a cap by age and a record is in
    /// here, once.
    due: BTreeSet<(Timestamp, Channel)>,
    retention: Retention,
}

/// One channel.
#[derive(Debug)]
pub(super) struct ChannelState {
    /// Its records, the oldest first, with the bytes of data of each.
    pub(super) records: VecDeque<(Sequence, usize)>,
    /// The bytes of data of all of them.
    pub(super) bytes: u64,
    pub(super) caps: Caps,
    /// No record up to this one is in the channel any more.
    gone: Sequence,
    /// The newest removed record whose `ttl` was not over then.
    floor: Sequence,
    /// The newest record that was ever in it.
    newest: Sequence,
    /// Whether it is in `due`.
    scheduled: bool,
}

impl ChannelState {
    /// Whether the channel has not lost this record, which was published to it.
    pub(super) fn holds(&self, sequence: Sequence) -> bool {
        sequence > self.gone
    }

    /// Whether a cap by count or bytes is exceeded.
    pub(super) fn over(&self) -> bool {
        self.caps.count.is_some_and(|cap| self.records.len() as u64 > cap)
            || self.caps.bytes.is_some_and(|cap| self.bytes > cap)
    }

    /// The place in `records` of the first one after this one.
    pub(super) fn first_after(&self, sequence: Sequence) -> usize {
        self.records.partition_point(|(at, _)| *at <= sequence)
    }
}

impl Channels {
    pub(super) fn new(retention: Retention) -> Channels {
        Channels {
            by_name: HashMap::new(),
            names: BTreeSet::new(),
            empty: BTreeSet::new(),
            forgotten: Sequence::START,
            due: BTreeSet::new(),
            retention,
        }
    }

    pub(super) fn get(&self, channel: &Channel) -> Option<&ChannelState> {
        self.by_name.get(channel)
    }

    /// How many channels have a record.
    pub(super) fn kept(&self) -> u64 {
        (self.by_name.len() - self.empty.len()) as u64
    }

    /// Adds a record, the newest of all, to a channel.
    pub(super) fn push(
        &mut self,
        channel: &Channel,
        sequence: Sequence,
        bytes: usize,
        time: Timestamp,
    ) -> &ChannelState {
        if !self.by_name.contains_key(channel) {
            let state = ChannelState {
                records: VecDeque::new(),
                bytes: 0,
                caps: self.retention.caps(channel),
                gone: self.forgotten,
                floor: self.forgotten,
                newest: Sequence::START,
                scheduled: false,
            };
            self.by_name.insert(channel.clone(), state);
            self.names.insert(channel.clone());
            self.empty.insert((self.forgotten, channel.clone()));
        }
        let state = self.by_name.get_mut(channel).expect("it was just put in");
        if state.records.is_empty() {
            self.empty.remove(&(state.floor, channel.clone()));
            if let Some(age) = state.caps.age
                && !state.scheduled
            {
                state.scheduled = true;
                self.due.insert((time.plus(age), channel.clone()));
            }
        }
        state.records.push_back((sequence, bytes));
        state.bytes += bytes as u64;
        state.newest = sequence;
        state
    }

    /// Removes the oldest record of a channel. `lost`: its `ttl` was not over, so that who has not seen it misses it.
    pub(super) fn pop(&mut self, channel: &Channel, lost: bool) -> Option<Sequence> {
        let state = self.by_name.get_mut(channel)?;
        let (sequence, bytes) = state.records.pop_front()?;
        state.bytes -= bytes as u64;
        state.gone = sequence;
        if lost {
            state.floor = sequence;
        }
        if state.records.is_empty() {
            self.emptied(channel);
        }
        Some(sequence)
    }

    /// Takes one record out of the middle of a channel, on purpose: nobody misses it.
    pub(super) fn take_out(&mut self, channel: &Channel, sequence: Sequence) {
        let Some(state) = self.by_name.get_mut(channel) else { return };
        let Ok(at) = state.records.binary_search_by_key(&sequence, |(at, _)| *at) else { return };
        if let Some((_, bytes)) = state.records.remove(at) {
            state.bytes -= bytes as u64;
        }
        if state.records.is_empty() {
            self.emptied(channel);
        }
    }

    fn emptied(&mut self, channel: &Channel) {
        let Some(state) = self.by_name.get_mut(channel) else { return };
        state.records.shrink_to_fit();
        self.empty.insert((state.floor, channel.clone()));
        if self.empty.len() > REMEMBERED
            && let Some((floor, channel)) = self.empty.pop_first()
        {
            self.forgotten = self.forgotten.max(floor);
            self.names.remove(&channel);
            self.by_name.remove(&channel);
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
            state.scheduled = false;
        }
        Some(channel)
    }

    /// When the oldest record of a channel was published.
    pub(super) fn oldest_is(&mut self, channel: &Channel, time: Timestamp) {
        if let Some(state) = self.by_name.get_mut(channel)
            && let Some(age) = state.caps.age
        {
            state.scheduled = true;
            self.due.insert((time.plus(age), channel.clone()));
        }
    }

    /// The newest record that was removed from a view.
    pub(super) fn floor(&self, view: &View) -> Sequence {
        match view {
            View::Channel(channel) => self.by_name.get(channel).map_or(self.forgotten, |state| state.floor),
            View::Pattern(_) => self
                .shown_by(view)
                .filter_map(|channel| self.by_name.get(channel))
                .map(|state| state.floor)
                .fold(self.forgotten, Ord::max),
        }
    }

    /// The known channels that a view shows, in order.
    pub(super) fn shown_by<'a>(&'a self, view: &'a View) -> impl Iterator<Item = &'a Channel> {
        self.named_like(view).filter(move |channel| view.shows(channel))
    }

    /// The known channels whose names begin as the view's do; among them all that it shows.
    pub(super) fn named_like<'a>(&'a self, view: &'a View) -> impl Iterator<Item = &'a Channel> {
        let text = view.as_str();
        let prefix = match view {
            View::Channel(_) => text,
            View::Pattern(_) => text.find('*').map_or(text, |wildcard| &text[..wildcard]),
        };
        self.beginning_with(prefix, None)
    }

    fn beginning_with<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&'a Channel>,
    ) -> impl Iterator<Item = &'a Channel> {
        let from = match after {
            Some(after) if after.as_str() >= prefix => Bound::Excluded(after.as_str()),
            _ => Bound::Included(prefix),
        };
        self.names
            .range::<str, _>((from, Bound::Unbounded))
            .take_while(move |channel| channel.as_str().starts_with(prefix))
    }

    /// Channels with a record.
    pub(super) fn list(&self, prefix: &str, after: Option<&Channel>, limit: usize) -> Vec<ChannelInfo> {
        self.beginning_with(prefix, after)
            .filter_map(|channel| Some((channel, self.by_name.get(channel)?)))
            .filter(|(_, state)| !state.records.is_empty())
            .take(limit)
            .map(|(channel, state)| ChannelInfo {
                channel: channel.clone(),
                newest: state.newest,
                records: state.records.len() as u64,
                bytes: state.bytes,
            })
            .collect()
    }
}
