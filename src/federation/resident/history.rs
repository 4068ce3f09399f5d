//! Events of a room's past, for other servers.

use std::{
    collections::{BinaryHeap, HashSet, VecDeque},
    sync::Arc,
};

use ruma::{EventId, OwnedEventId, OwnedRoomId, OwnedServerName};
use serde_json::value::RawValue;

use super::{answer, enter, may_enter};
use crate::{
    Server,
    error::{Error, Result},
    event::StoredEvent,
    room::{View, by_time, tables::EventIds, visibility_of_server::ServerSight},
    store::{Direction, EventNid, Snapshot},
};

/// The most events of one answer to `/backfill`, and to `/get_missing_events`.
const MAX_BACKFILL: usize = 100;
const MAX_MISSING: usize = 50;

/// From how many bytes on an answer is full.
const MAX_BYTES: usize = 4 << 20;

/// How many events a request may begin from.
const MAX_STARTS: usize = 100;

/// How many events are looked at for each that may be in the answer: rejected ones are passed by.
const SCANNED_PER_EVENT: usize = 10;

/// The event of that id.
///
/// Errors: `M_NOT_FOUND`, whether there is no such event or the server may not ask for it.
///
/// <https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1eventeventid>
pub async fn event(server: &Arc<Server>, origin: OwnedServerName, event_id: OwnedEventId) -> Result<Box<RawValue>> {
    answer::read(server, move |server, snapshot| {
        let found = find_anywhere(server, snapshot, &origin, &event_id)?;
        found.ok_or_else(|| Error::not_found("There is no such event here"))
    })
    .await
}

fn find_anywhere(
    server: &Server,
    snapshot: &Snapshot<'_>,
    origin: &OwnedServerName,
    event_id: &EventId,
) -> Result<Option<Box<RawValue>>> {
    let Some(place) = snapshot.get::<EventIds>(&event_id)? else { return Ok(None) };
    let view = View::of(&server.rooms, snapshot, place.room)?;
    if !may_enter(&view, origin)? {
        return Ok(None);
    }
    let (sight, event) = (ServerSight::of(&view, origin), view.event(place.event)?);
    let shown = match sight.show(&event)? {
        Some(shown) => Some(shown),
        None => sight.show_told(place.event, &event)?,
    };
    shown.map(raw).transpose()
}

/// The event of the room that is nearest to a time, of those whose content the server may see.
///
/// Errors: `M_FORBIDDEN` to whom is not in the room, `M_NOT_FOUND`.
///
/// <https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1timestamp_to_eventroomid>
pub async fn by_time(
    server: &Arc<Server>,
    origin: OwnedServerName,
    room_id: OwnedRoomId,
    ts_ms: u64,
    direction: Direction,
) -> Result<StoredEvent> {
    answer::read(server, move |server, snapshot| {
        let view = enter(server, snapshot, &room_id, &origin)?;
        let sight = ServerSight::of(&view, &origin);
        let may_see = |_, event: &StoredEvent| Ok(!view.has_expired(event)? && sight.sees_whole(event)?);
        let found = by_time::nearest(&view, ts_ms, direction, may_see)?;
        found.map(|(_, event)| event).ok_or_else(|| Error::not_found("There is no event of that time"))
    })
    .await
}

/// What a server asks for of a room's history.
#[derive(Clone, Debug)]
pub struct Question {
    pub origin: OwnedServerName,
    pub room_id: OwnedRoomId,
    /// From which events to go back.
    pub from: Vec<OwnedEventId>,
    /// At most so many events; fewer if that is too many.
    pub limit: usize,
}

/// Events and those before them, the deepest first.
///
/// Errors: `M_FORBIDDEN` to whom is not in the room.
///
/// <https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1backfillroomid>
pub async fn backfill(server: &Arc<Server>, question: Question) -> Result<Vec<Box<RawValue>>> {
    answer::read(server, move |server, snapshot| {
        let view = enter(server, snapshot, &question.room_id, &question.origin)?;
        let mut walk = Walk::new(&view, &question.origin, question.limit.min(MAX_BACKFILL));
        let mut ahead = BinaryHeap::new();
        for id in question.from.iter().take(MAX_STARTS) {
            ahead.extend(walk.start(id)?.map(Deepest));
        }
        while let Some(Deepest(met)) = ahead.pop()
            && !walk.is_full()
        {
            walk.add(&met)?;
            for id in &view.pdu(met.nid)?.prev_events {
                ahead.extend(walk.meet(id)?.map(Deepest));
            }
        }
        Ok(walk.events)
    })
    .await
}

