//! Which of a user's rooms an answer tells of.

use std::{any::TypeId, sync::Arc};

use super::{account_data, answer::Context, state::Log, user_rooms::UserRoomList};
use crate::{
    error::Result,
    room::{
        Membership,
        partial::{self, tables::Completions},
        tables::{ReceiptChanges, StateChanges, Timeline, UserRoom, UserRooms},
    },
    store::{Group, RoomNid, RoomPos, Scan, StreamPos},
};

/// The rooms with news, by the user's membership.
#[derive(Debug, Default)]
pub struct Changes {
    pub joined: Vec<Room>,
    pub invited: Vec<Room>,
    pub knocked: Vec<Room>,
    /// Left, or banned from.
    pub left: Vec<Room>,
    /// All of the user's rooms, those without news too.
    all: Arc<UserRoomList>,
}

/// A room with news.
#[derive(Debug)]
pub struct Room {
    pub nid: RoomNid,
    pub row: UserRoom,
    /// What the client has seen of the room; `None` if nothing of the user's present or last stay.
    pub after: Option<StreamPos>,
    /// How its state changed after that; empty if that is nothing. Without the members who were there all the time and
    /// became known only then.
    pub log: Log,
    /// All of its members became known since.
    pub is_completed: bool,
}

impl Changes {
    pub fn find(context: &Context<'_>) -> Result<Self> {
        let Context { server, snapshot, .. } = *context;
        let all = server.user_rooms.get(&server.store, snapshot, context.user_id())?;
        let mut changes = Self { all: Arc::clone(&all), ..Self::default() };
        let mut changed_otherwise = account_data::Changed::find(context)?.rooms;
        if let Some(since) = context.ephemeral_since {
            changed_otherwise.extend(context.server.typing.changed_rooms(since));
        }
        let rooms = match changed_rooms(context, &all) {
            Some(groups) => all.of_groups(groups.into_iter().chain(changed_otherwise.iter().map(Group::of))),
            None => all.rooms.clone(),
        };
        for (&(nid, row), news) in std::iter::zip(&rooms, known_news(context, &rooms)) {
            let news = if changed_otherwise.contains(&nid) { Some(true) } else { news };
            changes.look_at(context, nid, row, news)?;
        }
        Ok(changes)
    }

    /// All rooms that the user is joined to, those without news too.
    pub fn all_joined(&self) -> impl Iterator<Item = RoomNid> {
        self.all.rooms.iter().filter(|(_, row)| row.membership == Membership::Join).map(|(nid, _)| *nid)
    }

    /// `news`: whether the room has any, `None` if that must be looked up.
    fn look_at(&mut self, context: &Context<'_>, nid: RoomNid, row: UserRoom, news: Option<bool>) -> Result<()> {
        let is_new = context.since.is_none_or(|since| row.since > since);
        let mut after = context.since.filter(|since| row.joined_at.is_some_and(|joined| joined <= *since));
        match row.membership {
            Membership::Join => {
                let completed = after.map(|after| completed_after(context, nid, after)).transpose()?.flatten();
                if !context.tells_partial && completed.is_some() {
                    after = None; // the client was told nothing of it
                }
                let has_news = match (after, news) {
                    (None, _) => true,
                    (Some(_), _) if completed.is_some() => true,
                    (Some(_), _) if context.request.full_state => true,
                    (Some(_), Some(news)) => news,
                    (Some(after), None) => has_changed(context, nid, after)?,
                };
                if has_news && (context.tells_partial || !partial::is_partial(context.snapshot, nid)?) {
                    self.joined.push(Room::read(context, nid, row, after, completed)?);
                }
            }
            Membership::Invite if is_new => self.invited.push(Room::read(context, nid, row, after, None)?),
            Membership::Knock if is_new => self.knocked.push(Room::read(context, nid, row, after, None)?),
            Membership::Leave | Membership::Ban if is_new => {
                // NOTSPEC: that a room was left is told even if it was forgotten since, or the user's other devices would
                // never hear of it. It is his own member event and nothing else.
                let asks_for_left = context.request.filter.room.include_leave && !row.is_forgotten;
                if context.since.is_some() || asks_for_left {
                    self.left.push(Room::read(context, nid, row, after, None)?);
                }
            }
            Membership::Invite | Membership::Knock | Membership::Leave | Membership::Ban => {}
        }
        Ok(())
    }
}

