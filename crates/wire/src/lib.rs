//! The `text/event-stream` format and the vocabulary of Tidings, without I/O and without a runtime.
//!
//! What is made here can't be wrong: a [`Channel`], a [`Pattern`], an [`EventType`] or a [`UserId`] is checked
//! once, when it is made, and nothing that a publisher says can break out of its field on the wire.

mod cursor;
mod encode;
mod event;
pub mod json;
mod name;
mod parse;
pub mod publication;
mod tags;

pub use cursor::{BadCursor, Cursor, CursorKey, Epoch, Position, Sequence};
pub use encode::{
    Control, EncodedEvent, Framing, GapReason, HEARTBEAT_CHUNK, HEARTBEAT_RAW, LAST_CHUNK, encode_control,
    encode_envelope,
};
pub use event::{
    BadConnectionId, BadEventType, BadTargets, ConnectionId, Data, Event, EventType, Exclude, Targets,
};
pub use name::{BadName, Channel, ClientId, Pattern, UserId};
pub use parse::{Limits, Message, ParseError, Parser};
pub use tags::{BadKey, BadTags, Key, Number, TagValue, Tags};
