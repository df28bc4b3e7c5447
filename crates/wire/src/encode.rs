//! HOT 1: events as bytes, made once for all subscribers.
//!
//! A block is, in this order and up to its blank line (HTML Standard, 9.2.5; the order is our own):
//!
//! ```text
//! event: order.paid      left out for `message`
//! retry: 5000            where the publisher set it
//! data: first line       one for each line of the data
//! data:  second line     exactly one space is added, so that a line's own is kept
//! id: upfF940V4joZZT2yDVOH5g
//!
//! ```
//!
//! The id is the last line because some clients take it as soon as they see it: cut in between, they would ask for
//! what comes after an event that they never dispatched.
//!
//! Nothing that a publisher says can end its field. Data is split wherever the standard ends a line (CRLF, LF, CR), so
//! that every piece gets a `data: ` of its own; types have no CR or LF by [`EventType`](crate::EventType), ids by
//! [`Cursor`].

use std::iter::repeat_n;
use std::sync::Arc;
use std::{fmt, mem};

use memchr::memchr2;

use crate::{Channel, Cursor, Data, Event};

/// A heartbeat as an HTTP/1.1 chunk: a comment, alone and without a blank line after it, because some clients make an
/// event of every blank line.
pub const HEARTBEAT_CHUNK: &[u8] = b"2\r\n:\n\r\n";

/// A heartbeat without framing.
pub const HEARTBEAT_RAW: &[u8] = b":\n";

/// What ends a chunked response (RFC 9112, 7.1).
pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// An event as every subscriber gets it: one HTTP/1.1 chunk in one allocation, with the bare block inside for other
/// carriers. A clone counts a reference.
#[derive(Clone, PartialEq, Eq)]
pub struct EncodedEvent {
    chunk: Arc<[u8]>,
    /// Where the payload begins; it ends before the chunk's last two bytes.
    payload_at: u8,
}

impl EncodedEvent {
    /// Encodes an event under the cursor that clients come back with. An ephemeral event carries the id of the record
    /// before it.
    pub fn new(event: &Event, id: &Cursor) -> EncodedEvent {
        let block = |out: &mut dyn Sink| put_event(out, event, id);
        let length = length_of(block);
        let digits = Digits::hexadecimal(length as u64);
        let payload_at = digits.as_bytes().len() + 2;
        // `repeat_n` has an exact length that the standard library trusts, so this allocates once. Nobody else has
        // the Arc yet, so it is never `None`.
        let mut chunk: Arc<[u8]> = repeat_n(0, payload_at + length + 2).collect();
        if let Some(mut out) = Arc::get_mut(&mut chunk) {
            put_chunk(&mut out, &digits, block);
        }
        EncodedEvent { chunk, payload_at: payload_at as u8 }
    }

    /// The whole chunk: its length in hexadecimal, CRLF, the payload, CRLF (RFC 9112, 7.1).
    pub fn chunk(&self) -> &[u8] {
        &self.chunk
    }

    /// The block alone, up to and with the blank line at its end.
    pub fn payload(&self) -> &[u8] {
        &self.chunk[usize::from(self.payload_at)..self.chunk.len() - 2]
    }
}

impl fmt::Debug for EncodedEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EncodedEvent({:?})", String::from_utf8_lossy(self.payload()))
    }
}

/// What a stream's blocks are wrapped in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// Chunks of HTTP/1.1.
    Chunked,
    /// Nothing: HTTP/1.0, where the stream goes to the connection's end, and carriers with frames of their own.
    Raw,
}

/// Why a stream can't tell everything that happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GapReason {
    /// What came after the cursor isn't kept any more.
    Expired,
    /// The cursor is none of this hub's.
    Unknown,
    /// The cursor lies in a history that was replaced, after the point where the new one forked off.
    Epoch,
    /// More lies after the cursor than is replayed at once.
    Limit,
}

impl GapReason {
    /// The reason as it is written in `tidings:gap` and in problem documents.
    pub fn as_str(self) -> &'static str {
        match self {
            GapReason::Expired => "expired",
            GapReason::Unknown => "unknown",
            GapReason::Epoch => "epoch",
            GapReason::Limit => "limit",
        }
    }
}

