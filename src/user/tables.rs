//! What is kept of a user. Keys begin with the user's id.

use std::{collections::BTreeMap, net::IpAddr};

use ruma::{DeviceId, OwnedDeviceId, OwnedUserId, RoomId, ServerName, UserId};
use serde::{Deserialize, Serialize};

use super::{
    backup::{Backup, BackupKey},
    dehydrated::DehydratedDevices,
    email::{EmailOwners, Emails},
    guests::Guests,
    profile::Profiles,
};
use crate::store::{Family, Group, Json, Record, RoomNid, StreamPos, Table, TableInfo};

pub const ALL: &[TableInfo] = &[
    TableInfo::of::<Accounts>(),
    TableInfo::of::<Devices>(),
    TableInfo::of::<DeviceTokens>(),
    TableInfo::of::<AccessTokens>(),
    TableInfo::of::<RefreshTokens>(),
    TableInfo::of::<AccountData>(),
    TableInfo::of::<AccountDataChanges>(),
    TableInfo::of::<ToDevice>(),
    TableInfo::of::<ToDeviceCounts>(),
    TableInfo::of::<ToDeviceTransactions>(),
    TableInfo::of::<ReceivedToDevice>(),
    TableInfo::of::<Backups>(),
    TableInfo::of::<BackupKeys>(),
    TableInfo::of::<KeyChanges>(),
    TableInfo::of::<LastKeyChange>(),
    TableInfo::of::<Profiles>(),
    TableInfo::of::<Filters>(),
    TableInfo::of::<Emails>(),
    TableInfo::of::<EmailOwners>(),
    TableInfo::of::<DehydratedDevices>(),
    TableInfo::of::<Guests>(),
];

/// The accounts of this server. A row is never removed: nobody may get the id of somebody who left.
pub struct Accounts;
impl Table for Accounts {
    const NAME: &'static str = "accounts";
    const FAMILY: Family = Family::User;
    const ID: u8 = 20;
    type Key<'a> = &'a UserId;
    type Value = Account;

    fn group(&user: &Self::Key<'_>) -> Option<Group> {
        Some(Group::of(user))
    }
}

#[derive(Clone, Serialize, Deserialize)]
pub struct Account {
    /// A PHC string. Without it nobody can log in by a password.
    pub password_hash: Option<String>,
    pub is_admin: bool,
    /// What Synapse's admin API calls so: `bot` or `support`.
    pub user_type: Option<String>,
    /// Milliseconds since the Unix epoch.
    pub created_at_ms: u64,
    /// The policies that the user accepted when he registered, and their versions.
    pub accepted_terms: BTreeMap<String, String>,
    /// Nobody can use the account since then.
    pub deactivated: Option<Deactivated>,
    /// See [`super::moderation`].
    pub is_locked: bool,
    pub is_suspended: bool,
    /// Made without a password, by whoever only wants to look in.
    pub is_guest: bool,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Deactivated {
    /// Milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// The user asked that who joins a room later does not see his messages.
    pub is_erased: bool,
}

impl Record for Account {
    const VERSION: u8 = 2;

    fn upgrade(version: u8, body: &[u8]) -> Result<Self, String> {
        /// As the first version wrote it.
        #[derive(Deserialize)]
        struct First {
            password_hash: Option<String>,
            is_admin: bool,
            user_type: Option<String>,
            created_at_ms: u64,
            accepted_terms: BTreeMap<String, String>,
            deactivated: Option<Deactivated>,
        }
        if version != 1 {
            return Err(format!("unknown version {version} of an account: was it written by a newer chappe?"));
        }
        let First { password_hash, is_admin, user_type, created_at_ms, accepted_terms, deactivated } =
            postcard::from_bytes(body).map_err(|e| e.to_string())?;
        Ok(Self {
            password_hash,
            is_admin,
            user_type,
            created_at_ms,
            accepted_terms,
            deactivated,
            is_locked: false,
            is_suspended: false,
            is_guest: false,
        })
    }
}

impl Account {
    /// One that nobody can log in to by a password.
    pub fn without_password(created_at_ms: u64) -> Self {
        Self {
            password_hash: None,
            is_admin: false,
            user_type: None,
            created_at_ms,
            accepted_terms: BTreeMap::new(),
            deactivated: None,
            is_locked: false,
            is_suspended: false,
            is_guest: false,
        }
    }

    /// Whether the account was not given up; who has a locked one has it still.
    pub fn is_active(&self) -> bool {
        self.deactivated.is_none()
    }
}

/// Without the hash: `chappe inspect` and logs print this.
impl std::fmt::Debug for Account {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            password_hash,
            is_admin,
            user_type,
            created_at_ms,
            accepted_terms,
            deactivated,
            is_locked,
            is_suspended,
            is_guest,
        } = self;
        f.debug_struct("Account")
            .field("has_password", &password_hash.is_some())
            .field("is_admin", is_admin)
            .field("user_type", user_type)
            .field("created_at_ms", created_at_ms)
            .field("accepted_terms", accepted_terms)
            .field("deactivated", deactivated)
            .field("is_locked", is_locked)
            .field("is_suspended", is_suspended)
            .field("is_guest", is_guest)
            .finish()
    }
}

/// The devices that are logged in.
pub struct Devices;
impl Table for Devices {
    const NAME: &'static str = "devices";
    const FAMILY: Family = Family::User;
    const ID: u8 = 21;
    type Key<'a> = (&'a UserId, &'a DeviceId);
    type Value = Device;

