//! `GET /stats`: what this node does and did.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::body::Body;
use http::Response;
use serde::Serialize;
use tidings_hub::log::LogStats;
use tidings_hub::{SourceStats, Timestamp};

use super::parameters::Parameters;
use super::{Call, answer};
use crate::{App, Problem, StreamStats};

/// `GET /stats`
pub(super) async fn stats(call: Call) -> Result<Response<Body>, Problem> {
    Parameters::read(call.parts.uri.query(), &[])?;
    call.require_admin().await?;
    answer::document(&Stats::of(&Snapshot::take(&call.app)))
}

/// The same as text, for the channel `$stats`.
pub(crate) fn document(app: &App) -> serde_json::Result<String> {
    serde_json::to_string(&Stats::of(&Snapshot::take(app)))
}

/// Everything that is counted, at one moment. What `/stats` says as JSON, `/metrics` says for Prometheus.
#[derive(Debug)]
pub(super) struct Snapshot {
    pub(super) streams: StreamStats,
    /// The most streams that there were at once.
    pub(super) most: usize,
    /// Who waits for the answer to a poll.
    pub(super) polls: usize,
    /// Users who are there, on all nodes.
    pub(super) users: usize,
    /// Nodes that serve this hub, as far as this one knows.
    pub(super) nodes: usize,
    /// Streams that were refused, by limit.
    pub(super) refused: Vec<(&'static str, u64)>,
    pub(super) published: u64,
    pub(super) failed: u64,
    pub(super) log: LogStats,
    pub(super) sync: String,
    /// What comes into the hub from elsewhere.
    pub(super) ingest: Vec<(&'static str, Ingested)>,
    pub(super) uptime: Duration,
    pub(super) draining: bool,
}

/// What came from one kind of source.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Ingested {
    pub(super) received: u64,
    pub(super) stored: u64,
    /// Nothing that can be published.
    pub(super) bad: u64,
    /// Not stored in time.
    pub(super) lost: u64,
    /// How many of these sources this node reads now.
    pub(super) reading: u64,
}

impl Ingested {
    fn of(stats: &SourceStats) -> Ingested {
        let SourceStats { received, stored, bad, lost, reading } = stats;
        Ingested {
            received: received.load(Ordering::Relaxed),
            stored: stored.load(Ordering::Relaxed),
            bad: bad.load(Ordering::Relaxed),
            lost: lost.load(Ordering::Relaxed),
            reading: reading.load(Ordering::Relaxed),
        }
    }
}

impl Snapshot {
    pub(super) fn take(app: &App) -> Snapshot {
        let hub = app.hub.stats();
        Snapshot {
            streams: app.workers().map(|workers| workers.stats(Timestamp::now())).unwrap_or_default(),
            most: app.limits.most(),
            polls: app.polls.len(),
            users: app.workers().map_or(0, |workers| workers.door().online()),
            nodes: 1 + app.cluster().map_or(0, |cluster| cluster.peers()),
            refused: app
                .limits
                .refused()
                .into_iter()
                .map(|(limit, count)| (limit.as_str(), u64::from(count)))
                .collect(),
            published: hub.published.load(Ordering::Relaxed),
            failed: hub.failed.load(Ordering::Relaxed),
            log: app.hub.log().stats(),
            sync: app.hub.log().durability().to_string(),
            ingest: app.sources.iter().map(|(name, stats)| (*name, Ingested::of(stats))).collect(),
            uptime: app.started.elapsed(),
            draining: app.is_draining(),
        }
    }
}

#[derive(Serialize)]
struct Stats<'a> {
    connections: u64,
    max_connections: usize,
    /// Who waits for the answer to a poll, which is no connection.
    polls: usize,
    /// Users with a stream, those in their grace time among them.
    users_online: usize,
    nodes: usize,
    average_age_seconds: f64,
    /// Streams whose sockets take nothing just now.
    blocked: u64,
    published: u64,
    failed: u64,
    delivered: u64,
    delivered_bytes: u64,
    /// How often a stream was told that it lost something.
    dropped: u64,
    /// Events passed over, of which newer ones with the same keys came, counted for each stream.
    skipped: u64,
    heartbeats: u64,
    closed: BTreeMap<&'static str, u64>,
    refused: BTreeMap<&'static str, u64>,
    workers: Vec<Worker>,
    log: Log<'a>,
    /// By the kind of source; not there when none is configured.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    ingest: BTreeMap<&'static str, Ingested>,
    uptime_seconds: f64,
    draining: bool,
}

#[derive(Serialize)]
struct Worker {
    connections: u64,
    delivered: u64,
    delivered_bytes: u64,
}

#[derive(Serialize)]
struct Log<'a> {
    events: u64,
    bytes: u64,
    channels: u64,
    commits: u64,
    syncs: u64,
    sync: &'a str,
    /// Why nothing can be stored just now.
    trouble: Option<&'a str>,
}

impl<'a> Stats<'a> {
    fn of(snapshot: &'a Snapshot) -> Stats<'a> {
        let Snapshot { streams, log, .. } = snapshot;
        let worker = |worker: &crate::WorkerStats| Worker {
            connections: worker.connections,
            delivered: worker.delivered,
            delivered_bytes: worker.bytes,
        };
        Stats {
            connections: streams.connections,
            max_connections: snapshot.most,
            polls: snapshot.polls,
            users_online: snapshot.users,
            nodes: snapshot.nodes,
            average_age_seconds: streams.average_age.as_secs_f64(),
            blocked: streams.blocked,
            published: snapshot.published,
            failed: snapshot.failed,
            delivered: streams.delivered,
            delivered_bytes: streams.bytes,
            dropped: streams.gaps,
            skipped: streams.skipped,
            heartbeats: streams.heartbeats,
            closed: streams.closed.iter().map(|(reason, count)| (reason.as_str(), *count)).collect(),
            refused: snapshot.refused.iter().copied().collect(),
            workers: streams.workers.iter().map(worker).collect(),
            log: Log {
                events: log.records,
                bytes: log.bytes,
                channels: log.channels,
                commits: log.commits,
                syncs: log.syncs,
                sync: &snapshot.sync,
                trouble: log.trouble.as_deref(),
            },
            ingest: snapshot.ingest.iter().cloned().collect(),
            uptime_seconds: snapshot.uptime.as_secs_f64(),
            draining: snapshot.draining,
        }
    }
}