impl fmt::Display for GapReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An event of the hub itself. Its type begins with `tidings:`, which no publisher's can.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Control<'a> {
    /// The stream's first block, with its data: a JSON object in one line.
    Open(&'a str),
    /// Events were missed that the stream should have had.
    Gap {
        /// Why.
        reason: GapReason,
        /// The cursor the client came with, where it is one.
        from: Option<&'a Cursor>,
        /// Where the stream goes on.
        to: &'a Cursor,
    },
    /// Nothing happened for long: an id to come back with that is not about to expire.
    Position,
    /// So many events were passed over, of which newer ones with the same keys came.
    Skipped(u64),
    /// Who came into the channels and who left, with its data: a JSON object in one line.
    Presence(&'a str),
    /// What the stream may see has changed, with its data: a JSON object in one line.
    Granted(&'a str),
    /// A heartbeat that scripts can see.
    Ping,
    /// There is nothing more to come.
    End,
    /// The token ended.
    Expired,
    /// The connection was ended by order.
    Kicked,
    /// The server holds no more streams, come back later.
    Overloaded,
    /// The server is going away, come back later.
    Drain,
}

impl Control<'_> {
    /// The event's type.
    pub fn event_type(&self) -> &'static str {
        match self {
            Control::Open(_) => "tidings:open",
            Control::Gap { .. } => "tidings:gap",
            Control::Position => "tidings:position",
            Control::Ping => "tidings:ping",
            Control::Skipped(_) => "tidings:skipped",
            Control::Presence(_) => "tidings:presence",
            Control::Granted(_) => "tidings:granted",
            Control::End => "tidings:end",
            Control::Expired => "tidings:expired",
            Control::Kicked => "tidings:kicked",
            Control::Overloaded => "tidings:overloaded",
            Control::Drain => "tidings:drain",
        }
    }
}

/// Appends a control event under the cursor to come back with. `retry` is in milliseconds.
pub fn encode_control(
    out: &mut Vec<u8>,
    framing: Framing,
    control: &Control<'_>,
    retry: Option<u32>,
    id: &Cursor,
) {
    put_framed(out, framing, |out| {
        put_field(out, b"event: ", control.event_type().as_bytes());
        put_retry(out, retry);
        match control {
            Control::Open(json) | Control::Presence(json) | Control::Granted(json) => put_data(out, json),
            Control::Skipped(count) => {
                out.put(b"data: {\"count\":");
                out.put(Digits::decimal(*count).as_bytes());
                out.put(b"}\n");
            }
            Control::Gap { reason, from, to } => put_gap(out, *reason, *from, to),
            // Without data no client would dispatch it (HTML Standard, 9.2.6), and scripts expect JSON.
            _ => put_data(out, "{}"),
        }
        put_id(out, id);
    });
}

/// Appends an event as a stream with `envelope=1` has it: a block without a type, whose data is one line of JSON with
/// `id`, `channel`, `event`, `data` (a string where the publisher's was one) and `time` (milliseconds since 1970).
pub fn encode_envelope(
    out: &mut Vec<u8>,
    framing: Framing,
    event: &Event,
    channel: &Channel,
    time_ms: u64,
    id: &Cursor,
) {
    put_framed(out, framing, |out| {
        put_retry(out, event.retry);
        out.put(b"data: {\"id\":\"");
        out.put(id.as_bytes());
        out.put(b"\",\"channel\":");
        put_json_string(out, channel.as_str());
        out.put(b",\"event\":");
        put_json_string(out, event.event.as_str());
        out.put(b",\"data\":");
        match &event.data {
            Data::Text(text) => put_json_string(out, text),
            Data::Json(json) => put_json_in_one_line(out, json),
            Data::Nothing => out.put(b"null"),
        }
        out.put(b",\"time\":");
        out.put(Digits::decimal(time_ms).as_bytes());
        out.put(b"}\n");
        put_id(out, id);
    });
}

/// Where encoded bytes go. Every block is written twice by the same code, to a [`Length`] and to its place, so that the
/// length a chunk begins with is right by construction.
trait Sink {
    fn put(&mut self, bytes: &[u8]);
}

/// Counts what is put.
struct Length(usize);

impl Sink for Length {
    fn put(&mut self, bytes: &[u8]) {
        self.0 += bytes.len();
    }
}

/// Fills a place of the right size from its start.
impl Sink for &mut [u8] {
    fn put(&mut self, bytes: &[u8]) {
        let (place, rest) = mem::take(self).split_at_mut(bytes.len());
        place.copy_from_slice(bytes);
        *self = rest;
    }
}

impl Sink for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

fn length_of(block: impl Fn(&mut dyn Sink)) -> usize {
    let mut length = Length(0);
    block(&mut length);
    length.0
}

fn put_framed(out: &mut Vec<u8>, framing: Framing, block: impl Fn(&mut dyn Sink)) {
    match framing {
        Framing::Chunked => put_chunk(out, &Digits::hexadecimal(length_of(&block) as u64), block),
        Framing::Raw => block(out),
    }
}

fn put_chunk(out: &mut dyn Sink, length: &Digits, block: impl Fn(&mut dyn Sink)) {
    out.put(length.as_bytes());
    out.put(b"\r\n");
    block(out);
    out.put(b"\r\n");
}

fn put_event(out: &mut dyn Sink, event: &Event, id: &Cursor) {
    if !event.event.is_default() {
        put_field(out, b"event: ", event.event.as_str().as_bytes());
    }
    put_retry(out, event.retry);
    put_data(out, event.data.as_str());
    put_id(out, id);
}

fn put_field(out: &mut dyn Sink, name: &[u8], value: &[u8]) {
    out.put(name);
    out.put(value);
    out.put(b"\n");
}

fn put_retry(out: &mut dyn Sink, retry: Option<u32>) {
    if let Some(ms) = retry {
        put_field(out, b"retry: ", Digits::decimal(ms.into()).as_bytes());
    }
}

/// Data is split wherever a parser would end the line (HTML Standard, 9.2.5): at CRLF, LF and CR.
fn put_data(out: &mut dyn Sink, data: &str) {
    let mut rest = data.as_bytes();
    while let Some(end) = memchr2(b'\r', b'\n', rest) {
        put_field(out, b"data: ", &rest[..end]);
        let crlf = rest[end..].starts_with(b"\r\n");
        rest = &rest[end + 1 + usize::from(crlf)..];
    }
    put_field(out, b"data: ", rest);
}

/// The block's last line, and the blank one.
fn put_id(out: &mut dyn Sink, id: &Cursor) {
    put_field(out, b"id: ", id.as_bytes());
    out.put(b"\n");
}

fn put_gap(out: &mut dyn Sink, reason: GapReason, from: Option<&Cursor>, to: &Cursor) {
    out.put(b"data: {\"reason\":\"");
    out.put(reason.as_str().as_bytes());
    out.put(b"\",\"from\":");
    match from {
        // A cursor has nothing that JSON would escape: it is base64url.
        Some(from) => {
            out.put(b"\"");
            out.put(from.as_bytes());
            out.put(b"\"");
        }
        None => out.put(b"null"),
    }
    out.put(b",\"to\":\"");
    out.put(to.as_bytes());
    out.put(b"\"}\n");
}

/// A JSON string (RFC 8259, 7): quotation mark, reverse solidus and what is below U+0020 are escaped, so that it is one
/// line whatever it says.
fn put_json_string(out: &mut dyn Sink, text: &str) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    out.put(b"\"");
    let mut rest = text.as_bytes();
    while let Some(at) = next_escaped(rest) {
        out.put(&rest[..at]);
        match rest[at] {
            b'"' => out.put(b"\\\""),
            b'\\' => out.put(b"\\\\"),
            b'\n' => out.put(b"\\n"),
            b'\r' => out.put(b"\\r"),
            b'\t' => out.put(b"\\t"),
            b => out.put(&[b'\\', b'u', b'0', b'0', HEX[usize::from(b >> 4)], HEX[usize::from(b & 15)]]),
        }
        rest = &rest[at + 1..];
    }
    out.put(rest);
    out.put(b"\"");
}

