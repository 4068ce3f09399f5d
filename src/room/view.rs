use std::sync::{Arc, OnceLock};

use ruma::{EventId, OwnedEventId, RoomId, UserId, events::StateEventType, room_version_rules::RoomVersionRules};
use serde::de::DeserializeOwned;

use super::{
    Membership, Rooms,
    state::trie::Tries,
    tables::{self, Room, StateKeyName},
};
use crate::{
    event::{Pdu, StateRoot, StoredEvent, rules},
    store::{Error, EventNid, Result, RoomNid, Snapshot, StateKeyNid, Table},
};

/// How many events are read at a time where there may be very many.
pub const BATCH: usize = 512;

/// One room as a snapshot shows it. All reading of rooms goes through one of these.
pub struct View<'s> {
    pub snapshot: &'s Snapshot<'s>,
    pub nid: RoomNid,
    pub room: Room,
    pub rules: &'static RoomVersionRules,
    rooms: &'s Rooms,
    pending: Option<Pending>,
    expired_before: OnceLock<u64>,
}

/// An event that is being worked out: it can be read as if it were stored.
#[derive(Clone)]
pub(super) struct Pending {
    pub nid: EventNid,
    pub pdu: Arc<Pdu>,
    /// Of state events.
    pub auth_edges: Vec<EventNid>,
    /// Its state key, if the room did not have that one yet.
    pub new_key: Option<(StateKeyNid, StateKeyName)>,
}

impl<'s> View<'s> {
    /// `None` if the server does not know the room.
    pub fn open(rooms: &'s Rooms, snapshot: &'s Snapshot<'s>, room_id: &RoomId) -> Result<Option<Self>> {
        let nid = snapshot.get::<tables::RoomIds>(&room_id)?;
        nid.map(|nid| Self::of(rooms, snapshot, nid)).transpose()
    }

    /// The room that a row of ours refers to.
    pub fn of(rooms: &'s Rooms, snapshot: &'s Snapshot<'s>, nid: RoomNid) -> Result<Self> {
        let room = snapshot.get::<tables::Rooms>(&nid)?.ok_or_else(|| absent::<tables::Rooms>(nid))?;
        Self::new(rooms, snapshot, nid, room)
    }

    pub(super) fn new(rooms: &'s Rooms, snapshot: &'s Snapshot<'s>, nid: RoomNid, room: Room) -> Result<Self> {
        let rules = rules::rules(&room.version).ok_or_else(|| {
            Error::corrupt(tables::Rooms::NAME, &nid.0.to_be_bytes(), format!("unknown room version {}", room.version))
        })?;
        Ok(Self { snapshot, nid, room, rules, rooms, pending: None, expired_before: OnceLock::new() })
    }

    /// The same room with `event` in it, on no timeline yet.
    pub(super) fn with_pending(&self, event: Pending) -> Self {
        Self { room: self.room.clone(), pending: Some(event), expired_before: OnceLock::new(), ..*self }
    }

