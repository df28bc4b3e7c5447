//! The client's side of the format: bytes in, messages out.
//!
//! Follows the HTML Standard, 9.2.5 (the grammar) and 9.2.6 (what a line does). It is incremental: the same messages
//! come out however the bytes are cut, also inside of a CRLF, a character or the byte order mark. And it is bounded: a
//! server that never ends a line or an event costs a limited amount of memory and then gives an error.

use std::mem;

use memchr::{memchr, memchr2};

/// U+FEFF in UTF-8. One at the very beginning of a stream belongs to the encoding, not to the first line.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// How much a server can make a parser keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The longest line, in bytes. Comments may be longer: they aren't kept.
    pub line: usize,
    /// The most data of one event, all its lines together, in bytes.
    pub data: usize,
}

impl Default for Limits {
    /// 8 MiB: eight times what a Tidings server takes by default, for those that are configured to take more.
    fn default() -> Limits {
        Limits { line: 8 << 20, data: 8 << 20 }
    }
}

/// An event as a client dispatches it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// The type, `message` where the stream named none.
    pub event: String,
    /// The data, its lines joined by LF.
    pub data: String,
    /// The last event id as of this message: its own, or that of an earlier one.
    pub id: String,
}

/// Why a stream can't be read any further. The bytes after this point would be taken for something they are not, so a
/// parser that failed once goes on failing; connect again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// A line is longer than allowed.
    #[error("the stream has a line of more than {max} bytes; raise the limit if the server means it")]
    LineTooLong {
        /// The limit, in bytes.
        max: usize,
    },
    /// An event has more data than allowed.
    #[error("the stream has an event of more than {max} bytes; raise the limit if the server means it")]
    EventTooLarge {
        /// The limit, in bytes.
        max: usize,
    },
}

/// Reads one response of `text/event-stream`. What is unfinished at its end is dropped with the parser, as the standard
/// says.
///
/// ```
/// use tidings_wire::{Limits, Parser};
///
/// let mut parser = Parser::new(Limits::default());
/// let mut input = &b"event: greeting\ndata: hello\nid: 7\n\ndata: unfin"[..];
/// let message = parser.next_message(&mut input)?.expect("the first block is complete");
/// assert_eq!((message.event.as_str(), message.data.as_str()), ("greeting", "hello"));
/// assert_eq!(parser.next_message(&mut input)?, None); // all of the input is taken in
/// assert_eq!(parser.last_event_id(), "7");
/// # Ok::<(), tidings_wire::ParseError>(())
/// ```
#[derive(Debug)]
pub struct Parser {
    limits: Limits,
    /// The beginning of a line whose end hasn't come. Of a comment, only its colon is kept.
    line: Vec<u8>,
    /// Whether the line is the stream's first, which may begin with a byte order mark.
    at_start: bool,
    /// Whether the last line was ended by a CR, which makes an LF a part of that end.
    after_cr: bool,
    /// The block's type so far.
    event: String,
    /// The block's data so far, with an LF after each line; empty means there was no `data` field at all.
    data: Vec<u8>,
    /// The id as of the last line.
    id: String,
    /// The id as of the last blank line: what a reconnect sends.
    last_event_id: String,
    retry: Option<u64>,
    failed: Option<ParseError>,
}

impl Parser {
    /// A parser for the first connection.
    pub fn new(limits: Limits) -> Parser {
        Parser::resumed(limits, String::new())
    }

    /// A parser for a connection that was made with a last event id. The id stays until the stream gives another one.
    pub fn resumed(limits: Limits, last_event_id: String) -> Parser {
        Parser {
            limits,
            line: Vec::new(),
            at_start: true,
            after_cr: false,
            event: String::new(),
            data: Vec::new(),
            id: last_event_id.clone(),
            last_event_id,
            retry: None,
            failed: None,
        }
    }

