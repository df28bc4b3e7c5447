//! Reads a request head, strictly, and decides who answers it: a worker (a stream), the listener itself (a poll, a small
//! publish), hyper (all else), or nobody.
//!
//! hyper accepts heads that two readers can understand differently (request smuggling), and answers those it refuses
//! without a word. So every head of every connection passes here first, and what is let through means the same to
//! everybody: RFC 9112, sections 2.2, 3.2, 5 and 6.

use std::mem::MaybeUninit;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{ALLOW, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Method, Request, StatusCode, Uri, Version};

use crate::chunked::Chunked;
use crate::subscribe::asks_to_poll;
use crate::{BasePath, LimitsConfig, Problem};

/// The longest method, in bytes. The longest registered one has 16.
const LONGEST_METHOD: usize = 32;
/// How many header fields can be parsed; the configured limit is at most this.
const MOST_HEADERS: usize = 256;
/// How many empty lines before a request line are skipped (RFC 9112, 2.2: some clients send one after a body).
const EMPTY_LINES: usize = 4;

/// How large the body of a publish may be that the listener answers itself, in bytes. For a larger one, which hyper
/// reads piece by piece, the rest costs more than hyper does.
const DIRECT_BODY: u64 = 64 << 10;

/// Who answers a request.
#[derive(Debug)]
pub(crate) enum Route {
    /// A worker: it is a subscribe request.
    Stream(Box<Parts>),
    /// The listener itself: a request for events that is to be answered once.
    Poll(Box<Parts>),
    /// The listener itself: a publish whose body has so many bytes.
    Publish(Box<Parts>, usize),
    /// The router, through hyper, after this body.
    Http(Body),
}

/// How far the body of a request reaches.
#[derive(Debug)]
pub(crate) enum Body {
    /// So many bytes are still to come.
    Length(u64),
    /// To the end of the last chunk and its trailer.
    Chunked(Chunked),
}

/// A complete head.
#[derive(Debug)]
pub(crate) struct Head {
    /// Its length with the blank line, in bytes.
    pub(crate) len: usize,
    /// Who answers.
    pub(crate) route: Route,
}

/// Which requests are streams, and how large a head may be.
#[derive(Debug, Clone)]
pub(crate) struct Routes(Arc<Rules>);

#[derive(Debug)]
struct Rules {
    /// The path of streams.
    events: String,
    /// The path to publish at, if the listener is to answer it.
    publish: Option<String>,
    /// Bytes of a head, with its blank line.
    head: usize,
    /// Bytes of a target.
    target: usize,
    /// Header fields.
    headers: usize,
}

impl Routes {
    /// `publish`: whether the listener itself answers small publishes.
    pub(crate) fn new(base_path: &BasePath, limits: &LimitsConfig, publish: bool) -> Routes {
        Routes(Arc::new(Rules {
            events: format!("{base_path}/events"),
            publish: publish.then(|| format!("{base_path}/publish")),
            head: limits.head,
            target: limits.target,
            headers: limits.headers.min(MOST_HEADERS),
        }))
    }

    /// The longest head, in bytes.
    pub(crate) fn longest_head(&self) -> usize {
        self.0.head
    }

    /// The head that `bytes` begin with. `Ok(None)` when it is not complete; `scanned` is how many bytes were looked at
    /// before, and is kept up here, so that a head that arrives byte by byte is looked at once.
    pub(crate) fn read(&self, bytes: &[u8], scanned: &mut usize) -> Result<Option<Head>, Problem> {
        let Some(len) = find_end(bytes, scanned)? else {
            return self.0.too_long(bytes).map_or(Ok(None), Err);
        };
        match self.0.too_long(&bytes[..len]) {
            Some(problem) => Err(problem),
            None => self.0.parse(&bytes[..len]).map(|route| Some(Head { len, route })),
        }
    }
}

