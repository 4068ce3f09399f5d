//! State resolution of room version 1, which ruma does not have.
//!
//! Known to bring back old state; later versions replaced it. Rooms of version 1 stay on it nonetheless, since all their
//! servers must come to the same state.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use ruma::{EventId, OwnedEventId, events::StateEventType, room_version_rules::RoomVersionRules};
use sha1::{Digest, Sha1};

use crate::event::{Pdu, authorize::check_against_state};

/// Type and state key.
pub type Key = (StateEventType, String);

/// Decides between the events that several states have for the same key.
///
/// `conflicts` holds, for each key on which the states differ, all the events that they have for it; `unconflicted` reads
/// what they agree on. The answer has one event for each conflicting key; keys of which no event is allowed are left
/// out. A conflicting event that `fetch` does not have does not take part: nothing can be said of it.
///
/// <https://spec.matrix.org/v1.19/rooms/v1/#state-resolution>
pub fn resolve(
    rules: &RoomVersionRules,
    conflicts: &BTreeMap<Key, BTreeSet<OwnedEventId>>,
    unconflicted: impl Fn(&StateEventType, &str) -> Option<Arc<Pdu>>,
    fetch: impl Fn(&EventId) -> Option<Arc<Pdu>>,
) -> HashMap<Key, OwnedEventId> {
    let mut resolution = Resolution { rules, unconflicted, resolved: HashMap::new() };
    let conflicts: Vec<(&Key, Vec<Arc<Pdu>>)> =
        conflicts.iter().map(|(key, ids)| (key, sorted(ids.iter().filter_map(|id| fetch(id)).collect()))).collect();
    for pass in [StateEventType::RoomPowerLevels, StateEventType::RoomJoinRules, StateEventType::RoomMember] {
        let of_this_pass = conflicts.iter().filter(|((event_type, _), _)| *event_type == pass);
        // All of a pass are decided in the same state, so that the order of the keys decides nothing.
        let decided: Vec<_> =
            of_this_pass.filter_map(|(key, events)| Some((*key, resolution.last_allowed(key, events)?))).collect();
        resolution.add(decided);
    }
    let others = conflicts.iter().filter(|((event_type, _), _)| !decides_authorization(event_type));
    let decided: Vec<_> = others.filter_map(|(key, events)| Some((*key, resolution.newest_allowed(events)?))).collect();
    resolution.add(decided);
    resolution.resolved.into_iter().map(|(key, event)| (key, event.event_id.clone())).collect()
}

fn decides_authorization(event_type: &StateEventType) -> bool {
    matches!(event_type, StateEventType::RoomPowerLevels | StateEventType::RoomJoinRules | StateEventType::RoomMember)
}

/// Ascending by depth, then descending by the SHA-1 of the event id.
fn sorted(mut events: Vec<Arc<Pdu>>) -> Vec<Arc<Pdu>> {
    events
        .sort_by_cached_key(|event| (event.depth, Reverse(<[u8; 20]>::from(Sha1::digest(event.event_id.as_bytes())))));
    events
}

/// What is decided so far, on top of what was never in question.
struct Resolution<'a, U> {
    rules: &'a RoomVersionRules,
    unconflicted: U,
    resolved: HashMap<Key, Arc<Pdu>>,
}

impl<U: Fn(&StateEventType, &str) -> Option<Arc<Pdu>>> Resolution<'_, U> {
    /// The first of `events`, or the last one that is allowed where each before it was allowed in its turn.
    fn last_allowed(&self, key: &Key, events: &[Arc<Pdu>]) -> Option<Arc<Pdu>> {
        let (first, rest) = events.split_first()?;
        let mut chosen = first;
        for event in rest {
            if !self.allows(event, Some((key, chosen))) {
                break;
            }
            chosen = event;
        }
        Some(chosen.clone())
    }

    /// The event of greatest depth, then lowest SHA-1, that is allowed.
    fn newest_allowed(&self, events: &[Arc<Pdu>]) -> Option<Arc<Pdu>> {
        events.iter().rev().find(|event| self.allows(event, None)).cloned()
    }

    /// Whether `event` is allowed in the state so far, with `chosen` in it for its key.
    fn allows(&self, event: &Pdu, chosen: Option<(&Key, &Arc<Pdu>)>) -> bool {
        let state = |event_type: &StateEventType, state_key: &str| {
            if let Some((key, chosen)) = chosen
                && key.0 == *event_type
                && key.1 == state_key
            {
                return Some(chosen.clone());
            }
            let key = (event_type.clone(), state_key.to_owned());
            self.resolved.get(&key).cloned().or_else(|| (self.unconflicted)(event_type, state_key))
        };
        check_against_state(self.rules, event, state).is_ok()
    }

    fn add(&mut self, decided: Vec<(&Key, Arc<Pdu>)>) {
        self.resolved.extend(decided.into_iter().map(|(key, event)| (key.clone(), event)));
    }
}
