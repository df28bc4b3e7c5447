//! Positions in the log, and the opaque cursors that clients hold.

use std::fmt;

use aes::Aes128;
use aes::cipher::{BlockCipherDecrypt, BlockCipherEncrypt, KeyInit};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::ConnectionId;

/// One history of the log. Data that was restored, failed over or not synced begins a new, larger epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u32);

/// The number of a record in the order of the whole hub. The first record is 1; 0 is before everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Sequence(pub u64);

impl Sequence {
    /// Before the first record.
    pub const START: Sequence = Sequence(0);

    /// The next record's number.
    #[must_use]
    pub const fn next(self) -> Sequence {
        Sequence(self.0 + 1)
    }
}

/// Where something stands in the log. The order is that of the epochs, then that of the records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// The history that the sequence counts in.
    pub epoch: Epoch,
    /// The record's number.
    pub sequence: Sequence,
}

impl Position {
    /// A position of no log. A client that was told a gap of the reason `unknown` but lost the connection before it
    /// came holds the cursor of this, so that it is told again.
    pub const UNKNOWN: Position = Position { epoch: Epoch(0), sequence: Sequence(0) };
}

/// A position as clients see it: 22 characters of base64url that tell nothing.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Cursor([u8; Cursor::LEN]);

impl Cursor {
    /// The length of every cursor, in bytes.
    pub const LEN: usize = 22;

    /// The characters, all of them ASCII.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    /// The same as bytes.
    pub fn as_bytes(&self) -> &[u8; Cursor::LEN] {
        &self.0
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cursor({})", self.as_str())
    }
}

/// A text that no hub with this key gave out as a cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it is not a cursor of this hub")]
pub struct BadCursor;

/// The hub's key for cursors. All nodes of a hub share one.
///
/// A cursor is one AES-128 block of epoch, sequence and a fixed check: the same position always gives the same
/// cursor, nobody without the key can tell how far two cursors are apart, and a made-up one passes the check once in
/// 2³² tries (and then is only a position, whose views are authorised like any other's).
#[derive(Clone)]
pub struct CursorKey(Aes128);

/// What the last four bytes of every block are.
const CHECK: [u8; 4] = *b"tdg1";

impl CursorKey {
    /// A key of 16 random bytes.
    pub fn new(key: [u8; 16]) -> CursorKey {
        CursorKey(Aes128::new(&key.into()))
    }

    /// The cursor of a position.
    pub fn seal(&self, position: Position) -> Cursor {
        let mut block = [0; 16];
        block[..4].copy_from_slice(&position.epoch.0.to_be_bytes());
        block[4..12].copy_from_slice(&position.sequence.0.to_be_bytes());
        block[12..].copy_from_slice(&CHECK);
        let mut block = block.into();
        self.0.encrypt_block(&mut block);
        Cursor(base64url(block.into()))
    }

    /// What only this hub can say of a connection: who shows it was told it by the hub. 22 characters of base64url.
    ///
    /// Two blocks where a cursor is one, so that neither passes for the other.
    pub fn secret_of(&self, connection: ConnectionId) -> String {
        let mut block = connection.0.to_be_bytes().into();
        self.0.encrypt_block(&mut block);
        for (byte, label) in block.iter_mut().zip(b"connection's own") {
            *byte ^= label;
        }
        self.0.encrypt_block(&mut block);
        Cursor(base64url(block.into())).to_string()
    }

    /// Whether this is what the hub says of a connection. Takes as long for a wrong one as for a right one.
    pub fn is_secret_of(&self, connection: ConnectionId, secret: &str) -> bool {
        let right = self.secret_of(connection);
        let differences = right.bytes().zip(secret.bytes()).fold(0, |all, (a, b)| all | (a ^ b));
        right.len() == secret.len() && differences == 0
    }

    /// The position that a cursor stands for.
    ///
    /// # Errors
    /// When the text is no cursor, or one of another hub.
    pub fn open(&self, text: &str) -> Result<Position, BadCursor> {
        if text.len() != Cursor::LEN {
            return Err(BadCursor);
        }
        let mut block = [0; 16];
        match URL_SAFE_NO_PAD.decode_slice(text, &mut block) {
            Ok(16) => {}
            _ => return Err(BadCursor),
        }
        let mut block = block.into();
        self.0.decrypt_block(&mut block);
        let block: [u8; 16] = block.into();
        let [e0, e1, e2, e3, s0, s1, s2, s3, s4, s5, s6, s7, check @ ..] = block;
        if check != CHECK {
            return Err(BadCursor);
        }
        Ok(Position {
            epoch: Epoch(u32::from_be_bytes([e0, e1, e2, e3])),
            sequence: Sequence(u64::from_be_bytes([s0, s1, s2, s3, s4, s5, s6, s7])),
        })
    }
}

/// A block's 22 characters (RFC 4648, 5), six bits each, the last with two. Every event has a cursor twice, and the
/// `base64` crate's loop for any length takes three times as long.
fn base64url(block: [u8; 16]) -> [u8; Cursor::LEN] {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let bits = u128::from_be_bytes(block);
    let mut text = [0; Cursor::LEN];
    let (whole, last) = text.split_at_mut(Cursor::LEN - 1);
    for (character, shift) in whole.iter_mut().zip((0..21).map(|n| 122 - 6 * n)) {
        *character = ALPHABET[(bits >> shift) as usize & 63];
    }
    last.fill(ALPHABET[(bits << 4) as usize & 63]);
    text
}

impl fmt::Debug for CursorKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CursorKey(secret)")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_cursor_opens_to_its_position_under_its_key_only(epoch: u32, sequence: u64, key: [u8; 16], other: [u8; 16]) {
            let position = Position { epoch: Epoch(epoch), sequence: Sequence(sequence) };
            let cursor = CursorKey::new(key).seal(position);
            prop_assert_eq!(CursorKey::new(key).open(cursor.as_str()), Ok(position));
            prop_assume!(key != other);
            prop_assert_eq!(CursorKey::new(other).open(cursor.as_str()), Err(BadCursor));
        }

        #[test]
        fn no_text_opens_that_was_not_sealed(text: String) {
            prop_assert_eq!(CursorKey::new([7; 16]).open(&text), Err(BadCursor));
        }

        #[test]
        fn a_changed_cursor_does_not_open(sequence: u64, at in 0..Cursor::LEN, with in "[A-Za-z0-9_-]") {
            let key = CursorKey::new([7; 16]);
            let cursor = key.seal(Position { epoch: Epoch(1), sequence: Sequence(sequence) });
            let mut text = cursor.as_str().to_owned();
            text.replace_range(at..=at, &with);
            prop_assume!(text != cursor.as_str());
            prop_assert_eq!(key.open(&text), Err(BadCursor));
        }
    }
}
