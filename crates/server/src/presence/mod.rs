//! Who is there, for the whole server: what its workers say of comings and goings, and the thread that says what came
//! of it to those who watch, and to the log.
//!
//! A connect and a disconnect take one lock for as long as a step in a hash table takes, and none at all for a stream
//! without a user while nobody watches anything. No thread is woken for them.

mod record;
mod round;
mod text;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::value::RawValue;
use tidings_hub::log::ReadError;
use tidings_hub::{
    Census, Hub, Info, News, NodeId, Presence, PresenceConfig, Roll, Standing, Ticked, Timestamp, View,
};
use tidings_wire::{Channel, UserId};

pub(crate) use round::Rounds;
pub(crate) use text::Notice;

use crate::PresenceOptions;

/// How much of what a token says about its user is kept to be told to others. More is not for each of a hundred lines
/// of a digest.
const INFO: usize = 1024;
/// How many bytes of snapshots one stream is told at once; channels beyond that are told in numbers only. What a stream
/// that reads nothing keeps in memory is bounded by it.
const SNAPSHOTS: usize = 128 << 10;

/// Who is there, shared by the workers and all who ask.
#[derive(Debug)]
pub(crate) struct Doorkeeper {
    presence: Mutex<Presence>,
    /// How many channels are watched, here or by another node. Zero spares streams without a user the lock.
    watched: AtomicUsize,
}

impl Doorkeeper {
    /// Nobody is there, but for the users who were when the server ended the last time without saying that they went.
    pub(crate) fn open(hub: &Hub, node: NodeId, parts: usize, options: &PresenceOptions) -> Arc<Doorkeeper> {
        let config = PresenceConfig { node, grace: options.grace, ..PresenceConfig::new(parts) };
        let mut presence = Presence::new(config);
        if options.online_events
            && let Err(error) = recover(&mut presence, hub, options)
        {
            tracing::warn!(%error, "who was online before this start can't be read, so nobody of them is said to have gone");
        }
        Arc::new(Doorkeeper { presence: Mutex::new(presence), watched: AtomicUsize::new(0) })
    }

