//! Who is there: users that come and go, and the channels whose comings and goings somebody watches.
//!
//! No socket, no log, no clock. Membership itself is not kept here: a worker's index knows who follows a channel, and
//! [`Census`] is how it says so. What is kept is little: a counter for each user with a connection, and the members of
//! those channels that somebody watches. So a connection that nobody watches costs one step in a hash table if it has
//! a user, and nothing if it has none.
//!
//! A node is made of parts, its workers, each of which says what it does in its own order. A channel that begins to be
//! watched is counted by each part once ([`Presence::count`]); from then on, and only from then on, what that part
//! says of comings and goings counts for the channel. That needs no agreement between the parts: no connection is
//! counted twice, and none is missed.
//!
//! What other nodes have comes in as absolute numbers under a lease ([`Presence::node`]), and is gone when the lease is
//! over: a node that dies takes its members with it, after the grace time.
//!
//! All that comes out is a difference to what was said before, and may be said twice: whoever keeps a set of those who
//! are there adds those who joined and takes out those who left.

#[cfg(test)]
mod model;
mod node;
#[cfg(test)]
mod nodes;
mod online;
mod room;
mod share;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use tidings_wire::{Channel, UserId};

use self::node::Node;
use self::online::Users;
use self::room::Room;
pub use self::share::News;
use self::share::Untold;
use crate::{Timestamp, View};

/// What a token says about its user for others to read: a text in JSON, which nobody here looks into.
pub type Info = Arc<str>;

/// A node, among those that share a hub: 40 bits, which every id of its connections begins with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(u64);

impl NodeId {
    /// How many bits it has.
    pub const BITS: u32 = 40;

    /// The node of this number, of which the lower bits count.
    pub fn new(number: u64) -> NodeId {
        NodeId(number & ((1 << NodeId::BITS) - 1))
    }

    /// Its number.
    pub fn get(self) -> u64 {
        self.0
    }
}

/// How presence is kept.
#[derive(Debug, Clone)]
pub struct PresenceConfig {
    /// This node.
    pub node: NodeId,
    /// How many parts this node has.
    pub parts: usize,
    /// How long somebody may be gone before it is said: as long as a reconnect takes.
    pub grace: Duration,
    /// How often a channel's joins and leaves are said at most.
    pub digest_every: Duration,
    /// How many users a snapshot names, and a digest each way.
    pub listed: usize,
}

impl PresenceConfig {
    /// A node on its own: five seconds of grace, as a browser comes back after three; a digest a second; 100 names, which
    /// is what a person reads.
    pub fn new(parts: usize) -> PresenceConfig {
        PresenceConfig {
            node: NodeId::new(0),
            parts,
            grace: Duration::from_secs(5),
            digest_every: Duration::from_secs(1),
            listed: 100,
        }
    }
}

/// The connections that follow a channel, as one part counts them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Census {
    /// How many connections, those without a user among them.
    pub connections: u64,
    /// How many of each user.
    pub users: BTreeMap<UserId, u32>,
}

impl Census {
    /// One more connection.
    pub fn add(&mut self, user: Option<&UserId>) {
        self.connections += 1;
        if let Some(user) = user {
            match self.users.get_mut(user) {
                Some(count) => *count += 1,
                None => drop(self.users.insert(user.clone(), 1)),
            }
        }
    }

    /// What another part has counted, too.
    pub fn merge(&mut self, other: Census) {
        self.connections += other.connections;
        for (user, count) in other.users {
            *self.users.entry(user).or_default() += count;
        }
    }
}

/// Who is in a channel.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Roll {
    /// How many connections, those without a user among them.
    pub connections: u64,
    /// The users, in the order of their ids.
    pub users: Vec<Present>,
    /// There are more users than these.
    pub truncated: bool,
}

/// One user in a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Present {
    /// Who.
    pub user: UserId,
    /// With how many connections; none during the grace time.
    pub connections: u32,
    /// What its newest token says about it.
    pub info: Option<Info>,
}

