//! What a service is told at a time: events, and, if it asked for them, ephemeral events, to-device messages, changed
//! device lists and counts of one-time keys.
//!
//! <https://spec.matrix.org/v1.19/application-service-api/#pushing-events>

use std::collections::{BTreeMap, BTreeSet};

use ruma::{DeviceId, OwnedDeviceId, OwnedUserId, UserId};
use serde::Serialize;
use serde_json::{
    Map, Value, json,
    value::{RawValue, to_raw_value},
};

use super::{
    Interest, Running, ephemeral, interest,
    tables::{Cursor, Cursors, Invites, Receiver, ToDeviceRows, Transactions},
};
use crate::{
    Server,
    error::{Error, Result},
    event::{
        StoredEvent,
        client_form::{self, Unsigned},
        stored::EventView,
    },
    log,
    room::{
        View, show,
        tables::{Events, Rooms},
        visibility::{comes_in, is_for_clients, unreadable},
    },
    store::{EventNid, Group, RoomNid, Row, Scan, Snapshot, StreamPos, Transaction},
    user::{
        device, keys,
        tables::{KeyChanges, ToDevice},
        to_device,
    },
};

/// How much of each kind goes into one transaction.
const EVENTS: usize = 100;
const EPHEMERAL: usize = 100;
const TO_DEVICE: usize = 100;
const KEY_CHANGES: usize = 1_000;

/// The body of a transaction. Bridges know what is not in the specification yet by these names.
#[derive(Default, Serialize)]
struct Body {
    events: Vec<Box<RawValue>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ephemeral: Vec<Value>,
    #[serde(rename = "de.sorunome.msc2409.to_device", skip_serializing_if = "Vec::is_empty")]
    to_device: Vec<Value>,
    #[serde(rename = "org.matrix.msc3202.device_lists", skip_serializing_if = "Option::is_none")]
    device_lists: Option<DeviceLists>,
    #[serde(rename = "org.matrix.msc3202.device_one_time_keys_count", skip_serializing_if = "BTreeMap::is_empty")]
    one_time_keys: PerDevice<BTreeMap<String, u64>>,
    #[serde(
        rename = "org.matrix.msc3202.device_unused_fallback_key_types",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    fallback_keys: PerDevice<Vec<String>>,
}

type PerDevice<T> = BTreeMap<OwnedUserId, BTreeMap<OwnedDeviceId, T>>;

#[derive(Serialize)]
struct DeviceLists {
    changed: BTreeSet<OwnedUserId>,
    left: [OwnedUserId; 0],
}

impl Body {
    fn is_empty(&self) -> bool {
        self.events.is_empty() && self.ephemeral.is_empty() && self.to_device.is_empty() && self.device_lists.is_none()
    }
}

/// What is new for a service, and how far it comes with it.
pub struct News {
    /// `None` if there is nothing that concerns it.
    body: Option<String>,
    /// The last entry of the log that was looked at.
    events: Option<StreamPos>,
    /// The last change of device lists that was looked at, if any was.
    key_changes: Option<StreamPos>,
    to_device: Vec<(StreamPos, u32, Receiver)>,
    /// Those of their receivers who are the service's alone. Others may read their messages by themselves, too.
    own: BTreeSet<OwnedUserId>,
    invites: Vec<(StreamPos, RoomNid)>,
    /// There may be more of what has no cursor in the log.
    has_more: bool,
}

