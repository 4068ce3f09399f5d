//! What redactions do to events, whichever of the two comes first.

use ruma::{EventId, UserId, events::TimelineEventType};

use super::{
    View, power_levels::power_levels_in, relations::Relation, relationships::Relationship, search::index::Words,
    state::trie::Tries,
};
use crate::{
    error::{Error, Result},
    event::{Pdu, StateRoot, StoredEvent, redact},
    store::{EventNid, Family, RoomNid, Table},
};

/// Accepted redactions of events that we do not have: they are applied when those come.
pub struct EarlyRedactions;
impl Table for EarlyRedactions {
    const NAME: &'static str = "early_redactions";
    const FAMILY: Family = Family::Room;
    const ID: u8 = 120;
    /// The event to redact, which is not in the room, and the redaction.
    type Key<'a> = (RoomNid, &'a EventId, EventNid);
    type Value = ();
}

/// The event that another one redacts.
#[derive(Debug)]
pub(super) struct Redacted {
    pub event: EventNid,
    /// As it is from now on.
    pub stored: StoredEvent,
    /// What it related to, and what it said.
    pub relation: Option<Relation>,
    pub words: Option<Words>,
    /// What it replied to, if that is not to last.
    pub relationship: Option<Relationship>,
}

/// What an accepted event does to others by being a redaction.
#[derive(Debug)]
pub(super) enum Effect {
    Nothing,
    Redacts(Box<Redacted>),
    /// Its target is not here yet.
    Waits,
}

/// What `redaction`, the event numbered `nid`, does; `before` is the state before it.
///
/// <https://spec.matrix.org/v1.19/rooms/v3/#handling-redactions>
pub(super) fn effect(
    view: &View<'_>,
    tries: &Tries<'_>,
    before: StateRoot,
    redaction: &Pdu,
    nid: EventNid,
) -> Result<Effect> {
    let target_id = redaction.redacts.as_ref().filter(|_| redaction.event_type == TimelineEventType::RoomRedaction);
    let Some(target_id) = target_id else { return Ok(Effect::Nothing) };
    let Some(target_nid) = view.event_nid(target_id)? else {
        // One of another room will never be here.
        return Ok(if view.is_elsewhere(target_id)? { Effect::Nothing } else { Effect::Waits });
    };
    if target_nid == nid {
        return Ok(Effect::Nothing);
    }
    let target = view.event(target_nid)?;
    if target.flags.redacted || !may_redact(view, tries, before, &redaction.sender, &target)? {
        return Ok(Effect::Nothing);
    }
    let stored = without_content(view, &target, nid)?;
    let (relation, words) = (Relation::of(&target, target_nid), Words::of(&target, target_nid));
    let relationship = Relationship::of(&target, target_nid).filter(|relationship| !relationship.lasts());
    Ok(Effect::Redacts(Box::new(Redacted { event: target_nid, stored, relation, words, relationship })))
}

/// `event`, which comes in now, as the redactions leave it that came before it.
pub(super) fn apply_early(view: &View<'_>, event: StoredEvent) -> Result<StoredEvent> {
    for redaction in early(view, &event.event_id)? {
        let pdu = view.pdu(redaction)?;
        let state = view.event(redaction)?.state_after.unwrap_or(StateRoot::EMPTY);
        if may_redact(view, &view.tries(), state, &pdu.sender, &event)? {
            return without_content(view, &event, redaction);
        }
    }
    Ok(event)
}

/// The redactions that wait for `target`.
pub(super) fn early(view: &View<'_>, target: &EventId) -> Result<Vec<EventNid>> {
    let rows = view.snapshot.list::<EarlyRedactions>(&(view.nid, target));
    let redactions = rows.map(|row| row.and_then(|row| Ok(row.key()?.2)));
    Ok(redactions.collect::<crate::store::Result<_>>()?)
}

fn may_redact(
    view: &View<'_>,
    tries: &Tries<'_>,
    state: StateRoot,
    sender: &UserId,
    target: &StoredEvent,
) -> Result<bool> {
    Ok(sender.server_name() == target.sender.server_name()
        || power_levels_in(view, tries, state)?.user_can_redact_event_of_other(sender))
}

/// Whether the redaction numbered `nid` takes anything away. Since room version 3 the authorization rules let through those that
/// may not, and clients, who leave the judgement to their server, would obey them.
///
/// <https://spec.matrix.org/v1.19/rooms/v3/#handling-redactions>
pub fn is_in_force(view: &View<'_>, nid: EventNid, redaction: &StoredEvent) -> Result<bool> {
    let (Some(target), Some(state)) = (&redaction.redacts, redaction.state_after) else { return Ok(true) };
    if view.rules.authorization.special_case_room_redaction {
        return Ok(true);
    }
    let Some(target) = view.event_by_id(target)? else { return Ok(false) };
    Ok(target.redacted_by == Some(nid.0) || may_redact(view, &view.tries(), state, &redaction.sender, &target)?)
}

fn without_content(view: &View<'_>, event: &StoredEvent, redaction: EventNid) -> Result<StoredEvent> {
    redact::redact_stored(&event.view(), view.room_id(), view.rules, redaction.0)
        .map_err(|e| Error::internal(e.to_string()))
}

#[cfg(test)]
mod tests {
    use ruma::{event_id, user_id};
    use serde_json::{json, value::to_raw_value};

    use crate::{
        check,
        event::Draft,
        room::{
            history,
            tables::{EventIds, EventPlace},
            testing::TestRoom,
        },
        store::{EventNid, RoomNid},
    };

    #[test]
    fn a_redaction_that_takes_nothing_away_is_shown_to_nobody() {
        let room = TestRoom::new();
        let mallory = user_id!("@mallory:b.test");
        room.receive_member(mallory, "join");
        let redact = |target| room.receive(mallory, Draft::redaction(target, None));
        let hers = room.message("alice", "hers");
        let in_vain = redact(hers.clone());
        let early = redact(event_id!("$later").to_owned());
        let content = to_raw_value(&json!({ "body": "his" })).unwrap();
        let his = room.receive(mallory, Draft::message("m.room.message".into(), content));
        let in_force = redact(his.clone());
        let again = room.send("alice", Draft::redaction(his.clone(), None)).unwrap();
        room.read("alice", |reader, _| {
            let event = |id| history::visible(reader, id).unwrap().map(|(_, event)| event);
            assert!(event(&in_vain).is_none() && event(&early).is_none());
            assert!(event(&in_force).is_some() && event(&again).is_some());
            assert!(event(&his).unwrap().flags.redacted && !event(&hers).unwrap().flags.redacted);
        });
        // What the early one waits for comes in another room.
        let place = EventPlace { room: RoomNid(room.nid.0 + 1), event: EventNid(1) };
        room.change(move |tx| tx.put::<EventIds>(&event_id!("$later"), &place));
        let report = check::check(&room.server.store, room.server.name()).unwrap();
        assert!(report.problems.iter().all(|(name, ..)| *name != "early redactions"), "{:#?}", report.problems);
    }
}
