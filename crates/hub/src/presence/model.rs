//! Random schedules of comings and goings against a plain model, which keeps every connection and looks at all of them.

use std::collections::{BTreeMap, BTreeSet};

use proptest::collection::vec;
use proptest::prelude::*;
use tidings_wire::{Channel, Pattern, UserId};

use super::{Census, News, NodeId, Presence, PresenceConfig, Ticked};
use crate::{Timestamp, View};

const PARTS: usize = 2;
const GRACE: u64 = 5000;
const EVERY: u64 = 1000;
const CHANNELS: [&str; 3] = ["a", "a/b", "c"];
const USERS: usize = 4;
fn other() -> NodeId {
    NodeId::new(7)
}

#[derive(Debug, Clone)]
enum Step {
    /// A connection of a part, a user (the last number is nobody) and views.
    Enter(usize, usize, Vec<String>),
    /// One of those that are there, by its place among them.
    Leave(usize),
    Change(usize, Vec<String>),
    Watch(usize, usize),
    Unwatch(usize),
    /// A part does the oldest census that it was asked for.
    Count(usize),
    /// Another node says how many connections a user has in a channel.
    News(usize, usize, u32),
    /// Its lease is renewed for so long.
    Lease(u64),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let views = || vec(prop::sample::select(vec!["a", "a/b", "c", "*", "a/*", "**"]), 0..3);
    let views = move || views().prop_map(|all| all.into_iter().map(str::to_owned).collect::<Vec<_>>());
    prop_oneof![
        4 => (0..PARTS, 0..=USERS, views()).prop_map(|(part, user, views)| Step::Enter(part, user, views)),
        4 => (0..100_usize).prop_map(Step::Leave),
        1 => (0..100_usize, views()).prop_map(|(which, views)| Step::Change(which, views)),
        1 => (0..PARTS, 0..CHANNELS.len()).prop_map(|(part, channel)| Step::Watch(part, channel)),
        1 => (0..100_usize).prop_map(Step::Unwatch),
        3 => (0..PARTS).prop_map(Step::Count),
        1 => (0..CHANNELS.len(), 0..=USERS, 0..3_u32).prop_map(|(c, user, n)| Step::News(c, user, n)),
        1 => (1..20_000_u64).prop_map(Step::Lease),
        6 => prop_oneof![1..400_u64, 1..7000_u64].prop_map(Step::Wait),
    ]
}

struct Connection {
    part: usize,
    user: Option<UserId>,
    views: Vec<View>,
}

/// Somebody who believes what it is told.
struct Watcher {
    part: usize,
    channel: Channel,
    /// Set once every part has counted.
    believes: Option<(BTreeSet<UserId>, u64)>,
}

#[derive(Default)]
struct Model {
    now: u64,
    connections: Vec<Connection>,
    watchers: Vec<Watcher>,
    /// The censuses that each part was asked for.
    asked: Vec<Vec<Channel>>,
    /// What the other node has, and until when.
    elsewhere: BTreeMap<(Channel, Option<UserId>), u32>,
    lease: u64,
    /// Users that are said to be online.
    online: BTreeSet<UserId>,
    digested: BTreeMap<Channel, u64>,
    /// When each user was last in a channel, and when anywhere.
    seen: BTreeMap<(Option<Channel>, UserId), u64>,
}

fn user(number: usize) -> Option<UserId> {
    (number < USERS).then(|| format!("u{number}").parse().unwrap())
}

fn channel(number: usize) -> Channel {
    CHANNELS[number].parse().unwrap()
}

fn parsed(views: &[String]) -> Vec<View> {
    views.iter().map(|text| text.parse::<Pattern>().unwrap().into()).collect()
}

impl Model {
    fn shows(connection: &Connection, channel: &Channel) -> bool {
        connection.views.iter().any(|view| view.shows(channel))
    }

    fn census(&self, part: usize, channel: &Channel) -> Census {
        let mut census = Census::default();
        for one in self.connections.iter().filter(|c| c.part == part && Model::shows(c, channel)) {
            census.add(one.user.as_ref());
        }
        census
    }

    /// How many connections there are now, by user.
    fn members(&self, channel: &Channel) -> (u64, BTreeMap<UserId, u32>) {
        let mut all = Census::default();
        (0..PARTS).for_each(|part| all.merge(self.census(part, channel)));
        for ((_, user), count) in self.elsewhere.iter().filter(|((c, _), _)| c == channel) {
            (0..*count).for_each(|_| all.add(user.as_ref()));
        }
        (all.connections, all.users)
    }

    fn here(&self) -> BTreeSet<UserId> {
        self.connections.iter().filter_map(|connection| connection.user.clone()).collect()
    }

    /// To be called after each step: who is there is seen.
    fn look(&mut self) {
        for number in 0..CHANNELS.len() {
            let channel = channel(number);
            for user in self.members(&channel).1.into_keys() {
                self.seen.insert((Some(channel.clone()), user), self.now);
            }
        }
        for user in self.here() {
            self.seen.insert((None, user), self.now);
        }
    }

