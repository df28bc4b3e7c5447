//! The right to read a source: a lease of the log, renewed for as long as it is wanted.

use std::sync::Arc;
use std::time::Duration;

use tidings_hub::log::{Holder, Lease, Log};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tracing::warn;

use crate::signal::Signal;

/// How long it may take to give a lease back. It ends by itself if that fails.
const GIVING_BACK: Duration = Duration::from_secs(2);

/// A right that was given, until it is lost or given back.
#[derive(Debug)]
pub(crate) struct Right {
    lease: Lease,
    renewing: JoinHandle<()>,
    lost: Signal,
    done: Signal,
}

impl Right {
    /// Asks for a right until it is given. `None` when it is time to end.
    pub(crate) async fn take(
        log: &Arc<dyn Log>,
        name: &str,
        holder: Holder,
        for_: Duration,
        stop: &Signal,
    ) -> Option<Right> {
        let mut told = None;
        while !stop.is_raised() {
            let asked = Instant::now();
            match timeout(for_, log.lease(name, holder, for_)).await {
                Ok(Ok(Some(lease))) => return Some(Right::renewed(log.clone(), lease, asked, for_)),
                Ok(Ok(None)) => told = None,
                Ok(Err(error)) => {
                    let error = error.to_string();
                    if told.as_ref() != Some(&error) {
                        warn!(name, error, "the log gives no lease; trying again");
                    }
                    told = Some(error);
                }
                Err(_) => {}
            }
            stop.wait(for_ / 3).await;
        }
        None
    }

    /// `asked`: when the lease was asked for; it lasts at least so long from then on.
    fn renewed(log: Arc<dyn Log>, lease: Lease, asked: Instant, for_: Duration) -> Right {
        let (lost, done) = (Signal::default(), Signal::default());
        let renewing = Renewing { log, lease: lease.clone(), for_, until: asked + for_, done: done.clone() };
        let renewing = tokio::spawn({
            let lost = lost.clone();
            async move {
                renewing.run().await;
                lost.raise();
            }
        });
        Right { lease, renewing, lost, done }
    }

    pub(crate) fn lease(&self) -> &Lease {
        &self.lease
    }

    /// Completes once the right may be another's.
    pub(crate) async fn lost(&self) {
        self.lost.raised().await;
    }

    /// Lets the next one have it at once.
    pub(crate) async fn give_back(mut self, log: &Arc<dyn Log>) {
        // First nothing more is asked for: a renewal that comes after this would take it anew.
        self.done.raise();
        let ended = timeout(GIVING_BACK, &mut self.renewing).await;
        if ended.is_ok() {
            let giving = log.lease(&self.lease.name, self.lease.holder, Duration::ZERO);
            let _ = timeout(GIVING_BACK, giving).await;
        }
    }
}

impl Drop for Right {
    fn drop(&mut self) {
        self.renewing.abort();
    }
}

/// What goes on beside the reading.
struct Renewing {
    log: Arc<dyn Log>,
    lease: Lease,
    for_: Duration,
    /// Until when it is sure to last.
    until: Instant,
    done: Signal,
}

impl Renewing {
    /// Ends when the lease has, or is not wanted any more.
    async fn run(mut self) {
        while !self.done.wait(self.for_ / 3).await {
            loop {
                let asked = Instant::now();
                let asking = self.log.lease(&self.lease.name, self.lease.holder, self.for_);
                match timeout_at(self.until, asking).await {
                    Ok(Ok(Some(lease))) if lease == self.lease => self.until = asked + self.for_,
                    Ok(Ok(_)) | Err(_) => return,
                    Ok(Err(_)) if Instant::now() >= self.until => return,
                    Ok(Err(_)) => {
                        sleep(self.for_ / 30).await;
                        continue;
                    }
                }
                break;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tidings_hub::log::{MemoryLog, MemoryLogConfig, Retention};
    use tidings_wire::Epoch;

    use super::*;

    const FOR: Duration = Duration::from_millis(300);
    const PATIENCE: Duration = Duration::from_secs(60);

    fn log() -> Arc<dyn Log> {
        Arc::new(MemoryLog::new(MemoryLogConfig { epoch: Epoch(1), retention: Retention::default() }))
    }

    async fn take(log: &Arc<dyn Log>, holder: u8) -> Option<Right> {
        timeout(PATIENCE, Right::take(log, "a", Holder([holder; 16]), FOR, &Signal::default())).await.unwrap()
    }

    #[tokio::test]
    async fn it_is_kept_until_it_is_given_back() {
        let log = log();
        let first = take(&log, 1).await.unwrap();
        let next = tokio::spawn({
            let log = log.clone();
            async move { take(&log, 2).await.unwrap() }
        });
        sleep(FOR * 4).await;
        assert!(!next.is_finished() && !first.lost.is_raised());
        let number = first.lease().number;
        first.give_back(&log).await;
        let next = timeout(PATIENCE, next).await.unwrap().unwrap();
        assert!(next.lease().number > number);
    }

    #[tokio::test]
    async fn whoever_stops_renewing_is_replaced() {
        let log = log();
        let first = take(&log, 1).await.unwrap();
        first.renewing.abort();
        let next = take(&log, 2).await.unwrap();
        assert!(next.lease().number > first.lease().number);
    }

    #[tokio::test]
    async fn a_right_that_another_has_is_lost() {
        let log = log();
        let first = take(&log, 1).await.unwrap();
        // As if this process had slept for too long.
        log.lease("a", Holder([1; 16]), Duration::ZERO).await.unwrap();
        let next = take(&log, 2).await.unwrap();
        timeout(PATIENCE, first.lost()).await.unwrap();
        assert!(!next.lost.is_raised());
    }

    #[tokio::test]
    async fn who_is_to_end_does_not_wait() {
        let log = log();
        let _first = take(&log, 1).await.unwrap();
        let stop = Signal::default();
        let next = tokio::spawn({
            let (log, stop) = (log.clone(), stop.clone());
            async move { Right::take(&log, "a", Holder([2; 16]), PATIENCE, &stop).await.is_none() }
        });
        stop.raise();
        assert!(timeout(PATIENCE / 2, next).await.unwrap().unwrap());
    }
}
