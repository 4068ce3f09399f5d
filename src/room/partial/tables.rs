//! What is kept of rooms whose state is not whole.

use ruma::{OwnedEventId, OwnedServerName, ServerName, UserId};
use serde::{Deserialize, Serialize};

use crate::{
    event::StateRoot,
    store::{EventNid, Family, Group, Record, RoomNid, StreamPos, Table, TableInfo},
};

pub const ALL: &[TableInfo] = &[
    TableInfo::of::<PartialRooms>(),
    TableInfo::of::<PartialEvents>(),
    TableInfo::of::<PartialDevices>(),
    TableInfo::of::<Completions>(),
    TableInfo::of::<LeftRooms>(),
    TableInfo::of::<Introductions>(),
];

/// How many servers of a room are kept, whatever another server says. Source: our choice; the largest rooms have half as
/// many.
pub const MAX_SERVERS: usize = 20_000;

/// The rooms whose state is not whole yet.
pub struct PartialRooms;
impl Table for PartialRooms {
    const NAME: &'static str = "partial_rooms";
    const FAMILY: Family = Family::Lookup;
    const ID: u8 = 195;
    type Key<'a> = RoomNid;
    type Value = Partial;
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Partial {
    /// The member event by which this server came in.
    pub entry: OwnedEventId,
    /// The server that let us in, then those that it says are in the room.
    pub servers: Vec<OwnedServerName>,
    /// How often all of them were asked in vain for the state.
    pub failures: u32,
}

impl Record for Partial {}

impl Partial {
    pub fn has(&self, server: &ServerName) -> bool {
        self.servers.iter().any(|name| name == server)
    }
}

/// The events that got a place, or none because they are not allowed, while the state was not whole; in the order in
/// which they came, so that each is after those on which its state rests.
pub struct PartialEvents;
impl Table for PartialEvents {
    const NAME: &'static str = "partial_events";
    const FAMILY: Family = Family::Room;
    const ID: u8 = 196;
    type Key<'a> = (RoomNid, StreamPos);
    type Value = PartialEvent;
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartialEvent {
    pub event: EventNid,
    /// Its place in the timeline, if it is accepted.
    pub place: i64,
    /// Those of its previous events that had a place when it came.
    pub follows: Vec<EventNid>,
    /// The state after the others, as another server told it.
    pub given: Option<StateRoot>,
    /// The previous events after which `given` lacks members.
    pub wanted: Vec<OwnedEventId>,
}

impl Record for PartialEvent {}

/// The users of other servers who may be in such a room and whose devices changed.
pub struct PartialDevices;
impl Table for PartialDevices {
    const NAME: &'static str = "partial_devices";
    const FAMILY: Family = Family::Room;
    const ID: u8 = 197;
    type Key<'a> = (RoomNid, &'a UserId);
    type Value = ();
}

/// When the state of a room became whole: clients that can't do without members were told nothing of it before.
pub struct Completions;
impl Table for Completions {
    const NAME: &'static str = "completions";
    const FAMILY: Family = Family::Lookup;
    const ID: u8 = 198;
    type Key<'a> = RoomNid;
    type Value = StreamPos;

    fn group(&room: &Self::Key<'_>) -> Option<Group> {
        Some(Group::of(room))
    }
}

/// Rooms that our users left before their state was whole.
pub struct LeftRooms;
impl Table for LeftRooms {
    const NAME: &'static str = "left_partial_rooms";
    const FAMILY: Family = Family::Lookup;
    const ID: u8 = 199;
    type Key<'a> = RoomNid;
    type Value = ();
}

/// The rooms whose servers are to be told of the devices of those of ours who came into them before their state was whole,
/// and when it became so. Their members may not all be in the user directory yet.
pub struct Introductions;
impl Table for Introductions {
    const NAME: &'static str = "introductions";
    const FAMILY: Family = Family::Lookup;
    const ID: u8 = 227;
    type Key<'a> = RoomNid;
    type Value = StreamPos;
}
