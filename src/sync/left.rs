//! What is to tell of a room that the user left, was banned from, or is no longer invited to: what came before that,
//! and that it is so.

use super::{
    account_data,
    answer::Context,
    changes::Room,
    json::Object,
    state::{self, Known, Query},
    stream::HandOn,
    timeline::Timeline,
};
use crate::{
    error::{Error, Result},
    room::{
        View,
        event_filter::EventFilter,
        show::Reader,
        timeline::Entry,
        visibility::{Departure, Standing},
    },
    store::{EventNid, RoomPos, StreamPos},
};

pub fn write(
    context: &Context<'_>,
    view: &View<'_>,
    room: &Room,
    out: &mut Vec<u8>,
    hand_on: &mut HandOn<'_>,
) -> Result<bool> {
    let reader = context.reader(view)?;
    let (timeline, state) = match reader.sight.standing {
        Standing::Left(departure) if context.since.is_none_or(|since| departure.pos > since.into()) => {
            end_of_stay(context, &reader, room, departure)?
        }
        _ => last_word(context, view, room)?,
    };
    let mut object = Object::begin(out);
    state::write(context, &reader, &state, None, &mut object, hand_on)?;
    timeline.write(context, &reader, object.key("timeline"))?;
    object.member_if("account_data", |out| account_data::write_room(context, view, room.after, out))?;
    object.end();
    Ok(true)
}

/// The room up to when the user left, and his member event if that changed again since: he may have been banned.
fn end_of_stay(
    context: &Context<'_>,
    reader: &Reader<'_, '_>,
    room: &Room,
    departure: Departure,
) -> Result<(Timeline, Vec<EventNid>)> {
    let view = reader.view();
    let mut timeline = Timeline::read(context, reader, room.after, departure.pos)?;
    let is_whole = room.after.is_none() || context.request.full_state;
    let me = [context.user_id().to_owned()];
    let query = Query {
        request: context.request,
        timeline: &timeline,
        root: departure.state,
        until: StreamPos(u64::try_from(departure.pos.0).unwrap_or_default()),
        known: if is_whole { Known::Nothing } else { Known::Before(&room.log) },
        needed: if is_whole { &me } else { &[] },
        told: None,
    };
    let mut state = state::choose(reader, &query)?;
    if RoomPos::from(room.row.since) > departure.pos {
        add_member_event(context, view, room, &mut timeline, &mut state)?;
    }
    Ok((timeline, state))
}

/// The user's member event alone: he was not in the room when it changed.
fn last_word(context: &Context<'_>, view: &View<'_>, room: &Room) -> Result<(Timeline, Vec<EventNid>)> {
    let mut timeline = Timeline { events: Vec::new(), is_limited: false, start: RoomPos::from(room.row.since) };
    let mut state = Vec::new();
    add_member_event(context, view, room, &mut timeline, &mut state)?;
    Ok((timeline, state))
}

/// Adds the user's member event to the timeline, or to the state where the filter does not let it into the timeline.
fn add_member_event(
    context: &Context<'_>,
    view: &View<'_>,
    room: &Room,
    timeline: &mut Timeline,
    state: &mut Vec<EventNid>,
) -> Result<()> {
    let nid = room.row.event;
    let event = view.event(nid)?;
    let filter = EventFilter::new(&context.request.filter.room.timeline, view.room_id());
    let is_allowed = filter.allows(&event).map_err(|e| Error::internal(e.to_string()))?;
    let is_in_timeline = is_allowed && context.request.timeline_limit() > 0;
    if !is_in_timeline || context.request.state_form.is_after() {
        state.push(nid);
    }
    if is_in_timeline {
        timeline.events.push(Entry { pos: RoomPos(event.room_pos), nid, event });
    }
    Ok(())
}
