//! What can be typed: one definition for the parser, the help and the completions.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use serde_json::Value;
use tidings::client::{Client, Start, Tag};

use crate::config::Flags;
use crate::outcome::Usage;

const EXIT_CODES: &str = "Exit codes: 0 done, 1 failed, 2 wrong usage or a mistake in the configuration.";

/// Push events to the people who are looking at your pages.
#[derive(Debug, Parser)]
#[command(
    name = "tidings",
    version,
    after_help = "Try it:
  tidings serve --dev                          in one terminal: a server, and the address of its page
  tidings subscribe 'orders/*'                 in another: prints events as they come
  tidings publish orders/7 'paid'              in a third: sends one

Exit codes: 0 done, 1 failed, 2 wrong usage or a mistake in the configuration."
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the server
    #[command(after_help = format!("Examples:
  tidings serve --dev
      Anybody on this machine may do anything: to try it, and for development.
  tidings serve --config /etc/tidings.toml
      With every setting in a file; `tidings check` says whether it is right.
  tidings serve --listen 0.0.0.0:4600 --data-dir /var/lib/tidings
      For everybody, with tokens that `tidings token --data-dir /var/lib/tidings` makes.

Each setting can be said in the file, in the environment (TIDINGS_LISTEN, TIDINGS_LIMITS__PER_USER) or by a flag;
a flag beats the environment, which beats the file. SIGTERM and SIGINT drain: streams are closed over the grace
period, and whoever comes back misses nothing. A second one ends it at once.

{EXIT_CODES}"))]
    Serve(Serve),
    /// Send an event
    #[command(after_help = format!("Examples:
  tidings publish orders/7 'paid'
  tidings publish orders/7 --event status --json '{{\"state\":\"paid\"}}'
  tidings publish --user ada 'you have mail'
  tidings publish --broadcast --event deploy 'a new version is out'
  tidings publish alerts 'disk full' --tag priority=5 --tag region=eu
  tidings publish import/7 --end
  tail -f app.log | tidings publish logs/app --stdin
  tidings publish avatar/7 < picture.base64
  tidings publish orders/7 'paid' --idempotency-key payment-4711

Prints the id of each event once it is stored.

{EXIT_CODES}"))]
    Publish(Publish),
    /// Print events as they come
    #[command(after_help = format!("Examples:
  tidings subscribe 'orders/*'
  tidings subscribe 'orders/*' --history 10 --json | jq .data
  tidings subscribe jobs/7 --count 1
  tidings subscribe import/7 --history latest
      The newest state of each key, then what comes; ends with the import.
  tidings subscribe alerts --filter 'priority > 3 && region in [\"eu\", \"us\"]'
  TIDINGS_TOKEN=$(tidings token --sub ada) tidings subscribe
  TIDINGS_TOKEN=$(tidings token --sub ada) tidings subscribe --subscription laptop
      What was sent to ada since the laptop was here last; what is printed is acknowledged.

