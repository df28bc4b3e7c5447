//! The records of one channel of a replica, in their order.

use std::collections::VecDeque;

use tidings_wire::Sequence;

/// In the place of the bytes of a record that was taken out.
const HOLE: usize = usize::MAX;
/// So many holes are left however few records there are.
const HOLES: usize = 16;

/// A list that is added to at its end and loses its oldest, and out of whose middle a record can be taken: that leaves
/// a hole, for to move all that lies behind it would take longer the more keys a channel of states has. Holes are
/// closed when there are more of them than records.
#[derive(Debug, Default)]
pub(super) struct List {
    /// Each with its bytes of data. Neither the first nor the last one is a hole.
    entries: VecDeque<(Sequence, usize)>,
    holes: usize,
    bytes: u64,
}

impl List {
    pub(super) fn len(&self) -> u64 {
        (self.entries.len() - self.holes) as u64
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The bytes of data of all records.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn oldest(&self) -> Option<Sequence> {
        self.entries.front().map(|(sequence, _)| *sequence)
    }

    pub(super) fn newest(&self) -> Option<Sequence> {
        self.entries.back().map(|(sequence, _)| *sequence)
    }

    pub(super) fn has(&self, sequence: Sequence) -> bool {
        self.place(sequence).is_some_and(|at| self.entries[at].1 != HOLE)
    }

    /// Adds a record that is newer than all others.
    pub(super) fn push(&mut self, sequence: Sequence, bytes: usize) {
        self.entries.push_back((sequence, bytes));
        self.bytes += bytes as u64;
    }

    /// Removes the oldest record.
    pub(super) fn pop(&mut self) -> Option<Sequence> {
        let (sequence, bytes) = self.entries.pop_front()?;
        self.bytes -= bytes as u64;
        self.trim();
        Some(sequence)
    }

    /// Removes a record from wherever it is. Says whether it was there.
    pub(super) fn take_out(&mut self, sequence: Sequence) -> bool {
        let Some(at) = self.place(sequence) else { return false };
        let bytes = std::mem::replace(&mut self.entries[at].1, HOLE);
        if bytes == HOLE {
            return false;
        }
        self.bytes -= bytes as u64;
        self.holes += 1;
        self.trim();
        if self.holes > self.entries.len() - self.holes + HOLES {
            self.entries.retain(|(_, bytes)| *bytes != HOLE);
            self.holes = 0;
        }
        true
    }

    /// Removes the holes at both ends, and the space when nothing is left.
    fn trim(&mut self) {
        while self.entries.front().is_some_and(|(_, bytes)| *bytes == HOLE) {
            self.entries.pop_front();
            self.holes -= 1;
        }
        while self.entries.back().is_some_and(|(_, bytes)| *bytes == HOLE) {
            self.entries.pop_back();
            self.holes -= 1;
        }
        if self.entries.is_empty() {
            self.entries.shrink_to_fit();
        }
    }

    /// The records after one and up to another.
    pub(super) fn range(
        &self,
        after: Sequence,
        through: Sequence,
    ) -> impl DoubleEndedIterator<Item = Sequence> + use<'_> {
        let from = self.first_after(after);
        let to = self.first_after(through).max(from);
        self.entries.range(from..to).filter(|(_, bytes)| *bytes != HOLE).map(|(sequence, _)| *sequence)
    }

    /// Behind which record the newest `count` ones up to one begin, if there is any.
    pub(super) fn before_newest(&self, count: usize, through: Sequence) -> Option<Sequence> {
        let to = self.first_after(through);
        if self.holes == 0 {
            let newest = self.entries.get(to.checked_sub(1)?)?.0;
            return Some(match to.saturating_sub(count) {
                from if from == to => newest,
                from => Sequence(self.entries[from].0.0 - 1),
            });
        }
        let mut backwards = self.range(Sequence::START, through).rev();
        let newest = backwards.next()?;
        if count == 0 {
            return Some(newest);
        }
        let oldest = backwards.take(count - 1).last().unwrap_or(newest);
        Some(Sequence(oldest.0 - 1))
    }

    fn first_after(&self, sequence: Sequence) -> usize {
        self.entries.partition_point(|(at, _)| *at <= sequence)
    }

    fn place(&self, sequence: Sequence) -> Option<usize> {
        self.entries.binary_search_by_key(&sequence, |(at, _)| *at).ok()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_as_a_map(steps in prop::collection::vec((0..5_u8, 0..40_u64), 1..200), count in 0..4_usize) {
            let mut list = List::default();
            let mut map = BTreeMap::new();
            let mut last = 0;
            for (step, n) in steps {
                match step {
                    0..2 => {
                        last += 1 + n % 3;
                        list.push(Sequence(last), n as usize);
                        map.insert(last, n);
                    }
                    2 => prop_assert_eq!(list.pop().map(|at| at.0), map.pop_first().map(|(at, _)| at)),
                    _ => {
                        let at = last.saturating_sub(n);
                        prop_assert_eq!(list.has(Sequence(at)), map.contains_key(&at));
                        prop_assert_eq!(list.take_out(Sequence(at)), map.remove(&at).is_some());
                    }
                }
                prop_assert_eq!(list.len(), map.len() as u64);
                prop_assert_eq!(list.is_empty(), map.is_empty());
                prop_assert_eq!(list.bytes(), map.values().sum::<u64>());
                prop_assert_eq!(list.oldest().map(|at| at.0), map.keys().next().copied());
                prop_assert_eq!(list.newest().map(|at| at.0), map.keys().next_back().copied());
                let (after, through) = (last.saturating_sub(n), last.saturating_sub(n / 3));
                let inside: Vec<u64> = map.range(after + 1..through.max(after) + 1).map(|(at, _)| *at).collect();
                let range = list.range(Sequence(after), Sequence(through));
                prop_assert_eq!(range.map(|at| at.0).collect::<Vec<_>>(), inside);
                let newest: Vec<u64> = map.range(..=through).rev().map(|(at, _)| *at).collect();
                let before = match (count, &newest[..]) {
                    (_, []) => None,
                    (0, [newest, ..]) => Some(*newest),
                    (count, newest) => Some(newest[count.min(newest.len()) - 1] - 1),
                };
                prop_assert_eq!(list.before_newest(count, Sequence(through)).map(|at| at.0), before);
            }
        }
    }
}
