//! Redis Pub/Sub: at most once, as Redis has it. What is published while nobody reads is gone.

use std::future::poll_fn;
use std::pin::Pin;
use std::time::Duration;

use futures_core::Stream;
use redis::aio::{PubSubSink, PubSubStream};
use redis::{RedisError, RedisResult};
use tidings_hub::log::Terms;
use tidings_hub::{Hub, Timestamp};
use tidings_wire::Event;
use tokio::task::unconstrained;
use tokio::time::{Instant, sleep, timeout};
use tracing::info;

use crate::books::Books;
use crate::message::{self, Message};
use crate::queue::{Queue, Received};
use crate::reader::{Ended, Reader, Source};
use crate::right::Right;
use crate::store::{NotStored, Patience, store};
use crate::{IngestConfig, Topic};

/// How long a connection may take until it is subscribed, and an answer until it is given up.
const ANSWER: Duration = Duration::from_secs(10);
/// How often a silent connection is asked whether it is there.
const PING: Duration = Duration::from_secs(10);
/// How many messages are stored together at most.
const TOGETHER: usize = 500;
/// How many bytes of them.
const TOGETHER_BYTES: usize = 1 << 20;

/// All topics, on one connection.
#[derive(Debug, Default)]
pub(crate) struct PubSub;

impl Source for PubSub {
    fn right(&self) -> String {
        "ingest/redis/pubsub".to_owned()
    }

    async fn read(&mut self, reader: &Reader, right: &Right, well: &mut (dyn FnMut() + Send)) -> Ended {
        let Reader { hub, config, stats, .. } = reader;
        let (mut sink, mut stream) = match timeout(ANSWER, subscribe(config)).await {
            Ok(Ok(subscribed)) => subscribed,
            Ok(Err(ended)) => return ended,
            Err(_) => return Ended::Failed("no connection in time".to_owned()),
        };
        info!(redis = %config.redis, topics = config.topics.len(), "following Pub/Sub");
        well();
        let books = Books::new(stats, "Redis Pub/Sub");
        let queue = Queue::new(config.queue);
        let receiving = async {
            let receive = Receive { stream: &mut stream, queue: &queue, books: &books, config };
            let ended = receive.run(&mut sink, reader, right).await;
            // What was received is stored still.
            queue.close();
            Ok(ended)
        };
        let storing = Storing { hub, config, right, books: &books }.run(&queue);
        let ended = tokio::try_join!(receiving, storing);
        books.lost("the right to store them was lost", queue.len() as u64);
        match ended {
            Ok((ended, ())) | Err(ended) => ended,
        }
    }
}

async fn subscribe(config: &IngestConfig) -> Result<(PubSubSink, PubSubStream), Ended> {
    let (mut sink, stream) =
        config.redis.client(config.authority.as_deref()).await?.get_async_pubsub().await?.split();
    let (channels, patterns) = topics(config);
    if !channels.is_empty() {
        sink.subscribe(&channels).await.map_err(|error| lacks(error, "+subscribe", &channels))?;
    }
    if !patterns.is_empty() {
        sink.psubscribe(&patterns).await.map_err(|error| lacks(error, "+psubscribe", &patterns))?;
    }
    Ok((sink, stream))
}

fn lacks(error: RedisError, command: &str, topics: &[&str]) -> Ended {
    Ended::lacks(error, &format!("{command} &{}", topics.join(" &")), "redis.ingest")
}

async fn unsubscribe(sink: &mut PubSubSink, config: &IngestConfig) -> RedisResult<()> {
    let (channels, patterns) = topics(config);
    if !channels.is_empty() {
        sink.unsubscribe(&channels).await?;
    }
    if !patterns.is_empty() {
        sink.punsubscribe(&patterns).await?;
    }
    Ok(())
}

/// Channels, and patterns.
fn topics(config: &IngestConfig) -> (Vec<&str>, Vec<&str>) {
    let (mut channels, mut patterns) = (Vec::new(), Vec::new());
    for topic in &config.topics {
        match topic {
            Topic::Channel(name) => channels.push(name.as_str()),
            Topic::Pattern(pattern) => patterns.push(pattern.as_str()),
        }
    }
    (channels, patterns)
}

/// From the connection into the queue. Always on: a Redis whose messages are not read drops the whole connection, and
/// nobody could say how many were lost.
struct Receive<'a> {
    stream: &'a mut PubSubStream,
    queue: &'a Queue,
    books: &'a Books<'a>,
    config: &'a IngestConfig,
}