Resumes by itself: when the connection is lost or the server restarts it comes back to every event in between, or
says that events are missing. Without a channel there is what is sent to the token's user and to everybody.
When all its channels have ended, so does the command, with 0.
With --json each line is {{\"id\",\"channel\",\"event\",\"data\",\"time\"}}, or {{\"event\",\"data\"}} of what the server says itself:
tidings:gap, tidings:skipped (events passed over, of whose keys newer ones came), tidings:presence.

{EXIT_CODES}"))]
    Subscribe(Subscribe),
    /// Print events that are kept
    #[command(after_help = format!("Examples:
  tidings history orders/7
  tidings history 'orders/*' --order desc --limit 10
  tidings history 'orders/*' --limit 100000 --json | jq .data

Prints the oldest events that are kept, or with --order desc the newest, those first. Where there are more, the id to go
on with is said on the standard error. With --json each line is {{\"id\",\"channel\",\"event\",\"data\",\"time\"}}.

{EXIT_CODES}"))]
    History(History),
    /// Make a token (JWT) and print it
    #[command(after_help = format!("Examples:
  tidings token --sub ada --subscribe 'orders/{{sub}}/*'
      For the page of the user ada: her orders, and what is sent to her.
  tidings token --sub ada --presence 'rooms/*' --info '{{\"name\":\"Ada\"}}'
  tidings token --sub shop --publish 'orders/**' --publish '$user/*' --ttl 30d
      For a back end that sends to orders and to users.
  curl -H \"Authorization: Bearer $(tidings token --sub ops --admin)\" http://127.0.0.1:4600/stats

Signs with the first shared secret in the configuration, else with the secret in the data directory, which is made if
the server has not been started yet.

{EXIT_CODES}"))]
    Token(Token),
    /// Make, list and revoke API keys
    #[command(after_help = EXIT_CODES)]
    Key {
        #[command(subcommand)]
        command: Key,
    },
    /// Check a configuration and print it as it comes out, secrets hidden
    #[command(after_help = format!("Examples:
  tidings check --config /etc/tidings.toml
  TIDINGS_LIMITS__PER_USER=50 tidings check

Reports all mistakes together, each with its file and line (or the name in the environment).

{EXIT_CODES}"))]
    Check(Configured),
    /// Measure how fast events are pushed, on this machine
    #[command(after_help = format!("Examples:
  tidings bench
      A server is started for each scenario, with its log in memory, and ended after it.
  tidings bench --scenario fan-out --subscribers 10000 --rate 20 --json -
  tidings bench --server-cpus 0 --client-cpus 1 --svg plots --markdown results.md
      Server and clients on different processors, plots and a document of it all.
  tidings bench --target bench/peers/nchan/target.toml --target tidings --scenario backlog-32
      Side by side: ratios are against the first. bench/README.md says how a target is described.
  tidings bench --url http://127.0.0.1:4600 --scenario latency-1
      A Tidings server that runs already.
  tidings bench --classic --target bench/peers/websocket/target.toml --target tidings
      The table that tutorials show: memory, CPU and latency at 1,000 connections.

Latency counts from when an event was meant to be sent. Every subscriber counts its events and one in a hundred reads
each of them: an event that is missing, doubled or out of order fails the run.

{EXIT_CODES}"))]
    Bench(Bench),
    /// A client process of `bench`, which starts it
    #[command(hide = true)]
    BenchClients,
    /// Runs a server for `bench`, and ends it with that
    #[command(hide = true)]
    BenchServer(BenchServer),
    /// Print completions for a shell
    #[command(after_help = "Examples:
  tidings completions bash > ~/.local/share/bash-completion/completions/tidings
  tidings completions zsh > ~/.zfunc/_tidings
  tidings completions fish > ~/.config/fish/completions/tidings.fish")]
    Completions {
        /// Which shell
        shell: Shell,
    },
}

/// Where the configuration comes from.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Configured {
    /// Configuration file (TOML); also TIDINGS_CONFIG
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Where the log, the secret and the API keys are [default: data]
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<String>,
}

impl Configured {
    pub(crate) fn flags(&self) -> Flags {
        let mut flags = Flags::default();
        flags.add("data_dir", "--data-dir", self.data_dir.as_deref());
        flags
    }
}

#[derive(Debug, Args)]
pub(crate) struct Serve {
    #[command(flatten)]
    pub(crate) configured: Configured,
    /// Anybody on this machine may do anything; for development, on loopback only
    #[arg(long)]
    dev: bool,
    /// Where to listen [default: 127.0.0.1:4600]; port 0 takes any free one
    #[arg(long, value_name = "ADDR:PORT")]
    listen: Option<String>,
    /// Where everything but what browsers need is to be had
    #[arg(long, value_name = "ADDR:PORT")]
    internal_listen: Option<String>,
    /// What every path begins with, like /push
    #[arg(long, value_name = "PATH")]
    base_path: Option<String>,
    /// Where events are kept: memory, disk, or redis [default: disk]
    #[arg(long, value_name = "LOG")]
    log: Option<String>,
    /// When an answered event is on the disk: always, never, or a duration like 100ms [default: always]
    #[arg(long, value_name = "WHEN")]
    sync: Option<String>,
    /// How often a silent stream gets a byte [default: 15s]
    #[arg(long, value_name = "TIME")]
    heartbeat: Option<String>,
    /// How long clients wait before they come back [default: 3s]
    #[arg(long, value_name = "TIME")]
    retry: Option<String>,
    /// What a stop takes at most [default: 10s]
    #[arg(long, value_name = "TIME")]
    drain: Option<String>,
    /// Threads that write streams [default: one for each core]
    #[arg(long, value_name = "N")]
    workers: Option<String>,
    /// What is logged: error, warn, info, debug, or in the terms of RUST_LOG [default: info]
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
    /// How it is logged: human, json, or auto (human on a terminal) [default: auto]
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
    /// Redis: for the log with --log redis, and to publish what services say there to `user:events` and what the configuration names
    #[arg(long, value_name = "URL")]
    redis: Option<String>,
}

impl Serve {
    pub(crate) fn flags(&self) -> Flags {
        let mut flags = self.configured.flags();
        for (setting, flag, value) in [
            ("listen", "--listen", &self.listen),
            ("internal_listen", "--internal-listen", &self.internal_listen),
            ("base_path", "--base-path", &self.base_path),
            ("log", "--log", &self.log),
            ("sync", "--sync", &self.sync),
            ("heartbeat", "--heartbeat", &self.heartbeat),
            ("retry", "--retry", &self.retry),
            ("drain", "--drain", &self.drain),
            ("workers", "--workers", &self.workers),
            ("log_level", "--log-level", &self.log_level),
            ("log_format", "--log-format", &self.log_format),
            ("redis.url", "--redis", &self.redis),
        ] {
            flags.add(setting, flag, value.as_deref());
        }
        flags.add("dev", "--dev", self.dev.then_some("true"));
        flags
    }
}

/// Which server, and by what right.
#[derive(Debug, Args)]
pub(crate) struct Server {
    /// The server; also TIDINGS_URL
    #[arg(
        long,
        value_name = "URL",
        env = "TIDINGS_URL",
        hide_env = true,
        default_value = "http://127.0.0.1:4600"
    )]
    pub(crate) url: String,
    /// Token or API key; better in TIDINGS_TOKEN (or TIDINGS_API_KEY), for others see what is typed
    #[arg(long, value_name = "TOKEN")]
    token: Option<String>,
}

