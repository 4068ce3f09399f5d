//! The tokens that clients get from us and bring back. They are places in an order, and nothing is kept for them; what
//! a client brings may be anything.

use std::{fmt, str::FromStr};

use super::sliding::Pos;
use crate::{
    error::Error,
    store::{RoomPos, StreamPos},
};

/// A moment: `next_batch` and `since` of `/sync`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    /// Durable changes, up to and with this one.
    pub pos: StreamPos,
    /// Typing and presence, which live in memory only, up to and with this change of theirs.
    pub ephemeral: u64,
    /// To-device messages, up to and with those of this change. Less than `pos` while there are more of them than one
    /// answer takes.
    pub to_device: StreamPos,
}

impl Token {
    /// A moment up to which everything is told.
    pub fn new(pos: StreamPos, ephemeral: u64) -> Self {
        Self { pos, ephemeral, to_device: pos }
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s{}_{}", self.pos, self.ephemeral)?;
        if self.to_device < self.pos { write!(f, "_d{}", self.to_device) } else { Ok(()) }
    }
}

impl FromStr for Token {
    type Err = Error;

    /// `M_INVALID_PARAM` if it is not of this form.
    fn from_str(text: &str) -> Result<Self, Error> {
        let parse = || {
            let (moment, to_device) = match text.split_once("_d") {
                Some((moment, to_device)) => (moment, Some(number(to_device)?)),
                None => (text, None),
            };
            let (pos, ephemeral) = moment.strip_prefix('s')?.split_once('_')?;
            let token = Self::new(StreamPos(number(pos)?), number(ephemeral)?);
            let to_device = to_device.map_or(token.pos, StreamPos);
            (to_device <= token.pos).then_some(Self { to_device, ..token })
        };
        parse().ok_or_else(not_a_token)
    }
}

/// A place between the events of a room: after those up to and with `RoomPos`, before all others. `start`, `end` and
/// `prev_batch` are of this form; a token of `/sync` is also such a place, and a `pos` of sliding sync.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimelineToken(pub RoomPos);

impl fmt::Display for TimelineToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "t{}", self.0)
    }
}

impl FromStr for TimelineToken {
    type Err = Error;

    /// `M_INVALID_PARAM` if it is neither of this form nor a token of `/sync`.
    fn from_str(text: &str) -> Result<Self, Error> {
        let Some(pos) = text.strip_prefix('t') else {
            let moment = text.parse::<Token>().or_else(|_| text.parse::<Pos>().map(|pos| pos.moment));
            return moment.map(Self::from).map_err(|_| not_a_token());
        };
        let sign = if pos.starts_with('-') { 1 } else { 0 };
        let is_plain = pos[sign..].bytes().all(|byte| byte.is_ascii_digit());
        let pos = pos.parse().ok().filter(|_| is_plain);
        pos.map(|pos| Self(RoomPos(pos))).ok_or_else(not_a_token)
    }
}

impl From<Token> for TimelineToken {
    fn from(token: Token) -> Self {
        Self(token.pos.into())
    }
}

/// A place in the order of all changes, where a token stands for nothing else. `M_INVALID_PARAM` if it is no number.
pub fn change(text: &str) -> Result<StreamPos, Error> {
    number(text).map(StreamPos).ok_or_else(not_a_token)
}

/// Digits only: `parse` alone would take a plus sign too.
fn number(text: &str) -> Option<u64> {
    text.parse().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()))
}

fn not_a_token() -> Error {
    Error::invalid_param("That is not a token of this server")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn tokens_come_back(pos: u64, ephemeral: u64, to_device: u64, place: i64) {
            let to_device = StreamPos(to_device.min(pos));
            let token = Token { pos: StreamPos(pos), ephemeral, to_device };
            prop_assert_eq!(token.to_string().parse::<Token>().unwrap(), token);
            prop_assert_eq!(token.to_string().parse::<TimelineToken>().unwrap(), token.into());
            let place = TimelineToken(RoomPos(place));
            prop_assert_eq!(place.to_string().parse::<TimelineToken>().unwrap(), place);
        }

        #[test]
        fn any_text_can_be_read_as_a_token(text: String) {
            let _ = text.parse::<Token>();
            let _ = text.parse::<TimelineToken>();
        }
    }

    #[test]
    fn the_tokens_of_other_servers_are_refused() {
        for text in [
            "",
            "s",
            "s1",
            "s1_",
            "s_1",
            "s+1_2",
            "s1_2_3",
            "s-1_0",
            "s1_2_d",
            "s1_2_d2",
            "t",
            "t+1",
            "t-",
            "t1_0",
            "t--1",
            "1",
            "s72594_4483_1934",
        ] {
            assert!(text.parse::<Token>().is_err(), "{text}");
            assert!(text.parse::<TimelineToken>().is_err(), "{text}");
        }
    }
}
