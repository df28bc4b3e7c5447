//! Whoever has the right to read a source reads it, as long as it lasts and Redis is there.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use redis::{ErrorKind, RedisError, ServerErrorKind};
use tidings_hub::log::Holder;
use tidings_hub::{Hub, SourceStats};
use tracing::{debug, warn};

use crate::IngestConfig;
use crate::backoff::Backoff;
use crate::right::Right;
use crate::signal::Signal;

/// What a source needs to be read with.
#[derive(Debug)]
pub(crate) struct Reader {
    pub(crate) hub: Hub,
    pub(crate) config: IngestConfig,
    pub(crate) holder: Holder,
    pub(crate) stats: Arc<SourceStats>,
    /// Raised when it is time to end.
    pub(crate) stop: Signal,
}

/// Something that one node at a time reads.
pub(crate) trait Source: Send + 'static {
    /// The name of the right to it, the same on all nodes.
    fn right(&self) -> String;

    /// Connects and reads until something ends it. `well` is to be called once it goes well.
    fn read(
        &mut self,
        reader: &Reader,
        right: &Right,
        well: &mut (dyn FnMut() + Send),
    ) -> impl Future<Output = Ended> + Send;
}

/// Why a source is not read on.
#[derive(Debug)]
pub(crate) enum Ended {
    /// It is time to end.
    Stopped,
    /// The right is another's.
    Lost,
    /// Something that may be well again later.
    Failed(String),
}

impl From<RedisError> for Ended {
    fn from(error: RedisError) -> Ended {
        match error.code() {
            Some("NOAUTH") => Ended::Failed("Redis says NOAUTH: put a password into redis.url".to_owned()),
            _ => Ended::Failed(error.to_string()),
        }
    }
}

impl Ended {
    /// Redis does not say what its user may not have. `rights`: what it needs; `setting`: where it was asked for.
    pub(crate) fn lacks(error: RedisError, rights: &str, setting: &str) -> Ended {
        match error.kind() {
            ErrorKind::Server(ServerErrorKind::NoPerm) => Ended::Failed(format!(
                "Redis says NOPERM: its user needs {rights} (ACL SETUSER), or take it out of {setting}"
            )),
            _ => error.into(),
        }
    }
}

impl Reader {
    /// Reads a source until it is time to end.
    pub(crate) async fn run(self, mut source: impl Source) {
        let name = source.right();
        let log = self.hub.log();
        let mut backoff = Backoff::default();
        loop {
            let asking = Right::take(log, &name, self.holder, self.config.lease, &self.stop);
            let Some(right) = asking.await else { return };
            let reading = Counted::new(&self.stats.reading);
            let ended = source.read(&self, &right, &mut || backoff.reset()).await;
            drop(reading);
            // Where Redis is out of reach for this node it may not be for another.
            right.give_back(log).await;
            match ended {
                Ended::Stopped => return,
                Ended::Lost => warn!(right = name, "another node reads it now"),
                Ended::Failed(error) => {
                    warn!(right = name, redis = %self.config.redis, error, "not read; trying again");
                }
            }
            let wait = backoff.next();
            debug!(?wait, "before the next try");
            if self.stop.wait(wait).await {
                return;
            }
        }
    }
}

/// One more, for as long as it lives.
struct Counted<'a>(&'a AtomicU64);

impl<'a> Counted<'a> {
    fn new(count: &'a AtomicU64) -> Counted<'a> {
        count.fetch_add(1, Ordering::Relaxed);
        Counted(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