impl Server {
    /// The credential to send, if there is one.
    fn token(&self) -> Option<String> {
        let from = |name| std::env::var(name).ok().filter(|token| !token.is_empty());
        self.token.clone().or_else(|| from("TIDINGS_TOKEN")).or_else(|| from("TIDINGS_API_KEY"))
    }

    /// A client of it.
    pub(crate) fn client(&self) -> Result<Client, Usage> {
        let mut client = Client::builder(&self.url);
        if let Some(token) = self.token() {
            client = client.token(token);
        }
        client.build().map_err(|error| Usage(error.to_string()))
    }
}

#[derive(Debug, Args)]
pub(crate) struct Publish {
    /// CHANNEL and DATA; only DATA when --channel, --user or --broadcast says where to. Without DATA it is read from
    /// the standard input
    #[arg(value_name = "CHANNEL] [DATA", num_args = 0..=2)]
    pub(crate) words: Vec<String>,
    /// To this channel (repeatable)
    #[arg(long, value_name = "CHANNEL")]
    pub(crate) channel: Vec<String>,
    /// To this user, on every device (repeatable)
    #[arg(long, value_name = "USER")]
    pub(crate) user: Vec<String>,
    /// To everybody
    #[arg(long)]
    pub(crate) broadcast: bool,
    /// The event's type [default: message]
    #[arg(long, value_name = "TYPE")]
    pub(crate) event: Option<String>,
    /// DATA is JSON, and sent as such; otherwise it is a text
    #[arg(long)]
    pub(crate) json: bool,
    /// Each line of the standard input is an event, published as it comes
    #[arg(long)]
    pub(crate) stdin: bool,
    /// What it is the newest state of: who is behind gets only the newest of each key
    #[arg(long, value_name = "KEY")]
    pub(crate) key: Option<String>,
    /// A tag for filters (repeatable): a number, true, false, or a text; a text that looks otherwise in double quotes
    #[arg(long, value_name = "NAME=VALUE", value_parser = tag)]
    pub(crate) tag: Vec<(String, Tag)>,
    /// The channel's last event; without DATA it says nothing else
    #[arg(long, conflicts_with_all = ["stdin", "ephemeral"])]
    pub(crate) end: bool,
    /// For how long it is replayed, like 30s or 1h; for ever, as far as retention goes, without
    #[arg(long, value_name = "TIME")]
    pub(crate) ttl: Option<String>,
    /// Only to who is there now; not kept
    #[arg(long)]
    pub(crate) ephemeral: bool,
    /// Stored once, however often it is sent within five minutes under this key: a retry prints the first id again
    #[arg(long, value_name = "KEY", conflicts_with = "stdin")]
    pub(crate) idempotency_key: Option<String>,
    #[command(flatten)]
    pub(crate) server: Server,
}