/// The events before those of a question, nearest first, without `known` ones and those that only they lead to; then
/// turned round, so that the oldest comes first.
///
/// Errors: as of [`backfill`].
///
/// <https://spec.matrix.org/v1.19/server-server-api/#post_matrixfederationv1get_missing_eventsroomid>
pub async fn missing(
    server: &Arc<Server>,
    question: Question,
    known: Vec<OwnedEventId>,
    min_depth: u64,
) -> Result<Vec<Box<RawValue>>> {
    answer::read(server, move |server, snapshot| {
        let view = enter(server, snapshot, &question.room_id, &question.origin)?;
        let mut walk = Walk::new(&view, &question.origin, question.limit.min(MAX_MISSING));
        for id in known.iter().chain(&question.from).take(2 * MAX_STARTS) {
            walk.seen.extend(view.event_nid(id)?);
        }
        let mut ahead = VecDeque::new();
        for id in question.from.iter().take(MAX_STARTS) {
            let Some(start) = view.event_nid(id)?.map(|start| view.pdu(start)).transpose()? else { continue };
            for id in start.prev_events.iter().filter(|_| !start.rejected) {
                ahead.extend(walk.meet(id)?);
            }
        }
        while let Some(met) = ahead.pop_front()
            && !walk.is_full()
        {
            if met.depth < min_depth {
                continue;
            }
            walk.add(&met)?;
            for id in &view.pdu(met.nid)?.prev_events {
                ahead.extend(walk.meet(id)?);
            }
        }
        walk.events.reverse();
        Ok(walk.events)
    })
    .await
}

/// A way back through the graph of a room's events.
struct Walk<'v, 's> {
    sight: ServerSight<'v, 's>,
    limit: usize,
    seen: HashSet<EventNid>,
    scanned: usize,
    bytes: usize,
    events: Vec<Box<RawValue>>,
}

/// An event on the way: not the event itself, since there may be thousands ahead.
struct Met {
    nid: EventNid,
    depth: u64,
}

impl<'v, 's> Walk<'v, 's> {
    fn new(view: &'v View<'s>, origin: &'v OwnedServerName, limit: usize) -> Self {
        let sight = ServerSight::of(view, origin);
        Self { sight, limit, seen: HashSet::new(), scanned: 0, bytes: 0, events: Vec::new() }
    }

    fn is_full(&self) -> bool {
        self.events.len() >= self.limit
            || self.bytes >= MAX_BYTES
            || self.scanned >= self.limit.saturating_mul(SCANNED_PER_EVENT)
    }

    /// As [`Self::meet`], for what the other server names: an event that was refused is answered as one that is not there.
    fn start(&mut self, id: &EventId) -> Result<Option<Met>> {
        let Some(nid) = self.sight.view.event_nid(id)? else { return Ok(None) };
        if self.sight.view.event(nid)?.flags.rejected { Ok(None) } else { self.meet(id) }
    }

    /// The event of that id, if it is one of the room's and met for the first time.
    fn meet(&mut self, id: &EventId) -> Result<Option<Met>> {
        let nid = self.sight.view.event_nid(id)?.filter(|nid| self.seen.insert(*nid));
        nid.map(|nid| Ok(Met { nid, depth: self.sight.view.event(nid)?.depth })).transpose()
    }

    /// Adds the event to the answer, as the server may see it.
    fn add(&mut self, met: &Met) -> Result<()> {
        self.scanned += 1;
        if let Some(json) = self.sight.show(&self.sight.view.event(met.nid)?)? {
            self.bytes += json.len();
            self.events.push(raw(json)?);
        }
        Ok(())
    }
}

/// An event of which the deepest comes first, and of equally deep ones the last that we accepted.
struct Deepest(Met);

impl Deepest {
    fn key(&self) -> (u64, EventNid) {
        (self.0.depth, self.0.nid)
    }
}

impl PartialEq for Deepest {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Deepest {}

impl PartialOrd for Deepest {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Deepest {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.key().cmp(&other.key())
    }
}

fn raw(json: Vec<u8>) -> Result<Box<RawValue>> {
    let json = String::from_utf8(json).map_err(Error::internal)?;
    RawValue::from_string(json).map_err(Error::internal)
}

#[cfg(test)]
mod tests {
    use ruma::{event_id, owned_room_id, owned_server_name, user_id};
    use serde_json::{Value, json};

    use super::*;
    use crate::room::testing::TestRoom;

    /// A room that other.test is in, with messages 0 to 9, and their ids.
    fn room() -> (TestRoom, Vec<OwnedEventId>) {
        let room = TestRoom::new();
        room.receive_member(user_id!("@bob:other.test"), "join");
        let said = (0..10).map(|number| room.message("alice", &number.to_string())).collect();
        (room, said)
    }

    fn question(room: &TestRoom, from: &[OwnedEventId], limit: usize) -> Question {
        Question { origin: owned_server_name!("other.test"), room_id: room.room_id(), from: from.to_vec(), limit }
    }

