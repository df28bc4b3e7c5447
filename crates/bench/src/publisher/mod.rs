//! Publishing: over one connection that doesn't wait for answers, over many of which each does, or line by line.

mod closed;
mod lines;
mod open;
mod requests;

pub(crate) use closed::closed_loop;
pub(crate) use lines::Lines;
pub(crate) use open::Publisher;
pub(crate) use requests::Requests;