fn tag(text: &str) -> Result<(String, Tag), String> {
    let (name, value) = text.split_once('=').ok_or("like priority=5: a name, =, and a value")?;
    let value = match serde_json::from_str(value) {
        Ok(Value::Bool(value)) => Tag::Bool(value),
        Ok(Value::Number(number)) => Tag::Number(number.as_f64().ok_or("no number that large")?),
        Ok(Value::String(text)) => Tag::Text(text),
        Ok(Value::Null | Value::Array(_) | Value::Object(_)) | Err(_) => Tag::from(value),
    };
    Ok((name.to_owned(), value))
}

#[derive(Debug, Args)]
pub(crate) struct Subscribe {
    /// Channels and patterns: * is one level, ** is the rest
    #[arg(value_name = "CHANNEL")]
    pub(crate) channels: Vec<String>,
    /// One JSON object a line
    #[arg(long)]
    pub(crate) json: bool,
    /// Begin after the event with this id
    #[arg(long, value_name = "ID", allow_hyphen_values = true, conflicts_with_all = ["history", "earliest"])]
    pub(crate) last_event_id: Option<String>,
    /// Begin with the newest N events of each channel (up to 1000), or with `latest`: the newest of each key
    #[arg(long, value_name = "N|latest", value_parser = history, conflicts_with = "earliest")]
    pub(crate) history: Option<Start>,
    /// Begin with the oldest event that is kept
    #[arg(long)]
    pub(crate) earliest: bool,
    /// Nothing but these channels: not what is sent to the user or to everybody
    #[arg(long)]
    pub(crate) only: bool,
    /// Only events whose tags are such, like 'priority > 3 && region == "eu"' (docs/filters.md)
    #[arg(long, value_name = "CONDITION")]
    pub(crate) filter: Option<String>,
    /// Say too who is in the channels, and who comes and leaves
    #[arg(long, requires = "channels", conflicts_with = "only")]
    pub(crate) presence: bool,
    /// Go on where the durable subscription of this name was left, and acknowledge what is printed; the token needs a user
    #[arg(long, value_name = "NAME")]
    pub(crate) subscription: Option<String>,
    /// End after so many events
    #[arg(long, value_name = "N")]
    pub(crate) count: Option<u64>,
    /// Say nothing about the connection on the standard error
    #[arg(long, short)]
    pub(crate) quiet: bool,
    #[command(flatten)]
    pub(crate) server: Server,
}

