//! What is kept of a room. All keys begin with the room's number, so that a room is removed by a few range deletes.

use ruma::{
    DeviceId, EventId, OwnedDeviceId, OwnedRoomId, RoomId, RoomVersionId, UserId, events::room::member::MembershipState,
};
use serde::{Deserialize, Serialize};

use super::{
    aliases::{Aliases, RoomAliases},
    by_time::EventTimes,
    directory::ListedRooms,
    gaps::Gaps,
    invited::StrippedStates,
    redaction::EarlyRedactions,
    relations::{Annotations, Relations},
    search::index::SearchWords,
    server_notices::NoticeRooms,
    servers::{InvitedServers, RemoteRooms, RoomServers},
    threads::ThreadEvents,
};
use crate::{
    event::StateRoot,
    store::{EventNid, Family, Group, Key, Record, RoomNid, RoomPos, StateKeyNid, StreamPos, Table, TableInfo, Value},
};

pub const ALL: &[TableInfo] = &[
    TableInfo::of::<RoomIds>(),
    TableInfo::of::<Rooms>(),
    TableInfo::of::<EventIds>(),
    TableInfo::of::<Events>(),
    TableInfo::of::<Timeline>(),
    TableInfo::of::<AuthEdges>(),
    TableInfo::of::<StateKeys>(),
    TableInfo::of::<StateKeyNames>(),
    TableInfo::of::<StateNodes>(),
    TableInfo::of::<StateChanges>(),
    TableInfo::of::<Members>(),
    TableInfo::of::<UserRooms>(),
    TableInfo::of::<Transactions>(),
    TableInfo::of::<EventTransactions>(),
    TableInfo::of::<Receipts>(),
    TableInfo::of::<ReceiptChanges>(),
    TableInfo::of::<Relations>(),
    TableInfo::of::<Annotations>(),
    TableInfo::of::<ThreadEvents>(),
    TableInfo::of::<SearchWords>(),
    TableInfo::of::<Aliases>(),
    TableInfo::of::<RoomAliases>(),
    TableInfo::of::<ListedRooms>(),
    TableInfo::of::<NoticeRooms>(),
    TableInfo::of::<EarlyRedactions>(),
    TableInfo::of::<EventTimes>(),
    TableInfo::of::<Gaps>(),
    TableInfo::of::<StrippedStates>(),
    TableInfo::of::<RoomServers>(),
    TableInfo::of::<RemoteRooms>(),
    TableInfo::of::<InvitedServers>(),
];

pub struct RoomIds;
impl Table for RoomIds {
    const NAME: &'static str = "room_ids";
    const FAMILY: Family = Family::Lookup;
    const ID: u8 = 1;
    type Key<'a> = &'a RoomId;
    type Value = RoomNid;
}

/// What is known of a room as a whole.
pub struct Rooms;
impl Table for Rooms {
    const NAME: &'static str = "rooms";
    const FAMILY: Family = Family::Room;
    const ID: u8 = 1;
    type Key<'a> = RoomNid;
    type Value = Room;
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Room {
    pub room_id: OwnedRoomId,
    pub version: RoomVersionId,
    /// The ends of the event graph, oldest first. Kept here and not as rows of their own: each event takes the place of the last
    /// one, and a reader of such rows would step over all that were removed since the last flush.
    pub forward_extremities: Vec<EventNid>,
    /// The state after all forward extremities, resolved.
    pub current_state: StateRoot,
    /// How many users are joined, and invited, in the current state.
    pub joined: u64,
    pub invited: u64,
}

impl Record for Room {}

impl Room {
    /// A room of which we have no event with a place yet.
    pub fn unknown(room_id: OwnedRoomId, version: RoomVersionId) -> Self {
        Self {
            room_id,
            version,
            forward_extremities: Vec::new(),
            current_state: StateRoot::EMPTY,
            joined: 0,
            invited: 0,
        }
    }
}

pub struct EventIds;
impl Table for EventIds {
    const NAME: &'static str = "event_ids";
    const FAMILY: Family = Family::Lookup;
    const ID: u8 = 2;
    type Key<'a> = &'a EventId;
    type Value = EventPlace;
}

/// Where an event lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventPlace {
    pub room: RoomNid,
    pub event: EventNid,
}

impl Record for EventPlace {}

