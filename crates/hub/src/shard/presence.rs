//! Who follows a channel, and what those who watch that are told.

use tidings_wire::{Channel, Control, encode_control};

use super::{Shard, SubscriberId};
use crate::Timestamp;
use crate::subscriber::Finish;

/// How many bytes may wait to be said to a subscriber, beside events, before it is told nothing more of this kind.
const WAITING: usize = 256 << 10;

impl Shard {
    /// The subscribers that follow a channel, by its name or by a pattern, each once.
    pub fn followers(&self, channel: &Channel) -> Vec<SubscriberId> {
        let mut views = Vec::new();
        self.index.lookup(channel, &mut views);
        let followed = views.iter().filter_map(|view| self.index.get(*view));
        let mut members: Vec<_> =
            followed.flat_map(|followed| &followed.members).copied().map(SubscriberId).collect();
        if views.len() > 1 {
            members.sort_unstable();
            members.dedup();
        }
        members
    }

    /// Tells a subscriber who came and who left, in the order of these texts, each the data of one
    /// [`Control::Presence`]. False if that can't be said now: its socket is full, it is in the middle of an event or
    /// has more to be told than it takes. What was true then may not be true later, so nothing waits: the caller says
    /// what is true when it tries again.
    pub fn announce<'a>(
        &mut self,
        id: SubscriberId,
        texts: impl IntoIterator<Item = &'a str>,
        now: Timestamp,
    ) -> bool {
        let blocked = self.is_blocked(id);
        let cursor = self.cursor(id);
        let Some(Some(subscriber)) = self.subscribers.get_mut(id.0 as usize) else { return true };
        if subscriber.wants.finish != Finish::No {
            // It is about to end, and comes back for a snapshot.
            return true;
        }
        if blocked || subscriber.offset > 0 || subscriber.own.rest().len() > WAITING {
            return false;
        }
        let mut bytes = Vec::new();
        for text in texts {
            encode_control(&mut bytes, subscriber.framing, &Control::Presence(text), None, &cursor);
        }
        subscriber.own.append(&bytes);
        subscriber.id_at = now;
        self.enqueue(id.0);
        true
    }
}
