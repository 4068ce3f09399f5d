//! One transaction, made from the first rows of a queue.

use std::collections::{BTreeMap, BTreeSet};

use ruma::{
    CanonicalJsonObject, OwnedUserId, ServerName, UserId,
    api::federation::transactions::{edu::Edu, send_transaction_message::v1::Request},
    serde::Raw,
};
use serde_json::{Value, json, value::RawValue};
use tracing::warn;

use super::tables::{self, Item};
use crate::{
    Server,
    error::{Error, Result},
    federation::edu,
    room::View,
    store::{EventNid, RoomNid, Snapshot, StreamPos},
};

/// <https://spec.matrix.org/v1.19/server-server-api/#transactions>
const MAX_PDUS: usize = 50;
const MAX_EDUS: usize = 100;

/// From how many bytes on nothing is added to a transaction. Source: our choice.
const MAX_BYTES: usize = 2 << 20;

/// Of how many users one transaction tells whether they are here. Source: our choice.
const MAX_PRESENCE: usize = 500;

/// How many changes of typing, and how many users whose presence changed, wait for one server: of these there are only
/// names, and all who are here may come back at one moment. Source: our choice.
const MAX_TYPING_WAITING: usize = 500;
const MAX_PRESENCE_WAITING: usize = 50_000;

/// What is in memory only, for one server.
#[derive(Debug, Default)]
pub struct Ephemeral {
    typing: BTreeMap<(RoomNid, OwnedUserId), bool>,
    presence: BTreeSet<OwnedUserId>,
    /// Nothing is taken.
    is_closed: bool,
}

impl Ephemeral {
    pub fn typing(&mut self, room: RoomNid, user: OwnedUserId, is_typing: bool) {
        let key = (room, user);
        let has_place = self.typing.len() < MAX_TYPING_WAITING || self.typing.contains_key(&key);
        if !self.is_closed && has_place {
            self.typing.insert(key, is_typing);
        }
    }

    pub fn presence(&mut self, user: OwnedUserId) {
        if !self.is_closed && self.presence.len() < MAX_PRESENCE_WAITING {
            self.presence.insert(user);
        }
    }

    /// Takes back what was left of what was taken; what has come since is newer.
    pub fn put_back(&mut self, left: Self) {
        let newer = std::mem::replace(self, left);
        for ((room, user), is_typing) in newer.typing {
            self.typing(room, user, is_typing);
        }
        for user in newer.presence {
            self.presence(user);
        }
    }

    /// Forgets everything, and what comes until [`Self::clear`].
    pub fn close(&mut self) {
        *self = Self { is_closed: true, ..Self::default() };
    }

    pub fn clear(&mut self) {
        *self = Self::default();
    }

    fn is_empty(&self) -> bool {
        self.typing.is_empty() && self.presence.is_empty()
    }
}

/// A transaction, and the rows that are done with it.
pub struct Prepared {
    /// `None` if none of the rows has anything left to say.
    pub request: Option<Request>,
    pub rows: Vec<(StreamPos, u32)>,
    /// What there was no room for.
    pub left: Ephemeral,
}

impl Prepared {
    /// Of the first `at_most` rows at most; `None` if there is nothing to send.
    pub fn read(
        server: &Server,
        destination: &ServerName,
        ephemeral: Ephemeral,
        at_most: usize,
    ) -> Result<Option<Self>> {
        let snapshot = server.store.snapshot();
        let mut parts = Parts { server, snapshot: &snapshot, bytes: 0, pdus: Vec::new(), edus: Vec::new() };
        let mut receipts = Vec::new();
        let mut signing_keys = BTreeSet::new();
        let mut rows = Vec::new();
        let mut id = blake3::Hasher::new();
        for row in tables::rows(&snapshot, destination)?.take(at_most) {
            let row = row?;
            let edus = parts.edus.len() + receipts.len() + signing_keys.len();
            if parts.pdus.len() >= MAX_PDUS || edus >= MAX_EDUS - 1 || parts.bytes >= MAX_BYTES {
                break;
            }
            let (_, pos, number) = row.key()?;
            rows.push((pos, number));
            // The place alone is used again if the row was lost with the power, after the other server was told of it.
            let item = postcard::to_stdvec(&row.value).map_err(Error::internal)?;
            id.update(&pos.0.to_be_bytes()).update(&number.to_be_bytes()).update(&item);
            match row.value {
                Item::Event { room, event } => parts.event(room, event)?,
                Item::Receipt { room, user, thread } => receipts.push((room, user, thread)),
                Item::ToDevice { content } => parts.message(destination, content)?,
                Item::Device { user, device, stream_id, prev_id } => {
                    let content = edu::device_lists::update(server, &snapshot, &user, &device, stream_id, prev_id)?;
                    parts.edu("m.device_list_update", &content)?;
                }
                Item::SigningKeys { user } => {
                    signing_keys.insert(user);
                }
            }
        }
        if rows.is_empty() && ephemeral.is_empty() {
            return Ok(None);
        }
        for content in edu::receipts::contents(server, &snapshot, destination, receipts)? {
            parts.edu("m.receipt", &content)?;
        }
        for user in signing_keys {
            if let Some(content) = edu::device_lists::signing_keys(&snapshot, &user)? {
                parts.edu("m.signing_key_update", &content)?;
            }
        }
        let left = parts.ephemeral(ephemeral)?;
        if rows.is_empty() {
            id.update(&server.ephemeral.next().to_be_bytes()); // it is not repeated
        }
        let request = (!parts.pdus.is_empty() || !parts.edus.is_empty()).then(|| parts.into_request(&id));
        Ok(Some(Self { request, rows, left }))
    }
}

