//! `tidings serve`: the server, from its configuration to its end.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use tidings::hub::log::{Log, MemoryLog, MemoryLogConfig, Retention};
use tidings::hub::{Bus, Hub, HubConfig, ReplayCaps, Timestamp};
use tidings::log_disk::{DataDir, DiskLog, DiskLogConfig, Recovery, SyncPolicy};
use tidings::log_redis::{RedisLog, RedisLogConfig};
use tidings::server::auth::{ApiKeyFile, Cors, Origins, Secrets};
use tidings::server::{App, Server, ServerConfig, Side};
use tidings::wire::publication::Rules;
use tidings::wire::{CursorKey, Epoch};
use tidings_ingest_redis::{Ingest, IngestConfig};
use tokio::net::{TcpListener, TcpSocket};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{error, info, warn};

use crate::args;
use crate::config::{Config, LogKind, RedisConfig, Sources, Sync};
use crate::{descriptors, logging, output};

/// How many connections may wait to be accepted: a restart brings everybody back at once. The system caps it.
const BACKLOG: u32 = 65_535;
/// How long the runtime's last tasks have at the end; what matters is over by then.
const LAST_TASKS: Duration = Duration::from_millis(500);

/// How long messages that were received have to be stored, once everybody else is gone.
const LAST_MESSAGES: Duration = Duration::from_secs(6);

pub(crate) fn run(args: &args::Serve) -> Result<()> {
    let config = Config::check(Sources::gather(args.configured.config.as_deref(), args.flags())?)?;
    logging::start(&config);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let served = runtime.block_on(serve(config));
    runtime.shutdown_timeout(LAST_TASKS);
    served
}

async fn serve(config: Config) -> Result<()> {
    // Who tries things out has a handful of streams, and no use for a word about 100,000.
    descriptors::raise((!config.server.dev).then_some(config.server.limits.connections));
    let mut signals = Signals::new()?;
    // Two processes that write one log would destroy it, so that the lock comes first.
    let dir = match config.log {
        LogKind::Disk => Some(DataDir::open(&config.data_dir)?),
        LogKind::Memory | LogKind::Redis => None,
    };
    let secrets = Secrets::load_or_create(&config.data_dir)?;
    warn_of_other_nodes(&config);
    let access = config.auth.open(Some(&secrets.jwt))?;
    // Listening before the log is open lets those who come back after a restart wait instead of fail.
    let listener = listen(config.server.listen)?;
    let internal = config.server.internal_listen.map(listen).transpose()?;
    let (hub, bus) = open_hub(&config, dir, secrets).await?;

    let addresses = (listener.local_addr()?, internal.as_ref().map(TcpListener::local_addr).transpose()?);
    let origins = Origins { local: config.server.dev, ..config.auth.access.origins.clone() };
    let ingest = start_ingest(&config, &hub)?;
    let sources = ingest.iter().flat_map(Ingest::sources);
    let app = App::new(hub.clone(), access, Cors::new(origins), config.server.clone());
    let app = Arc::new(sources.fold(app, |app, (name, stats)| app.with_source(name, stats.clone())));
    let public_side = if internal.is_some() { Side::Public } else { Side::Both };
    let mut listening = tokio::task::JoinSet::new();
    let server = Server::of_side(app.clone(), public_side).context("the workers can't be started")?;
    if let Some(bus) = bus {
        app.join(bus);
    }
    listening.spawn(async move { server.serve(listener).await });
    if let Some(listener) = internal {
        let server = Server::of_side(app.clone(), Side::Internal)?;
        listening.spawn(async move { server.serve(listener).await });
    }
    greet(&config, &hub, addresses.0, addresses.1)?;

    tokio::select! {
        name = signals.next() => info!(signal = name, within = ?config.server.drain, "stopping"),
        Some(ended) = listening.join_next() => {
            ended.context("a listener has ended")?.context("nobody can connect")?;
        }
    }
    // The right to read goes to another node at once, and what was received is stored.
    let stopping = tokio::spawn(async move {
        if let Some(ingest) = ingest {
            ingest.stop().await;
        }
    });
    tokio::select! {
        drained = app.drain(config.server.drain) => {
            info!(streams = drained.streams, left = drained.streams_left + drained.connections_left, "drained");
        }
        name = signals.next() => {
            warn!(signal = name, "stopping at once");
            anyhow::bail!("stopped by a second signal, before all streams and requests had ended");
        }
    }
    if tokio::time::timeout(LAST_MESSAGES, stopping).await.is_err() {
        warn!("what was last received from Redis is not stored: the log takes nothing");
    }
    tokio::task::spawn_blocking(move || hub.close()).await?;
    info!("stopped");
    Ok(())
}

