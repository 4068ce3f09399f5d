//! Which of a user's rooms an answer tells of.

use std::collections::HashSet;

use super::{account_data, answer::Context, state::Log};
use crate::{
    error::Result,
    room::{
        Membership,
        tables::{ReceiptChanges, StateChanges, Timeline, UserRoom},
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
    /// All rooms that the user is joined to, those without news too.
    pub all_joined: Vec<RoomNid>,
}

/// A room with news.
#[derive(Debug)]
pub struct Room {
    pub nid: RoomNid,
    pub row: UserRoom,
    /// What the client has seen of the room; `None` if nothing of the user's present or last stay.
    pub after: Option<StreamPos>,
    /// How its state changed after that; empty if that is nothing.
    pub log: Log,
}

impl Changes {
    pub fn find(context: &Context<'_>) -> Result<Self> {
        let mut changes = Self::default();
        let mut changed_otherwise = account_data::changed_rooms(context)?;
        if let Some(since) = context.ephemeral_since {
            changed_otherwise.extend(context.server.typing.changed_rooms(since));
        }
        let Context { server, snapshot, now, .. } = *context;
        let list = server.user_rooms.get(&server.store, snapshot, now, context.user_id())?;
        for &(nid, row) in &list.rooms {
            changes.look_at(context, nid, row, &changed_otherwise)?;
        }
        Ok(changes)
    }

    fn look_at(
        &mut self,
        context: &Context<'_>,
        nid: RoomNid,
        row: UserRoom,
        changed_otherwise: &HashSet<RoomNid>,
    ) -> Result<()> {
        let is_new = context.since.is_none_or(|since| row.since > since);
        let after = context.since.filter(|since| row.joined_at.is_some_and(|joined| joined <= *since));
        match row.membership {
            Membership::Join => {
                self.all_joined.push(nid);
                let has_news = match after {
                    None => true,
                    Some(_) if context.request.full_state || changed_otherwise.contains(&nid) => true,
                    Some(after) => has_changed(context, nid, after)?,
                };
                if has_news {
                    self.joined.push(Room::read(context, nid, row, after)?);
                }
            }
            Membership::Invite if is_new => self.invited.push(Room::read(context, nid, row, after)?),
            Membership::Knock if is_new => self.knocked.push(Room::read(context, nid, row, after)?),
            Membership::Leave | Membership::Ban if is_new => {
                // NOTSPEC: that a room was left is told even if it was forgotten since, or the user's other devices would
                // never hear of it. It is his own member event and nothing else.
                let asks_for_left = context.request.filter.room.include_leave && !row.is_forgotten;
                if context.since.is_some() || asks_for_left {
                    self.left.push(Room::read(context, nid, row, after)?);
                }
            }
            Membership::Invite | Membership::Knock | Membership::Leave | Membership::Ban => {}
        }
        Ok(())
    }
}

impl Room {
    fn read(context: &Context<'_>, nid: RoomNid, row: UserRoom, after: Option<StreamPos>) -> Result<Self> {
        let log = match after {
            Some(after) if context.may_have_changed::<StateChanges>(Group::of(nid), after) => {
                Log::read(context.snapshot, nid, after, context.now)?
            }
            _ => Log::default(),
        };
        Ok(Self { nid, row, after, log })
    }
}

/// Whether a room has events or receipts after a position.
fn has_changed(context: &Context<'_>, room: RoomNid, after: StreamPos) -> Result<bool> {
    let recent = context.server.store.recent();
    let group = Group::of(room);
    let is_known = (recent.has_changed::<Timeline>(group, after), recent.has_changed::<ReceiptChanges>(group, after));
    drop(recent);
    match is_known {
        (Some(true), _) | (_, Some(true)) => return Ok(true),
        (Some(false), Some(false)) => return Ok(false),
        (None, _) | (_, None) => {}
    }
    let next = after.next();
    let events = Scan::from::<Timeline>(&(room, RoomPos::from(next)), &room);
    if context.snapshot.scan::<Timeline>(events).next().transpose()?.is_some() {
        return Ok(true);
    }
    let receipts = Scan::from::<ReceiptChanges>(&(room, next), &room);
    Ok(context.snapshot.scan::<ReceiptChanges>(receipts).next().transpose()?.is_some())
}
