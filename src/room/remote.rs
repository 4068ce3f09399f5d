//! Rooms that live on other servers: known by name, perhaps by an invite, and not by their state.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use ruma::{OwnedRoomId, OwnedServerName, RoomVersionId, ServerName};

use super::{
    Membership, View, partial, servers,
    tables::{Members, Origin, Room, RoomIds, Rooms},
};
use crate::{
    Server,
    error::{Error, Result},
    event::{StateRoot, rules},
    store::{RoomNid, Transaction},
};

/// Whether this server takes part in a room: it has somebody there, or nobody has and the room is known from then.
pub fn is_resident(view: &View<'_>) -> Result<bool> {
    if view.current_state() == StateRoot::EMPTY {
        return Ok(false);
    }
    // Who else is there was never known.
    if partial::is_partial(view.snapshot, view.nid)? || partial::was_left(view.snapshot, view.nid)? {
        return Ok(view.is_resident()?);
    }
    let has_member = |origin| {
        let prefix = (view.nid, Membership::Join, origin);
        Ok::<_, crate::store::Error>(view.snapshot.list::<Members>(&prefix).next().transpose()?.is_some())
    };
    Ok(has_member(Origin::Local)? || !has_member(Origin::Remote)?)
}

/// The rooms that users of ours are coming into, with their versions: until the state of one is here, whoever invites
/// somebody there could say another.
#[derive(Clone, Default)]
pub(super) struct Entering(Arc<Mutex<HashMap<OwnedRoomId, RoomVersionId>>>);

/// One of them. It is over when this is dropped.
pub struct Entry {
    room_id: OwnedRoomId,
    all: Entering,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.all.0.lock().remove(&self.room_id);
    }
}

/// Keeps a room of the version of which it is entered. For whoever has its turn among the joins, before he claims it.
pub fn begin_entry(server: &Server, room_id: OwnedRoomId, version: RoomVersionId) -> Entry {
    let all = server.rooms.entering.clone();
    all.0.lock().insert(room_id.clone(), version);
    Entry { room_id, all }
}

/// The number of a room, which gets one if the server did not know it.
///
/// Errors: `M_UNSUPPORTED_ROOM_VERSION`; `M_INVALID_PARAM` if the room is known, or being entered, and of another version
/// than that.
pub async fn claim(server: &Server, room_id: OwnedRoomId, version: RoomVersionId) -> Result<RoomNid> {
    if rules::rules(&version).is_none() {
        let kind = ruma::api::error::ErrorKind::UnsupportedRoomVersion;
        return Err(Error::refused(kind, format!("This server knows no rooms of version {version}")));
    }
    let (new, entering) = (server.rooms.allot(), server.rooms.entering.clone());
    let claim = move |tx: &mut Transaction<'_>| {
        let found = tx.get::<RoomIds>(&&*room_id)?;
        let nid = found.unwrap_or(new);
        let row = tx.get::<Rooms>(&nid)?;
        let is_of_version = row.as_ref().is_some_and(|row| row.version == version);
        let is_known = row.is_some_and(|row| row.current_state != StateRoot::EMPTY);
        let is_entered_as_another = entering.0.lock().get(&room_id).is_some_and(|entered| *entered != version);
        if !is_of_version && (is_known || is_entered_as_another) {
            return Err(Error::invalid_param("The room is not of that version"));
        }
        if !is_of_version {
            tx.put::<RoomIds>(&&*room_id, &nid);
            tx.put::<Rooms>(&nid, &Room::unknown(room_id, version));
        }
        Ok::<_, Error>(nid)
    };
    server.store.commit(claim).await
}

/// The servers with joined members, those of the likeliest to know the room first: of the users with power.
pub fn servers(view: &View<'_>, ours: &ServerName) -> Result<Vec<OwnedServerName>> {
    let mut servers: Vec<OwnedServerName> = Vec::new();
    let mut add = |name: &ServerName| {
        if name != ours && !servers.iter().any(|known| known == name) {
            servers.push(name.to_owned());
        }
    };
    if view.current_state() != StateRoot::EMPTY {
        let levels = super::power_levels(view)?;
        let mut privileged: Vec<_> = levels.users.iter().collect();
        privileged.sort_by_key(|(_, level)| std::cmp::Reverse(**level));
        let creators = levels.rules.privileged_creators.iter().flatten();
        for user in creators.chain(privileged.into_iter().map(|(user, _)| user)).take(100) {
            if view.membership(view.current_state(), user)? == Some(Membership::Join) {
                add(user.server_name());
            }
        }
    }
    servers::servers_in(view.snapshot, view.nid)?.iter().for_each(|server| add(server));
    Ok(servers)
}
