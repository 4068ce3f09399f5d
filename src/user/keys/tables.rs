//! What is kept of end-to-end encryption keys. Keys of rows begin with the user's id.

use ruma::{DeviceId, UserId};
use serde::{Deserialize, Serialize};

use super::remote::{RemoteDeviceNames, RemoteUsers};
use crate::store::{Family, Group, Key, Record, StreamPos, Table, TableInfo};

pub const ALL: &[TableInfo] = &[
    TableInfo::of::<DeviceKeys>(),
    TableInfo::of::<CrossSigningKeys>(),
    TableInfo::of::<OwnSignatures>(),
    TableInfo::of::<UserSignatures>(),
    TableInfo::of::<UserSignatureChanges>(),
    TableInfo::of::<OneTimeKeys>(),
    TableInfo::of::<OneTimeKeyPlaces>(),
    TableInfo::of::<OneTimeKeyCounts>(),
    TableInfo::of::<ClaimedKeys>(),
    TableInfo::of::<FallbackKeys>(),
    TableInfo::of::<RemoteUsers>(),
    TableInfo::of::<RemoteDeviceNames>(),
];

/// The identity keys of devices; of other servers' users as long as `RemoteUsers` has them.
pub struct DeviceKeys;
impl Table for DeviceKeys {
    const NAME: &'static str = "device_keys";
    const FAMILY: Family = Family::User;
    const ID: u8 = 40;
    type Key<'a> = (&'a UserId, &'a DeviceId);
    /// The object of the specification as canonical JSON, without `signatures` and `unsigned`: what is signed.
    type Value = String;
}

/// The cross-signing keys of users.
pub struct CrossSigningKeys;
impl Table for CrossSigningKeys {
    const NAME: &'static str = "cross_signing_keys";
    const FAMILY: Family = Family::User;
    const ID: u8 = 41;
    type Key<'a> = (&'a UserId, Usage);
    type Value = CrossSigningKey;
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CrossSigningKey {
    /// Unpadded base64; also the name of the key where signatures refer to it.
    pub public_key: String,
    /// As in `DeviceKeys`: what is signed.
    pub body: String,
}

impl Record for CrossSigningKey {}

/// What a cross-signing key is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Usage {
    Master,
    SelfSigning,
    UserSigning,
}

impl Usage {
    pub const ALL: [Self; 3] = [Self::Master, Self::SelfSigning, Self::UserSigning];

    /// As the specification writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Master => "master",
            Self::SelfSigning => "self_signing",
            Self::UserSigning => "user_signing",
        }
    }
}

impl Key<'_> for Usage {
    fn write(&self, out: &mut Vec<u8>) {
        (*self as u8).write(out);
    }
    fn read(bytes: &mut &[u8]) -> Option<Self> {
        let byte = u8::read(bytes)?;
        Self::ALL.into_iter().find(|usage| *usage as u8 == byte)
    }
}

/// Signatures that users' own keys made about their own keys; everybody may see them. Each was verified, but for those of
/// other servers' users, as long as `RemoteUsers` has them.
pub struct OwnSignatures;
impl Table for OwnSignatures {
    const NAME: &'static str = "own_signatures";
    const FAMILY: Family = Family::User;
    const ID: u8 = 42;
    /// What is signed (a device id or a public cross-signing key), and the id of the key that signed it
    /// (`ed25519:DEVICE` or `ed25519:PUBLIC+KEY`).
    type Key<'a> = (&'a UserId, &'a str, &'a str);
    /// Base64, as the client sent it.
    type Value = String;
}