/// Where the first byte is that a JSON string escapes. Sixteen are looked at together, without a branch for each.
fn next_escaped(text: &[u8]) -> Option<usize> {
    let escaped = |b: u8| b < 0x20 || b == b'"' || b == b'\\';
    let (chunks, _) = text.as_chunks::<16>();
    let any = |chunk: &[u8; 16]| chunk.iter().fold(false, |any, b| any | escaped(*b));
    let plain = 16 * chunks.iter().position(any).unwrap_or(chunks.len());
    text[plain..].iter().position(|b| escaped(*b)).map(|at| plain + at)
}

/// A JSON value as it stands. It is one line already ([`Data::Json`]); were it not, a line end outside of strings is
/// white space, and inside of them no JSON has one.
fn put_json_in_one_line(out: &mut dyn Sink, json: &str) {
    let mut rest = json.as_bytes();
    while let Some(end) = memchr2(b'\r', b'\n', rest) {
        out.put(&rest[..end]);
        out.put(b" ");
        rest = &rest[end + 1..];
    }
    out.put(rest);
}

/// A number's digits, without an allocation.
struct Digits {
    buffer: [u8; 20],
    from: usize,
}

impl Digits {
    fn decimal(number: u64) -> Digits {
        Digits::new(number, 10)
    }