    fn take(&mut self, ticked: &Ticked) {
        for digest in &ticked.digests {
            let last = self.digested.insert(digest.channel.clone(), self.now);
            assert!(last.is_none_or(|last| self.now >= last + EVERY), "{digest:?} too early");
            for user in &digest.left {
                let seen = self.seen.get(&(Some(digest.channel.clone()), user.clone()));
                assert!(seen.is_some_and(|seen| self.now >= seen + GRACE), "{user} within the grace time");
            }
            for watcher in self.watchers.iter_mut().filter(|watcher| watcher.channel == digest.channel) {
                assert!(digest.parts.contains(&watcher.part), "{digest:?} passes a watcher by");
                let Some((users, connections)) = &mut watcher.believes else { continue };
                users.extend(digest.joined.iter().map(|(user, _)| user.clone()));
                users.retain(|user| !digest.left.contains(user));
                *connections = digest.connections;
            }
        }
        for transition in &ticked.transitions {
            let changed = if transition.online {
                self.online.insert(transition.user.clone())
            } else {
                let seen = self.seen.get(&(None, transition.user.clone())).copied().unwrap_or(0);
                assert!(!self.here().contains(&transition.user), "{transition:?} of who is there");
                assert!(self.now >= seen + GRACE, "{transition:?} within the grace time");
                self.online.remove(&transition.user)
            };
            assert!(changed, "{transition:?} was said before");
        }
    }
}

fn run(steps: Vec<Step>) {
    let mut presence = Presence::new(PresenceConfig::new(PARTS));
    let mut model = Model { asked: vec![Vec::new(); PARTS], ..Model::default() };
    let quiet = [Step::Lease(1_000_000), Step::Count(0), Step::Count(1), Step::Wait(1)];
    // At last time passes in which nothing happens, and everybody has to know what is true.
    let steps = steps.into_iter().chain(std::iter::repeat_n(quiet, 40).flatten());
    for step in steps.chain([Step::Wait(10), Step::Wait(6100), Step::Wait(1100)]) {
        let now = Timestamp(model.now);
        match step {
            Step::Enter(part, who, views) => {
                let (user, views) = (user(who), parsed(&views));
                presence.enter(part, user.as_ref(), None, &views, now);
                model.connections.push(Connection { part, user, views });
            }
            Step::Leave(which) => {
                if model.connections.is_empty() {
                    continue;
                }
                let gone = model.connections.swap_remove(which % model.connections.len());
                presence.leave(gone.part, gone.user.as_ref(), &gone.views, now);
            }
            Step::Change(which, views) => {
                if model.connections.is_empty() {
                    continue;
                }
                let which = which % model.connections.len();
                let Connection { part, user, views: old } = &mut model.connections[which];
                let new = parsed(&views);
                presence.change(*part, user.as_ref(), &*old, &new, now);
                *old = new;
            }
            Step::Watch(part, number) => {
                let channel = channel(number);
                if !presence.watch(part, &channel) {
                    model.asked.iter_mut().for_each(|asked| asked.push(channel.clone()));
                }
                model.watchers.push(Watcher { part, channel, believes: None });
            }
            Step::Unwatch(which) => {
                if model.watchers.is_empty() {
                    continue;
                }
                let gone = model.watchers.swap_remove(which % model.watchers.len());
                presence.unwatch(gone.part, &gone.channel, now);
                if model.watchers.iter().all(|watcher| watcher.channel != gone.channel) {
                    model.digested.remove(&gone.channel);
                    model.elsewhere.retain(|(channel, _), _| *channel != gone.channel);
                }
            }
            Step::Count(part) => {
                if model.asked[part].is_empty() {
                    continue;
                }
                let channel = model.asked[part].remove(0);
                presence.count(part, &channel, || model.census(part, &channel));
            }
            Step::News(number, who, connections) => {
                let (channel, user) = (channel(number), user(who));
                model.lease = model.lease.max(model.now + 1);
                let member = News::Member { channel: channel.clone(), user: user.clone(), connections };
                presence.node(other(), Timestamp(model.lease), [member], now);
                if model.watchers.iter().all(|watcher| watcher.channel != channel) {
                    // What nobody watches is not followed.
                } else if connections > 0 {
                    model.elsewhere.insert((channel, user), connections);
                } else {
                    model.elsewhere.remove(&(channel, user));
                }
            }
            Step::Lease(time) => {
                model.lease = model.now + time;
                presence.node(other(), Timestamp(model.lease), [], now);
            }
            Step::Wait(time) => {
                model.look();
                model.now += time;
                if model.lease <= model.now {
                    model.elsewhere.clear();
                }
                model.take(&presence.tick(Timestamp(model.now)));
            }
        }
        // Whoever watches gets its snapshot once every part has done what was asked before it came.
        let complete = model.asked.iter().all(Vec::is_empty);
        for watcher in model.watchers.iter_mut().filter(|watcher| complete && watcher.believes.is_none()) {
            let roll = presence.snapshot(&watcher.channel);
            let users = roll.users.into_iter().map(|present| present.user).collect();
            watcher.believes = Some((users, roll.connections));
        }
        model.look();
    }
    for watcher in &model.watchers {
        let (connections, users) = model.members(&watcher.channel);
        let users: BTreeSet<UserId> = users.into_keys().collect();
        assert_eq!(watcher.believes, Some((users, connections)), "{}", watcher.channel);
    }
    assert_eq!(model.online, model.here());
    assert_eq!(presence.online(), model.here().len());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(crate::model::schedules(2000)))]

    #[test]
    fn everybody_who_watches_knows_what_is_true(steps in vec(step(), 1..120)) {
        run(steps);
    }
}