/// The events themselves, outliers, rejected and soft-failed ones too.
pub struct Events;
impl Table for Events {
    const NAME: &'static str = "events";
    const FAMILY: Family = Family::Event;
    const ID: u8 = 1;
    type Key<'a> = (RoomNid, EventNid);
    type Value = crate::event::StoredEvent;
}

/// The events that clients may see, in the order of the room.
pub struct Timeline;
impl Table for Timeline {
    const NAME: &'static str = "timeline";
    const FAMILY: Family = Family::Room;
    const ID: u8 = 2;
    type Key<'a> = (RoomNid, RoomPos);
    type Value = EventNid;

    fn group(&(room, _): &Self::Key<'_>) -> Option<Group> {
        Some(Group::of(room))
    }
}

/// The auth events of each state event: always of lower number than the event itself.
pub struct AuthEdges;
impl Table for AuthEdges {
    const NAME: &'static str = "auth_edges";
    const FAMILY: Family = Family::Room;
    const ID: u8 = 4;
    type Key<'a> = (RoomNid, EventNid);
    type Value = Edges;
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Edges(pub Vec<EventNid>);

impl Record for Edges {}

pub struct StateKeys;
impl Table for StateKeys {
    const NAME: &'static str = "state_keys";
    const FAMILY: Family = Family::Room;
    const ID: u8 = 5;
    /// Event type, state key.
    type Key<'a> = (RoomNid, &'a str, &'a str);
    type Value = StateKeyNid;
}

pub struct StateKeyNames;
impl Table for StateKeyNames {
    const NAME: &'static str = "state_key_names";
    const FAMILY: Family = Family::Room;
    const ID: u8 = 6;
    type Key<'a> = (RoomNid, StateKeyNid);
    type Value = StateKeyName;
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct StateKeyName {
    pub event_type: String,
    pub state_key: String,
}

impl Record for StateKeyName {}

/// The nodes of the state tries, by the hash of what they hold.
pub struct StateNodes;
impl Table for StateNodes {
    const NAME: &'static str = "state_nodes";
    const FAMILY: Family = Family::State;
    const ID: u8 = 1;
    type Key<'a> = (RoomNid, [u8; 16]);
    type Value = super::state::trie::Node;
}

/// How each change of a room's current state changed it.
pub struct StateChanges;
impl Table for StateChanges {
    const NAME: &'static str = "state_changes";
    const FAMILY: Family = Family::Room;
    const ID: u8 = 7;
    type Key<'a> = (RoomNid, StreamPos, StateKeyNid);
    type Value = StateChange;

    fn group(&(room, ..): &Self::Key<'_>) -> Option<Group> {
        Some(Group::of(room))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateChange {
    pub old: Option<EventNid>,
    pub new: Option<EventNid>,
}

impl Record for StateChange {}

/// The members of each room in its current state, local and remote, by membership.
pub struct Members;
impl Table for Members {
    const NAME: &'static str = "members";
    const FAMILY: Family = Family::Room;
    const ID: u8 = 8;
    type Key<'a> = (RoomNid, Membership, Origin, &'a UserId);
    type Value = EventNid;

    fn group(&(room, _, origin, _): &Self::Key<'_>) -> Option<Group> {
        (origin == Origin::Local).then(|| Group::of(room))
    }
}

/// Whose user somebody is. Ours come first, so that they can be listed without all the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Origin {
    Local,
    Remote,
}

impl Key<'_> for Origin {
    fn write(&self, out: &mut Vec<u8>) {
        (*self as u8).write(out);
    }
    fn read(bytes: &mut &[u8]) -> Option<Self> {
        match u8::read(bytes)? {
            0 => Some(Self::Local),
            1 => Some(Self::Remote),
            _ => None,
        }
    }
}

/// The rooms of each local user, those left and not forgotten too.
pub struct UserRooms;
impl Table for UserRooms {
    const NAME: &'static str = "user_rooms";
    const FAMILY: Family = Family::User;
    const ID: u8 = 1;
    type Key<'a> = (&'a UserId, RoomNid);
    type Value = UserRoom;

