//! Rooms in which people do whatever comes to their minds, from wherever in the room's graph they happen to stand.

use std::{collections::HashMap, sync::Arc};

use proptest::{collection::vec, prelude::*, test_runner::FileFailurePersistence};
use ruma::{MilliSecondsSinceUnixEpoch, OwnedEventId, RoomVersionId, UInt};
use serde_json::json;

use super::{
    Room, member, power_levels,
    reference::{Reference, State, key_of},
    state_of, topic,
};
use crate::{
    event::{
        Draft, Verified,
        authorize::auth_types,
        testing::{draft, user},
    },
    room::{append::Verdict, state::resolve},
};

const PEOPLE: [&str; 5] = ["alice", "bob", "carol", "dave", "eve"];

/// One event: who does what, after which of the latest events.
#[derive(Clone, Debug)]
struct Step {
    sender: usize,
    action: u8,
    target: usize,
    value: i64,
    after: Vec<usize>,
    time: u64,
}

impl Step {
    fn draft(&self, room: &Room) -> Draft {
        let (sender, target) = (PEOPLE[self.sender], PEOPLE[self.target]);
        let mut draft = match self.action {
            0 => topic(&self.value.to_string()),
            1 => draft("m.room.name", Some(""), &json!({ "name": self.value })),
            2 | 3 => power_levels(&room.forge, &[("bob", 50), (target, self.value * 25)]),
            4 => power_levels(&room.forge, &[("bob", self.value * 25), ("carol", 50)]),
            5 => {
                let rule = ["public", "invite", "knock"][usize::try_from(self.value % 3).unwrap()];
                draft("m.room.join_rules", Some(""), &json!({ "join_rule": rule }))
            }
            6 => member(target, "invite", target),
            7 => member(target, "leave", target),
            8 => member(target, "ban", target),
            9 => member(sender, "leave", sender),
            10 | 11 => {
                // Somebody's, where rooms have that; nobody may send it elsewhere.
                let owned = format!("{}_phone", user(target));
                draft("x.owned", Some(&owned), &json!({ "value": self.value }))
            }
            _ => member(sender, "join", sender),
        };
        draft.origin_server_ts =
            Some(MilliSecondsSinceUnixEpoch(UInt::try_from(1_700_000_000_000 + self.time).unwrap()));
        draft
    }
}

fn step() -> impl Strategy<Value = Step> {
    let what = (0..5_usize, 0..14_u8, 0..5_usize, 0..5_i64);
    // Times that are often equal, and in no order: they decide between events of which neither came first.
    (what, vec(0..8_usize, 1..4), 0..4_u64).prop_map(|((sender, action, target, value), after, time)| Step {
        sender,
        action,
        target,
        value,
        after,
        time,
    })
}

/// A room of the server beside what it should be.
struct World {
    room: Room,
    reference: Reference,
    /// The state after each event that was not rejected.
    states: HashMap<OwnedEventId, State>,
    said: Vec<Verified>,
}

impl World {
    async fn new(version: RoomVersionId) -> Self {
        let room = Room::new(version, &[("bob", 50)]).await;
        let create = room.base[0].pdu().event_id.clone();
        let reference = Reference { rules: room.forge.rules, create, events: HashMap::new() };
        let base = room.base.clone();
        let mut world = Self { room, reference, states: HashMap::new(), said: Vec::new() };
        let mut state = State::new();
        for event in base {
            state.insert(key_of(event.pdu()).unwrap(), event.pdu().event_id.clone());
            world.know(&event);
            world.keep(event, state.clone());
        }
        for sender in 1..4 {
            let join = Step { sender, action: 13, target: 0, value: 0, after: vec![0], time: 0 };
            world.take(&join).await;
        }
        world
    }

    fn know(&mut self, event: &Verified) {
        self.reference.events.insert(event.pdu().event_id.clone(), Arc::new(event.pdu().clone()));
    }

    fn keep(&mut self, event: Verified, state: State) {
        self.states.insert(event.pdu().event_id.clone(), state);
        self.said.push(event);
    }

