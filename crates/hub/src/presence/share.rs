//! What nodes tell each other of who is there.
//!
//! Each says what it has of its own, in absolute numbers: of every user, and of those channels that another one watches.
//! Nothing is counted for that beside what is known anyway: what this node has is all that there is, less what the others
//! have said. Saying something twice does no harm, and who has missed something asks for all of it ([`Presence::all_news`]).

use std::collections::BTreeSet;

use tidings_wire::{Channel, UserId};

use super::{Info, Node, NodeId, Presence, Room};
use crate::Timestamp;

/// What a node says that it has, as absolute numbers: saying it twice does no harm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// How many connections a user has there.
    User {
        /// Who.
        user: UserId,
        /// How many; 0 when none is left.
        connections: u32,
        /// What its newest token says about it.
        info: Option<Info>,
    },
    /// How many connections follow a channel there. Of no interest to a node that doesn't watch it.
    Member {
        /// Where.
        channel: Channel,
        /// Whose; `None` for those without a user.
        user: Option<UserId>,
        /// How many; 0 when none is left.
        connections: u32,
    },
    /// What follows is all that there is in a channel there.
    Whole {
        /// Which one.
        channel: Channel,
    },
    /// It wants to know who is in a channel, or does no more.
    Watch {
        /// Which one.
        channel: Channel,
        /// Whether it does.
        watched: bool,
    },
    /// It took itself for the node that says who comes and goes, and may have said something.
    Spoke,
    /// It is stopping, and no more the one that says who comes and goes.
    Leaving,
}

/// What other nodes are still to be told.
#[derive(Debug, Default)]
pub(super) struct Untold {
    users: BTreeSet<UserId>,
    members: BTreeSet<(Channel, Option<UserId>)>,
    /// Of these channels, all.
    whole: BTreeSet<Channel>,
    /// In order: who stops and begins again has to be told anew what it didn't listen to.
    watches: Vec<(Channel, bool)>,
    spoke: bool,
    leaving: bool,
}

impl Untold {
    pub(super) fn user(&mut self, user: &UserId) {
        self.users.insert(user.clone());
    }

    pub(super) fn member(&mut self, channel: &Channel, user: Option<&UserId>) {
        self.members.insert((channel.clone(), user.cloned()));
    }

    pub(super) fn whole(&mut self, channel: &Channel) {
        self.whole.insert(channel.clone());
    }

    pub(super) fn watch(&mut self, channel: &Channel, watched: bool) {
        self.watches.push((channel.clone(), watched));
    }

    pub(super) fn spoke(&mut self) {
        self.spoke = true;
    }

    pub(super) fn leaving(&mut self) {
        self.leaving = true;
    }
}

impl Presence {
    /// From now on there are other nodes, to be told what changes here.
    pub fn share(&mut self) {
        self.untold.get_or_insert_default();
    }

    /// What changed here since this was asked last.
    pub fn news(&mut self) -> Vec<News> {
        let Some(untold) = self.untold.as_mut().map(std::mem::take) else { return Vec::new() };
        let Untold { users, members, whole, watches, spoke, leaving } = untold;
        let mut news = Vec::new();
        news.extend(spoke.then_some(News::Spoke));
        news.extend(leaving.then_some(News::Leaving));
        news.extend(watches.into_iter().map(|(channel, watched)| News::Watch { channel, watched }));
        news.extend(users.into_iter().map(|user| self.news_of(user)));
        for channel in &whole {
            self.whole(channel, &mut news);
        }
        for (channel, user) in members {
            if !whole.contains(&channel)
                && let Some(room) = self.rooms.get(&channel).filter(|room| room.is_wanted())
            {
                let connections = self.here_in(&channel, room, user.as_ref());
                news.push(News::Member { channel, user, connections });
            }
        }
        news
    }

    /// All that there is to be told, for a node that knows nothing yet.
    pub fn all_news(&self) -> Vec<News> {
        let watched = self.rooms.iter().filter(|(_, room)| room.is_watched());
        let mut news = vec![News::Spoke];
        news.extend(self.frozen.then_some(News::Leaving));
        news.extend(watched.map(|(channel, _)| News::Watch { channel: channel.clone(), watched: true }));
        let users = self.users.names().filter(|user| self.here(user) > 0);
        news.extend(users.map(|user| self.news_of(user.clone())));
        let wanted = self.rooms.iter().filter(|(_, room)| room.is_wanted() && room.is_complete());
        wanted.for_each(|(channel, _)| self.whole(channel, &mut news));
        news
    }

