//! Users with a connection, and those in their grace time.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use tidings_wire::UserId;

use super::{Info, Standing, Transition, is_over};
use crate::Timestamp;

/// One user. Small: there are as many as there are people looking.
#[derive(Debug)]
struct Entry {
    /// Over all nodes.
    connections: u32,
    /// When the last connection went; of no meaning while there is one.
    left: Timestamp,
    info: Option<Info>,
}

/// All users who are there.
#[derive(Debug, Default)]
pub(super) struct Users {
    entries: HashMap<UserId, Entry>,
    /// Who came since the last tick, and when.
    arrived: Vec<(UserId, Timestamp)>,
    /// Who has no connection left, in the order in which they went.
    leaving: VecDeque<(Timestamp, UserId)>,
    /// Who was there at a crash: until when it may come back, and when it was recovered.
    recovered: VecDeque<(Timestamp, Timestamp, UserId)>,
}

impl Users {
    pub(super) fn add(&mut self, user: &UserId, connections: u32, info: Option<&Info>, now: Timestamp) {
        match self.entries.get_mut(user) {
            Some(entry) => {
                entry.connections += connections;
                entry.info = info.cloned();
            }
            None => {
                let entry = Entry { connections, left: now, info: info.cloned() };
                self.entries.insert(user.clone(), entry);
                self.arrived.push((user.clone(), now));
            }
        }
    }

    pub(super) fn remove(&mut self, user: &UserId, connections: u32, now: Timestamp) {
        let Some(entry) = self.entries.get_mut(user) else { return };
        if connections == 0 || entry.connections == 0 {
            return;
        }
        entry.connections = entry.connections.saturating_sub(connections);
        if entry.connections == 0 {
            entry.left = now;
            self.leaving.push_back((now, user.clone()));
        }
    }

    pub(super) fn recover(&mut self, user: &UserId, until: Timestamp, now: Timestamp) {
        if !self.entries.contains_key(user) {
            let entry = Entry { connections: 0, left: now, info: None };
            self.entries.insert(user.clone(), entry);
            self.recovered.push_back((until, now, user.clone()));
        }
    }

    /// From now on this node says who comes and goes. What was said before it is known: the rest is to be said.
    pub(super) fn take_over(&mut self, said: &BTreeSet<UserId>, until: Timestamp, now: Timestamp) {
        // Who came and went without a word comes anew if it comes again.
        self.entries.retain(|user, entry| entry.connections > 0 || said.contains(user));
        said.iter().for_each(|user| self.recover(user, until, now));
        let unsaid =
            self.entries.iter().filter(|(user, entry)| entry.connections > 0 && !said.contains(*user));
        self.arrived = unsaid.map(|(user, _)| (user.clone(), now)).collect();
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &UserId> {
        self.entries.keys()
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn info(&self, user: &UserId) -> Option<Info> {
        self.entries.get(user)?.info.clone()
    }

    pub(super) fn standing(&self, user: &UserId) -> Option<Standing> {
        let entry = self.entries.get(user)?;
        let left = (entry.connections == 0).then_some(entry.left);
        Some(Standing { connections: entry.connections, left })
    }

    /// Who came and who is gone for good.
    pub(super) fn tick(&mut self, grace: Duration, now: Timestamp) -> Vec<Transition> {
        let mut transitions = Vec::new();
        for (user, at) in self.arrived.drain(..) {
            if self.entries.contains_key(&user) {
                transitions.push(Transition { user, online: true, at });
            }
        }
        while let Some((left, user)) = self.leaving.pop_front_if(|(left, _)| is_over(*left, grace, now)) {
            transitions.extend(self.forget(user, left));
        }
        while let Some((_, left, user)) = self.recovered.pop_front_if(|(until, _, _)| *until <= now) {
            transitions.extend(self.forget(user, left));
        }
        transitions
    }

    /// Takes a user out that has been gone since then. Who came back meanwhile stays, also if it went again.
    fn forget(&mut self, user: UserId, left: Timestamp) -> Option<Transition> {
        let entry = self.entries.get(&user)?;
        if entry.connections > 0 || entry.left != left {
            return None;
        }
        self.entries.remove(&user)?;
        Some(Transition { user, online: false, at: left })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_small() {
        assert!(size_of::<(UserId, Entry)>() <= 56, "{}", size_of::<(UserId, Entry)>());
    }
}
