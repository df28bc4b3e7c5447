//! The client against a server that does exactly what a test says.

mod publishing;
mod server;
mod subscription;
