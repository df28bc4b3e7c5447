//! A connection to the master, looked at before it is used.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use redis::{Client, Connection, ConnectionAddr, ConnectionInfo, TlsCertificates, Value, cmd};

use crate::cluster::{Address, Nodes};
use crate::error::{Result, Trouble};
use crate::log::Ack;
use crate::script::{Arg, Script, run as run_script};
use crate::url::{Place, RedisUrl, at};

/// How long it may take to connect, with all that belongs to it.
const CONNECT: Duration = Duration::from_millis(700);
/// How often the sentinels are asked. As long as nobody notices, a master that was replaced takes what is lost then.
const WATCH: Duration = Duration::from_millis(500);

/// What it takes to connect.
#[derive(Debug, Clone)]
pub(crate) struct Connector {
    pub(crate) url: RedisUrl,
    /// The certificate of the authority that Redis's is signed by, in PEM; without it those of the system count.
    pub(crate) authority: Option<Vec<u8>>,
    pub(crate) ack: Ack,
    /// The key by which it is asked where in a cluster the log is.
    pub(crate) key: String,
    pub(crate) nodes: Nodes,
    pub(crate) named: Arc<Named>,
}

/// Which master the sentinels named last.
#[derive(Debug, Default)]
pub(crate) struct Named {
    address: Mutex<Option<(String, u16)>>,
    /// How often it was another one than before.
    switches: AtomicU64,
}