    fn hexadecimal(number: u64) -> Digits {
        Digits::new(number, 16)
    }

    fn new(mut number: u64, base: u64) -> Digits {
        let mut digits = Digits { buffer: [0; 20], from: 20 };
        loop {
            digits.from -= 1;
            digits.buffer[digits.from] = b"0123456789abcdef"[(number % base) as usize];
            number /= base;
            if number == 0 {
                return digits;
            }
        }
    }

    fn as_bytes(&self) -> &[u8] {
        &self.buffer[self.from..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{CursorKey, Epoch, Position, Sequence, Targets};

    const ID: &str = "upfF940V4joZZT2yDVOH5g";

    fn cursor() -> Cursor {
        CursorKey::new([7; 16]).seal(Position { epoch: Epoch(1), sequence: Sequence(1) })
    }

    fn event(data: Data) -> Event {
        Event::new(Targets::from("a".parse::<Channel>().unwrap()), data)
    }

    fn payload(event: &Event) -> String {
        String::from_utf8(EncodedEvent::new(event, &cursor()).payload().to_vec()).unwrap()
    }

    #[test]
    fn the_id_is_the_last_line() {
        assert_eq!(cursor().as_str(), ID);
        assert_eq!(payload(&event("hi".into())), format!("data: hi\nid: {ID}\n\n"));
        let mut full = event("hi".into());
        full.event = "order.paid".parse().unwrap();
        full.retry = Some(5000);
        assert_eq!(payload(&full), format!("event: order.paid\nretry: 5000\ndata: hi\nid: {ID}\n\n"));
    }

    #[test]
    fn data_is_split_where_parsers_end_a_line() {
        for (data, lines) in [
            ("", "data: \n"),
            (" led", "data:  led\n"),
            ("a\nb", "data: a\ndata: b\n"),
            ("a\rb", "data: a\ndata: b\n"),
            ("a\r\nb", "data: a\ndata: b\n"),
            ("a\n\rb", "data: a\ndata: \ndata: b\n"),
            ("a\r\r\nb", "data: a\ndata: \ndata: b\n"),
            ("a\n", "data: a\ndata: \n"),
            ("\r", "data: \ndata: \n"),
            ("a\n\nid: x\n\nevent: y", "data: a\ndata: \ndata: id: x\ndata: \ndata: event: y\n"),
            ("\u{feff}a\0b\u{2028}c\u{85}d", "data: \u{feff}a\0b\u{2028}c\u{85}d\n"),
        ] {
            assert_eq!(payload(&event(data.into())), format!("{lines}id: {ID}\n\n"), "{data:?}");
        }
    }

    #[test]
    fn the_chunk_is_the_payload_with_its_length() {
        for length in [0, 1, 200, 1 << 12, 1 << 20] {
            let encoded = EncodedEvent::new(&event("x".repeat(length).as_str().into()), &cursor());
            let mut expected = format!("{:x}\r\n", encoded.payload().len()).into_bytes();
            expected.extend_from_slice(encoded.payload());
            expected.extend_from_slice(b"\r\n");
            assert_eq!(encoded.chunk(), expected);
        }
        assert_eq!(HEARTBEAT_CHUNK, [b"2\r\n", HEARTBEAT_RAW, b"\r\n"].concat());
    }

    #[test]
    fn control_events_have_data_and_an_id() {
        let (from, to) = (cursor(), cursor());
        let check = |control: Control<'_>, retry, expected: &str| {
            let expected = format!("{expected}id: {ID}\n\n");
            let mut raw = b"before".to_vec();
            encode_control(&mut raw, Framing::Raw, &control, retry, &cursor());
            assert_eq!(String::from_utf8(raw).unwrap(), format!("before{expected}"));
            let mut chunk = Vec::new();
            encode_control(&mut chunk, Framing::Chunked, &control, retry, &cursor());
            assert_eq!(String::from_utf8(chunk).unwrap(), format!("{:x}\r\n{expected}\r\n", expected.len()));
        };
        check(Control::Open(r#"{"user":null}"#), None, "event: tidings:open\ndata: {\"user\":null}\n");
        check(
            Control::Gap { reason: GapReason::Expired, from: Some(&from), to: &to },
            None,
            &format!(
                "event: tidings:gap\ndata: {{\"reason\":\"expired\",\"from\":\"{ID}\",\"to\":\"{ID}\"}}\n"
            ),
        );
        check(
            Control::Gap { reason: GapReason::Unknown, from: None, to: &to },
            None,
            &format!("event: tidings:gap\ndata: {{\"reason\":\"unknown\",\"from\":null,\"to\":\"{ID}\"}}\n"),
        );
        check(Control::Position, None, "event: tidings:position\ndata: {}\n");
        check(Control::Drain, Some(4242), "event: tidings:drain\nretry: 4242\ndata: {}\n");
    }

    #[test]
    fn a_byte_is_escaped_wherever_it_is() {
        for length in 0..50 {
            let plain = "x".repeat(length);
            assert_eq!(next_escaped(plain.as_bytes()), None);
            for (at, byte) in (0..length).zip([b'"', b'\\', 0, 0x1f].into_iter().cycle()) {
                let mut text = plain.clone().into_bytes();
                text[at] = byte;
                text[length - 1] = byte;
                assert_eq!(next_escaped(&text), Some(at), "{byte} at {at} of {length}");
            }
        }
        assert_eq!(next_escaped("ä\u{7f}\u{80}\u{2028} ~".repeat(20).as_bytes()), None);
    }

    #[test]
    fn an_envelope_is_one_line_of_json_without_a_type() {
        let envelope = |event: &Event, channel: &str| {
            let mut out = Vec::new();
            encode_envelope(&mut out, Framing::Raw, event, &channel.parse().unwrap(), 1700, &cursor());
            String::from_utf8(out).unwrap()
        };
        let mut text = event("a\r\n\"b\"\\\t\u{1}ü".into());
        text.event = "say \"x\"".parse().unwrap();
        text.retry = Some(10);
        let expected = [
            &format!(r#"{{"id":"{ID}","channel":"a\"b","event":"say \"x\"","#),
            r#""data":"a\r\n\"b\"\\\t\u0001ü","time":1700}"#,
        ];
        assert_eq!(
            envelope(&text, "a\"b"),
            format!("retry: 10\ndata: {}{}\nid: {ID}\n\n", expected[0], expected[1])
        );
        let json = event(Data::Json(r#"{"n":1.0e2}"#.into()));
        assert_eq!(
            envelope(&json, "a"),
            format!(
                "data: {{\"id\":\"{ID}\",\"channel\":\"a\",\"event\":\"message\",\"data\":{{\"n\":1.0e2}},\"time\":1700}}\nid: {ID}\n\n"
            )
        );
        let lines = event(Data::Json("[1,\n2,\r\n3]".into()));
        assert!(envelope(&lines, "a").contains("\"data\":[1, 2,  3],"));
    }
}
