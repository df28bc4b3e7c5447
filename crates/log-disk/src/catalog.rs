//! What is known of every channel without reading the disk.

use std::collections::HashMap;

use tidings_hub::View;
use tidings_hub::log::{Caps, ChannelInfo, Located, Names};
use tidings_wire::{Channel, Epoch, Position, Sequence};

/// One channel, as its row has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ChannelState {
    /// The key of its rows; never given to another channel.
    pub(crate) id: i64,
    pub(crate) caps: Caps,
    /// No record up to this one is in the channel any more, whatever rows are left.
    pub(crate) gone: Sequence,
    /// The newest removed record whose `ttl` was not over then.
    pub(crate) floor: Sequence,
    /// The newest record that was ever in it.
    pub(crate) newest: Sequence,
    /// The newest one that has a row. The next one's row names it.
    pub(crate) last: Sequence,
    /// No row up to this one is left.
    pub(crate) swept: Sequence,
    /// How many records it has.
    pub(crate) records: u64,
    /// How many bytes of data they have.
    pub(crate) bytes: u64,
    /// The record that ended it last, if that was not deleted.
    pub(crate) end: Sequence,
}

impl ChannelState {
    /// Whether the channel has not lost this record, which was published to it, together with all before. One with a
    /// key may have gone by itself, for a newer state: of that only its place knows.
    pub(crate) fn holds(&self, sequence: Sequence) -> bool {
        sequence > self.gone
    }

    /// The record that ended it, if it is still there.
    pub(crate) fn ended(&self) -> Option<Sequence> {
        (self.end > self.gone).then_some(self.end)
    }

    /// Whether a cap by count or bytes is exceeded.
    pub(crate) fn over(&self) -> bool {
        self.caps.count.is_some_and(|cap| self.records > cap)
            || self.caps.bytes.is_some_and(|cap| self.bytes > cap)
    }

    /// Whether rows are left of removed records.
    pub(crate) fn has_waste(&self) -> bool {
        self.swept < self.gone.min(self.last)
    }
}

/// What is kept in all, as its row has it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) records: u64,
    pub(crate) bytes: u64,
    /// The newest record that a forgotten channel lost.
    pub(crate) forgotten: Sequence,
    /// How many channels have a row.
    pub(crate) channels: u64,
    /// The id of the next new channel.
    pub(crate) next_id: i64,
}

/// The durable state that readers see; the writer changes it in one step with announcing what changed it.
#[derive(Debug)]
pub(crate) struct Catalog {
    pub(crate) head: Position,
    pub(crate) lineage: Lineage,
    pub(crate) totals: Totals,
    /// How many channels have a record.
    kept: u64,
    /// How many have ended.
    ended: u64,
    by_name: HashMap<Channel, ChannelState>,
    /// The same, in order.
    names: Names,
}

impl Catalog {
    pub(crate) fn new(head: Position, lineage: Lineage, totals: Totals) -> Catalog {
        let (by_name, names) = (HashMap::new(), Names::default());
        Catalog { head, lineage, totals, kept: 0, ended: 0, by_name, names }
    }

    pub(crate) fn get(&self, channel: &Channel) -> Option<&ChannelState> {
        self.by_name.get(channel)
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = (&Channel, &ChannelState)> {
        self.by_name.iter()
    }

    pub(crate) fn kept(&self) -> u64 {
        self.kept
    }

    /// The record that ended a channel.
    pub(crate) fn ended(&self, channel: &Channel) -> Option<Sequence> {
        self.by_name.get(channel)?.ended()
    }

    /// Whether any channel has ended.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended > 0
    }

    pub(crate) fn set(&mut self, channel: Channel, state: ChannelState) {
        self.kept += u64::from(state.records > 0);
        self.ended += u64::from(state.ended().is_some());
        match self.by_name.get_mut(&channel) {
            Some(old) => {
                self.kept -= u64::from(old.records > 0);
                self.ended -= u64::from(old.ended().is_some());
                *old = state;
            }
            None => {
                self.names.insert(channel.clone());
                self.by_name.insert(channel, state);
            }
        }
    }

