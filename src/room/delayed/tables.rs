//! What is kept of events that are to be sent later.

use ruma::{DeviceId, OwnedDeviceId, OwnedEventId, OwnedUserId, UserId};
use serde::{Deserialize, Serialize};

use crate::store::{Family, Record, RoomNid, Table, TableInfo};

pub const ALL: &[TableInfo] = &[
    TableInfo::of::<DelayedEvents>(),
    TableInfo::of::<DelayedOfUser>(),
    TableInfo::of::<DelayedDue>(),
    TableInfo::of::<DelayedTransactions>(),
];

/// The events that users want to have sent later, by their delay ids; and for some days what became of them.
pub struct DelayedEvents;
impl Table for DelayedEvents {
    const NAME: &'static str = "delayed_events";
    const FAMILY: Family = Family::Lookup;
    const ID: u8 = 170;
    type Key<'a> = &'a str;
    type Value = DelayedEvent;
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DelayedEvent {
    pub user_id: OwnedUserId,
    pub room: RoomNid,
    pub event_type: String,
    /// Of state events.
    pub state_key: Option<String>,
    /// A JSON object.
    pub content: String,
    pub delay_ms: u64,
    /// When the delay began, in milliseconds since the Unix epoch.
    pub since_ms: u64,
    /// How the device asked for it: its id, what for, and the transaction id. State has none.
    pub transaction: Option<(OwnedDeviceId, String, String)>,
    /// `None` while it waits.
    pub end: Option<End>,
    /// For how long it is to be sticky once it is sent, in milliseconds.
    pub sticky_ms: Option<u32>,
}

impl Record for DelayedEvent {
    const VERSION: u8 = 2;

    fn upgrade(version: u8, body: &[u8]) -> Result<Self, String> {
        if version != 1 {
            return Err(format!("unknown value version {version}"));
        }
        // Its last field came with version 2: absent is a zero.
        postcard::from_bytes(&[body, &[0]].concat()).map_err(|error| error.to_string())
    }
}

impl DelayedEvent {
    /// When it is to be sent, in milliseconds since the Unix epoch.
    pub fn due_ms(&self) -> u64 {
        self.since_ms.saturating_add(self.delay_ms)
    }
}

/// What became of an event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// Milliseconds since the Unix epoch.
    pub at_ms: u64,
    pub outcome: Outcome,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    Sent(OwnedEventId),
    Cancelled,
    /// Errcode and message.
    Failed(String, String),
}

/// The rows of `DelayedEvents` of each user.
pub struct DelayedOfUser;
impl Table for DelayedOfUser {
    const NAME: &'static str = "delayed_of_user";
    const FAMILY: Family = Family::User;
    const ID: u8 = 172;
    type Key<'a> = (&'a UserId, &'a str);
    type Value = ();
}

/// The rows of `DelayedEvents` that wait, by when they are to be sent.
pub struct DelayedDue;
impl Table for DelayedDue {
    const NAME: &'static str = "delayed_due";
    const FAMILY: Family = Family::Queue;
    const ID: u8 = 170;
    type Key<'a> = (u64, &'a str);
    type Value = ();
}

/// The transaction ids with which devices asked for delayed events, as long as these are kept.
pub struct DelayedTransactions;
impl Table for DelayedTransactions {
    const NAME: &'static str = "delayed_transactions";
    const FAMILY: Family = Family::User;
    const ID: u8 = 173;
    /// User, device, room and event type, transaction id.
    type Key<'a> = (&'a UserId, &'a DeviceId, &'a str, &'a str);
    /// The delay id.
    type Value = String;
}
