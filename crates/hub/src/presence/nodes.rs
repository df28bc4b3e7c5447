//! Several nodes that tell each other who is there, over a line that loses words: at last everybody knows the same.

use std::collections::{BTreeMap, BTreeSet};

use proptest::collection::vec;
use proptest::prelude::*;
use tidings_wire::{Channel, UserId};

use super::{Census, NodeId, Presence, PresenceConfig};
use crate::{Timestamp, View};

const NODES: usize = 3;
const USERS: usize = 3;
const CHANNELS: [&str; 2] = ["a", "b"];
const LEASE: u64 = 5000;

#[derive(Debug, Clone)]
enum Step {
    /// A connection to a node, of a user (the last number is nobody), in some of the channels.
    Enter(usize, usize, Vec<usize>),
    Leave(usize),
    Watch(usize, usize),
    Unwatch(usize),
    /// A node says what is new; whether each of the others hears it.
    Tell(usize, [bool; NODES]),
    /// A node does the oldest census that it was asked for.
    Count(usize),
    /// A node is gone at once, and another begins in its place.
    Die(usize),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let channels = || vec(0..CHANNELS.len(), 0..3);
    prop_oneof![
        4 => (0..NODES, 0..=USERS, channels()).prop_map(|(node, user, all)| Step::Enter(node, user, all)),
        4 => (0..100_usize).prop_map(Step::Leave),
        2 => (0..NODES, 0..CHANNELS.len()).prop_map(|(node, channel)| Step::Watch(node, channel)),
        1 => (0..100_usize).prop_map(Step::Unwatch),
        6 => (0..NODES, any::<[bool; NODES]>()).prop_map(|(node, heard)| Step::Tell(node, heard)),
        3 => (0..NODES).prop_map(Step::Count),
        1 => (0..NODES).prop_map(Step::Die),
        4 => prop_oneof![1..400_u64, 1..7000_u64].prop_map(Step::Wait),
    ]
}

struct Connection {
    node: usize,
    user: Option<UserId>,
    views: Vec<View>,
}

/// Somebody who believes what it is told.
struct Watcher {
    node: usize,
    channel: Channel,
    believes: Option<(BTreeSet<UserId>, u64)>,
}

struct Node {
    id: NodeId,
    presence: Presence,
    asked: Vec<Channel>,
    /// How often it has told something, and up to where it has heard the others.
    told: u64,
    heard: BTreeMap<NodeId, u64>,
}

struct Nodes {
    now: u64,
    names: u64,
    nodes: Vec<Node>,
    connections: Vec<Connection>,
    watchers: Vec<Watcher>,
    online: BTreeSet<UserId>,
}

fn user(number: usize) -> Option<UserId> {
    (number < USERS).then(|| format!("u{number}").parse().unwrap())
}

fn channel(number: usize) -> Channel {
    CHANNELS[number].parse().unwrap()
}

impl Nodes {
    fn new() -> Nodes {
        let mut nodes = Nodes {
            now: 0,
            names: 0,
            nodes: Vec::new(),
            connections: Vec::new(),
            watchers: Vec::new(),
            online: BTreeSet::new(),
        };
        for _ in 0..NODES {
            let node = nodes.begin();
            nodes.nodes.push(node);
        }
        nodes.meet();
        nodes
    }

    /// All nodes hear each other.
    fn meet(&mut self) {
        (0..NODES).for_each(|node| self.tell(node, [true; NODES]));
    }

    fn begin(&mut self) -> Node {
        self.names += 1;
        let id = NodeId::new(self.names);
        let mut presence = Presence::new(PresenceConfig { node: id, ..PresenceConfig::new(1) });
        presence.share();
        Node { id, presence, asked: Vec::new(), told: 0, heard: BTreeMap::new() }
    }

    fn tell(&mut self, from: usize, heard: [bool; NODES]) {
        let (now, until) = (Timestamp(self.now), Timestamp(self.now + LEASE));
        let sender = &mut self.nodes[from];
        let news = sender.presence.news();
        sender.told += 1;
        let (id, told, all) = (sender.id, sender.told, sender.presence.all_news());
        for (to, _) in heard.into_iter().enumerate().filter(|(to, heard)| *to != from && *heard) {
            let node = &mut self.nodes[to];
            // Who missed something is told all.
            let known = node.presence.knows(id);
            let uncounted = if node.heard.insert(id, told) == Some(told - 1) && known {
                node.presence.node(id, until, news.clone(), now)
            } else {
                node.presence.forget_node(id, now);
                node.presence.node(id, until, all.clone(), now)
            };
            node.asked.extend(uncounted);
        }
    }

    fn census(&self, node: Option<usize>, channel: &Channel) -> Census {
        let mut census = Census::default();
        let shown = self.connections.iter().filter(|c| node.is_none_or(|node| c.node == node));
        for one in shown.filter(|c| c.views.iter().any(|view| view.shows(channel))) {
            census.add(one.user.as_ref());
        }
        census
    }

