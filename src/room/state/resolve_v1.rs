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

#[cfg(test)]
mod tests {
    use ruma::{RoomVersionId, room_version_rules::RoomVersionRules};
    use serde_json::{Value, json};

    use super::*;
    use crate::event::{
        Verified,
        testing::{Forge, draft, user},
    };

    /// A room of alice (level 100), bob (50) and carol (0), in which they fork the state.
    struct Fork {
        forge: Forge,
        agreed: Vec<Verified>,
        made: Vec<Verified>,
    }

    impl Fork {
        fn new() -> Self {
            let mut fork = Self { forge: Forge::new(RoomVersionId::V1), agreed: Vec::new(), made: Vec::new() };
            let create = fork.forge.create("alice");
            fork.agreed.push(create);
            fork.agree("alice", "m.room.member", "@alice:domain", &json!({ "membership": "join" }));
            fork.agree("alice", "m.room.power_levels", "", &levels(&[("alice", 100), ("bob", 50)]));
            fork.agree("alice", "m.room.join_rules", "", &json!({ "join_rule": "public" }));
            for name in ["bob", "carol"] {
                fork.agree(name, "m.room.member", user(name).as_str(), &json!({ "membership": "join" }));
            }
            fork
        }

        fn event(
            &mut self,
            sender: &str,
            event_type: &str,
            state_key: &str,
            content: &Value,
            after: &[&Verified],
        ) -> Verified {
            self.forge.event(sender, draft(event_type, Some(state_key), content), after, &[])
        }

        fn agree(&mut self, sender: &str, event_type: &str, state_key: &str, content: &Value) {
            let after = self.agreed.last().unwrap().clone();
            let event = self.event(sender, event_type, state_key, content, &[&after]);
            self.agreed.push(event);
        }

        /// A state event of which some of the states to be resolved know; its depth is `depth`.
        fn conflicting(
            &mut self,
            depth: u64,
            sender: &str,
            event_type: &str,
            state_key: &str,
            content: &Value,
        ) -> OwnedEventId {
            let mut after = self.agreed[0].clone();
            while after.pdu().depth + 1 < depth {
                after = self.event("alice", "x", "", &json!({}), &[&after]);
            }
            let event = self.event(sender, event_type, state_key, content, &[&after]);
            assert_eq!(event.pdu().depth, depth);
            self.made.push(event.clone());
            event.pdu().event_id.clone()
        }

        /// What the states come to, of which each key in question has the events given.
        fn resolve(&self, conflicts: &[&[&OwnedEventId]]) -> HashMap<Key, OwnedEventId> {
            let find = |id: &EventId| {
                let all = self.made.iter().chain(&self.agreed);
                all.map(Verified::pdu).find(|pdu| pdu.event_id == id).map(|pdu| Arc::new(pdu.clone()))
            };
            let conflicts: BTreeMap<Key, BTreeSet<OwnedEventId>> = conflicts
                .iter()
                .map(|ids| (key_of(&find(ids[0]).unwrap()), ids.iter().map(|&id| id.clone()).collect()))
                .collect();
            let unconflicted = |event_type: &StateEventType, state_key: &str| {
                let key = (event_type.clone(), state_key.to_owned());
                let agreed = self.agreed.iter().map(Verified::pdu).find(|pdu| key_of(pdu) == key)?;
                (!conflicts.contains_key(&key)).then(|| Arc::new(agreed.clone()))
            };
            resolve(&RoomVersionRules::V1, &conflicts, unconflicted, find)
        }

        fn agreed(&self, event_type: &str, state_key: &str) -> OwnedEventId {
            let key = (StateEventType::from(event_type), state_key.to_owned());
            self.agreed.iter().map(Verified::pdu).find(|pdu| key_of(pdu) == key).unwrap().event_id.clone()
        }
    }

    fn key_of(pdu: &Pdu) -> Key {
        (pdu.event_type.to_string().into(), pdu.state_key.clone().unwrap())
    }

