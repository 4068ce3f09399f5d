//! A tree of replies as one of our users sees it, page by page. What is missing of it is asked for at other servers.

use std::{collections::HashSet, sync::Arc, time::Duration};

use ruma::{OwnedEventId, OwnedUserId};
use serde_json::{
    Map, Value,
    value::{RawValue, to_raw_value},
};

use super::{
    told::Summary,
    walk::{self, MAX_LIMIT, Missing, Query, Step, Viewer, Walk, WalkOrMissing},
};
use crate::{
    Server,
    error::{Error, Result},
    event::StoredEvent,
    federation::relationships,
    room::{
        View,
        hierarchy::WALKS_OF_USER,
        history::event_not_found,
        read::Found,
        show::{Format, Reader},
        tables::EventIds,
        visibility::{Standing, is_shared_since},
    },
    store::{EventNid, RoomNid, Snapshot},
    user::{expiring::Expiring, session::Caller},
};

/// How many times one page asks other servers.
const MAX_ASKED: usize = 5;

/// Walks that may be gone on with, by the token of their next page.
pub type Walks = Expiring<Arc<Begun>>;

/// Room for the walks of many clients; a client goes on within minutes.
pub fn walks() -> Walks {
    Expiring::new(Duration::from_secs(10 * 60), 200)
}

/// A walk of one of our users, between two of its pages.
pub struct Begun {
    user_id: OwnedUserId,
    room: RoomNid,
    walk: Walk,
}

/// What a client is told.
pub struct Answer {
    pub events: Vec<Box<RawValue>>,
    pub next_batch: Option<String>,
    pub is_limited: bool,
}

/// What one look at what is here came to.
enum Seen {
    Page { room: RoomNid, events: Vec<Box<RawValue>>, rest: Option<Box<Walk>>, is_limited: bool },
    Missing(RoomNid, OwnedEventId),
}

/// The events around one in its tree of replies.
///
/// Errors: `M_NOT_FOUND` for an event that the caller may not see or that can't be had, `M_INVALID_PARAM` for a `batch`
/// that is none of the same walk.
pub async fn page(server: &Arc<Server>, caller: Caller, query: Query) -> Result<Answer> {
    if query.limit == 0 {
        return Err(Error::invalid_param("`limit` must be greater than zero"));
    }
    let begun = if query.batch.is_empty() { None } else { Some(begun(server, &caller, &query)?) };
    let mut asked: HashSet<OwnedEventId> = HashSet::new();
    loop {
        let (caller, query, begun) = (caller.clone(), query.clone(), begun.clone());
        let (user_id, known) = (caller.user_id.clone(), asked.clone());
        let may_ask = asked.len() < MAX_ASKED;
        let look = move |server: &Server| {
            let snapshot = server.store.snapshot();
            let missing = if may_ask { Missing::AllBut(&known) } else { Missing::All };
            let seen = match begun {
                Some(begun) => go_on(server, &snapshot, &caller, &begun, query.limit, missing),
                None => begin(server, &snapshot, &caller, query, missing),
            };
            Ok((seen?, snapshot.pos()?))
        };
        let (seen, shown) = server.blocking(look).await?;
        match seen {
            Seen::Missing(room, event_id) => {
                relationships::fetch(server, room, &event_id).await?;
                asked.insert(event_id);
            }
            Seen::Page { room, events, rest, is_limited } => {
                // Events without a place do not wait for the disk when they come.
                server.store.until_durable(shown).await?;
                let next_batch = rest.map(|walk| {
                    let token = server.random.text(20);
                    let begun = Arc::new(Begun { user_id: user_id.clone(), room, walk: *walk });
                    let is_his = |other: &Arc<Begun>| other.user_id == user_id;
                    let now_ms = server.clock.now_ms();
                    server.relationship_walks.insert_among(now_ms, &token, begun, WALKS_OF_USER, is_his);
                    token
                });
                return Ok(Answer { events, next_batch, is_limited });
            }
        }
    }
}

/// The walk that the client goes on with. Its token stays good, so that a page whose answer got lost can be asked for
/// again.
fn begun(server: &Server, caller: &Caller, query: &Query) -> Result<Arc<Begun>> {
    let begun = server.relationship_walks.with(server.clock.now_ms(), &query.batch, |begun| Arc::clone(begun));
    let begun = begun.filter(|begun| begun.user_id == caller.user_id && begun.walk.query.is_about_the_same(query));
    begun.ok_or_else(|| Error::invalid_param("`batch` is unknown, too old, or of another walk"))
}

