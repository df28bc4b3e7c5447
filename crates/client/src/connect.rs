//! One attempt to open a stream, and what its answer means.

use std::time::Duration;

use reqwest::header::{CONTENT_TYPE, RETRY_AFTER};
use reqwest::{RequestBuilder, Response, StatusCode};
use tokio::time::timeout;

use crate::error::chain;
use crate::{Error, LostReason, Problem};

/// The most of a problem document that is read.
const LONGEST_PROBLEM: usize = 64 << 10;

/// What came of an attempt.
pub(crate) enum Answer {
    /// A stream of events.
    Stream(Response),
    /// There is nothing more to come (204).
    Nothing,
    /// Not now; `not_before` is what `Retry-After` says.
    NotNow { reason: LostReason, not_before: Option<Duration> },
    /// Never.
    Never(Error),
}

/// Sends the request. `silence` limits both the wait for the answer's head and that for a problem's body.
pub(crate) async fn connect(request: RequestBuilder, silence: Duration) -> Answer {
    let response = match timeout(silence, request.send()).await {
        Ok(Ok(response)) => response,
        Ok(Err(error)) if error.is_builder() => return Answer::Never(Error::Http(error.without_url())),
        Ok(Err(error)) => {
            let reason = LostReason::Transport(chain(&error.without_url()));
            return Answer::NotNow { reason, not_before: None };
        }
        Err(_) => return Answer::NotNow { reason: LostReason::Silent(silence), not_before: None },
    };
    match response.status() {
        StatusCode::OK if is_event_stream(&response) => Answer::Stream(response),
        StatusCode::OK => Answer::Never(Error::Answer("it is not of the type text/event-stream".to_owned())),
        StatusCode::NO_CONTENT => Answer::Nothing,
        status if is_temporary(status) => {
            let not_before = retry_after(&response);
            let reason = LostReason::Unavailable(problem(response, silence).await);
            Answer::NotNow { reason, not_before }
        }
        _ => Answer::Never(Error::Refused(problem(response, silence).await)),
    }
}

/// Whether the same request may succeed later: what fails in the server or before it, and what asks to wait. Other
/// statuses say that the request itself is wrong.
fn is_temporary(status: StatusCode) -> bool {
    match status {
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS => true,
        StatusCode::NOT_IMPLEMENTED | StatusCode::HTTP_VERSION_NOT_SUPPORTED => false,
        status => status.is_server_error(),
    }
}

fn is_event_stream(response: &Response) -> bool {
    let value =
        response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("text/event-stream")
}

/// `Retry-After` in seconds. A date, the other form, is left to the back-off: clocks differ.
fn retry_after(response: &Response) -> Option<Duration> {
    let value = response.headers().get(RETRY_AFTER)?.to_str().ok()?;
    value.trim().parse().ok().map(Duration::from_secs)
}

async fn problem(response: Response, silence: Duration) -> Problem {
    let status = response.status().as_u16();
    let body = match timeout(silence, read_body(response, LONGEST_PROBLEM)).await {
        Ok(Ok(Some(body))) => body,
        // The status says enough.
        _ => Vec::new(),
    };
    Problem::new(status, &body)
}

/// A body of up to `max` bytes; `None` if it is longer.
pub(crate) async fn read_body(mut response: Response, max: usize) -> Result<Option<Vec<u8>>, reqwest::Error> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        if body.len() + chunk.len() > max {
            return Ok(None);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Some(body))
}
