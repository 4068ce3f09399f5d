use ruma::ServerName;
use serde::{Deserialize, Serialize};

use super::relay::Relayed;
use crate::store::{Family, Group, Record, StreamPos, Table, TableInfo};

pub const ALL: &[TableInfo] = &[
    TableInfo::of::<Backoffs>(),
    TableInfo::of::<VerifyKeys>(),
    TableInfo::of::<KeyDocuments>(),
    TableInfo::of::<Relayed>(),
    TableInfo::of::<Deliveries>(),
];

/// The servers that failed us last time, until they answer again: those for which something waits, or did once. Of
/// others, whom any stranger may name, it is remembered in memory only.
pub struct Backoffs;
impl Table for Backoffs {
    const NAME: &'static str = "backoffs";
    const FAMILY: Family = Family::Lookup;
    const ID: u8 = 110;
    /// The server's name.
    type Key<'a> = &'a str;
    type Value = Backoff;

    fn group(server: &Self::Key<'_>) -> Option<Group> {
        Some(Group::shared(server))
    }
}

/// How a server fails.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backoff {
    /// Since when, in milliseconds since the Unix epoch, as the next one.
    pub since_ms: u64,
    /// Before this it is left alone.
    pub retry_at_ms: u64,
    /// How often it was tried in vain.
    pub failures: u32,
    /// What went wrong the last time, for those who run this server.
    pub reason: String,
}

impl Record for Backoff {
    const VERSION: u8 = 2;

    fn upgrade(version: u8, body: &[u8]) -> Result<Self, String> {
        if version != 1 {
            return Err(format!("unknown version {version} of a back-off: was it written by a newer chappe?"));
        }
        let (since_ms, retry_at_ms, failures) = postcard::from_bytes(body).map_err(|e| e.to_string())?;
        Ok(Self { since_ms, retry_at_ms, failures, reason: String::new() })
    }
}

/// What each server that we send to took last.
pub struct Deliveries;
impl Table for Deliveries {
    const NAME: &'static str = "federation_deliveries";
    const FAMILY: Family = Family::Lookup;
    const ID: u8 = 220;
    type Key<'a> = &'a ServerName;
    type Value = Delivery;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delivery {
    /// When, in milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// The newest of its queue that it has.
    pub pos: StreamPos,
}

impl Record for Delivery {}

/// The keys with which other servers sign, those they do not use any more included: their events stay.
pub struct VerifyKeys;
impl Table for VerifyKeys {
    const NAME: &'static str = "verify_keys";
    const FAMILY: Family = Family::Lookup;
    const ID: u8 = 111;
    /// The server's name and the key's id, `ed25519:…`.
    type Key<'a> = (&'a str, &'a str);
    type Value = VerifyKey;

    fn group(&(server, _): &Self::Key<'_>) -> Option<Group> {
        Some(Group::shared(server))
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyKey {
    /// The public key.
    pub key: Vec<u8>,
    /// Until when it is certain to be in use, in milliseconds since the Unix epoch: at most seven days after we heard
    /// so.
    pub valid_until_ms: u64,
    /// When the server stopped using it: at the latest when we heard of that.
    pub expired_ms: Option<u64>,
}

impl Record for VerifyKey {}

impl VerifyKey {
    /// Whether what was made at that time may be signed with it.
    pub fn is_valid_at(&self, ms: u64) -> bool {
        ms <= self.expired_ms.unwrap_or(self.valid_until_ms)
    }
}

/// What each other server last published of its keys: we pass it on to those who ask us for them.
pub struct KeyDocuments;
impl Table for KeyDocuments {
    const NAME: &'static str = "key_documents";
    const FAMILY: Family = Family::Lookup;
    const ID: u8 = 112;
    /// The server's name.
    type Key<'a> = &'a str;
    type Value = KeyDocument;
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyDocument {
    /// As it was signed by the server itself.
    pub json: String,
    /// When it came in, in milliseconds since the Unix epoch.
    pub fetched_ms: u64,
    /// As the server has it, without our own limit.
    pub valid_until_ms: u64,
}

impl Record for KeyDocument {}
