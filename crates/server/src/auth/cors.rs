//! Which pages of other origins may read answers (Fetch Standard, section 3.2).

use std::time::Duration;

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, HeaderValue, VARY,
};
use http::request::Parts;
use http::{HeaderMap, Method, Response, StatusCode};

use super::origin::{Origin, Origins, RequestOrigin};
use crate::log_limit::LogLimit;

const METHODS: HeaderValue = HeaderValue::from_static("GET, HEAD, POST, PUT, DELETE");
const HEADERS: HeaderValue =
    HeaderValue::from_static("Authorization, Cache-Control, Last-Event-ID, Content-Type, Idempotency-Key");
/// What a page may read beside the headers that it always may.
const EXPOSED: HeaderValue = HeaderValue::from_static("Retry-After, WWW-Authenticate");
/// How long a browser may keep a preflight's answer, in seconds; Chromium keeps none longer than two hours.
const MAX_AGE: HeaderValue = HeaderValue::from_static("3600");

/// The pages of other origins that may read answers. None by default.
#[derive(Debug)]
pub struct Cors {
    origins: Origins,
    refused: LogLimit,
}

/// What a page of an origin may.
enum Verdict<'a> {
    /// There is no other origin.
    NotAsked,
    /// Read answers, and send cookies along.
    Trusted(&'a Origin),
    /// Read what anybody may read.
    Public,
    Refused,
}

impl Cors {
    /// Lets the pages of these origins read answers.
    pub fn new(origins: Origins) -> Cors {
        Cors { origins, refused: LogLimit::new(Duration::from_secs(10)) }
    }

