use std::{fmt, str::FromStr};

use ruma::api::error::ErrorKind;

use crate::{error::Error, store::StreamPos, sync::token::Token};

/// Where a client is: what it knows of the rooms of its connection, and the moment of the answer that told it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pos {
    pub moment: Token,
    /// The position of the connection: the change that wrote it.
    pub at: StreamPos,
}

/// Between the moment and the position of the connection.
pub const SEPARATOR: &str = "_c";

impl fmt::Display for Pos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{SEPARATOR}{}", self.moment, self.at)
    }
}

impl FromStr for Pos {
    type Err = Error;

    /// `M_UNKNOWN_POS` if it is not of this form: the client then begins anew.
    fn from_str(text: &str) -> Result<Self, Error> {
        let (moment, at) = text.split_once(SEPARATOR).ok_or_else(unknown)?;
        let is_plain = at.bytes().all(|byte| byte.is_ascii_digit());
        let at = at.parse().ok().filter(|_| is_plain).map(StreamPos).ok_or_else(unknown)?;
        Ok(Self { moment: moment.parse().map_err(|_| unknown())?, at })
    }
}

/// The client must begin anew.
pub fn unknown() -> Error {
    Error::refused(ErrorKind::UnknownPos, "This position is not known (any more): begin the connection anew")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::sync::token::TimelineToken;

    proptest! {
        #[test]
        fn positions_come_back_and_are_places_in_timelines(pos: u64, ephemeral: u64, at: u64) {
            let pos = Pos { moment: Token::new(StreamPos(pos), ephemeral), at: StreamPos(at) };
            prop_assert_eq!(pos.to_string().parse::<Pos>().unwrap(), pos);
            prop_assert_eq!(pos.to_string().parse::<TimelineToken>().unwrap(), pos.moment.into());
        }

        #[test]
        fn any_text_can_be_read_as_a_position(text: String) {
            let _ = text.parse::<Pos>();
        }
    }

    #[test]
    fn other_texts_are_refused() {
        for text in ["", "s1_2", "s1_2_c", "s1_2_c+1", "s1_2_c1_c1", "_c1", "1", "t1_c1"] {
            assert!(text.parse::<Pos>().is_err(), "{text}");
        }
    }
}
