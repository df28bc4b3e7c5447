//! Events from Redis: what any service says with `PUBLISH` or `XADD` reaches the people who are looking.
//!
//! However many nodes share a log, each message is stored once: one node at a time has the right to read, by a lease of
//! the log that each append is checked against. Pub/Sub is as sure as Redis makes it (at most once); from a stream
//! every entry is stored exactly once, as how far was read is stored in the same step.

mod address;
mod backoff;
mod books;
mod config;
mod message;
mod pubsub;
mod queue;
mod reader;
mod right;
mod signal;
mod store;
mod stream;
mod tally;

use std::sync::Arc;

use tidings_hub::log::Holder;
use tidings_hub::{Hub, SourceStats};
use tokio::task::JoinHandle;

pub use address::{BadRedisUrl, RedisUrl};
pub use config::{BadTopic, IngestConfig, StreamName, Topic};

use pubsub::PubSub;
use reader::Reader;
use signal::Signal;
use stream::Stream;

/// Reads from Redis until it is stopped. Dropped, it ends at once, as if its process had been killed.
#[derive(Debug)]
pub struct Ingest {
    sources: Vec<(&'static str, Arc<SourceStats>)>,
    stop: Signal,
    readers: Vec<JoinHandle<()>>,
}

impl Ingest {
    /// Begins to read, on the tokio runtime that this is called on.
    ///
    /// # Errors
    /// When the system has no random bytes.
    pub fn start(hub: &Hub, config: &IngestConfig) -> Result<Ingest, getrandom::Error> {
        let mut holder = Holder::default();
        getrandom::fill(&mut holder.0)?;
        let stop = Signal::default();
        let reader = |stats: &Arc<SourceStats>| Reader {
            hub: hub.clone(),
            config: config.clone(),
            holder,
            stats: stats.clone(),
            stop: stop.clone(),
        };
        let (mut sources, mut readers) = (Vec::new(), Vec::new());
        if !config.topics.is_empty() {
            let stats = Arc::new(SourceStats::default());
            readers.push(tokio::spawn(reader(&stats).run(PubSub)));
            sources.push(("redis_pubsub", stats));
        }
        if !config.streams.is_empty() {
            let stats = Arc::new(SourceStats::default());
            for name in &config.streams {
                readers.push(tokio::spawn(reader(&stats).run(Stream::new(name.clone()))));
            }
            sources.push(("redis_streams", stats));
        }
        Ok(Ingest { sources, stop, readers })
    }

    /// What was read, by the kind of source: `redis_pubsub`, `redis_streams`.
    pub fn sources(&self) -> &[(&'static str, Arc<SourceStats>)] {
        &self.sources
    }

    /// Stops reading, stores what was received, and gives the right to read to whoever wants it next.
    pub async fn stop(mut self) {
        self.stop.raise();
        for reader in std::mem::take(&mut self.readers) {
            // One that panicked has said so.
            let _ = reader.await;
        }
    }
}

impl Drop for Ingest {
    fn drop(&mut self) {
        self.readers.iter().for_each(JoinHandle::abort);
    }
}
