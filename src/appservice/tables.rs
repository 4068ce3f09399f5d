//! What is kept of application services: what they are still to be told.

use ruma::{OwnedDeviceId, OwnedUserId};
use serde::{Deserialize, Serialize};

use crate::store::{EventNid, Family, Group, Record, RoomNid, StreamPos, Table, TableInfo};

pub const ALL: &[TableInfo] = &[
    TableInfo::of::<Cursors>(),
    TableInfo::of::<Transactions>(),
    TableInfo::of::<ToDeviceRows>(),
    TableInfo::of::<NetworkRooms>(),
    TableInfo::of::<Invites>(),
];

/// How far each service was told, apart from the log of events, where it is a reader.
pub struct Cursors;
impl Table for Cursors {
    const NAME: &'static str = "appservice_cursors";
    const FAMILY: Family = Family::Meta;
    const ID: u8 = 180;
    /// The service's id.
    type Key<'a> = &'a str;
    type Value = Cursor;
}

#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Cursor {
    /// The number of the last transaction. They never start over: the service would take them for repeated ones.
    pub transaction: u64,
    /// The last change of device lists.
    pub key_changes: StreamPos,
}

impl Record for Cursor {}

/// The transaction that each service has not answered yet, if any: it is repeated exactly as it is.
pub struct Transactions;
impl Table for Transactions {
    const NAME: &'static str = "appservice_transactions";
    const FAMILY: Family = Family::Queue;
    const ID: u8 = 181;
    type Key<'a> = &'a str;
    type Value = Transaction;
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Transaction {
    pub number: u64,
    /// JSON.
    pub body: String,
}

impl Record for Transaction {}

/// The to-device messages that a service is to be told, in order. The messages themselves are rows of `to_device`.
pub struct ToDeviceRows;
impl Table for ToDeviceRows {
    const NAME: &'static str = "appservice_to_device";
    const FAMILY: Family = Family::Queue;
    const ID: u8 = 182;
    /// The service's id, the message's place, and a number that tells those of one change apart.
    type Key<'a> = (&'a str, StreamPos, u32);
    type Value = Receiver;

    fn group(&(service, ..): &Self::Key<'_>) -> Option<Group> {
        Some(Group::of(service))
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Receiver {
    pub user_id: OwnedUserId,
    pub device_id: OwnedDeviceId,
}

impl Record for Receiver {}

/// The rooms that services list in directories of their own, one for each network that they bridge to.
pub struct NetworkRooms;
impl Table for NetworkRooms {
    const NAME: &'static str = "network_rooms";
    const FAMILY: Family = Family::Lookup;
    const ID: u8 = 182;
    /// The network as clients name it, see [`super::third_party::instance_id`].
    type Key<'a> = (&'a str, RoomNid);
    type Value = ();
}

/// Invites of services' users to rooms that we are not in, which the services are to be told: they are not in the log.
pub struct Invites;
impl Table for Invites {
    const NAME: &'static str = "appservice_invites";
    const FAMILY: Family = Family::Queue;
    const ID: u8 = 183;
    /// The service's id, and the invite's place.
    type Key<'a> = (&'a str, StreamPos, RoomNid);
    type Value = EventNid;

    fn group(&(service, ..): &Self::Key<'_>) -> Option<Group> {
        Some(Group::of(service))
    }
}
