//! Encrypted copies of message keys, which the server keeps for its users and cannot read.
//!
//! <https://spec.matrix.org/v1.19/client-server-api/#server-side-key-backups>

use std::{collections::BTreeMap, iter, sync::Arc};

use ruma::{
    OwnedRoomId, OwnedUserId, RoomId, UserId,
    api::error::{ErrorKind, WrongRoomKeysVersionErrorData},
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use vodozemac::Curve25519PublicKey;

use super::tables::{BackupKeys, Backups};
use crate::{
    Server,
    error::{Error, Result},
    store::{self, Record, Scan, Snapshot, Transaction},
};

/// The algorithm whose `auth_data` is known here.
const MEGOLM_BACKUP_V1: &str = "m.megolm_backup.v1.curve25519-aes-sha2";

/// The largest `auth_data`, in bytes. Source: our choice; those of clients have some hundred.
const MAX_AUTH_DATA_BYTES: usize = 65_536;

/// The largest copy of a key, in bytes. Source: our choice; those of clients have about 1 KB.
const MAX_KEY_BYTES: usize = 65_536;

/// The longest session id and name of an algorithm, in bytes. Source: our choice, the limit of other identifiers.
const MAX_ID_BYTES: usize = 255;

/// How many backups a user may have at a time. Source: our choice; clients delete the one that they replace.
const MAX_BACKUPS: usize = 32;

/// How many deleted versions are remembered when a user makes a new one: to delete such a one again is no error. Source:
/// our choice.
const MAX_GRAVES: usize = 32;

/// How many keys one transaction stores or deletes: everybody else who writes waits for it. Clients send fewer at a
/// time, so each of their requests is done whole or not at all.
const KEYS_PER_TRANSACTION: usize = 500;

/// A version of a user's backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backup {
    pub algorithm: String,
    /// A JSON object.
    pub auth_data: String,
    /// How many keys are in it.
    pub count: u64,
    /// Raised by every change of the keys.
    pub etag: u64,
    /// The row stays until there are newer ones: no later version may get the same number.
    pub is_deleted: bool,
}

impl Record for Backup {}

/// A copy of a session's key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupKey {
    pub is_verified: bool,
    pub first_message_index: u64,
    pub forwarded_count: u64,
    /// The whole object of the specification, as the client sent it.
    pub json: String,
}

impl Record for BackupKey {}

/// What clients are told after each change of the keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    pub etag: u64,
    pub count: u64,
}

impl From<&Backup> for State {
    fn from(backup: &Backup) -> Self {
        Self { etag: backup.etag, count: backup.count }
    }
}

/// The body of a request that makes or changes a backup.
#[derive(Clone, Debug)]
pub struct Description {
    pub algorithm: String,
    auth_data: String,
    /// Only a change may have it, and there it must be the one in the path.
    version: Option<String>,
}

impl Description {
    /// `M_BAD_JSON` or `M_INVALID_PARAM` for what is none.
    pub fn parse(json: &str) -> Result<Self> {
        #[derive(Deserialize)]
        struct Body {
            algorithm: String,
            auth_data: Box<RawValue>,
            version: Option<String>,
        }
        let body: Body = serde_json::from_str(json).map_err(|e| Error::bad_json(e.to_string()))?;
        if body.algorithm.is_empty() || body.algorithm.len() > MAX_ID_BYTES {
            return Err(Error::invalid_param("That is not the name of an algorithm"));
        }
        check_auth_data(&body.algorithm, body.auth_data.get())?;
        let auth_data = Box::<str>::from(body.auth_data).into();
        Ok(Self { algorithm: body.algorithm, auth_data, version: body.version })
    }
}

fn check_auth_data(algorithm: &str, json: &str) -> Result<()> {
    if json.len() > MAX_AUTH_DATA_BYTES {
        return Err(Error::too_large(format!("`auth_data` has more than {MAX_AUTH_DATA_BYTES} bytes")));
    }
    let data: serde_json::Map<_, _> =
        serde_json::from_str(json).map_err(|e| Error::bad_json(format!("`auth_data`: {e}")))?;
    if algorithm != MEGOLM_BACKUP_V1 {
        return Ok(());
    }
    let public_key = data.get("public_key").and_then(serde_json::Value::as_str);
    if public_key.is_some_and(|key| Curve25519PublicKey::from_base64(key).is_ok()) {
        Ok(())
    } else {
        Err(Error::invalid_param("`public_key` of `auth_data` is not the base64 of 32 bytes"))
    }
}