    /// Makes the event of a step, brings it in, and compares what the server makes of it.
    async fn take(&mut self, step: &Step) {
        let mut after: Vec<usize> = step.after.iter().map(|back| self.said.len().saturating_sub(1 + back)).collect();
        after.sort_unstable();
        after.dedup();
        let after: Vec<Verified> = after.into_iter().map(|place| self.said[place].clone()).collect();
        let states: Vec<State> = after.iter().map(|event| self.states[&event.pdu().event_id].clone()).collect();
        let before = self.reference.resolve(&states);

        let draft = step.draft(&self.room);
        let sender = PEOPLE[step.sender];
        let types = auth_types(
            &draft.event_type.as_str().into(),
            &user(sender),
            draft.state_key.as_deref(),
            &draft.content,
            self.reference.rules,
        );
        let auth: Vec<Verified> = types
            .unwrap()
            .into_iter()
            .filter_map(|(event_type, key)| before.get(&(event_type.to_string(), key)))
            .map(|id| self.said.iter().find(|event| event.pdu().event_id == *id).unwrap().clone())
            .collect();
        let (prev, auth) = (after.iter().collect::<Vec<_>>(), auth.iter().collect::<Vec<_>>());
        let auth = super::auth_of(&self.room.forge, &auth);
        let Ok(event) = self.room.forge.try_event(sender, draft, &prev, &auth) else { return };
        if self.reference.events.contains_key(&event.pdu().event_id) {
            return; // the same step from the same place, in versions whose ids are hashes
        }
        self.know(&event);
        let is_allowed = self.reference.is_allowed(event.pdu(), &before, true);
        let verdict = self.room.append(&event).await.verdict;
        assert_eq!(!matches!(verdict, Verdict::Rejected(_)), is_allowed, "{step:?}: {verdict:?}");
        if is_allowed {
            let mut state = before;
            state.insert(key_of(event.pdu()).unwrap(), event.pdu().event_id.clone());
            let id = event.pdu().event_id.clone();
            let is_same = self
                .room
                .read(|view| state_of(view, view.event_by_id(&id).unwrap().unwrap().state_after.unwrap()) == state);
            assert!(is_same, "the state after {step:?}");
            self.keep(event, state);
        }
    }

    /// What the server makes of the states after any events, which need not be ends of the graph.
    fn compare(&self, some: &[usize]) {
        let some: Vec<&OwnedEventId> =
            some.iter().map(|place| &self.said[place % self.said.len()].pdu().event_id).collect();
        let states: Vec<State> = some.iter().map(|id| self.states[*id].clone()).collect();
        let resolved = self.room.read(|view| {
            let mut tries = view.tries();
            let roots: Vec<_> =
                some.iter().map(|id| view.event_by_id(id).unwrap().unwrap().state_after.unwrap()).collect();
            let root = resolve(view, &mut tries, &roots).unwrap();
            let entries = tries.list(root).unwrap().into_iter().map(|(key, event)| {
                let name = view.state_key_name(key).unwrap();
                ((name.event_type, name.state_key), view.event_id(event).unwrap())
            });
            entries.collect::<State>()
        });
        assert_eq!(resolved, self.reference.resolve(&states), "of the states after {some:?}");
    }

    fn compare_current_state(&self) {
        let ends: Vec<OwnedEventId> =
            self.room.read(|view| view.forward_extremities().iter().map(|end| view.event_id(*end).unwrap()).collect());
        let states: Vec<State> = ends.iter().map(|id| self.states[id].clone()).collect();
        assert_eq!(self.room.state(), self.reference.resolve(&states));
    }
}

/// As many as `PROPTEST_CASES` says: `PROPTEST_CASES=1000 cargo test --release --locked --lib whatever_people_do` takes a
/// quarter of an hour.
fn cases() -> u32 {
    if std::env::var_os("PROPTEST_CASES").is_some() { ProptestConfig::default().cases } else { 12 }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: cases(),
        // Cases that failed once are kept beside this file, and tried first.
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("failed"))),
        ..ProptestConfig::default()
    })]

    #[test]
    fn whatever_people_do_the_state_is_what_the_specification_makes_of_it(
        steps in vec(step(), 10..40),
        unions in vec(vec(0..40_usize, 2..5), 20),
    ) {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let owned = RoomVersionId::try_from("org.matrix.msc3757.11").unwrap();
        for version in [RoomVersionId::V1, RoomVersionId::V6, RoomVersionId::V11, RoomVersionId::V12, owned] {
            runtime.block_on(async {
                let mut world = World::new(version).await;
                for step in &steps {
                    world.take(step).await;
                }
                world.compare_current_state();
                unions.iter().for_each(|some| world.compare(some));
            });
        }
    }
}
