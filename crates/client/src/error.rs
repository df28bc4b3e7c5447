//! What can go wrong for good.

use std::fmt;

use serde::Deserialize;
use tidings_wire::ParseError;

/// Why a client gave up. A subscription that is merely lost comes back by itself and says so in the stream
/// ([`Update::Lost`](crate::Update::Lost)).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The address isn't an absolute `http` or `https` URL.
    #[error("{url:?} is no address of a server: {reason}")]
    Address {
        /// What was given.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A token or key has characters that no HTTP header can have. It isn't repeated here.
    #[error("the token has characters that no HTTP header can have")]
    Token,
    /// An idempotency key that can't be sent in a header.
    #[error("an idempotency key has no control characters")]
    IdempotencyKey,
    /// The HTTP client can't be made, as when the system's certificates can't be read.
    #[error("the HTTP client can't be made: {}", chain(.0))]
    Http(#[source] reqwest::Error),
    /// The server refused, and would again.
    #[error("the server refused: {0}")]
    Refused(Problem),
    /// The server failed. For publishing, the problem's kind says whether the event may be stored all the same.
    #[error("the server failed: {0}")]
    Failed(Problem),
    /// The connection failed before the answer. What was published may be stored or not.
    #[error("no answer came: {}", chain(.0))]
    NoAnswer(#[source] reqwest::Error),
    /// The answer isn't what a Tidings server gives.
    #[error("the answer is not that of a Tidings server: {0}")]
    Answer(String),
    /// The stream has a line or an event that is larger than the limits. Coming back would bring the same one again.
    #[error(transparent)]
    Stream(#[from] ParseError),
    /// The data given to [`Publish::json`](crate::Publish::json) can't be JSON.
    #[error("the data can't be written as JSON: {0}")]
    Data(#[source] serde_json::Error),
}

/// An answer that isn't a success, with what its problem document (RFC 9457) says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The HTTP status.
    pub status: u16,
    /// The stable word for what happened (`invalid_token`, `not_granted`, `not_stored`, …), empty if there is none.
    pub kind: String,
    /// What happened, in words. May be empty.
    pub detail: String,
}

/// The fields of a problem document that are read.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Document {
    r#type: String,
    title: String,
    detail: String,
}

impl Problem {
    pub(crate) fn new(status: u16, body: &[u8]) -> Problem {
        let document: Document = serde_json::from_slice(body).unwrap_or_default();
        let kind = document.r#type.rsplit([':', '/']).next().unwrap_or_default().to_owned();
        let detail = if document.detail.is_empty() { document.title } else { document.detail };
        Problem { status, kind, detail }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.status)?;
        if !self.kind.is_empty() {
            write!(f, " {}", self.kind)?;
        }
        if !self.detail.is_empty() {
            write!(f, ": {}", self.detail)?;
        }
        Ok(())
    }
}

/// A transport error with its causes: reqwest's own words are only "error sending request".
pub(crate) fn chain(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_document_is_read_where_there_is_one() {
        let body =
            br#"{"type":"urn:tidings:problem:not_granted","title":"Not granted","status":403,"detail":"no"}"#;
        assert_eq!(Problem::new(403, body).to_string(), "403 not_granted: no");
        assert_eq!(Problem::new(502, b"<html>Bad Gateway</html>").to_string(), "502");
        assert_eq!(Problem::new(500, br#"{"title":"Broken"}"#).to_string(), "500: Broken");
    }
}
