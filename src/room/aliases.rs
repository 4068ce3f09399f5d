//! Names of rooms that people can remember.

use std::{collections::BTreeSet, sync::Arc};

use futures_util::{StreamExt, stream};
use ruma::{
    OwnedRoomAliasId, OwnedRoomId, OwnedServerName, OwnedUserId, RoomAliasId, RoomId, UserId,
    api::error::ErrorKind,
    events::{
        StateEventType,
        room::history_visibility::{HistoryVisibility, RoomHistoryVisibilityEventContent},
    },
};
use serde::{Deserialize, Serialize};
use serde_json::{
    Map, Value,
    value::{RawValue, to_raw_value},
};
use tracing::debug;

use super::{
    Membership, View,
    append::{self, Step},
    membership, power_levels, servers, tables,
};
use crate::{
    Server,
    error::{Error, Result},
    event::Draft,
    federation::query,
    store::{self, Family, Group, Record, RoomNid, Snapshot, Table, Transaction},
    user::account,
};

/// How many aliases of other servers one event can bring into a room. Source: our choice.
const MAX_ELSEWHERE: usize = 10;

/// The aliases of this server.
pub struct Aliases;
impl Table for Aliases {
    const NAME: &'static str = "aliases";
    const FAMILY: Family = Family::Lookup;
    const ID: u8 = 4;
    type Key<'a> = &'a RoomAliasId;
    type Value = Alias;
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alias {
    pub room: RoomNid,
    /// Who made it, and may remove it.
    pub creator: OwnedUserId,
}

impl Record for Alias {}

/// The rows of `Aliases` by room.
pub struct RoomAliases;
impl Table for RoomAliases {
    const NAME: &'static str = "room_aliases";
    const FAMILY: Family = Family::Room;
    const ID: u8 = 14;
    type Key<'a> = (RoomNid, &'a RoomAliasId);
    type Value = ();

    fn group(&(room, _): &Self::Key<'_>) -> Option<Group> {
        Some(Group::of(room))
    }
}

/// An alias of this server for a local part that a client gives. Error: `M_INVALID_PARAM`.
///
/// <https://spec.matrix.org/v1.19/appendices/#room-aliases>
pub fn with_localpart(server: &Server, localpart: &str) -> Result<OwnedRoomAliasId> {
    if localpart.is_empty() || localpart.contains(':') {
        return Err(Error::invalid_param("The local part of an alias is not empty and has no colon in it"));
    }
    parse(&format!("#{localpart}:{}", server.name()))
}

fn parse(text: &str) -> Result<OwnedRoomAliasId> {
    let alias = RoomAliasId::parse(text).map_err(|e| Error::invalid_param(format!("{text} is no room alias: {e}")))?;
    check_length(&alias)?;
    Ok(alias)
}

fn check_length(alias: &RoomAliasId) -> Result<()> {
    match alias.as_str().len() <= ruma::ID_MAX_BYTES && !alias.as_str().contains('\0') {
        true => Ok(()),
        false => Err(Error::invalid_param(format!(
            "A room alias has at most {} bytes, none of them zero",
            ruma::ID_MAX_BYTES
        ))),
    }
}

pub fn resolve(snapshot: &Snapshot<'_>, alias: &RoomAliasId) -> store::Result<Option<Alias>> {
    snapshot.get::<Aliases>(&alias)
}

/// Gives the alias to a room, or answers `false` if it is taken.
pub(super) fn claim(tx: &mut Transaction<'_>, alias: &RoomAliasId, room: RoomNid, creator: &UserId) -> Result<bool> {
    if tx.get::<Aliases>(&alias)?.is_some() {
        return Ok(false);
    }
    tx.put::<Aliases>(&alias, &Alias { room, creator: creator.to_owned() });
    tx.put::<RoomAliases>(&(room, alias), &());
    Ok(true)
}