impl BackupKey {
    /// A key as a client sent it. `M_BAD_JSON` if it is none, `M_TOO_LARGE` if it is.
    pub fn parse(json: &RawValue) -> Result<Self> {
        #[derive(Deserialize)]
        struct Fields {
            first_message_index: ruma::UInt,
            forwarded_count: ruma::UInt,
            is_verified: bool,
            #[serde(rename = "session_data")]
            _session_data: serde_json::Map<String, serde_json::Value>, // only the algorithm knows what must be in it
        }
        let json = json.get();
        if json.len() > MAX_KEY_BYTES {
            return Err(Error::too_large(format!("A key has more than {MAX_KEY_BYTES} bytes")));
        }
        let fields: Fields = serde_json::from_str(json).map_err(|e| Error::bad_json(format!("A key: {e}")))?;
        Ok(Self {
            is_verified: fields.is_verified,
            first_message_index: fields.first_message_index.into(),
            forwarded_count: fields.forwarded_count.into(),
            json: json.to_owned(),
        })
    }

    /// Whether this one is to replace `other`.
    fn is_better_than(&self, other: &Self) -> bool {
        let rank = |key: &Self| (!key.is_verified, key.first_message_index, key.forwarded_count);
        rank(self) < rank(other)
    }
}

/// Begins a new version; it is the current one from now on.
pub async fn create(server: &Server, user: OwnedUserId, description: Description) -> Result<u64> {
    server
        .store
        .commit(move |tx| {
            let before: Vec<_> = tx.before().list::<Backups>(&&*user).collect::<store::Result<_>>()?;
            let (graves, live): (Vec<_>, Vec<_>) = before.iter().partition(|row| row.value.is_deleted);
            if live.len() >= MAX_BACKUPS {
                return Err(Error::forbidden("There are too many backups: delete some first"));
            }
            let last = before.last().map(|row| Ok::<_, Error>(row.key()?.1)).transpose()?;
            let version = next(tx.before(), last.unwrap_or_default())?;
            let Description { algorithm, auth_data, .. } = description;
            let backup = Backup { algorithm, auth_data, count: 0, etag: 0, is_deleted: false };
            tx.put::<Backups>(&(&user, version), &backup);
            for row in &graves[..graves.len().saturating_sub(MAX_GRAVES)] {
                tx.delete::<Backups>(&row.key()?);
            }
            Ok(version)
        })
        .await
}

/// The number after `last`. If the database was put back to an earlier state, clients may know numbers after that which mean
/// something else.
fn next(snapshot: &Snapshot<'_>, last: u64) -> store::Result<u64> {
    Ok((last + 1).max(snapshot.restored_ms()?))
}

/// The newest version. `M_NOT_FOUND` if there is none.
pub fn current(snapshot: &Snapshot<'_>, user: &UserId) -> Result<(u64, Backup)> {
    for row in snapshot.scan::<Backups>(Scan::prefix::<Backups>(&user).backward()) {
        let row = row?;
        if !row.value.is_deleted {
            return Ok((row.key()?.1, row.value));
        }
    }
    Err(Error::not_found("No current backup version"))
}

/// A version by the text that stands for it. `M_NOT_FOUND` if there is no such, or no more.
pub fn get(snapshot: &Snapshot<'_>, user: &UserId, version: &str) -> Result<(u64, Backup)> {
    let number = number(version)?;
    let found = snapshot.get::<Backups>(&(user, number))?.filter(|backup| !backup.is_deleted);
    found.map(|backup| (number, backup)).ok_or_else(unknown)
}

/// Versions are written in one way only.
fn number(version: &str) -> Result<u64> {
    version.parse().ok().filter(|number: &u64| number.to_string() == version).ok_or_else(unknown)
}

fn unknown() -> Error {
    Error::not_found("Unknown backup version")
}