impl Rules {
    fn parse(&self, bytes: &[u8]) -> Result<Route, Problem> {
        let mut headers = [const { MaybeUninit::uninit() }; MOST_HEADERS];
        let mut head = httparse::Request::new(&mut []);
        match head.parse_with_uninit_headers(bytes, &mut headers) {
            Ok(httparse::Status::Complete(_)) => {}
            // `find_end` saw the blank line, so what is missing will never come.
            Ok(httparse::Status::Partial) => return Err(malformed("it ends too early")),
            Err(error) => return Err(refused(error, bytes)),
        }
        if head.headers.len() > self.headers {
            return Err(too_many_headers());
        }
        let (Some(method), Some(target), Some(version)) = (head.method, head.path, head.version) else {
            return Err(malformed("its first line is not complete"));
        };
        let fields = Fields::check(head.headers, version)?;
        let target = Target::check(method, target, fields.host)?;
        let body = fields.body();
        if method == "POST"
            && let Body::Length(length) = body
            && length <= DIRECT_BODY
            && fields.plain
            && version >= 1
            && self.publish.as_deref() == Some(target.path())
        {
            let parts = parts(Method::POST, target.text, version, head.headers)?;
            return Ok(Route::Publish(Box::new(parts), length as usize));
        }
        if method != "GET" || target.path() != self.events {
            return Ok(Route::Http(body));
        }
        if !matches!(body, Body::Length(0)) {
            return Err(Problem::bad_request("a subscribe request has no body"));
        }
        let parts = Box::new(parts(Method::GET, target.text, version, head.headers)?);
        Ok(if asks_to_poll(parts.uri.query()) { Route::Poll(parts) } else { Route::Stream(parts) })
    }

    /// What is wrong with the beginning of a head, whatever may follow: some of these heads would never end.
    fn too_long(&self, bytes: &[u8]) -> Option<Problem> {
        let line = memchr::memchr(b'\n', bytes).map_or(bytes, |end| &bytes[..end]);
        let method = memchr::memchr(b' ', &line[..line.len().min(LONGEST_METHOD + 1)]);
        let begun = &line[..method.unwrap_or(line.len()).min(LONGEST_METHOD)];
        let token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
        if !begun.iter().all(|byte| token(byte) || *byte == b'\r') {
            return Some(malformed("it does not begin with a method"));
        }
        let Some(method) = method else {
            return (line.len() > LONGEST_METHOD).then(|| malformed("it does not begin with a method"));
        };
        let target = &line[method + 1..];
        let target_len = memchr::memchr(b' ', target).unwrap_or(target.len());
        if target_len > self.target {
            let max = self.target;
            let detail =
                format!("the request's target has more than {max} bytes; send fewer or shorter parameters");
            return Some(Problem::new(
                StatusCode::URI_TOO_LONG,
                "target_too_long",
                "Target too long",
                detail,
            ));
        }
        (bytes.len() > self.head).then(|| head_too_large("the request's head has too many bytes"))
    }
}

/// Where the head ends, after its blank line. Line ends are CRLF and nothing else: a bare LF is a line's end to some
/// readers and none to others.
fn find_end(bytes: &[u8], scanned: &mut usize) -> Result<Option<usize>, Problem> {
    let from = *scanned;
    for at in memchr::memchr_iter(b'\n', &bytes[from..]).map(|at| from + at) {
        if at == 0 || bytes[at - 1] != b'\r' {
            return Err(malformed("a line ends with LF alone"));
        }
        if at >= 3 && bytes[at - 3] == b'\r' && bytes[at - 2] == b'\n' {
            return Ok(Some(at + 1));
        }
    }
    *scanned = bytes.len();
    Ok(None)
}

/// How many bytes of empty lines stand before a request line; an error when there are too many.
pub(crate) fn empty_lines(bytes: &[u8]) -> Result<usize, Problem> {
    let lines = bytes.chunks_exact(2).take_while(|line| line == b"\r\n").count();
    if lines > EMPTY_LINES {
        return Err(malformed("empty lines stand where a request should begin"));
    }
    Ok(lines * 2)
}

fn malformed(what: &'static str) -> Problem {
    let detail = format!("the request's head is not valid HTTP/1.1: {what}");
    Problem::new(StatusCode::BAD_REQUEST, "bad_head", "The request's head is not valid", detail)
}

fn head_too_large(detail: &'static str) -> Problem {
    let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
    Problem::new(status, "head_too_large", "The request's head is too large", detail)
}

fn too_many_headers() -> Problem {
    head_too_large("the request has too many header fields")
}