fn listen(address: SocketAddr) -> Result<TcpListener> {
    let bind = || -> io::Result<TcpListener> {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        // What lingers of the connections of the process before is no reason to fail.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    bind().with_context(|| format!("can't listen on {address}; another address is chosen with --listen"))
}

/// The hub, and the line to its other nodes, if there may be some.
async fn open_hub(
    config: &Config,
    dir: Option<DataDir>,
    secrets: Secrets,
) -> Result<(Hub, Option<Arc<dyn Bus>>)> {
    let retention = config.retention.clone();
    let cursor = secrets.cursor.0;
    let mut hub_config = HubConfig {
        replay: ReplayCaps { bytes: Some(config.replay.bytes), age: config.replay.age },
        data_limit: config.server.limits.data,
        ..HubConfig::new(CursorKey::new(cursor))
    };
    let sync = match config.sync {
        Sync::Always => SyncPolicy::Always,
        Sync::Every(time) => SyncPolicy::Every(time),
        Sync::Never => SyncPolicy::Never,
    };
    let data_dir = config.data_dir.clone();
    let redis = (config.log == LogKind::Redis).then(|| config.redis.clone());
    // Opening reads the disk, or all that Redis has.
    tokio::task::spawn_blocking(move || {
        let mut bus: Option<Arc<dyn Bus>> = None;
        let log: Arc<dyn Log> = match (dir, redis) {
            (_, Some(redis)) => {
                let log = open_redis(redis, retention, cursor)?;
                // All nodes have the key of the first one, and each keeps it, so that it is known when Redis loses it.
                hub_config.cursor_key = CursorKey::new(log.cursor_key());
                secrets.with_cursor(&data_dir, log.cursor_key())?;
                bus = Some(Arc::new(log.bus()));
                Arc::new(log)
            }
            (Some(dir), None) => {
                let config = DiskLogConfig { sync, retention, fatal, ..DiskLogConfig::new(dir) };
                let log = DiskLog::open(config, Timestamp::now())?;
                tell_recovery(log.recovery());
                Arc::new(log)
            }
            (None, None) => {
                let epoch = next_memory_epoch(&data_dir).context("the data directory can't be written to")?;
                Arc::new(MemoryLog::new(MemoryLogConfig { epoch, retention }))
            }
        };
        Ok((Hub::start(log, hub_config).context("the log can't be read")?, bus))
    })
    .await?
}

fn open_redis(redis: RedisConfig, retention: Retention, cursor_key: [u8; 16]) -> Result<RedisLog> {
    let authority = authority(&redis)?;
    let url = redis.url.context("it is not said where Redis is")?.log;
    let config = RedisLogConfig { url, authority, name: redis.name, ack: redis.ack, retention, cursor_key };
    Ok(RedisLog::open(config)?)
}

/// The certificate of who has signed that of Redis.
fn authority(redis: &RedisConfig) -> Result<Option<Vec<u8>>> {
    let read = |path: &PathBuf| {
        std::fs::read(path).with_context(|| format!("redis.authority: {} can't be read", path.display()))
    };
    redis.authority.as_ref().map(read).transpose()
}

/// Reads from Redis, if that is configured.
fn start_ingest(config: &Config, hub: &Hub) -> Result<Option<Ingest>> {
    let Some(url) = config.redis.url.as_ref().map(|url| &url.ingest) else { return Ok(None) };
    let ingest = IngestConfig {
        topics: config.redis.ingest.clone(),
        streams: config.redis.ingest_streams.clone(),
        rules: Rules { user_id: true, ..config.server.publication() },
        message: config.server.limits.body,
        authority: authority(&config.redis)?,
        ..IngestConfig::new(url.clone())
    };
    Ok(Some(Ingest::start(hub, &ingest)?))
}

/// What lies in this node's data directory the nodes beside it don't know: a client that meets another one is refused
/// there.
fn warn_of_other_nodes(config: &Config) {
    if config.log != LogKind::Redis || config.server.dev {
        return;
    }
    if config.auth.access.keys.is_empty() {
        warn!(
            "no key for tokens is configured, and the secret that stands in for one is this node's own: the other nodes \
             of this log refuse its tokens. Give all of them the same [[auth.key]] or TIDINGS_JWT_SECRET"
        );
    }
    if ApiKeyFile::in_directory(&config.data_dir).list().is_ok_and(|keys| !keys.is_empty()) {
        warn!(
            file = %config.data_dir.join(ApiKeyFile::FILE).display(),
            "the other nodes of this log know only the API keys in their own data directories: give all of them this file"
        );
    }
}

fn fatal(reason: &str) {
    error!("the log is given up, and the process ends: {reason}");
}

fn tell_recovery(recovery: &Recovery) {
    match recovery {
        Recovery::New => info!("a new log"),
        Recovery::Clean => {}
        Recovery::Unclean => {
            info!("the process before did not end in order; all that it had stored is there")
        }
        Recovery::Lost { found, expected } => warn!(
            found = found.sequence.0,
            expected = expected.sequence.0,
            "the log's end is missing; a new epoch begins, and clients that have seen more are told so"
        ),
        Recovery::Unmarked => {
            warn!("the log has no head mark, as after a backup was restored; a new epoch begins")
        }
    }
}

/// A log in memory begins a new epoch with every start, above all before: the time in seconds, or one more than the last
/// where a start follows another within a second, so that a cursor of that process is never taken for one of this.
fn next_memory_epoch(data_dir: &Path) -> io::Result<Epoch> {
    let path = data_dir.join("memory-epoch");
    let last: u32 = match std::fs::read_to_string(&path) {
        Ok(text) => text.trim().parse().unwrap_or_default(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
        Err(error) => return Err(error),
    };
    let now = u32::try_from(Timestamp::now().0 / 1000).unwrap_or(u32::MAX);
    let epoch = now.max(last.saturating_add(1));
    let written = path.with_extension("new");
    std::fs::write(&written, format!("{epoch}\n"))?;
    std::fs::rename(&written, &path)?;
    Ok(Epoch(epoch))
}

/// Says where the server is. The first line is for programs too.
fn greet(config: &Config, hub: &Hub, address: SocketAddr, internal: Option<SocketAddr>) -> Result<()> {
    let ServerConfig { base_path, dev, .. } = &config.server;
    let url = format!("http://{address}{base_path}");
    if *dev {
        warn!("--dev: anybody on this machine may do anything");
    }
    let durability = hub.log().durability();
    info!(%address, internal = internal.map(tracing::field::display), dev, sync = %durability, "listening");
    output::line(&format!("Tidings is listening on {url}"))?;
    if let Some(internal) = internal {
        output::line(&format!("and, with everything, on http://{internal}{base_path}"))?;
    }
    if *dev {
        let publisher =
            internal.map_or_else(|| url.clone(), |internal| format!("http://{internal}{base_path}"));
        output::line(&format!(
            "
  *** --dev: anybody on this machine may do anything, without a token ***

  Look:  {publisher}/
  Send:  curl '{publisher}/publish?channel=demo/hello' -d 'Hello from Tidings'
"
        ))?;
    }
    Ok(())
}

/// The signals that stop a server.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> io::Result<Signals> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
