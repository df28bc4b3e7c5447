//! The body of a request: what it is said to be, read within its limits of size and time.

use std::fmt;
use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, StatusCode};
use http_body::Body as _;
use http_body_util::BodyExt;

use crate::Problem;

/// 413 `too_large`.
pub(super) fn too_large(detail: impl Into<std::borrow::Cow<'static, str>>) -> Problem {
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", "Too large", detail)
}

/// The same of a limit that a setting says: `detail` has its value, and whoever may change it is told its name.
pub(super) fn too_large_for(setting: &'static str, detail: &dyn fmt::Display) -> Problem {
    too_large(format!("{detail} ({setting} in the server's configuration)"))
}

/// How many bytes a body may have.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limit {
    pub(super) bytes: usize,
    /// The setting that says so, if one does.
    pub(super) setting: Option<&'static str>,
}

impl Limit {
    fn exceeded(self, detail: String) -> Problem {
        match self.setting {
            Some(setting) => too_large_for(setting, &detail),
            None => too_large(detail),
        }
    }
}

/// 400 `bad_json`.
pub(super) fn bad_json(detail: impl Into<std::borrow::Cow<'static, str>>) -> Problem {
    let title = "The body is not the JSON that was expected";
    Problem::new(StatusCode::BAD_REQUEST, "bad_json", title, detail)
}

/// 415 `unsupported_type`.
pub(super) fn unsupported(detail: &'static str) -> Problem {
    let title = "This content type is not read here";
    Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_type", title, detail)
}

/// What a body is said to be.
#[derive(Debug)]
pub(super) struct MediaType {
    /// The type in lower case, without parameters. Empty if nothing is said.
    pub(super) essence: String,
    /// Whether the parameters leave the encoding at UTF-8.
    pub(super) utf8: bool,
}

impl MediaType {
    /// # Errors
    /// 415 for a body that is encoded, or a type that can't be read.
    pub(super) fn of(headers: &HeaderMap) -> Result<MediaType, Problem> {
        if headers.get(CONTENT_ENCODING).is_some_and(|encoding| encoding != "identity") {
            return Err(unsupported("a body is read as it is: send it without Content-Encoding"));
        }
        let said = headers.get(CONTENT_TYPE).map(HeaderValue::to_str).transpose();
        let said = said.map_err(|_| unsupported("the Content-Type is not ASCII"))?.unwrap_or_default();
        let (essence, parameters) = said.split_once(';').unwrap_or((said, ""));
        Ok(MediaType { essence: essence.trim().to_ascii_lowercase(), utf8: is_utf8(parameters) })
    }

    /// Whether it is JSON. A body of which nothing is said is taken for that.
    pub(super) fn is_json(&self) -> bool {
        let essence = &*self.essence;
        matches!(essence, "" | "application/json")
            || essence.starts_with("application/") && essence.ends_with("+json")
    }
}

/// Whether a content type's parameters leave the encoding at UTF-8.
fn is_utf8(parameters: &str) -> bool {
    parameters.split(';').filter_map(|parameter| parameter.split_once('=')).all(|(name, value)| {
        let value = value.trim().trim_matches('"');
        !name.trim().eq_ignore_ascii_case("charset")
            || value.eq_ignore_ascii_case("utf-8")
            || value.eq_ignore_ascii_case("us-ascii")
    })
}

/// Reads a whole body that has to be JSON and has at most so many bytes, as [`whole`] does.
pub(super) async fn json(
    headers: &HeaderMap,
    body: Body,
    bytes: usize,
    idle: Duration,
) -> Result<Bytes, Problem> {
    let said = MediaType::of(headers)?;
    if !said.utf8 {
        return Err(unsupported("JSON is UTF-8"));
    }
    if !said.is_json() {
        return Err(unsupported("this is read as JSON: send it as application/json"));
    }
    let limit = Limit { bytes, setting: None };
    check_length(headers, limit)?;
    whole(body, limit, idle).await
}

/// Refuses a body whose length says that it is too large, before any of it is read: who sent
/// `Expect: 100-continue` is never told to go on.
pub(super) fn check_length(headers: &HeaderMap, limit: Limit) -> Result<(), Problem> {
    let length = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    match length {
        Some(length) if length > u64::try_from(limit.bytes).unwrap_or(u64::MAX) => {
            Err(limit.exceeded(format!("a body may have {} bytes, this one has {length}", limit.bytes)))
        }
        _ => Ok(()),
    }
}

/// Reads a whole body within a limit, of which a next piece comes within `idle`.
pub(super) async fn whole(body: Body, limit: Limit, idle: Duration) -> Result<Bytes, Problem> {
    let mut pieces = Pieces { body, idle };
    let Some(first) = pieces.next().await? else { return Ok(Bytes::new()) };
    // Nearly every body is one piece, which is not copied.
    let mut rest = match pieces.next().await? {
        None if first.len() <= limit.bytes => return Ok(first),
        rest => rest,
    };
    let mut whole = BytesMut::from(first);
    loop {
        if whole.len() + rest.as_ref().map_or(0, Bytes::len) > limit.bytes {
            return Err(limit.exceeded(format!("a body may have {} bytes", limit.bytes)));
        }
        let Some(piece) = rest else { return Ok(whole.freeze()) };
        whole.extend_from_slice(&piece);
        rest = pieces.next().await?;
    }
}

/// A body piece by piece, as it arrives.
#[derive(Debug)]
pub(super) struct Pieces {
    pub(super) body: Body,
    /// How long a piece may take.
    pub(super) idle: Duration,
}

impl Pieces {
    /// The next piece; `None` after the last one.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Problem> {
        loop {
            // When the last byte has come with its length announced, there is nothing to wait for.
            if self.body.is_end_stream() {
                return Ok(None);
            }
            let frame = match tokio::time::timeout(self.idle, self.body.frame()).await {
                Ok(None) => return Ok(None),
                Ok(Some(Ok(frame))) => frame,
                Ok(Some(Err(_))) => {
                    return Err(Problem::bad_request("the body ended before its end, or is not well framed"));
                }
                Err(_) => {
                    return Err(Problem::new(
                        StatusCode::REQUEST_TIMEOUT,
                        "too_slow",
                        "The request came too slowly",
                        format!("no byte of the body came for {} s", self.idle.as_secs()),
                    ));
                }
            };
            // Trailers say nothing that is read here.
            if let Ok(piece) = frame.into_data()
                && !piece.is_empty()
            {
                return Ok(Some(piece));
            }
        }
    }
}