    fn levels(users: &[(&str, i64)]) -> Value {
        let users: serde_json::Map<_, _> =
            users.iter().map(|(name, level)| (user(name).to_string(), json!(level))).collect();
        json!({ "users": users, "state_default": 50 })
    }

    fn winner(resolved: &HashMap<Key, OwnedEventId>, event_type: &str, state_key: &str) -> Option<OwnedEventId> {
        resolved.get(&(StateEventType::from(event_type), state_key.to_owned())).cloned()
    }

    #[test]
    fn without_conflicts_there_is_nothing_to_resolve() {
        assert!(Fork::new().resolve(&[]).is_empty());
    }

    #[test]
    fn of_power_levels_each_must_be_allowed_by_the_one_before() {
        let mut fork = Fork::new();
        let first = fork.agreed("m.room.power_levels", "");
        let by_alice =
            fork.conflicting(20, "alice", "m.room.power_levels", "", &levels(&[("alice", 100), ("bob", 10)]));
        let by_bob = fork.conflicting(
            21,
            "bob",
            "m.room.power_levels",
            "",
            &levels(&[("alice", 100), ("bob", 50), ("carol", 50)]),
        );
        let later = fork.conflicting(22, "alice", "m.room.power_levels", "", &levels(&[("alice", 100)]));
        let resolved = |ids: &[&OwnedEventId]| winner(&fork.resolve(&[ids]), "m.room.power_levels", "").unwrap();
        assert_eq!(resolved(&[&first, &by_alice]), by_alice);
        assert_eq!(resolved(&[&first, &by_bob]), by_bob);
        assert_eq!(resolved(&[&first, &by_alice, &by_bob]), by_alice, "bob had lost his level");
        assert_eq!(resolved(&[&first, &by_alice, &by_bob, &later]), by_alice, "it ends at the first that is refused");
    }

    #[test]
    fn the_first_of_a_list_needs_no_permission() {
        let mut fork = Fork::new();
        let first = fork.agreed("m.room.power_levels", "");
        let by_carol = fork.conflicting(2, "carol", "m.room.power_levels", "", &levels(&[("carol", 100)]));
        let resolved = fork.resolve(&[&[&first, &by_carol]]);
        assert_eq!(
            winner(&resolved, "m.room.power_levels", "").unwrap(),
            by_carol,
            "its depth is below that of the other"
        );
    }

    #[test]
    fn members_are_decided_with_the_levels_and_join_rules_just_decided() {
        let mut fork = Fork::new();
        let first = fork.agreed("m.room.power_levels", "");
        let demoted = fork.conflicting(20, "alice", "m.room.power_levels", "", &levels(&[("alice", 100)]));
        let carol = fork.agreed("m.room.member", "@carol:domain");
        let banned = fork.conflicting(21, "bob", "m.room.member", "@carol:domain", &json!({ "membership": "ban" }));
        let with_levels = fork.resolve(&[&[&first, &demoted], &[&carol, &banned]]);
        assert_eq!(winner(&with_levels, "m.room.member", "@carol:domain").unwrap(), carol);
        let without = fork.resolve(&[&[&carol, &banned]]);
        assert_eq!(winner(&without, "m.room.member", "@carol:domain").unwrap(), banned);

        let public = fork.agreed("m.room.join_rules", "");
        let invite = fork.conflicting(20, "alice", "m.room.join_rules", "", &json!({ "join_rule": "invite" }));
        let left = fork.conflicting(19, "dan", "m.room.member", "@dan:domain", &json!({ "membership": "leave" }));
        let joined = fork.conflicting(22, "dan", "m.room.member", "@dan:domain", &json!({ "membership": "join" }));
        let closed = fork.resolve(&[&[&public, &invite], &[&left, &joined]]);
        assert_eq!(winner(&closed, "m.room.join_rules", "").unwrap(), invite);
        assert_eq!(winner(&closed, "m.room.member", "@dan:domain").unwrap(), left);
        let open = fork.resolve(&[&[&left, &joined]]);
        assert_eq!(winner(&open, "m.room.member", "@dan:domain").unwrap(), joined);
    }

