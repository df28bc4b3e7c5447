//! The durable log of Tidings on SQLite.
