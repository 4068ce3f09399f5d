//! What is kept of a user. Keys begin with the user's id.

use ruma::{DeviceId, OwnedDeviceId, OwnedUserId, UserId};
use serde::{Deserialize, Serialize};

use super::profile::Profiles;
use crate::store::{Family, Json, Record, RoomNid, StreamPos, Table, TableInfo};

pub const ALL: &[TableInfo] = &[
    TableInfo::of::<AccessTokens>(),
    TableInfo::of::<AccountData>(),
    TableInfo::of::<AccountDataChanges>(),
    TableInfo::of::<ToDevice>(),
    TableInfo::of::<KeyChanges>(),
    TableInfo::of::<LastKeyChange>(),
    TableInfo::of::<Profiles>(),
    TableInfo::of::<ErasedUsers>(),
    TableInfo::of::<Filters>(),
];

/// The access tokens that are valid, as hashes.
pub struct AccessTokens;
impl Table for AccessTokens {
    const NAME: &'static str = "access_tokens";
    const FAMILY: Family = Family::Lookup;
    const ID: u8 = 32;
    /// SHA-256 of the token.
    type Key<'a> = [u8; 32];
    type Value = AccessToken;
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AccessToken {
    pub user_id: OwnedUserId,
    pub device_id: OwnedDeviceId,
    /// Milliseconds since the Unix epoch; never if `None`.
    pub expires_at_ms: Option<u64>,
}

impl Record for AccessToken {}

/// Account data, global and of rooms, with the change that wrote it.
pub struct AccountData;
impl Table for AccountData {
    const NAME: &'static str = "account_data";
    const FAMILY: Family = Family::User;
    const ID: u8 = 2;
    /// `RoomNid(0)`, which no room has, for global account data; the event type.
    type Key<'a> = (&'a UserId, RoomNid, &'a str);
    type Value = AccountDatum;
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AccountDatum {
    pub changed: StreamPos,
    /// The event's content: a JSON object.
    pub content: String,
}

impl Record for AccountDatum {}

/// The rows of `AccountData` in the order of their last changes: one row here for each row there.
pub struct AccountDataChanges;
impl Table for AccountDataChanges {
    const NAME: &'static str = "account_data_changes";
    const FAMILY: Family = Family::User;
    const ID: u8 = 3;
    type Key<'a> = (&'a UserId, StreamPos, RoomNid, &'a str);
    type Value = ();
}

/// To-device messages that their device has not acknowledged, in the order of their sending.
pub struct ToDevice;
impl Table for ToDevice {
    const NAME: &'static str = "to_device";
    const FAMILY: Family = Family::Queue;
    const ID: u8 = 1;
    /// The last number tells messages of one change apart.
    type Key<'a> = (&'a UserId, &'a DeviceId, StreamPos, u32);
    /// `{"type", "sender", "content"}`.
    type Value = Json;
}

/// The users whose devices or cross-signing keys changed, in the order of their last changes.
pub struct KeyChanges;
impl Table for KeyChanges {
    const NAME: &'static str = "key_changes";
    const FAMILY: Family = Family::Queue;
    const ID: u8 = 2;
    type Key<'a> = (StreamPos, &'a UserId);
    type Value = ();
}

/// Where a user stands in `KeyChanges`.
pub struct LastKeyChange;
impl Table for LastKeyChange {
    const NAME: &'static str = "last_key_change";
    const FAMILY: Family = Family::Lookup;
    const ID: u8 = 33;
    type Key<'a> = &'a UserId;
    type Value = StreamPos;
}

/// Our users who had their account erased.
pub struct ErasedUsers;
impl Table for ErasedUsers {
    const NAME: &'static str = "erased_users";
    const FAMILY: Family = Family::Lookup;
    const ID: u8 = 60;
    type Key<'a> = &'a UserId;
    type Value = ();
}

/// The filters that clients keep with us, by an id that is made from what they say.
pub struct Filters;
impl Table for Filters {
    const NAME: &'static str = "filters";
    const FAMILY: Family = Family::User;
    const ID: u8 = 60;
    type Key<'a> = (&'a UserId, &'a str);
    /// A ruma `FilterDefinition`.
    type Value = Json;
}
