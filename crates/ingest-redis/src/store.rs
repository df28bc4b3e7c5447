//! Events into the hub, tried again as long as there is a point in it.

use tidings_hub::log::{AppendError, Terms};
use tidings_hub::{Hub, PublishError, Timestamp};
use tidings_wire::Event;
use tokio::time::Instant;

use crate::backoff::Backoff;
use crate::message::Bad;
use crate::signal::Signal;

/// Why events were not stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotStored {
    /// They never can be.
    Bad(Bad),
    /// The log could not within the time there was.
    GivenUp(&'static str),
    /// Nobody knows.
    Unknown,
    /// The right to store them is lost.
    LeaseLost,
    /// The hub was closed.
    Closed,
}

/// How long to try.
#[derive(Debug)]
pub(crate) enum Patience<'a> {
    Until(Instant),
    /// Until it is raised.
    UntilRaised(&'a Signal),
}

impl Patience<'_> {
    /// Waits before the next try; false when there is to be none.
    async fn wait(&self, backoff: &mut Backoff) -> bool {
        let time = backoff.next();
        match self {
            Patience::Until(end) if Instant::now() + time > *end => false,
            Patience::Until(_) => {
                tokio::time::sleep(time).await;
                true
            }
            Patience::UntilRaised(signal) => !signal.wait(time).await,
        }
    }
}

/// Stores events, all or none.
pub(crate) async fn store(
    hub: &Hub,
    events: &[Event],
    terms: &Terms,
    patience: Patience<'_>,
) -> Result<(), NotStored> {
    let mut backoff = Backoff::default();
    loop {
        let error = match hub.publish_with(events.to_vec(), terms.clone(), Timestamp::now()).await {
            Ok(_) => return Ok(()),
            Err(error) => error,
        };
        let why = match error {
            PublishError::TooLarge { .. } => return Err(NotStored::Bad("too large")),
            PublishError::Closed => return Err(NotStored::Closed),
            PublishError::Log(error) => match error {
                AppendError::Ended(_) => return Err(NotStored::Bad("to a channel that has ended")),
                AppendError::KeyReused => {
                    return Err(NotStored::Bad("an idempotency key that was used for something else"));
                }
                AppendError::LeaseLost => return Err(NotStored::LeaseLost),
                AppendError::Unknown(_) => return Err(NotStored::Unknown),
                AppendError::Full => "the disk is full",
                AppendError::Busy => "too much is waiting to be stored",
                AppendError::NotStored(_) => "the log did not store them",
            },
        };
        if !patience.wait(&mut backoff).await {
            return Err(NotStored::GivenUp(why));
        }
    }
}
