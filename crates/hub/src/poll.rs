//! Subscribers that want one answer each, and wait for it together.
//!
//! A [`Subscription`](crate::Subscription) has a shard of its own, which every publish wakes. Of those who poll there may
//! be thousands, almost all of them for channels where nothing happens just now. So they are subscribers of one shard:
//! a publish wakes one of them, whichever, and that one takes in what there is for all and wakes those who have got
//! something. There is no thread and no task for it, and nothing at all while nobody waits.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task;

use tidings_wire::{Cursor, UserId};
use tokio::sync::Notify;

use crate::hub::Hub;
use crate::log::Record;
use crate::resume::Resume;
use crate::shard::{Shard, SubscriberId, Taken};
use crate::subscriber::{Lens, ToldGap};
use crate::subscription::SubscriptionError;
use crate::{Timestamp, View};

/// With so many events an answer is long enough: what is handed out next may be 512 more, and an answer has at most
/// 1,000.
const ENOUGH_EVENTS: usize = 488;
/// With so many bytes of data as well.
const ENOUGH_BYTES: usize = 1 << 20;

/// Those who poll one hub.
#[derive(Debug)]
pub struct Polls {
    hub: Hub,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// There is something in the window that the room has not taken in.
    news: Arc<Notify>,
    /// None while nobody is there: a shard that does not look holds memory.
    room: Mutex<Option<Room>>,
}

#[derive(Debug)]
struct Room {
    shard: Shard,
    /// Who is there, by slot.
    waiting: Vec<Option<Waiting>>,
}

#[derive(Debug)]
struct Waiting {
    user: Option<UserId>,
    /// There is something for it.
    news: Arc<Notify>,
    /// It is to go with what there is.
    released: bool,
}

impl Room {
    /// Takes in what there is, and wakes those who have got something.
    fn turn(&mut self) {
        while self.shard.consume(usize::MAX) {}
        while let Some(id) = self.shard.next_ready() {
            if let Some(Some(waiting)) = self.waiting.get(id.0 as usize) {
                waiting.news.notify_one();
            }
        }
    }
}

impl Shared {
    fn room(&self) -> MutexGuard<'_, Option<Room>> {
        // Each turn begins with what the last one left, wherever that ended.
        self.room.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn turn(&self) {
        if let Some(room) = &mut *self.room() {
            room.turn();
        }
    }
}

impl Polls {
    /// Of nobody yet.
    pub fn new(hub: &Hub) -> Polls {
        Polls { hub: hub.clone(), shared: Arc::default() }
    }

    /// One more, who begins where that was found by [`Hub::resume`] for the same views and lens.
    pub fn open(&self, views: &[View], resume: Resume, lens: Lens, now: Timestamp) -> Poll {
        let user = lens.who.user.clone();
        let mut locked = self.shared.room();
        let room = locked.get_or_insert_with(|| {
            let news = self.shared.news.clone();
            Room { shard: self.hub.shard(Box::new(move || news.notify_one())), waiting: Vec::new() }
        });
        let (id, opened_at, gap) = room.shard.subscribe_records(views, resume, lens, now);
        let news = Arc::new(Notify::new());
        let slot = id.0 as usize;
        if room.waiting.len() <= slot {
            room.waiting.resize_with(slot + 1, || None);
        }
        room.waiting[slot] = Some(Waiting { user, news: news.clone(), released: false });
        // To enter it, the shard took in what there was, for the others too.
        room.turn();
        let answer = Answer { events: Vec::new(), gap, over: false };
        Poll {
            shared: self.shared.clone(),
            id,
            news,
            opened_at: self.hub.key().seal(opened_at),
            answer,
            bytes: 0,
        }
    }

    /// Lets those of a user go with what there is; how many. They come back and are asked anew what they may.
    pub fn release(&self, user: &UserId) -> usize {
        let mut room = self.shared.room();
        let waiting = room.iter_mut().flat_map(|room| &mut room.waiting).flatten();
        let theirs = waiting.filter(|waiting| waiting.user.as_ref() == Some(user));
        let release = |waiting: &mut Waiting| {
            waiting.released = true;
            waiting.news.notify_one();
        };
        theirs.map(release).count()
    }

    /// Whether somebody waits for one of these views, a part of one, or more than one.
    pub fn follows(&self, views: &[View]) -> bool {
        self.shared.room().as_ref().is_some_and(|room| room.shard.follows(views))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.shared.room().as_ref().map_or(0, |room| room.shard.len())
    }