/// Where `--history` begins.
fn history(text: &str) -> Result<Start, String> {
    match text.parse() {
        Ok(count) if count <= 1000 => Ok(Start::History(count)),
        Err(_) if text == "latest" => Ok(Start::Latest),
        Ok(_) | Err(_) => Err("a number up to 1000, or latest".to_owned()),
    }
}

#[derive(Debug, Args)]
pub(crate) struct History {
    /// Channels and patterns: * is one level, ** is the rest
    #[arg(value_name = "CHANNEL", required = true)]
    pub(crate) channels: Vec<String>,
    /// So many events
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) limit: u64,
    /// Which come first: the oldest (asc) or the newest (desc)
    #[arg(long, value_enum, default_value_t = Order::Asc)]
    pub(crate) order: Order,
    /// Only what comes after the event with this id
    #[arg(long, value_name = "ID", allow_hyphen_values = true)]
    pub(crate) after: Option<String>,
    /// Only what comes before the event with this id, and that event
    #[arg(long, value_name = "ID", allow_hyphen_values = true)]
    pub(crate) until: Option<String>,
    /// One JSON object a line
    #[arg(long)]
    pub(crate) json: bool,
    /// Say nothing on the standard error
    #[arg(long, short)]
    pub(crate) quiet: bool,
    #[command(flatten)]
    pub(crate) server: Server,
}

/// Which events come first: the oldest or the newest. Its values have no texts of their own: with them the help of all options
/// would be in the long form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Order {
    Asc,
    Desc,
}

/// What is granted.
#[derive(Debug, Args)]
pub(crate) struct Grants {
    /// May subscribe to these channels (repeatable); {sub} stands for the user
    #[arg(long, value_name = "PATTERN")]
    pub(crate) subscribe: Vec<String>,
    /// May publish to these channels (repeatable); '$user/*' is users, '$all' everybody
    #[arg(long, value_name = "PATTERN")]
    pub(crate) publish: Vec<String>,
    /// May see who is in these channels (repeatable)
    #[arg(long, value_name = "PATTERN")]
    pub(crate) presence: Vec<String>,
    /// May look at and manage everything
    #[arg(long)]
    pub(crate) admin: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Bench {
    /// What to measure (repeatable); --list says what there is
    #[arg(long, value_name = "NAME")]
    pub(crate) scenario: Vec<String>,
    /// Every scenario
    #[arg(long, conflicts_with = "scenario")]
    pub(crate) all: bool,
    /// Say what scenarios there are
    #[arg(long)]
    pub(crate) list: bool,
    /// A server that a file describes, or `tidings` (repeatable) [default: tidings]
    #[arg(long, value_name = "FILE")]
    pub(crate) target: Vec<String>,
    /// A Tidings server that runs already
    #[arg(long, value_name = "URL", conflicts_with = "target")]
    pub(crate) url: Option<String>,
    /// Token or API key for --url; better in TIDINGS_TOKEN, for others see what is typed
    #[arg(long, value_name = "TOKEN", env = "TIDINGS_TOKEN", hide_env_values = true, hide_env = true)]
    pub(crate) token: Option<String>,
    /// How many subscribers [default: 1000]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) subscribers: Option<u32>,
    /// Events a second [default: 10]
    #[arg(long, value_name = "N", value_parser = rate)]
    pub(crate) rate: Option<f64>,
    /// Bytes of an event's data
    #[arg(long, value_name = "BYTES", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
    pub(crate) size: u32,
    /// For how long events are published, in seconds
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub(crate) seconds: u32,
    /// How often each scenario is run; the medians count
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) rounds: u32,
    /// Where servers have their folders, and Tidings its log in `durable` [default: that for temporary files]
    #[arg(long, value_name = "DIR", conflicts_with = "url")]
    pub(crate) data_dir: Option<PathBuf>,
    /// The processors that servers run on, like 0 or 0-3 (takes `taskset`)
    #[arg(long, value_name = "CPUS")]
    pub(crate) server_cpus: Option<String>,
    /// The processors that clients run on
    #[arg(long, value_name = "CPUS")]
    pub(crate) client_cpus: Option<String>,
    /// Also write the results as JSON; - is the standard output, in place of the tables
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Also write plots (SVG) into this folder
    #[arg(long, value_name = "DIR")]
    pub(crate) svg: Option<PathBuf>,
    /// Also write a document (Markdown), with the plots if --svg is given
    #[arg(long, value_name = "FILE")]
    pub(crate) markdown: Option<PathBuf>,
    /// The classic table: memory, CPU and latency at 1,000 connections
    #[arg(long, conflicts_with_all = ["scenario", "all"])]
    pub(crate) classic: bool,
    /// Fail when a connection costs the server more memory of its own than this
    #[arg(long, value_name = "BYTES")]
    pub(crate) max_memory: Option<f64>,
    /// Compare the first target's figures to the second's with the ratios in this file (bench/ratios.toml), and fail when
    /// one is worse than it allows; without --scenario, those that it has are run
    #[arg(long, value_name = "FILE", conflicts_with_all = ["all", "classic"])]
    pub(crate) baseline: Option<PathBuf>,
    /// Write the ratios into that file instead
    #[arg(long, requires = "baseline")]
    pub(crate) bless: bool,
}