fn begin(
    server: &Server,
    snapshot: &Snapshot<'_>,
    caller: &Caller,
    query: Query,
    missing: Missing<'_>,
) -> Result<Seen> {
    let Some(place) = snapshot.get::<EventIds>(&&*query.event_id)? else {
        return unknown(server, snapshot, caller, query, missing);
    };
    let view = View::of(&server.rooms, snapshot, place.room)?;
    let viewer = ClientViewer::open(server, &view, caller)?;
    if !viewer.may_see(place.event, &view.event(place.event)?)? {
        return Err(event_not_found());
    }
    let limit = query.limit;
    match Walk::begin(&viewer, query, place.event, missing)? {
        WalkOrMissing::Walk(walk) => viewer.page(*walk, limit, missing),
        WalkOrMissing::Missing(event_id) => Ok(Seen::Missing(view.nid, event_id)),
    }
}

/// An event that is not here can be asked for if the client says of which room it is, and the user is in that.
fn unknown(
    server: &Server,
    snapshot: &Snapshot<'_>,
    caller: &Caller,
    query: Query,
    missing: Missing<'_>,
) -> Result<Seen> {
    let view = query.room_id.map(|room_id| View::open(&server.rooms, snapshot, &room_id)).transpose()?.flatten();
    let view = view.ok_or_else(event_not_found)?;
    let reader = Reader::open(&view, &caller.user_id, Some(&caller.device_id), server.clock.now_ms())?;
    if reader.sight.standing != Standing::Joined || !missing.is_to_be_asked_for(&query.event_id) {
        return Err(event_not_found());
    }
    Ok(Seen::Missing(view.nid, query.event_id))
}

fn go_on(
    server: &Server,
    snapshot: &Snapshot<'_>,
    caller: &Caller,
    begun: &Begun,
    limit: u64,
    missing: Missing<'_>,
) -> Result<Seen> {
    let view = View::of(&server.rooms, snapshot, begun.room)?;
    ClientViewer::open(server, &view, caller)?.page(begun.walk.clone(), limit, missing)
}

/// One of our users who looks at a tree.
struct ClientViewer<'v, 's> {
    reader: Reader<'v, 's>,
}

impl<'v, 's> ClientViewer<'v, 's> {
    fn open(server: &Server, view: &'v View<'s>, caller: &'v Caller) -> Result<Self> {
        let reader = Reader::open(view, &caller.user_id, Some(&caller.device_id), server.clock.now_ms())?;
        Ok(Self { reader })
    }

    fn page(&self, walk: Walk, limit: u64, missing: Missing<'_>) -> Result<Seen> {
        let room = self.view().nid;
        let limit = usize::try_from(limit.min(MAX_LIMIT)).unwrap_or(usize::MAX);
        Ok(match walk::page(self, walk, limit, missing)? {
            Step::Missing(event_id) => Seen::Missing(room, event_id),
            Step::Page(page) => {
                let show = |(found, summary): (Found, Summary)| self.show(&found, &summary);
                let events = page.events.into_iter().map(show).collect::<Result<_>>()?;
                Seen::Page { room, events, rest: page.rest, is_limited: page.is_limited }
            }
        })
    }

    fn show(&self, (nid, event): &Found, summary: &Summary) -> Result<Box<RawValue>> {
        let shown = self.reader.show(*nid, event, Format::WithRoomId)?;
        let mut shown: Map<String, Value> = serde_json::from_str(shown.get()).map_err(Error::internal)?;
        if let Some(unsigned) = shown.entry("unsigned").or_insert_with(|| Map::new().into()).as_object_mut() {
            unsigned.extend(summary.fields().map(|(key, value)| (key.to_owned(), value)));
        }
        to_raw_value(&shown).map_err(Error::internal)
    }
}

impl Viewer for ClientViewer<'_, '_> {
    fn view(&self) -> &View<'_> {
        self.reader.view()
    }

    fn may_see(&self, nid: EventNid, event: &StoredEvent) -> Result<bool> {
        if self.reader.ignored()?.hides(event) {
            return Ok(false);
        }
        Ok(self.reader.sight.may_see(nid, event)? || self.reader.sight.may_see_unplaced(event)?)
    }

    fn may_hear_of(&self, event: &StoredEvent) -> Result<bool> {
        Ok(self.reader.sight.standing == Standing::Joined && is_shared_since(self.view(), event.depth)?)
    }
}