    pub(crate) fn forget(&mut self, channel: &Channel) {
        self.names.remove(channel);
        if let Some(state) = self.by_name.remove(channel) {
            self.kept -= u64::from(state.records > 0);
            self.ended -= u64::from(state.ended().is_some());
        }
    }

    /// Whether a channel still has a record that was published to it.
    pub(crate) fn holds(&self, channel: &Channel, sequence: Sequence) -> bool {
        self.by_name.get(channel).is_some_and(|state| state.holds(sequence))
    }

    pub(crate) fn floor(&self, view: &View) -> Sequence {
        match view {
            View::Channel(channel) => {
                self.by_name.get(channel).map_or(self.totals.forgotten, |state| state.floor)
            }
            View::Pattern(_) => {
                self.shown_by(view).map(|(_, state)| state.floor).fold(self.totals.forgotten, Ord::max)
            }
        }
    }

    /// The known channels that a view shows, in order.
    pub(crate) fn shown_by<'a>(
        &'a self,
        view: &'a View,
    ) -> impl Iterator<Item = (&'a Channel, &'a ChannelState)> {
        self.names.shown_by(view).filter_map(|channel| Some((channel, self.by_name.get(channel)?)))
    }

    /// The names of the known channels.
    pub(crate) fn names(&self) -> &Names {
        &self.names
    }

    pub(crate) fn list(&self, prefix: &str, after: Option<&Channel>, limit: usize) -> Vec<ChannelInfo> {
        self.names
            .beginning_with(prefix, after)
            .filter_map(|channel| Some((channel, self.by_name.get(channel)?)))
            .filter(|(_, state)| state.records > 0)
            .take(limit)
            .map(|(channel, state)| ChannelInfo {
                channel: channel.clone(),
                newest: state.newest,
                records: state.records,
                bytes: state.bytes,
            })
            .collect()
    }
}

/// The epochs that this log had, each with the record behind which it began.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Lineage(Vec<(Epoch, Sequence)>);

impl Lineage {
    /// Epochs in their order.
    pub(crate) fn new(epochs: Vec<(Epoch, Sequence)>) -> Lineage {
        Lineage(epochs)
    }

    pub(crate) fn present(&self) -> Option<(Epoch, Sequence)> {
        self.0.last().copied()
    }

    /// Where a position lies, with the newest record being `head`.
    pub(crate) fn locate(&self, position: Position, head: Sequence) -> Located {
        let Ok(at) = self.0.binary_search_by_key(&position.epoch, |(epoch, _)| *epoch) else {
            return Located::Unknown;
        };
        // A later epoch may have forked off before the one that came next did.
        match self.0[at + 1..].iter().map(|(_, start)| *start).min() {
            Some(fork) if position.sequence > fork => Located::PastFork(fork),
            None if position.sequence > head => Located::Ahead,
            _ => Located::Here(position.sequence),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_past_a_fork_are_told_from_those_before() {
        let at = |epoch, sequence| (Epoch(epoch), Sequence(sequence));
        let lineage = Lineage::new(vec![at(5, 0), at(7, 10), at(9, 8), at(12, 20)]);
        let locate = |epoch, sequence| {
            let position = Position { epoch: Epoch(epoch), sequence: Sequence(sequence) };
            lineage.locate(position, Sequence(30))
        };
        let here = |sequence| Located::Here(Sequence(sequence));
        assert_eq!(locate(5, 8), here(8));
        assert_eq!(locate(5, 9), Located::PastFork(Sequence(8)));
        assert_eq!(locate(7, 8), here(8));
        assert_eq!(locate(7, 12), Located::PastFork(Sequence(8)));
        assert_eq!(locate(9, 20), here(20));
        assert_eq!(locate(9, 21), Located::PastFork(Sequence(20)));
        assert_eq!(locate(12, 30), here(30));
        assert_eq!(locate(12, 31), Located::Ahead);
        assert_eq!(locate(6, 1), Located::Unknown);
        assert_eq!(locate(0, 0), Located::Unknown);
    }
}