struct Parts<'s> {
    server: &'s Server,
    snapshot: &'s Snapshot<'s>,
    bytes: usize,
    pdus: Vec<Box<RawValue>>,
    edus: Vec<Raw<Edu>>,
}

impl Parts<'_> {
    fn event(&mut self, room: RoomNid, event: EventNid) -> Result<()> {
        // A room that was removed has nothing to say any more.
        if !self.snapshot.contains::<crate::room::tables::Rooms>(&room)? {
            return Ok(());
        }
        let view = View::of(&self.server.rooms, self.snapshot, room)?;
        let event = view.event(event)?;
        // It waited for too long.
        if view.has_expired(&event)? {
            return Ok(());
        }
        let json = event.view().federation_json(view.room_id(), view.rules);
        let json = String::from_utf8(json).map_err(Error::internal)?;
        self.bytes += json.len();
        self.pdus.push(RawValue::from_string(json).map_err(Error::internal)?);
        Ok(())
    }

    fn edu(&mut self, edu_type: &str, content: &impl serde::Serialize) -> Result<()> {
        #[derive(serde::Serialize)]
        struct Whole<'a, T> {
            edu_type: &'a str,
            content: &'a T,
        }
        let json = serde_json::value::to_raw_value(&Whole { edu_type, content }).map_err(Error::internal)?;
        self.bytes += json.get().len();
        self.edus.push(Raw::from_json(json));
        Ok(())
    }

    /// What older versions of this server took and nobody can sign is left out: with it nothing would be sent any more.
    fn message(&mut self, destination: &ServerName, content: String) -> Result<()> {
        if let Err(error) = serde_json::from_str::<CanonicalJsonObject>(&content) {
            warn!(%destination, "thrown away: a to-device message that can't be signed: {error}");
            return Ok(());
        }
        self.edu("m.direct_to_device", &RawValue::from_string(content).map_err(Error::internal)?)
    }

    /// As much as there is room for; gives the rest.
    fn ephemeral(&mut self, mut ephemeral: Ephemeral) -> Result<Ephemeral> {
        if !ephemeral.presence.is_empty() && self.edus.len() < MAX_EDUS {
            let users = std::iter::from_fn(|| ephemeral.presence.pop_first()).take(MAX_PRESENCE);
            let presence: Vec<_> = users.map(|user| presence(self.server, &user)).collect();
            self.edu("m.presence", &json!({ "push": presence }))?;
        }
        while self.edus.len() < MAX_EDUS
            && let Some(((room, user), is_typing)) = ephemeral.typing.pop_first()
        {
            let Some(row) = self.snapshot.get::<crate::room::tables::Rooms>(&room)? else { continue };
            let content = json!({ "room_id": row.room_id, "user_id": user, "typing": is_typing });
            self.edu("m.typing", &content)?;
        }
        Ok(ephemeral)
    }

    /// `id` is made from the rows alone: a repetition has the id of the first time, although what was ephemeral is gone
    /// and what a row points to may have changed. Nothing else has it.
    fn into_request(self, id: &blake3::Hasher) -> Request {
        let id = id.finalize().to_hex()[..32].to_owned();
        let mut request = Request::new(id.into(), self.server.owned_name(), self.server.clock.now());
        request.pdus = self.pdus;
        request.edus = self.edus;
        request
    }
}

fn presence(server: &Server, user: &UserId) -> Value {
    let shown = server.presence.get(user);
    let ago = shown.last_active_ms.map_or(0, |at| server.clock.now_ms().saturating_sub(at));
    let mut update = json!({
        "user_id": user,
        "presence": shown.state.to_ruma(),
        "last_active_ago": ago,
        "currently_active": shown.currently_active,
    });
    if let Some(status) = shown.status_msg {
        update["status_msg"] = json!(status);
    }
    update
}