    fn tick(&mut self) {
        for number in 0..NODES {
            let ticked = self.nodes[number].presence.tick(Timestamp(self.now));
            for transition in ticked.transitions {
                match transition.online {
                    true => self.online.insert(transition.user),
                    false => self.online.remove(&transition.user),
                };
            }
            if ticked.take_over {
                let (until, now) = (Timestamp(self.now + 30_000), Timestamp(self.now));
                self.nodes[number].presence.take_over(&self.online, until, now);
            }
            for digest in ticked.digests {
                let watchers = self.watchers.iter_mut().filter(|w| w.node == number);
                for watcher in watchers.filter(|watcher| watcher.channel == digest.channel) {
                    let Some((users, connections)) = &mut watcher.believes else { continue };
                    users.extend(digest.joined.iter().map(|(user, _)| user.clone()));
                    users.retain(|user| !digest.left.contains(user));
                    *connections = digest.connections;
                }
            }
        }
    }

    fn run(&mut self, step: Step) {
        let now = Timestamp(self.now);
        match step {
            Step::Enter(node, who, channels) => {
                let user = user(who);
                let views: Vec<View> = channels.into_iter().map(|number| channel(number).into()).collect();
                self.nodes[node].presence.enter(0, user.as_ref(), None, &views, now);
                self.connections.push(Connection { node, user, views });
            }
            Step::Leave(which) if !self.connections.is_empty() => {
                let gone = self.connections.swap_remove(which % self.connections.len());
                self.nodes[gone.node].presence.leave(0, gone.user.as_ref(), &gone.views, now);
            }
            Step::Watch(node, number) => {
                let channel = channel(number);
                if !self.nodes[node].presence.watch(0, &channel) {
                    self.nodes[node].asked.push(channel.clone());
                }
                self.watchers.push(Watcher { node, channel, believes: None });
            }
            Step::Unwatch(which) if !self.watchers.is_empty() => {
                let gone = self.watchers.swap_remove(which % self.watchers.len());
                self.nodes[gone.node].presence.unwatch(0, &gone.channel, now);
            }
            Step::Leave(_) | Step::Unwatch(_) => {}
            Step::Tell(node, heard) => self.tell(node, heard),
            Step::Count(node) => {
                if !self.nodes[node].asked.is_empty() {
                    let channel = self.nodes[node].asked.remove(0);
                    let census = self.census(Some(node), &channel);
                    self.nodes[node].presence.count(0, &channel, || census);
                }
            }
            Step::Die(node) => {
                let users: BTreeSet<UserId> = self.online.clone();
                self.nodes[node] = self.begin();
                self.connections.retain(|connection| connection.node != node);
                self.watchers.retain(|watcher| watcher.node != node);
                for user in &users {
                    self.nodes[node].presence.recover(user, Timestamp(self.now + 30_000), now);
                }
                self.meet();
            }
            Step::Wait(time) => {
                self.now += time;
                self.tick();
            }
        }
        for watcher in self.watchers.iter_mut().filter(|watcher| watcher.believes.is_none()) {
            if self.nodes[watcher.node].asked.is_empty() {
                let roll = self.nodes[watcher.node].presence.snapshot(&watcher.channel);
                let users = roll.users.into_iter().map(|present| present.user).collect();
                watcher.believes = Some((users, roll.connections));
            }
        }
    }
}

fn run(steps: Vec<Step>) {
    let mut nodes = Nodes::new();
    steps.into_iter().for_each(|step| nodes.run(step));
    // At last nobody comes or goes, and every word is heard: all has to be known, and what died forgotten.
    for _ in 0..50 {
        for node in 0..NODES {
            nodes.run(Step::Tell(node, [true; NODES]));
            (0..20).for_each(|_| nodes.run(Step::Count(node)));
        }
        nodes.run(Step::Wait(1000));
    }
    for watcher in &nodes.watchers {
        let Census { connections, users } = nodes.census(None, &watcher.channel);
        let users: BTreeSet<UserId> = users.into_keys().collect();
        assert_eq!(watcher.believes, Some((users, connections)), "{} on {}", watcher.channel, watcher.node);
    }
    let here: BTreeSet<UserId> = nodes.connections.iter().filter_map(|c| c.user.clone()).collect();
    for user in &here {
        let mine = |node: usize| {
            nodes.connections.iter().filter(move |c| c.node == node && c.user.as_ref() == Some(user))
        };
        for number in 0..NODES {
            let elsewhere: usize =
                (0..NODES).filter(|node| *node != number).map(|node| mine(node).count()).sum();
            assert_eq!(
                nodes.nodes[number].presence.elsewhere(user) as usize,
                elsewhere,
                "{user} beside {number}"
            );
        }
    }
    assert_eq!(nodes.online, here);
    for node in &nodes.nodes {
        assert_eq!(node.presence.online(), here.len());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn all_nodes_know_the_same_at_last(steps in vec(step(), 1..120)) {
        run(steps);
    }
}