impl Room {
    fn read(
        context: &Context<'_>,
        nid: RoomNid,
        row: UserRoom,
        after: Option<StreamPos>,
        completed: Option<StreamPos>,
    ) -> Result<Self> {
        let mut log = match after {
            Some(after) if context.may_have_changed::<StateChanges>(Group::of(nid), after) => {
                Log::read(context.snapshot, nid, after, context.now)?
            }
            _ => Log::default(),
        };
        if let Some(completed) = completed {
            log.forget_members_known_since(&context.view(nid)?, completed, [])?;
        }
        Ok(Self { nid, row, after, log, is_completed: completed.is_some() })
    }
}

/// The rooms in which anything changed that the client could see, and others; `None` if all of the user's rooms have to be looked at.
/// So the cost of an answer does not depend on how many these are.
fn changed_rooms(context: &Context<'_>, all: &UserRoomList) -> Option<Vec<Group>> {
    let since = context.since.filter(|_| !context.request.full_state)?;
    let recent = context.server.store.recent();
    if recent.may_have_changed::<UserRooms>(Group::of(context.user_id()), since) {
        return None;
    }
    let seen = [TypeId::of::<Timeline>(), TypeId::of::<ReceiptChanges>(), TypeId::of::<Completions>()];
    recent.changed_after(&seen, since, all.rooms.len())
}

/// When the state of a room became whole, if that was after a position.
pub fn completed_after(context: &Context<'_>, room: RoomNid, after: StreamPos) -> Result<Option<StreamPos>> {
    if !context.may_have_changed::<Completions>(Group::of(room), after) {
        return Ok(None);
    }
    Ok(partial::completed_at(context.snapshot, room)?.filter(|completed| *completed > after))
}

/// Whether each room has events or receipts that the client has not seen; `None` where memory does not tell.
fn known_news(context: &Context<'_>, rooms: &[(RoomNid, UserRoom)]) -> Vec<Option<bool>> {
    let Some(since) = context.since else { return vec![Some(true); rooms.len()] };
    let recent = context.server.store.recent();
    let known = |(room, _): &(RoomNid, UserRoom)| {
        let group = Group::of(room);
        let events = recent.has_changed::<Timeline>(group, since)?;
        Some(events || recent.has_changed::<ReceiptChanges>(group, since)?)
    };
    rooms.iter().map(known).collect()
}

/// Whether a room has events or receipts after a position.
fn has_changed(context: &Context<'_>, room: RoomNid, after: StreamPos) -> Result<bool> {
    Ok(has_events(context, room, after)? || has_receipts(context, room, after)?)
}

/// Whether a room has events after a position.
pub fn has_events(context: &Context<'_>, room: RoomNid, after: StreamPos) -> Result<bool> {
    if let Some(known) = context.has_changed::<Timeline>(Group::of(room), after) {
        return Ok(known);
    }
    let events = Scan::from::<Timeline>(&(room, RoomPos::from(after.next())), &room);
    Ok(context.snapshot.scan::<Timeline>(events).next().transpose()?.is_some())
}

/// Whether a room has receipts after a position.
pub fn has_receipts(context: &Context<'_>, room: RoomNid, after: StreamPos) -> Result<bool> {
    if let Some(known) = context.has_changed::<ReceiptChanges>(Group::of(room), after) {
        return Ok(known);
    }
    let receipts = Scan::from::<ReceiptChanges>(&(room, after.next()), &room);
    Ok(context.snapshot.scan::<ReceiptChanges>(receipts).next().transpose()?.is_some())
}