/// What changed in a watched channel since this was last said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Digest {
    /// Where.
    pub channel: Channel,
    /// Users who are there now, with what their tokens say about them.
    pub joined: Vec<(UserId, Option<Info>)>,
    /// How many more joined.
    pub joined_more: u64,
    /// Users who aren't any more.
    pub left: Vec<UserId>,
    /// How many more left.
    pub left_more: u64,
    /// How many connections there are now.
    pub connections: u64,
    /// The parts that have watchers.
    pub parts: Vec<usize>,
}

/// A user who came or went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transition {
    /// Who.
    pub user: UserId,
    /// Whether it is there now.
    pub online: bool,
    /// When its first connection came, or its last one went.
    pub at: Timestamp,
}

/// What the passing of time brought.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ticked {
    /// To be told to those who watch.
    pub digests: Vec<Digest>,
    /// Users who came or went, on all nodes, in that order for each of them. Of several nodes, the first one says it.
    pub transitions: Vec<Transition>,
    /// This node has become the first one: what was said before it is to be handed to [`Presence::take_over`].
    pub take_over: bool,
}

/// How a user is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// With how many connections, over all nodes; none during the grace time.
    pub connections: u32,
    /// When the last connection went, if none is left.
    pub left: Option<Timestamp>,
}

/// Who is there, on this node and on others.
#[derive(Debug)]
pub struct Presence {
    config: PresenceConfig,
    users: Users,
    /// The watched channels. In their order, so that a pattern finds those that it may show by how it begins.
    rooms: BTreeMap<Channel, Room>,
    /// Watched channels with something to be said.
    changed: Vec<Channel>,
    /// Members without a connection, in the order in which they went.
    leaving: VecDeque<(Timestamp, Channel, UserId)>,
    nodes: BTreeMap<NodeId, Node>,
    /// What they are still to be told, if there may be some.
    untold: Option<Untold>,
    /// This is the node that says who comes and goes, and knows what was said before.
    first: bool,
    frozen: bool,
}

impl Presence {
    /// Nobody is there.
    pub fn new(config: PresenceConfig) -> Presence {
        Presence {
            config,
            users: Users::default(),
            rooms: BTreeMap::new(),
            changed: Vec::new(),
            leaving: VecDeque::new(),
            nodes: BTreeMap::new(),
            untold: None,
            first: true,
            frozen: false,
        }
    }

