//! What is known of the nodes of a Redis Cluster, so that not all hangs on the one that the URL names.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redis::{Connection, Value, cmd};

/// Where a node is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl Address {
    /// As a node says it, `HOST:PORT`. Without a host it means its own.
    pub(crate) fn read(text: &str, own: &Address) -> Option<Address> {
        let (host, port) = text.rsplit_once(':')?;
        let host = if host.is_empty() { &own.host } else { host };
        Some(Address { host: host.to_owned(), port: port.parse().ok()? })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// All nodes that are known, in the order in which they are to be tried. One list for all connections of a log.
#[derive(Debug, Clone, Default)]
pub(crate) struct Nodes(Arc<Mutex<VecDeque<Address>>>);

impl Nodes {
    fn lock(&self) -> MutexGuard<'_, VecDeque<Address>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Those to try, at least the one of the URL.
    pub(crate) fn list(&self, seed: &Address) -> VecDeque<Address> {
        let mut nodes = self.lock();
        if !nodes.contains(seed) {
            nodes.push_back(seed.clone());
        }
        nodes.clone()
    }

    /// This one has the log.
    pub(crate) fn works(&self, node: &Address) {
        let mut nodes = self.lock();
        nodes.retain(|other| other != node);
        nodes.push_front(node.clone());
    }

    /// This one is of no use just now: others are tried before it the next time.
    pub(crate) fn fails(&self, node: &Address) {
        let mut nodes = self.lock();
        nodes.retain(|other| other != node);
        nodes.push_back(node.clone());
    }

    /// Asks a node for all of them. Where it isn't allowed, only those are known that were spoken of.
    pub(crate) fn learn(&self, connection: &mut Connection, own: &Address) {
        let Ok(Value::Array(ranges)) = cmd("CLUSTER").arg("SLOTS").query(connection) else { return };
        let told: Vec<Address> = ranges.iter().flat_map(|range| in_range(range, own)).collect();
        let mut nodes = self.lock();
        nodes.retain(|node| told.contains(node));
        for node in told {
            if !nodes.contains(&node) {
                nodes.push_back(node);
            }
        }
    }
}

/// The nodes that have a range of slots: behind its first and its last slot, each with its host, its port and more.
fn in_range(range: &Value, own: &Address) -> Vec<Address> {
    let Value::Array(parts) = range else { return Vec::new() };
    let node = |part: &Value| {
        let Value::Array(part) = part else { return None };
        let [host, Value::Int(port), ..] = &part[..] else { return None };
        let host = match host {
            Value::BulkString(host) => std::str::from_utf8(host).ok()?,
            _ => "",
        };
        // A name that it should have and hasn't.
        if host == "?" {
            return None;
        }
        Address::read(&format!("{host}:{port}"), own)
    };
    parts.iter().skip(2).filter_map(node).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(port: u16) -> Address {
        Address { host: "seed".to_owned(), port }
    }

    #[test]
    fn what_failed_is_tried_last() {
        let nodes = Nodes::default();
        let ports = || nodes.list(&address(1)).iter().map(|node| node.port).collect::<Vec<_>>();
        assert_eq!(ports(), [1]);
        nodes.works(&address(2));
        nodes.works(&address(3));
        assert_eq!(ports(), [3, 2, 1]);
        nodes.fails(&address(3));
        assert_eq!(ports(), [2, 1, 3]);
    }

    #[test]
    fn an_address_without_a_host_is_on_the_same_one() {
        let read = |text: &str| Address::read(text, &address(1)).map(|node| node.to_string());
        assert_eq!(read("::1:7000").as_deref(), Some("::1:7000"));
        assert_eq!(read(":7000").as_deref(), Some("seed:7000"));
        assert_eq!(read("h:x"), None);
        let bulk = |text: &str| Value::BulkString(text.into());
        let range = Value::Array(vec![
            Value::Int(0),
            Value::Int(16383),
            Value::Array(vec![bulk("a"), Value::Int(7), bulk("id")]),
            Value::Array(vec![Value::Nil, Value::Int(8), bulk("id")]),
            Value::Array(vec![bulk("?"), Value::Int(9), bulk("id")]),
        ]);
        let told: Vec<String> = in_range(&range, &address(1)).iter().map(Address::to_string).collect();
        assert_eq!(told, ["a:7", "seed:8"]);
    }
}
