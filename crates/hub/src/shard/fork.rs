//! A log that goes on in another history: what was seen of the old one and is lost is told as a gap.

use tidings_wire::{GapReason, Position, Sequence};

use super::reading::page_bytes;
use super::{Behind, Mark, Shard};
use crate::resume::{From, Gap, Resume};
use crate::subscriber::{PageState, Reading, Subscriber};

impl Shard {
    /// Goes on in the window's present history, if it is another one than was consumed. Everybody reads in the log what
    /// comes next: who has seen what is lost from the fork on, with a gap, and the others where they are. False when
    /// there is no other history.
    #[cold]
    pub(super) fn leave_history(&mut self) -> bool {
        let old = self.reader.epoch();
        let places: Vec<Sequence> = (0..self.subscribers.len()).map(|slot| self.place_of(slot)).collect();
        if !self.reader.leave_history() {
            return false;
        }
        let common = self.reader.common_since(old);
        self.index.forget_ends();
        for (slot, place) in (0_u32..).zip(places) {
            self.generation = self.generation.wrapping_add(1);
            let generation = self.generation;
            let at = slot as usize;
            let (Some(subscriber), mark) = (&mut self.subscribers[at], &mut self.marks[at]) else { continue };
            // A page that was read, or is being read, may be one of the old history.
            subscriber.generation = generation;
            if let Some(reading) = &subscriber.reading {
                self.kept_bytes -= page_bytes(&reading.page).min(self.kept_bytes);
            }
            leave(subscriber, mark, Position { epoch: old, sequence: place }, common);
            self.enqueue(slot);
        }
        true
    }

    /// Up to where a subscriber has seen everything.
    fn place_of(&self, slot: usize) -> Sequence {
        let Some(subscriber) = &self.subscribers[slot] else { return Sequence::START };
        let reached = match self.marks[slot].behind {
            Behind::Not => self.reader.consumed(),
            _ => self.marks[slot].after,
        };
        reached.max(subscriber.born)
    }

    /// What became of a place to begin at, if the log lost something since it was found.
    pub(super) fn since_found(&self, mut resume: Resume) -> Resume {
        let Some(common) = self.reader.common_since(resume.epoch) else { return resume };
        resume.from = match resume.from {
            // What comes is what comes now. It is read in the log, which knows what has ended.
            From::Now(_) => From::After(self.reader.consumed()),
            From::After(after) if after > common => {
                let place = Position { epoch: resume.epoch, sequence: after };
                let from = resume.gap.map_or(Some(place), |gap| gap.from);
                resume.gap = Some(Gap { reason: GapReason::Epoch, from });
                From::After(common)
            }
            From::After(after) => From::After(after),
            From::Beginning(mut beginning) => {
                beginning.through = beginning.through.min(common);
                From::Beginning(beginning)
            }
        };
        resume.forgiven = resume.forgiven.min(common);
        resume
    }
}

/// Takes a subscriber from its place in one history to where it goes on in the next. `common`: what both have, if not
/// all of it.
fn leave(subscriber: &mut Subscriber, mark: &mut Mark, place: Position, common: Option<Sequence>) {
    let in_window = matches!(mark.behind, Behind::Through(_) | Behind::Many);
    let common = common.unwrap_or(Sequence(u64::MAX));
    let mut reading = subscriber.reading.take().unwrap_or_else(|| Box::new(Reading::mid_stream()));
    // The bytes that are to come would be those of another event, be it since an earlier history.
    let cut = subscriber.offset > 0
        && (mark.after >= common
            || in_window && subscriber.ephemeral_begun
            || matches!(reading.page, PageState::Lost));
    reading.page = if cut { PageState::Lost } else { PageState::Needed };
    reading.looked = false;
    reading.forgiven = reading.forgiven.min(common);
    if place.sequence > common {
        let from = reading.gap.map_or(Some(place), |gap| gap.from);
        reading.gap = Some(Gap { reason: GapReason::Epoch, from });
        reading.beginning = None;
        mark.after = common;
        subscriber.born = common;
    } else {
        if let Some(beginning) = &mut reading.beginning {
            beginning.through = beginning.through.min(common);
        }
        if subscriber.offset == 0 {
            mark.after = place.sequence;
        }
    }
    mark.behind = Behind::Log;
    subscriber.reading = Some(reading);
}
