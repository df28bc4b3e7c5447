//! Sockets and HTTP for Tidings.

mod app;
mod config;
mod json;
mod problem;
mod query;

pub use app::App;
pub use config::{BadBasePath, BasePath, LimitsConfig, ServerConfig, TimeoutsConfig};
pub use problem::Problem;
