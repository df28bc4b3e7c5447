//! What is written before a stream's first block, and answers that are no stream at all.

use std::fmt::Write as _;
use std::io::Write as _;
use std::time::SystemTime;

use http::header::{CACHE_CONTROL, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, Response, StatusCode, Version};
use httpdate::HttpDate;
use tidings_wire::{Control, Cursor, Framing, LAST_CHUNK, encode_control};

/// How a stream's bytes are framed for a client of this version: one that has no chunks gets the blocks as they are,
/// up to the connection's end.
pub(crate) fn framing(version: Version) -> Framing {
    if version == Version::HTTP_10 { Framing::Raw } else { Framing::Chunked }
}

/// The response's head and the first lines, in one piece for one packet: `:ok`, a comment of `padding` bytes for
/// polyfills that wait for so many, and how long to wait before coming back, in milliseconds.
pub(crate) fn opening(framing: Framing, cors: &HeaderMap, padding: u16, retry: u32) -> Vec<u8> {
    let mut out = stream_head(framing, cors);
    let mut lines = String::from(":ok\n");
    if padding > 0 {
        // The colon is one of them.
        let _ = writeln!(lines, ":{:1$}", "", usize::from(padding) - 1);
    }
    let _ = writeln!(lines, "retry: {retry}");
    put_framed(&mut out, framing, lines.as_bytes());
    out
}

/// A whole answer to who can't have a stream now but is to come back: `EventSource` does after a 200, and after nothing
/// else. `id` is what to come back with; a newcomer that asked for history has none, and is a newcomer again.
pub(crate) fn come_back(
    framing: Framing,
    cors: &HeaderMap,
    control: &Control<'_>,
    retry: u32,
    id: Option<&Cursor>,
) -> Vec<u8> {
    let mut out = stream_head(framing, cors);
    put_framed(&mut out, framing, format!(":ok\nretry: {retry}\n").as_bytes());
    match id {
        Some(id) => encode_control(&mut out, framing, control, Some(retry), id),
        None => {
            // Every block has an id; an empty one is none to come back with (HTML Standard, 9.2.6).
            let block = format!("event: {}\nretry: {retry}\ndata: {{}}\nid: \n\n", control.event_type());
            put_framed(&mut out, framing, block.as_bytes());
        }
    }
    if let Framing::Chunked = framing {
        out.extend_from_slice(LAST_CHUNK);
    }
    out
}

/// 204, whole: there is nothing more to come (HTML Standard, 9.2.3).
pub(crate) fn nothing_to_come(cors: &HeaderMap) -> Vec<u8> {
    let mut headers = cors.clone();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    let mut out = Vec::with_capacity(256);
    put_answer(&mut out, StatusCode::NO_CONTENT, &headers, b"", true);
    out
}

/// A whole answer after which the connection is closed.
pub(crate) fn last(response: &Response<String>) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    put_answer(&mut out, response.status(), response.headers(), response.body().as_bytes(), true);
    out
}

