//! What stays when a room that users of ours are in is replaced: for each who goes along, push rules, tags, and that it is a
//! direct chat; once, our aliases and the place in our directory. A reader of the log does it, whoever replaced the room and
//! wherever.

use std::{collections::BTreeSet, sync::Arc};

use ruma::{
    OwnedUserId, UserId,
    events::{
        StateEventType,
        room::{create::RoomCreateEventContent, tombstone::RoomTombstoneEventContent},
    },
};

use crate::{
    Server,
    error::{Error, Result},
    log::{self, Entry},
    room::{
        View,
        tables::{RoomIds, UserRooms},
        visibility::{comes_in, is_first},
    },
    store::{RoomNid, Transaction},
    user::{direct, push_rules, tags},
};

const READER: &str = "room_upgrades";
const AT_ONCE: usize = 200;

/// Follows the log until the server ends.
pub async fn run(server: Arc<Server>) {
    log::follow(server, READER, AT_ONCE, work).await;
}

async fn work(server: Arc<Server>, entries: Vec<Entry>) -> Result<()> {
    let Some(last) = entries.last().map(|entry| entry.pos) else { return Ok(()) };
    let (moves, replaced) = server.blocking(move |server| moves(server, &entries)).await?;
    for moved in &moves {
        moved.carry_over(&server).await?;
    }
    let done = move |tx: &mut Transaction<'_>| {
        for (from, to) in &replaced {
            super::move_names(tx, *from, *to)?;
        }
        log::done(tx, READER, last);
        Ok::<_, Error>(())
    };
    server.store.commit(done).await
}

/// A user who goes from one room to the one that replaced it.
struct Move {
    user_id: OwnedUserId,
    from: RoomNid,
    to: RoomNid,
}

impl Move {
    /// Doing it again changes nothing.
    async fn carry_over(&self, server: &Arc<Server>) -> Result<()> {
        let Self { user_id, from, to } = self;
        let snapshot_ids = || -> Result<_> {
            let snapshot = server.store.snapshot();
            let id = |room| Ok::<_, Error>(View::of(&server.rooms, &snapshot, room)?.room.room_id);
            Ok((id(*from)?, id(*to)?))
        };
        let (old, new) = snapshot_ids()?;
        let steps = [
            push_rules::copy_of_room(server, user_id, &old, &new).await,
            tags::copy(server, user_id, *from, *to).await,
            direct::copy(server, user_id, &old, &new).await,
        ];
        for step in steps {
            match step {
                // Who keeps as much as he may gets no more.
                Ok(()) | Err(Error::Refused { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Old rooms, each with the one that replaced it.
type Replaced = BTreeSet<(RoomNid, RoomNid)>;

/// The users who go along, and the rooms whose names do, each with the one that replaced it: when that is said, or when this
/// server comes into the new room. Names that somebody gives the old room later are that one's.
fn moves(server: &Server, entries: &[Entry]) -> Result<(Vec<Move>, Replaced)> {
    let snapshot = server.store.snapshot();
    let (mut moves, mut replaced) = (Vec::new(), Replaced::new());
    for entry in entries {
        let view = View::of(&server.rooms, &snapshot, entry.room)?;
        let event = view.event(entry.event)?;
        match (event.event_type.as_str(), event.state_key.as_deref()) {
            ("m.room.member", Some(user)) => {
                let Ok(user) = <&UserId>::try_from(user) else { continue };
                // Whoever only changes his profile has gone along before.
                if !server.is_ours(user) || !comes_in(&view, &event)? {
                    continue;
                }
                let Some(old) = replaced_by(server, &view)? else { continue };
                if was_in(&old, user)? {
                    moves.push(Move { user_id: user.to_owned(), from: old.nid, to: view.nid });
                }
                if is_first(&view, user, entry.pos)? {
                    replaced.insert((old.nid, view.nid));
                }
            }
            ("m.room.tombstone", Some("")) => {
                let Some(new) = replacement(server, &view)? else { continue };
                if replaced_by(server, &new)?.is_none_or(|old| old.nid != view.nid) {
                    continue;
                }
                // Those of ours who are in the new room already: at least whoever made it. If nobody is, the first who comes
                // there brings the names.
                for user_id in new.local_members()? {
                    replaced.insert((view.nid, new.nid));
                    if was_in(&view, &user_id)? {
                        moves.push(Move { user_id, from: view.nid, to: new.nid });
                    }
                }
            }
            _ => {}
        }
    }
    Ok((moves, replaced))
}

/// The room that `new` replaced: each of the two names the other.
fn replaced_by<'s>(server: &'s Server, new: &View<'s>) -> Result<Option<View<'s>>> {
    let Some(old) = predecessor(server, new)? else { return Ok(None) };
    let is_replaced = replacement(server, &old)?.is_some_and(|named| named.nid == new.nid);
    Ok(is_replaced.then_some(old))
}

/// The room that a room says it replaces. Anybody can say that, so [`replacement`] must agree.
fn predecessor<'s>(server: &'s Server, new: &View<'s>) -> Result<Option<View<'s>>> {
    let create: Option<RoomCreateEventContent> =
        new.state_content(new.current_state(), &StateEventType::RoomCreate, "")?;
    let Some(named) = create.and_then(|create| create.predecessor) else { return Ok(None) };
    Ok(View::open(&server.rooms, new.snapshot, &named.room_id)?)
}

/// The room that a closed room names as its replacement, if we know it.
fn replacement<'s>(server: &'s Server, old: &View<'s>) -> Result<Option<View<'s>>> {
    let tombstone: Option<RoomTombstoneEventContent> =
        old.state_content(old.current_state(), &StateEventType::RoomTombstone, "")?;
    let Some(named) = tombstone.map(|tombstone| tombstone.replacement_room) else { return Ok(None) };
    let Some(room) = old.snapshot.get::<RoomIds>(&&*named)? else { return Ok(None) };
    Ok(Some(View::of(&server.rooms, old.snapshot, room)?))
}

fn was_in(old: &View<'_>, user: &UserId) -> Result<bool> {
    let row = old.snapshot.get::<UserRooms>(&(user, old.nid))?;
    Ok(row.is_some_and(|row| row.joined_at.is_some()))
}
