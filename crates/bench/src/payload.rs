//! What is published: text that readers recognise in any framing.

use std::io::Write;

/// What every payload begins with, and nothing else that a server sends contains.
pub const MARK: &str = "@@";

/// One event, as its payload tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// The number of its channel.
    pub channel: u32,
    /// Its place among the channel's events, from 0.
    pub sequence: u64,
    /// When it was meant to be sent, in microseconds of the shared clock.
    pub due: u64,
}

/// What becomes of the beginning of a payload.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Parsed {
    /// The stamp, and how many bytes it took.
    Whole(Stamp, usize),
    /// The rest is still to come.
    Partial,
    /// It isn't one.
    Malformed,
}

/// More than three numbers and their spaces ever take.
const LONGEST: usize = 10 + 20 + 20 + 3;

impl Stamp {
    /// Appends the payload, filled up to `size` bytes; never less than the stamp itself takes.
    pub(crate) fn write(&self, size: usize, out: &mut Vec<u8>) {
        let begin = out.len();
        // Writing to memory doesn't fail.
        let _ = write!(out, "{MARK}{} {} {} ", self.channel, self.sequence, self.due);
        let end = begin + size.saturating_sub(1);
        if out.len() < end {
            out.resize(end, b'x');
        }
        out.push(b';');
    }

    /// Reads what follows the mark.
    pub(crate) fn parse(text: &[u8]) -> Parsed {
        let mut numbers = [0; 3];
        let mut at = 0;
        for number in &mut numbers {
            let begin = at;
            loop {
                match text.get(at) {
                    Some(b' ') if at > begin => break,
                    Some(digit @ b'0'..=b'9') if at < LONGEST => {
                        *number = u64::wrapping_add(u64::wrapping_mul(*number, 10), u64::from(digit - b'0'));
                    }
                    None => return Parsed::Partial,
                    Some(_) => return Parsed::Malformed,
                }
                at += 1;
            }
            at += 1;
        }
        let [channel, sequence, due] = numbers;
        match u32::try_from(channel) {
            Ok(channel) => Parsed::Whole(Stamp { channel, sequence, due }, at),
            Err(_) => Parsed::Malformed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Parsed, Stamp};

    #[test]
    fn a_payload_has_the_size_asked_for_and_says_what_it_is() {
        let stamp = Stamp { channel: 7, sequence: 123, due: 4_567_890 };
        let mut payload = Vec::new();
        stamp.write(64, &mut payload);
        assert_eq!(payload.len(), 64);
        assert!(payload.starts_with(b"@@7 123 4567890 xxx") && payload.ends_with(b"x;"));
        assert_eq!(Stamp::parse(&payload[2..]), Parsed::Whole(stamp, 14));
        payload.clear();
        stamp.write(1, &mut payload);
        assert_eq!(payload, b"@@7 123 4567890 ;");
    }

    #[test]
    fn the_beginning_of_a_stamp_waits_for_the_rest() {
        assert_eq!(Stamp::parse(b""), Parsed::Partial);
        assert_eq!(Stamp::parse(b"7 12"), Parsed::Partial);
        assert_eq!(Stamp::parse(b"7 12 3"), Parsed::Partial);
        assert_eq!(Stamp::parse(b"7  12 3 "), Parsed::Malformed);
        assert_eq!(Stamp::parse(b"x"), Parsed::Malformed);
    }
}
