//! `GET /healthz` and `GET /readyz`.

use axum::body::Body;
use http::header::{HeaderValue, RETRY_AFTER};
use http::{Response, StatusCode};

use super::answer;
use crate::{App, Problem};

/// The process answers.
pub(super) fn alive() -> Response<Body> {
    answer::content("text/plain; charset=utf-8", "ok\n")
}

/// It takes streams. Trouble with storing is no reason to refuse: streams go on, and a balancer that took every node
/// out would end every `EventSource` for good.
pub(super) fn ready(app: &App) -> Result<Response<Body>, Problem> {
    if app.is_draining() {
        let draining = Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "draining",
            "The server is stopping",
            "it takes no new streams any more",
        );
        return Err(draining.header(RETRY_AFTER, HeaderValue::from_static("1")));
    }
    Ok(answer::content("text/plain; charset=utf-8", "ready\n"))
}
