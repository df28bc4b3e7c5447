//! The client against a server that does exactly what a test says.

mod history;
mod live;
mod publishing;
mod server;
mod subscription;