fn refused(error: httparse::Error, head: &[u8]) -> Problem {
    match error {
        httparse::Error::TooManyHeaders => too_many_headers(),
        httparse::Error::Version if names_version(head) => {
            let detail = "this listener speaks HTTP/1.1 and HTTP/1.0";
            let status = StatusCode::HTTP_VERSION_NOT_SUPPORTED;
            Problem::new(status, "version", "HTTP version not supported", detail)
        }
        httparse::Error::HeaderName => {
            malformed("a field's name has a character that it can't have, or a line is folded")
        }
        httparse::Error::HeaderValue => malformed("a field's value has a control character"),
        httparse::Error::NewLine => malformed("a line ends with something else than CRLF"),
        _ => malformed("its first line is not a method, a target and a version"),
    }
}

/// Whether the first line is a method, a target and some version of HTTP.
fn names_version(head: &[u8]) -> bool {
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let mut words = line.split(|byte| *byte == b' ').skip(2);
    let version = words.next().and_then(|word| word.strip_prefix(b"HTTP/"));
    words.next().is_none() && matches!(version, Some([b'0'..=b'9', b'.', b'0'..=b'9']))
}

/// The fields that decide where a request ends and whom it is for.
struct Fields<'a> {
    host: Option<&'a [u8]>,
    length: Option<u64>,
    chunked: bool,
    /// Nothing is said of how the connection goes on but what is the case anyway, and the body is no stream of lines.
    plain: bool,
}

impl<'a> Fields<'a> {
    fn check(headers: &[httparse::Header<'a>], version: u8) -> Result<Fields<'a>, Problem> {
        let mut fields = Fields { host: None, length: None, chunked: false, plain: true };
        for header in headers {
            // By length first: most fields are none of these.
            match header.name.len() {
                4 if header.name.eq_ignore_ascii_case("host") => {
                    if fields.host.is_some() {
                        return Err(malformed("it has more than one Host"));
                    }
                    if !is_host(header.value) {
                        return Err(malformed("its Host is not a name with an optional port"));
                    }
                    fields.host = Some(header.value);
                }
                14 if header.name.eq_ignore_ascii_case("content-length") => {
                    if fields.length.is_some() {
                        return Err(malformed("it has more than one Content-Length"));
                    }
                    fields.length = Some(content_length(header.value)?);
                }
                17 if header.name.eq_ignore_ascii_case("transfer-encoding") => {
                    if fields.chunked {
                        return Err(malformed("it has more than one Transfer-Encoding"));
                    }
                    check_coding(header.value)?;
                    fields.chunked = true;
                }
                10 if header.name.eq_ignore_ascii_case("connection") => {
                    fields.plain &= header.value.eq_ignore_ascii_case(b"keep-alive");
                }
                6 if header.name.eq_ignore_ascii_case("expect") => fields.plain = false,
                7 if header.name.eq_ignore_ascii_case("upgrade") => fields.plain = false,
                12 if header.name.eq_ignore_ascii_case("content-type") => {
                    fields.plain &= !is_lines(header.value);
                }
                _ => {}
            }
        }
        if version >= 1 && fields.host.is_none() {
            return Err(malformed("it has no Host"));
        }
        if fields.chunked && fields.length.is_some() {
            return Err(malformed("it has both Content-Length and Transfer-Encoding"));
        }
        if fields.chunked && version == 0 {
            return Err(malformed("HTTP/1.0 has no Transfer-Encoding"));
        }
        Ok(fields)
    }

    fn body(&self) -> Body {
        match self.chunked {
            true => Body::Chunked(Chunked::default()),
            false => Body::Length(self.length.unwrap_or(0)),
        }
    }
}

/// Whether a body of this content type is a stream of lines (NDJSON), each published as it arrives.
pub(crate) fn is_lines(content_type: &[u8]) -> bool {
    let essence = content_type.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    [&b"application/x-ndjson"[..], b"application/ndjson"]
        .iter()
        .any(|lines| essence.eq_ignore_ascii_case(lines))
}

/// RFC 9110, 7.2: `uri-host [ ":" port ]`, with the characters of RFC 3986, 3.2.2. No user, no list, not empty.
fn is_host(value: &[u8]) -> bool {
    let (name, port) = match value.iter().rposition(|byte| *byte == b':') {
        Some(colon) if !value.ends_with(b"]") => (&value[..colon], &value[colon + 1..]),
        _ => (value, &b""[..]),
    };
    let allowed = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+;=".contains(byte);
    let name_fits = match name.strip_prefix(b"[") {
        Some(literal) => literal.strip_suffix(b"]").is_some_and(|inside| {
            !inside.is_empty() && inside.iter().all(|byte| allowed(byte) || *byte == b':')
        }),
        None => !name.is_empty() && name.iter().all(allowed),
    };
    name_fits && port.len() <= 5 && port.iter().all(u8::is_ascii_digit)
}

/// Digits only: no sign, no list of equal values.
fn content_length(value: &[u8]) -> Result<u64, Problem> {
    let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    digits
        .then(|| std::str::from_utf8(value).ok()?.parse().ok())
        .flatten()
        .ok_or_else(|| malformed("its Content-Length is not a number"))
}

fn check_coding(value: &[u8]) -> Result<(), Problem> {
    if value.eq_ignore_ascii_case(b"chunked") {
        return Ok(());
    }
    let codings: Vec<_> = value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).collect();
    let chunked = codings.iter().filter(|coding| coding.eq_ignore_ascii_case(b"chunked")).count();
    match codings.last() {
        Some(last) if last.eq_ignore_ascii_case(b"chunked") && chunked == 1 => {
            let detail = "the only transfer coding for requests here is \"chunked\"";
            Err(Problem::new(
                StatusCode::NOT_IMPLEMENTED,
                "transfer_coding",
                "Transfer coding not supported",
                detail,
            ))
        }
        _ => Err(malformed("its Transfer-Encoding does not say where the body ends")),
    }
}

/// What a request asks for.
struct Target<'a> {
    text: &'a str,
    /// The part of `text` from the path on.
    from_path: &'a str,
}

