//! A hub in an axum application.

use axum::Router;

use crate::Http;

/// Routes to be mounted in an application that is served in any way: `GET /events` and everything else that the server
/// has, each of which asks who may.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let hub = tidings::in_memory()?;
/// let router = axum::Router::new().nest("/push", tidings::axum::routes(&hub));
/// let listener = tokio::net::TcpListener::bind("127.0.0.1:4600").await?;
/// axum::serve(listener, router).await?;
/// # Ok(())
/// # }
/// ```
///
/// The limit by address needs `into_make_service_with_connect_info::<SocketAddr>()`; without it all streams count as
/// from one address.
pub fn routes(http: impl Into<Http>) -> Router {
    http.into().routes()
}
