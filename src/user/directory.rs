//! Finding users by their names.
//!
//! An entry is written with the profile or account that it is made from; those of users of other servers by a reader of
//! the log, [`remote`]. Who may find whom is decided for each search.
//! <https://spec.matrix.org/v1.19/client-server-api/#user-directory>

pub mod remote;
mod search;
mod words;

use std::collections::BTreeSet;

use ruma::{OwnedMxcUri, UserId};
use serde::{Deserialize, Serialize};

pub use self::search::{Found, permits, search};
use super::{
    profile::{self, AVATAR_URL, DISPLAY_NAME},
    tables::Accounts,
};
use crate::{
    error::Result,
    store::{self, Family, Record, RoomNid, Snapshot, Table, TableInfo, Transaction},
};

pub const TABLES: [TableInfo; 2] = [TableInfo::of::<Entries>(), TableInfo::of::<Words>()];

/// How many words of a user are indexed. Source: our choice; names have a few.
const MAX_WORDS: usize = 12;
/// In how many public rooms a user of another server is remembered.
const MAX_PUBLIC_ROOMS: usize = 8;

/// The users who can be found: ours, and those of other servers whom ours have met.
pub struct Entries;
impl Table for Entries {
    const NAME: &'static str = "user_directory";
    const FAMILY: Family = Family::User;
    const ID: u8 = 161;
    type Key<'a> = &'a UserId;
    type Value = Entry;
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Of the profile; of users of other servers, what they are called in public rooms.
    pub display_name: Option<String>,
    pub avatar_url: Option<String>,
    /// What `Words` has of the user.
    pub words: BTreeSet<String>,
    /// Public rooms in which a user of another server was seen last. Whether he still is must be looked up.
    pub public_rooms: Vec<RoomNid>,
}

impl Record for Entry {}

impl Entry {
    fn new(user: &UserId, display_name: Option<String>, avatar_url: Option<String>) -> Self {
        let words = words::of_name(display_name.as_deref().unwrap_or_default());
        let words = words.chain(words::of_name(user.localpart())).take(MAX_WORDS).collect();
        Self { display_name, avatar_url, words, public_rooms: Vec::new() }
    }
}

/// The words of `Entries`, folded, each with whom it leads to: one row here for each word there.
pub struct Words;
impl Table for Words {
    const NAME: &'static str = "user_directory_words";
    const FAMILY: Family = Family::Lookup;
    const ID: u8 = 162;
    type Key<'a> = (&'a str, &'a UserId);
    type Value = ();
}

/// Writes the entry of one of our users, as his profile is with these changes to it, which are not written yet.
pub fn update(tx: &mut Transaction<'_>, user: &UserId, changed: &str, value: Option<&str>) -> Result<()> {
    if tx.get::<Accounts>(&user)?.is_some_and(|account| account.is_guest) {
        return Ok(());
    }
    let field = |name: &str| -> Result<Option<String>> {
        if name == changed {
            return Ok(value.map(ToOwned::to_owned));
        }
        let kept = profile::get(tx.before(), user, name)?;
        Ok(kept.and_then(|value| value.parse().ok()))
    };
    let entry = Entry::new(user, field(DISPLAY_NAME)?, field(AVATAR_URL)?);
    Ok(put(tx, user, entry)?)
}

/// Writes the entry of somebody who was a guest, and so had none.
pub fn make(tx: &mut Transaction<'_>, user: &UserId) -> Result<()> {
    let entry = of_profile(tx.before(), user)?;
    Ok(put(tx, user, entry)?)
}

/// Writes the entry of a new account.
pub fn add(tx: &mut Transaction<'_>, user: &UserId, display_name: Option<&str>) -> store::Result<()> {
    put(tx, user, Entry::new(user, display_name.map(ToOwned::to_owned), None))
}

/// Removes a user whom nobody shall find any more.
pub fn remove(tx: &mut Transaction<'_>, user: &UserId) -> store::Result<()> {
    let before = tx.get::<Entries>(&user)?.unwrap_or_default();
    for word in &before.words {
        tx.delete::<Words>(&(word, user));
    }
    tx.delete::<Entries>(&user);
    Ok(())
}

fn put(tx: &mut Transaction<'_>, user: &UserId, entry: Entry) -> store::Result<()> {
    let before = tx.get::<Entries>(&user)?;
    if before.as_ref() == Some(&entry) {
        return Ok(());
    }
    let before = before.unwrap_or_default();
    for word in before.words.difference(&entry.words) {
        tx.delete::<Words>(&(word, user));
    }
    for word in entry.words.difference(&before.words) {
        tx.put::<Words>(&(word, user), &());
    }
    tx.put::<Entries>(&user, &entry);
    Ok(())
}

/// What the entry of one of our users has to be: for `chappe check`.
pub fn expected(snapshot: &Snapshot<'_>, user: &UserId) -> Result<Option<Entry>> {
    let account = snapshot.get::<Accounts>(&user)?;
    if account.is_none_or(|account| !account.is_active() || account.is_guest) {
        return Ok(None);
    }
    of_profile(snapshot, user).map(Some)
}

fn of_profile(snapshot: &Snapshot<'_>, user: &UserId) -> Result<Entry> {
    let text = |field| -> Result<Option<String>> {
        Ok(profile::get(snapshot, user, field)?.and_then(|value| value.parse().ok()))
    };
    Ok(Entry::new(user, text(DISPLAY_NAME)?, text(AVATAR_URL)?))
}

/// As clients are told of it.
fn avatar_of(entry: &Entry) -> Option<OwnedMxcUri> {
    entry.avatar_url.as_deref().map(Into::into)
}
