//! The ways in, all of them.
