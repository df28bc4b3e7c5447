//! Channels that end, and the streams that end with them.

use tidings_wire::{Channel, Sequence};

use super::{Shard, SubscriberId};
use crate::View;
use crate::index::Followed;
use crate::resume::Ended;

impl Shard {
    /// What was just consumed is the last event of its channels: whoever follows one looks, once it was written, whether
    /// that was all.
    #[cold]
    pub(super) fn channels_end(&mut self, end: Sequence) {
        for view in &self.found {
            let Some(followed) = self.index.get_mut(*view) else { continue };
            if !matches!(followed.view, View::Channel(_)) {
                continue;
            }
            followed.learn(end, Some(end));
            for member in &followed.members {
                if let Some(subscriber) = &mut self.subscribers[*member as usize] {
                    subscriber.wants.end = true;
                }
            }
        }
    }

    /// Keeps in mind which of a subscriber's channels have ended: as the log said, or as has come through the window
    /// since it was asked. A window that has gone on since then doesn't know: then the log is asked again once the
    /// subscriber is up to date.
    pub(super) fn note_ended(&mut self, slot: u32, ended: &Ended, asked: impl Fn(&View) -> bool) {
        let Some(subscriber) = &mut self.subscribers[slot as usize] else { return };
        // What was known of a history that lost something since says nothing of this one. So it is asked again, too.
        if self.reader.common_since(ended.epoch).is_some() {
            subscriber.wants.end = true;
            return;
        }
        let Some(news) = self.reader.index_after(ended.asked_at) else {
            subscriber.wants.end = true;
            return;
        };
        for membership in &subscriber.views {
            let Some(followed) = self.index.get_mut(membership.view) else { continue };
            let View::Channel(channel) = &followed.view else { continue };
            if followed.view.is_system() || !asked(&followed.view) {
                continue;
            }
            let is_to = |to: &Channel| to == channel;
            let newest = (news..self.reader.at())
                .rev()
                .filter_map(|index| self.reader.get(index))
                .find(|entry| entry.record.event.to.channels().iter().any(is_to));
            let (place, end) = match newest {
                Some(entry) => (entry.sequence(), entry.record.event.end.then(|| entry.sequence())),
                None => {
                    let known = ended.channels.iter().find(|(name, _)| name == channel);
                    (ended.asked_at, known.map(|(_, end)| *end))
                }
            };
            followed.learn(place, end);
            subscriber.wants.end |= followed.ended.is_some();
        }
    }

    /// Whether one of a subscriber's channels may have ended without this shard knowing.
    pub(super) fn may_have_missed_an_end(&self, slot: u32) -> bool {
        self.follows_such(slot, Followed::may_have_ended)
    }

    /// Whether a page is to say which of a subscriber's channels have ended: when that is not known, or may be so no
    /// more.
    pub(super) fn asks_for_ends(&self, slot: u32) -> bool {
        self.follows_such(slot, |followed| followed.may_have_ended() || followed.ended.is_some())
    }

    fn follows_such(&self, slot: u32, such: impl Fn(&Followed) -> bool) -> bool {
        let subscriber = self.subscribers[slot as usize].as_ref();
        let views = subscriber.into_iter().flat_map(|subscriber| &subscriber.views);
        views.filter_map(|membership| self.index.get(membership.view)).any(such)
    }

    /// Whether there is nothing more to come for a subscriber that is up to date: every channel that it asked for is
    /// an exact one and has ended, at a place that it has reached. What is sent to all and to its user comes as long as
    /// there is a channel.
    ///
    /// None if only the log can tell: the subscriber has read there what this shard has not yet consumed, and one of
    /// these channels may have begun anew in it; or nobody here was told of it since the window has gone on.
    pub(super) fn is_over(&self, slot: u32) -> Option<bool> {
        let subscriber = self.subscribers[slot as usize].as_ref()?;
        if self.may_have_missed_an_end(slot) {
            return None;
        }
        let here = self.position(SubscriberId(slot)).sequence;
        let followed = subscriber.views.iter().filter_map(|membership| self.index.get(membership.view));
        let asked = || followed.clone().filter(|followed| !followed.view.is_implicit());
        let over =
            asked().next().is_some() && asked().all(|followed| followed.ended.is_some_and(|end| end <= here));
        let known = self.reader.consumed() >= here || asked().all(|followed| followed.is_known_to(here));
        (!over || known).then_some(over)
    }
}
