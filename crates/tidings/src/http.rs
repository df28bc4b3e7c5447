//! A hub over HTTP, inside of a program.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use tidings_hub::{Hub, Roll, Standing};
use tidings_server::auth::{Access, AccessConfig, BadAccess, Cors, GrantTemplates, Origins};
use tidings_server::{App, Drained, Server, ServerConfig, Side, router};
use tidings_wire::{Channel, UserId};
use tokio::net::TcpListener;

/// A hub over HTTP: who may do what, and how streams are kept. Clones are the same.
///
/// Made from a hub alone ([`From`]), everybody may subscribe to every channel, and nobody may publish over HTTP: the
/// program does that. What is sent to users needs tokens, for which there is [`Http::new`].
#[derive(Debug, Clone)]
pub struct Http {
    app: Arc<App>,
}

impl Http {
    /// A hub over HTTP, with keys and grants.
    ///
    /// # Errors
    /// With everything that is wrong with the keys and grants.
    ///
    /// ```
    /// use tidings::server::ServerConfig;
    /// use tidings::server::auth::{AccessConfig, GrantTemplates, KeyConfig, Origins, Secret};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let access = AccessConfig {
    ///     keys: vec![KeyConfig::secret(Secret::new("a secret of 32 bytes or more, please"))],
    ///     grants: GrantTemplates { subscribe: vec!["orders/{sub}/*".parse()?], ..GrantTemplates::default() },
    ///     ..AccessConfig::default()
    /// };
    /// let hub = tidings::in_memory()?;
    /// let http = tidings::Http::new(hub, access, Origins::default(), ServerConfig::default());
    /// assert!(http.is_ok());
    /// # Ok(())
    /// # }
    /// ```
    pub fn new(
        hub: Hub,
        access: AccessConfig,
        origins: Origins,
        config: ServerConfig,
    ) -> Result<Http, Vec<BadAccess>> {
        let access = Access::new(AccessConfig { origins: origins.clone(), ..access })?;
        Ok(Http { app: Arc::new(App::new(hub, access, Cors::new(origins), config)) })
    }

    /// Everything over HTTP as a router, streams included; [`serve`] has them on a faster path.
    pub fn routes(&self) -> Router {
        router(self.app.clone(), Side::Both)
    }

    /// Who is in a channel now: the streams that get what is sent there, and the users among them, up to so many by
    /// their ids. Subscribers in this process are not counted.
    pub async fn members(&self, channel: &Channel, limit: usize) -> Roll {
        self.app.members(channel, limit).await.0
    }

    /// How a user is there: with how many streams, or since when without one, in the grace time. None if it is not.
    pub fn standing(&self, user: &UserId) -> Option<Standing> {
        self.app.standings(std::slice::from_ref(user)).pop().flatten()
    }

    /// Stops within a time: no new streams, what runs is finished, streams are closed one after the other with a word
    /// when to come back. [`serve`] then returns. Close the hub after this.
    pub async fn drain(&self, within: Duration) -> Drained {
        self.app.drain(within).await
    }
}

impl From<Hub> for Http {
    fn from(hub: Hub) -> Http {
        let everybody =
            "**".parse().map(|all| GrantTemplates { subscribe: vec![all], ..GrantTemplates::default() });
        let access = AccessConfig { anonymous: everybody.ok(), ..AccessConfig::default() };
        Http::new(hub, access, Origins::default(), ServerConfig::default())
            .expect("there is nothing in this that could be wrong")
    }
}

impl From<&Hub> for Http {
    fn from(hub: &Hub) -> Http {
        hub.clone().into()
    }
}

/// Serves a program of its own: streams (`GET /events`) on worker threads, everything else by the program's router,
/// with the client's address as [`ConnectInfo`](axum::extract::ConnectInfo). Returns after [`Http::drain`].
///
/// # Errors
/// When the workers can't be started, or the listener can't be used.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let hub = tidings::in_memory()?;
/// let router = axum::Router::new().route("/", axum::routing::get(|| async { "hello" }));
/// let listener = tokio::net::TcpListener::bind("127.0.0.1:4600").await?;
/// tidings::serve(listener, router, hub).await?;
/// # Ok(())
/// # }
/// ```
pub async fn serve(listener: TcpListener, router: Router, http: impl Into<Http>) -> io::Result<()> {
    let Http { app } = http.into();
    Server::new(app, router)?.serve(listener).await
}
