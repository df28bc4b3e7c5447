//! Finds the end of a chunked body (RFC 9112, section 7.1) without copying it, more strictly than who decodes it.

/// The most digits that a chunk's size may have: 2⁶⁰ bytes are more than anybody sends.
const MOST_DIGITS: u8 = 15;
/// How many bytes of chunk extensions and trailer fields a body may have in all.
const LONGEST_EXTRAS: u16 = 8 * 1024;

/// A chunked body that is being looked through.
#[derive(Debug, Default)]
pub(crate) struct Chunked {
    state: State,
    extras: u16,
}

/// What is expected next.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The first digit of a size.
    #[default]
    Size,
    /// More digits, an extension, or the line's end.
    Digits { size: u64, digits: u8 },
    /// An extension up to the line's CR.
    Extension { size: u64 },
    /// The LF after a size.
    SizeEnd { size: u64 },
    /// Data.
    Data { left: u64 },
    /// The CR after data.
    DataCr,
    /// The LF after data.
    DataEnd,
    /// A trailer field, or the CR of the last line.
    Trailer,
    /// A trailer field up to its CR.
    TrailerField,
    /// The LF after a trailer field.
    TrailerEnd,
    /// The very last LF.
    LastEnd,
    /// Nothing.
    Done,
}

/// The framing is broken: nobody knows where the body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BadChunk;

impl Chunked {
    /// Whether the body is over.
    pub(crate) fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// How many of these bytes belong to the body; fewer than all only when the body is over.
    pub(crate) fn advance(&mut self, bytes: &[u8]) -> Result<usize, BadChunk> {
        let mut at = 0;
        while at < bytes.len() && self.state != State::Done {
            if let State::Data { left } = self.state {
                let here = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len() - at);
                at += here;
                self.state = match left - here as u64 {
                    0 => State::DataCr,
                    left => State::Data { left },
                };
            } else {
                self.state = self.step(bytes[at])?;
                at += 1;
            }
        }
        Ok(at)
    }

    fn step(&mut self, byte: u8) -> Result<State, BadChunk> {
        let digit = || char::from(byte).to_digit(16).map(u64::from);
        Ok(match (self.state, byte) {
            (State::Size, _) => State::Digits { size: digit().ok_or(BadChunk)?, digits: 1 },
            (State::Digits { size, .. }, b'\r') => State::SizeEnd { size },
            (State::Digits { size, .. }, b';') => State::Extension { size },
            (State::Digits { size, digits }, _) if digits < MOST_DIGITS => {
                State::Digits { size: size * 16 + digit().ok_or(BadChunk)?, digits: digits + 1 }
            }
            (State::Extension { size }, b'\r') => State::SizeEnd { size },
            (State::Extension { .. } | State::TrailerField, _) => self.extra(byte)?,
            (State::SizeEnd { size: 0 }, b'\n') => State::Trailer,
            (State::SizeEnd { size }, b'\n') => State::Data { left: size },
            (State::DataCr, b'\r') => State::DataEnd,
            (State::DataEnd, b'\n') => State::Size,
            (State::Trailer, b'\r') => State::LastEnd,
            (State::Trailer, b' ' | b'\t') => return Err(BadChunk),
            (State::Trailer, _) => {
                self.state = State::TrailerField;
                self.extra(byte)?
            }
            (State::TrailerEnd, b'\n') => State::Trailer,
            (State::LastEnd, b'\n') => State::Done,
            _ => return Err(BadChunk),
        })
    }

    /// A byte of an extension or a trailer field: no control character, and not too many of them.
    fn extra(&mut self, byte: u8) -> Result<State, BadChunk> {
        if byte == b'\r' {
            return Ok(State::TrailerEnd);
        }
        self.extras += 1;
        let fits = self.extras <= LONGEST_EXTRAS && (byte == b'\t' || !byte.is_ascii_control());
        if fits { Ok(self.state) } else { Err(BadChunk) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(body: &str) -> Result<(usize, bool), BadChunk> {
        let mut chunked = Chunked::default();
        let used = chunked.advance(body.as_bytes())?;
        Ok((used, chunked.is_done()))
    }

    fn byte_by_byte(body: &str) -> Result<(usize, bool), BadChunk> {
        let mut chunked = Chunked::default();
        let mut used = 0;
        for byte in body.as_bytes() {
            used += chunked.advance(&[*byte])?;
        }
        Ok((used, chunked.is_done()))
    }

    #[test]
    fn the_end_is_found_however_the_bytes_arrive() {
        for body in [
            "0\r\n\r\n",
            "5\r\nhello\r\n0\r\n\r\n",
            "5;a=b\r\nhello\r\nA\r\n\r\n\r\n\r\n\r\n\r\n\r\n0;x\r\n\r\n",
            "000005\r\nhello\r\n0\r\nA: b\r\nC: d\r\n\r\n",
        ] {
            let rest = format!("{body}GET / HTTP/1.1\r\n");
            assert_eq!(whole(&rest), Ok((body.len(), true)), "{body:?}");
            assert_eq!(byte_by_byte(&rest), Ok((body.len(), true)), "{body:?}");
            for len in 0..body.len() {
                assert_eq!(whole(&body[..len]), Ok((len, false)), "{body:?} cut at {len}");
            }
        }
    }

    #[test]
    fn broken_framing_is_told() {
        let long = format!("5;{}\r\n", "x".repeat(8193));
        for body in [
            "\r\n",
            "x\r\n",
            "-1\r\n",
            "0x5\r\n",
            " 5\r\n",
            "5 \r\nhello",
            "5\nhello",
            "5\r\nhello0\r\n",
            "5\r\nhello\n0\r\n",
            "5;a\nb",
            "0\r\n b\r\n",
            "0\r\nA: b\nC: d\r\n\r\n",
            "0\r\n\rx",
            "1000000000000000\r\n",
            "5\rx",
            &long,
        ] {
            assert_eq!(whole(body), Err(BadChunk), "{body:?}");
            assert_eq!(byte_by_byte(body), Err(BadChunk), "{body:?}");
        }
    }
}
