//! The deprecated stream of events, one after the other: of all rooms of a user, or of one that he looks into.
//!
//! <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3events>

use std::{sync::Arc, time::Duration};

use ruma::{OwnedRoomId, RoomId, api::client::filter::RoomEventFilter};
use serde_json::value::RawValue;
use tokio::time::Instant;

use super::invited;
use crate::{
    Server,
    error::Result,
    room::{
        Membership, View,
        event_filter::RelationFilter,
        history::{self, Request},
        show::{Format, Reader},
        tables::{RoomIds, Timeline, UserRoom, UserRooms},
        timeline::Entry,
        visibility::{Standing, not_in_room},
    },
    store::{Direction, Group, RoomNid, RoomPos, Snapshot, StreamPos},
    user::session::Caller,
};

/// How many events one answer has at most.
const MAX_EVENTS: usize = 100;

/// The longest that a client is kept waiting, and how long it waits if it does not say.
const MAX_TIMEOUT: Duration = Duration::from_secs(300);
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);

/// What came after a place.
pub struct News {
    pub start: RoomPos,
    pub end: RoomPos,
    /// Oldest first.
    pub events: Vec<Box<RawValue>>,
}

/// The events after `from`, or from now on if `None`: at once if there are some, else when there are, or when the time is up.
/// `M_FORBIDDEN` for a room that the caller may not look into.
pub async fn listen(
    server: &Arc<Server>,
    caller: Caller,
    room_id: Option<OwnedRoomId>,
    from: Option<RoomPos>,
    timeout: Option<Duration>,
) -> Result<News> {
    let newest = RoomPos::from(server.store.durable_pos());
    let from = from.map_or(newest, |from| from.min(newest));
    let room = room_id.as_deref().map(|room_id| known(server, room_id)).transpose()?;
    let deadline = Instant::now() + timeout.unwrap_or(DEFAULT_TIMEOUT).min(MAX_TIMEOUT);
    // Before looking: what comes meanwhile must wake us.
    let mut woken = match room {
        Some(room) => server.wakers.subscribe_to_room(server, room),
        None => server.wakers.subscribe(server, &caller.user_id),
    };
    loop {
        let asking = caller.clone();
        let news = server.blocking(move |server| read(server, &asking, room, from)).await?;
        if !news.events.is_empty() || Instant::now() >= deadline || server.shutdown.is_cancelled() {
            let Caller { user_id, device_id, token, .. } = &caller;
            let may_be_told = server.logins.may_be_told(&server.store, user_id, device_id, token.as_ref())?;
            return Ok(if may_be_told { news } else { News { start: from, end: from, events: Vec::new() } });
        }
        tokio::select! {
            () = woken.changed() => {}
            () = tokio::time::sleep_until(deadline) => {}
            () = server.shutdown.cancelled() => {}
        }
        server.logins.check(&server.store, &caller.user_id, &caller.device_id)?;
    }
}

fn known(server: &Server, room_id: &RoomId) -> Result<RoomNid> {
    server.store.snapshot().get::<RoomIds>(&room_id)?.ok_or_else(not_in_room)
}

/// Part of the news: events of one room, and up to where they are all of them.
struct Part {
    events: Vec<(RoomPos, Box<RawValue>)>,
    until: RoomPos,
}

fn read(server: &Server, caller: &Caller, room: Option<RoomNid>, from: RoomPos) -> Result<News> {
    let durable = server.store.durable_pos(); // before the snapshot, which then holds all of that
    let snapshot = server.store.snapshot();
    let look = Look { server, snapshot: &snapshot, caller, from, newest: durable.into() };
    let mut parts = Vec::new();
    match room {
        Some(room) => parts.push(look.read_room(room, None)?),
        None => {
            for row in snapshot.list::<UserRooms>(&&*caller.user_id) {
                let row = row?;
                let is_new = RoomPos::from(row.value.since) > from && row.value.since <= durable;
                let is_wanted = row.value.membership == Membership::Join || is_new && !row.value.is_forgotten;
                let room = row.key()?.1;
                if is_wanted && look.may_find_news(room) {
                    parts.push(look.read_room(room, Some(&row.value))?);
                }
            }
        }
    }
    Ok(merged(parts, from, look.newest))
}

struct Look<'l, 's> {
    server: &'l Server,
    snapshot: &'s Snapshot<'s>,
    caller: &'l Caller,
    from: RoomPos,
    newest: RoomPos,
}

impl Look<'_, '_> {
    fn may_find_news(&self, room: RoomNid) -> bool {
        let since = StreamPos(u64::try_from(self.from.0).unwrap_or_default());
        let recent = self.server.store.recent();
        recent.may_have_changed::<Timeline>(Group::of(room), since)
            || recent.may_have_changed::<UserRooms>(Group::of(&*self.caller.user_id), since)
    }

    /// `own`: what the caller is to the room, if it is one of his. If he is not in it, that is news.
    fn read_room(&self, room: RoomNid, own: Option<&UserRoom>) -> Result<Part> {
        let view = View::of(&self.server.rooms, self.snapshot, room)?;
        let (user, device) = (&self.caller.user_id, &self.caller.device_id);
        let reader = Reader::open(&view, user, Some(device), self.server.clock.now_ms())?;
        let (mut entries, until) = if own.is_some() && reader.sight.standing == Standing::Stranger {
            (Vec::new(), self.newest) // of the room itself he sees nothing
        } else {
            let request = Request {
                from: Some(self.from),
                to: None,
                direction: Direction::Forward,
                limit: MAX_EVENTS,
                filter: &RoomEventFilter::default(),
                relations: &RelationFilter::default(),
                stops_at_gaps: false,
            };
            let chunk = history::messages(&reader, self.newest, &request)?;
            (chunk.entries, chunk.end.unwrap_or(self.newest))
        };
        // What he is to a room that he is not in, be it an invite or a ban, comes after all that he sees of it.
        if let Some(own) = own.filter(|own| own.membership != Membership::Join)
            && !entries.iter().any(|entry| entry.nid == own.event)
            && (own.membership != Membership::Invite || invited::is_wanted(self.server, &view, user, own)?)
        {
            entries.push(Entry { pos: own.since.into(), nid: own.event, event: view.event(own.event)? });
        }
        let show = |entry: &Entry| Ok((entry.pos, reader.show(entry.nid, &entry.event, Format::WithRoomId)?));
        let events = entries.iter().map(show).collect::<Result<_>>()?;
        Ok(Part { events, until })
    }
}

/// The first events of all parts. What one part does not reach is left for the next time.
fn merged(parts: Vec<Part>, start: RoomPos, newest: RoomPos) -> News {
    let mut end = parts.iter().map(|part| part.until).min().unwrap_or(newest);
    let mut events: Vec<_> = parts.into_iter().flat_map(|part| part.events).filter(|(pos, _)| *pos <= end).collect();
    events.sort_by_key(|(pos, _)| *pos);
    if events.len() > MAX_EVENTS {
        events.truncate(MAX_EVENTS);
        end = events.last().map_or(end, |(pos, _)| *pos);
    }
    News { start, end, events: events.into_iter().map(|(_, event)| event).collect() }
}