    fn group(key: &Self::Key<'_>) -> Option<Group> {
        Some(Group::of(key))
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Device {
    pub display_name: Option<String>,
    pub last_seen: Option<LastSeen>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastSeen {
    /// Milliseconds since the Unix epoch.
    pub at_ms: u64,
    pub address: IpAddr,
}

impl Record for Device {}

/// The tokens of each device: one row for each row of `AccessTokens` and `RefreshTokens`.
pub struct DeviceTokens;
impl Table for DeviceTokens {
    const NAME: &'static str = "device_tokens";
    const FAMILY: Family = Family::User;
    const ID: u8 = 22;
    /// SHA-256 of the token.
    type Key<'a> = (&'a UserId, &'a DeviceId, [u8; 32]);
    type Value = DeviceToken;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceToken {
    pub kind: TokenKind,
    /// The change that made it: that of an access token and of the refresh token that came with it.
    pub granted: StreamPos,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TokenKind {
    Access,
    Refresh,
}

impl Record for DeviceToken {}

/// The access tokens that are valid, as hashes.
pub struct AccessTokens;
impl Table for AccessTokens {
    const NAME: &'static str = "access_tokens";
    const FAMILY: Family = Family::Lookup;
    const ID: u8 = 32;
    /// SHA-256 of the token.
    type Key<'a> = [u8; 32];
    type Value = AccessToken;

    /// Some tokens share one: their groups stay in memory after them, and each device has many in its life.
    fn group(hash: &Self::Key<'_>) -> Option<Group> {
        Some(Group::shared(hash))
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AccessToken {
    pub user_id: OwnedUserId,
    pub device_id: OwnedDeviceId,
    /// Milliseconds since the Unix epoch; never if `None`.
    pub expires_at_ms: Option<u64>,
    /// The change that made it.
    pub granted: StreamPos,
    /// It replaces others of its device, which stay valid until it is used for the first time.
    pub replaces_others: bool,
}

impl Record for AccessToken {}

/// The refresh tokens that are valid, as hashes.
pub struct RefreshTokens;
impl Table for RefreshTokens {
    const NAME: &'static str = "refresh_tokens";
    const FAMILY: Family = Family::Lookup;
    const ID: u8 = 40;
    /// SHA-256 of the token.
    type Key<'a> = [u8; 32];
    type Value = RefreshToken;
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RefreshToken {
    pub user_id: OwnedUserId,
    pub device_id: OwnedDeviceId,
    /// Milliseconds since the Unix epoch; never if `None`.
    pub expires_at_ms: Option<u64>,
    /// The change that made it.
    pub granted: StreamPos,
}

impl Record for RefreshToken {}

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

    fn group(&(user, ..): &Self::Key<'_>) -> Option<Group> {
        Some(Group::of(user))
    }
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

    fn group(&(user, device, ..): &Self::Key<'_>) -> Option<Group> {
        Some(Group::of((user, device)))
    }
}

/// How many rows `ToDevice` has of each device; no row stands for none.
pub struct ToDeviceCounts;
impl Table for ToDeviceCounts {
    const NAME: &'static str = "to_device_counts";
    const FAMILY: Family = Family::User;
    const ID: u8 = 50;
    type Key<'a> = (&'a UserId, &'a DeviceId);
    type Value = u64;
}

/// The transaction ids that devices sent to-device messages with. Rows are removed when they are older than any client
/// repeats a request.
pub struct ToDeviceTransactions;
impl Table for ToDeviceTransactions {
    const NAME: &'static str = "to_device_transactions";
    const FAMILY: Family = Family::User;
    const ID: u8 = 51;
    /// The sending user and device, event type, transaction id.
    type Key<'a> = (&'a UserId, &'a DeviceId, &'a str, &'a str);
    /// When, in milliseconds since the Unix epoch.
    type Value = u64;
}

/// The ids of the to-device messages that other servers sent: a repeated one is delivered once. Rows are removed when
/// they are older than any server repeats a transaction.
pub struct ReceivedToDevice;
impl Table for ReceivedToDevice {
    const NAME: &'static str = "received_to_device";
    const FAMILY: Family = Family::Queue;
    const ID: u8 = 142;
    type Key<'a> = (&'a ServerName, &'a str);
    /// When, in milliseconds since the Unix epoch.
    type Value = u64;
}

/// The versions of users' key backups, oldest first.
pub struct Backups;
impl Table for Backups {
    const NAME: &'static str = "backups";
    const FAMILY: Family = Family::User;
    const ID: u8 = 52;
    type Key<'a> = (&'a UserId, u64);
    type Value = Backup;
}

/// The keys in backups, by version, room and session.
pub struct BackupKeys;
impl Table for BackupKeys {
    const NAME: &'static str = "backup_keys";
    const FAMILY: Family = Family::User;
    const ID: u8 = 53;
    type Key<'a> = (&'a UserId, u64, &'a RoomId, &'a str);
    type Value = BackupKey;
}

/// The users whose devices or cross-signing keys changed, in the order of their last changes.
pub struct KeyChanges;
impl Table for KeyChanges {
    const NAME: &'static str = "key_changes";
    const FAMILY: Family = Family::Queue;
    const ID: u8 = 2;
    type Key<'a> = (StreamPos, &'a UserId);
    type Value = ();

    fn group(_: &Self::Key<'_>) -> Option<Group> {
        Some(Group::of(()))
    }
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

/// The filters that clients keep with us, by an id that is made from what they say.
pub struct Filters;
impl Table for Filters {
    const NAME: &'static str = "filters";
    const FAMILY: Family = Family::User;
    const ID: u8 = 60;
    type Key<'a> = (&'a UserId, &'a str);
    /// A ruma `FilterDefinition`.
    type Value = Json;

    fn group(&(user, _): &Self::Key<'_>) -> Option<Group> {
        Some(Group::of(user))
    }
}
