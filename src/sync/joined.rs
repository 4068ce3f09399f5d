//! What is new in a room that the user is joined to.

use super::{
    account_data,
    answer::Context,
    changes::Room,
    ephemeral,
    json::Object,
    state::{self, Known, Query},
    sticky,
    stream::HandOn,
    summary::Summary,
    timeline::Timeline,
};
use crate::{
    error::{Error, Result},
    push::unread,
    room::View,
};

/// The name of sticky events while they are a proposal, MSC4354.
const STICKY: &str = "msc4354_sticky";

pub fn write(
    context: &Context<'_>,
    view: &View<'_>,
    room: &Room,
    out: &mut Vec<u8>,
    hand_on: &mut HandOn<'_>,
) -> Result<bool> {
    let reader = context.reader(view)?;
    let is_whole = room.after.is_none() || context.request.full_state;
    let timeline = Timeline::read(context, &reader, room.after, context.now.into())?;
    // A member's new name alone changes nothing that a summary has; that of the room decides whether it has heroes.
    let has_other_summary = is_whole
        || room.is_completed
        || room.log.changes_name(view)?
        || !room.log.is_empty() && room.log.members(view)?.iter().any(|member| member.old != member.new);
    let summary = has_other_summary.then(|| Summary::work_out(view, context.user_id())).transpose()?;
    let mut needed = summary.iter().flat_map(|summary| summary.heroes.iter().flatten().cloned()).collect::<Vec<_>>();
    if is_whole {
        needed.push(context.user_id().to_owned());
    }
    let query = Query {
        request: context.request,
        timeline: &timeline,
        root: view.current_state(),
        until: context.now,
        known: if is_whole { Known::Nothing } else { Known::Before(&room.log) },
        needed: &needed,
        told: context.server.told_members.of(context, view.nid, is_whole),
    };
    let state = state::choose(&reader, &query)?;

    let mut object = Object::begin(out);
    let mut has_news = is_whole || !timeline.events.is_empty() || timeline.is_limited;
    if let Some(summary) = summary {
        object.member("summary", &summary);
        has_news = true;
    }
    has_news |= state::write(context, &reader, &state, query.told.as_ref(), &mut object, hand_on)?;
    timeline.write(context, &reader, object.key("timeline"))?;
    has_news |= object.member_if("ephemeral", |out| {
        let has_any = ephemeral::write(context, view, room.after, out)?;
        // NOTSPEC: may be left out, but Synapse never does where a room is told as a whole, and clients are used to it.
        Ok::<_, Error>(has_any || is_whole)
    })?;
    has_news |= object.member_if("account_data", |out| account_data::write_room(context, view, room.after, out))?;
    has_news |= object.member_if(STICKY, |out| {
        let told = timeline.events.iter().map(|entry| entry.nid).collect();
        sticky::write(context, &reader, room.after, &told, out)
    })?;
    write_unread(context, view, room, &mut object)?;
    object.end();
    Ok(has_news)
}

/// Writes how much the user has not read. Whoever knows threads gets the numbers of the main timeline, and of each
/// thread; others get the sums.
///
/// <https://spec.matrix.org/v1.19/client-server-api/#receiving-notifications>
fn write_unread(context: &Context<'_>, view: &View<'_>, room: &Room, out: &mut Object<'_>) -> Result<()> {
    let counts = unread::counts(context.server, view, context.user_id(), &room.row, context.now)?;
    if !context.request.filter.room.timeline.unread_thread_notifications {
        out.member("unread_notifications", &counts.total());
        return Ok(());
    }
    out.member("unread_notifications", &counts.main);
    if !counts.threads.is_empty() {
        out.member("unread_thread_notifications", &counts.threads);
    }
    Ok(())
}
