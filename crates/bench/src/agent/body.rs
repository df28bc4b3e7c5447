//! What of an answer's bytes is its body.
//!
//! A server, or a proxy in front of it, may put the border of a chunk anywhere (RFC 9112, 7.1): in the middle of a
//! number, between the two characters of a mark. Who looks for events must not see the framing.

use memchr::memmem;

/// A longer head than this is none.
const LONGEST_HEAD: usize = 64 << 10;
/// Sixteen hexadecimal digits are as much as 64 bits hold.
const DIGITS: u8 = 16;

/// Takes the head and the framing away, whatever pieces they come in.
#[derive(Debug, Default)]
pub(super) struct Body {
    part: Part,
    /// Bytes of the chunk that are still to come; while its size is read, what that is so far.
    left: u64,
    /// What there is of a head that came in several pieces.
    head: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Part {
    #[default]
    Head,
    /// No framing: all that comes is the body.
    Plain,
    /// So many digits of a chunk's size have come.
    Size(u8),
    /// The rest of the line with a chunk's size: an extension.
    Extension,
    /// The line feed after a chunk's size.
    SizeEnd,
    Data,
    /// CR and LF after a chunk's data.
    DataEnd,
    DataEndFeed,
    /// After the last chunk. Trailers may follow, which nobody here wants.
    End,
}

/// What a head says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) status: u16,
    /// So many bytes of what was read last belong to it.
    pub(super) length: usize,
}

/// Why bytes are no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum BodyError {
    #[error("what it answers is no HTTP/1.1")]
    NotHttp,
    #[error("the head of its answer is longer than 64 KiB")]
    LongHead,
    #[error("its chunks are not framed as RFC 9112 says")]
    Chunk,
}

impl Body {
    /// Reads on in the head; nothing if its end has not come yet. To be asked until it has.
    pub(super) fn head(&mut self, bytes: &[u8]) -> Result<Option<Head>, BodyError> {
        let before = self.head.len();
        let whole = before == 0 && memmem::find(bytes, b"\r\n\r\n").is_some();
        if !whole {
            self.head.extend_from_slice(bytes);
        }
        let all = if whole { bytes } else { &self.head };
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut answer = httparse::Response::new(&mut headers);
        let length = match answer.parse(all) {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) if all.len() > LONGEST_HEAD => return Err(BodyError::LongHead),
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(_) => return Err(BodyError::NotHttp),
        };
        let status = answer.code.ok_or(BodyError::NotHttp)?;
        // Chunked is always the last coding that was applied.
        let chunked = answer.headers.iter().any(|header| {
            header.name.eq_ignore_ascii_case("transfer-encoding")
                && header.value.trim_ascii().to_ascii_lowercase().ends_with(b"chunked")
        });
        self.part = if chunked && status != 101 { Part::Size(0) } else { Part::Plain };
        self.head = Vec::new();
        Ok(Some(Head { status, length: length - before }))
    }

    /// Shows every piece of the body in these bytes.
    #[inline]
    pub(super) fn read(&mut self, mut bytes: &[u8], mut show: impl FnMut(&[u8])) -> Result<(), BodyError> {
        if self.part == Part::Plain {
            show(bytes);
            return Ok(());
        }
        while let Some(&first) = bytes.first() {
            if self.part == Part::Data {
                let length = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
                show(&bytes[..length]);
                bytes = &bytes[length..];
                self.left -= length as u64;
                if self.left == 0 {
                    self.part = Part::DataEnd;
                }
                continue;
            }
            self.part = match (self.part, first) {
                (Part::Size(digits), _) if digits < DIGITS && first.is_ascii_hexdigit() => {
                    let digit = char::from(first).to_digit(16).unwrap_or_default();
                    self.left = self.left << 4 | u64::from(digit);
                    Part::Size(digits + 1)
                }
                (Part::Size(1..), b'\r') | (Part::Extension, b'\r') => Part::SizeEnd,
                (Part::Size(1..), b';' | b' ' | b'\t') => Part::Extension,
                (Part::Extension, byte) if byte != b'\n' => Part::Extension,
                (Part::SizeEnd, b'\n') if self.left == 0 => Part::End,
                (Part::SizeEnd, b'\n') => Part::Data,
                (Part::DataEnd, b'\r') => Part::DataEndFeed,
                (Part::DataEndFeed, b'\n') => Part::Size(0),
                (Part::End, _) => return Ok(()),
                _ => return Err(BodyError::Chunk),
            };
            bytes = &bytes[1..];
        }
        Ok(())
    }

    /// Whether the last chunk has come.
    pub(super) fn is_over(&self) -> bool {
        self.part == Part::End
    }
}

#[cfg(test)]
mod tests {
    use super::{Body, BodyError, Head};

    const CHUNKED: &[u8] = b"HTTP/1.1 200 OK\r\ntransfer-encoding:  Chunked\r\n\r\n";

    /// What there is of a body that comes in these pieces, and whether it is over.
    fn body(pieces: &[&[u8]]) -> Result<(String, bool), BodyError> {
        let (mut body, mut text, mut open) = (Body::default(), Vec::new(), false);
        for piece in pieces {
            let mut rest = *piece;
            if !open {
                let Some(head) = body.head(piece)? else { continue };
                open = true;
                rest = &piece[head.length..];
            }
            body.read(rest, |piece| text.extend_from_slice(piece))?;
        }
        Ok((String::from_utf8(text).unwrap(), body.is_over()))
    }

    #[test]
    fn framing_is_taken_away_wherever_reads_are_split() {
        let mut bytes = CHUNKED.to_vec();
        bytes.extend_from_slice(b"5\r\ndata:\r\n0003;a=b\r\n @@\r\nB \r\n7 8 9 xxxx;\r\n0\r\nX: y\r\n\r\n");
        let expected = ("data: @@7 8 9 xxxx;".to_owned(), true);
        for first in 0..=bytes.len() {
            for second in first..=bytes.len() {
                let pieces = [&bytes[..first], &bytes[first..second], &bytes[second..]];
                assert_eq!(body(&pieces).as_ref(), Ok(&expected), "split at {first} and {second}");
            }
        }
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(body(&single), Ok(expected));
    }

    #[test]
    fn what_is_not_chunked_is_left_alone() {
        let bytes = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n5\r\nx";
        assert_eq!(body(&[bytes]), Ok(("5\r\nx".to_owned(), false)));
        let upgraded = b"HTTP/1.1 101 Switching Protocols\r\n\r\n\x81\x02ab";
        assert_eq!(Body::default().head(upgraded), Ok(Some(Head { status: 101, length: 36 })));
    }

    #[test]
    fn what_is_wrong_is_refused() {
        for wrong in ["\r\n", "g\r\n", "1\n", "1\r\nabc", "1\r\na\nb", "12345678901234567\r\n", "1;\n"] {
            assert_eq!(body(&[CHUNKED, wrong.as_bytes()]), Err(BodyError::Chunk), "{wrong:?}");
        }
        assert_eq!(body(&[b"SSH-2.0-x\r\n\r\n"]), Err(BodyError::NotHttp));
        let long = format!("HTTP/1.1 200 OK\r\nX: {}", "x".repeat(65 << 10));
        assert_eq!(body(&[long.as_bytes()]), Err(BodyError::LongHead));
    }
}
