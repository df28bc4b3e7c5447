//! The streams of all nodes: what handlers ask, and how a node answers for its own.

use std::sync::Arc;

use tidings_hub::durable::Turn;
use tidings_hub::{Census, Change, NodeId, View};
use tidings_wire::{Channel, ClientId, ConnectionId, UserId};

use super::words::{self, Answer, Question};
use super::{Cluster, node_of};
use crate::stats_channel::StatsChannel;
use crate::stream::{Changed, WorkersHandle};
use crate::{App, ConnectionFilter, ConnectionInfo};

/// What one node reached.
pub(crate) struct Reached<T> {
    pub(crate) found: T,
    /// How many nodes did not answer in time, at the least.
    pub(crate) missing: usize,
}

impl App {
    /// Up to `limit` of the streams that are meant, on all nodes.
    pub(crate) async fn connections(
        &self,
        filter: &ConnectionFilter,
        limit: usize,
    ) -> Reached<Vec<ConnectionInfo>> {
        let mut found = match self.workers() {
            Some(workers) if self.is_here(filter) => workers.connections(filter, limit).await,
            _ => Vec::new(),
        };
        let (answers, missing) = self.others(filter, Question::Connections(filter.into(), limit)).await;
        for answer in answers {
            if let Answer::Connections(more) = answer {
                found.extend(more.into_iter().filter_map(words::Connection::read));
            }
        }
        found.truncate(limit);
        Reached { found, missing }
    }

    /// One stream, on whichever node.
    pub(crate) async fn connection(&self, id: ConnectionId) -> Reached<Option<ConnectionInfo>> {
        let filter = ConnectionFilter { id: Some(id), ..ConnectionFilter::default() };
        let Reached { mut found, missing } = self.connections(&filter, 1).await;
        Reached { found: found.pop(), missing }
    }

    /// Ends the streams that are meant, on all nodes, and lets those go who poll as this user; how many streams it were.
    pub(crate) async fn disconnect(&self, filter: &ConnectionFilter) -> Reached<u64> {
        let mut found = if self.is_here(filter) { disconnect_here(self, filter).await } else { 0 };
        let (answers, missing) = self.others(filter, Question::Disconnect(filter.into())).await;
        for answer in answers {
            if let Answer::Count(count) = answer {
                found += count;
            }
        }
        Reached { found, missing }
    }

    /// Changes what the streams that are meant follow, on all nodes, each as a whole or not at all.
    pub(crate) async fn change(
        &self,
        filter: &ConnectionFilter,
        change: Change,
        limit: usize,
        all_watchable: bool,
    ) -> Reached<Vec<Changed>> {
        let (add, remove) = (words::said_views(&change.add), words::said_views(&change.remove));
        let mut found = match self.workers() {
            Some(workers) if self.is_here(filter) => {
                workers.change(filter, change, limit, all_watchable).await
            }
            _ => Vec::new(),
        };
        let question = Question::Change { filter: filter.into(), add, remove, limit, all_watchable };
        let (answers, missing) = self.others(filter, question).await;
        for answer in answers {
            if let Answer::Changed(more) = answer {
                found.extend(more.into_iter().filter_map(words::ChangedStream::read));
            }
        }
        Reached { found, missing }
    }

    /// The streams of all nodes that follow a channel, by user.
    pub(crate) async fn census(&self, channel: &Channel) -> Reached<Census> {
        let mut found = match self.workers() {
            Some(workers) => workers.census(channel).await,
            None => Census::default(),
        };
        let question = Question::Census(channel.to_string());
        let (answers, missing) = self.others(&ConnectionFilter::default(), question).await;
        answers.into_iter().for_each(|answer| found.merge(words::census(answer)));
        Reached { found, missing }
    }

    /// Whether a stream of any node follows one of these views, or a part of one, or somebody polls it; true where it can't
    /// be known.
    pub(crate) async fn follows(&self, views: &[View]) -> bool {
        if follows_here(self, views).await {
            return true;
        }
        let question = Question::Follows(words::said_views(views));
        let (answers, missing) = self.others(&ConnectionFilter::default(), question).await;
        missing > 0 || answers.iter().any(|answer| matches!(answer, Answer::Yes(true)))
    }

