//! Push events to the people looking at your pages: hub, log, server and client as a library.
//!
//! A [`Hub`] is one ordered log; a channel is a view of it; a subscriber is a cursor. A program makes a hub, publishes
//! to it, and lets browsers subscribe with `EventSource`: either by [`axum::routes`], mounted in an axum application
//! like any other route, or by [`serve`], which keeps the streams on worker threads of their own (a few hundred bytes
//! for each, and one call to the kernel for all that a subscriber is behind by) and gives everything else to the
//! program's router.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use tidings::{Event, Subscribe};
//!
//! let hub = tidings::in_memory()?;
//! let mut orders = hub.subscribe(Subscribe::new(["orders/*".parse()?]))?;
//!
//! hub.publish(Event::to("orders/7".parse()?, "paid")).await?;
//!
//! let delivery = orders.next().await?;
//! assert_eq!(delivery.event().map(|event| event.data.as_str()), Some("paid"));
//! # Ok(())
//! # }
//! ```
//!
//! An [`Event`] may have a key (of each, who is behind or comes late needs only the newest event), tags that a
//! [`Filter`] looks at, and an `end`, after which its channels take nothing more. A [`Subscription`] changes its channels
//! as it runs; [`durable`] subscriptions keep how far a user has come on a device ([`Hub::durables`]); who is there is
//! asked of [`Http::members`], and comes as events of [`Channel::presence`]. `examples/inbox.rs` has them all in one
//! process, `examples/import.rs` in front of browsers.

pub mod axum;
mod http;
mod log;

pub use tidings_client as client;
pub use tidings_hub as hub;
pub use tidings_log_disk as log_disk;
pub use tidings_log_redis as log_redis;
pub use tidings_server as server;
pub use tidings_wire as wire;

pub use http::{Http, serve};
pub use log::{StartError, in_memory, on_disk};
pub use tidings_hub::log::{MemoryLog, MemoryLogConfig};
pub use tidings_hub::{
    Delivery, Filter, Hub, HubConfig, Present, Roll, Standing, Start, Subscribe, Subscription, Timestamp,
    View, durable,
};
pub use tidings_log_disk::{DiskLog, DiskLogConfig};
pub use tidings_log_redis::{RedisLog, RedisLogConfig};
pub use tidings_wire::{
    Channel, ClientId, Cursor, Data, Event, EventType, Exclude, Key, Number, Pattern, TagValue, Tags,
    Targets, UserId,
};