/// Gives a version other `auth_data`; the algorithm must stay.
pub async fn update(server: &Server, user: OwnedUserId, version: String, description: Description) -> Result<()> {
    if description.version.as_ref().is_some_and(|named| *named != version) {
        return Err(Error::invalid_param("The versions in path and body differ"));
    }
    server
        .store
        .commit(move |tx| {
            let (number, backup) = get(tx.before(), &user, &version)?;
            if backup.algorithm != description.algorithm {
                return Err(Error::invalid_param("Algorithm does not match"));
            }
            tx.put::<Backups>(&(&user, number), &Backup { auth_data: description.auth_data, ..backup });
            Ok(())
        })
        .await
}

/// Deletes a version with its keys. One that was deleted before is no error, one of which nothing is known is `M_NOT_FOUND`.
pub async fn delete(server: &Server, user: OwnedUserId, version: String) -> Result<()> {
    server
        .store
        .commit(move |tx| {
            let number = number(&version)?;
            let Some(backup) = tx.get::<Backups>(&(&user, number))? else {
                let newest =
                    tx.before().scan::<Backups>(Scan::prefix::<Backups>(&&*user).backward()).next().transpose()?;
                let newest = newest.map(|row| Ok::<_, Error>(row.key()?.1)).transpose()?;
                // Its grave is gone.
                return if newest.is_some_and(|newest| (1..newest).contains(&number)) {
                    Ok(())
                } else {
                    Err(unknown())
                };
            };
            let grave = Backup { auth_data: String::new(), count: 0, is_deleted: true, ..backup };
            tx.put::<Backups>(&(&user, number), &grave);
            tx.delete_all::<BackupKeys>(&(&*user, number));
            Ok(())
        })
        .await
}

/// Keys as clients send them, by room and session.
pub type Keys = BTreeMap<OwnedRoomId, BTreeMap<String, Box<RawValue>>>;

type NewKey = (OwnedRoomId, String, BackupKey);

/// Puts keys into the current version, each if there is no better one of its session. `M_WRONG_ROOM_KEYS_VERSION` if
/// `version` is not the current one.
pub async fn put_keys(server: &Arc<Server>, user: OwnedUserId, version: String, keys: Keys) -> Result<State> {
    let mut keys = server.blocking(move |_| parse_keys(keys)).await?.into_iter().peekable();
    loop {
        let part: Vec<_> = keys.by_ref().take(KEYS_PER_TRANSACTION).collect();
        let (user, version) = (user.clone(), version.clone());
        let state = server.store.commit(move |tx| put_some(tx, &user, &version, part)).await?;
        if keys.peek().is_none() {
            return Ok(state);
        }
    }
}

fn parse_keys(keys: Keys) -> Result<Vec<NewKey>> {
    let mut parsed = Vec::new();
    for (room, sessions) in keys {
        for (session, key) in sessions {
            if session.is_empty() || session.len() > MAX_ID_BYTES {
                return Err(Error::invalid_param("That is not the id of a session"));
            }
            parsed.push((room.clone(), session, BackupKey::parse(&key)?));
        }
    }
    Ok(parsed)
}

fn put_some(tx: &mut Transaction<'_>, user: &UserId, version: &str, keys: Vec<NewKey>) -> Result<State> {
    let (current_version, before) = current(tx.before(), user)?;
    let (number, mut backup) = get(tx.before(), user, version)?;
    if number != current_version {
        let data = WrongRoomKeysVersionErrorData::new(current_version.to_string());
        return Err(Error::refused(ErrorKind::WrongRoomKeysVersion(data), "Wrong backup version."));
    }
    let places: Vec<_> = keys.iter().map(|(room, session, _)| (user, number, &**room, session.as_str())).collect();
    let known = tx.before().get_many::<BackupKeys>(places.iter().copied())?;
    let changed = next(tx.before(), before.etag)?;
    for ((place, (.., key)), known) in iter::zip(iter::zip(&places, &keys), known) {
        if known.as_ref().is_none_or(|known| key.is_better_than(known)) {
            tx.put::<BackupKeys>(place, key);
            backup.count += u64::from(known.is_none());
            backup.etag = changed;
        }
    }
    if backup != before {
        tx.put::<Backups>(&(user, number), &backup);
    }
    Ok(State::from(&backup))
}

