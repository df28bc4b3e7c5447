//! Private parts of the hot path, held so that `bench/hot` can count their instructions. Not for programs: it changes
//! whenever the inside does.

use std::fmt;

pub use crate::stream::Sockets;

use crate::http::read_publication;
use crate::route::Routes;
use crate::{BasePath, ServerConfig};

/// Reads requests as a server with the defaults does.
pub struct Requests {
    config: ServerConfig,
    routes: Routes,
}

impl Default for Requests {
    fn default() -> Requests {
        let config = ServerConfig::default();
        let routes = Routes::new(&BasePath::default(), &config.limits, true);
        Requests { config, routes }
    }
}

impl fmt::Debug for Requests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Requests").finish_non_exhaustive()
    }
}

impl Requests {
    /// Checks and routes a complete head; what was made of it.
    pub fn head(&self, bytes: &[u8]) -> Option<impl Sized + use<>> {
        self.routes.read(bytes, &mut 0).ok().flatten()
    }

    /// Reads the body of a publish; what was made of it.
    pub fn publication(&self, body: &[u8]) -> Option<impl Sized + use<>> {
        read_publication(body, &self.config)
    }
}
