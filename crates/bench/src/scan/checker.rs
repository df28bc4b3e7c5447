//! The careful way: is each event there, once, in order, whole, and how late is it?

use std::collections::BTreeSet;
use std::fmt;

use memchr::memmem::Finder;
use memchr::{memchr2, memmem};
use serde::{Deserialize, Serialize};

use crate::payload::{MARK, Parsed, Stamp};

/// So many missing events of a channel are remembered, to tell a late one from a double.
const REMEMBERED: usize = 1024;

/// What a stream did that it must not.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Violations {
    /// Events that were skipped.
    pub(crate) missing: u64,
    /// Events that came again.
    pub(crate) doubles: u64,
    /// Events that came after later ones.
    pub(crate) disorders: u64,
    /// Events that were cut short, or whose beginning is none.
    pub(crate) broken: u64,
    /// The first one, in words.
    pub(crate) first: Option<String>,
}

/// Reads every event of one stream.
#[derive(Debug)]
pub(crate) struct Checker {
    mark: Finder<'static>,
    inside: bool,
    /// The end of what was read, if an event's beginning may be split there.
    carry: Vec<u8>,
    channels: Vec<Channel>,
}

#[derive(Debug)]
struct Channel {
    number: u32,
    next: u64,
    missing: BTreeSet<u64>,
}

impl Checker {
    pub(crate) fn new() -> Checker {
        Checker { mark: memmem::Finder::new(MARK), inside: false, carry: Vec::new(), channels: Vec::new() }
    }

    /// Takes what was read. Each event that begins in it is shown to `see`.
    pub(crate) fn read(&mut self, bytes: &[u8], violations: &mut Violations, mut see: impl FnMut(Stamp)) {
        if self.carry.is_empty() {
            let rest = self.scan(bytes, violations, &mut see);
            self.carry.extend_from_slice(rest);
        } else {
            let mut joined = std::mem::take(&mut self.carry);
            joined.extend_from_slice(bytes);
            let rest = self.scan(&joined, violations, &mut see).to_vec();
            self.carry = rest;
        }
    }

    /// Returns what can't be judged yet.
    fn scan<'a>(
        &mut self,
        mut bytes: &'a [u8],
        violations: &mut Violations,
        see: &mut impl FnMut(Stamp),
    ) -> &'a [u8] {
        loop {
            if self.inside {
                let Some(at) = memchr2(b';', b'@', bytes) else { return &[] };
                if bytes[at] == b'@' {
                    violations.broken += 1;
                    violations.say(|| "an event was cut short".to_owned());
                    bytes = &bytes[at..];
                } else {
                    bytes = &bytes[at + 1..];
                }
                self.inside = false;
            }
            let Some(mut at) = self.mark.find(bytes) else {
                return if bytes.ends_with(b"@") { b"@" } else { &[] };
            };
            // A third one is of the framing, like a WebSocket frame's length of 64.
            while bytes.get(at + MARK.len()) == Some(&b'@') {
                at += 1;
            }
            match Stamp::parse(&bytes[at + MARK.len()..]) {
                Parsed::Whole(stamp, length) => {
                    self.place(stamp, violations);
                    see(stamp);
                    self.inside = true;
                    bytes = &bytes[at + MARK.len() + length..];
                }
                Parsed::Partial => return &bytes[at..],
                Parsed::Malformed => {
                    violations.broken += 1;
                    violations.say(|| "an event's beginning is broken".to_owned());
                    bytes = &bytes[at + MARK.len()..];
                }
            }
        }
    }

    fn place(&mut self, stamp: Stamp, violations: &mut Violations) {
        let Stamp { channel: number, sequence, .. } = stamp;
        let Some(channel) = self.channels.iter_mut().find(|channel| channel.number == number) else {
            // A stream begins where it begins; from there on it has to go on without a gap.
            self.channels.push(Channel { number, next: sequence + 1, missing: BTreeSet::new() });
            return;
        };
        let next = channel.next;
        if sequence == next {
            channel.next += 1;
        } else if sequence > next {
            violations.missing += sequence - next;
            violations.say(|| format!("in channel {number} event {sequence} came where {next} was due"));
            channel.missing.extend((next..sequence).take(REMEMBERED - channel.missing.len().min(REMEMBERED)));
            channel.next = sequence + 1;
        } else if channel.missing.remove(&sequence) {
            violations.missing -= 1;
            violations.disorders += 1;
            violations.say(|| format!("in channel {number} event {sequence} came after later ones"));
        } else {
            violations.doubles += 1;
            violations.say(|| format!("in channel {number} event {sequence} came twice"));
        }
    }
}

