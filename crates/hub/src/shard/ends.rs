//! Channels that end, and the streams that end with them.

use tidings_wire::{Channel, Sequence};

use super::{Shard, SubscriberId};
use crate::View;
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
    /// since it was asked. A window that has gone on since then doesn't know; neither does this shard then.
    pub(super) fn note_ended(&mut self, slot: u32, ended: &Ended, asked: impl Fn(&View) -> bool) {
        let Some(subscriber) = &mut self.subscribers[slot as usize] else { return };
        // What was known of a history that lost something since says nothing of this one. Whoever asked is told with
        // its page of the log.
        if self.reader.common_since(ended.epoch).is_some() {
            return;
        }
        let Some(news) = self.reader.index_after(ended.asked_at) else { return };
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

    /// Whether there is nothing more to come for a subscriber that is up to date: every channel that it asked for is
    /// an exact one and has ended, at a place that it has reached. What is sent to all and to its user comes as long as
    /// there is a channel.
    pub(super) fn is_over(&self, slot: u32) -> bool {
        let Some(subscriber) = &self.subscribers[slot as usize] else { return false };
        let here = self.position(SubscriberId(slot)).sequence;
        let followed = subscriber.views.iter().filter_map(|membership| self.index.get(membership.view));
        let mut asked = followed.filter(|followed| !followed.view.is_system()).peekable();
        asked.peek().is_some() && asked.all(|followed| followed.ended.is_some_and(|end| end <= here))
    }
}
