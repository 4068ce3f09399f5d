//! Keys as bytes that sort as their values do: numbers big-endian at fixed width, text ended by `0xFF`, which UTF-8
//! never contains. No other code joins or splits key bytes.

use std::fmt;

use ruma::{DeviceId, EventId, RoomAliasId, RoomId, ServerName, UserId};
use serde::{Deserialize, Serialize};

/// A key, or the first parts of one.
pub trait Key<'a>: Sized {
    fn write(&self, out: &mut Vec<u8>);
    /// Takes the key off the front of `bytes`; `None` if they are not one.
    fn read(bytes: &mut &'a [u8]) -> Option<Self>;

    fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(32);
        self.write(&mut out);
        out
    }
}

/// A number that stands for something longer, or for a place in an order.
macro_rules! numbers {
    ($($(#[$doc:meta])* $name:ident($inner:ty);)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(pub $inner);

        impl Key<'_> for $name {
            fn write(&self, out: &mut Vec<u8>) {
                self.0.write(out);
            }
            fn read(bytes: &mut &[u8]) -> Option<Self> {
                <$inner>::read(bytes).map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    )*};
}

numbers! {
    /// A room, in this database.
    RoomNid(u64);
    /// An event, in its room: in the order in which we accepted them, so that an event's auth events have lower numbers.
    EventNid(u32);
    /// A pair of event type and state key, in its room.
    StateKeyNid(u32);
    /// The place of a durable change in the order of all changes; a sync token is one of these.
    StreamPos(u64);
    /// The place of an event in its room's timeline: its `StreamPos` if it came in live, negative if it was backfilled.
    RoomPos(i64);
}

impl RoomPos {
    pub const MIN: Self = Self(i64::MIN);
    pub const MAX: Self = Self(i64::MAX);
}

impl From<StreamPos> for RoomPos {
    fn from(pos: StreamPos) -> Self {
        Self(i64::try_from(pos.0).unwrap_or(i64::MAX))
    }
}

impl StreamPos {
    pub const MAX: Self = Self(u64::MAX);

    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

macro_rules! integers {
    ($($int:ty),*) => {$(
        impl Key<'_> for $int {
            fn write(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_be_bytes());
            }
            fn read(bytes: &mut &[u8]) -> Option<Self> {
                let (first, rest) = bytes.split_first_chunk()?;
                *bytes = rest;
                Some(Self::from_be_bytes(*first))
            }
        }
    )*};
}

integers!(u8, u16, u32, u64);

/// With the sign bit turned over, negative numbers sort before positive ones.
impl Key<'_> for i64 {
    fn write(&self, out: &mut Vec<u8>) {
        (self.cast_unsigned() ^ (1 << 63)).write(out);
    }
    fn read(bytes: &mut &[u8]) -> Option<Self> {
        u64::read(bytes).map(|n| (n ^ (1 << 63)).cast_signed())
    }
}

impl<const N: usize> Key<'_> for [u8; N] {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self);
    }
    fn read(bytes: &mut &[u8]) -> Option<Self> {
        let (first, rest) = bytes.split_first_chunk()?;
        *bytes = rest;
        Some(*first)
    }
}

/// What a text begins with: the last part of a prefix that finds all keys with such a text.
#[derive(Clone, Copy, Debug)]
pub struct Beginning<'t>(pub &'t str);

impl<'a> Key<'a> for Beginning<'a> {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.0.as_bytes());
    }
    /// No key ends within a text.
    fn read(_: &mut &'a [u8]) -> Option<Self> {
        None
    }
}

impl<'a> Key<'a> for &'a str {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.as_bytes());
        out.push(0xFF);
    }
    fn read(bytes: &mut &'a [u8]) -> Option<Self> {
        let end = bytes.iter().position(|&b| b == 0xFF)?;
        let text = std::str::from_utf8(&bytes[..end]).ok()?;
        *bytes = &bytes[end + 1..];
        Some(text)
    }
}

macro_rules! identifiers {
    ($($id:ty),*) => {$(
        impl<'a> Key<'a> for &'a $id {
            fn write(&self, out: &mut Vec<u8>) {
                self.as_str().write(out);
            }
            fn read(bytes: &mut &'a [u8]) -> Option<Self> {
                <&str>::read(bytes)?.try_into().ok()
            }
        }
    )*};
}

identifiers!(EventId, RoomAliasId, RoomId, ServerName, UserId);

/// Device ids have no grammar: any text is one.
impl<'a> Key<'a> for &'a DeviceId {
    fn write(&self, out: &mut Vec<u8>) {
        self.as_str().write(out);
    }
    fn read(bytes: &mut &'a [u8]) -> Option<Self> {
        <&str>::read(bytes).map(Into::into)
    }
}

impl Key<'_> for () {
    fn write(&self, _: &mut Vec<u8>) {}
    fn read(_: &mut &[u8]) -> Option<Self> {
        Some(())
    }
}

macro_rules! tuples {
    ($(($($part:ident $index:tt),+);)*) => {$(
        impl<'a, $($part: Key<'a>),+> Key<'a> for ($($part,)+) {
            fn write(&self, out: &mut Vec<u8>) {
                $(self.$index.write(out);)+
            }
            fn read(bytes: &mut &'a [u8]) -> Option<Self> {
                Some(($($part::read(bytes)?,)+))
            }
        }
    )*};
}

tuples! {
    (A 0, B 1);
    (A 0, B 1, C 2);
    (A 0, B 1, C 2, D 3);
    (A 0, B 1, C 2, D 3, E 4);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn keys_sort_as_their_values(a: (u64, i64, String), b: (u64, i64, String)) {
            let (left, right) = ((a.0, a.1, a.2.as_str()), (b.0, b.1, b.2.as_str()));
            let order = left.to_bytes().cmp(&right.to_bytes());
            // Text sorts by its bytes, and a text before the longer ones that begin with it only where 0xFF ends it.
            if a.0 != b.0 || a.1 != b.1 {
                prop_assert_eq!(order, (a.0, a.1).cmp(&(b.0, b.1)));
            }
        }

        #[test]
        fn keys_come_back(number: u32, signed: i64, text: String) {
            let bytes = (number, signed, text.as_str()).to_bytes();
            let mut rest = bytes.as_slice();
            prop_assert_eq!(<(u32, i64, &str)>::read(&mut rest), Some((number, signed, text.as_str())));
            prop_assert!(rest.is_empty());
        }

        #[test]
        fn any_bytes_can_be_read_as_a_key(bytes: Vec<u8>) {
            let _ = <(RoomNid, &UserId, [u8; 16])>::read(&mut bytes.as_slice());
        }
    }
}
