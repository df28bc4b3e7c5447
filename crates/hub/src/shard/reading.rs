//! The log, for who is behind the window: page by page, each with a look at what was removed.

use tidings_wire::{Epoch, GapReason, Position, Sequence};

use super::gather::{envelope, framed};
use super::plan::Plan;
use super::{BATCH_BYTES, Behind, Cut, PAGES_ASKED, Shard, ShardStats};
use crate::catch_up::{PageAnswer, PageRequest, Ticket};
use crate::conflate::Sight;
use crate::log::Selection;
use crate::resume::Gap;
use crate::subscriber::{Only, PageState, Reading, Subscriber, ToldGap};
use crate::{Timestamp, View};

impl Shard {
    /// One step of reading the log: a plan, or nothing when the subscriber came a step further.
    pub(super) fn read_on(&mut self, slot: u32, now: Timestamp) -> Option<Plan> {
        let mark = self.marks[slot as usize];
        let subscriber = self.subscribers[slot as usize].as_mut()?;
        let Some(reading) = &mut subscriber.reading else {
            self.marks[slot as usize].behind = Behind::Many;
            return None;
        };
        match &reading.page {
            PageState::Failed => Some(Plan::Cut(Cut::LogFailed)),
            PageState::Lost => Some(Plan::Cut(Cut::Overtaken)),
            PageState::Asked => Some(Plan::Reading),
            PageState::Here { page, next } if *next < page.records.len() => {
                // An event whose first half was written is ended before anything else is said.
                let begun = subscriber.offset > 0;
                let first = page.records[*next].0.position.sequence;
                if begun && *next == 0 && first != mark.after.next() {
                    return Some(Plan::Cut(Cut::Overtaken));
                }
                if !begun && let Some(gap) = reading.found_gap(mark.after, self.reader.epoch()) {
                    return self.told(slot, gap, Sequence(first.0 - 1).max(mark.after));
                }
                Some(Plan::Page)
            }
            PageState::Here { page, .. } => {
                if subscriber.offset > 0 {
                    return Some(Plan::Cut(Cut::Overtaken));
                }
                let through = page.through.max(mark.after);
                if let Some(gap) = reading.found_gap(mark.after, self.reader.epoch()) {
                    return self.told(slot, gap, through);
                }
                self.page_done(slot, through);
                None
            }
            PageState::Needed => {
                if reading.beginning.as_ref().is_some_and(|beginning| mark.after >= beginning.through) {
                    reading.beginning = None;
                }
                let settled = reading.looked && reading.beginning.is_none() && mark.after >= reading.forgiven;
                let settled = settled && subscriber.offset == 0;
                if settled && !self.may_have_missed_an_end(slot) && self.back_to_window(slot) {
                    return None;
                }
                self.ask(slot, now);
                Some(Plan::Reading)
            }
        }
    }

    /// Tells a gap, either among the subscriber's own bytes (and it goes on) or by the plan.
    pub(super) fn told(&mut self, slot: u32, gap: Gap, to: Sequence) -> Option<Plan> {
        self.marks[slot as usize].after = to;
        let to = self.at(to);
        self.tell(slot, gap, to);
        let records = self.subscribers[slot as usize].as_ref().is_some_and(|s| s.records);
        records.then_some(Plan::Told(ToldGap { reason: gap.reason, from: gap.from, to }))
    }

    /// Sends a subscriber that is up to date to the log, for what comes after a place.
    pub(super) fn read_from(&mut self, slot: u32, after: Sequence) {
        let Some(subscriber) = &mut self.subscribers[slot as usize] else { return };
        let mark = &mut self.marks[slot as usize];
        mark.behind = Behind::Log;
        mark.after = after.max(subscriber.born);
        subscriber.reading = Some(Box::new(Reading::mid_stream()));
    }

    /// Brings a subscriber back from the log to the window, if that has all that comes after.
    pub(super) fn back_to_window(&mut self, slot: u32) -> bool {
        let after = self.marks[slot as usize].after;
        let Some(from) = self.reader.index_after(after) else { return false };
        let mark = &mut self.marks[slot as usize];
        mark.from = from;
        mark.behind = if from < self.reader.at() { Behind::Many } else { Behind::Not };
        if let Some(subscriber) = &mut self.subscribers[slot as usize] {
            subscriber.reading = None;
            // That a channel ended meanwhile may have been told to another that follows it, with its page.
            subscriber.wants.end = true;
            subscriber.born = subscriber.born.max(after);
            // What wasn't kept while it was away was for those who kept up.
            subscriber.live_from = self.reader.at();
        }
        true
    }

    pub(super) fn ask(&mut self, slot: u32, now: Timestamp) {
        let after = self.marks[slot as usize].after;
        let ends = self.asks_for_ends(slot);
        let Some(subscriber) = &mut self.subscribers[slot as usize] else { return };
        let ticket = Ticket { slot, generation: subscriber.generation };
        let Some(reading) = &mut subscriber.reading else { return };
        if self.asked >= PAGES_ASKED {
            reading.page = PageState::Asked;
            self.waiting.push_back(ticket);
            return;
        }
        reading.page = PageState::Asked;
        self.asked += 1;
        ShardStats::add(&self.stats.pages, 1);
        let views = subscriber.views.iter().filter_map(|m| self.index.get(m.view));
        let views: Vec<View> = views.map(|followed| followed.view.clone()).collect();
        let selected = reading.beginning.as_ref().and_then(|beginning| beginning.selections.as_ref());
        let selections = match selected {
            Some(selections) => {
                let behind = |s: &Selection| Selection { view: s.view.clone(), after: s.after.max(after) };
                selections.iter().map(behind).collect()
            }
            None => views.iter().map(|view| Selection { view: view.clone(), after }).collect(),
        };
        let (through, only) = match &reading.beginning {
            Some(beginning) => (beginning.through, beginning.only),
            None => (Sequence(u64::MAX), Only::Conflated),
        };
        let lens = subscriber.lens.as_deref().cloned().unwrap_or_default();
        let sight = Sight { views, lens, connection: subscriber.connection(), only };
        self.catch_up.ask(PageRequest {
            ticket,
            selections,
            through,
            ends,
            sight,
            now,
            reply: self.reply.clone(),
            waker: self.reader.waker().clone(),
        });
    }

