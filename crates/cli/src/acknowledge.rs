//! Acknowledges to a durable subscription what was printed, beside the reading.

use std::time::Duration;

use tidings::client::{Client, Error};
use tokio::sync::watch;
use tokio::time::sleep;

/// How long a server that can't acknowledge now is left alone.
const PAUSE: Duration = Duration::from_secs(1);

/// Acknowledges up to the newest id that was printed, until nothing more is. One request at a time: while it is answered
/// more may be printed, and the next one is for all of that.
pub(crate) async fn acknowledge(
    client: &Client,
    subscription: &str,
    mut printed: watch::Receiver<String>,
) -> Result<(), Error> {
    while printed.changed().await.is_ok() {
        let id = printed.borrow_and_update().clone();
        match client.acknowledge(subscription, &id).await {
            Ok(_) => {}
            Err(Error::NoAnswer(_) | Error::Failed(_)) if printed.has_changed().is_ok() => {
                sleep(PAUSE).await;
                printed.mark_changed();
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