    #[test]
    fn members_of_one_pass_do_not_decide_about_each_other() {
        let mut fork = Fork::new();
        let (bob, carol) = (fork.agreed("m.room.member", "@bob:domain"), fork.agreed("m.room.member", "@carol:domain"));
        let bob_left = fork.conflicting(20, "bob", "m.room.member", "@bob:domain", &json!({ "membership": "leave" }));
        let kick = fork.conflicting(21, "bob", "m.room.member", "@carol:domain", &json!({ "membership": "leave" }));
        let resolved = fork.resolve(&[&[&bob, &bob_left], &[&carol, &kick]]);
        assert_eq!(winner(&resolved, "m.room.member", "@bob:domain").unwrap(), bob_left);
        assert_eq!(
            winner(&resolved, "m.room.member", "@carol:domain").unwrap(),
            carol,
            "while members are decided nobody knows whether bob is one"
        );
    }

    #[test]
    fn of_other_events_the_deepest_that_is_allowed_wins() {
        let mut fork = Fork::new();
        let topic = |text: &str| json!({ "topic": text });
        let old = fork.conflicting(20, "alice", "m.room.topic", "", &topic("old"));
        let new = fork.conflicting(21, "bob", "m.room.topic", "", &topic("new"));
        let by_carol = fork.conflicting(22, "carol", "m.room.topic", "", &topic("refused"));
        let resolved = |ids: &[&OwnedEventId]| winner(&fork.resolve(&[ids]), "m.room.topic", "");
        assert_eq!(resolved(&[&old, &new, &by_carol]), Some(new.clone()));
        assert_eq!(resolved(&[&by_carol, &old]), Some(old.clone()));
        assert_eq!(resolved(&[&by_carol]), None);
        let first = fork.agreed("m.room.power_levels", "");
        let demoted = fork.conflicting(23, "alice", "m.room.power_levels", "", &levels(&[("alice", 100)]));
        let with_levels = fork.resolve(&[&[&first, &demoted], &[&old, &new, &by_carol]]);
        assert_eq!(winner(&with_levels, "m.room.topic", ""), Some(old), "bob has lost his level");
    }

    #[test]
    fn of_equal_depth_the_lowest_hash_of_the_id_decides() {
        let mut fork = Fork::new();
        let ids: Vec<OwnedEventId> =
            (0..8).map(|n| fork.conflicting(20, "alice", "m.room.topic", "", &json!({ "topic": n }))).collect();
        let lowest = ids.iter().min_by_key(|id| <[u8; 20]>::from(Sha1::digest(id.as_bytes()))).unwrap();
        let resolved = fork.resolve(&[&ids.iter().collect::<Vec<_>>()]);
        assert_eq!(winner(&resolved, "m.room.topic", "").as_ref(), Some(lowest));

        let ids: Vec<OwnedEventId> = (0..8)
            .map(|n| fork.conflicting(30, "alice", "m.room.power_levels", "", &levels(&[("alice", 100), ("bob", n)])))
            .collect();
        let lowest = ids.iter().min_by_key(|id| <[u8; 20]>::from(Sha1::digest(id.as_bytes()))).unwrap();
        let resolved = fork.resolve(&[&ids.iter().collect::<Vec<_>>()]);
        assert_eq!(winner(&resolved, "m.room.power_levels", "").as_ref(), Some(lowest), "the last of the sorted list");
    }

    #[test]
    fn an_event_that_nobody_has_takes_no_part() {
        let mut fork = Fork::new();
        let topic = fork.conflicting(20, "alice", "m.room.topic", "", &json!({}));
        let missing = EventId::parse("$missing:domain").unwrap();
        let resolved = fork.resolve(&[&[&topic, &missing]]);
        assert_eq!(winner(&resolved, "m.room.topic", ""), Some(topic));
    }
}
