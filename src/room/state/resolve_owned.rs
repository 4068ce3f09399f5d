//! State resolution of version 2.0 with our own authorization rules: ruma's has its own built in, which know nothing of
//! owned state.
//!
//! <https://spec.matrix.org/v1.19/rooms/v2/#state-resolution>

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, HashMap},
    iter,
    sync::Arc,
};

use ruma::{
    Int, OwnedEventId,
    events::{StateEventType, TimelineEventType, room::member::MembershipState},
    state_res::{
        StateMap,
        events::{RoomCreateEvent, RoomMemberEvent, RoomPowerLevelsEvent},
    },
};

use super::auth_chain::EventSet;
use crate::{
    error::Result,
    event::{
        Pdu,
        authorize::{Fallible, check_against_state},
    },
    room::View,
    store::{self, EventNid},
};

/// What a creator of a room has while it has no power levels.
const CREATOR_LEVEL: i32 = 100;

/// Decides between the events `considered`, the full conflicted set; `agreed` reads what all states agree on. The answer
/// has an event for each key that one of them is allowed for, whether the states disagree about it or not.
pub fn resolve(
    view: &View<'_>,
    considered: &EventSet,
    agreed: impl Fn(&StateEventType, &str) -> store::Result<Option<Arc<Pdu>>>,
) -> Result<StateMap<OwnedEventId>> {
    let mut resolution = Resolution { view, agreed, resolved: HashMap::new() };
    let first = power_events_with_chains(view, considered)?;
    let rest: Vec<EventNid> = considered.iter().filter(|event| !first.contains(*event)).collect();
    resolution.check_one_by_one(&by_power(view, &first)?)?;
    let sorted = resolution.by_mainline(&rest)?;
    resolution.check_one_by_one(&sorted)?;
    Ok(resolution.resolved.into_iter().map(|(key, event)| (key, event.event_id.clone())).collect())
}

/// Whether an event can take power from somebody.
///
/// <https://spec.matrix.org/v1.19/rooms/v2/#definitions>
fn is_power_event(event: &Pdu) -> bool {
    match event.event_type {
        TimelineEventType::RoomPowerLevels | TimelineEventType::RoomJoinRules | TimelineEventType::RoomCreate => {
            event.state_key.as_deref() == Some("")
        }
        TimelineEventType::RoomMember => {
            let removes = RoomMemberEvent::new(event)
                .membership()
                .is_ok_and(|membership| matches!(membership, MembershipState::Leave | MembershipState::Ban));
            removes && event.state_key.as_deref() != Some(event.sender.as_str())
        }
        _ => false,
    }
}

/// The power events among `considered`, and what a walk over their auth events finds that does not leave `considered`.
///
/// NOTSPEC: the specification takes whole chains, and with them an event that is reached only through one outside of the
/// set. The walks of Synapse and ruma end at the edge of the set, and all servers must come to the same state.
fn power_events_with_chains(view: &View<'_>, considered: &EventSet) -> Result<EventSet> {
    let mut found = EventSet::default();
    let mut open: Vec<EventNid> = Vec::new();
    for event in considered.iter() {
        if is_power_event(&*view.pdu(event)?) {
            open.push(event);
        }
    }
    while let Some(event) = open.pop() {
        if !found.contains(event) {
            found.insert(event);
            open.extend(auth_events_within(view, &*view.pdu(event)?, considered)?);
        }
    }
    Ok(found)
}

/// Events in the reverse topological power ordering.
///
/// <https://spec.matrix.org/v1.19/rooms/v2/#definitions>
fn by_power(view: &View<'_>, events: &EventSet) -> Result<Vec<Arc<Pdu>>> {
    let mut waits_for: HashMap<EventNid, usize> = HashMap::new();
    let mut followers: HashMap<EventNid, Vec<EventNid>> = HashMap::new();
    let mut ready = BinaryHeap::new();
    let make_ready = |event: EventNid, ready: &mut BinaryHeap<_>| -> Result<()> {
        let pdu = view.pdu(event)?;
        let level = level_of_sender(view, &pdu)?;
        ready.push(Reverse((Reverse(level), pdu.origin_server_ts, pdu.event_id.clone(), event)));
        Ok(())
    };
    for event in events.iter() {
        let auth_events = auth_events_within(view, &*view.pdu(event)?, events)?;
        if auth_events.is_empty() {
            make_ready(event, &mut ready)?;
        }
        waits_for.insert(event, auth_events.len());
        auth_events.into_iter().for_each(|earlier| followers.entry(earlier).or_default().push(event));
    }
    let mut sorted = Vec::new();
    while let Some(Reverse((.., event))) = ready.pop() {
        sorted.push(view.pdu(event)?);
        for follower in followers.remove(&event).unwrap_or_default() {
            if let Some(count) = waits_for.get_mut(&follower) {
                *count -= 1;
                if *count == 0 {
                    make_ready(follower, &mut ready)?;
                }
            }
        }
    }
    Ok(sorted)
}

