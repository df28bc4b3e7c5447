//! Another node, as it has said last.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use tidings_wire::{Channel, UserId};

use crate::Timestamp;

/// The connections that follow a channel on another node, by user; `None` are those without one.
pub(super) type Guests = BTreeMap<Option<UserId>, u32>;

#[derive(Debug, Default)]
pub(super) struct Node {
    /// When its lease is over.
    pub(super) until: Timestamp,
    /// It is stopping.
    pub(super) leaving: bool,
    users: HashMap<UserId, u32>,
    channels: HashMap<Channel, Guests>,
    /// The channels that somebody watches there.
    watches: BTreeSet<Channel>,
}

impl Node {
    /// How many connections a user has there from now on; how many it had.
    pub(super) fn set_user(&mut self, user: &UserId, connections: u32) -> u32 {
        let before = match connections {
            0 => self.users.remove(user),
            _ => self.users.insert(user.clone(), connections),
        };
        before.unwrap_or_default()
    }

    /// How many connections of a user follow a channel there from now on; how many did.
    pub(super) fn set_member(&mut self, channel: &Channel, user: Option<&UserId>, connections: u32) -> u32 {
        if connections > 0 {
            let guests = self.channels.entry(channel.clone()).or_default();
            return guests.insert(user.cloned(), connections).unwrap_or_default();
        }
        let Some(guests) = self.channels.get_mut(channel) else { return 0 };
        let before = guests.remove(&user.cloned()).unwrap_or_default();
        if guests.is_empty() {
            self.channels.remove(channel);
        }
        before
    }

    /// How many connections a user has there.
    pub(super) fn user(&self, user: &UserId) -> u32 {
        self.users.get(user).copied().unwrap_or_default()
    }

    /// How many connections of a user follow a channel there.
    pub(super) fn member(&self, channel: &Channel, user: Option<&UserId>) -> u32 {
        let Some(guests) = self.channels.get(channel) else { return 0 };
        guests.get(&user.cloned()).copied().unwrap_or_default()
    }

    /// Nothing is known of a channel from now on; what was.
    pub(super) fn take_channel(&mut self, channel: &Channel) -> Guests {
        self.channels.remove(channel).unwrap_or_default()
    }

    /// True if nobody there watched it.
    pub(super) fn watch(&mut self, channel: &Channel) -> bool {
        self.watches.insert(channel.clone())
    }

    /// True if somebody there watched it.
    pub(super) fn unwatch(&mut self, channel: &Channel) -> bool {
        self.watches.remove(channel)
    }

    pub(super) fn watches(&self) -> impl Iterator<Item = &Channel> {
        self.watches.iter()
    }

    pub(super) fn users(&self) -> impl Iterator<Item = (&UserId, &u32)> {
        self.users.iter()
    }

    pub(super) fn channels(&self) -> impl Iterator<Item = (&Channel, &Guests)> {
        self.channels.iter()
    }
}