impl News {
    /// Collects what came after `after` in the log of events, and after the service's own cursor.
    pub fn gather(server: &Server, service: &Running, after: StreamPos) -> Result<Self> {
        let snapshot = server.store.snapshot();
        let registration = &service.registration;
        let mut body = Body::default();
        let mut last = None;
        let mut came = BTreeSet::new();
        for entry in log::next(server, &snapshot, after, EVENTS)? {
            last = Some(entry.pos);
            if !snapshot.contains::<Rooms>(&entry.room)? {
                continue; // it was removed meanwhile
            }
            let view = View::of(&server.rooms, &snapshot, entry.room)?;
            let event = view.event(entry.event)?;
            let is_shown = is_for_clients(&view, entry.event, &event)?;
            if is_shown && !view.has_expired(&event)? && interest::in_event(server, &view, &event, service)? {
                body.events.push(shown(server, &view, &event)?);
                if registration.wants_encryption {
                    came.extend(who_came(&view, &event)?);
                }
            }
        }
        let invites = invites(server, &snapshot, &registration.id, &mut body.events)?;
        let (to_device, messages) = to_device_messages(&snapshot, &registration.id)?;
        body.to_device = messages;
        let receivers = to_device.iter().map(|(.., receiver)| &receiver.user_id);
        let own = receivers.filter(|user| registration.user(user) == Interest::Exclusive).cloned().collect();
        let (mut key_changes, mut has_more) = (None, false);
        if registration.wants_encryption {
            let known = snapshot.get::<Cursors>(&&*registration.id)?.unwrap_or_default().key_changes;
            let mut changed;
            let upto;
            (changed, upto, has_more) = changed_users(server, &snapshot, service, known)?;
            changed.extend(came); // what changed while he was not there was not told
            key_changes = Some(upto).filter(|upto| *upto > known);
            body.device_lists = (!changed.is_empty()).then_some(DeviceLists { changed, left: [] });
            body.add_key_counts(&snapshot, &to_device)?;
        }
        if registration.wants_ephemeral {
            body.ephemeral = service.mailbox.take(EPHEMERAL);
        }
        let body = (!body.is_empty()).then(|| serde_json::to_string(&body)).transpose().map_err(Error::internal)?;
        Ok(Self { body, events: last, key_changes, to_device, own, invites, has_more })
    }

    /// How far the log was read, if there was anything to read.
    pub fn events(&self) -> Option<StreamPos> {
        self.events
    }

    pub fn has_more(&self) -> bool {
        self.has_more
    }

    pub fn has_body(&self) -> bool {
        self.body.is_some()
    }

    /// Nothing to tell and nowhere to go on from.
    pub fn is_nothing(&self) -> bool {
        self.body.is_none()
            && self.events.is_none()
            && self.key_changes.is_none()
            && self.invites.is_empty()
            && self.to_device.is_empty()
    }

    /// Makes it the transaction that the service is told next.
    pub fn write(self, tx: &mut Transaction<'_>, service: &str, reader: &str) -> Result<()> {
        let known = tx.get::<Cursors>(&service)?.unwrap_or_default();
        let mut transaction = known.transaction;
        if let Some(body) = self.body {
            transaction += 1;
            tx.put::<Transactions>(&service, &super::tables::Transaction { number: transaction, body });
        }
        let mut by_device = BTreeMap::<_, Vec<StreamPos>>::new();
        for (pos, number, receiver) in &self.to_device {
            tx.delete::<ToDeviceRows>(&(service, *pos, *number));
            if self.own.contains(&receiver.user_id) {
                by_device.entry((&*receiver.user_id, &*receiver.device_id)).or_default().push(*pos);
            }
        }
        for (pos, room) in &self.invites {
            tx.delete::<Invites>(&(service, *pos, *room));
        }
        for ((user, device), places) in by_device {
            to_device::delete(tx, user, device, places)?;
        }
        if let Some(events) = self.events {
            log::done(tx, reader, events);
        }
        let key_changes = self.key_changes.unwrap_or(known.key_changes);
        tx.put::<Cursors>(&service, &Cursor { transaction, key_changes });
        Ok(())
    }
}

impl Body {
    /// How many keys the devices have left that got messages: those were, or will be, used up by them.
    fn add_key_counts(&mut self, snapshot: &Snapshot<'_>, receivers: &[(StreamPos, u32, Receiver)]) -> Result<()> {
        for (.., Receiver { user_id, device_id }) in receivers {
            if device::get(snapshot, user_id, device_id)?.is_some() {
                self.add_key_counts_of(snapshot, user_id, device_id)?;
            }
        }
        Ok(())
    }

    fn add_key_counts_of(&mut self, snapshot: &Snapshot<'_>, user: &UserId, device: &DeviceId) -> Result<()> {
        let counts = keys::one_time::one_time_key_counts(snapshot, user, device)?;
        self.one_time_keys.entry(user.to_owned()).or_default().insert(device.to_owned(), counts);
        let types = keys::one_time::unused_fallback_key_types(snapshot, user, device)?;
        self.fallback_keys.entry(user.to_owned()).or_default().insert(device.to_owned(), types);
        Ok(())
    }
}

