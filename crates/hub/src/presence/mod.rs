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

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use tidings_wire::{Channel, Pattern, UserId};

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
                    let begin = literal_begin(pattern);
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

/// What all channels begin with that a pattern may match.
fn literal_begin(pattern: &Pattern) -> &str {
    let text = pattern.as_str();
    text.split_once('*').map_or(text, |(begin, _)| begin)
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

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: u64 = 5000;

    fn presence() -> Presence {
        Presence::new(PresenceConfig { listed: 3, ..PresenceConfig::new(2) })
    }

    fn user(id: &str) -> UserId {
        id.parse().unwrap()
    }

    fn channel(name: &str) -> Channel {
        Channel::stored(name).unwrap()
    }

    fn views(texts: &[&str]) -> Vec<View> {
        texts.iter().map(|text| text.parse::<Pattern>().unwrap().into()).collect()
    }

    fn watched(presence: &mut Presence, name: &str) -> Channel {
        let channel = channel(name);
        assert!(!presence.watch(0, &channel));
        presence.count(0, &channel, Census::default);
        presence.count(1, &channel, Census::default);
        assert!(presence.watch(1, &channel));
        presence.snapshot(&channel);
        channel
    }

    fn said(ticked: &Ticked) -> Vec<String> {
        let mut said = Vec::new();
        for digest in &ticked.digests {
            let joined = digest.joined.iter().map(|(user, _)| format!("+{user}"));
            let left = digest.left.iter().map(|user| format!("-{user}"));
            let who: Vec<_> = joined.chain(left).collect();
            said.push(format!("{}: {} ({})", digest.channel, who.join(" "), digest.connections));
        }
        said.extend(ticked.transitions.iter().map(|t| format!("{} {} {}", t.user, t.online, t.at.0)));
        said
    }

    #[test]
    fn a_reconnect_is_no_leave_and_no_join() {
        let mut presence = presence();
        let room = watched(&mut presence, "room");
        let (ann, follows) = (user("ann"), views(&["room", "other"]));
        presence.enter(0, Some(&ann), None, &follows, Timestamp(1000));
        assert_eq!(said(&presence.tick(Timestamp(1100))), ["room: +ann (1)", "ann true 1000"]);
        presence.leave(0, Some(&ann), &follows, Timestamp(2000));
        assert_eq!(said(&presence.tick(Timestamp(2200))), ["room:  (0)"], "only that there is no connection");
        assert_eq!(presence.user(&ann), Some(Standing { connections: 0, left: Some(Timestamp(2000)) }));
        assert_eq!(presence.snapshot(&room).users[0].connections, 0);
        presence.enter(1, Some(&ann), None, &follows, Timestamp(2000 + GRACE - 1));
        assert_eq!(said(&presence.tick(Timestamp(2000 + GRACE))), ["room:  (1)"]);
        presence.leave(1, Some(&ann), &follows, Timestamp(9000));
        presence.tick(Timestamp(9001 + 1000));
        assert!(said(&presence.tick(Timestamp(9000 + GRACE - 1))).is_empty());
        assert_eq!(said(&presence.tick(Timestamp(9000 + GRACE))), ["room: -ann (0)", "ann false 9000"]);
        assert_eq!((presence.user(&ann), presence.online()), (None, 0));
    }

    #[test]
    fn a_connection_counts_once_however_many_views_show_a_channel() {
        let mut presence = presence();
        let room = watched(&mut presence, "a/b");
        let follows = views(&["a/b", "a/*", "**", "b/*"]);
        presence.enter(0, None, None, &follows, Timestamp(0));
        presence.enter(0, Some(&user("ann")), None, &views(&["*/b"]), Timestamp(0));
        presence.enter(0, None, None, &views(&["a", "a/b/c", "*", "$all"]), Timestamp(0));
        let roll = presence.snapshot(&room);
        assert_eq!((roll.connections, roll.users.len(), roll.truncated), (2, 1, false));
        presence.change(0, None, &follows, &views(&["**"]), Timestamp(1));
        assert_eq!(presence.snapshot(&room).connections, 2);
        presence.change(0, None, &views(&["**"]), &views(&["c"]), Timestamp(1));
        assert_eq!(presence.snapshot(&room).connections, 1);
    }

    #[test]
    fn a_crowd_is_a_digest_a_second_that_names_a_few() {
        let mut presence = presence();
        watched(&mut presence, "room");
        let follows = views(&["room"]);
        let mut digests = Vec::new();
        for n in 0..10_000_u64 {
            presence.enter(0, Some(&user(&format!("{n:05}"))), None, &follows, Timestamp(n));
            digests.extend(presence.tick(Timestamp(n)).digests);
        }
        assert_eq!(digests.len(), 10);
        assert_eq!(digests.iter().map(|d| d.joined.len() as u64 + d.joined_more).sum::<u64>(), 9001);
        assert!(digests.iter().all(|digest| digest.joined.len() <= 3));
        let roll = presence.snapshot(&channel("room"));
        assert_eq!((roll.connections, roll.users.len(), roll.truncated), (10_000, 3, true));
        for n in 0..10_000_u64 {
            presence.leave(0, Some(&user(&format!("{n:05}"))), &follows, Timestamp(20_000));
        }
        presence.tick(Timestamp(21_000));
        let last = presence.tick(Timestamp(20_000 + GRACE)).digests;
        assert_eq!((last[0].left.len(), last[0].left_more, last[0].connections), (3, 9997, 0));
    }

    #[test]
    fn what_a_part_says_counts_from_its_own_census_on() {
        let mut presence = presence();
        let room = channel("room");
        let (ann, follows) = (user("ann"), views(&["room"]));
        assert!(!presence.watch(0, &room));
        // It was there before it was counted, and is in the census.
        presence.enter(1, Some(&ann), None, &follows, Timestamp(0));
        let mut census = Census::default();
        census.add(Some(&ann));
        presence.count(1, &room, || census.clone());
        presence.count(1, &room, || panic!("a second census"));
        presence.enter(1, Some(&user("bob")), None, &follows, Timestamp(0));
        presence.count(0, &room, Census::default);
        assert!(presence.tick(Timestamp(1)).digests.is_empty(), "there is nobody to be told");
        assert_eq!(presence.snapshot(&room).users.len(), 2);
        presence.enter(1, None, None, &follows, Timestamp(0));
        let digest = &presence.tick(Timestamp(1)).digests[0];
        assert!(digest.joined.is_empty(), "who was shown has not joined since");
        assert_eq!((digest.connections, &digest.parts[..]), (3, &[0][..]));
        presence.unwatch(0, &room, Timestamp(0));
        assert_eq!(presence.watched(), 0);
        presence.leave(1, Some(&ann), &follows, Timestamp(9));
        assert!(presence.tick(Timestamp(99_999)).digests.is_empty());
    }

    #[test]
    fn a_snapshot_amid_changes_is_corrected_by_the_next_digest() {
        let mut presence = Presence::new(PresenceConfig { grace: Duration::ZERO, ..PresenceConfig::new(2) });
        let room = watched(&mut presence, "room");
        let (ann, follows) = (user("ann"), views(&["room"]));
        presence.tick(Timestamp(0));
        presence.enter(0, None, None, &follows, Timestamp(0));
        presence.tick(Timestamp(0));
        presence.enter(0, Some(&ann), None, &follows, Timestamp(100));
        assert_eq!(presence.snapshot(&room).users[0].user, ann);
        presence.leave(0, Some(&ann), &follows, Timestamp(200));
        let ticked = [presence.tick(Timestamp(300)), presence.tick(Timestamp(1000))];
        assert_eq!(ticked[1].digests[0].left, [ann], "who got the snapshot has to know");
        presence.enter(0, None, None, &follows, Timestamp(1100));
        assert_eq!(presence.snapshot(&room).connections, 2);
        presence.leave(0, None, &follows, Timestamp(1200));
        assert_eq!(
            presence.tick(Timestamp(2000)).digests[0].connections,
            1,
            "as it was, but not as it was shown"
        );
    }

    #[test]
    fn the_newest_token_says_what_is_told_of_a_user() {
        let mut presence = presence();
        let room = watched(&mut presence, "room");
        let (ann, follows) = (user("ann"), views(&["room"]));
        let info = |text: &str| Info::from(text);
        presence.enter(0, Some(&ann), Some(&info("{\"n\":1}")), &follows, Timestamp(0));
        presence.enter(0, Some(&ann), Some(&info("{\"n\":2}")), &follows, Timestamp(1));
        let digest = presence.tick(Timestamp(1)).digests.remove(0);
        assert_eq!(digest.joined, [(ann.clone(), Some(info("{\"n\":2}")))]);
        let mut here = Census::default();
        here.add(Some(&ann));
        assert_eq!(presence.members(here, 1).users[0].info, Some(info("{\"n\":2}")));
        presence.enter(0, Some(&ann), None, &follows, Timestamp(2));
        assert_eq!(presence.snapshot(&room).users[0].info, None);
    }

    #[test]
    fn other_nodes_count_until_their_lease_is_over() {
        let mut presence = presence();
        let room = watched(&mut presence, "room");
        let (ann, follows) = (user("ann"), views(&["room"]));
        let news = |connections| {
            let member = |user, connections| News::Member { channel: channel("room"), user, connections };
            [
                News::User { user: user("ann"), connections, info: None },
                member(Some(user("ann")), connections),
                member(None, 3),
            ]
        };
        let other = NodeId::new(9);
        presence.node(other, Timestamp(10_000), news(2), Timestamp(0));
        presence.node(other, Timestamp(10_000), news(2), Timestamp(0));
        let ticked = presence.tick(Timestamp(0));
        assert_eq!(
            said(&ticked),
            ["room: +ann (5)", "ann true 0"],
            "this is the first node, which speaks for all"
        );
        assert_eq!((presence.elsewhere(&ann), presence.snapshot(&room).connections), (2, 5));
        // She moves here within the grace time: nothing is said of that.
        presence.node(other, Timestamp(10_000), news(0), Timestamp(1000));
        presence.enter(0, Some(&ann), None, &follows, Timestamp(2000));
        assert_eq!(said(&presence.tick(Timestamp(8000))), ["room:  (4)"]);
        presence.leave(0, Some(&ann), &follows, Timestamp(8100));
        presence.node(other, Timestamp(10_000), news(1), Timestamp(8200));
        presence.tick(Timestamp(9999));
        assert_eq!(presence.user(&ann).unwrap().connections, 1);
        // It dies, and this one is the first of those who are left.
        let ticked = presence.tick(Timestamp(11_000));
        assert_eq!(said(&ticked), ["room:  (0)"]);
        assert_eq!(said(&presence.tick(Timestamp(16_000))), ["room: -ann (0)", "ann false 11000"]);
        assert_eq!(presence.nodes.len(), 0);
    }

    #[test]
    fn another_node_is_told_what_it_watches_and_no_more() {
        let mut presence = presence();
        presence.share();
        let other = NodeId::new(9);
        let (ann, follows) = (user("ann"), views(&["room", "hall"]));
        presence.enter(0, Some(&ann), None, &follows, Timestamp(0));
        let told = News::User { user: ann.clone(), connections: 1, info: None };
        assert_eq!(presence.news(), std::slice::from_ref(&told));
        assert_eq!(presence.news(), []);
        let watch = |watched| News::Watch { channel: channel("room"), watched };
        let hear =
            |presence: &mut Presence, news| presence.node(other, Timestamp(9999), [news], Timestamp(0));
        assert_eq!(hear(&mut presence, watch(true)), [channel("room")], "to be counted");
        assert_eq!(hear(&mut presence, watch(true)), []);
        let mut census = Census::default();
        census.add(Some(&ann));
        presence.count(0, &channel("room"), || census);
        presence.count(1, &channel("room"), Census::default);
        let member =
            |connections| News::Member { channel: channel("room"), user: Some(user("ann")), connections };
        assert_eq!(presence.news(), [News::Whole { channel: channel("room") }, member(1)]);
        assert_eq!(
            presence.all_news(),
            [News::Spoke, told, News::Whole { channel: channel("room") }, member(1)]
        );
        // What it says of a channel that nobody watches here is not followed.
        hear(&mut presence, member(3));
        presence.leave(0, Some(&ann), &follows, Timestamp(1));
        let gone = News::User { user: ann.clone(), connections: 0, info: None };
        assert_eq!(presence.news(), [gone, member(0)]);
        hear(&mut presence, watch(false));
        assert!(presence.rooms.is_empty());
    }

    #[test]
    fn who_was_there_at_a_crash_and_stays_away_goes_offline() {
        let mut presence = presence();
        let (ann, bob) = (user("ann"), user("bob"));
        for who in [&ann, &bob] {
            presence.recover(who, Timestamp(30_000), Timestamp(0));
        }
        assert!(presence.tick(Timestamp(29_999)).transitions.is_empty());
        presence.enter(0, Some(&bob), None, &[], Timestamp(29_999));
        assert_eq!(said(&presence.tick(Timestamp(30_000))), ["ann false 0"]);
        assert_eq!(presence.online(), 1);
    }

    #[test]
    fn a_stop_is_no_leaving() {
        let mut presence = presence();
        let ann = user("ann");
        presence.enter(0, Some(&ann), None, &[], Timestamp(0));
        presence.tick(Timestamp(0));
        presence.freeze();
        presence.leave(0, Some(&ann), &[], Timestamp(0));
        assert_eq!(presence.tick(Timestamp(99_999)), Ticked::default());
    }
}
