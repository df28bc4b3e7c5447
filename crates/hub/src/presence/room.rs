//! One watched channel: who is there, and what those who watch don't know yet.

use std::collections::BTreeMap;
use std::time::Duration;

use tidings_wire::{Channel, UserId};

use super::online::Users;
use super::{Census, Digest, Present, Roll};
use crate::Timestamp;

#[derive(Debug)]
struct Member {
    /// Over all nodes.
    connections: u32,
    /// When the last connection went; of no meaning while there is one.
    left: Timestamp,
}

#[derive(Debug)]
pub(super) struct Room {
    /// The parts that have counted who was there when the watch began.
    counted: Vec<bool>,
    /// How many watch, by their part.
    watchers: Vec<u32>,
    /// How many other nodes want to know what this one has.
    wanted: u32,
    /// Users with a connection, and those in their grace time.
    members: BTreeMap<UserId, Member>,
    /// Over all nodes, those without a user among them.
    connections: u64,
    /// Those without a user.
    nameless: u32,
    /// Users of whom something is to be said: whether what was said before has them here.
    pending: BTreeMap<UserId, bool>,
    /// Somebody got a snapshot. Until then there is nobody to be told of changes.
    begun: bool,
    /// Since the last digest somebody got a snapshot, who may believe what was true only in between.
    shown: bool,
    /// When something was said last, and how many connections there were.
    said: Option<Timestamp>,
    said_connections: u64,
    /// It is in the list of what changed.
    changed: bool,
}

impl Room {
    pub(super) fn new(parts: usize) -> Room {
        Room {
            counted: vec![false; parts],
            watchers: vec![0; parts],
            wanted: 0,
            members: BTreeMap::new(),
            connections: 0,
            nameless: 0,
            pending: BTreeMap::new(),
            begun: false,
            shown: false,
            said: None,
            said_connections: 0,
            changed: false,
        }
    }

    pub(super) fn watch(&mut self, part: usize) {
        if let Some(watchers) = self.watchers.get_mut(part) {
            *watchers += 1;
        }
    }

    /// True when nobody is left who watches, here or elsewhere.
    pub(super) fn unwatch(&mut self, part: usize) -> bool {
        if let Some(watchers) = self.watchers.get_mut(part) {
            *watchers = watchers.saturating_sub(1);
        }
        if !self.is_watched() {
            // The next one begins with a snapshot.
            self.begun = false;
            self.pending.clear();
        }
        !self.is_watched() && !self.is_wanted()
    }

    /// Whether anybody here watches.
    pub(super) fn is_watched(&self) -> bool {
        self.watchers.iter().any(|watchers| *watchers > 0)
    }

    pub(super) fn want(&mut self) {
        self.wanted += 1;
    }

    /// True when nobody is left who watches, here or elsewhere.
    pub(super) fn unwant(&mut self) -> bool {
        self.wanted = self.wanted.saturating_sub(1);
        !self.is_watched() && !self.is_wanted()
    }

    /// Whether another node is to be told what this one has.
    pub(super) fn is_wanted(&self) -> bool {
        self.wanted > 0
    }

    /// Whether every part has counted.
    pub(super) fn is_complete(&self) -> bool {
        self.counted.iter().all(|counted| *counted)
    }

    /// Whether a part has counted, so that what it says of comings and goings is a change.
    pub(super) fn counts(&self, part: usize) -> bool {
        self.counted.get(part).is_some_and(|counted| *counted)
    }

    pub(super) fn count(&mut self, part: usize, census: &Census) {
        let Some(counted) = self.counted.get_mut(part) else { return };
        *counted = true;
        let mut named = 0;
        for (user, count) in &census.users {
            self.member(user).connections += count;
            named += u64::from(*count);
        }
        self.connections += census.connections;
        self.nameless += u32::try_from(census.connections.saturating_sub(named)).unwrap_or(u32::MAX);
        if self.is_complete() {
            // Who went while only some had counted may have gone later than they know. Nobody was told of it yet.
            self.members.retain(|_, member| member.connections > 0);
        }
    }

