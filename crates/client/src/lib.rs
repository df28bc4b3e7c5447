//! Client for Tidings and any server of server-sent events.
