//! `GET /`: with `--dev`, a page that shows events as they arrive.

use axum::body::Body;
use http::header::{CONTENT_SECURITY_POLICY, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderName, Response};

use super::{answer, not_found};
use crate::{App, Problem};

const PAGE: &str = include_str!("page.html");

/// The page has its style and its program in itself, and talks to nobody but this server.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; connect-src 'self'; \
     base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
);

pub(super) fn page(app: &App) -> Result<Response<Body>, Problem> {
    if !app.config.dev {
        return Err(not_found());
    }
    let mut response = answer::content("text/html; charset=utf-8", PAGE);
    let headers = response.headers_mut();
    headers.insert(CONTENT_SECURITY_POLICY, POLICY);
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(HeaderName::from_static("referrer-policy"), HeaderValue::from_static("no-referrer"));
    Ok(response)
}
