//! Running subscribers that come to follow other channels.

use tidings_wire::{Position, Sequence};

use super::{Behind, Move, Shard, SubscriberId};
use crate::View;
use crate::log::Selection;
use crate::subscriber::{Beginning, Change, Membership, Only, PageState, Reading};

impl Shard {
    /// Changes what a subscriber follows, and says from where on it is shown what was added: its present place. What
    /// lies before that is not sent, since the ids of a stream never go back; it is to be had as history.
    ///
    /// In the middle of a block the change waits for its end, and begins there. While a subscriber reads what it asked
    /// for first, such as a history, it begins behind that; and behind what it was told is missing.
    pub fn change(&mut self, id: SubscriberId, change: Change) -> Position {
        let slot = id.0 as usize;
        // What is there already is not for it as far as it is up to date.
        while self.consume(usize::MAX) {}
        let Some(subscriber) = &mut self.subscribers[slot] else { return self.here() };
        if subscriber.offset == 0 {
            // One that waited for the end of a block which has come since.
            self.apply_waiting(id.0);
            self.apply(id.0, change);
            return self.added_from(slot, self.position(id));
        }
        match &mut subscriber.change {
            Some(waiting) => waiting.then(change),
            None => subscriber.change = Some(Box::new(change)),
        }
        let at = self.begun_at(slot).unwrap_or_else(|| self.position(id).sequence);
        self.added_from(slot, self.at(at))
    }

    /// Where something begins that is added to a subscriber at a place.
    fn added_from(&self, slot: usize, place: Position) -> Position {
        let reading = self.subscribers[slot].as_ref().and_then(|subscriber| subscriber.reading.as_ref());
        match reading.and_then(|reading| reading.settled_from()) {
            Some(settled) if settled > place.sequence => self.at(settled),
            _ => place,
        }
    }

    /// The record whose first half was written.
    fn begun_at(&self, slot: usize) -> Option<Sequence> {
        let subscriber = self.subscribers[slot].as_ref()?;
        match subscriber.reading.as_ref().map(|reading| &reading.page) {
            Some(PageState::Here { page, next }) => Some(page.records.get(*next)?.0.position.sequence),
            Some(_) => Some(self.marks[slot].after.next()),
            None => Some(self.reader.get(self.marks[slot].from)?.sequence()),
        }
    }

    /// Carries out a change that waited for the end of a block.
    pub(super) fn apply_waiting(&mut self, slot: u32) {
        let waiting =
            self.subscribers[slot as usize].as_mut().and_then(|subscriber| subscriber.change.take());
        if let Some(change) = waiting {
            self.apply(slot, *change);
        }
    }

    /// The next subscriber that follows something else since it was asked last, be it that its change had waited for the
    /// end of a block. To be asked before one is taken out.
    pub fn next_move(&mut self) -> Option<Move> {
        self.moves.pop_front()
    }

    fn apply(&mut self, slot: u32, change: Change) {
        let before: Vec<View> = self.views(SubscriberId(slot)).cloned().collect();
        let Some(subscriber) = &mut self.subscribers[slot as usize] else { return };
        let mut views = std::mem::take(&mut subscriber.views).into_vec();
        for view in &change.add {
            self.join(slot, view, &mut views);
        }
        for view in &change.remove {
            let gone = views.iter().position(|membership| {
                self.index.get(membership.view).is_some_and(|followed| followed.view == *view)
            });
            if let Some(at) = gone {
                self.part(views.swap_remove(at));
            }
        }
        let stays: Vec<&View> = before.iter().filter(|view| !change.remove.contains(view)).collect();
        let mark = &mut self.marks[slot as usize];
        if let Behind::Through(_) = mark.behind {
            // The others may show something behind the same place, and the one may be gone.
            mark.behind = Behind::Many;
        }
        self.generation = self.generation.wrapping_add(1);
        let generation = self.generation;
        let Some(subscriber) = &mut self.subscribers[slot as usize] else { return };
        subscriber.views = views.into();
        // A page that was read, or is being read, is one of other views.
        subscriber.generation = generation;
        if let Some(reading) = &mut subscriber.reading {
            self.kept_bytes -= super::page_bytes(&reading.page).min(self.kept_bytes);
            reading.page = PageState::Needed;
            reading.change(mark.after, &stays, !change.add.is_empty());
        }
        self.note_ended(slot, &change.ended, |view| change.add.contains(view));
        if !change.remove.is_empty()
            && let Some(subscriber) = &mut self.subscribers[slot as usize]
        {
            // Those that are left may all have ended.
            subscriber.wants.end = true;
        }
        let id = SubscriberId(slot);
        if self.subscribers[slot as usize].as_ref().is_some_and(|subscriber| !subscriber.records) {
            let after = self.views(id).cloned().collect();
            self.moves.push_back(Move { id, before, after });
        }
        self.enqueue(slot);
    }

