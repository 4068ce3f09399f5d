//! State resolution as the specification words it, with no thought for speed: what the real one is compared with.
//!
//! Only the authorization rules are shared with the server; they have tests of their own.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use ruma::{
    OwnedEventId,
    events::{StateEventType, TimelineEventType},
    room_version_rules::{RoomVersionRules, StateResolutionVersion},
};
use serde_json::Value;
use sha1::{Digest, Sha1};

use crate::event::{Pdu, authorize};

/// Event type and state key.
pub type Key = (String, String);
pub type State = BTreeMap<Key, OwnedEventId>;

/// All events of a room.
pub struct Reference {
    pub rules: &'static RoomVersionRules,
    pub create: OwnedEventId,
    pub events: HashMap<OwnedEventId, Arc<Pdu>>,
}

pub fn key_of(event: &Pdu) -> Option<Key> {
    Some((event.event_type.to_string(), event.state_key.clone()?))
}

impl Reference {
    pub fn resolve(&self, states: &[State]) -> State {
        let keys: BTreeSet<&Key> = states.iter().flat_map(State::keys).collect();
        let (mut unconflicted, mut conflicts) = (State::new(), BTreeMap::<Key, BTreeSet<OwnedEventId>>::new());
        for key in keys {
            let found: BTreeSet<Option<&OwnedEventId>> = states.iter().map(|state| state.get(key)).collect();
            match found.iter().collect::<Vec<_>>().as_slice() {
                [Some(only)] => drop(unconflicted.insert(key.clone(), (*only).clone())),
                several => {
                    let events = several.iter().filter_map(|event| event.cloned()).collect();
                    conflicts.insert(key.clone(), events);
                }
            }
        }
        match &self.rules.state_res {
            StateResolutionVersion::V1 => {
                // There is a conflict where states have different events, not where some have none.
                let (alone, conflicts): (BTreeMap<_, _>, _) =
                    conflicts.into_iter().partition(|(_, ids)| ids.len() == 1);
                unconflicted
                    .extend(alone.into_iter().flat_map(|(key, ids)| ids.into_iter().map(move |id| (key.clone(), id))));
                self.resolve_v1(unconflicted, &conflicts)
            }
            StateResolutionVersion::V2(rules) => {
                let starts_empty = rules.begin_iterative_auth_checks_with_empty_state_map;
                self.resolve_v2(
                    states,
                    unconflicted,
                    &conflicts,
                    starts_empty,
                    rules.consider_conflicted_state_subgraph,
                )
            }
            other => panic!("{other:?} is new"),
        }
    }

    /// <https://spec.matrix.org/v1.19/rooms/v1/#state-resolution>
    fn resolve_v1(&self, mut state: State, conflicts: &BTreeMap<Key, BTreeSet<OwnedEventId>>) -> State {
        let sorted = |ids: &BTreeSet<OwnedEventId>| {
            let mut events: Vec<&Arc<Pdu>> = ids.iter().map(|id| &self.events[id]).collect();
            events.sort_by_key(|event| (event.depth, Reverse(Sha1::digest(event.event_id.as_bytes()).to_vec())));
            events
        };
        let passes = ["m.room.power_levels", "m.room.join_rules", "m.room.member"];
        for pass in passes {
            let before = state.clone();
            for (key, ids) in conflicts.iter().filter(|(key, _)| key.0 == pass) {
                let mut seen = before.clone();
                for event in sorted(ids) {
                    if seen.get(key) != before.get(key) && !self.is_allowed(event, &seen, false) {
                        break;
                    }
                    seen.insert(key.clone(), event.event_id.clone());
                }
                state.insert(key.clone(), seen[key].clone());
            }
        }
        let before = state.clone();
        for (key, ids) in conflicts.iter().filter(|(key, _)| !passes.contains(&key.0.as_str())) {
            let newest = sorted(ids).into_iter().rev().find(|event| self.is_allowed(event, &before, false));
            state.extend(newest.map(|event| (key.clone(), event.event_id.clone())));
        }
        state
    }

