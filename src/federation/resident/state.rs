//! States of a room and auth chains, for other servers.

use std::sync::Arc;

use ruma::{EventId, OwnedEventId, OwnedRoomId, OwnedServerName, events::StateEventType};
use serde_json::value::RawValue;

use super::{
    answer::{self, Pieces, Turn},
    enter,
    handshake::{self, Admitted, Wish},
};
use crate::{
    Server,
    error::{Error, Result},
    event::StoredEvent,
    room::{
        View,
        servers::{self, RoomServers},
        state::auth_chain::{self, EventSet},
        visibility_of_server::ServerSight,
    },
    store::EventNid,
    sync::summary::Summary,
};

/// Which event of which room a server asks about.
#[derive(Clone, Debug)]
pub struct Question {
    pub origin: OwnedServerName,
    pub room_id: OwnedRoomId,
    pub event_id: OwnedEventId,
}

/// The state of the room before an event, as events or as their ids, and its auth chain.
///
/// Errors: `M_FORBIDDEN` to whom is not in the room, `M_NOT_FOUND` if that state is not known.
///
/// <https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1stateroomid>
pub async fn before(server: &Arc<Server>, question: Question, form: Form) -> Result<Pieces> {
    let origin = question.origin.clone();
    answer::stream(server, &origin, move |server, snapshot, out| {
        let view = enter(server, snapshot, &question.room_id, &question.origin)?;
        let (nid, event) = find(&view, &question.event_id)?;
        let state = state_before(&view, nid, &event)?;
        let chain = auth_chain::chain_of(&view, &EventSet::of(state.iter().copied()))?;
        let sight = ServerSight::of(&view, &question.origin);
        let (chain_key, state_key) = form.keys();
        let show = form.writer(&sight, &event)?;
        out.put(chain_key)?;
        out.events(&view, &chain.iter().collect::<Vec<_>>(), &show)?;
        out.put(state_key)?;
        out.events(&view, &state, &show)?;
        out.put(b"}")
    })
    .await
}