/// Gives all aliases of one room to another; their creators stay.
pub(super) fn move_all(tx: &mut Transaction<'_>, from: RoomNid, to: RoomNid) -> store::Result<()> {
    let rows = tx.before().list::<RoomAliases>(&from);
    let aliases: Vec<_> = rows.map(|row| Ok(row?.key()?.1.to_owned())).collect::<store::Result<_>>()?;
    for alias in aliases {
        let Some(found) = tx.get::<Aliases>(&&*alias)? else { continue };
        tx.put::<Aliases>(&&*alias, &Alias { room: to, ..found });
        tx.delete::<RoomAliases>(&(from, &alias));
        tx.put::<RoomAliases>(&(to, &alias), &());
    }
    Ok(())
}

/// The id of the room with that alias and the servers by which it can be joined, ours first. Error: `M_NOT_FOUND`.
///
/// <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3directoryroomroomalias>
pub fn room_of(server: &Server, alias: &RoomAliasId) -> Result<(OwnedRoomId, Vec<OwnedServerName>)> {
    let snapshot = server.store.snapshot();
    let found = resolve(&snapshot, alias)?.ok_or_else(|| not_found(alias))?;
    let view = View::of(&server.rooms, &snapshot, found.room)?;
    let others = servers::servers_in(&snapshot, view.nid)?.into_iter().filter(|other| other != server.name());
    let servers = std::iter::once(server.owned_name()).chain(others).collect();
    Ok((view.room_id().to_owned(), servers))
}

/// As [`room_of`], also for aliases of other servers, which are asked.
pub async fn room_of_any(server: &Arc<Server>, alias: &RoomAliasId) -> Result<(OwnedRoomId, Vec<OwnedServerName>)> {
    if alias.server_name() != server.name() {
        return query::alias(server, alias).await;
    }
    let alias = alias.to_owned();
    server.blocking(move |server| room_of(server, &alias)).await
}

fn not_found(alias: &RoomAliasId) -> Error {
    Error::not_found(format!("Room alias {alias} not found"))
}

/// Makes an alias for a room that `user` is in, or for any room, if an application service asks as `by_service`.
///
/// Errors: `M_INVALID_PARAM` if it can't be an alias of ours, `M_FORBIDDEN`, `M_UNKNOWN` (409) if it is taken.
///
/// <https://spec.matrix.org/v1.19/client-server-api/#put_matrixclientv3directoryroomroomalias>
pub async fn create(
    server: &Arc<Server>,
    user: &UserId,
    by_service: bool,
    alias: OwnedRoomAliasId,
    room_id: &RoomId,
) -> Result<()> {
    if alias.server_name() != server.name() {
        return Err(Error::invalid_param(format!("Aliases of this server end in :{}", server.name())));
    }
    check_length(&alias)?;
    let room = membership::known(server, room_id)?;
    let user = user.to_owned();
    let write = move |tx: &mut Transaction<'_>| {
        let membership = tx.get::<tables::UserRooms>(&(&user, room))?.map(|row| row.membership);
        if !by_service && membership != Some(Membership::Join) {
            return Err(Error::forbidden("You are not in this room"));
        }
        if !claim(tx, &alias, room, &user)? {
            let taken = Error::refused(ErrorKind::Unknown, format!("Room alias {alias} already exists"));
            return Err(taken.with_status(http::StatusCode::CONFLICT));
        }
        Ok(())
    };
    server.store.commit(write).await
}

/// Removes an alias. Its room's `m.room.canonical_alias` loses it too, if `user` may change that.
///
/// Errors: `M_NOT_FOUND`; `M_FORBIDDEN` for whoever neither made it, nor may set the canonical alias of the room, nor
/// administers the server.
///
/// <https://spec.matrix.org/v1.19/client-server-api/#delete_matrixclientv3directoryroomroomalias>
pub async fn remove(server: &Arc<Server>, user: &UserId, alias: OwnedRoomAliasId) -> Result<()> {
    let (asked, by) = (alias.clone(), user.to_owned());
    let (room, may_change_state) = server
        .blocking(move |server| {
            let snapshot = server.store.snapshot();
            let Alias { room, creator } = resolve(&snapshot, &asked)?.ok_or_else(|| not_found(&asked))?;
            let may_change_state = may_set_canonical(&View::of(&server.rooms, &snapshot, room)?, &by)?;
            if creator != by && !may_change_state && !account::is_admin(&snapshot, &by)? {
                return Err(Error::forbidden("You may not remove this alias"));
            }
            Ok((room, may_change_state))
        })
        .await?;
    let removed = alias.clone();
    let remove = move |tx: &mut Transaction<'_>| {
        // Somebody else may have been faster, and made one of that name for another room.
        match tx.get::<Aliases>(&&*removed)? {
            Some(found) if found.room == room => {
                tx.delete::<Aliases>(&&*removed);
                tx.delete::<RoomAliases>(&(room, &removed));
                Ok(())
            }
            _ => Err(not_found(&removed)),
        }
    };
    let (server, user) = (Arc::clone(server), user.to_owned());
    // The room must lose it too, even if the client hangs up: the alias is not found a second time.
    Server::detached(async move {
        server.store.commit(remove).await?;
        if may_change_state { remove_from_state(&server, &user, room, alias).await } else { Ok(()) }
    })
    .await
}