impl Receive<'_> {
    async fn run(mut self, sink: &mut PubSubSink, reader: &Reader, right: &Right) -> Ended {
        let books = self.books;
        let ended = tokio::select! {
            () = self.all() => Ended::Failed("the connection has ended".to_owned()),
            error = watch(sink, books) => Ended::Failed(error),
            () = right.lost() => Ended::Lost,
            () = reader.stop.raised() => Ended::Stopped,
        };
        if let Ended::Stopped = ended {
            // What Redis has sent before it answers comes before its answer.
            let _ = timeout(ANSWER, unsubscribe(sink, self.config)).await;
            // All of it, not only as much as a task usually does in one turn.
            let _ = timeout(Duration::ZERO, unconstrained(self.all())).await;
        }
        ended
    }

    /// Until the connection ends.
    async fn all(&mut self) {
        while let Some(message) = poll_fn(|cx| Pin::new(&mut *self.stream).poll_next(cx)).await {
            self.books.received(1);
            let payload = message.get_payload_bytes();
            if payload.len() > self.config.message {
                self.books.bad("too long", 1);
            } else if !self.queue.push(Received { at: Instant::now(), payload: payload.to_vec() }) {
                self.books.lost("too many were waiting to be stored", 1);
            }
        }
    }
}

/// Asks now and then whether Redis is there. Ends when it is not.
async fn watch(sink: &mut PubSubSink, books: &Books<'_>) -> String {
    loop {
        sleep(PING).await;
        books.tell();
        match timeout(ANSWER, sink.ping::<redis::Value>()).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return error.to_string(),
            Err(_) => return "Redis does not answer".to_owned(),
        }
    }
}

/// From the queue into the log.
struct Storing<'a> {
    hub: &'a Hub,
    config: &'a IngestConfig,
    right: &'a Right,
    books: &'a Books<'a>,
}

/// Messages that are stored together.
#[derive(Default)]
struct Batch {
    /// The events of each.
    messages: Vec<Vec<Event>>,
}

impl Storing<'_> {
    async fn run(self, queue: &Queue) -> Result<(), Ended> {
        while let Some(received) = queue.take(TOGETHER, TOGETHER_BYTES).await {
            let mut left = received.len() as u64;
            let result = self.all(received, &mut left).await;
            if let Err(ended) = result {
                self.books.lost("the right to store them was lost", left);
                return Err(ended);
            }
        }
        Ok(())
    }

    /// `left`: how many of them are not in the books yet.
    async fn all(&self, received: Vec<Received>, left: &mut u64) -> Result<(), Ended> {
        let Some(until) = received.first().map(|first| first.at + self.config.patience) else {
            return Ok(());
        };
        let mut batch = Batch::default();
        for Received { payload, .. } in received {
            match Message::of_json(&payload, &self.config.rules) {
                Ok(Message { events, key: None }) => batch.messages.push(events),
                Ok(Message { events, key: Some(key) }) => {
                    self.flush(&mut batch, until, left).await?;
                    let once = message::once(&key, [&*payload].into_iter(), Timestamp::now());
                    let terms = Terms { once: Some(once), ..self.terms() };
                    self.one(&events, &terms, until, left).await?;
                }
                Err(why) => {
                    self.books.bad(why, 1);
                    *left -= 1;
                }
            }
        }
        self.flush(&mut batch, until, left).await
    }

    fn terms(&self) -> Terms {
        Terms { lease: Some(self.right.lease().clone()), ..Terms::default() }
    }

    /// Stores what is in a batch, and one by one if not all of it can be.
    async fn flush(&self, batch: &mut Batch, until: Instant, left: &mut u64) -> Result<(), Ended> {
        let messages = std::mem::take(&mut batch.messages);
        let terms = self.terms();
        match &messages[..] {
            [] => Ok(()),
            [one] => self.one(one, &terms, until, left).await,
            all => {
                let events = all.concat();
                match store(self.hub, &events, &terms, Patience::Until(until)).await {
                    Err(NotStored::Bad(_)) => {
                        for one in all {
                            self.one(one, &terms, until, left).await?;
                        }
                        Ok(())
                    }
                    result => self.enter(result, all.len() as u64, left),
                }
            }
        }
    }

    async fn one(
        &self,
        events: &[Event],
        terms: &Terms,
        until: Instant,
        left: &mut u64,
    ) -> Result<(), Ended> {
        let result = store(self.hub, events, terms, Patience::Until(until)).await;
        self.enter(result, 1, left)
    }

    /// Into the books.
    fn enter(&self, result: Result<(), NotStored>, count: u64, left: &mut u64) -> Result<(), Ended> {
        match result {
            Ok(()) => self.books.stored(count),
            Err(NotStored::Bad(why)) => self.books.bad(why, count),
            Err(NotStored::GivenUp(why)) => self.books.lost(why, count),
            Err(NotStored::Unknown) => self.books.lost("it is not known whether they were stored", count),
            Err(NotStored::LeaseLost) => return Err(Ended::Lost),
            Err(NotStored::Closed) => return Err(Ended::Stopped),
        }
        *left -= count;
        Ok(())
    }
}