/// An event as services see it.
fn shown(server: &Server, view: &View<'_>, event: &StoredEvent) -> Result<Box<RawValue>> {
    let replaced = event.replaces.map(|nid| view.event(EventNid(nid))).transpose()?;
    let replaced_view = replaced.as_ref().map(StoredEvent::view);
    let now = i64::try_from(server.clock.now_ms()).unwrap_or(i64::MAX);
    let unsigned = Unsigned {
        age: Some(now.saturating_sub_unsigned(event.origin_server_ts)),
        prev_content: replaced_view.as_ref().map(EventView::content).transpose().map_err(unreadable)?,
        replaces_state: replaced.as_ref().map(|replaced| &*replaced.event_id),
        ..Unsigned::default()
    };
    client_form::raw(&event.view(), Some(view.room_id()), &unsigned).map_err(unreadable)
}

type Waiting = Vec<(StreamPos, u32, Receiver)>;

/// Adds the invites that wait for a service to `events`, with what is known of their rooms.
fn invites(
    server: &Server,
    snapshot: &Snapshot<'_>,
    service: &str,
    events: &mut Vec<Box<RawValue>>,
) -> Result<Vec<(StreamPos, RoomNid)>> {
    let mut places = Vec::new();
    for row in snapshot.list::<Invites>(&service).take(EVENTS) {
        let row = row?;
        let (_, pos, room) = row.key()?;
        places.push((pos, room));
        // It goes when it is declined.
        let Some(event) = snapshot.get::<Events>(&(room, row.value))? else { continue };
        let view = View::of(&server.rooms, snapshot, room)?;
        let mut json: Value = serde_json::from_str(shown(server, &view, &event)?.get()).map_err(Error::internal)?;
        json["unsigned"]["invite_room_state"] = json!(show::stripped_state(&view, row.value)?);
        events.push(to_raw_value(&json).map_err(Error::internal)?);
    }
    Ok(places)
}

/// The messages that wait for devices of a service, with their receivers.
fn to_device_messages(snapshot: &Snapshot<'_>, service: &str) -> Result<(Waiting, Vec<Value>)> {
    let (mut waiting, mut messages) = (Vec::new(), Vec::new());
    for row in snapshot.list::<ToDeviceRows>(&service).take(TO_DEVICE) {
        let row: Row<ToDeviceRows> = row?;
        let (_, pos, number) = row.key()?;
        let Receiver { user_id, device_id } = &row.value;
        // Its device may have read it by /sync, or be gone.
        if let Some(message) = snapshot.get::<ToDevice>(&(user_id, device_id, pos, 0))? {
            let mut message: Map<String, Value> = message.parse().map_err(Error::internal)?;
            message.insert("to_user_id".to_owned(), user_id.as_str().into());
            message.insert("to_device_id".to_owned(), device_id.as_str().into());
            messages.push(message.into());
        }
        waiting.push((pos, number, row.value));
    }
    Ok((waiting, messages))
}

/// Who came into a room by an event.
fn who_came(view: &View<'_>, event: &StoredEvent) -> Result<Option<OwnedUserId>> {
    let user = event.state_key.as_deref().filter(|_| event.event_type == "m.room.member");
    let Some(user) = user.and_then(|user| UserId::parse(user).ok()) else { return Ok(None) };
    Ok(comes_in(view, event)?.then_some(user))
}

/// The users whose device lists changed after `after` and concern a service, up to where that is known, and whether there
/// may be more.
fn changed_users(
    server: &Server,
    snapshot: &Snapshot<'_>,
    service: &Running,
    after: StreamPos,
) -> Result<(BTreeSet<OwnedUserId>, StreamPos, bool)> {
    let (mut changed, mut upto, mut count) = (BTreeSet::new(), after, 0);
    if server.store.recent().may_have_changed::<KeyChanges>(Group::of(()), after) {
        for row in snapshot.scan::<KeyChanges>(Scan::from::<KeyChanges>(&after.next(), &())) {
            let row = row?;
            let (pos, user) = row.key()?;
            // One change may be of several users, and is told whole: the next look begins after it.
            if count >= KEY_CHANGES && pos > upto {
                return Ok((changed, upto, true));
            }
            if service.registration.has_user(user) || ephemeral::meets(server, snapshot, user, service)? {
                changed.insert(user.to_owned());
            }
            (upto, count) = (pos, count + 1);
        }
    }
    Ok((changed, upto, false))
}