    /// Enters a subscriber among the members of a view, unless it is one.
    pub(super) fn join(&mut self, slot: u32, view: &View, memberships: &mut Vec<Membership>) {
        let id = self.index.follow(view, self.reader.at());
        if memberships.iter().any(|known| known.view == id) {
            return;
        }
        if let Some(followed) = self.index.get_mut(id) {
            let place = u32::try_from(followed.members.len()).unwrap_or(u32::MAX);
            memberships.push(Membership { view: id, slot: place });
            followed.members.push(slot);
        }
    }

    /// Takes a subscriber out of the members of a view. Another one gets its place there.
    pub(super) fn part(&mut self, membership: Membership) {
        let Some(followed) = self.index.get_mut(membership.view) else { return };
        followed.members.swap_remove(membership.slot as usize);
        if let Some(moved) = followed.members.get(membership.slot as usize).copied() {
            let moved = self.subscribers[moved as usize].as_mut();
            let memberships = moved.map(|moved| &mut moved.views).into_iter().flatten();
            for other in memberships.filter(|other| other.view == membership.view) {
                other.slot = membership.slot;
            }
        } else if followed.members.is_empty() {
            self.index.release(membership.view);
        }
    }
}

impl Reading {
    /// Up to where something is read, or was told to be missing, that is not to be read of what is added.
    fn settled_from(&self) -> Option<Sequence> {
        let through = self.beginning.as_ref().map(|beginning| beginning.through);
        through.max(Some(self.forgiven))
    }

    /// What is read first, or was told to be missing, is so of what was followed then, as far as that stays: not of what
    /// is added, and no more of what is taken away.
    fn change(&mut self, after: Sequence, stays: &[&View], adds: bool) {
        let all =
            || stays.iter().map(|view| Selection { view: (*view).clone(), after: Sequence::START }).collect();
        match &mut self.beginning {
            Some(Beginning { selections: Some(selections), .. }) => {
                let mut selected = std::mem::take(selections).into_vec();
                selected.retain(|selection| match &selection.view {
                    View::Channel(channel) => stays.iter().any(|view| view.shows(channel)),
                    View::Pattern(_) => stays.contains(&&selection.view),
                });
                *selections = selected.into();
            }
            Some(beginning) if adds => beginning.selections = Some(all()),
            None if adds && self.forgiven > after => {
                let (through, only) = (self.forgiven, Only::Conflated);
                self.beginning = Some(Beginning { selections: Some(all()), through, only });
            }
            Some(_) | None => {}
        }
    }
}

impl Change {
    /// Whether a view is one that is added or taken away.
    pub(super) fn changes(&self, view: &View) -> bool {
        self.add.contains(view) || self.remove.contains(view)
    }

    /// Adds what is to be done after this.
    fn then(&mut self, next: Change) {
        self.add.retain(|view| !next.remove.contains(view));
        self.remove.retain(|view| !next.add.contains(view));
        // What has come since the log was asked first has come since it was asked again, or is known to that answer.
        self.ended.asked_at = match (self.add.is_empty(), next.add.is_empty()) {
            (true, _) => next.ended.asked_at,
            (_, true) => self.ended.asked_at,
            _ => self.ended.asked_at.min(next.ended.asked_at),
        };
        self.ended.epoch = self.ended.epoch.min(next.ended.epoch);
        self.ended.channels.extend(next.ended.channels);
        self.add.extend(next.add);
        self.remove.extend(next.remove);
    }
}