    /// A stream begins on a worker.
    pub(crate) fn enter<'a>(
        &self,
        worker: usize,
        user: Option<&UserId>,
        info: Option<&Info>,
        views: impl IntoIterator<Item = &'a View>,
        now: Timestamp,
    ) {
        if user.is_some() || self.is_watched() {
            self.lock().enter(worker, user, info, views, now);
        }
    }

    /// A stream follows other views than before.
    pub(crate) fn change(
        &self,
        worker: usize,
        user: Option<&UserId>,
        before: &[View],
        after: &[View],
        now: Timestamp,
    ) {
        if self.is_watched() {
            self.lock().change(worker, user, before, after, now);
        }
    }

    /// A stream ends.
    pub(crate) fn leave<'a>(
        &self,
        worker: usize,
        user: Option<&UserId>,
        views: impl IntoIterator<Item = &'a View>,
        now: Timestamp,
    ) {
        if user.is_some() || self.is_watched() {
            self.lock().leave(worker, user, views, now);
        }
    }

    /// A stream of a worker is about to watch these channels. Returns those that are yet to be counted by the workers.
    pub(crate) fn watch(
        self: &Arc<Doorkeeper>,
        worker: usize,
        channels: Vec<Channel>,
    ) -> (Watching, Vec<Channel>) {
        let mut presence = self.lock();
        let mut uncounted = channels.clone();
        uncounted.retain(|channel| !presence.watch(worker, channel));
        self.note_watched(presence);
        (Watching { door: self.clone(), worker, channels }, uncounted)
    }

    /// A worker counts who is in a channel that begins to be watched.
    pub(crate) fn count(&self, worker: usize, channel: &Channel, census: Census) {
        self.lock().count(worker, channel, || census);
    }

    /// Who is in the watched channels, for somebody who begins to watch them.
    pub(crate) fn snapshots(&self, channels: &[Channel]) -> Vec<String> {
        let mut budget = SNAPSHOTS;
        let mut texts = Vec::with_capacity(channels.len());
        for channel in channels {
            let roll = self.lock().snapshot(channel);
            let text = text::snapshot(channel, &roll, budget);
            budget = budget.saturating_sub(text.len());
            texts.push(text);
        }
        texts
    }

    /// Who is in a channel, of which the streams of all nodes are these.
    pub(crate) fn members(&self, all: Census, limit: usize) -> Roll {
        self.lock().members(all, limit)
    }

    /// How many streams a user has on other nodes.
    pub(crate) fn elsewhere(&self, user: &UserId) -> u32 {
        self.lock().elsewhere(user)
    }

    /// From now on there are other nodes.
    pub(crate) fn share(&self) {
        self.lock().share();
    }

    /// Whether another node is known. One that was given up isn't.
    pub(crate) fn knows(&self, node: NodeId) -> bool {
        self.lock().knows(node)
    }

    /// What they are to be told that is new.
    pub(crate) fn news(&self) -> Vec<News> {
        self.lock().news()
    }

    /// What one is to be told that knows nothing.
    pub(crate) fn all_news(&self) -> Vec<News> {
        self.lock().all_news()
    }

    /// Another node has said something; `anew` when it is all that counts from now on. Returns the channels that the
    /// workers have to count.
    pub(crate) fn hear(
        &self,
        node: NodeId,
        anew: bool,
        news: Vec<News>,
        until: Timestamp,
        now: Timestamp,
    ) -> Vec<Channel> {
        let mut presence = self.lock();
        if anew {
            presence.forget_node(node, now);
        }
        let uncounted = presence.node(node, until, news, now);
        self.note_watched(presence);
        uncounted
    }

    /// How these users are there.
    pub(crate) fn standings(&self, users: &[UserId]) -> Vec<Option<Standing>> {
        let presence = self.lock();
        users.iter().map(|user| presence.user(user)).collect()
    }

    /// How many users are there.
    pub(crate) fn online(&self) -> usize {
        self.lock().online()
    }

    /// The server is stopping: its streams end one after the other, and nobody is said to have gone.
    pub(crate) fn freeze(&self) {
        self.lock().freeze();
    }

    /// This node says who comes and goes from now on.
    fn take_over(&self, said: &BTreeSet<UserId>, now: Timestamp) {
        self.lock().take_over(said, now.plus(record::RETURN), now);
    }

    fn tick(&self, now: Timestamp) -> Ticked {
        let mut presence = self.lock();
        let ticked = presence.tick(now);
        self.note_watched(presence);
        ticked
    }

    /// Before any worker is asked to count: whoever sees zero is counted later.
    fn note_watched(&self, presence: MutexGuard<'_, Presence>) {
        self.watched.store(presence.watched(), Ordering::SeqCst);
    }

    fn is_watched(&self) -> bool {
        self.watched.load(Ordering::SeqCst) > 0
    }

    fn lock(&self) -> MutexGuard<'_, Presence> {
        // A thread that panicked while it had the lock may have left a count wrong by one, which no stream is worth.
        self.presence.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The channels that one stream watches, until it is dropped.
#[derive(Debug)]
pub(crate) struct Watching {
    door: Arc<Doorkeeper>,
    worker: usize,
    channels: Vec<Channel>,
}

impl Watching {
    pub(crate) fn channels(&self) -> &[Channel] {
        &self.channels
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        let now = Timestamp::now();
        let mut presence = self.door.lock();
        for channel in &self.channels {
            presence.unwatch(self.worker, channel, now);
        }
        self.door.note_watched(presence);
    }
}

/// What others may read of a token's `info`.
pub(crate) fn info(info: Option<&RawValue>) -> Option<Info> {
    info.map(RawValue::get).filter(|text| text.len() <= INFO).map(Info::from)
}