impl Connector {
    /// A connection to the master that has the log.
    pub(crate) fn connect(&self) -> Result<Connection> {
        let deadline = Instant::now() + CONNECT;
        match &self.url.at {
            Place::Server(info) => match info.addr() {
                ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. } => {
                    self.find(info, &Address { host: host.clone(), port: *port }, deadline)
                }
                _ => self.try_at(info, None, deadline),
            },
            Place::Sentinels { sentinels, master, server } => {
                let (host, port) = self.ask(sentinels, master, deadline)?;
                self.try_at(&at(server, &host, port), None, deadline)
            }
        }
    }

    /// How often the sentinels have named another master. A connection from before the last time may lead to one that is
    /// no longer: what it stores will be thrown away, though it does not know yet.
    pub(crate) fn switches(&self) -> u64 {
        self.named.switches.load(Ordering::SeqCst)
    }

    /// Asks the sentinels again and again who the master is, if there are any. `pause`: waits, and says whether it is over.
    pub(crate) fn watch(&self, pause: impl Fn(Duration) -> bool) {
        let Place::Sentinels { sentinels, master, .. } = &self.url.at else { return };
        while !pause(WATCH) {
            // Who connects says what is wrong with them.
            let _ = self.ask(sentinels, master, Instant::now() + CONNECT);
        }
    }

    /// Of the nodes of a cluster, the one that has the log. Without a cluster there is only the one of the URL.
    fn find(&self, info: &ConnectionInfo, seed: &Address, deadline: Instant) -> Result<Connection> {
        let mut nodes = self.nodes.list(seed);
        let mut tried: Vec<Address> = Vec::new();
        let mut trouble = None;
        while let Some(node) = nodes.pop_front()
            && (tried.is_empty() || Instant::now() < deadline)
        {
            if tried.contains(&node) {
                continue;
            }
            // One that is away must not take all of the time.
            let until = if nodes.is_empty() { deadline } else { deadline.min(Instant::now() + CONNECT / 2) };
            tried.push(node.clone());
            match self.try_at(&at(info, &node.host, node.port), Some(&node), until) {
                Ok(connection) => {
                    self.nodes.works(&node);
                    return Ok(connection);
                }
                Err(Trouble::Moved(to)) => {
                    trouble.get_or_insert(Trouble::Away(format!("{node} says that the log is at {to}")));
                    if let Some(to) = Address::read(&to, &node) {
                        nodes.push_front(to);
                    }
                }
                Err(why) => {
                    self.nodes.fails(&node);
                    trouble = Some(why);
                }
            }
        }
        Err(trouble.unwrap_or(Trouble::Away("no node is known".to_owned())))
    }

    /// Connects to one server and looks at it. `node`: where that is, if it may be one of a cluster.
    fn try_at(&self, info: &ConnectionInfo, node: Option<&Address>, until: Instant) -> Result<Connection> {
        let mut connection = self.open(info, until)?;
        let left = until.saturating_duration_since(Instant::now()).max(Duration::from_millis(100));
        connection.set_read_timeout(Some(left))?;
        connection.set_write_timeout(Some(left))?;
        self.look_at(&mut connection, node)?;
        Ok(connection)
    }

    fn open(&self, info: &ConnectionInfo, deadline: Instant) -> Result<Connection> {
        // Sentinels are asked in the clear.
        let client = match (&self.authority, info.addr()) {
            (Some(pem), ConnectionAddr::TcpTls { .. }) => {
                let certificates = TlsCertificates { client_tls: None, root_cert: Some(pem.clone()) };
                Client::build_with_tls(info.clone(), certificates)
            }
            _ => Client::open(info.clone()),
        };
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        Ok(client.and_then(|client| client.get_connection_with_timeout(left))?)
    }

    /// Where the sentinels say that the master is: the first one that answers.
    fn ask(&self, sentinels: &[ConnectionInfo], master: &str, deadline: Instant) -> Result<(String, u16)> {
        let mut trouble = Trouble::Away("no sentinel is known".to_owned());
        // One that is away must not take all of the time.
        let share = CONNECT / (sentinels.len() as u32 + 1);
        for info in sentinels {
            let until = deadline.min(Instant::now() + share);
            let ask = |connection: &mut Connection| -> Result<Option<(String, u16)>> {
                connection.set_read_timeout(Some(share))?;
                Ok(cmd("SENTINEL").arg("get-master-addr-by-name").arg(master).query(connection)?)
            };
            match self.open(info, until).and_then(|mut connection| ask(&mut connection)) {
                Ok(Some(address)) => {
                    self.named.is(&address);
                    return Ok(address);
                }
                Ok(None) => trouble = Trouble::Refused(format!("no sentinel knows a master {master:?}")),
                Err(error) => trouble = Trouble::Away(format!("no sentinel answers: {error}")),
            }
        }
        Err(trouble)
    }

    /// Refuses a server that would lose events, or that this version can't use.
    fn look_at(&self, connection: &mut Connection, node: Option<&Address>) -> Result<()> {
        let info: String = cmd("INFO").query(connection)?;
        let info = fields(&info);
        if let Some(node) = node
            && info.get("cluster_enabled").is_some_and(|enabled| *enabled == "1")
        {
            // A replica says where its master is, too.
            cmd("EXISTS").arg(&self.key).exec(connection)?;
            self.nodes.learn(connection, node);
        }
        let version_is = usable(&info).map_err(Trouble::Refused)?;
        if self.ack != Ack::Aof {
            return Ok(());
        }
        if info.get("aof_enabled").is_none_or(|enabled| *enabled != "1") {
            return refused("ack is aof, and Redis has no append-only file: set appendonly yes".to_owned());
        }
        let policy: std::result::Result<HashMap<String, String>, _> =
            cmd("CONFIG").arg("GET").arg("appendfsync").query(connection);
        match policy {
            Ok(policy) if policy.get("appendfsync").is_some_and(|policy| policy == "always") => Ok(()),
            // From then on it can be asked what is on its disk.
            Err(error) if version_is >= (7, 2) && error.code() == Some("NOPERM") => Ok(()),
            Ok(_) => refused(
                "ack is aof, and Redis syncs its file now and then: set appendfsync always. An answer would have to wait \
                 for the next sync, for longer than anybody waits here"
                    .to_owned(),
            ),
            Err(error) => Err(error.into()),
        }
    }
}

