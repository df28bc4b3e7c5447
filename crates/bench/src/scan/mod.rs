//! Finding events in what a server sends, whatever it is wrapped in.

mod checker;
mod counter;

pub(crate) use checker::{Checker, Violations};
pub(crate) use counter::Counter;
