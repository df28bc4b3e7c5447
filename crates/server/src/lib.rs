//! Sockets and HTTP for Tidings.

mod accept;
mod admit;
mod app;
pub mod auth;
mod chunked;
mod cluster;
mod config;
mod direct;
mod drain;
mod guard;
#[doc(hidden)]
pub mod hot;
mod http;
mod limits;
mod listener;
mod log_limit;
mod misspelt;
mod presence;
mod problem;
mod query;
mod route;
mod stats_channel;
mod stream;
mod subscribe;

pub use self::http::{Side, router};
pub use app::App;
pub use config::{BadBasePath, BasePath, LimitsConfig, PresenceOptions, ServerConfig, TimeoutsConfig};
pub use drain::Drained;
pub use limits::{Limits, OverLimit, Permit};
pub use listener::Server;
pub use problem::Problem;
pub use stream::{
    Changed, CloseReason, ConnectionFilter, ConnectionInfo, StreamStats, Unchanged, WorkerStats,
    WorkersHandle,
};
pub use subscribe::{ControlLevel, SubscribeRequest, subscribe_request};
