//! What a client process is told, and what it says.

use std::net::{Ipv4Addr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::scan::Violations;
use crate::target::{Cursor, Transport};

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Order {
    /// Connect subscribers; answered with `Connected` once each has its first bytes, or with `Failed`.
    Connect(Box<Connect>),
    /// Count from here on; answered with `Begun`. `timeline`: and remember when each event was due that is checked.
    Begin { timeline: bool },
    /// Say, unasked, how many events the average subscriber of the first group has, or stop that. Not answered.
    Watch(bool),
    /// Answered with `Status`.
    Status,
    /// So many events were published in each channel since `Begin`; answered with `Collected`. The latencies of events
    /// that were due in each `span`, from a moment until before another, are told apart.
    Collect { published: Vec<u64>, spans: Vec<(u64, u64)> },
    /// The subscribers of a group read no more; answered with `Begun`.
    Stall { group: usize },
}

/// Subscribers to connect.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Connect {
    /// Whose counts and latencies are added up together.
    pub(crate) group: usize,
    pub(crate) address: SocketAddr,
    /// Where they come from, as one address has no more than 28,000 ports.
    pub(crate) source: Option<Ipv4Addr>,
    pub(crate) transport: Transport,
    pub(crate) mark: String,
    /// One in so many reads every event, spread evenly; the others count. 0: none.
    pub(crate) check_every: usize,
    /// So many may wait for their first bytes at once.
    pub(crate) in_flight: usize,
    pub(crate) wires: Vec<Wire>,
}

/// Subscribers that all ask for the same.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Wire {
    pub(crate) count: usize,
    /// The channels' numbers.
    pub(crate) channels: Vec<u32>,
    pub(crate) host: String,
    pub(crate) path: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) hello: Option<String>,
    pub(crate) cursor: Vec<Cursor>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Report {
    Connected {
        /// How many.
        count: u64,
        /// From the first one's call to the last one's first bytes.
        micros: u64,
        /// From a subscriber's call to its first bytes, like a group's latencies.
        latencies: Vec<(u64, u64)>,
    },
    Begun,
    Progress(u64),
    Status {
        /// Events that all subscribers of each group have.
        counted: Vec<u64>,
        /// Streams of each group that the server closed.
        closed: Vec<u64>,
    },
    Collected {
        groups: Vec<GroupReport>,
        /// Seconds of CPU since the process began.
        cpu: f64,
    },
    Failed {
        what: String,
    },
}

/// What a group of subscribers got since `Begin`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct GroupReport {
    pub(crate) subscribers: u64,
    pub(crate) checking: u64,
    /// Events, of all subscribers.
    pub(crate) counted: u64,
    pub(crate) bytes: u64,
    /// Latencies in microseconds and how often each was, of those that check.
    pub(crate) latencies: Vec<(u64, u64)>,
    /// The same of each span that was asked for.
    pub(crate) spans: Vec<Vec<(u64, u64)>>,
    pub(crate) violations: Violations,
    /// Streams that the server closed.
    pub(crate) closed: u64,
    /// Subscribers that lack something.
    pub(crate) lacking: u64,
    /// Events that subscribers lack.
    pub(crate) missing: u64,
    /// Events that subscribers have beyond what was published.
    pub(crate) excess: u64,
}
