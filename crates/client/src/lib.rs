//! Client for Tidings.
//!
//! A subscription is a stream that goes on by itself: when the connection is lost it comes back with the id of the last
//! event, waits as the server asks, and says in the stream what happened. It ends for good when there is nothing more to
//! come ([`Update::End`]) or when asking again can't help (an error).
//!
//! ```no_run
//! use tidings_client::{Client, Publish, Start, Subscribe, Update};
//!
//! # async fn example() -> Result<(), tidings_client::Error> {
//! let client = Client::builder("http://127.0.0.1:4600").token("eyJ…").build()?;
//! let mut orders = client.subscribe(Subscribe::to(["orders/*"]).start(Start::History(10)));
//!
//! client.publish(&Publish::to_channel("orders/7").event("paid").text("thanks")).await?;
//!
//! while let Some(update) = orders.next().await {
//!     match update? {
//!         Update::Event(event) => println!("{}: {}", event.event, event.data),
//!         Update::Gap(gap) => println!("events were missed: {}", gap.reason),
//!         Update::Lost(lost) => println!("{}; back in {:?}", lost.reason, lost.retry_in),
//!         _ => {}
//!     }
//! }
//! # Ok(())
//! # }
//! ```

mod backoff;
mod client;
mod connect;
mod error;
mod history;
mod live;
mod presence;
mod publish;
mod subscribe;
mod subscription;
mod update;

pub use client::{Client, ClientBuilder};
pub use error::{Error, Problem};
pub use history::{History, Page};
pub use presence::{Digest, Presence, Present, Snapshot};
pub use publish::{Publish, Published, Tag};
pub use subscribe::{Start, Subscribe};
pub use subscription::Subscription;
pub use tidings_wire::Limits;
pub use update::{Closing, Event, Gap, Lost, LostReason, Open, Update};