    /// Whether there is nobody.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// One who polls. Dropped, it is gone.
#[derive(Debug)]
pub struct Poll {
    shared: Arc<Shared>,
    id: SubscriberId,
    news: Arc<Notify>,
    opened_at: Cursor,
    answer: Answer,
    /// Of data in the answer's events.
    bytes: usize,
}

/// What there is for one who polls.
#[derive(Debug, Default)]
pub struct Answer {
    /// The events and their cursors, in order.
    pub events: Vec<(Record, Cursor)>,
    /// Something is missing, of what comes before, between or behind the events: its `from` and `to` say where.
    pub gap: Option<ToldGap>,
    /// All its channels have ended: after these events there is nothing more to come.
    pub over: bool,
}

impl Answer {
    /// Whether there is nothing to be told.
    pub fn is_empty(&self) -> bool {
        self.events.is_empty() && self.gap.is_none() && !self.over
    }
}

/// What is known of what there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    /// There is nothing more, or enough.
    All,
    /// The log is being read.
    Reading,
}

impl Poll {
    /// Completes when what there is is known: it may be nothing.
    ///
    /// # Errors
    /// When the log can't be read.
    pub async fn look(&mut self) -> Result<(), SubscriptionError> {
        while self.gather(Timestamp::now())? == Known::Reading {
            self.wait().await;
        }
        Ok(())
    }

    /// Completes when there is something. It may be dropped while it waits: nothing is lost.
    ///
    /// # Errors
    /// When the log can't be read.
    pub async fn next(&mut self) -> Result<(), SubscriptionError> {
        loop {
            self.look().await?;
            if !self.answer.is_empty() || self.is_released() {
                return Ok(());
            }
            self.wait().await;
        }
    }

    /// What was found, and how far was looked: to come back with.
    pub fn finish(mut self) -> (Answer, Cursor) {
        let answer = std::mem::take(&mut self.answer);
        let looked = self.shared.room().as_ref().map(|room| room.shard.cursor(self.id));
        // There is a room as long as somebody is in it.
        (answer, looked.unwrap_or(self.opened_at))
    }

    fn is_released(&self) -> bool {
        let room = self.shared.room();
        let waiting = room.as_ref().and_then(|room| room.waiting.get(self.id.0 as usize)?.as_ref());
        waiting.is_none_or(|waiting| waiting.released)
    }

    /// Adds what there is to the answer, up to its size.
    fn gather(&mut self, now: Timestamp) -> Result<Known, SubscriptionError> {
        loop {
            // What was read is taken to its end before a gap is told, and a gap is told once.
            let full = self.answer.events.len() > ENOUGH_EVENTS || self.bytes > ENOUGH_BYTES;
            let split = self.answer.gap.is_some() && !self.answer.events.is_empty();
            if full || split || self.answer.over {
                return Ok(Known::All);
            }
            let mut locked = self.shared.room();
            let Some(room) = &mut *locked else { return Ok(Known::All) };
            match room.shard.take(self.id, now) {
                Taken::Records(records) => {
                    self.bytes +=
                        records.iter().map(|(record, _)| record.event.data.as_str().len()).sum::<usize>();
                    self.answer.events.extend(records);
                }
                Taken::Gap(gap) => self.answer.gap = Some(gap),
                Taken::Later => {}
                Taken::End => self.answer.over = true,
                Taken::Nothing if room.shard.is_behind(self.id) => return Ok(Known::Reading),
                Taken::Nothing => return Ok(Known::All),
                Taken::Cut(_) => return Err(SubscriptionError::LogFailed),
            }
        }
    }

    /// Waits until there may be something for this one. Meanwhile it may be the one that looks for all.
    async fn wait(&self) {
        let mut mine = pin!(self.news.notified());
        loop {
            let mut news = pin!(self.shared.news.notified());
            let (for_all, for_me) = poll_fn(|cx| {
                // Whoever is told of news for all has to look, even if it is woken for itself at the same time.
                let for_all = news.as_mut().poll(cx).is_ready();
                let for_me = mine.as_mut().poll(cx).is_ready();
                if for_all || for_me { task::Poll::Ready((for_all, for_me)) } else { task::Poll::Pending }
            })
            .await;
            if for_all {
                self.shared.turn();
            }
            if for_me {
                return;
            }
        }
    }
}

