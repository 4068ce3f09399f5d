use ruma::{OwnedDeviceId, OwnedUserId, ServerName, UserId};
use serde::{Deserialize, Serialize};

use crate::store::{EventNid, Family, Group, Record, RoomNid, StreamPos, Table, TableInfo};

pub const ALL: &[TableInfo] = &[
    TableInfo::of::<Queue>(),
    TableInfo::of::<Destinations>(),
    TableInfo::of::<DeviceUpdates>(),
    TableInfo::of::<DeviceStreams>(),
];

/// What waits to be sent to each server, in the order of sending.
pub struct Queue;
impl Table for Queue {
    const NAME: &'static str = "federation_queue";
    const FAMILY: Family = Family::Queue;
    const ID: u8 = 140;
    /// The number tells apart what one change brought.
    type Key<'a> = (&'a ServerName, StreamPos, u32);
    type Value = Item;
}

/// One row of a queue: what is to be read when it is sent, so that a change in between is told once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Item {
    Event {
        room: RoomNid,
        event: EventNid,
    },
    /// The public receipt of a user, by its thread as `Receipts` has it.
    Receipt {
        room: RoomNid,
        user: OwnedUserId,
        thread: String,
    },
    /// The content of an `m.direct_to_device`: JSON.
    ToDevice {
        content: String,
    },
    /// A device of ours was changed or deleted.
    Device {
        user: OwnedUserId,
        device: OwnedDeviceId,
        stream_id: u64,
        /// The update of this user before this one; `None` if it is the first.
        prev_id: Option<u64>,
    },
    SigningKeys {
        user: OwnedUserId,
    },
}

impl Record for Item {}

/// The servers that have rows in `Queue`.
pub struct Destinations;
impl Table for Destinations {
    const NAME: &'static str = "federation_destinations";
    const FAMILY: Family = Family::Lookup;
    const ID: u8 = 140;
    type Key<'a> = &'a ServerName;
    type Value = Backlog;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backlog {
    /// How many rows there are.
    pub rows: u64,
    /// With how many rows the queue is shortened.
    pub shortened_at: u64,
}

impl Record for Backlog {}

/// Changes of our users' devices, or of their cross-signing keys where the device is empty, that no queue has yet.
pub struct DeviceUpdates;
impl Table for DeviceUpdates {
    const NAME: &'static str = "device_updates";
    const FAMILY: Family = Family::Queue;
    const ID: u8 = 141;
    type Key<'a> = (StreamPos, &'a UserId, &'a str);
    type Value = ();

    fn group(_: &Self::Key<'_>) -> Option<Group> {
        Some(Group::of(Self::NAME))
    }
}

/// The `stream_id` of the last update of each of our users' devices.
pub struct DeviceStreams;
impl Table for DeviceStreams {
    const NAME: &'static str = "device_streams";
    const FAMILY: Family = Family::User;
    const ID: u8 = 141;
    type Key<'a> = &'a UserId;
    type Value = u64;
}
