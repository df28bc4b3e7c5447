//! The thread that says what changed: a few times a second, in no hurry.

use std::collections::BTreeMap;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;
use std::{io, thread};

use tidings_hub::{Hub, Timestamp};

use super::record::Recorder;
use super::text::Notice;
use super::{Doorkeeper, said};
use crate::cluster::{Cluster, Telling};

/// How often it looks. A join is said so much later at most.
const EVERY: Duration = Duration::from_millis(200);

/// The running thread. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Rounds {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Rounds {
    /// Begins. `tell` hands notices to a worker.
    pub(crate) fn start(
        door: Arc<Doorkeeper>,
        hub: Hub,
        online_events: bool,
        cluster: Arc<OnceLock<Arc<Cluster>>>,
        tell: impl Fn(usize, Vec<Arc<Notice>>) + Send + 'static,
    ) -> io::Result<Rounds> {
        let (stop, stopped) = channel::<()>();
        let mut recorder = Recorder::new(hub.clone(), online_events);
        let mut telling = Telling::default();
        let thread = thread::Builder::new().name("presence".to_owned()).spawn(move || {
            while stopped.recv_timeout(EVERY) == Err(RecvTimeoutError::Timeout) {
                let now = Timestamp::now();
                let ticked = door.tick(now);
                if ticked.take_over && online_events {
                    match said(&hub) {
                        Ok(users) => door.take_over(&users, now),
                        Err(error) => {
                            tracing::warn!(%error, "who was said to be online can't be read; some may stay so");
                        }
                    }
                }
                let mut notices = BTreeMap::<usize, Vec<Arc<Notice>>>::new();
                for digest in &ticked.digests {
                    let notice = Arc::new(Notice::new(digest));
                    for worker in &digest.parts {
                        notices.entry(*worker).or_default().push(notice.clone());
                    }
                }
                notices.into_iter().for_each(|(worker, notices)| tell(worker, notices));
                recorder.advance(ticked.transitions);
                if let Some(cluster) = cluster.get() {
                    cluster.round(&door, &mut telling, now);
                }
            }
        })?;
        Ok(Rounds { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Rounds {
    fn drop(&mut self) {
        drop(self.stop.take());
        // An error says that it panicked, which was printed then.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}
