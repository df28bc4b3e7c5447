//! `$stats`: what `GET /stats` says, each second, for who follows it.
//!
//! It is ephemeral, and nothing is published while nobody follows it: what a node did in some second of last week is not
//! what a log is for, and a node that nobody looks at writes nothing by itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tidings_hub::View;
use tidings_wire::{Channel, Data, Event, EventType};
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use crate::{App, http};

/// How often it is said.
const EVERY: Duration = Duration::from_secs(1);
/// The type of its events, and their key: who is behind gets the newest.
const NAME: &str = "stats";

/// Whether that is said already.
#[derive(Debug, Default)]
pub(crate) struct StatsChannel(AtomicBool);

impl StatsChannel {
    /// Somebody is about to follow these views. If that is the first one of this server who follows `$stats`, it begins,
    /// and looks from then on whether somebody does.
    pub(crate) fn followed(app: &Arc<App>, views: &[View]) {
        let mine = View::from(Channel::stats());
        if !views.contains(&mine) || app.stats_channel.0.swap(true, Ordering::Relaxed) {
            return;
        }
        let app = Arc::downgrade(app);
        tokio::spawn(async move {
            let mut ticks = interval_at(Instant::now() + EVERY, EVERY);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                let Some(app) = app.upgrade().filter(|app| !app.is_draining()) else { return };
                app.tell_stats(&mine).await;
            }
        });
    }
}

impl App {
    async fn tell_stats(&self, view: &View) {
        let views = std::slice::from_ref(view);
        let streams = match self.workers() {
            Some(workers) => workers.follows(views).await,
            None => false,
        };
        if !streams && !self.polls.follows(views) {
            return;
        }
        let Ok(document) = http::stats_document(self) else { return };
        let event = Event {
            // Letters are a good type, and a good key.
            event: NAME.parse().unwrap_or_else(|_| EventType::default()),
            key: NAME.parse().ok(),
            store: false,
            ..Event::to(Channel::stats(), Data::Json(document.into()))
        };
        if let Err(error) = self.hub.publish(event).await {
            tracing::debug!(%error, "what this node does can't be published just now");
        }
    }
}
