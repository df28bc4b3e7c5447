//! What an append may depend on, and what is stored along with it.

use std::fmt;

use crate::Timestamp;

/// What makes an append one that is done once, however often it is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Once {
    /// A hash over the publisher and the key that it chose.
    pub key: [u8; 32],
    /// A hash over what it publishes.
    pub body: [u8; 32],
    /// When it may be forgotten.
    pub until: Timestamp,
}

/// Who asks for leases: random bytes that a process makes at its start, one for each part of it that is to contend by
/// itself.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Holder(pub [u8; 16]);

impl fmt::Debug for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Holder({:032x})", u128::from_be_bytes(self.0))
    }
}

/// A right that one holder at a time has. Kept by whoever has it, to say with each append under which right it comes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// What it is a right to.
    pub name: String,
    /// Who has it.
    pub holder: Holder,
    /// Larger than that of every lease with this name before. A lease that is renewed in time keeps it.
    pub number: u64,
}

/// What is noted under a name: see [`super::Log::set_note`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// The name.
    pub name: String,
    /// What is noted; `None` takes back what was.
    pub value: Option<Vec<u8>>,
}

/// On which terms a batch is appended. By default on none. See [`super::Log::append_with`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Terms {
    /// Only if nothing was stored under this key before.
    pub once: Option<Once>,
    /// Only as long as this lease lasts.
    pub lease: Option<Lease>,
    /// This is noted in the same step, all of it or nothing.
    pub note: Option<Note>,
}

impl From<Once> for Terms {
    fn from(once: Once) -> Terms {
        Terms { once: Some(once), ..Terms::default() }
    }
}