/// The auth chain of an event.
///
/// Errors: as of [`before`].
///
/// <https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1event_authroomideventid>
pub async fn auth_chain_of(server: &Arc<Server>, question: Question) -> Result<Pieces> {
    let origin = question.origin.clone();
    answer::stream(server, &origin, move |server, snapshot, out| {
        let view = enter(server, snapshot, &question.room_id, &question.origin)?;
        let (nid, event) = find(&view, &question.event_id)?;
        let mut chain = [EventSet::default()];
        for id in &view.pdu(nid)?.auth_events {
            let auth_event = view.event_nid(id)?;
            chain[0].insert(auth_event.ok_or_else(|| Error::internal(format!("the auth event {id} is missing")))?);
        }
        auth_chain::extend(&view, &mut chain)?;
        let sight = ServerSight::of(&view, &question.origin);
        let show = Form::Events.writer(&sight, &event)?;
        out.put(br#"{"auth_chain":"#)?;
        out.events(&view, &chain[0].iter().collect::<Vec<_>>(), show)?;
        out.put(b"}")
    })
    .await
}

/// Makes a join part of its room, and tells the user's server what it needs to know of that.
///
/// Errors: `M_LIMIT_EXCEEDED` if that server is being answered too much at a time, and those of [`handshake::send`].
///
/// <https://spec.matrix.org/v1.19/server-server-api/#put_matrixfederationv2send_joinroomideventid>
pub async fn let_in(
    server: &Arc<Server>,
    wish: Wish,
    event_id: OwnedEventId,
    event: Box<RawValue>,
    omit_members: bool,
) -> Result<Pieces> {
    // Not when it is part of the room: everybody would see the user join, and his server be told no state.
    let turn = server.federation.answering.begin(&wish.origin)?;
    let origin = wish.origin.clone();
    let admitted = handshake::send(server, wish, event_id, event).await?;
    after_join(server, turn, origin, admitted, omit_members).await
}

async fn after_join(
    server: &Arc<Server>,
    turn: Turn,
    origin: OwnedServerName,
    admitted: Admitted,
    omit_members: bool,
) -> Result<Pieces> {
    answer::stream_in(server, turn, move |server, snapshot, out| {
        let view = View::of(&server.rooms, snapshot, admitted.room)?;
        let event = view.event(admitted.event)?;
        let mut state = state_before(&view, admitted.event, &event)?;
        if omit_members {
            state = without_members(&view, &event, state)?;
        }
        let in_state = EventSet::of(state.iter().copied());
        let judged = EventSet::of(state.iter().copied().chain([admitted.event]));
        let mut chain: Vec<_> = auth_chain::chain_of(&view, &judged)?.iter().collect();
        if omit_members {
            chain.retain(|event| !in_state.contains(*event)); // told once is enough
        }
        let whole = |event: &StoredEvent| Ok(ServerSight::of(&view, &origin).whole(event));
        out.put(br#"{"auth_chain":"#)?;
        out.events(&view, &chain, whole)?;
        out.put(br#","event":"#)?;
        out.put(&whole(&event)?)?;
        let servers = servers_before(&view, &event)?;
        let more = serde_json::json!({
            "members_omitted": omit_members, "origin": server.name(), "servers_in_room": servers,
        });
        let more = more.to_string();
        out.put(b",")?;
        out.put(&more.as_bytes()[1..more.len() - 1])?;
        out.put(br#","state":"#)?;
        out.events(&view, &state, whole)?;
        out.put(b"}")
    })
    .await
}

/// In which form a state is told.
#[derive(Clone, Copy, Debug)]
pub enum Form {
    Events,
    Ids,
}

impl Form {
    /// What comes before the auth chain, and before the state.
    fn keys(self) -> (&'static [u8], &'static [u8]) {
        match self {
            Self::Events => (br#"{"auth_chain":"#, br#","pdus":"#),
            Self::Ids => (br#"{"auth_chain_ids":"#, br#","pdu_ids":"#),
        }
    }

    /// How to write the events of the state at `event`. Where the server may not see that event, it needs the state only
    /// to judge events by it: it gets what a redaction leaves, which is all that the rules look at.
    fn writer<'w>(
        self,
        sight: &'w ServerSight<'_, '_>,
        event: &StoredEvent,
    ) -> Result<impl Fn(&StoredEvent) -> Result<Vec<u8>> + 'w> {
        let is_whole = sight.sees_whole(event)?;
        Ok(move |event: &StoredEvent| match self {
            Self::Events if is_whole => Ok(sight.whole(event)),
            Self::Events => sight.redacted(event),
            Self::Ids => serde_json::to_vec(&event.event_id).map_err(Error::internal),
        })
    }
}

/// An event of the room that was not rejected, and whose state is known.
fn find(view: &View<'_>, event_id: &EventId) -> Result<(EventNid, StoredEvent)> {
    if let Some(nid) = view.event_nid(event_id)? {
        let event = view.event(nid)?;
        if event.state_after.is_some() && !event.flags.rejected && !event.flags.outlier {
            return Ok((nid, event));
        }
    }
    Err(Error::not_found("The state at that event is not known here"))
}

/// The events of the state before an event of the room.
fn state_before(view: &View<'_>, nid: EventNid, event: &StoredEvent) -> Result<Vec<EventNid>> {
    let after = event.state_after.ok_or_else(|| Error::internal(format!("{} has no state", event.event_id)))?;
    let before = |(_, entry)| if entry == nid { event.replaces.map(EventNid) } else { Some(entry) };
    Ok(view.state(after)?.into_iter().filter_map(before).collect())
}

/// The events of a state that a server needs at once: all but the members; of those only whom a nameless room is called
/// after.
fn without_members(view: &View<'_>, join: &StoredEvent, state: Vec<EventNid>) -> Result<Vec<EventNid>> {
    let heroes = Summary::work_out(view, &join.sender)?.heroes.unwrap_or_default();
    let mut kept = Vec::new();
    for user in heroes {
        let member = view.state_nid(view.current_state(), &StateEventType::RoomMember, user.as_str())?;
        kept.extend(member.filter(|member| state.contains(member)));
    }
    for batch in state.chunks(64) {
        for (nid, event) in std::iter::zip(batch, view.events(batch)?) {
            if event.event_type != "m.room.member" {
                kept.push(*nid);
            }
        }
    }
    Ok(kept)
}

/// The servers that were in the room before its newest member came.
fn servers_before(view: &View<'_>, join: &StoredEvent) -> Result<Vec<OwnedServerName>> {
    let newcomer = join.sender.server_name();
    let presence = view.snapshot.get::<RoomServers>(&(view.nid, newcomer))?;
    let is_new = presence.is_none_or(|presence| presence.joined <= 1);
    let mut servers = servers::servers_in(view.snapshot, view.nid)?;
    servers.retain(|server| !(is_new && server == newcomer));
    Ok(servers)
}

#[cfg(test)]
mod tests {
    use ruma::{api::error::ErrorKind, event_id, owned_event_id, owned_server_name, user_id};
    use serde_json::{Value, json};

    use super::*;
    use crate::room::{Membership, testing::TestRoom};

    fn question(room: &TestRoom, event_id: &EventId) -> Question {
        Question { origin: owned_server_name!("other.test"), room_id: room.room_id(), event_id: event_id.to_owned() }
    }

    fn body(room: &TestRoom, pieces: Result<Pieces>) -> Result<Value> {
        let mut pieces = pieces?;
        let mut body = Vec::new();
        while let Some(piece) = room.block_on(pieces.next()) {
            body.extend(piece?);
        }
        Ok(serde_json::from_slice(&body).unwrap())
    }

    fn state(room: &TestRoom, event_id: &EventId, form: Form) -> Result<Value> {
        body(room, room.block_on(before(&room.server, question(room, event_id), form)))
    }

    /// The content of the entry of that type in a list of events.
    fn content<'a>(events: &'a Value, event_type: &str) -> Option<&'a Value> {
        let found = events.as_array().unwrap().iter().find(|event| event["type"] == event_type);
        found.map(|event| &event["content"])
    }

    #[test]
    fn the_state_at_an_event_is_that_before_it_with_all_that_allows_it() {
        let room = TestRoom::new();
        room.receive_member(user_id!("@bob:other.test"), "join");
        let first = room.state("alice", "m.room.topic", "", &json!({ "topic": "1" }));
        let second = room.state("alice", "m.room.topic", "", &json!({ "topic": "2" }));
        let said = room.message("alice", "x");
        let topic = |event_id: &EventId| {
            let state = state(&room, event_id, Form::Events).unwrap();
            content(&state["pdus"], "m.room.topic").map(|content| content["topic"].clone())
        };
        assert_eq!(topic(&first), None);
        assert_eq!(topic(&second), Some(json!("1")));
        assert_eq!(topic(&said), Some(json!("2")));

        let whole = state(&room, &said, Form::Events).unwrap();
        assert_eq!(whole["pdus"].as_array().unwrap().len(), 5);
        assert!(content(&whole["auth_chain"], "m.room.member").is_some());
        assert!(content(&whole["auth_chain"], "m.room.topic").is_none());
        let ids = state(&room, &said, Form::Ids).unwrap();
        assert_eq!(ids["pdu_ids"].as_array().unwrap().len(), 5);
        assert!(ids["pdu_ids"].as_array().unwrap().contains(&json!(second)));
        assert_eq!(ids["auth_chain_ids"].as_array().unwrap().len(), whole["auth_chain"].as_array().unwrap().len());
    }

    #[test]
    fn where_an_event_is_not_visible_its_state_tells_no_more_than_the_rules_need() {
        let room = TestRoom::new();
        room.visibility("joined");
        room.state("alice", "m.room.topic", "", &json!({ "topic": "secret" }));
        let hidden = room.message("alice", "x");
        room.receive_member(user_id!("@bob:other.test"), "join");
        let visible = room.message("alice", "x");
        let at = |event_id: &EventId| state(&room, event_id, Form::Events).unwrap();
        assert_eq!(content(&at(&hidden)["pdus"], "m.room.topic").unwrap(), &json!({}));
        assert_eq!(content(&at(&hidden)["pdus"], "m.room.join_rules").unwrap()["join_rule"], "public");
        assert_eq!(content(&at(&visible)["pdus"], "m.room.topic").unwrap(), &json!({ "topic": "secret" }));
    }

    #[test]
    fn the_auth_chain_of_an_event_is_no_more_than_what_it_rests_on() {
        let room = TestRoom::new();
        let bob = user_id!("@bob:other.test");
        let joined = room.receive_member(bob, "join");
        let left = room.receive_member(bob, "leave");
        let again = room.receive_member(bob, "join");
        room.state("alice", "m.room.topic", "", &json!({ "topic": "x" }));
        let chain = body(&room, room.block_on(auth_chain_of(&room.server, question(&room, &again)))).unwrap();
        let chain = chain["auth_chain"].as_array().unwrap();
        let members = chain.iter().filter(|event| event["state_key"] == bob.as_str()).count();
        assert_eq!(members, 2, "{joined} and {left}");
        assert!(chain.iter().all(|event| event["type"] != "m.room.topic"));
    }

    #[test]
    fn events_that_are_unknown_have_no_state() {
        let room = TestRoom::new();
        room.receive_member(user_id!("@bob:other.test"), "join");
        state(&room, event_id!("$unknown"), Form::Ids).unwrap_err();
        room.block_on(auth_chain_of(&room.server, question(&room, event_id!("$unknown")))).unwrap_err();
    }

    #[test]
    fn one_server_can_have_only_a_few_large_answers_made_at_a_time() {
        let room = TestRoom::new();
        room.receive_member(user_id!("@bob:other.test"), "join");
        let said = room.message("alice", "x");
        let answering = &room.server.federation.answering;
        let other = owned_server_name!("other.test");
        let turns: Vec<_> = (0..3).map(|_| answering.begin(&other).unwrap()).collect();
        let is_too_much =
            |answer: Result<Pieces>| matches!(answer, Err(Error::Refused { kind: ErrorKind::LimitExceeded(_), .. }));
        let join = || {
            let wish = Wish { origin: other.clone(), room_id: room.room_id(), membership: Membership::Join };
            let event = RawValue::from_string("{}".to_owned()).unwrap();
            room.block_on(let_in(&room.server, wish, owned_event_id!("$join"), event, false))
        };
        state(&room, &said, Form::Ids).unwrap_err();
        assert!(is_too_much(join()), "before the event is looked at");
        drop(turns);
        state(&room, &said, Form::Ids).unwrap();
        assert!(!is_too_much(join()));
    }
}
