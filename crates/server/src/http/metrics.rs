//! `GET /metrics`: the same numbers as `/stats`, for Prometheus. No channel and no user is ever a label: there may be
//! millions of them, and who may read metrics may not always know of them.

use std::fmt;

use axum::body::Body;
use http::Response;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use super::parameters::Parameters;
use super::stats::{Ingested, Snapshot};
use super::{Call, answer};
use crate::Problem;

/// `GET /metrics`
pub(super) async fn metrics(call: Call) -> Result<Response<Body>, Problem> {
    Parameters::read(call.parts.uri.query(), &[])?;
    call.require_admin().await?;
    let mut registry = Registry::with_prefix("tidings");
    registry.register_collector(Box::new(Snapshot::take(&call.app)));
    let mut text = String::new();
    encode(&mut text, &registry).map_err(|error| Problem::internal(error.to_string()))?;
    Ok(answer::content("application/openmetrics-text; version=1.0.0; charset=utf-8", text))
}

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let out = &mut encoder;
        let Snapshot { streams, log, .. } = self;
        gauge(out, "connections", "Streams now", streams.connections as f64)?;
        gauge(out, "connections_max", "The most streams that there were at once", self.most as f64)?;
        gauge(out, "polls", "Who waits for the answer to a poll", self.polls as f64)?;
        gauge(out, "users_online", "Users with a stream, or just gone", self.users as f64)?;
        gauge(out, "nodes", "Nodes that serve this hub", self.nodes as f64)?;
        gauge(out, "connections_blocked", "Streams whose sockets take nothing now", streams.blocked as f64)?;
        let age = streams.average_age.as_secs_f64();
        gauge(out, "connections_average_age_seconds", "How long streams have been there", age)?;
        counter(out, "published", "Events that were stored or announced", self.published)?;
        counter(out, "publish_failed", "Events that the log did not take", self.failed)?;
        counter(out, "delivered", "Events written, counted for each stream", streams.delivered)?;
        counter(out, "delivered_bytes", "Bytes written to streams", streams.bytes)?;
        counter(out, "gaps", "Gaps told to streams", streams.gaps)?;
        let passed_over = "Events passed over for newer ones of the same keys, counted for each stream";
        counter(out, "skipped", passed_over, streams.skipped)?;
        counter(out, "heartbeats", "Signs of life sent to streams", streams.heartbeats)?;
        let closed = streams.closed.iter().map(|(reason, count)| (reason.as_str(), *count));
        counters(out, "closed", "Streams that ended", "reason", closed)?;
        counters(out, "refused", "Streams that were refused", "limit", self.refused.iter().copied())?;
        gauge(out, "log_events", "Events kept", log.records as f64)?;
        gauge(out, "log_bytes", "Bytes of data kept", log.bytes as f64)?;
        gauge(out, "log_channels", "Channels of which something is kept", log.channels as f64)?;
        counter(out, "log_commits", "Group commits", log.commits)?;
        counter(out, "log_syncs", "Syncs to the disk", log.syncs)?;
        let trouble = if log.trouble.is_some() { 1.0 } else { 0.0 };
        gauge(out, "log_trouble", "1 while nothing can be stored", trouble)?;
        let ingested =
            |count: fn(&Ingested) -> u64| self.ingest.iter().map(move |(name, all)| (*name, count(all)));
        if !self.ingest.is_empty() {
            counters(
                out,
                "ingest_received",
                "Messages from elsewhere",
                "source",
                ingested(|all| all.received),
            )?;
            counters(out, "ingest_stored", "Those that were stored", "source", ingested(|all| all.stored))?;
            counters(out, "ingest_bad", "Those that can't be published", "source", ingested(|all| all.bad))?;
            counters(out, "ingest_lost", "Those not stored in time", "source", ingested(|all| all.lost))?;
            let reading = ingested(|all| all.reading);
            gauges(out, "ingest_reading", "Sources that this node reads now", "source", reading)?;
        }
        gauge(out, "uptime_seconds", "Since the server started", self.uptime.as_secs_f64())?;
        gauge(out, "draining", "1 while the server is stopping", if self.draining { 1.0 } else { 0.0 })
    }
}

fn gauge(out: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: f64) -> fmt::Result {
    ConstGauge::new(value).encode(out.encode_descriptor(name, help, None, MetricType::Gauge)?)
}

fn counter(out: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: u64) -> fmt::Result {
    ConstCounter::new(value).encode(out.encode_descriptor(name, help, None, MetricType::Counter)?)
}

/// One gauge with a label whose values are few and known.
fn gauges(
    out: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    label: &str,
    values: impl Iterator<Item = (&'static str, u64)>,
) -> fmt::Result {
    let mut family = out.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (value, count) in values {
        ConstGauge::new(count as f64).encode(family.encode_family(&[(label, value)])?)?;
    }
    Ok(())
}

/// One counter with a label whose values are few and known.
fn counters(
    out: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    label: &str,
    values: impl Iterator<Item = (&'static str, u64)>,
) -> fmt::Result {
    let mut family = out.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (value, count) in values {
        ConstCounter::new(count).encode(family.encode_family(&[(label, value)])?)?;
    }
    Ok(())
}
