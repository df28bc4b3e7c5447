//! Sockets and HTTP for Tidings.

mod app;
mod chunked;
mod config;
mod drain;
mod guard;
mod json;
mod limits;
mod problem;
mod query;
mod route;

pub use app::App;
pub use config::{BadBasePath, BasePath, LimitsConfig, ServerConfig, TimeoutsConfig};
pub use limits::{Limits, OverLimit, Permit};
pub use problem::Problem;