    /// Hands out the pages that were read.
    pub(super) fn take_pages(&mut self) {
        while let Ok(PageAnswer { ticket, page }) = self.answers.try_recv() {
            self.asked = self.asked.saturating_sub(1);
            let epoch = self.reader.epoch();
            let Some(subscriber) = self.holder(ticket) else { continue };
            if let Some(reading) = &mut subscriber.reading {
                reading.page = match page {
                    // The log has gone on in an epoch that has not come through the window yet.
                    Ok(page) if page.epoch != epoch => PageState::Needed,
                    Ok(page) => PageState::Here { page, next: 0 },
                    Err(_) => PageState::Failed,
                };
                let bytes = page_bytes(&reading.page);
                self.kept_bytes += bytes;
                self.enqueue(ticket.slot);
            }
        }
        while self.asked < PAGES_ASKED
            && let Some(ticket) = self.waiting.pop_front()
        {
            if let Some(reading) = self.holder(ticket).and_then(|subscriber| subscriber.reading.as_mut()) {
                // It asks when it is written to next, with the time of then.
                reading.page = PageState::Needed;
                self.enqueue(ticket.slot);
                // One slot of the pool is its own: the others wait until it has asked.
                break;
            }
        }
    }

    /// The subscriber that asked, if it still reads the log.
    pub(super) fn holder(&mut self, ticket: Ticket) -> Option<&mut Subscriber> {
        let subscriber = self.subscribers.get_mut(ticket.slot as usize)?.as_mut()?;
        (subscriber.generation == ticket.generation && subscriber.reading.is_some()).then_some(subscriber)
    }

    pub(super) fn assemble_page(&mut self, slot: u32) {
        self.batch.key = None;
        self.batch.bytes.clear();
        self.batch.ends.clear();
        let Some(subscriber) = &self.subscribers[slot as usize] else { return };
        let Some(PageState::Here { page, next }) = subscriber.reading.as_ref().map(|r| &r.page) else {
            return;
        };
        for (record, encoded) in page.records[*next..].iter() {
            if subscriber.envelope {
                envelope(&mut self.batch.bytes, &self.index, &self.key, subscriber, record);
            } else {
                self.batch.bytes.extend_from_slice(framed(encoded, subscriber.framing));
            }
            self.batch.ends.push(self.batch.bytes.len());
            // A block under way is ended alone: what comes next may be a gap.
            if subscriber.offset > 0 || self.batch.bytes.len() > BATCH_BYTES {
                break;
            }
        }
    }

    pub(super) fn page_written(&mut self, slot: usize, done: usize) {
        let Some(Subscriber { reading: Some(reading), offset, .. }) = &mut self.subscribers[slot] else {
            return;
        };
        let PageState::Here { page, next } = &mut reading.page else { return };
        *next += done;
        if let Some((record, _)) = next.checked_sub(1).and_then(|last| page.records.get(last)) {
            self.marks[slot].after = self.marks[slot].after.max(record.position.sequence);
        }
        // A page that is all written is done when it is looked at next: a gap may come behind its last record.
        if *offset > 0
            && let Some((record, _)) = page.records.get(*next)
        {
            let before = Sequence(record.position.sequence.0 - 1);
            self.marks[slot].after = self.marks[slot].after.max(before);
        }
    }

    /// Everything up to `through` was written or isn't shown.
    pub(super) fn page_done(&mut self, slot: u32, through: Sequence) {
        let Some(subscriber) = &mut self.subscribers[slot as usize] else { return };
        if let Some(Reading { page: PageState::Here { page, .. }, .. }) = subscriber.reading.as_deref_mut() {
            let skipped = page.skipped;
            let ended = page.ended.take();
            self.passed_over(slot as usize, skipped);
            if let Some(ended) = ended {
                self.note_ended(slot, &ended, |_| true);
            }
        }
        let Some(subscriber) = &mut self.subscribers[slot as usize] else { return };
        let Some(reading) = &mut subscriber.reading else { return };
        let through = match &reading.beginning {
            Some(beginning) => through.min(beginning.through),
            None => through,
        };
        self.kept_bytes -= page_bytes(&reading.page).min(self.kept_bytes);
        reading.page = PageState::Needed;
        reading.looked = true;
        let mark = &mut self.marks[slot as usize];
        mark.after = mark.after.max(through);
    }
}

impl Reading {
    /// What is to be told before the page's records: what was known from the beginning, or what was removed since.
    pub(super) fn found_gap(&mut self, after: Sequence, epoch: Epoch) -> Option<Gap> {
        let PageState::Here { page, .. } = &self.page else { return None };
        let removed = page.floor > self.forgiven && page.floor > after;
        self.forgiven = self.forgiven.max(page.floor);
        match self.gap.take() {
            Some(gap) => Some(gap),
            None if removed => {
                let from = Some(Position { epoch, sequence: after });
                Some(Gap { reason: GapReason::Expired, from })
            }
            None => None,
        }
    }
}

pub(super) fn page_bytes(page: &PageState) -> usize {
    match page {
        PageState::Here { page, .. } => page.records.iter().map(|(_, encoded)| encoded.chunk().len()).sum(),
        PageState::Needed | PageState::Asked | PageState::Failed | PageState::Lost => 0,
    }
}