    pub(super) fn add(&mut self, user: Option<&UserId>, connections: u32) {
        self.connections += u64::from(connections);
        let Some(user) = user else {
            self.nameless += connections;
            return;
        };
        if !self.members.contains_key(user) {
            self.pending.entry(user.clone()).or_insert(false);
        }
        self.member(user).connections += connections;
    }

    /// True when that was the user's last connection.
    pub(super) fn remove(&mut self, user: Option<&UserId>, connections: u32, now: Timestamp) -> bool {
        self.connections = self.connections.saturating_sub(connections.into());
        if user.is_none() {
            self.nameless = self.nameless.saturating_sub(connections);
        }
        let Some(member) = user.and_then(|user| self.members.get_mut(user)) else { return false };
        if member.connections == 0 || connections == 0 {
            return false;
        }
        member.connections = member.connections.saturating_sub(connections);
        member.left = now;
        member.connections == 0
    }

    /// Takes out a user who has been gone since then. False if it came back meanwhile.
    pub(super) fn forget(&mut self, user: &UserId, left: Timestamp) -> bool {
        let gone = self.members.get(user).is_some_and(|m| m.connections == 0 && m.left == left);
        if gone {
            self.members.remove(user);
            self.pending.entry(user.clone()).or_insert(true);
        }
        gone
    }

    /// True if it is to be put into the list of what changed.
    pub(super) fn note_change(&mut self) -> bool {
        !std::mem::replace(&mut self.changed, true)
    }

    pub(super) fn is_due(&self, every: Duration, now: Timestamp) -> bool {
        // A clock that was set back keeps nobody waiting.
        self.begun && self.said.is_none_or(|said| now >= said.plus(every) || now < said)
    }

    /// What changed since the last one, if anything did.
    pub(super) fn digest(
        &mut self,
        channel: &Channel,
        listed: usize,
        users: &Users,
        now: Timestamp,
    ) -> Option<Digest> {
        self.changed = false;
        let shown = std::mem::take(&mut self.shown);
        let parts = self.watchers.iter().enumerate().filter(|(_, watchers)| **watchers > 0);
        let mut digest = Digest {
            channel: channel.clone(),
            joined: Vec::new(),
            joined_more: 0,
            left: Vec::new(),
            left_more: 0,
            connections: self.connections,
            parts: parts.map(|(part, _)| part).collect(),
        };
        for (user, was) in std::mem::take(&mut self.pending) {
            let is = self.members.contains_key(&user);
            match is {
                _ if is == was && !shown => {}
                true if digest.joined.len() < listed => {
                    let info = users.info(&user);
                    digest.joined.push((user, info));
                }
                true => digest.joined_more += 1,
                false if digest.left.len() < listed => digest.left.push(user),
                false => digest.left_more += 1,
            }
        }
        let silent = digest.joined.is_empty() && digest.left.is_empty();
        if silent && !shown && self.said_connections == self.connections {
            return None;
        }
        self.said = Some(now);
        self.said_connections = self.connections;
        Some(digest)
    }

    pub(super) fn snapshot(&mut self, listed: usize, users: &Users) -> Roll {
        self.shown = self.begun;
        if !self.begun {
            self.begun = true;
            self.pending.clear();
            self.said_connections = self.connections;
        }
        let present = |(user, member): (&UserId, &Member)| Present {
            user: user.clone(),
            connections: member.connections,
            info: users.info(user),
        };
        Roll {
            connections: self.connections,
            users: self.members.iter().take(listed).map(present).collect(),
            truncated: self.members.len() > listed,
        }
    }

    /// The users who are there, and those in their grace time.
    pub(super) fn users(&self) -> impl Iterator<Item = &UserId> {
        self.members.keys()
    }

    /// How many connections a user has here, or those without one have, over all nodes.
    pub(super) fn connections_of(&self, user: Option<&UserId>) -> u32 {
        match user {
            Some(user) => self.members.get(user).map_or(0, |member| member.connections),
            None => self.nameless,
        }
    }

    fn member(&mut self, user: &UserId) -> &mut Member {
        self.members.entry(user.clone()).or_insert(Member { connections: 0, left: Timestamp::default() })
    }
}