    pub(super) fn rooms(&self) -> &'s Rooms {
        self.rooms
    }

    pub(super) fn pending(&self) -> Option<&Pending> {
        self.pending.as_ref()
    }

    pub fn room_id(&self) -> &RoomId {
        &self.room.room_id
    }

    /// The state at the end of what we know of the room.
    pub fn current_state(&self) -> StateRoot {
        self.room.current_state
    }

    /// The current ends of the event graph.
    pub fn forward_extremities(&self) -> &[EventNid] {
        &self.room.forward_extremities
    }

    /// The number of an event of this room; `None` for those of other rooms too.
    pub fn event_nid(&self, event_id: &EventId) -> Result<Option<EventNid>> {
        if let Some(pending) = self.pending.as_ref().filter(|pending| pending.pdu.event_id == event_id) {
            return Ok(Some(pending.nid));
        }
        let place = self.snapshot.get::<tables::EventIds>(&event_id)?;
        Ok(place.filter(|place| place.room == self.nid).map(|place| place.event))
    }

    /// Whether another room has an event of this id. Only a redaction should name one, except that in room versions 1 and 2
    /// servers choose the ids of their events.
    pub fn is_elsewhere(&self, event_id: &EventId) -> Result<bool> {
        let place = self.snapshot.get::<tables::EventIds>(&event_id)?;
        Ok(place.is_some_and(|place| place.room != self.nid))
    }

    /// [`Self::is_elsewhere`] for an event that wants to be part of this room: it would take the other one's id away. Only
    /// the ids of the first room versions, which name a server, are not made of the event itself.
    pub fn takes_id_away(&self, event_id: &EventId) -> Result<bool> {
        Ok(event_id.server_name().is_some() && self.is_elsewhere(event_id)?)
    }

    /// An event that a row of ours refers to.
    pub fn event(&self, event: EventNid) -> Result<StoredEvent> {
        let found = self.snapshot.get::<tables::Events>(&(self.nid, event))?;
        found.ok_or_else(|| absent::<tables::Events>((self.nid, event)))
    }

    pub fn event_by_id(&self, event_id: &EventId) -> Result<Option<StoredEvent>> {
        self.event_nid(event_id)?.map(|nid| self.event(nid)).transpose()
    }

    /// Many events at once, in the order of `events`.
    pub fn events(&self, events: &[EventNid]) -> Result<Vec<StoredEvent>> {
        let keys = events.iter().map(|&event| (self.nid, event));
        let found = self.snapshot.get_many::<tables::Events>(keys)?;
        std::iter::zip(events, found)
            .map(|(&event, row)| row.ok_or_else(|| absent::<tables::Events>((self.nid, event))))
            .collect()
    }

    /// An event in the form that the authorization rules read.
    pub fn pdu(&self, event: EventNid) -> Result<Arc<Pdu>> {
        if let Some(pending) = self.pending.as_ref().filter(|pending| pending.nid == event) {
            return Ok(Arc::clone(&pending.pdu));
        }
        if let Some(pdu) = self.rooms.known_pdu(self.nid, event) {
            return Ok(pdu);
        }
        let stored = self.event(event)?;
        let pdu = stored.view().to_pdu(self.room_id(), self.rules);
        let pdu = Arc::new(pdu.map_err(|e| Error::corrupt(tables::Events::NAME, stored.event_id.as_bytes(), e))?);
        self.rooms.keep_pdu(self.nid, event, Arc::clone(&pdu), self.snapshot.pos()?);
        Ok(pdu)
    }

    pub fn event_id(&self, event: EventNid) -> Result<OwnedEventId> {
        Ok(self.pdu(event)?.event_id.clone())
    }

    /// Whether an event had its time by what the room, or the server, says of retention: nobody is shown it any more, and its
    /// content may be gone. State is kept, and so are the ends of the graph, which those who write next refer to.
    pub fn has_expired(&self, event: &StoredEvent) -> Result<bool> {
        if event.flags.purged {
            return Ok(true);
        }
        if event.state_key.is_some() || event.origin_server_ts >= self.expired_before()? {
            return Ok(false);
        }
        for &end in self.forward_extremities() {
            if self.event_id(end)? == event.event_id {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// From before when messages have expired, in milliseconds since the Unix epoch; 0 if they never do.
    pub fn expired_before(&self) -> Result<u64> {
        let Some(retention) = self.rooms.retention() else { return Ok(0) };
        if let Some(known) = self.expired_before.get() {
            return Ok(*known);
        }
        let expired_before = retention.expired_before(self)?;
        Ok(*self.expired_before.get_or_init(|| expired_before))
    }

    pub fn tries(&self) -> Tries<'s> {
        Tries::new(self.snapshot, &self.rooms.state_nodes, self.nid)
    }

    /// The number of a pair of event type and state key; `None` if the room never had such state.
    pub fn state_key_nid(&self, event_type: &str, state_key: &str) -> Result<Option<StateKeyNid>> {
        self.snapshot.get::<tables::StateKeys>(&(self.nid, event_type, state_key))
    }

    pub fn state_key_name(&self, key: StateKeyNid) -> Result<StateKeyName> {
        let pending = self.pending.as_ref().and_then(|pending| pending.new_key.as_ref());
        if let Some((_, name)) = pending.filter(|(pending, _)| *pending == key) {
            return Ok(name.clone());
        }
        let name = self.snapshot.get::<tables::StateKeyNames>(&(self.nid, key))?;
        name.ok_or_else(|| absent::<tables::StateKeyNames>((self.nid, key)))
    }

    /// One entry of a state.
    pub fn state_nid(
        &self,
        state: StateRoot,
        event_type: &StateEventType,
        state_key: &str,
    ) -> Result<Option<EventNid>> {
        match self.state_key_nid(&event_type.to_string(), state_key)? {
            Some(key) => self.tries().get(state, key),
            None => Ok(None),
        }
    }

    pub fn state_event(
        &self,
        state: StateRoot,
        event_type: &StateEventType,
        state_key: &str,
    ) -> Result<Option<StoredEvent>> {
        self.state_nid(state, event_type, state_key)?.map(|nid| self.event(nid)).transpose()
    }

    pub fn state_pdu(
        &self,
        state: StateRoot,
        event_type: &StateEventType,
        state_key: &str,
    ) -> Result<Option<Arc<Pdu>>> {
        self.state_pdu_in(&self.tries(), state, event_type, state_key)
    }

    /// As [`Self::state_pdu`] for a state that may not be written yet, but is in `tries`.
    pub(super) fn state_pdu_in(
        &self,
        tries: &Tries<'_>,
        state: StateRoot,
        event_type: &StateEventType,
        state_key: &str,
    ) -> Result<Option<Arc<Pdu>>> {
        let Some(key) = self.state_key_nid(&event_type.to_string(), state_key)? else { return Ok(None) };
        tries.get(state, key)?.map(|nid| self.pdu(nid)).transpose()
    }

    /// The content of one entry of a state; `None` too if it is not what `T` asks for, since a room may hold anything.
    pub fn state_content<T: DeserializeOwned>(
        &self,
        state: StateRoot,
        event_type: &StateEventType,
        state_key: &str,
    ) -> Result<Option<T>> {
        let pdu = self.state_pdu(state, event_type, state_key)?;
        Ok(pdu.and_then(|pdu| serde_json::from_str(pdu.content.get()).ok()))
    }

    /// All events of a state, by state key.
    pub fn state(&self, state: StateRoot) -> Result<Vec<(StateKeyNid, EventNid)>> {
        self.tries().list(state)
    }

    /// The membership of `user` in a state; `None` if he never had one.
    pub fn membership(&self, state: StateRoot, user: &UserId) -> Result<Option<Membership>> {
        let pdu = self.state_pdu(state, &StateEventType::RoomMember, user.as_str())?;
        Ok(pdu.and_then(|pdu| membership_in(pdu.content.get())))
    }

    /// The users of the current state with this membership, in the order of their ids.
    pub fn members(&self, membership: Membership) -> Result<Vec<(ruma::OwnedUserId, EventNid)>> {
        let rows = self.snapshot.list::<tables::Members>(&(self.nid, membership));
        rows.map(|row| row.and_then(|row| Ok((row.key()?.3.to_owned(), row.value)))).collect()
    }

    /// Our own users who are joined in the current state.
    pub fn local_members(&self) -> Result<Vec<ruma::OwnedUserId>> {
        self.each_local_member().collect()
    }

    /// As [`Self::local_members`], for who need not know them all.
    pub fn each_local_member(&self) -> impl Iterator<Item = Result<ruma::OwnedUserId>> + '_ {
        let rows = self.snapshot.list::<tables::Members>(&(self.nid, Membership::Join, tables::Origin::Local));
        rows.map(|row| row.and_then(|row| Ok(row.key()?.3.to_owned())))
    }

    /// Whether any of our own users is joined in the current state: only then do we learn what happens in the room.
    pub fn is_resident(&self) -> Result<bool> {
        Ok(self.each_local_member().next().transpose()?.is_some())
    }
}

/// The membership that the content of a member event gives; `None` if it is none of the specification's.
pub fn membership_in(content: &str) -> Option<Membership> {
    #[derive(serde::Deserialize)]
    struct Content {
        membership: ruma::events::room::member::MembershipState,
    }
    serde_json::from_str::<Content>(content).ok().and_then(|content| Membership::of(&content.membership))
}

fn absent<T: Table>(key: impl std::fmt::Debug) -> Error {
    Error::Corrupt {
        table: T::NAME,
        key: format!("{key:?}"),
        reason: "another row refers to it, but it is not there".to_owned(),
    }
}