    /// Takes bytes from the front of `input` until a message is complete. `None` means that all of the input is taken
    /// and no further message is complete.
    ///
    /// # Errors
    /// When a line or an event is larger than the limits, from then on at every call.
    pub fn next_message(&mut self, input: &mut &[u8]) -> Result<Option<Message>, ParseError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let result = self.read(input);
        self.failed = result.as_ref().err().copied();
        result
    }

    /// The id to reconnect with, empty if there was none. It is that of the last complete block, with data or without.
    pub fn last_event_id(&self) -> &str {
        &self.last_event_id
    }

    /// How long to wait before reconnecting, in milliseconds, where the stream said so.
    pub fn retry(&self) -> Option<u64> {
        self.retry
    }

    fn read(&mut self, input: &mut &[u8]) -> Result<Option<Message>, ParseError> {
        loop {
            if self.after_cr && !input.is_empty() {
                self.after_cr = false;
                *input = input.strip_prefix(b"\n").unwrap_or(input);
            }
            let Some(end) = memchr2(b'\r', b'\n', input) else {
                self.keep(mem::take(input))?;
                return Ok(None);
            };
            let (piece, rest) = input.split_at(end);
            self.after_cr = rest[0] == b'\r';
            *input = &rest[1..];
            if let Some(message) = self.end_line(piece)? {
                return Ok(Some(message));
            }
        }
    }

    /// Takes in a piece of a line whose end hasn't come.
    fn keep(&mut self, piece: &[u8]) -> Result<(), ParseError> {
        if self.line == b":" {
            return Ok(());
        }
        let whole = self.line.len() + piece.len();
        if whole <= self.limits.line {
            self.line.extend_from_slice(piece);
        } else {
            // Only as much as tells whether it is a comment, which may be of any length.
            let missing = (BYTE_ORDER_MARK.len() + 1).saturating_sub(self.line.len());
            self.line.extend_from_slice(&piece[..missing.min(piece.len())]);
        }
        if is_comment(&self.line, self.at_start) {
            self.at_start = false;
            self.line.clear();
            self.line.push(b':');
            return Ok(());
        }
        if whole > self.limits.line {
            return Err(ParseError::LineTooLong { max: self.limits.line });
        }
        Ok(())
    }

    /// Takes in the last piece of a line; most lines are in one piece and are not copied.
    fn end_line(&mut self, piece: &[u8]) -> Result<Option<Message>, ParseError> {
        if self.line.is_empty() {
            return self.take_line(piece);
        }
        if self.line != b":" {
            self.keep(piece)?;
        }
        let mut line = mem::take(&mut self.line);
        let result = self.take_line(&line);
        line.clear();
        self.line = line;
        result
    }

    /// A whole line, without its end (HTML Standard, 9.2.6).
    fn take_line(&mut self, mut line: &[u8]) -> Result<Option<Message>, ParseError> {
        if is_comment(line, self.at_start) {
            self.at_start = false;
            return Ok(None);
        }
        if line.len() > self.limits.line {
            return Err(ParseError::LineTooLong { max: self.limits.line });
        }
        if mem::take(&mut self.at_start) {
            line = line.strip_prefix(BYTE_ORDER_MARK).unwrap_or(line);
        }
        if line.is_empty() {
            return Ok(self.dispatch());
        }
        let (name, value) = match memchr(b':', line) {
            Some(colon) => (&line[..colon], &line[colon + 1..]),
            None => (line, &line[..0]),
        };
        self.take_field(name, value.strip_prefix(b" ").unwrap_or(value))?;
        Ok(None)
    }

    fn take_field(&mut self, name: &[u8], value: &[u8]) -> Result<(), ParseError> {
        match name {
            b"data" => {
                // The LF of the last line is taken off again, so it doesn't count.
                if self.data.len() + value.len() > self.limits.data {
                    return Err(ParseError::EventTooLarge { max: self.limits.data });
                }
                self.data.extend_from_slice(value);
                self.data.push(b'\n');
            }
            b"event" => self.event = decode(value.to_vec()),
            b"id" if !value.contains(&b'\0') => self.id = decode(value.to_vec()),
            b"retry" if !value.is_empty() && value.iter().all(u8::is_ascii_digit) => {
                self.retry = Some(value.iter().fold(0_u64, |number, digit| {
                    number.saturating_mul(10).saturating_add(u64::from(digit - b'0'))
                }));
            }
            _ => {}
        }
        Ok(())
    }

    /// A blank line. The id is taken over even where there is nothing to dispatch.
    fn dispatch(&mut self) -> Option<Message> {
        self.last_event_id.clone_from(&self.id);
        let event = mem::take(&mut self.event);
        let mut data = mem::take(&mut self.data);
        data.pop()?;
        Some(Message {
            event: if event.is_empty() { "message".to_owned() } else { event },
            data: decode(data),
            id: self.id.clone(),
        })
    }
}

