//! Errors as the client reads them: problem documents (RFC 9457).

use std::borrow::Cow;

use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use http::{HeaderMap, Response, StatusCode};

/// Why a request was refused or failed: a status, a stable word, and what to do about it.
///
/// The detail never repeats a token, a key or the data of an event.
#[derive(Debug, Clone)]
pub struct Problem {
    status: StatusCode,
    kind: &'static str,
    title: &'static str,
    detail: Cow<'static, str>,
    /// Which character of what is named in `detail` is wrong, counted from 1.
    column: Option<u32>,
    /// Boxed: a map is large, and a problem is the error of almost every function here.
    headers: Box<HeaderMap>,
}

impl Problem {
    /// A problem of a status. `kind` is the stable word that programs compare (`invalid_token`, `not_stored`, …), the
    /// last part of the document's `type`; `title` is the same in plain words; `detail` says what was wrong with this
    /// request and what to do.
    pub fn new(
        status: StatusCode,
        kind: &'static str,
        title: &'static str,
        detail: impl Into<Cow<'static, str>>,
    ) -> Problem {
        Problem { status, kind, title, detail: detail.into(), column: None, headers: Box::default() }
    }

    /// 400 `bad_request`: the request says something that it can't.
    pub fn bad_request(detail: impl Into<Cow<'static, str>>) -> Problem {
        Problem::new(StatusCode::BAD_REQUEST, "bad_request", "The request is not valid", detail)
    }

    /// 403 `not_granted`: the same answer whether or not there is what was asked for.
    pub fn not_granted(detail: impl Into<Cow<'static, str>>) -> Problem {
        Problem::new(StatusCode::FORBIDDEN, "not_granted", "Not granted", detail)
    }

    /// 501 `not_implemented`: named by the specification, not built yet.
    pub fn not_implemented(detail: impl Into<Cow<'static, str>>) -> Problem {
        Problem::new(StatusCode::NOT_IMPLEMENTED, "not_implemented", "Not implemented yet", detail)
    }

    /// 500 `internal`: a mistake of the server's own, which its log tells more of.
    pub fn internal(detail: impl Into<Cow<'static, str>>) -> Problem {
        Problem::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "Something is wrong with the server",
            detail,
        )
    }

    /// The same about one part of what was sent (`line 7`).
    #[must_use]
    pub fn at(self, place: impl std::fmt::Display) -> Problem {
        Problem { detail: format!("{place}: {}", self.detail).into(), ..self }
    }

    /// The same, of one character of a text: the document's member `column`, counted from 1.
    #[must_use]
    pub fn column(self, column: usize) -> Problem {
        Problem { column: u32::try_from(column).ok(), ..self }
    }

    /// The same with a header in the answer (`Allow`, `Retry-After`, `WWW-Authenticate`).
    #[must_use]
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Problem {
        self.headers.append(name, value);
        self
    }

    /// The status of the answer.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The stable word.
    pub fn kind(&self) -> &'static str {
        self.kind
    }

    /// What was wrong with this request.
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// The headers that the answer has beside those of every problem.
    pub fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// The document: `{"type","title","status","detail","request_id"}`, and `column` where one character is meant.
    pub fn document(&self, request_id: &str) -> String {
        let mut document = serde_json::json!({
            "type": format!("urn:tidings:problem:{}", self.kind),
            "title": self.title,
            "status": self.status.as_u16(),
            "detail": self.detail,
            "request_id": request_id,
        });
        if let Some(column) = self.column {
            document["column"] = column.into();
        }
        document.to_string()
    }

    /// The whole answer.
    pub fn response<B: From<String>>(&self, request_id: &str) -> Response<B> {
        let mut response = Response::new(B::from(self.document(request_id) + "\n"));
        *response.status_mut() = self.status;
        *response.headers_mut() = (*self.headers).clone();
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        response
    }
}