#[derive(Debug, Args)]
pub(crate) struct BenchServer {
    /// Removed at the end
    #[arg(long, value_name = "DIR")]
    pub(crate) folder: PathBuf,
    /// The server
    #[arg(last = true, required = true)]
    pub(crate) command: Vec<OsString>,
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if (0.1..=1e6).contains(&rate) => Ok(rate),
        _ => Err("a number from 0.1 to 1000000".to_owned()),
    }
}

#[derive(Debug, Args)]
pub(crate) struct Token {
    /// The user
    #[arg(long, value_name = "USER")]
    pub(crate) sub: Option<String>,
    #[command(flatten)]
    pub(crate) grants: Grants,
    /// What others may read about the user where they see who is there: a JSON object
    #[arg(long, value_name = "JSON")]
    pub(crate) info: Option<String>,
    /// How long it is good
    #[arg(long, value_name = "TIME", default_value = "1h")]
    pub(crate) ttl: String,
    #[command(flatten)]
    pub(crate) configured: Configured,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Key {
    /// Make a key and print it; it is kept as a hash and can't be shown again
    #[command(after_help = "Examples:
  tidings key create --name shop --publish 'orders/**' --publish '$user/*'
  tidings key create --name ops --admin")]
    Create {
        /// What to call it
        #[arg(long, value_name = "NAME")]
        name: Option<String>,
        #[command(flatten)]
        grants: Grants,
        #[command(flatten)]
        configured: Configured,
    },
    /// Print the keys there are: id, name, when made, grants
    List {
        /// One JSON object a line
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        configured: Configured,
    },
    /// Take a key back; a running server refuses it within a second or two
    Revoke {
        /// The key's id or name
        #[arg(value_name = "ID|NAME")]
        key: String,
        #[command(flatten)]
        configured: Configured,
    },
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::{Cli, Tag, tag};

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn tags_are_what_they_look_like() {
        for (text, name, value) in [
            ("a=5", "a", Tag::Number(5.0)),
            ("a=-0.5", "a", Tag::Number(-0.5)),
            ("a=true", "a", Tag::Bool(true)),
            ("a=\"5\"", "a", Tag::from("5")),
            ("a=eu=1", "a", Tag::from("eu=1")),
            ("a=", "a", Tag::from("")),
            ("a=null", "a", Tag::from("null")),
            ("ä b=[1]", "ä b", Tag::from("[1]")),
        ] {
            assert_eq!(tag(text), Ok((name.to_owned(), value)), "{text}");
        }
        assert!(tag("a").is_err());
    }
}