/// The auth events of an event, each once.
fn auth_events(view: &View<'_>, event: &Pdu) -> Result<Vec<EventNid>> {
    let found = event.auth_events.iter().filter_map(|id| view.event_nid(id).transpose());
    let mut found = found.collect::<store::Result<Vec<EventNid>>>()?;
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

fn auth_events_within(view: &View<'_>, event: &Pdu, set: &EventSet) -> Result<Vec<EventNid>> {
    let mut found = auth_events(view, event)?;
    found.retain(|auth_event| set.contains(*auth_event));
    Ok(found)
}

/// The auth event of that type that is the room's and nobody's in particular.
fn auth_event(view: &View<'_>, event: &Pdu, event_type: &TimelineEventType) -> Result<Option<Arc<Pdu>>> {
    for auth_event in auth_events(view, event)? {
        let pdu = view.pdu(auth_event)?;
        if pdu.event_type == *event_type && pdu.state_key.as_deref() == Some("") {
            return Ok(Some(pdu));
        }
    }
    Ok(None)
}

/// The power level of an event's sender, as its auth events have it. Levels of the wrong form count as none: events with
/// such auth events are allowed by nothing.
fn level_of_sender(view: &View<'_>, event: &Pdu) -> Result<Int> {
    let rules = &view.rules.authorization;
    if let Some(levels) = auth_event(view, event, &TimelineEventType::RoomPowerLevels)? {
        return Ok(RoomPowerLevelsEvent::new(levels).user_power_level(&event.sender, rules).unwrap_or_default());
    }
    let create = auth_event(view, event, &TimelineEventType::RoomCreate)?;
    let creators = create.and_then(|create| RoomCreateEvent::new(create).creators(rules).ok());
    let is_creator = creators.is_some_and(|creators| creators.contains(&event.sender));
    Ok(Int::from(if is_creator { CREATOR_LEVEL } else { 0 }))
}

/// What is decided so far, on top of what was never in question.
struct Resolution<'v, 's, A> {
    view: &'v View<'s>,
    agreed: A,
    resolved: HashMap<(StateEventType, String), Arc<Pdu>>,
}

impl<A: Fn(&StateEventType, &str) -> store::Result<Option<Arc<Pdu>>>> Resolution<'_, '_, A> {
    fn current(&self, event_type: &StateEventType, state_key: &str) -> store::Result<Option<Arc<Pdu>>> {
        match self.resolved.get(&(event_type.clone(), state_key.to_owned())) {
            Some(event) => Ok(Some(Arc::clone(event))),
            None => (self.agreed)(event_type, state_key),
        }
    }

    /// The iterative auth checks: each event that is allowed after those before it becomes part of the state.
    fn check_one_by_one(&mut self, events: &[Arc<Pdu>]) -> Result<()> {
        for event in events {
            let Some(state_key) = event.state_key.clone().filter(|_| !event.rejected) else { continue };
            let mut own: BTreeMap<(String, String), Arc<Pdu>> = BTreeMap::new();
            for auth_event in auth_events(self.view, event)? {
                let pdu = self.view.pdu(auth_event)?;
                if let Some(state_key) = pdu.state_key.clone().filter(|_| !pdu.rejected) {
                    own.insert((pdu.event_type.to_string(), state_key), pdu);
                }
            }
            let failed = Fallible::default();
            let allowed = check_against_state(self.view.rules, event, |event_type, state_key| {
                let current = failed.keep(self.current(event_type, state_key));
                current.or_else(|| own.get(&(event_type.to_string(), state_key.to_owned())).cloned())
            });
            if failed.check(allowed)?.is_ok() {
                self.resolved.insert((event.r#type.as_str().into(), state_key), Arc::clone(event));
            }
        }
        Ok(())
    }

    /// The mainline ordering, by the power levels decided so far.
    ///
    /// <https://spec.matrix.org/v1.19/rooms/v2/#definitions>
    fn by_mainline(&self, events: &[EventNid]) -> Result<Vec<Arc<Pdu>>> {
        let mut places: HashMap<OwnedEventId, usize> = HashMap::new();
        let mut next = self.current(&StateEventType::RoomPowerLevels, "")?;
        while let Some(levels) = next {
            places.insert(levels.event_id.clone(), places.len());
            next = auth_event(self.view, &levels, &TimelineEventType::RoomPowerLevels)?;
        }
        let none = places.len();
        let mut sorted = Vec::with_capacity(events.len());
        for &event in events {
            let event = self.view.pdu(event)?;
            let mut passed: Vec<OwnedEventId> = Vec::new();
            let mut next = Some(Arc::clone(&event));
            let mut place = none;
            while let Some(levels) = next {
                if let Some(&known) = places.get(&levels.event_id) {
                    place = known;
                    break;
                }
                passed.push(levels.event_id.clone());
                next = auth_event(self.view, &levels, &TimelineEventType::RoomPowerLevels)?;
            }
            places.extend(iter::zip(passed, iter::repeat(place)));
            sorted.push((place, event));
        }
        sorted.sort_by(|(place, event), (other_place, other)| {
            let key = |place: usize, event: &Pdu| (Reverse(place), event.origin_server_ts, event.event_id.clone());
            key(*place, event).cmp(&key(*other_place, other))
        });
        Ok(sorted.into_iter().map(|(_, event)| event).collect())
    }
}
