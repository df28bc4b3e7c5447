//! `GET /`: with `--dev`, a page that shows events as they arrive.

use std::sync::LazyLock;

use axum::body::Body;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{CONTENT_SECURITY_POLICY, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderName, Response};
use sha2::{Digest, Sha256};

use super::{answer, not_found};
use crate::{App, Problem};

const PAGE: &str = include_str!("page.html");

/// The page has its style and its program in itself, and talks to nobody but this server. What else came into it by
/// an event would not run: only these very texts may.
static POLICY: LazyLock<HeaderValue> = LazyLock::new(|| {
    let policy = format!(
        "default-src 'none'; script-src '{}'; style-src '{}'; img-src data:; connect-src 'self'; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'",
        hash(inside("<script type=\"module\">", "</script>")),
        hash(inside("<style>", "</style>")),
    );
    HeaderValue::try_from(policy).unwrap_or(HeaderValue::from_static("default-src 'none'"))
});

pub(super) fn page(app: &App) -> Result<Response<Body>, Problem> {
    if !app.config.dev {
        return Err(not_found("the page is there with --dev only; see /openapi.json"));
    }
    let mut response = answer::content("text/html; charset=utf-8", PAGE);
    let headers = response.headers_mut();
    headers.insert(CONTENT_SECURITY_POLICY, POLICY.clone());
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(HeaderName::from_static("referrer-policy"), HeaderValue::from_static("no-referrer"));
    Ok(response)
}

/// What stands between two tags of the page.
fn inside(open: &str, close: &str) -> &'static str {
    let text = PAGE.split_once(open).and_then(|(_, after)| after.split_once(close));
    text.map_or("", |(text, _)| text)
}

/// A source of a Content Security Policy (CSP 3, section 2.3.1).
fn hash(text: &str) -> String {
    format!("sha256-{}", STANDARD.encode(Sha256::digest(text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policy_allows_what_is_in_the_page() {
        let policy = POLICY.to_str().unwrap();
        assert!(!policy.contains(&hash("")), "a tag of the page is not found: {policy}");
        assert_eq!(PAGE.matches("<script").count(), 1);
        assert_eq!(PAGE.matches("<style").count(), 1);
        assert!(!PAGE.contains(" style="), "styles in attributes are refused by the policy");
        assert!(!PAGE.contains(" onclick="), "so are handlers");
    }
}