impl<'a> Target<'a> {
    fn check(method: &str, text: &'a str, host: Option<&[u8]>) -> Result<Target<'a>, Problem> {
        if method == "CONNECT" {
            let allowed = HeaderValue::from_static("GET, HEAD, POST, PUT, DELETE, OPTIONS");
            let detail = "this server is no proxy";
            let status = StatusCode::METHOD_NOT_ALLOWED;
            let problem = Problem::new(status, "method_not_allowed", "Method not allowed", detail);
            return Err(problem.header(ALLOW, allowed));
        }
        check_characters(text)?;
        let from_path = match text.as_bytes() {
            [b'/', ..] => text,
            b"*" if method == "OPTIONS" => text,
            _ => path_of_absolute(text, host)?,
        };
        Ok(Target { text, from_path })
    }

    fn path(&self) -> &'a str {
        self.from_path.split('?').next().unwrap_or_default()
    }
}

/// No fragment, no incomplete percent-encoding, and nothing that the `http` crate (and with it hyper, which would
/// answer without a body) does not take. Bytes past ASCII are no URI, but what `curl` makes of a channel called `ä`.
fn check_characters(text: &str) -> Result<(), Problem> {
    let bytes = text.as_bytes();
    let mut plain = true;
    for (at, byte) in bytes.iter().enumerate() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'?' | b'&' | b'=' => {}
            b'%' => {
                let hex = bytes.get(at + 1..at + 3);
                if !hex.is_some_and(|hex| hex.iter().all(u8::is_ascii_hexdigit)) {
                    return Err(Problem::bad_request(
                        "a \"%\" in the request's target is not followed by two hexadecimal digits",
                    ));
                }
            }
            b'#' => return Err(malformed("its target has a fragment")),
            b'-' | b'.' | b'_' | b'~' | b'!' | b'$' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';'
            | b':' | b'@' => {}
            _ => plain = false,
        }
    }
    if !plain && Uri::try_from(text).is_err() {
        return Err(Problem::bad_request(
            "the request's target has a character that must be percent-encoded",
        ));
    }
    Ok(())
}

