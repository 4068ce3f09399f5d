//! What is kept of sessions that were begun by OAuth. Their tokens are in the tables of all sessions; what is here says
//! by which client, and finds a session by a refresh token that was used up.

use ruma::{DeviceId, OwnedDeviceId, OwnedUserId, UserId};
use serde::{Deserialize, Serialize};

use super::client::Client;
use crate::store::{Family, Record, Result, Table, TableInfo, Transaction};

pub const ALL: &[TableInfo] =
    &[TableInfo::of::<Clients>(), TableInfo::of::<Sessions>(), TableInfo::of::<RefreshFamilies>()];

/// The clients by which somebody is logged in; for a while longer than that. Others are in memory only.
pub struct Clients;
impl Table for Clients {
    const NAME: &'static str = "oauth_clients";
    const FAMILY: Family = Family::Lookup;
    const ID: u8 = 230;
    /// The client id.
    type Key<'a> = &'a str;
    type Value = Client;
}

/// The devices that were logged in by OAuth.
pub struct Sessions;
impl Table for Sessions {
    const NAME: &'static str = "oauth_sessions";
    const FAMILY: Family = Family::User;
    const ID: u8 = 231;
    type Key<'a> = (&'a UserId, &'a DeviceId);
    type Value = Session;
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Session {
    pub client_id: String,
    /// What was granted, in the client's words.
    pub scope: String,
    /// SHA-256 of what all refresh tokens of the session begin with.
    pub family: [u8; 32],
    /// Milliseconds since the Unix epoch.
    pub begun_at_ms: u64,
}

impl Record for Session {}

/// The sessions by what their refresh tokens begin with: a row for each row of `Sessions`.
pub struct RefreshFamilies;
impl Table for RefreshFamilies {
    const NAME: &'static str = "oauth_refresh_families";
    const FAMILY: Family = Family::Lookup;
    const ID: u8 = 232;
    type Key<'a> = [u8; 32];
    type Value = Owner;
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    pub user_id: OwnedUserId,
    pub device_id: OwnedDeviceId,
}

impl Record for Owner {}

/// Makes `session` that of a device, in place of the one before.
pub fn put(tx: &mut Transaction<'_>, user_id: &UserId, device_id: &DeviceId, session: &Session) {
    let owner = Owner { user_id: user_id.to_owned(), device_id: device_id.to_owned() };
    tx.put::<RefreshFamilies>(&session.family, &owner);
    tx.put::<Sessions>(&(user_id, device_id), session);
}

/// Removes what is kept of the session of a device, if that was begun by OAuth.
pub fn delete(tx: &mut Transaction<'_>, user_id: &UserId, device_id: &DeviceId) -> Result<()> {
    if let Some(session) = tx.get::<Sessions>(&(user_id, device_id))? {
        tx.delete::<RefreshFamilies>(&session.family);
        tx.delete::<Sessions>(&(user_id, device_id));
    }
    Ok(())
}