    fn bodies(events: &[Box<RawValue>]) -> Vec<String> {
        let parsed = events.iter().map(|event| serde_json::from_str::<Value>(event.get()).unwrap());
        let body = |event: Value| event["content"]["body"].as_str().or(event["type"].as_str()).unwrap().to_owned();
        parsed.map(body).collect()
    }

    fn refusal<T: std::fmt::Debug>(answer: Result<T>) -> String {
        format!("{:?}", answer.unwrap_err())
    }

    #[test]
    fn backfill_begins_with_the_events_asked_for_and_goes_back_to_the_start_of_the_room() {
        let (room, said) = room();
        let ask = |from: &[OwnedEventId], limit| room.block_on(backfill(&room.server, question(&room, from, limit)));
        assert_eq!(bodies(&ask(&said[5..6], 3).unwrap()), ["5", "4", "3"]);
        assert_eq!(bodies(&ask(&[said[1].clone(), said[3].clone()], 3).unwrap()), ["3", "2", "1"]);
        let all = ask(&said[9..], usize::MAX).unwrap();
        assert_eq!(all.len(), 14);
        assert_eq!(bodies(&all).last().unwrap(), "m.room.create");
        assert!(ask(&said, 0).unwrap().is_empty());
        assert!(ask(&[event_id!("$unknown").to_owned()], 5).unwrap().is_empty());
    }

    #[test]
    fn one_answer_has_no_more_events_than_we_give_at_a_time() {
        let (room, _) = room();
        let said: Vec<_> = (0..MAX_BACKFILL + 5).map(|_| room.message("alice", "x")).collect();
        let ask = question(&room, &said[MAX_BACKFILL + 4..], usize::MAX);
        assert_eq!(room.block_on(backfill(&room.server, ask.clone())).unwrap().len(), MAX_BACKFILL);
        assert_eq!(room.block_on(missing(&room.server, ask, Vec::new(), 0)).unwrap().len(), MAX_MISSING);
    }

    #[test]
    fn missing_events_are_those_between_what_is_known_and_what_came_oldest_first() {
        let (room, said) = room();
        let ask = |known: &[OwnedEventId], limit, min_depth| {
            let question = question(&room, &said[9..], limit);
            bodies(&room.block_on(missing(&room.server, question, known.to_vec(), min_depth)).unwrap())
        };
        assert_eq!(ask(&said[5..6], 10, 0), ["6", "7", "8"]);
        assert_eq!(ask(&said[5..6], 2, 0), ["7", "8"]);
        let depth = room.read("alice", |reader, _| reader.view().event_by_id(&said[7]).unwrap().unwrap().depth);
        assert_eq!(ask(&[], 10, depth), ["7", "8"]);
    }

    #[test]
    fn a_server_that_is_not_in_the_room_is_told_the_same_as_of_no_room_at_all() {
        let (room, said) = room();
        let stranger = Question { origin: owned_server_name!("stranger.test"), ..question(&room, &said, 5) };
        let nowhere = Question { room_id: owned_room_id!("!nowhere:other.test"), ..stranger.clone() };
        let both = [stranger, nowhere];
        let refusals = both.clone().map(|question| refusal(room.block_on(backfill(&room.server, question))));
        assert_eq!(refusals[0], refusals[1]);
        let refusals = both.map(|question| refusal(room.block_on(missing(&room.server, question, vec![], 0))));
        assert_eq!(refusals[0], refusals[1]);
        let by_id = |id: &EventId| {
            refusal(room.block_on(event(&room.server, owned_server_name!("stranger.test"), id.to_owned())))
        };
        assert_eq!(by_id(&said[0]), by_id(event_id!("$unknown")));
    }

    #[test]
    fn a_server_that_the_acl_refuses_or_that_has_left_gets_nothing_more() {
        let (room, said) = room();
        let ask = || room.block_on(backfill(&room.server, question(&room, &said, 5)));
        let one = || room.block_on(event(&room.server, owned_server_name!("other.test"), said[0].clone()));
        assert!(ask().is_ok() && one().is_ok());
        room.state("alice", "m.room.server_acl", "", &json!({ "allow": ["*"], "deny": ["other.*"] }));
        assert!(ask().is_err() && one().is_err());
        room.state("alice", "m.room.server_acl", "", &json!({ "allow": ["*"] }));
        assert!(ask().is_ok() && one().is_ok());
        room.receive_member(user_id!("@bob:other.test"), "leave");
        assert!(ask().is_err() && one().is_err());
    }

    #[test]
    fn what_we_know_of_a_room_that_all_of_us_left_is_not_told() {
        let (room, said) = room();
        room.member("alice", "alice", "leave");
        room.block_on(backfill(&room.server, question(&room, &said, 5))).unwrap_err();
    }
}