/// RFC 9112, 3.2.2: a client that takes this server for a proxy. Its authority beats the Host; when they differ,
/// somebody on the way may have believed the other one.
fn path_of_absolute<'a>(text: &'a str, host: Option<&[u8]>) -> Result<&'a str, Problem> {
    let scheme = |name: &str| {
        let (start, rest) = text.split_at_checked(name.len())?;
        start.eq_ignore_ascii_case(name).then_some(rest)
    };
    let Some(rest) = scheme("http://").or_else(|| scheme("https://")) else {
        return Err(malformed("its target does not begin with a slash"));
    };
    let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    if !is_host(authority.as_bytes()) || Uri::try_from(text).is_err() {
        return Err(malformed("its target's authority is not a name with an optional port"));
    }
    if host.is_some_and(|host| !host.eq_ignore_ascii_case(authority.as_bytes())) {
        return Err(malformed("its target names another host than its Host"));
    }
    Ok(path)
}

/// The head as the rest of the server reads it.
fn parts(
    method: Method,
    target: &str,
    version: u8,
    headers: &[httparse::Header<'_>],
) -> Result<Parts, Problem> {
    let unreadable = |_| malformed("it can't be read");
    let (mut parts, ()) = Request::new(()).into_parts();
    parts.method = method;
    parts.uri = Uri::try_from(target).map_err(|_| {
        Problem::bad_request("the request's target has a character that must be percent-encoded")
    })?;
    parts.version = if version == 0 { Version::HTTP_10 } else { Version::HTTP_11 };
    parts.headers.reserve(headers.len());
    for header in headers {
        let name = HeaderName::from_bytes(header.name.as_bytes())
            .map_err(|_| malformed("a field has a bad name"))?;
        let value =
            HeaderValue::from_maybe_shared(Bytes::copy_from_slice(header.value)).map_err(unreadable)?;
        parts.headers.append(name, value);
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routes(base: &str) -> Routes {
        Routes::new(&base.parse().unwrap(), &LimitsConfig::default(), true)
    }

    fn read(text: &str) -> Result<Option<Head>, Problem> {
        routes("").read(text.as_bytes(), &mut 0)
    }

    fn status(text: &str) -> u16 {
        match read(text) {
            Ok(Some(_)) => 200,
            Ok(None) => 0,
            Err(problem) => problem.status().as_u16(),
        }
    }

    const HOST: &str = "Host: a\r\n";

    #[test]
    fn a_small_publish_is_the_listeners_unless_it_is_a_stream_of_lines() {
        for (headers, direct) in [
            ("", true),
            ("Content-Type: application/json; charset=utf-8\r\n", true),
            ("Content-Type: application/cloudevents+json\r\n", true),
            ("Content-Type: application/x-ndjson\r\n", false),
            ("Content-Type: Application/X-NDJSON; a=b\r\n", false),
            ("Content-Type: application/ndjson\r\n", false),
            ("Expect: 100-continue\r\n", false),
            ("Connection: close\r\n", false),
            ("Connection: Keep-Alive\r\n", true),
        ] {
            let text = format!("POST /publish HTTP/1.1\r\n{HOST}{headers}Content-Length: 1\r\n\r\n");
            let route = read(&text).unwrap().unwrap().route;
            assert_eq!(matches!(route, Route::Publish(_, 1)), direct, "{headers}");
        }
    }

    #[test]
    fn a_stream_is_told_from_the_rest() {
        let check = |base: &str, line: &str, stream: bool| {
            let text = format!("{line}\r\n{HOST}\r\n");
            let head = routes(base).read(text.as_bytes(), &mut 0).unwrap().unwrap();
            assert_eq!(matches!(head.route, Route::Stream(_)), stream, "{base} {line}");
            assert_eq!(head.len, text.len());
        };
        check("", "GET /events HTTP/1.1", true);
        check("", "GET /events?channel=a/b HTTP/1.1", true);
        check("", "GET /events HTTP/1.0", true);
        check("", "GET /events?poll=0&xpoll=1 HTTP/1.1", true);
        check("", "GET /events?a&poll=1 HTTP/1.1", false);
        check("", "GET /events?%70oll=1&poll=0 HTTP/1.1", false);
        check("", "GET http://a/events?x HTTP/1.1", true);
        check("/sse", "GET /sse/events HTTP/1.1", true);
        check("/sse", "GET /events HTTP/1.1", false);
        check("", "HEAD /events HTTP/1.1", false);
        check("", "OPTIONS /events HTTP/1.1", false);
        check("", "POST /events HTTP/1.1", false);
        check("", "GET /events/ HTTP/1.1", false);
        check("", "GET /history HTTP/1.1", false);
        check("", "OPTIONS * HTTP/1.1", false);
    }

    #[test]
    fn a_stream_request_keeps_what_it_said() {
        let text = "GET /events?channel=%C3%A4 HTTP/1.1\r\nHost: a\r\nAccept: text/event-stream\r\nX: \u{e4}\r\n\r\n";
        let Route::Stream(parts) = read(text).unwrap().unwrap().route else { panic!("no stream") };
        assert_eq!(parts.uri.query(), Some("channel=%C3%A4"));
        assert_eq!(parts.version, Version::HTTP_11);
        assert_eq!(parts.headers["accept"], "text/event-stream");
        assert_eq!(parts.headers["x"].as_bytes(), "\u{e4}".as_bytes());
    }

    /// Every line is a head (without its blank line) that two readers could understand differently, or that no client
    /// has a reason to send.
    #[test]
    fn ambiguous_heads_are_refused() {
        for (head, expected) in [
            ("POST /publish HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1", 400),
            ("POST /publish HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2", 400),
            ("POST /publish HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 1", 400),
            ("POST /publish HTTP/1.1\r\nHost: a\r\nContent-Length: +1", 400),
            ("POST /publish HTTP/1.1\r\nHost: a\r\nContent-Length: -1", 400),
            ("POST /publish HTTP/1.1\r\nHost: a\r\nContent-Length: 0x1", 400),
            ("POST /publish HTTP/1.1\r\nHost: a\r\nContent-Length:", 400),
            ("POST /publish HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999", 400),
            ("POST /publish HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked", 400),
            ("POST /publish HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 1", 400),
            (
                "POST /publish HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
                400,
            ),
            ("POST /publish HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked", 400),
            ("POST /publish HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity", 400),
            ("POST /publish HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked", 501),
            ("POST /publish HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked", 400),
            ("POST /publish HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:", 400),
            ("POST /publish HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \u{b}chunked", 400),
            ("POST /publish HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked", 400),
            ("POST /publish HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked", 400),
            ("POST /publish HTTP/1.1\r\nHost: a\r\nContent-Length : 1", 400),
            ("GET /events HTTP/1.1", 400),
            ("GET /events HTTP/1.1\r\nHost: a\r\nHost: a", 400),
            ("GET /events HTTP/1.1\r\nHost: a\r\nhost: b", 400),
            ("GET /events HTTP/1.1\r\nHost:", 400),
            ("GET /events HTTP/1.1\r\nHost: a/b", 400),
            ("GET /events HTTP/1.1\r\nHost: a, b", 400),
            ("GET /events HTTP/1.1\r\nHost: u@a", 400),
            ("GET /events HTTP/1.1\r\nHost: a:b", 400),
            ("GET /events HTTP/1.1\r\nHost: a\r\nX: a\r\n b", 400),
            ("GET /events HTTP/1.1\r\nHost: a\r\nX: a\r\n\tb", 400),
            ("GET /events HTTP/1.1\r\n Host: a", 400),
            ("GET /events HTTP/1.1\r\nHost: a\r\nX: a\0b", 400),
            ("GET /events HTTP/1.1\r\nHost: a\r\nX: a\rb", 400),
            ("GET /events HTTP/1.1\r\nHost: a\r\nX: a\nY: b", 400),
            ("GET /events HTTP/1.1\nHost: a", 400),
            ("GET /events HTTP/1.1\r\nHost: a\r\n: b", 400),
            ("GET /events HTTP/1.1\r\nHost: a\r\nno colon", 400),
            ("GET /events HTTP/1.1\r\nHost: a\r\nContent-Length: 1", 400),
            ("GET /events HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked", 400),
            ("GET  /events HTTP/1.1\r\nHost: a", 400),
            ("GET /events  HTTP/1.1\r\nHost: a", 400),
            ("GET /ev ents HTTP/1.1\r\nHost: a", 400),
            ("GET /events HTTP/1.2\r\nHost: a", 505),
            ("GET /events HTTP/2.0\r\nHost: a", 505),
            ("PRI * HTTP/2.0", 505),
            ("GET events HTTP/1.1\r\nHost: a", 400),
            ("GET * HTTP/1.1\r\nHost: a", 400),
            ("GET ftp://a/events HTTP/1.1\r\nHost: a", 400),
            ("GET http://b/events HTTP/1.1\r\nHost: a", 400),
            ("GET http://u@a/events HTTP/1.1\r\nHost: u@a", 400),
            ("GET http:///events HTTP/1.1\r\nHost: a", 400),
            ("CONNECT a:80 HTTP/1.1\r\nHost: a", 405),
            ("GET /events?channel=%zz HTTP/1.1\r\nHost: a", 400),
            ("GET /events?channel=%4 HTTP/1.1\r\nHost: a", 400),
            ("GET /events?a#b HTTP/1.1\r\nHost: a", 400),
            ("GET /events?\u{7f} HTTP/1.1\r\nHost: a", 400),
            ("\x16\x03\x01 HTTP/1.1\r\nHost: a", 400),
            ("GET\t/events HTTP/1.1\r\nHost: a", 400),
        ] {
            assert_eq!(status(&format!("{head}\r\n\r\n")), expected, "{head:?}");
        }
    }

    #[test]
    fn heads_as_clients_send_them_are_taken() {
        for head in [
            "GET /events HTTP/1.1\r\nHost: [::1]:4600",
            "GET /events HTTP/1.1\r\nHost: a.example:80\r\nContent-Length: 0",
            "GET /events HTTP/1.0",
            "GET /events?channel=a|b{c}[d]^ HTTP/1.1\r\nHost: a",
            "GET /events?channel=\u{e4} HTTP/1.1\r\nHost: a",
            "GET / HTTP/1.1\r\nhOST: a\r\nX:\r\nY:\t b \t",
            "POST /publish HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked",
            "POST /publish HTTP/1.1\r\nHost: a\r\nContent-Length: 00012",
            "M-SEARCH /a HTTP/1.1\r\nHost: a",
        ] {
            assert_eq!(status(&format!("{head}\r\n\r\n")), 200, "{head:?}");
        }
    }

    #[test]
    fn sizes_have_limits() {
        let target = |len: usize| format!("GET /{} HTTP/1.1\r\n{HOST}\r\n", "a".repeat(len - 1));
        assert_eq!(status(&target(8192)), 200);
        assert_eq!(status(&target(8193)), 414);
        assert_eq!(status(&format!("GET /{}", "a".repeat(8192))), 414, "before it ends");
        let headers = |count: usize| format!("GET / HTTP/1.1\r\n{HOST}{}\r\n", "X: y\r\n".repeat(count - 1));
        assert_eq!(status(&headers(100)), 200);
        assert_eq!(status(&headers(101)), 431);
        let sized = |len: usize| {
            let rest = format!("GET / HTTP/1.1\r\n{HOST}X: \r\n\r\n").len();
            format!("GET / HTTP/1.1\r\n{HOST}X: {}\r\n\r\n", "y".repeat(len - rest))
        };
        assert_eq!(status(&sized(32 * 1024)), 200);
        assert_eq!(status(&sized(32 * 1024 + 1)), 431);
        assert_eq!(status(&format!("GET / HTTP/1.1\r\nX: {}", "y".repeat(33 * 1024))), 431, "before it ends");
        assert_eq!(status(&"A".repeat(33)), 400, "a method without an end");
    }

    #[test]
    fn a_head_is_complete_with_its_last_byte_only() {
        let text = format!("GET /events HTTP/1.1\r\n{HOST}Accept: */*\r\n\r\nGET /next");
        let end = text.len() - "GET /next".len();
        let mut scanned = 0;
        for len in 0..end {
            let head = routes("").read(&text.as_bytes()[..len], &mut scanned).unwrap();
            assert!(head.is_none(), "{len}");
        }
        assert_eq!(routes("").read(text.as_bytes(), &mut scanned).unwrap().unwrap().len, end);
    }

    #[test]
    fn a_few_empty_lines_before_a_request_are_skipped() {
        assert_eq!(empty_lines(b"\r\n\r\nGET /").ok(), Some(4));
        assert_eq!(empty_lines(b"GET /").ok(), Some(0));
        assert_eq!(empty_lines(b"\r").ok(), Some(0));
        assert!(empty_lines(&b"\r\n".repeat(5)).is_err());
    }
}
