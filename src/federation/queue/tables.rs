use ruma::{OwnedDeviceId, OwnedUserId, ServerName, UserId};
use serde::{Deserialize, Serialize};

use crate::store::{self, EventNid, Family, Group, Record, RoomNid, Rows, Scan, Snapshot, StreamPos, Table, TableInfo};

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
    /// Where the first row is. RocksDB would step over the marks that the rows before it left, all that was ever sent.
    pub first: StreamPos,
}

impl Record for Backlog {
    const VERSION: u8 = 2;

    fn upgrade(version: u8, body: &[u8]) -> Result<Self, String> {
        if version != 1 {
            return Err(format!("unknown value version {version}"));
        }
        let (rows, shortened_at) = postcard::from_bytes(body).map_err(|error| error.to_string())?;
        Ok(Self { rows, shortened_at, first: StreamPos::default() })
    }
}

/// The rows for a server, in their order.
pub fn rows<'s>(snapshot: &'s Snapshot<'_>, destination: &ServerName) -> store::Result<Rows<'s, Queue>> {
    let backlog = snapshot.get::<Destinations>(&destination)?;
    Ok(rows_from(snapshot, destination, backlog.map_or(StreamPos::MAX, |backlog| backlog.first)))
}

/// As [`rows`], where it is known that there are none before `first`.
pub fn rows_from<'s>(snapshot: &'s Snapshot<'_>, destination: &ServerName, first: StreamPos) -> Rows<'s, Queue> {
    snapshot.scan::<Queue>(Scan::from::<Queue>(&(destination, first), &destination))
}

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
