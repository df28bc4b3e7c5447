//! A durable subscription as it is noted.

use tidings_wire::{ClientId, Epoch, Pattern, Position, Sequence, UserId};

use super::Durable;
use crate::Timestamp;
use crate::log::ReadError;

/// The first byte of a note. A later form gets another.
const FORM: u8 = 2;
/// The same without a turn.
const WITHOUT_TURN: u8 = 1;

/// The name of a note: `queue/`, the user as one level, `/`, the subscription's name, which may have any levels.
#[derive(Debug)]
pub(super) struct Name(String);

impl Name {
    /// What all of them begin with.
    pub(super) const ALL: &str = "queue/";

    pub(super) fn new(user: &UserId, name: &ClientId) -> Name {
        Name(Name::all_of(user) + name.as_str())
    }

    /// What those of a user begin with.
    pub(super) fn all_of(user: &UserId) -> String {
        format!("{}{}/", Name::ALL, user.as_level())
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

/// The value of a note.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct State {
    pub(super) cursor: Position,
    pub(super) used: Timestamp,
    /// How often a stream got it, from some number on.
    pub(super) turn: u64,
    pub(super) asked: Vec<Pattern>,
}

impl State {
    pub(super) fn named(self, name: ClientId) -> Durable {
        let State { cursor, used, turn: _, asked } = self;
        Durable { name, cursor, used, asked }
    }

    /// The form, epoch, sequence, time and turn at fixed places, then the channels, a line each: none has a control
    /// character.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = vec![FORM];
        out.extend(self.cursor.epoch.0.to_le_bytes());
        out.extend(self.cursor.sequence.0.to_le_bytes());
        out.extend(self.used.0.to_le_bytes());
        out.extend(self.turn.to_le_bytes());
        for pattern in &self.asked {
            out.extend(pattern.as_str().as_bytes());
            out.push(b'\n');
        }
        out
    }

    pub(super) fn decode(name: &str, value: &[u8]) -> Result<State, ReadError> {
        let read = || {
            let (form, rest) = value.split_first()?;
            let (epoch, rest) = rest.split_first_chunk()?;
            let (sequence, rest) = rest.split_first_chunk()?;
            let (used, rest) = rest.split_first_chunk()?;
            let (turn, rest) = match *form {
                FORM => rest.split_first_chunk()?,
                WITHOUT_TURN => (&[0; 8], rest),
                _ => return None,
            };
            let asked = std::str::from_utf8(rest).ok()?.lines().map(|line| line.parse().ok());
            Some(State {
                cursor: Position {
                    epoch: Epoch(u32::from_le_bytes(*epoch)),
                    sequence: Sequence(u64::from_le_bytes(*sequence)),
                },
                used: Timestamp(u64::from_le_bytes(*used)),
                turn: u64::from_le_bytes(*turn),
                asked: asked.collect::<Option<_>>()?,
            })
        };
        read().ok_or_else(|| ReadError::Failed(format!("the note {name:?} is not of this version")))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_state_comes_back(epoch: u32, sequence: u64, used: u64, turn: u64, asked in prop::collection::vec("[a-zä]{1,5}(/\\*)?", 0..4)) {
            let state = State {
                cursor: Position { epoch: Epoch(epoch), sequence: Sequence(sequence) },
                used: Timestamp(used),
                turn,
                asked: asked.iter().map(|text| text.parse().unwrap()).collect(),
            };
            let encoded = state.encode();
            prop_assert_eq!(State::decode("n", &encoded), Ok(state.clone()));
            let earlier = [&[WITHOUT_TURN], &encoded[1..21], &encoded[29..]].concat();
            prop_assert_eq!(State::decode("n", &earlier), Ok(State { turn: 0, ..state }));
        }

        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            let _ = State::decode("n", &bytes);
        }
    }

    #[test]
    fn no_user_has_anothers_names() {
        let name = |user: &str, name: &str| Name::new(&user.parse().unwrap(), &name.parse().unwrap()).0;
        assert_eq!(name("ada", "phone"), "queue/ada/phone");
        assert_ne!(name("a/b", "c"), name("a", "b/c"));
        assert!(!name("a/b", "c").starts_with(&Name::all_of(&"a".parse().unwrap())));
    }
}