/// Whether `user` decides under which name the room is known.
pub(super) fn may_set_canonical(view: &View<'_>, user: &UserId) -> Result<bool> {
    let is_joined = view.membership(view.current_state(), user)? == Some(Membership::Join);
    Ok(is_joined && power_levels(view)?.user_can_send_state(user, StateEventType::RoomCanonicalAlias))
}

/// Takes `alias` out of the room's `m.room.canonical_alias`, if it is there.
async fn remove_from_state(server: &Arc<Server>, user: &UserId, room: RoomNid, alias: OwnedRoomAliasId) -> Result<()> {
    let asked = alias.clone();
    let names_it = move |server: &Server| {
        let snapshot = server.store.snapshot();
        Ok(canonical_without(&View::of(&server.rooms, &snapshot, room)?, &asked)?.is_some())
    };
    if !server.blocking(names_it).await? {
        return Ok(());
    }
    let removed = append::act(server, room, user, None, move |_, view| match canonical_without(view, &alias)? {
        Some(content) => Ok(Step::Send(Draft::state(StateEventType::RoomCanonicalAlias, "", content))),
        _ => Err(Error::forbidden("The canonical alias was changed meanwhile")),
    });
    match removed.await {
        // The alias itself is gone, which is what was asked for.
        Ok(_) | Err(Error::Refused { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// The content of the room's `m.room.canonical_alias` without `alias`; `None` if it does not have it.
fn canonical_without(view: &View<'_>, alias: &RoomAliasId) -> Result<Option<Box<RawValue>>> {
    let content: Option<Map<String, Value>> =
        view.state_content(view.current_state(), &StateEventType::RoomCanonicalAlias, "")?;
    let Some(mut content) = content else { return Ok(None) };
    if !aliases_in(&content).is_ok_and(|aliases| aliases.contains(alias.as_str())) {
        return Ok(None);
    }
    if content.get("alias").is_some_and(|canonical| canonical == alias.as_str()) {
        content.remove("alias");
    }
    if let Some(Value::Array(others)) = content.get_mut("alt_aliases") {
        others.retain(|other| other != alias.as_str());
        if others.is_empty() {
            content.remove("alt_aliases");
        }
    }
    Ok(Some(to_raw_value(&content).expect("a JSON object serializes")))
}

/// The aliases of a room that this server has. Error: `M_FORBIDDEN` for whoever is not in it, unless the whole world
/// may read it.
///
/// <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3roomsroomidaliases>
pub fn of_room(server: &Server, user: &UserId, room_id: &RoomId) -> Result<Vec<OwnedRoomAliasId>> {
    let snapshot = server.store.snapshot();
    let forbidden = || Error::forbidden("You are not in this room");
    let view = View::open(&server.rooms, &snapshot, room_id)?.ok_or_else(forbidden)?;
    let is_joined = view.membership(view.current_state(), user)? == Some(Membership::Join);
    if !is_joined && !is_world_readable(&view)? {
        return Err(forbidden());
    }
    let rows = snapshot.list::<RoomAliases>(&view.nid);
    Ok(rows.map(|row| row.and_then(|row| Ok(row.key()?.1.to_owned()))).collect::<store::Result<_>>()?)
}

pub fn is_world_readable(view: &View<'_>) -> Result<bool> {
    let content: Option<RoomHistoryVisibilityEventContent> =
        view.state_content(view.current_state(), &StateEventType::RoomHistoryVisibility, "")?;
    Ok(content.is_some_and(|content| content.history_visibility == HistoryVisibility::WorldReadable))
}

/// The aliases of other servers that `content` brings into the room's `m.room.canonical_alias`, as far as those servers say
/// that they are the room's. For whoever may not set it nobody is asked.
///
/// Errors: as [`check_canonical`].
pub(super) async fn confirmed_elsewhere(
    server: &Arc<Server>,
    sender: &UserId,
    room: RoomNid,
    content: &RawValue,
) -> Result<BTreeSet<OwnedRoomAliasId>> {
    let (sender, content) = (sender.to_owned(), content.to_owned());
    let to_ask = move |server: &Server| {
        let snapshot = server.store.snapshot();
        let view = View::of(&server.rooms, &snapshot, room)?;
        let mut aliases = match may_set_canonical(&view, &sender)? {
            true => brought_in(&view, &content)?,
            false => Vec::new(),
        };
        aliases.retain(|alias| alias.server_name() != server.name());
        aliases.truncate(MAX_ELSEWHERE);
        Ok((view.room_id().to_owned(), aliases))
    };
    let (room_id, aliases) = server.blocking(to_ask).await?;
    let room_id = &room_id;
    let ask = |alias: OwnedRoomAliasId| async move {
        match query::alias(server, &alias).await {
            Ok((found, _)) => (found == *room_id).then_some(alias),
            Err(error) => {
                debug!(%alias, ?error, "nobody says of which room this is an alias");
                None
            }
        }
    };
    let confirmed: Vec<_> = stream::iter(aliases).map(ask).buffer_unordered(MAX_ELSEWHERE).collect().await;
    Ok(confirmed.into_iter().flatten().collect())
}

/// Whether the aliases that an `m.room.canonical_alias` event brings in are aliases, and of this room. `elsewhere`: those of
/// other servers that are.
///
/// Errors: `M_INVALID_PARAM`, `M_BAD_ALIAS`.
pub(super) fn check_canonical(
    view: &View<'_>,
    content: &RawValue,
    elsewhere: &BTreeSet<OwnedRoomAliasId>,
) -> Result<()> {
    for alias in brought_in(view, content)? {
        let is_its = match resolve(view.snapshot, &alias)? {
            Some(found) => found.room == view.nid,
            None => elsewhere.contains(&alias),
        };
        if !is_its {
            return Err(Error::refused(ErrorKind::BadAlias, format!("{alias} is no alias of this room")));
        }
    }
    Ok(())
}

/// The aliases that `content` would bring into the room's `m.room.canonical_alias`.
fn brought_in(view: &View<'_>, content: &RawValue) -> Result<Vec<OwnedRoomAliasId>> {
    let state_type = StateEventType::RoomCanonicalAlias;
    let before: Option<Map<String, Value>> = view.state_content(view.current_state(), &state_type, "")?;
    // Whatever an old event holds is not asked about again.
    let before = before.and_then(|content| aliases_in(&content).ok()).unwrap_or_default();
    let content = serde_json::from_str(content.get()).map_err(|_| Error::bad_json("The content is no JSON object"))?;
    aliases_in(&content)?.difference(&before).map(|alias| parse(alias)).collect()
}

/// The canonical and the alternative aliases in the content of an `m.room.canonical_alias` event.
fn aliases_in(content: &Map<String, Value>) -> Result<BTreeSet<String>> {
    let wrong = || Error::invalid_param("`alias` is a text and `alt_aliases` a list of texts");
    let mut aliases = BTreeSet::new();
    match content.get("alias") {
        None | Some(Value::Null) => {}
        Some(Value::String(alias)) if alias.is_empty() => {}
        Some(Value::String(alias)) => drop(aliases.insert(alias.clone())),
        Some(_) => return Err(wrong()),
    }
    match content.get("alt_aliases") {
        None | Some(Value::Null) => {}
        Some(Value::Array(list)) => {
            for alias in list {
                aliases.insert(alias.as_str().ok_or_else(wrong)?.to_owned());
            }
        }
        Some(_) => return Err(wrong()),
    }
    Ok(aliases)
}
