//! Account data that changed.
//!
//! <https://spec.matrix.org/v1.19/client-server-api/#client-config>

use std::{collections::HashSet, convert::Infallible};

use super::{
    answer::Context,
    json::{self, Object},
    plain_filter,
};
use crate::{
    error::Result,
    room::{View, event_filter::EventFilter},
    store::{Group, RoomNid, Scan, StreamPos},
    user::{
        account_data::GLOBAL,
        push_rules,
        tables::{AccountData, AccountDataChanges},
    },
};

/// Type and content of an account-data event.
pub type Datum = (String, String);

/// What of the user's account data changed.
#[derive(Debug, Default)]
pub struct Changed {
    pub rooms: HashSet<RoomNid>,
    /// The types of global data.
    pub global: HashSet<String>,
}

impl Changed {
    /// Nothing where everything is told anyway.
    pub fn find(context: &Context<'_>) -> Result<Self> {
        let mut changed = Self::default();
        let Some(since) = context.since else { return Ok(changed) };
        for (room, event_type) in changes(context, since)? {
            if room == GLOBAL {
                changed.global.insert(event_type);
            } else {
                changed.rooms.insert(room);
            }
        }
        Ok(changed)
    }
}

/// Writes the global account data that the client does not have; `false` if there is none.
pub fn write_global(context: &Context<'_>, out: &mut Vec<u8>) -> Result<bool> {
    let mut data = global(context, context.since)?;
    let filter = &context.request.filter.account_data;
    data.retain(|(event_type, _)| plain_filter::allows(filter, event_type, context.user_id()));
    Ok(write(&data, out))
}

/// The global account data that changed after `after`: all, if `None`.
pub fn global(context: &Context<'_>, after: Option<StreamPos>) -> Result<Vec<Datum>> {
    let mut data = read(context, GLOBAL, after)?;
    // What is kept is what the user changed about the server's rules, if anything.
    let is_kept = data.iter().any(|(event_type, _)| event_type == push_rules::EVENT_TYPE);
    if is_kept || after.is_none() {
        data.retain(|(event_type, _)| event_type != push_rules::EVENT_TYPE);
        let rules = push_rules::content(context.snapshot, context.user_id())?;
        data.push((push_rules::EVENT_TYPE.to_owned(), rules));
    }
    Ok(data)
}

/// As [`write_global`], for one room. `after`: what the client has seen of the room.
pub fn write_room(context: &Context<'_>, view: &View<'_>, after: Option<StreamPos>, out: &mut Vec<u8>) -> Result<bool> {
    let filter = &context.request.filter.room.account_data;
    let wanted = EventFilter::new(filter, view.room_id());
    if wanted.is_nothing() {
        return Ok(false);
    }
    let mut data = read(context, view.nid, after)?;
    data.retain(|(event_type, _)| wanted.allows_type(event_type));
    // A client that sees the room for the first time is told that there is nothing, as by other servers.
    Ok(write(&data, out) || after.is_none())
}

/// The account data of a room that changed after `after`: all, if `None`, but what was deleted.
pub fn read(context: &Context<'_>, room: RoomNid, after: Option<StreamPos>) -> Result<Vec<Datum>> {
    let Some(after) = after else {
        let rows = context.snapshot.list::<AccountData>(&(context.user_id(), room));
        let mut data = Vec::new();
        for row in rows {
            let row = row?;
            if !row.value.is_deleted() {
                data.push((row.key()?.2.to_owned(), row.value.content));
            }
        }
        return Ok(data);
    };
    let mut data = Vec::new();
    for (_, event_type) in changes(context, after)?.into_iter().filter(|(changed, _)| *changed == room) {
        if let Some(datum) = context.snapshot.get::<AccountData>(&(context.user_id(), room, &event_type))? {
            data.push((event_type, datum.content));
        }
    }
    Ok(data)
}

/// The rooms and types of what changed, oldest change first.
fn changes(context: &Context<'_>, after: StreamPos) -> Result<Vec<(RoomNid, String)>> {
    if !context.may_have_changed::<AccountDataChanges>(Group::of(context.user_id()), after) {
        return Ok(Vec::new());
    }
    let scan = Scan::from::<AccountDataChanges>(&(context.user_id(), after.next()), &context.user_id());
    let rows = context.snapshot.scan::<AccountDataChanges>(scan);
    rows.map(|row| {
        let row = row?;
        let (_, _, room, event_type) = row.key()?;
        Ok((room, event_type.to_owned()))
    })
    .collect()
}

fn write(data: &[Datum], out: &mut Vec<u8>) -> bool {
    let Ok(()) = json::events(out, data, write_event);
    !data.is_empty()
}

pub fn write_event(out: &mut Vec<u8>, (event_type, content): &Datum) -> Result<(), Infallible> {
    let mut object = Object::begin(out);
    object.member("type", event_type);
    object.raw("content", content);
    object.end();
    Ok(())
}