/// One key. `M_NOT_FOUND` if it is not in the backup, or there is no such backup.
pub fn key(snapshot: &Snapshot<'_>, user: &UserId, version: &str, room: &RoomId, session: &str) -> Result<BackupKey> {
    let (number, _) = get(snapshot, user, version)?;
    let found = snapshot.get::<BackupKeys>(&(user, number, room, session))?;
    found.ok_or_else(|| Error::not_found("Key not found"))
}

/// Which keys of a version a request is about.
#[derive(Clone, Debug)]
pub enum Scope {
    All,
    Room(OwnedRoomId),
    Session(OwnedRoomId, String),
}

impl Scope {
    fn scan(&self, user: &UserId, version: u64) -> Scan {
        match self {
            Self::All => Scan::prefix::<BackupKeys>(&(user, version)),
            Self::Room(room) => Scan::prefix::<BackupKeys>(&(user, version, &**room)),
            Self::Session(room, session) => Scan::prefix::<BackupKeys>(&(user, version, &**room, session.as_str())),
        }
    }
}

/// Deletes keys of a version, be it the current one or not. Those that are not there are no error.
pub async fn delete_keys(server: &Server, user: OwnedUserId, version: String, scope: Scope) -> Result<State> {
    loop {
        let (user, version, scope) = (user.clone(), version.clone(), scope.clone());
        let (state, is_done) = server.store.commit(move |tx| delete_some(tx, &user, &version, &scope)).await?;
        if is_done {
            return Ok(state);
        }
    }
}

/// Whether those were all, too.
fn delete_some(tx: &mut Transaction<'_>, user: &UserId, version: &str, scope: &Scope) -> Result<(State, bool)> {
    let (number, mut backup) = get(tx.before(), user, version)?;
    let rows = tx.before().scan::<BackupKeys>(scope.scan(user, number)).take(KEYS_PER_TRANSACTION);
    let rows: Vec<_> = rows.collect::<store::Result<_>>()?;
    if !rows.is_empty() {
        backup.count = backup.count.saturating_sub(rows.len() as u64);
        backup.etag = next(tx.before(), backup.etag)?;
        tx.put::<Backups>(&(user, number), &backup);
    }
    for row in &rows {
        tx.delete::<BackupKeys>(&row.key()?);
    }
    Ok((State::from(&backup), rows.len() < KEYS_PER_TRANSACTION))
}

/// From how many bytes on a part of an answer is handed on.
const PAGE_BYTES: usize = 256 << 10;

/// Writes the keys of a version as JSON, part by part: a large backup need not be in memory, and between the parts no
/// snapshot is kept for a client that reads slowly.
pub struct Writer {
    user: OwnedUserId,
    version: u64,
    /// All rooms, if `None`.
    room: Option<OwnedRoomId>,
    /// The room and session of the key that was written last.
    last: Option<(OwnedRoomId, String)>,
}

impl Writer {
    pub fn new(user: OwnedUserId, version: u64, room: Option<OwnedRoomId>) -> Self {
        Self { user, version, room, last: None }
    }