    /// <https://spec.matrix.org/v1.19/rooms/v2/#state-resolution>, and what
    /// <https://spec.matrix.org/v1.19/rooms/v12/#state-resolution> changes.
    fn resolve_v2(
        &self,
        states: &[State],
        unconflicted: State,
        conflicts: &BTreeMap<Key, BTreeSet<OwnedEventId>>,
        starts_empty: bool,
        with_subgraph: bool,
    ) -> State {
        let conflicted: BTreeSet<OwnedEventId> = conflicts.values().flatten().cloned().collect();
        let mut full = conflicted.clone();
        // NOTSPEC: the events of a state count as part of its chain; `Conflict::auth_chains` says why.
        let chains: Vec<BTreeSet<OwnedEventId>> =
            states.iter().map(|state| state.values().flat_map(|id| self.with_chain(id)).collect()).collect();
        let all = chains.iter().flatten();
        full.extend(all.filter(|id| !chains.iter().all(|chain| chain.contains(*id))).cloned());
        if with_subgraph {
            full.extend(self.between(&conflicted));
        }

        let is_power = |id: &&OwnedEventId| is_power_event(&self.events[*id]);
        let power: BTreeSet<OwnedEventId> =
            full.iter().filter(is_power).flat_map(|id| self.with_chain_within(&full, id)).collect();
        let start = if starts_empty { State::new() } else { unconflicted.clone() };
        let partial = self.checked_one_by_one(&self.by_power(&power), start);
        let rest: Vec<&OwnedEventId> = full.difference(&power).collect();
        let mut resolved = self.checked_one_by_one(&self.by_mainline(rest, &partial), partial);
        resolved.extend(unconflicted);
        resolved
    }

    fn auth_events(&self, id: &OwnedEventId) -> impl Iterator<Item = &Arc<Pdu>> {
        self.events[id].auth_events.iter().map(|id| &self.events[id])
    }

    /// An event and its auth chain.
    fn with_chain(&self, id: &OwnedEventId) -> BTreeSet<OwnedEventId> {
        let mut found = BTreeSet::from([id.clone()]);
        let mut open = vec![id.clone()];
        while let Some(id) = open.pop() {
            open.extend(self.events[&id].auth_events.iter().filter(|id| found.insert((*id).clone())).cloned());
        }
        found
    }

    /// An event and what a walk over auth events finds that does not leave `set`.
    ///
    /// NOTSPEC: the power ordering of the specification takes whole chains, and with them an event that is reached
    /// only through one outside of the set. Synapse's and ruma's walks end at the edge of the set; a server that went
    /// on would disagree with both about the state of a room.
    fn with_chain_within(&self, set: &BTreeSet<OwnedEventId>, id: &OwnedEventId) -> BTreeSet<OwnedEventId> {
        let mut found = BTreeSet::from([id.clone()]);
        let mut open = vec![id.clone()];
        while let Some(id) = open.pop() {
            let auth_events = self.events[&id].auth_events.iter().filter(|id| set.contains(*id));
            open.extend(auth_events.filter(|id| found.insert((*id).clone())).cloned());
        }
        found
    }

    /// What is in the chain of one of `ends` and has another of them in its own.
    fn between(&self, ends: &BTreeSet<OwnedEventId>) -> BTreeSet<OwnedEventId> {
        let below: BTreeSet<OwnedEventId> = ends.iter().flat_map(|id| self.with_chain(id)).collect();
        below.into_iter().filter(|id| !self.with_chain(id).is_disjoint(ends)).collect()
    }