    /// The answer to a preflight; none if the request is not one.
    ///
    /// A refused origin is answered without the headers that would allow it: the browser then says so.
    pub fn preflight<B: Default>(&self, request: &Parts) -> Option<Response<B>> {
        let is_preflight = request.method == Method::OPTIONS
            && request.headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD)
            && RequestOrigin::of(&request.headers) != RequestOrigin::None;
        if !is_preflight {
            return None;
        }
        let mut response = Response::new(B::default());
        *response.status_mut() = StatusCode::NO_CONTENT;
        let headers = response.headers_mut();
        self.apply(request, headers);
        headers.append(VARY, ACCESS_CONTROL_REQUEST_METHOD.into());
        headers.append(VARY, ACCESS_CONTROL_REQUEST_HEADERS.into());
        if headers.contains_key(ACCESS_CONTROL_ALLOW_ORIGIN) {
            headers.remove(ACCESS_CONTROL_EXPOSE_HEADERS);
            headers.insert(ACCESS_CONTROL_ALLOW_METHODS, METHODS);
            headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, HEADERS);
            headers.insert(ACCESS_CONTROL_MAX_AGE, MAX_AGE);
        }
        Some(response)
    }

    /// Says in an answer who may read it. To be called for every answer, the refusals too: a page can't tell a 401
    /// that it may not read from a server that is away.
    pub fn apply(&self, request: &Parts, response: &mut HeaderMap) {
        let origin = RequestOrigin::of(&request.headers);
        // Even an answer to a request without an origin may be kept by a cache between.
        if !response.get_all(VARY).iter().any(|vary| vary == "Origin") {
            response.append(VARY, HeaderValue::from_static("Origin"));
        }
        match self.judge(&origin) {
            Verdict::NotAsked => return,
            Verdict::Trusted(origin) => {
                let Ok(origin) = HeaderValue::from_str(origin.as_str()) else { return };
                response.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
                response.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
            }
            Verdict::Public => {
                response.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
            }
            Verdict::Refused => return self.log_refusal(request, &origin),
        }
        response.insert(ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
    }

    fn judge<'a>(&self, origin: &'a RequestOrigin) -> Verdict<'a> {
        match origin {
            RequestOrigin::None => Verdict::NotAsked,
            RequestOrigin::Page(origin) if self.origins.trusts(origin) => Verdict::Trusted(origin),
            _ if self.origins.any => Verdict::Public,
            _ => Verdict::Refused,
        }
    }

    /// A page of the server itself sends its origin too, with everything but reads: that is no refusal.
    fn log_refusal(&self, request: &Parts, origin: &RequestOrigin) {
        if request.headers.get("sec-fetch-site").is_some_and(|site| site == "same-origin") {
            return;
        }
        let Some(suppressed) = self.refused.pass() else { return };
        match origin {
            RequestOrigin::Page(origin) => tracing::warn!(
                suppressed,
                "pages of {origin} may not read this server's answers; to allow them: [cors] origins = [\"{origin}\"]"
            ),
            _ => tracing::warn!(
                suppressed,
                "a page without an origin (a file, a sandboxed frame) may not read this server's answers; \
                 to allow all pages, without cookies: [cors] origins = [\"*\"]"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn parts(method: Method, headers: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().method(method).uri("/events");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn cors(list: &[&'static str]) -> Cors {
        Cors::new(Origins::parse(list.iter().copied()).unwrap())
    }

    /// The allowed origin and whether credentials are.
    fn applied(cors: &Cors, origin: Option<&str>) -> (Option<String>, bool) {
        let headers: Vec<_> = origin.map(|origin| ("origin", origin)).into_iter().collect();
        let mut response = HeaderMap::new();
        // Twice, as for an answer to a preflight, is not more than once.
        cors.apply(&parts(Method::GET, &headers), &mut response);
        cors.apply(&parts(Method::GET, &headers), &mut response);
        assert_eq!(response.get_all(VARY).iter().collect::<Vec<_>>(), ["Origin"]);
        let allowed = response.get(ACCESS_CONTROL_ALLOW_ORIGIN).map(|v| v.to_str().unwrap().to_owned());
        (allowed, response.contains_key(ACCESS_CONTROL_ALLOW_CREDENTIALS))
    }

    #[test]
    fn no_origin_is_reflected_unless_it_is_listed() {
        let nobody = (None, false);
        let app = (Some("https://app.example".to_owned()), true);
        let anybody = (Some("*".to_owned()), false);
        assert_eq!(applied(&cors(&[]), Some("https://app.example")), nobody);
        assert_eq!(applied(&cors(&[]), None), nobody);
        let listed = cors(&["https://app.example"]);
        assert_eq!(applied(&listed, Some("https://app.example")), app);
        assert_eq!(applied(&listed, None), nobody);
        for foreign in
            ["https://app.example.evil", "http://app.example", "https://app.example:8443", "null", ""]
        {
            assert_eq!(applied(&listed, Some(foreign)), nobody, "{foreign}");
        }
        let public = cors(&["*", "https://app.example"]);
        assert_eq!(applied(&public, Some("https://app.example")), app);
        assert_eq!(applied(&public, Some("https://other.example")), anybody);
        assert_eq!(applied(&public, Some("null")), anybody);
        let dev = Cors::new(Origins { local: true, ..Origins::default() });
        assert_eq!(applied(&dev, Some("http://localhost:3000")).0.as_deref(), Some("http://localhost:3000"));
        assert_eq!(applied(&dev, Some("http://evil.example")), nobody);
    }

    #[test]
    fn preflights_are_answered() {
        let asked = [("origin", "https://app.example"), ("access-control-request-method", "GET")];
        let response: Response<()> =
            cors(&["https://app.example"]).preflight(&parts(Method::OPTIONS, &asked)).unwrap();
        assert_eq!(response.status(), 204);
        let headers = response.headers();
        assert_eq!(headers[ACCESS_CONTROL_ALLOW_ORIGIN], "https://app.example");
        assert_eq!(headers[ACCESS_CONTROL_ALLOW_CREDENTIALS], "true");
        let vary: Vec<_> = headers.get_all(VARY).iter().collect();
        assert_eq!(vary, ["Origin", "access-control-request-method", "access-control-request-headers"]);
        for name in ["Authorization", "Cache-Control", "Last-Event-ID", "Content-Type", "Idempotency-Key"] {
            assert!(headers[ACCESS_CONTROL_ALLOW_HEADERS].to_str().unwrap().contains(name), "{name}");
        }
        for method in ["GET", "POST", "PUT", "DELETE"] {
            assert!(headers[ACCESS_CONTROL_ALLOW_METHODS].to_str().unwrap().contains(method), "{method}");
        }

        let refused: Response<()> = cors(&[]).preflight(&parts(Method::OPTIONS, &asked)).unwrap();
        assert_eq!(refused.status(), 204);
        assert!(refused.headers().keys().all(|name| !name.as_str().starts_with("access-control")));
    }

    #[test]
    fn other_requests_are_no_preflights() {
        let cors = cors(&["https://app.example"]);
        for (method, headers) in [
            (Method::GET, vec![("origin", "https://app.example"), ("access-control-request-method", "GET")]),
            (Method::OPTIONS, vec![("origin", "https://app.example")]),
            (Method::OPTIONS, vec![("access-control-request-method", "GET")]),
        ] {
            assert!(cors.preflight::<()>(&parts(method, &headers)).is_none());
        }
    }
}
