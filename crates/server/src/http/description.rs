//! `GET /openapi.json`: what `spec/openapi.yaml` says, as JSON.

use axum::body::Body;
use http::Response;

use super::answer;

const DESCRIPTION: &str = include_str!("openapi.json");

pub(super) fn description() -> Response<Body> {
    answer::content("application/json", DESCRIPTION)
}
