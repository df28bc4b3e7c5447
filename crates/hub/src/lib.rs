//! The engine of Tidings: one ordered log, channels as views of it, subscribers as cursors with a filter.
//!
//! No sockets, no HTTP; time is passed in. Read in this order: [`log`] (what is stored and announced), `window` (the
//! newest of it, encoded, for all workers), [`Shard`] (the subscribers of one worker), [`Hub`] (which ties them
//! together).

mod bus;
mod catch_up;
mod conflate;
pub mod durable;
mod filter;
mod hub;
mod index;
pub mod log;
#[cfg(test)]
mod model;
mod poll;
mod presence;
mod resume;
mod shard;
mod source;
mod subscriber;
mod subscription;
mod time;
mod view;
mod window;

pub use bus::{Bus, Ear, MemoryBus};
pub use filter::{BadFilter, Filter, Filters, Wrong};
pub use hub::{Hub, HubConfig, HubStats, PublishError, Published};
pub use poll::{Answer, Poll, Polls};
pub use presence::{
    Census, Digest, Info, News, NodeId, Presence, PresenceConfig, Present, Roll, Standing, Ticked, Transition,
};
pub use resume::{Ended, ReplayCaps, Resume, Start};
pub use shard::{Cut, Losses, Move, Opening, Pending, Shard, ShardStats, SubscriberId};
pub use source::SourceStats;
pub use subscriber::{Change, Farewell, Lens, Say, Tells, ToldGap, Who};
pub use subscription::{Delivery, Subscribe, Subscription, SubscriptionError};
pub use time::Timestamp;
pub use view::View;