    /// The reverse topological power ordering.
    fn by_power(&self, events: &BTreeSet<OwnedEventId>) -> Vec<OwnedEventId> {
        let mut waiting = events.clone();
        let mut sorted = Vec::new();
        while !waiting.is_empty() {
            let is_free = |id: &&OwnedEventId| {
                self.with_chain_within(events, id).intersection(&waiting).count() == 1 // itself
            };
            let next = waiting.iter().filter(is_free).min_by_key(|id| {
                let event = &self.events[*id];
                (Reverse(self.level_of_sender(event)), event.origin_server_ts, (*id).clone())
            });
            let next = next.expect("the chains are no circle").clone();
            waiting.remove(&next);
            sorted.push(next);
        }
        sorted
    }

    /// The level of an event's sender, as its auth events have it.
    fn level_of_sender(&self, event: &Pdu) -> i64 {
        let creator = &self.events[&self.create].sender;
        if self.rules.authorization.explicitly_privilege_room_creators && event.sender == *creator {
            return i64::MAX;
        }
        let mut auth_events = self.auth_events(&event.event_id);
        match auth_events.find(|auth_event| auth_event.event_type == TimelineEventType::RoomPowerLevels) {
            Some(levels) => {
                let levels: Value = serde_json::from_str(levels.content.get()).unwrap();
                let level = levels["users"].get(event.sender.as_str()).or_else(|| levels.get("users_default"));
                level.and_then(Value::as_i64).unwrap_or(0)
            }
            None if event.sender == *creator => 100,
            None => 0,
        }
    }

    /// The mainline ordering, by the power levels of `state`.
    fn by_mainline(&self, mut events: Vec<&OwnedEventId>, state: &State) -> Vec<OwnedEventId> {
        let levels_of = |id: &OwnedEventId| {
            let mut levels =
                self.auth_events(id).filter(|auth_event| auth_event.event_type == TimelineEventType::RoomPowerLevels);
            levels.next().map(|levels| levels.event_id.clone())
        };
        let newest = state.get(&("m.room.power_levels".to_owned(), String::new())).cloned();
        let mainline: Vec<OwnedEventId> = std::iter::successors(newest, levels_of).collect();
        let place = |id: &OwnedEventId| {
            let mut line = std::iter::successors(Some(id.clone()), levels_of);
            let closest = line.find_map(|id| mainline.iter().position(|levels| *levels == id));
            closest.unwrap_or(mainline.len())
        };
        events.sort_by_key(|id| (Reverse(place(id)), self.events[*id].origin_server_ts, (*id).clone()));
        events.into_iter().cloned().collect()
    }

    /// The iterative auth checks.
    fn checked_one_by_one(&self, events: &[OwnedEventId], mut state: State) -> State {
        for id in events {
            let event = &self.events[id];
            if self.is_allowed(event, &state, true) {
                state.insert(key_of(event).expect("only state events are resolved"), id.clone());
            }
        }
        state
    }

    /// Whether `event` is allowed in `state`, where its own auth events stand for what the state does not have.
    pub fn is_allowed(&self, event: &Pdu, state: &State, with_auth_events: bool) -> bool {
        let find = |event_type: &StateEventType, state_key: &str| {
            let key = (event_type.to_string(), state_key.to_owned());
            let own = || self.auth_events(&event.event_id).find(|event| key_of(event).as_ref() == Some(&key));
            // Since version 12 the create event is known without being named.
            let create = (key.0 == "m.room.create").then(|| &self.events[&self.create]);
            let found = state.get(&key).map(|id| &self.events[id]);
            found.or_else(|| if with_auth_events { own() } else { None }).or(create).cloned()
        };
        authorize::check_against_state(self.rules, event, find).is_ok()
    }
}

/// <https://spec.matrix.org/v1.19/rooms/v2/#definitions>
fn is_power_event(event: &Pdu) -> bool {
    match event.event_type {
        TimelineEventType::RoomPowerLevels | TimelineEventType::RoomJoinRules => true,
        TimelineEventType::RoomMember => {
            let content: Value = serde_json::from_str(event.content.get()).unwrap();
            matches!(content["membership"].as_str(), Some("leave" | "ban"))
                && event.state_key.as_deref() != Some(event.sender.as_str())
        }
        _ => false,
    }
}
