//! How a subscriber comes into a shard.

use std::sync::atomic::Ordering;

use tidings_wire::{Framing, Position, Sequence};

use super::{Behind, Losses, Mark, Shard};
use crate::log::Selection;
use crate::resume::{From, Resume};
use crate::subscriber::{Lens, Membership, Own, PageState, Reading, Subscriber, Tells, Wants};
use crate::{Timestamp, View};

impl Shard {
    /// Gives a subscriber a slot and enters it into its views.
    pub(super) fn place(
        &mut self,
        framing: Framing,
        envelope: bool,
        views: &[View],
        lens: Lens,
        now: Timestamp,
    ) -> u32 {
        // What is there already is not for it, so that it must not be marked behind by it later.
        while self.consume(usize::MAX) {}
        let slot = self.free.pop().unwrap_or_else(|| {
            self.subscribers.push(None);
            let idle =
                Mark { from: 0, after: Sequence::START, behind: Behind::Not, queued: false, blocked: false };
            self.marks.push(idle);
            self.losses.push(Losses::default());
            u32::try_from(self.subscribers.len() - 1).unwrap_or(u32::MAX)
        });
        let mut memberships: Vec<Membership> = Vec::with_capacity(views.len());
        for view in views {
            self.join(slot, view, &mut memberships);
        }
        self.generation = self.generation.wrapping_add(1);
        self.subscribers[slot as usize] = Some(Subscriber {
            generation: self.generation,
            views: memberships.into(),
            framing,
            envelope,
            records: false,
            offset: 0,
            ephemeral_begun: false,
            own: Own::None,
            wants: Wants::default(),
            born: self.reader.consumed(),
            live_from: self.reader.at(),
            lens: (!lens.is_clear()).then(|| Box::new(lens)),
            connection: None,
            tells: Tells::default(),
            change: None,
            reading: None,
            id_at: now,
        });
        let mark = &mut self.marks[slot as usize];
        mark.from = self.reader.at();
        mark.after = self.reader.consumed();
        mark.behind = Behind::Not;
        mark.blocked = false;
        self.losses[slot as usize] = Losses::default();
        self.stats.subscribers.store(self.len() as u64, Ordering::Relaxed);
        slot
    }

    /// Sets a new subscriber to where it begins; the position that its `open` has.
    pub(super) fn begin(&mut self, slot: u32, resume: Resume) -> Position {
        let here = self.reader.consumed();
        let lost = self.reader.common_since(resume.epoch).is_some();
        let resume = self.since_found(resume);
        let Resume { from, gap, forgiven, ended, .. } = resume;
        self.note_ended(slot, &ended, |_| true);
        let (after, beginning) = match from {
            From::Now(head) => {
                // Records up to `head` may not have come through the window yet; they are older than the request.
                let born = head.max(here);
                if let Some(subscriber) = &mut self.subscribers[slot as usize] {
                    subscriber.born = born;
                    if let Some(gap) = gap {
                        self.tell(slot, gap, self.at(born));
                        return gap.from.unwrap_or(Position::UNKNOWN);
                    }
                }
                return self.at(born);
            }
            From::After(after) => (after, None),
            From::Beginning(beginning) => {
                let first = |selections: &[Selection]| selections.iter().map(|s| s.after).min();
                let after = beginning.selections.as_deref().and_then(first).unwrap_or(Sequence::START);
                (after, Some(beginning))
            }
        };
        let Some(subscriber) = &mut self.subscribers[slot as usize] else { return self.at(after) };
        subscriber.born = after;
        let in_window = self.reader.index_after(after);
        let mark = &mut self.marks[slot as usize];
        mark.after = after;
        match in_window {
            Some(from) if !lost && gap.is_none() && beginning.is_none() && forgiven == Sequence::START => {
                if from < self.reader.at() {
                    mark.from = from;
                    mark.behind = Behind::Many;
                }
            }
            _ => {
                mark.behind = Behind::Log;
                let page = PageState::Needed;
                subscriber.reading =
                    Some(Box::new(Reading { beginning, forgiven, gap, page, looked: false }));
            }
        }
        match gap {
            Some(gap) => gap.from.unwrap_or(Position::UNKNOWN),
            None => self.at(after),
        }
    }
}
