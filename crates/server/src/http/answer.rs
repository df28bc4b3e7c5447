//! Answers that are no problems.

use axum::body::Body;
use bytes::Bytes;
use http::Response;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use serde::Serialize;

use crate::Problem;

/// 200 with JSON, for this caller and this moment. It ends with a line end, for who reads it on a terminal.
pub(super) fn json(document: impl Into<Vec<u8>>) -> Response<Body> {
    let mut document = document.into();
    document.push(b'\n');
    content("application/json", document)
}

/// 200 with a value as JSON.
pub(super) fn document(value: &impl Serialize) -> Result<Response<Body>, Problem> {
    serde_json::to_vec(value).map(json).map_err(|error| Problem::internal(error.to_string()))
}

/// 200 with anything else, not to be kept either.
pub(super) fn content(content_type: &'static str, content: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Body::from(content.into()));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