    fn group(&(user, _): &Self::Key<'_>) -> Option<Group> {
        Some(Group::of(user))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserRoom {
    pub membership: Membership,
    /// The member event, and when it became current.
    pub event: EventNid,
    pub since: StreamPos,
    /// When the user last became joined; of the earlier stay, if he is not joined now. `None` if he never was.
    pub joined_at: Option<StreamPos>,
    /// The user asked not to see the room any more. Ends with the next invite, join or knock.
    pub is_forgotten: bool,
}

impl Record for UserRoom {}

/// The events that devices sent, by the transaction ids that they gave: a repeated request is answered with the same
/// event. Rows are removed when they are older than any client repeats a request.
pub struct Transactions;
impl Table for Transactions {
    const NAME: &'static str = "transactions";
    const FAMILY: Family = Family::Lookup;
    const ID: u8 = 3;
    /// Sender, device, what was asked (`send/m.room.message`, `redact/$id`), transaction id.
    type Key<'a> = (RoomNid, &'a UserId, &'a DeviceId, &'a str, &'a str);
    type Value = Sent;
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Sent {
    pub event: EventNid,
    /// When, in milliseconds since the Unix epoch.
    pub at_ms: u64,
}

impl Record for Sent {}

/// The transaction id of each event that was sent with one: the device that sent it is shown it.
pub struct EventTransactions;
impl Table for EventTransactions {
    const NAME: &'static str = "event_transactions";
    const FAMILY: Family = Family::Room;
    const ID: u8 = 9;
    type Key<'a> = (RoomNid, EventNid);
    type Value = EventTransaction;
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventTransaction {
    pub device_id: OwnedDeviceId,
    pub txn_id: String,
}

impl Record for EventTransaction {}

/// The newest receipt of each user, type and thread.
pub struct Receipts;
impl Table for Receipts {
    const NAME: &'static str = "receipts";
    const FAMILY: Family = Family::Room;
    const ID: u8 = 10;
    /// Receipt type (`m.read`, `m.read.private`), then thread: empty if unthreaded, `main`, or the id of its root.
    type Key<'a> = (RoomNid, &'a UserId, &'a str, &'a str);
    type Value = Receipt;
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// As another server told it of its user, if it is not one of ours: it may be of no event, and no event id at all.
    pub event_id: String,
    /// When the client read it by our clock, in milliseconds since the Unix epoch.
    pub ts_ms: u64,
    pub changed: StreamPos,
}

impl Record for Receipt {}

/// The rows of `Receipts` in the order of their last changes: one row here for each row there.
pub struct ReceiptChanges;
impl Table for ReceiptChanges {
    const NAME: &'static str = "receipt_changes";
    const FAMILY: Family = Family::Room;
    const ID: u8 = 11;
    type Key<'a> = (RoomNid, StreamPos, &'a UserId, &'a str, &'a str);
    type Value = ();

    fn group(&(room, ..): &Self::Key<'_>) -> Option<Group> {
        Some(Group::of(room))
    }
}

/// A membership of the specification, as a byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Membership {
    Join,
    Invite,
    Knock,
    Leave,
    Ban,
}

impl Membership {
    pub const ALL: [Self; 5] = [Self::Join, Self::Invite, Self::Knock, Self::Leave, Self::Ban];

    /// `None` if it is not one that the specification knows.
    pub fn of(state: &MembershipState) -> Option<Self> {
        Some(match state {
            MembershipState::Join => Self::Join,
            MembershipState::Invite => Self::Invite,
            MembershipState::Knock => Self::Knock,
            MembershipState::Leave => Self::Leave,
            MembershipState::Ban => Self::Ban,
            _ => return None,
        })
    }

    pub fn to_state(self) -> MembershipState {
        match self {
            Self::Join => MembershipState::Join,
            Self::Invite => MembershipState::Invite,
            Self::Knock => MembershipState::Knock,
            Self::Leave => MembershipState::Leave,
            Self::Ban => MembershipState::Ban,
        }
    }
}

impl Key<'_> for Membership {
    fn write(&self, out: &mut Vec<u8>) {
        (*self as u8).write(out);
    }
    fn read(bytes: &mut &[u8]) -> Option<Self> {
        let byte = u8::read(bytes)?;
        Self::ALL.into_iter().find(|m| *m as u8 == byte)
    }
}

impl Value for crate::event::StoredEvent {
    fn write(&self, out: &mut Vec<u8>) {
        self.encode(out);
    }
    fn read(version: u8, body: &[u8]) -> Result<Self, String> {
        match version {
            1 => Self::decode(body).map_err(|e| e.to_string()),
            _ => Err(format!("unknown event layout {version}: was it written by a newer chappe?")),
        }
    }
}