impl Named {
    fn is(&self, address: &(String, u16)) {
        let mut named = self.address.lock().unwrap_or_else(PoisonError::into_inner);
        if named.as_ref().is_some_and(|before| before != address) {
            self.switches.fetch_add(1, Ordering::SeqCst);
        }
        *named = Some(address.clone());
    }
}

/// What a server says of itself.
fn fields(info: &str) -> HashMap<&str, &str> {
    info.lines().filter_map(|line| line.trim_end().split_once(':')).collect()
}

/// The first two numbers of a server's version, or why it can't have a log.
fn usable(info: &HashMap<&str, &str>) -> std::result::Result<(u32, u32), String> {
    let field = |name: &str| info.get(name).copied().unwrap_or_default();
    let version = field("redis_version");
    let mut numbers = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    let version_is = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version_is < (7, 0) {
        return Err(format!("Redis {version} is too old: version 7 or newer is needed"));
    }
    if field("loading") == "1" {
        return Err("Redis is still loading its data".to_owned());
    }
    if field("role") != "master" {
        return Err("this Redis is a replica, and only a master stores".to_owned());
    }
    let policy = field("maxmemory_policy");
    if field("maxmemory") != "0" && policy != "noeviction" {
        return Err(format!(
            "Redis may evict the log when its memory is full (maxmemory-policy {policy}): set it to noeviction"
        ));
    }
    Ok(version_is)
}

fn refused<T>(what: String) -> Result<T> {
    Err(Trouble::Refused(what))
}

/// Waits until all that the connection has seen is as durable as the answers are to say.
pub(crate) fn barrier(connection: &mut Connection, ack: Ack, key: &str, within: Duration) -> Result<()> {
    let milliseconds = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
    // What is waited for is what this connection has written last: so that it writes something. All that was written
    // before, by whomever, comes before it.
    let mark = |connection: &mut Connection| -> Result<()> {
        run_script(connection, Script::Mark, &[key], &[Arg::Number(60_000)]).map(drop)
    };
    match ack {
        Ack::Master => Ok(()),
        Ack::Replicas(wanted) => {
            mark(connection)?;
            let reached: u32 = cmd("WAIT").arg(wanted).arg(milliseconds).query(connection)?;
            if reached >= wanted {
                return Ok(());
            }
            let few =
                format!("{reached} replicas have what was stored, and by redis.ack {wanted} are to have it");
            Err(Trouble::NotYet(few))
        }
        Ack::Aof => {
            mark(connection)?;
            let asked: std::result::Result<Value, _> =
                cmd("WAITAOF").arg(1).arg(0).arg(milliseconds).query(connection);
            match asked {
                Ok(Value::Array(counts)) if counts.first() == Some(&Value::Int(1)) => Ok(()),
                Ok(_) => Err(Trouble::NotYet("the append-only file was not synced in time".to_owned())),
                // Before 7.2, where appendfsync always was found: then every answer comes after the sync.
                Err(error) if error.to_string().contains("unknown command") => Ok(()),
                Err(error) => Err(error.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_would_lose_events_is_not_usable() {
        let good = "# Server\r\nredis_version:7.2.4\r\nloading:0\r\nrole:master\r\nmaxmemory:0\r\nmaxmemory_policy:noeviction\r\n";
        assert_eq!(usable(&fields(good)), Ok((7, 2)));
        for (from, to, why) in [
            ("7.2.4", "6.2.14", "too old"),
            ("7.2.4", "", "too old"),
            ("loading:0", "loading:1", "loading"),
            ("role:master", "role:slave", "a replica"),
            (
                "maxmemory:0\r\nmaxmemory_policy:noeviction",
                "maxmemory:1\r\nmaxmemory_policy:allkeys-lru",
                "allkeys-lru",
            ),
        ] {
            let said = usable(&fields(&good.replace(from, to))).unwrap_err();
            assert!(said.contains(why), "{said}");
        }
        // Without a limit nothing is ever evicted.
        assert!(usable(&fields(&good.replace("noeviction", "allkeys-lru"))).is_ok());
    }
}