/// Signatures that users' user-signing keys made about the master keys of others. Only the signer may see them, or
/// the server would tell who knows whom, so the signer comes first in the key.
pub struct UserSignatures;
impl Table for UserSignatures {
    const NAME: &'static str = "user_signatures";
    const FAMILY: Family = Family::User;
    const ID: u8 = 43;
    /// Who signed, and whose master key.
    type Key<'a> = (&'a UserId, &'a UserId);
    type Value = UserSignature;
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserSignature {
    /// The public master key that was signed: the signature is void once its owner has another one.
    pub master_key: String,
    /// The id of the user-signing key.
    pub key_id: String,
    /// Base64, as the client sent it.
    pub signature: String,
    pub changed: StreamPos,
}

impl Record for UserSignature {}

/// The rows of `UserSignatures` in the order of their changes: one row here for each row there.
pub struct UserSignatureChanges;
impl Table for UserSignatureChanges {
    const NAME: &'static str = "user_signature_changes";
    const FAMILY: Family = Family::User;
    const ID: u8 = 44;
    type Key<'a> = (&'a UserId, StreamPos, &'a UserId);
    type Value = ();

    fn group(&(signer, ..): &Self::Key<'_>) -> Option<Group> {
        Some(Group::of(signer))
    }
}

/// The one-time keys that nobody has claimed, in the order in which they came.
pub struct OneTimeKeys;
impl Table for OneTimeKeys {
    const NAME: &'static str = "one_time_keys";
    const FAMILY: Family = Family::User;
    const ID: u8 = 45;
    /// Algorithm; when it was uploaded; a number that tells the keys of one upload apart.
    type Key<'a> = (&'a UserId, &'a DeviceId, &'a str, StreamPos, u32);
    type Value = OneTimeKey;
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OneTimeKey {
    /// `algorithm:name`.
    pub id: String,
    /// Canonical JSON: a string or an object, as the algorithm has it.
    pub key: String,
}

impl Record for OneTimeKey {}

/// Where in `OneTimeKeys` a key is: one row here for each row there.
pub struct OneTimeKeyPlaces;
impl Table for OneTimeKeyPlaces {
    const NAME: &'static str = "one_time_key_places";
    const FAMILY: Family = Family::User;
    const ID: u8 = 46;
    /// Algorithm; `algorithm:name`.
    type Key<'a> = (&'a UserId, &'a DeviceId, &'a str, &'a str);
    type Value = KeyPlace;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyPlace {
    pub uploaded: StreamPos,
    pub index: u32,
}

impl Record for KeyPlace {}

/// How many rows `OneTimeKeys` has of an algorithm; no row stands for none.
pub struct OneTimeKeyCounts;
impl Table for OneTimeKeyCounts {
    const NAME: &'static str = "one_time_key_counts";
    const FAMILY: Family = Family::User;
    const ID: u8 = 47;
    type Key<'a> = (&'a UserId, &'a DeviceId, &'a str);
    type Value = u64;

    fn group(&(user, device, _): &Self::Key<'_>) -> Option<Group> {
        Some(Group::of((user, device)))
    }
}

/// The one-time keys that were given out last. A client that repeats an upload, because it did not hear our answer,
/// may send a key again that was claimed in between: it must not be given to a second device.
pub struct ClaimedKeys;
impl Table for ClaimedKeys {
    const NAME: &'static str = "claimed_keys";
    const FAMILY: Family = Family::User;
    const ID: u8 = 48;
    /// When it was claimed; a number that tells the keys of one request apart.
    type Key<'a> = (&'a UserId, &'a DeviceId, StreamPos, u32);
    type Value = OneTimeKey;
}

/// The key of each algorithm that is given out when there are no one-time keys.
pub struct FallbackKeys;
impl Table for FallbackKeys {
    const NAME: &'static str = "fallback_keys";
    const FAMILY: Family = Family::User;
    const ID: u8 = 49;
    type Key<'a> = (&'a UserId, &'a DeviceId, &'a str);
    type Value = FallbackKey;

    fn group(&(user, device, _): &Self::Key<'_>) -> Option<Group> {
        Some(Group::of((user, device)))
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FallbackKey {
    /// `algorithm:name`.
    pub id: String,
    /// Canonical JSON.
    pub key: String,
    /// It was given out, so the device should replace it.
    pub is_used: bool,
}

impl Record for FallbackKey {}