fn is_comment(line: &[u8], at_start: bool) -> bool {
    let line = if at_start { line.strip_prefix(BYTE_ORDER_MARK).unwrap_or(line) } else { line };
    line.starts_with(b":")
}

/// UTF-8 with U+FFFD for what is none (Encoding Standard, "UTF-8 decode without BOM"). A line end never lies inside of a
/// character, so decoding piece by piece gives the same as decoding the stream.
fn decode(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All messages and how it ended, with the bytes in pieces of `size`.
    fn parse(limits: Limits, stream: &[u8], size: usize) -> (Vec<Message>, Result<(), ParseError>) {
        let mut parser = Parser::new(limits);
        let mut messages = Vec::new();
        for mut piece in stream.chunks(size) {
            loop {
                match parser.next_message(&mut piece) {
                    Ok(Some(message)) => messages.push(message),
                    Ok(None) => break,
                    Err(error) => {
                        assert_eq!(parser.next_message(&mut &b"data: more\n\n"[..]), Err(error));
                        return (messages, Err(error));
                    }
                }
            }
        }
        (messages, Ok(()))
    }

    #[test]
    fn lines_and_events_are_limited_however_they_are_cut() {
        let limits = Limits { line: 10, data: 7 };
        let check = |stream: &str, count: usize, end: Result<(), ParseError>| {
            for size in 1..=stream.len() {
                let (messages, result) = parse(limits, stream.as_bytes(), size);
                assert_eq!((messages.len(), result), (count, end), "{stream:?} in pieces of {size}");
            }
        };
        let (line, event) = (ParseError::LineTooLong { max: 10 }, ParseError::EventTooLarge { max: 7 });
        check("data:12345\n\n", 1, Ok(()));
        check("data:123456\n\n", 0, Err(line));
        check("data:1\n\ndata:123456", 1, Err(line));
        check("unknown: but too long\n\n", 0, Err(line));
        check("data:123\ndata:456\n\n", 1, Ok(()));
        check("data:123\ndata:4567\n\n", 0, Err(event));
        check("data:123456\r\n\r\n", 0, Err(line));
        check(":a comment of any length\n\u{feff}:x\ndata:1\n\n", 1, Ok(()));
        check("\u{feff}:a comment of any length\ndata:1\n\n", 1, Ok(()));
        check("data\u{feff}:not a comment", 0, Err(line));
    }

    #[test]
    fn an_endless_comment_is_not_kept() {
        let mut parser = Parser::new(Limits { line: 100, data: 100 });
        for _ in 0..1000 {
            assert_eq!(parser.next_message(&mut &b": and so on, "[..]), Ok(None));
        }
        assert!(parser.line.capacity() <= 100);
        let mut rest = &b"\ndata: x\n\n"[..];
        assert_eq!(parser.next_message(&mut rest).map(|m| m.map(|m| m.data)), Ok(Some("x".to_owned())));
    }

    #[test]
    fn the_id_of_an_earlier_connection_stays_until_there_is_another() {
        let mut parser = Parser::resumed(Limits::default(), "7".to_owned());
        let mut input = &b"data: a\n\nid: 8\ndata: b\n"[..];
        let message = parser.next_message(&mut input).unwrap().unwrap();
        assert_eq!((message.id.as_str(), parser.last_event_id()), ("7", "7"));
        assert_eq!(parser.next_message(&mut input), Ok(None));
        assert_eq!(parser.last_event_id(), "7", "a block that is not complete counts for nothing");
        assert_eq!(parser.next_message(&mut &b"\n"[..]).unwrap().unwrap().id, "8");
    }
}