    /// A connection came to a part, and follows this.
    pub fn enter<'a>(
        &mut self,
        part: usize,
        user: Option<&UserId>,
        info: Option<&Info>,
        views: impl IntoIterator<Item = &'a View>,
        now: Timestamp,
    ) {
        if let Some(user) = user {
            self.users.add(user, 1, info, now);
        }
        self.note_user(user);
        for channel in self.shown(part, views) {
            self.joins(&channel, user, 1);
            self.note_member(&channel, user);
        }
    }

    /// A connection follows something else now. What it followed before is what was said last, and is not kept here.
    pub fn change<'a>(
        &mut self,
        part: usize,
        user: Option<&UserId>,
        before: impl IntoIterator<Item = &'a View>,
        after: impl IntoIterator<Item = &'a View>,
        now: Timestamp,
    ) {
        let before = self.shown(part, before);
        let after = self.shown(part, after);
        for channel in after.iter().filter(|channel| before.binary_search(channel).is_err()) {
            self.joins(channel, user, 1);
            self.note_member(channel, user);
        }
        for channel in before.iter().filter(|channel| after.binary_search(channel).is_err()) {
            self.leaves(channel, user, 1, now);
            self.note_member(channel, user);
        }
    }

    /// A connection is gone that followed this last.
    pub fn leave<'a>(
        &mut self,
        part: usize,
        user: Option<&UserId>,
        views: impl IntoIterator<Item = &'a View>,
        now: Timestamp,
    ) {
        if let Some(user) = user {
            self.users.remove(user, 1, now);
        }
        self.note_user(user);
        for channel in self.shown(part, views) {
            self.leaves(&channel, user, 1, now);
            self.note_member(&channel, user);
        }
    }

    /// Somebody of a part watches a channel from now on. Returns whether every part has counted who is there; if not,
    /// each is to be asked for [`Presence::count`].
    pub fn watch(&mut self, part: usize, channel: &Channel) -> bool {
        let parts = self.config.parts;
        let room = self.rooms.entry(channel.clone()).or_insert_with(|| Room::new(parts));
        let begins = !room.is_watched();
        room.watch(part);
        if begins && let Some(untold) = &mut self.untold {
            untold.watch(channel, true);
        }
        room.is_complete()
    }

    /// Somebody watches a channel no more.
    pub fn unwatch(&mut self, part: usize, channel: &Channel, now: Timestamp) {
        let Some(room) = self.rooms.get_mut(channel) else { return };
        let free = room.unwatch(part);
        if room.is_watched() {
            return;
        }
        if let Some(untold) = &mut self.untold {
            untold.watch(channel, false);
        }
        if free {
            self.rooms.remove(channel);
        }
        self.drop_guests(channel, now);
    }

    /// How many channels somebody watches, here or on another node.
    pub fn watched(&self) -> usize {
        self.rooms.len()
    }

    /// What a part has of a watched channel at this moment. It is asked for that once; more often does no harm.
    pub fn count(&mut self, part: usize, channel: &Channel, census: impl FnOnce() -> Census) {
        if let Some(room) = self.rooms.get_mut(channel)
            && !room.counts(part)
        {
            room.count(part, &census());
            if room.is_complete()
                && room.is_wanted()
                && let Some(untold) = &mut self.untold
            {
                untold.whole(channel);
            }
        }
    }

    /// Who is in a watched channel, for somebody who watches it from now on: with the digests that follow it knows
    /// everything. Users in their grace time are there, or their return would have to be told.
    pub fn snapshot(&mut self, channel: &Channel) -> Roll {
        let Some(room) = self.rooms.get_mut(channel) else { return Roll::default() };
        room.snapshot(self.config.listed, &self.users)
    }

    /// Who has a connection that follows a channel, by what the parts of every node have counted just now.
    pub fn members(&self, all: Census, limit: usize) -> Roll {
        let truncated = all.users.len() > limit;
        let present = |(user, connections)| {
            let info = self.users.info(&user);
            Present { user, connections, info }
        };
        let users = all.users.into_iter().take(limit).map(present).collect();
        Roll { connections: all.connections, users, truncated }
    }

    /// How a user is there; `None` when it is not.
    pub fn user(&self, user: &UserId) -> Option<Standing> {
        self.users.standing(user)
    }

    /// How many users are there, those in their grace time among them.
    pub fn online(&self) -> usize {
        self.users.len()
    }

    /// A user was there when this node, or the one before it in its place, ended without order: it is taken for one in
    /// its grace time, which ends at `until`.
    pub fn recover(&mut self, user: &UserId, until: Timestamp, now: Timestamp) {
        self.users.recover(user, until, now);
    }

    /// From now on this node says who comes and goes, instead of one that is gone or on its way. Those who were said to be
    /// there and aren't have until a moment to come back; those who are and weren't said to be are said.
    pub fn take_over(&mut self, said: &BTreeSet<UserId>, until: Timestamp, now: Timestamp) {
        self.users.take_over(said, until, now);
    }

    /// From now on nothing is said any more: the node is stopping, and its connections come back elsewhere or later.
    pub fn freeze(&mut self) {
        self.frozen = true;
        if let Some(untold) = &mut self.untold {
            untold.leaving();
        }
    }

    /// What there is to be said at this moment. To be called a few times in a second.
    pub fn tick(&mut self, now: Timestamp) -> Ticked {
        if self.frozen {
            return Ticked::default();
        }
        self.expire_nodes(now);
        let grace = self.config.grace;
        while let Some((left, channel, user)) =
            self.leaving.pop_front_if(|(left, _, _)| is_over(*left, grace, now))
        {
            if let Some(room) = self.rooms.get_mut(&channel)
                && room.forget(&user, left)
            {
                note_change(&mut self.changed, &channel, room);
            }
        }
        // Digests before users are forgotten: what they say of a user is what was known when it came.
        let digests = self.digests(now);
        let transitions = self.users.tick(grace, now);
        let first = self.is_first();
        let take_over = first && !std::mem::replace(&mut self.first, first);
        if first
            && (take_over || !transitions.is_empty())
            && let Some(untold) = &mut self.untold
        {
            untold.spoke();
        }
        Ticked { digests, transitions: if first { transitions } else { Vec::new() }, take_over }
    }

    fn digests(&mut self, now: Timestamp) -> Vec<Digest> {
        let mut digests = Vec::new();
        let (every, listed) = (self.config.digest_every, self.config.listed);
        let (rooms, users) = (&mut self.rooms, &self.users);
        self.changed.retain(|channel| {
            // Nobody watches it any more.
            let Some(room) = rooms.get_mut(channel) else { return false };
            if !room.is_due(every, now) {
                return true;
            }
            digests.extend(room.digest(channel, listed, users, now));
            false
        });
        digests
    }

    /// A node whose lease is over is gone, and all that it had.
    fn expire_nodes(&mut self, now: Timestamp) {
        let over = |node: &Node| node.until <= now;
        let gone: Vec<(NodeId, Node)> = self.nodes.extract_if(.., |_, node| over(node)).collect();
        gone.iter().for_each(|(_, node)| self.drop_node(node, now));
    }

    /// Whether this node comes before all others that stay: then it is the one that says who comes and goes.
    fn is_first(&self) -> bool {
        let mut others = self.nodes.iter().filter(|(_, node)| !node.leaving);
        others.all(|(other, _)| self.config.node < *other)
    }

    fn joins(&mut self, channel: &Channel, user: Option<&UserId>, connections: u32) {
        if let Some(room) = self.rooms.get_mut(channel) {
            room.add(user, connections);
            note_change(&mut self.changed, channel, room);
        }
    }

    fn leaves(&mut self, channel: &Channel, user: Option<&UserId>, connections: u32, now: Timestamp) {
        let Some(room) = self.rooms.get_mut(channel) else { return };
        if room.remove(user, connections, now)
            && let Some(user) = user
        {
            self.leaving.push_back((now, channel.clone(), user.clone()));
        }
        note_change(&mut self.changed, channel, room);
    }

    /// The watched channels that a part has counted and that these views show, in order, each once.
    fn shown<'a>(&self, part: usize, views: impl IntoIterator<Item = &'a View>) -> Vec<Channel> {
        let mut found = Vec::new();
        if self.rooms.is_empty() {
            return found;
        }
        for view in views {
            match view {
                View::Channel(channel) => {
                    if self.rooms.get(channel).is_some_and(|room| room.counts(part)) {
                        found.push(channel.clone());
                    }
                }
                View::Pattern(pattern) => {
                    let begin = view.literal_begin();
                    let from: (Bound<&str>, Bound<&str>) = (Bound::Included(begin), Bound::Unbounded);
                    let near = self.rooms.range::<str, _>(from);
                    let near = near.take_while(|(channel, _)| channel.as_str().starts_with(begin));
                    let shown = near.filter(|(channel, room)| room.counts(part) && pattern.matches(channel));
                    found.extend(shown.map(|(channel, _)| channel.clone()));
                }
            }
        }
        found.sort_unstable();
        found.dedup();
        found
    }
}

fn note_change(changed: &mut Vec<Channel>, channel: &Channel, room: &mut Room) {
    if room.note_change() {
        changed.push(channel.clone());
    }
}

/// Whether somebody who left then is gone for good. A clock that was set back would make this last: then it is over.
fn is_over(left: Timestamp, grace: Duration, now: Timestamp) -> bool {
    now >= left.plus(grace) || left > now.plus(grace)
}