    /// How many streams a user has on other nodes.
    pub(crate) fn elsewhere(&self, user: Option<&UserId>) -> usize {
        match (self.cluster(), self.workers(), user) {
            (Some(_), Some(workers), Some(user)) => workers.door().elsewhere(user) as usize,
            _ => 0,
        }
    }

    /// A durable subscription has a new stream on this node.
    pub(crate) fn tell_held(&self, user: &UserId, name: &ClientId, turn: Turn) {
        if let Some(cluster) = self.cluster() {
            cluster.tell_held(user, name, turn);
        }
    }

    /// Whether what is meant may be on this node.
    fn is_here(&self, filter: &ConnectionFilter) -> bool {
        filter.id.is_none_or(|id| node_of(id) == self.node)
    }

    async fn others(&self, filter: &ConnectionFilter, question: Question) -> (Vec<Answer>, usize) {
        let Some(cluster) = self.cluster() else { return (Vec::new(), 0) };
        let node = match filter.id.map(node_of) {
            Some(node) if node == self.node => return (Vec::new(), 0),
            node => node,
        };
        cluster.ask(node, question).await
    }
}

impl Cluster {
    fn tell_held(&self, user: &UserId, name: &ClientId, turn: Turn) {
        self.lock_held().push(words::said_held(user, name, turn));
    }

    /// Another node has a durable subscription. If the stream here is the newer one, the other node is told of that.
    pub(super) fn hear_held(&self, workers: &WorkersHandle, from: NodeId, user: &str, name: &str, turn: u64) {
        // A name that can't be one is nobody's.
        let Some((user, name)) = words::read_held(user, name) else { return };
        let mine = workers.yields(user.clone(), name.clone(), Turn(turn), from < self.node);
        if let Some(mine) = mine {
            self.tell_held(&user, &name, mine);
        }
    }
}

/// What this node answers another one. Each question is for its own streams only; one with a name in it that can't be
/// one is not answered with anything.
pub(super) async fn answer(app: &Arc<App>, question: Question) -> Answer {
    try_answer(app, question).await.unwrap_or(Answer::Nothing)
}

async fn try_answer(app: &Arc<App>, question: Question) -> Option<Answer> {
    let workers = app.workers()?;
    Some(match question {
        Question::Census(channel) => workers.census(&words::read_channel(&channel)?).await.into(),
        Question::Connections(filter, limit) => {
            let found = workers.connections(&filter.read()?, limit).await;
            Answer::Connections(found.into_iter().map(Into::into).collect())
        }
        Question::Disconnect(filter) => Answer::Count(disconnect_here(app, &filter.read()?).await),
        Question::Change { filter, add, remove, limit, all_watchable } => {
            let (filter, mut change) = (filter.read()?, words::read_change(&add, &remove)?);
            StatsChannel::followed(app, &change.add);
            change.ended = app.hub.ended(&change.add);
            let changed = workers.change(&filter, change, limit, all_watchable).await;
            Answer::Changed(changed.into_iter().map(Into::into).collect())
        }
        Question::Follows(views) => Answer::Yes(follows_here(app, &words::read_views(&views)?).await),
    })
}

async fn disconnect_here(app: &App, filter: &ConnectionFilter) -> u64 {
    if let (None, Some(user)) = (filter.id, &filter.user) {
        // Who polls has no connection to be named by; it comes back, and is asked anew what it may.
        app.polls.release(user);
    }
    match app.workers() {
        Some(workers) => u64::try_from(workers.disconnect(filter).await).unwrap_or(u64::MAX),
        None => 0,
    }
}

async fn follows_here(app: &App, views: &[View]) -> bool {
    app.polls.follows(views)
        || match app.workers() {
            Some(workers) => workers.follows(views).await,
            None => false,
        }
}