/// When users who are not there were there last.
pub(crate) fn last_seen(hub: &Hub, users: &BTreeSet<UserId>) -> Result<Vec<(UserId, Timestamp)>, ReadError> {
    let mut seen = Vec::new();
    for user in users {
        if let Some(at) = record::seen(&**hub.log(), user)? {
            seen.push((user.clone(), at));
        }
    }
    Ok(seen)
}

/// Who was said to be online by the node that spoke before this one.
fn said(hub: &Hub) -> Result<BTreeSet<UserId>, ReadError> {
    let mut users = BTreeSet::new();
    record::online(&**hub.log(), |user| {
        users.insert(user);
    })?;
    Ok(users)
}

fn recover(presence: &mut Presence, hub: &Hub, options: &PresenceOptions) -> Result<(), ReadError> {
    let now = Timestamp::now();
    let until = now.plus(options.grace.max(record::RETURN));
    record::online(&**hub.log(), |user| presence.recover(&user, until, now))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tidings_hub::log::{MemoryLog, MemoryLogConfig, Retention};
    use tidings_hub::{HubConfig, Start, Subscribe};
    use tidings_wire::{CursorKey, Epoch};

    use super::record::Recorder;
    use super::*;

    fn user(id: &str) -> UserId {
        id.parse().unwrap()
    }

    /// A node that ends without order, and one that begins in its place.
    #[tokio::test]
    async fn who_was_online_at_a_crash_and_stays_away_is_said_to_have_gone() {
        let log =
            Arc::new(MemoryLog::new(MemoryLogConfig { epoch: Epoch(1), retention: Retention::default() }));
        let hub = Hub::start(log, HubConfig::new(CursorKey::new([7; 16]))).unwrap();
        let options = PresenceOptions::default();
        let start = Timestamp::now();
        let recorded = |door: &Doorkeeper, now| {
            let mut recorder = Recorder::new(hub.clone(), true);
            recorder.advance(door.tick(now).transitions);
            recorder
        };
        let before = Doorkeeper::open(&hub, NodeId::default(), 1, &options);
        for id in ["ann", "bob", "cid"] {
            before.enter(0, Some(&user(id)), None, &[], start);
        }
        let mut recorder = recorded(&before, start);
        before.leave(0, Some(&user("cid")), &[], start.plus(Duration::from_secs(1)));
        recorder.advance(before.tick(start.plus(Duration::from_secs(6))).transitions);
        while !recorder.is_idle() {
            tokio::task::yield_now().await;
            recorder.advance(Vec::new());
        }
        assert_eq!(
            record::seen(&**hub.log(), &user("cid")).unwrap(),
            Some(start.plus(Duration::from_secs(1)))
        );

        let after = Doorkeeper::open(&hub, NodeId::default(), 1, &options);
        assert_eq!(after.online(), 2, "cid had gone");
        after.enter(0, Some(&user("ann")), None, &[], Timestamp::now());
        assert_eq!(after.tick(Timestamp::now()), Ticked::default(), "ann was online all the time");
        let mut recorder = recorded(&after, Timestamp::now().plus(record::RETURN));
        while !recorder.is_idle() {
            tokio::task::yield_now().await;
            recorder.advance(Vec::new());
        }
        let all = Subscribe { start: Start::Earliest, ..Subscribe::new([View::from(Channel::presence())]) };
        let mut subscription = hub.subscribe(all).unwrap();
        let mut said = Vec::new();
        for _ in 0..5 {
            let delivery = subscription.next().await.unwrap();
            let event = delivery.event().unwrap();
            let key = event.key.as_ref().unwrap();
            said.push(format!("{} {}", key.as_str(), event.event.as_str()));
        }
        assert_eq!(said, ["ann online", "bob online", "cid online", "cid offline", "bob offline"]);
        hub.close();
    }
}
