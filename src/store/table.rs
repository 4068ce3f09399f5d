//! What a table is: where its rows lie, what its keys and values are.

use std::fmt::Debug;

use serde::{Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;

use super::{Error, Group, Key, Result};

/// A column family. There is one per pattern of access, because each has memtables and files of its own; the tables in
/// it differ by the first byte of their keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// Counters and the facts about the database itself.
    Meta,
    /// Small rows found by their whole key: ids, tokens, aliases, transaction ids.
    Lookup,
    /// Event bodies: the bulk of the data, by room and number.
    Event,
    /// Nodes of the state tries, found by hash.
    State,
    /// Small rows of one room, read in order: timeline, members, receipts, extremities.
    Room,
    /// Small rows of one user, read in order: devices, account data, keys.
    User,
    /// Rows that are written, read once in order, and removed: to-device messages.
    Queue,
}

impl Family {
    pub const ALL: [Self; 7] =
        [Self::Meta, Self::Lookup, Self::Event, Self::State, Self::Room, Self::User, Self::Queue];

    /// Its name on disk: never changed.
    pub fn name(self) -> &'static str {
        match self {
            Self::Meta => "meta",
            Self::Lookup => "lookup",
            Self::Event => "event",
            Self::State => "state",
            Self::Room => "room",
            Self::User => "user",
            Self::Queue => "queue",
        }
    }
}

/// One table: rows of one kind.
pub trait Table: 'static {
    /// For people: `chappe inspect NAME`, error messages.
    const NAME: &'static str;
    const FAMILY: Family;
    /// The first byte of its keys, unique in the family. On disk: never changed, never used again for something else.
    const ID: u8;
    type Key<'a>: Key<'a> + Debug;
    type Value: Value;

    /// The group of a row whose last change is kept in memory; `None` if nobody asks for it. See
    /// [`Store::recent`](super::Store::recent).
    fn group(_: &Self::Key<'_>) -> Option<Group> {
        None
    }
}

/// The key bytes of `key`, or of a prefix of a key, in table `T`.
pub(super) fn key_bytes<'a, T: Table>(key: &impl Key<'a>) -> Vec<u8> {
    let mut out = Vec::with_capacity(48);
    out.push(T::ID);
    key.write(&mut out);
    out
}

pub(super) fn read_key<T: Table>(bytes: &[u8]) -> Result<T::Key<'_>> {
    let corrupt = || Error::corrupt(T::NAME, bytes, "the key is not of this table's form");
    let mut rest = bytes.get(1..).ok_or_else(corrupt)?;
    let key = T::Key::read(&mut rest).ok_or_else(corrupt)?;
    if rest.is_empty() { Ok(key) } else { Err(corrupt()) }
}

pub(super) fn read_value<T: Table>(key: &[u8], bytes: &[u8]) -> Result<T::Value> {
    let corrupt = |reason: String| Error::corrupt(T::NAME, key, reason);
    let (&version, body) = bytes.split_first().ok_or_else(|| corrupt("the value is empty".to_owned()))?;
    T::Value::read(version, body).map_err(corrupt)
}

/// What a row holds. Its first byte on disk is the version of the layout that wrote it.
pub trait Value: Sized + Send + Debug + 'static {
    /// The version that `write` writes.
    const VERSION: u8 = 1;
    fn write(&self, out: &mut Vec<u8>);
    /// Reads what any version up to `VERSION` wrote; the error says what is wrong with the bytes.
    fn read(version: u8, body: &[u8]) -> Result<Self, String>;
}

/// A value made of plain fields, kept as `postcard` writes them. A struct that changes raises `VERSION` and reads its
/// older forms in `upgrade`.
pub trait Record: Serialize + DeserializeOwned + Send + Debug + 'static {
    const VERSION: u8 = 1;
    fn upgrade(version: u8, _body: &[u8]) -> Result<Self, String> {
        Err(unknown_version(version))
    }
}

/// What is said of rows that only a newer version of the program can read.
pub fn unknown_version(version: u8) -> String {
    format!("unknown value version {version}: was it written by a newer chappe?")
}

impl<T: Record> Value for T {
    const VERSION: u8 = <T as Record>::VERSION;

    fn write(&self, out: &mut Vec<u8>) {
        *out = postcard::to_extend(self, std::mem::take(out)).expect("records hold plain data only");
    }

    fn read(version: u8, body: &[u8]) -> Result<Self, String> {
        if version != <T as Record>::VERSION {
            return T::upgrade(version, body);
        }
        match postcard::take_from_bytes(body) {
            Ok((value, [])) => Ok(value),
            Ok((_, rest)) => Err(format!("{} bytes too many", rest.len())),
            Err(error) => Err(error.to_string()),
        }
    }
}

impl Record for () {}
impl Record for u64 {}
impl Record for String {}
impl Record for (u64, u64) {}
impl Record for Vec<u8> {}
impl Record for super::EventNid {}
impl Record for super::RoomNid {}
impl Record for super::RoomPos {}
impl Record for super::StateKeyNid {}
impl Record for super::StreamPos {}

/// JSON as it came in, byte for byte.
#[derive(Clone, Debug)]
pub struct Json(pub Box<RawValue>);

impl Json {
    /// # Panics
    /// Never for types whose `Serialize` can't fail, which those of ruma and our own are.
    pub fn of<T: Serialize>(value: &T) -> Self {
        Self(serde_json::value::to_raw_value(value).expect("our types serialize to JSON"))
    }

    pub fn parse<T: DeserializeOwned>(&self) -> serde_json::Result<T> {
        serde_json::from_str(self.0.get())
    }
}

impl Value for Json {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.0.get().as_bytes());
    }
    fn read(version: u8, body: &[u8]) -> Result<Self, String> {
        match version {
            1 => serde_json::from_slice(body).map(Self).map_err(|e| e.to_string()),
            _ => Err(unknown_version(version)),
        }
    }
}

/// A table without its types, for what goes through all of them: opening, `chappe check`, `chappe inspect`.
#[derive(Clone, Copy)]
pub struct TableInfo {
    pub name: &'static str,
    pub family: Family,
    pub id: u8,
    pub show: Show,
}

/// Makes a row, given as bytes, readable: key and value. An error if it can't be decoded.
pub type Show = fn(&[u8], &[u8]) -> Result<(String, String)>;

impl TableInfo {
    pub const fn of<T: Table>() -> Self {
        fn show<T: Table>(key: &[u8], value: &[u8]) -> Result<(String, String)> {
            let shown = format!("{:?}", read_key::<T>(key)?);
            Ok((shown, format!("{:?}", read_value::<T>(key, value)?)))
        }
        Self { name: T::NAME, family: T::FAMILY, id: T::ID, show: show::<T> }
    }
}