    /// What another node says that it has, good until a moment; what it doesn't mention is as it was. Returns the channels
    /// that each part is to be asked for, by [`Presence::count`].
    pub fn node(
        &mut self,
        id: NodeId,
        until: Timestamp,
        news: impl IntoIterator<Item = News>,
        now: Timestamp,
    ) -> Vec<Channel> {
        if !self.nodes.contains_key(&id) {
            // It may have taken itself for the first one.
            self.first = false;
        }
        self.nodes.entry(id).or_default().until = until;
        let mut uncounted = Vec::new();
        for news in news {
            let node = self.nodes.entry(id).or_default();
            match news {
                News::User { user, connections, info } => {
                    let before = node.set_user(&user, connections);
                    if connections > before {
                        self.users.add(&user, connections - before, info.as_ref(), now);
                    } else {
                        self.users.remove(&user, before - connections, now);
                    }
                }
                News::Member { channel, user, connections } => {
                    // What nobody here watches is not kept up to date either.
                    if self.rooms.get(&channel).is_some_and(Room::is_watched) {
                        let before = node.set_member(&channel, user.as_ref(), connections);
                        self.guests(&channel, user.as_ref(), before, connections, now);
                    }
                }
                News::Whole { channel } => {
                    let before = node.take_channel(&channel);
                    for (user, count) in before {
                        self.guests(&channel, user.as_ref(), count, 0, now);
                    }
                }
                News::Watch { channel, watched: true } => {
                    if node.watch(&channel) && !self.want(&channel) {
                        uncounted.push(channel);
                    }
                }
                // What it said is to be looked at by the one that speaks.
                News::Spoke => self.first = false,
                News::Leaving => node.leaving = true,
                News::Watch { channel, watched: false } => {
                    if node.unwatch(&channel) {
                        self.unwant(&channel);
                    }
                }
            }
        }
        uncounted
    }

    /// Another node begins to say all that it has: what it said before counts no more.
    pub fn forget_node(&mut self, id: NodeId, now: Timestamp) {
        if let Some(node) = self.nodes.remove(&id) {
            self.drop_node(&node, now);
        }
    }

    /// Whether another node is known: its lease is not over.
    pub fn knows(&self, id: NodeId) -> bool {
        self.nodes.contains_key(&id)
    }

    /// How many connections a user has on other nodes.
    pub fn elsewhere(&self, user: &UserId) -> u32 {
        self.nodes.values().map(|node| node.user(user)).sum()
    }

    /// Nobody here watches a channel any more: what the others say of it is not followed from here on.
    pub(super) fn drop_guests(&mut self, channel: &Channel, now: Timestamp) {
        let ids: Vec<NodeId> = self.nodes.keys().copied().collect();
        for id in ids {
            let guests = self.nodes.get_mut(&id).map(|node| node.take_channel(channel)).unwrap_or_default();
            for (user, count) in guests {
                self.guests(channel, user.as_ref(), count, 0, now);
            }
        }
    }

    /// What a node had is gone.
    pub(super) fn drop_node(&mut self, node: &Node, now: Timestamp) {
        for (user, count) in node.users() {
            self.users.remove(user, *count, now);
        }
        for (channel, guests) in node.channels() {
            for (user, count) in guests {
                self.guests(channel, user.as_ref(), *count, 0, now);
            }
        }
        for channel in node.watches() {
            self.unwant(channel);
        }
    }

    /// Another node wants to know of a channel. Returns whether every part has counted it.
    fn want(&mut self, channel: &Channel) -> bool {
        let parts = self.config.parts;
        let room = self.rooms.entry(channel.clone()).or_insert_with(|| Room::new(parts));
        room.want();
        let complete = room.is_complete();
        if complete && let Some(untold) = &mut self.untold {
            untold.whole(channel);
        }
        complete
    }

    fn unwant(&mut self, channel: &Channel) {
        if self.rooms.get_mut(channel).is_some_and(Room::unwant) {
            self.rooms.remove(channel);
        }
    }

    /// How many of another node's connections follow a channel.
    fn guests(&mut self, channel: &Channel, user: Option<&UserId>, before: u32, after: u32, now: Timestamp) {
        if after > before {
            self.joins(channel, user, after - before);
        } else if before > after {
            self.leaves(channel, user, before - after, now);
        }
    }

    fn news_of(&self, user: UserId) -> News {
        let connections = self.here(&user);
        let info = self.users.info(&user);
        News::User { user, connections, info }
    }

    fn here(&self, user: &UserId) -> u32 {
        let all = self.users.standing(user).map_or(0, |standing| standing.connections);
        all.saturating_sub(self.elsewhere(user))
    }

    fn whole(&self, channel: &Channel, news: &mut Vec<News>) {
        let Some(room) = self.rooms.get(channel).filter(|room| room.is_wanted()) else { return };
        news.push(News::Whole { channel: channel.clone() });
        let users = room.users().map(Some).chain([None]);
        for user in users {
            let connections = self.here_in(channel, room, user);
            if connections > 0 {
                news.push(News::Member { channel: channel.clone(), user: user.cloned(), connections });
            }
        }
    }

    /// How many connections of this node follow a channel.
    fn here_in(&self, channel: &Channel, room: &Room, user: Option<&UserId>) -> u32 {
        let elsewhere: u32 = self.nodes.values().map(|node| node.member(channel, user)).sum();
        room.connections_of(user).saturating_sub(elsewhere)
    }

    /// Something to be told to the other nodes.
    pub(super) fn note_user(&mut self, user: Option<&UserId>) {
        if let (Some(untold), Some(user)) = (&mut self.untold, user) {
            untold.user(user);
        }
    }

    /// The same for who follows a channel.
    pub(super) fn note_member(&mut self, channel: &Channel, user: Option<&UserId>) {
        if let Some(untold) = &mut self.untold
            && self.rooms.get(channel).is_some_and(Room::is_wanted)
        {
            untold.member(channel, user);
        }
    }
}
