//! A server to measure: how it is started, subscribed to and published to.
//!
//! The format of a target's file is described in `bench/README.md`.

mod file;
mod template;
mod tidings;

use std::path::PathBuf;

pub use file::TargetError;
pub use template::{Template, Values};
pub use tidings::Users;

/// A server to measure, as its file (or the command line) describes it.
#[derive(Debug, Clone)]
pub struct Target {
    /// What it is called in tables.
    pub name: String,
    /// How it comes to run.
    pub origin: Origin,
    /// A path that is asked until it is answered with less than 500; without one, a connection is enough.
    pub ready: Option<String>,
    /// How subscribers get events.
    pub transport: Transport,
    /// What a subscriber asks for.
    pub subscribe: Subscribe,
    /// What a publisher sends.
    pub publish: Publish,
    /// What every event has once, and nothing else that is received; only payloads that begin with it can be checked.
    pub mark: String,
    /// Whether it is Tidings, so that scenarios may use what only Tidings has: users, batches, NDJSON, statistics.
    pub tidings: bool,
    /// How events are sent to users, if tokens can be signed for it.
    pub users: Option<Users>,
    /// The same server with its log on disk, if it can be started so.
    pub durable: Option<Box<Target>>,
}

/// How a server comes to run.
#[derive(Debug, Clone)]
pub enum Origin {
    /// The benchmark starts it, and ends it with all its children.
    Command(Command),
    /// It runs already.
    Running {
        /// `127.0.0.1:4600`
        address: String,
        /// What every path begins with.
        base: String,
        /// Where its process is found, so that it can be accounted.
        process: Option<Process>,
    },
}

/// A program to start.
#[derive(Debug, Clone)]
pub struct Command {
    /// The program and its arguments, templates of `{port}`, `{port2}`, `{port3}` and `{tmp}`.
    pub argv: Vec<Template>,
    /// The folder in which it runs.
    pub dir: PathBuf,
    /// Added to its environment, templates of the same.
    pub env: Vec<(String, Template)>,
    /// Where its main process is found, if it isn't the one that was started or a child of it.
    pub process: Option<Process>,
}

/// Where a process is found.
#[derive(Debug, Clone)]
pub enum Process {
    /// By its id.
    Id(u32),
    /// By a file that has the id, a template of `{tmp}`, relative to the target's folder.
    File(Template),
}

/// How subscribers get events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Transport {
    /// `text/event-stream`: one answer without an end.
    Sse,
    /// WebSocket (RFC 6455): one frame an event.
    Websocket,
    /// One answer for what is new, then the next request.
    LongPolling,
}

/// What a subscriber asks for.
#[derive(Debug, Clone)]
pub struct Subscribe {
    /// The path with its query, a template of `{channel}`.
    pub path: Template,
    /// What is added to the path for each further channel; without it a subscriber can only have one.
    pub more: Option<Template>,
    /// Sent with the request.
    pub headers: Vec<(String, Template)>,
    /// A text message that a WebSocket's client sends first, a template of `{channel}`.
    pub hello: Option<Template>,
    /// From an answer of long polling to the next request.
    pub cursor: Vec<Cursor>,
}

/// Something of an answer that the next request repeats.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Cursor {
    /// Where it is found.
    pub from: Place,
    /// Where it is sent.
    pub into: Place,
}

/// A place in a request or an answer.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Place {
    /// A header.
    Header(String),
    /// A field of a JSON body (only of an answer).
    Json(String),
    /// A parameter of the query (only of a request).
    Query(String),
}

/// What a publisher sends.
#[derive(Debug, Clone)]
pub struct Publish {
    /// `POST`, mostly.
    pub method: String,
    /// Where to, if not to the port of the subscribers; a template of `{port2}` and `{port3}`.
    pub port: Option<Template>,
    /// The path with its query, a template of `{channel}` and `{data}`.
    pub path: Template,
    /// Sent with the request.
    pub headers: Vec<(String, Template)>,
    /// A template of `{channel}`, `{data}` and `{json}`.
    pub body: Template,
}