/// Appends a whole answer. `last`: the connection is closed after it.
pub(crate) fn put_answer(
    out: &mut Vec<u8>,
    status: StatusCode,
    headers: &HeaderMap,
    body: &[u8],
    last: bool,
) {
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(status.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(status.canonical_reason().unwrap_or_default().as_bytes());
    out.extend_from_slice(b"\r\ndate: ");
    // Writing to a vector does not fail.
    let _ = write!(out, "{}\r\n", HttpDate::from(SystemTime::now()));
    // RFC 9110, 8.6: there is no length of what can't be there.
    if status != StatusCode::NO_CONTENT {
        let _ = write!(out, "{CONTENT_LENGTH}: {}\r\n", body.len());
    }
    if last {
        out.extend_from_slice(b"connection: close\r\n");
    }
    put_headers(out, headers);
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(body);
}

fn stream_head(framing: Framing, cors: &HeaderMap) -> Vec<u8> {
    const TYPE: HeaderValue = HeaderValue::from_static("text/event-stream");
    // "no-cache" alone lets a proxy store it, and "no-transform" keeps proxies from compressing, that is buffering, it.
    const CACHING: HeaderValue = HeaderValue::from_static("no-cache, no-store, no-transform");
    // nginx buffers answers unless it is told not to.
    const UNBUFFERED: (HeaderName, HeaderValue) =
        (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    // Or a client keeps the connection of a stream that has ended, and its next request is lost with it (RFC 9112, 9.6).
    const LAST: (HeaderName, HeaderValue) = (CONNECTION, HeaderValue::from_static("close"));
    const CHUNKED: (HeaderName, HeaderValue) = (TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    let (line, framed) = match framing {
        Framing::Chunked => ("HTTP/1.1 200 OK\r\n", Some(CHUNKED)),
        Framing::Raw => ("HTTP/1.0 200 OK\r\n", None),
    };
    let mut out = Vec::with_capacity(512);
    out.extend_from_slice(line.as_bytes());
    let fixed = [(CONTENT_TYPE, TYPE), (CACHE_CONTROL, CACHING), UNBUFFERED, LAST];
    for (name, value) in fixed.iter().chain(&framed) {
        put_header(&mut out, name, value);
    }
    out.extend_from_slice(format!("date: {}\r\n", httpdate::fmt_http_date(SystemTime::now())).as_bytes());
    put_headers(&mut out, cors);
    out.extend_from_slice(b"\r\n");
    out
}

fn put_headers(out: &mut Vec<u8>, headers: &HeaderMap) {
    for (name, value) in headers {
        put_header(out, name, value);
    }
}

fn put_header(out: &mut Vec<u8>, name: &HeaderName, value: &HeaderValue) {
    out.extend_from_slice(name.as_str().as_bytes());
    out.extend_from_slice(b": ");
    // Neither can hold a line's end: that is checked where they are made.
    out.extend_from_slice(value.as_bytes());
    out.extend_from_slice(b"\r\n");
}

fn put_framed(out: &mut Vec<u8>, framing: Framing, bytes: &[u8]) {
    match framing {
        Framing::Chunked => {
            out.extend_from_slice(format!("{:x}\r\n", bytes.len()).as_bytes());
            out.extend_from_slice(bytes);
            out.extend_from_slice(b"\r\n");
        }
        Framing::Raw => out.extend_from_slice(bytes),
    }
}

#[cfg(test)]
mod tests {
    use tidings_wire::{CursorKey, Position};

    use super::*;
    use crate::Problem;

    fn text(bytes: Vec<u8>) -> String {
        String::from_utf8(bytes).unwrap()
    }

    fn cors() -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert("vary", HeaderValue::from_static("Origin"));
        headers
    }

    #[test]
    fn a_stream_begins_as_the_surface_says() {
        let opening = text(opening(Framing::Chunked, &cors(), 0, 3000));
        let (head, body) = opening.split_once("\r\n\r\n").unwrap();
        let mut lines: Vec<_> = head.split("\r\n").filter(|line| !line.starts_with("date: ")).collect();
        lines.sort_unstable();
        assert_eq!(
            lines,
            [
                "HTTP/1.1 200 OK",
                "cache-control: no-cache, no-store, no-transform",
                "connection: close",
                "content-type: text/event-stream",
                "transfer-encoding: chunked",
                "vary: Origin",
                "x-accel-buffering: no",
            ]
        );
        assert_eq!(body, "10\r\n:ok\nretry: 3000\n\r\n");
    }

    #[test]
    fn http_1_0_gets_no_chunks_and_padding_has_its_length() {
        let opening = text(opening(Framing::Raw, &HeaderMap::new(), 10, 3000));
        assert!(opening.starts_with("HTTP/1.0 200 OK\r\n") && opening.contains("connection: close\r\n"));
        assert!(!opening.contains("transfer-encoding"));
        assert!(opening.ends_with("\r\n\r\n:ok\n:         \nretry: 3000\n"), "{opening:?}");
    }

    #[test]
    fn who_is_to_come_back_is_told_with_what() {
        let id = CursorKey::new([1; 16]).seal(Position::UNKNOWN);
        let answer =
            |framing, id| text(come_back(framing, &HeaderMap::new(), &Control::Overloaded, 4000, id));
        let with = answer(Framing::Raw, Some(&id));
        let block = format!("event: tidings:overloaded\nretry: 4000\ndata: {{}}\nid: {id}\n\n");
        assert!(with.ends_with(&format!("\r\n\r\n:ok\nretry: 4000\n{block}")), "{with:?}");
        let without = answer(Framing::Chunked, None);
        assert!(
            without.ends_with("event: tidings:overloaded\nretry: 4000\ndata: {}\nid: \n\n\r\n0\r\n\r\n"),
            "{without:?}"
        );
    }

    #[test]
    fn a_refusal_is_a_whole_answer() {
        let problem =
            Problem::bad_request("no").header(http::header::RETRY_AFTER, HeaderValue::from_static("1"));
        let answer = text(last(&problem.response("r1")));
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 400 Bad Request\r\n"));
        for line in ["content-type: application/problem+json", "connection: close", "retry-after: 1"] {
            assert!(head.split("\r\n").any(|other| other == line), "{line} in {head:?}");
        }
        assert!(head.contains(&format!("content-length: {}", body.len())));
        assert_eq!(serde_json::from_str::<serde_json::Value>(body).unwrap()["status"], 400);
    }
}