impl Violations {
    pub(crate) fn any(&self) -> bool {
        self.missing + self.doubles + self.disorders + self.broken > 0
    }

    pub(crate) fn add(&mut self, other: Violations) {
        self.missing += other.missing;
        self.doubles += other.doubles;
        self.disorders += other.disorders;
        self.broken += other.broken;
        self.first = self.first.take().or(other.first);
    }

    fn say(&mut self, what: impl FnOnce() -> String) {
        if self.first.is_none() {
            self.first = Some(what());
        }
    }
}

impl fmt::Display for Violations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Violations { missing, doubles, disorders, broken, first } = self;
        let mut said = false;
        for (count, what) in
            [(missing, "missing"), (doubles, "doubled"), (disorders, "out of order"), (broken, "broken")]
        {
            if *count > 0 {
                write!(f, "{}{count} {what}", if said { ", " } else { "" })?;
                said = true;
            }
        }
        match first {
            Some(first) => write!(f, " (the first: {first})"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Checker, Violations};
    use crate::payload::Stamp;

    fn stream(events: &[(u32, u64)]) -> Vec<u8> {
        let mut bytes = b"HTTP/1.1 200 OK\r\n\r\n".to_vec();
        for &(channel, sequence) in events {
            bytes.extend_from_slice(b"40\r\ndata: ");
            Stamp { channel, sequence, due: 1000 + sequence }.write(48, &mut bytes);
            bytes.extend_from_slice(b"\nid: x\n\n\r\n");
        }
        bytes
    }

    fn check(pieces: &[&[u8]]) -> (Vec<Stamp>, Violations) {
        let (mut seen, mut violations) = (Vec::new(), Violations::default());
        let mut checker = Checker::new();
        for piece in pieces {
            checker.read(piece, &mut violations, |stamp| seen.push(stamp));
        }
        (seen, violations)
    }

    fn violations(events: &[(u32, u64)]) -> Violations {
        Violations { first: None, ..check(&[&stream(events)]).1 }
    }

    #[test]
    fn events_are_seen_wherever_reads_are_split() {
        let bytes = stream(&[(1, 5), (2, 0), (1, 6), (2, 1)]);
        let expected = check(&[&bytes]).0;
        assert_eq!(expected.len(), 4);
        for first in 0..=bytes.len() {
            let (seen, violations) = check(&[&bytes[..first], &bytes[first..]]);
            assert_eq!((seen, violations.any()), (expected.clone(), false), "split at {first}");
        }
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(check(&single).0, expected);
    }

    #[test]
    fn gaps_doubles_and_disorder_are_found() {
        assert!(!violations(&[(1, 3), (1, 4), (2, 9), (1, 5)]).any());
        assert_eq!(violations(&[(1, 3), (1, 6)]), Violations { missing: 2, ..Violations::default() });
        assert_eq!(violations(&[(1, 3), (1, 3)]), Violations { doubles: 1, ..Violations::default() });
        let swapped = violations(&[(1, 3), (1, 5), (1, 4), (1, 6)]);
        assert_eq!(swapped, Violations { disorders: 1, ..Violations::default() });
        let (_, said) = check(&[&stream(&[(1, 3), (1, 6)])]);
        assert_eq!(said.to_string(), "2 missing (the first: in channel 1 event 6 came where 4 was due)");
    }

    #[test]
    fn an_event_that_is_cut_short_is_found() {
        let whole = stream(&[(1, 3), (1, 4)]);
        let end = whole.iter().position(|byte| *byte == b';').unwrap();
        let (_, cut) = check(&[&whole[..end - 5], &whole[end + 1..]]);
        assert_eq!((cut.broken, cut.missing), (1, 0));
    }

    #[test]
    fn a_frame_s_length_may_look_like_a_mark() {
        let (seen, violations) = check(&[b"\x81@@@1 1 1 xx;\x81@@@1 2 1 xx;"]);
        assert_eq!((seen.len(), violations.any()), (2, false));
    }
}