    /// The next part, and whether it is the last one. `M_NOT_FOUND` if the version was deleted meanwhile.
    pub fn next_part(&mut self, snapshot: &Snapshot<'_>) -> Result<(Vec<u8>, bool)> {
        if snapshot.get::<Backups>(&(&self.user, self.version))?.is_none_or(|backup| backup.is_deleted) {
            return Err(unknown());
        }
        let mut out = Vec::new();
        let rows = snapshot.scan::<BackupKeys>(self.rest());
        if self.last.is_none() {
            out.extend_from_slice(if self.room.is_some() { br#"{"sessions":{"# } else { br#"{"rooms":{"# });
        }
        for row in rows {
            let row = row?;
            let (_, _, room, session) = row.key()?;
            if self.last.as_ref().is_some_and(|last| last.0 == room && last.1 == session) {
                continue; // the part before ended with it
            }
            self.write_key(&mut out, room, session, &row.value.json);
            if out.len() >= PAGE_BYTES {
                return Ok((out, false));
            }
        }
        let is_in_room = self.room.is_none() && self.last.is_some();
        out.extend_from_slice(if is_in_room { b"}}}}" } else { b"}}" });
        Ok((out, true))
    }

    /// The key that was written last, if it is still there, and those after it.
    fn rest(&self) -> Scan {
        let (user, version) = (&*self.user, self.version);
        match (&self.last, &self.room) {
            (None, None) => Scan::prefix::<BackupKeys>(&(user, version)),
            (None, Some(room)) => Scan::prefix::<BackupKeys>(&(user, version, &**room)),
            (Some((last, session)), None) => {
                Scan::from::<BackupKeys>(&(user, version, &**last, session.as_str()), &(user, version))
            }
            (Some((last, session)), Some(room)) => {
                Scan::from::<BackupKeys>(&(user, version, &**last, session.as_str()), &(user, version, &**room))
            }
        }
    }

    fn write_key(&mut self, out: &mut Vec<u8>, room: &RoomId, session: &str, json: &str) {
        let is_same_room = self.last.as_ref().is_some_and(|last| last.0 == room);
        if is_same_room {
            out.push(b',');
        } else if self.room.is_none() {
            if self.last.is_some() {
                out.extend_from_slice(b"}},");
            }
            write_text(out, room.as_str());
            out.extend_from_slice(br#":{"sessions":{"#);
        }
        write_text(out, session);
        out.push(b':');
        out.extend_from_slice(json.as_bytes());
        self.last = Some((room.to_owned(), session.to_owned()));
    }
}

fn write_text(out: &mut Vec<u8>, text: &str) {
    serde_json::to_writer(out, text).expect("writing text into memory can't fail");
}

/// Deletes all backups of an account that is being given up.
pub fn delete_user(tx: &mut Transaction<'_>, user: &UserId) {
    tx.delete_all::<Backups>(&user);
    tx.delete_all::<BackupKeys>(&user);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn key(is_verified: bool, first_message_index: u64, forwarded_count: u64) -> BackupKey {
        BackupKey { is_verified, first_message_index, forwarded_count, json: String::new() }
    }

    #[test]
    fn the_better_key_is_kept() {
        let ranked = [key(true, 0, 9), key(true, 1, 0), key(true, 1, 1), key(false, 0, 0), key(false, 0, 1)];
        for (n, better) in ranked.iter().enumerate() {
            for (m, worse) in ranked.iter().enumerate() {
                assert_eq!(better.is_better_than(worse), n < m, "{better:?} {worse:?}");
            }
        }
    }

    #[test]
    fn keys_that_are_none_are_refused() {
        let good =
            json!({ "first_message_index": 1, "forwarded_count": 0, "is_verified": true, "session_data": { "a": 1 } });
        let parse = |key: &serde_json::Value| BackupKey::parse(&serde_json::value::to_raw_value(key).unwrap());
        assert!(parse(&good).is_ok());
        for (field, wrong) in [
            ("first_message_index", json!(-1)),
            ("first_message_index", json!("1")),
            ("forwarded_count", json!(1.5)),
            ("forwarded_count", json!(null)),
            ("is_verified", json!(1)),
            ("session_data", json!("text")),
            ("session_data", json!({ "a": "x".repeat(MAX_KEY_BYTES) })),
        ] {
            let mut key = good.clone();
            key[field] = wrong;
            assert!(parse(&key).is_err(), "{field}");
            key.as_object_mut().unwrap().remove(field);
            assert!(parse(&key).is_err(), "without {field}");
        }
    }

    #[test]
    fn descriptions_that_are_none_are_refused() {
        let public_key = "06UzBknVHFMwgi7AVloY7ylC+xhOhEX4PkNge14Grl8";
        let good = json!({ "algorithm": MEGOLM_BACKUP_V1, "auth_data": { "public_key": public_key } });
        assert!(Description::parse(&good.to_string()).is_ok());
        assert!(Description::parse(r#"{"algorithm":"x","auth_data":{}}"#).is_ok());
        for wrong in [
            json!({}),
            json!([]),
            json!({ "algorithm": "", "auth_data": {} }),
            json!({ "algorithm": 1, "auth_data": {} }),
            json!({ "algorithm": "x", "auth_data": [] }),
            json!({ "algorithm": "x", "auth_data": {}, "version": 1 }),
            json!({ "algorithm": MEGOLM_BACKUP_V1, "auth_data": {} }),
            json!({ "algorithm": MEGOLM_BACKUP_V1, "auth_data": { "public_key": "AAAA" } }),
        ] {
            assert!(Description::parse(&wrong.to_string()).is_err(), "{wrong}");
        }
    }
}
