//! The log as handlers reach it: reads where blocking is allowed, and its failures as answers.

use std::time::Duration;

use http::StatusCode;
use http::header::{HeaderValue, RETRY_AFTER};
use tidings_hub::Hub;
use tidings_hub::log::{AppendError, ReadError};
use tracing::error;

use crate::{App, Problem};

/// How long a read waits for those before it.
const PATIENCE: Duration = Duration::from_secs(10);

/// Reads the log on a thread that may block. Only so many requests read at once, so that however many there are, they
/// neither take all threads nor hold all their pages in memory.
pub(super) async fn read<T: Send + 'static>(
    app: &App,
    read: impl FnOnce(&Hub) -> Result<T, Problem> + Send + 'static,
) -> Result<T, Problem> {
    let permit = tokio::time::timeout(PATIENCE, app.reads.clone().acquire_owned()).await;
    let Ok(Ok(permit)) = permit else {
        return Err(unavailable(
            "busy",
            "Too busy",
            "too many requests read the log at once; try again".into(),
        ));
    };
    let hub = app.hub.clone();
    let reading = tokio::task::spawn_blocking(move || {
        let result = read(&hub);
        drop(permit);
        result
    });
    reading.await.unwrap_or_else(|panic| {
        error!(%panic, "a read of the log ended");
        Err(Problem::internal("the read did not end well; the server's log says why"))
    })
}

/// Why something was not stored, or nobody knows.
pub(super) fn not_stored(error: &AppendError) -> Problem {
    let detail = error.to_string();
    match error {
        AppendError::Full => {
            Problem::new(StatusCode::INSUFFICIENT_STORAGE, "disk_full", "The disk is full", detail)
        }
        AppendError::Ended(_) => Problem::new(StatusCode::CONFLICT, "ended", "The channel has ended", detail),
        AppendError::KeyReused => Problem::new(
            StatusCode::CONFLICT,
            "idempotency_key",
            "The idempotency key was used before",
            detail,
        ),
        AppendError::Unknown(_) => unavailable("unknown", "It is not known whether it was stored", detail),
        AppendError::Busy | AppendError::LeaseLost | AppendError::NotStored(_) => {
            unavailable("not_stored", "Not stored", detail)
        }
    }
}

/// Why something could not be read.
pub(super) fn not_read(error: &ReadError) -> Problem {
    let detail = error.to_string();
    match error {
        ReadError::Damaged { .. } => {
            Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "damaged", "The log is damaged", detail)
        }
        ReadError::Failed(_) => unavailable("not_read", "Not read", detail),
    }
}

/// 503, and when to come again.
pub(super) fn unavailable(kind: &'static str, title: &'static str, detail: String) -> Problem {
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, kind, title, detail)
        .header(RETRY_AFTER, HeaderValue::from_static("1"))
}