impl Drop for Poll {
    fn drop(&mut self) {
        let mut locked = self.shared.room();
        if let Some(room) = &mut *locked {
            room.shard.unsubscribe(self.id);
            if let Some(waiting) = room.waiting.get_mut(self.id.0 as usize) {
                *waiting = None;
            }
            if room.shard.is_empty() {
                let last = locked.take();
                drop(locked);
                drop(last);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use tidings_wire::{Channel, CursorKey, Epoch, Event, GapReason, Pattern};
    use tokio::time::timeout;

    use super::*;
    use crate::log::{Caps, MemoryLog, MemoryLogConfig, Retention};
    use crate::{HubConfig, Start, Who};

    const PATIENCE: Duration = Duration::from_secs(30);

    fn hub(window: usize, kept: Option<u64>) -> Hub {
        let caps = Caps { count: kept, ..Caps::default() };
        let log = MemoryLog::new(MemoryLogConfig {
            epoch: Epoch(1),
            retention: Retention { default: caps, ..Retention::default() },
        });
        let config = HubConfig { window_records: window, ..HubConfig::new(CursorKey::new([1; 16])) };
        Hub::start(Arc::new(log), config).unwrap()
    }

    fn event(channel: &str, data: &str) -> Event {
        Event::to(channel.parse::<Channel>().unwrap(), data)
    }

    async fn publish(hub: &Hub, channel: &str, data: &str) -> String {
        hub.publish(event(channel, data)).await.unwrap().id.to_string()
    }

    fn poll_as(hub: &Hub, polls: &Polls, pattern: &str, start: &Start, lens: Lens) -> Poll {
        let views = [View::from(pattern.parse::<Pattern>().unwrap())];
        let now = Timestamp::now();
        let resume = hub.resume(&views, start, &lens, now).unwrap();
        polls.open(&views, resume, lens, now)
    }

    fn poll(hub: &Hub, polls: &Polls, pattern: &str, start: &Start) -> Poll {
        poll_as(hub, polls, pattern, start, Lens::default())
    }

    fn after(id: &str) -> Start {
        Start::Cursor(id.to_owned())
    }

    fn data(answer: &Answer) -> Vec<&str> {
        answer.events.iter().map(|(record, _)| record.event.data.as_str()).collect()
    }

    #[tokio::test]
    async fn each_waits_for_its_own_channel_only() {
        let hub = hub(1000, None);
        let polls = Polls::new(&hub);
        let id = publish(&hub, "x", "before").await;
        let mut one = poll(&hub, &polls, "a", &after(&id));
        let mut other = poll(&hub, &polls, "b/*", &after(&id));
        assert_eq!(polls.len(), 2);
        // The first to wait is the one that looks for both; then it is gone, and the other looks for itself.
        assert!(timeout(Duration::from_millis(5), one.next()).await.is_err());
        assert!(timeout(Duration::from_millis(5), other.next()).await.is_err());
        let waiting = tokio::spawn(async move {
            other.next().await.unwrap();
            other.finish()
        });
        let first = publish(&hub, "a", "for a").await;
        timeout(PATIENCE, one.next()).await.unwrap().unwrap();
        let (answer, looked) = one.finish();
        assert_eq!((data(&answer), looked.to_string()), (vec!["for a"], first));
        assert!(!waiting.is_finished());
        publish(&hub, "nobody", "x").await;
        let last = publish(&hub, "b/1", "for b").await;
        let (answer, looked) = timeout(PATIENCE, waiting).await.unwrap().unwrap();
        assert_eq!((data(&answer), looked.to_string()), (vec!["for b"], last));
        assert!(polls.is_empty() && polls.shared.room().is_none());
        hub.close();
    }

    #[tokio::test]
    async fn what_is_there_is_had_at_once_and_how_far_was_looked() {
        for window in [8, 1000] {
            let hub = hub(window, None);
            let polls = Polls::new(&hub);
            let mut ids = Vec::new();
            for n in 0..100 {
                ids.push(publish(&hub, if n % 2 == 0 { "a" } else { "b" }, &n.to_string()).await);
            }
            let mut some = poll(&hub, &polls, "a", &after(&ids[90]));
            some.next().await.unwrap();
            let (answer, looked) = some.finish();
            assert_eq!(data(&answer), ["92", "94", "96", "98"]);
            assert_eq!(looked.to_string(), ids[99], "what was not for it was looked at");
            let mut none = poll(&hub, &polls, "c", &after(&ids[0]));
            none.look().await.unwrap();
            let (answer, looked) = none.finish();
            assert!(answer.is_empty());
            assert_eq!(looked.to_string(), ids[99]);
            let mut newest = poll(&hub, &polls, "a", &Start::History(2));
            newest.look().await.unwrap();
            assert_eq!(data(&newest.finish().0), ["96", "98"]);
            let now = poll(&hub, &polls, "a", &Start::Now);
            assert_eq!(now.finish().1.to_string(), ids[99]);
            hub.close();
        }
    }

    #[tokio::test]
    async fn an_answer_is_bounded_and_the_next_one_goes_on() {
        for window in [8, 10_000] {
            let hub = hub(window, None);
            let polls = Polls::new(&hub);
            let first = publish(&hub, "a", "0").await;
            for _ in 0..4 {
                let batch = (0..500).map(|n| event("a", &n.to_string())).collect();
                hub.publish_batch(batch).await.unwrap();
            }
            let large = "x".repeat(1 << 18);
            for _ in 0..20 {
                publish(&hub, "a", &large).await;
            }
            let (mut at, mut seen, mut answers) = (first, 0, 0);
            loop {
                let mut poll = poll(&hub, &polls, "a", &after(&at));
                poll.look().await.unwrap();
                let (answer, looked) = poll.finish();
                assert!(answer.events.len() <= 1000);
                let bytes: usize = data(&answer).iter().map(|data| data.len()).sum();
                assert!(bytes <= 8 << 20, "{bytes}");
                if answer.is_empty() {
                    break;
                }
                (at, seen, answers) = (looked.to_string(), seen + answer.events.len(), answers + 1);
            }
            assert_eq!(seen, 2020, "each once");
            assert!(answers > 4);
            hub.close();
        }
    }

    #[tokio::test]
    async fn a_gap_is_an_answer() {
        let hub = hub(1000, Some(2));
        let polls = Polls::new(&hub);
        let mut ids = Vec::new();
        for n in 0..5 {
            ids.push(publish(&hub, "a", &n.to_string()).await);
        }
        let mut expired = poll(&hub, &polls, "a", &after(&ids[0]));
        expired.next().await.unwrap();
        let (answer, looked) = expired.finish();
        let gap = answer.gap.unwrap();
        assert_eq!(gap.reason, GapReason::Expired);
        assert_eq!(hub.key().seal(gap.from.unwrap()).to_string(), ids[0]);
        assert_eq!((data(&answer), looked.to_string()), (vec!["3", "4"], ids[4].clone()));
        let mut unknown = poll(&hub, &polls, "a", &after("nonsense"));
        unknown.next().await.unwrap();
        let (answer, looked) = unknown.finish();
        assert_eq!((answer.gap.unwrap().reason, looked.to_string()), (GapReason::Unknown, ids[4].clone()));
        hub.close();
    }

    #[tokio::test]
    async fn a_lens_holds() {
        let hub = hub(1000, None);
        let polls = Polls::new(&hub);
        let id = publish(&hub, "x", "before").await;
        let lens = Lens { who: Who::default(), filter: Some(Arc::new("priority > 3".parse().unwrap())) };
        let mut chosen = poll_as(&hub, &polls, "a", &after(&id), lens);
        let plain = publish(&hub, "a", "no tags").await;
        assert!(timeout(Duration::from_millis(20), chosen.next()).await.is_err());
        let (answer, looked) = chosen.finish();
        assert!(answer.is_empty());
        assert_eq!(looked.to_string(), plain);
        hub.close();
    }

    #[tokio::test]
    async fn who_is_released_goes_with_what_there_is() {
        let hub = hub(1000, None);
        let polls = Arc::new(Polls::new(&hub));
        let id = publish(&hub, "x", "before").await;
        let user: UserId = "ada".parse().unwrap();
        let lens = Lens::of(Who { user: Some(user.clone()), client: None });
        let mut hers = poll_as(&hub, &polls, "a", &after(&id), lens);
        let mut others = poll(&hub, &polls, "a", &after(&id));
        assert!(timeout(Duration::from_millis(5), hers.next()).await.is_err());
        assert_eq!(polls.release(&user), 1);
        timeout(PATIENCE, hers.next()).await.unwrap().unwrap();
        assert!(hers.finish().0.is_empty());
        assert!(timeout(Duration::from_millis(5), others.next()).await.is_err());
        hub.close();
    }

    /// Whoever happens to look for all may go away at any time; nobody waits in vain for that.
    #[tokio::test(flavor = "multi_thread")]
    async fn nobody_is_forgotten() {
        let hub = hub(64, None);
        let polls = Arc::new(Polls::new(&hub));
        let mut id = publish(&hub, "x", "before").await;
        for round in 0..200 {
            let waiting: Vec<_> = (0..8)
                .map(|n| {
                    let mut poll = poll(&hub, &polls, "a", &after(&id));
                    tokio::spawn(async move {
                        if n % 2 == 0 {
                            let _ = timeout(Duration::from_micros(50 * n), poll.next()).await;
                            return None;
                        }
                        poll.next().await.unwrap();
                        Some(data(&poll.finish().0).len())
                    })
                })
                .collect();
            if round % 3 == 0 {
                tokio::time::sleep(Duration::from_micros(100)).await;
            }
            publish(&hub, "other", "x").await;
            id = publish(&hub, "a", "x").await;
            for (n, waiting) in waiting.into_iter().enumerate() {
                let found = timeout(PATIENCE, waiting).await.expect("it is woken").unwrap();
                assert_eq!(found, (n % 2 == 1).then_some(1));
            }
        }
        assert!(polls.is_empty());
        hub.close();
    }
}
