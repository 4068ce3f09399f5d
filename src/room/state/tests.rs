//! Forked rooms, made of real signed events and brought in through the one door.

mod random;
mod reference;

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
};

use ruma::{MilliSecondsSinceUnixEpoch, OwnedEventId, RoomVersionId, UInt};
use serde_json::json;

use super::resolve;
use crate::{
    Server,
    clock::Clock,
    config::Config,
    event::{
        Draft, StateRoot, Verified,
        rules::SUPPORTED,
        testing::{Forge, draft, user},
    },
    random::Random,
    room::{
        View,
        append::{Appended, Incoming, Verdict, take_in},
        founding::found,
    },
    store::RoomNid,
};

/// A room and the server that it is on.
struct Room {
    server: Arc<Server>,
    forge: Forge,
    nid: RoomNid,
    /// Create, alice's join, power levels, join rules.
    base: Vec<Verified>,
    _directory: tempfile::TempDir,
}

impl Room {
    /// A public room of alice's, who may do everything; moderators are those in `levels`.
    async fn new(version: RoomVersionId, levels: &[(&str, i64)]) -> Self {
        let mut forge = Forge::new(version);
        let create = forge.create("alice");
        let join = forge.member("alice", "alice", "join", &[&create], &auth_of(&forge, &[&create]));
        let levels = power_levels(&forge, levels);
        let power = forge.event("alice", levels, &[&join], &auth_of(&forge, &[&create, &join]));
        let rules = draft("m.room.join_rules", Some(""), &json!({ "join_rule": "public" }));
        let rules = forge.event("alice", rules, &[&power], &auth_of(&forge, &[&create, &join, &power]));
        let base = vec![create, join, power, rules];
        Self::holding(forge, base).await
    }

    async fn holding(forge: Forge, base: Vec<Verified>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut config = Config::for_tests("here");
        directory.path().clone_into(&mut config.database_path);
        let open = || Server::open(config, Clock::manual(0), Random::from_seed(0)).unwrap();
        let server = tokio::task::spawn_blocking(open).await.unwrap();
        found(&server, forge.version.clone(), base.clone(), |_, _| Ok(())).await.unwrap();
        let snapshot = server.store.snapshot();
        let nid = View::open(&server.rooms, &snapshot, forge.room_id.as_ref().unwrap()).unwrap().unwrap().nid;
        drop(snapshot);
        Self { server, forge, nid, base, _directory: directory }
    }

    async fn append(&self, event: &Verified) -> Appended {
        take_in(&self.server, self.nid, vec![Incoming::live(event.clone())]).await.unwrap().remove(0)
    }

    /// Makes an event after `prev`, allowed by `auth` and the create event, and brings it in.
    async fn send(&mut self, sender: &str, mut what: Draft, prev: &Verified, auth: &[&Verified]) -> Verified {
        let auth = auth_of(&self.forge, &[&[&self.base[0]], auth].concat());
        // One after the other, since resolution orders by time what the graph does not.
        let later = UInt::try_from(1_700_000_000_000 + prev.pdu().depth).unwrap();
        what.origin_server_ts = Some(MilliSecondsSinceUnixEpoch(later));
        let event = self.forge.event(sender, what, &[prev], &auth);
        self.append(&event).await;
        event
    }

    fn read<R>(&self, read: impl FnOnce(&View<'_>) -> R) -> R {
        let snapshot = self.server.store.snapshot();
        read(&View::of(&self.server.rooms, &snapshot, self.nid).unwrap())
    }

    /// The current state, as ids by type and state key.
    fn state(&self) -> BTreeMap<(String, String), OwnedEventId> {
        self.read(|view| state_of(view, view.current_state()))
    }

    fn has(&self, event: &Verified) -> bool {
        self.state().values().any(|id| *id == event.pdu().event_id)
    }

    /// A state of exactly these events, which need not be one that the graph ever had.
    fn contrive(&self, view: &View<'_>, tries: &mut super::trie::Tries<'_>, events: &[&Verified]) -> StateRoot {
        let mut root = StateRoot::EMPTY;
        for event in events {
            let pdu = event.pdu();
            let key = view.state_key_nid(&pdu.event_type.to_string(), pdu.state_key.as_deref().unwrap());
            let nid = view.event_nid(&pdu.event_id).unwrap();
            root = tries.set(root, key.unwrap().unwrap(), nid).unwrap();
        }
        root
    }

    /// What the room version makes of two contrived states.
    fn resolve(&self, a: &[&Verified], b: &[&Verified]) -> Vec<OwnedEventId> {
        self.read(|view| {
            let mut tries = view.tries();
            let states = [self.contrive(view, &mut tries, a), self.contrive(view, &mut tries, b)];
            let root = resolve(view, &mut tries, &states).unwrap();
            let events = tries.list(root).unwrap();
            events.into_iter().map(|(_, nid)| view.event_id(nid).unwrap()).collect()
        })
    }
}

fn state_of(view: &View<'_>, state: StateRoot) -> BTreeMap<(String, String), OwnedEventId> {
    let entry = |(key, event)| {
        let name = view.state_key_name(key).unwrap();
        ((name.event_type, name.state_key), view.event_id(event).unwrap())
    };
    view.state(state).unwrap().into_iter().map(entry).collect()
}

/// `events` as auth events; since version 12 the create event is not named.
fn auth_of<'e>(forge: &Forge, events: &[&'e Verified]) -> Vec<&'e Verified> {
    let names_create = forge.rules.event_format.allow_room_create_in_auth_events;
    let is_create = |event: &Verified| event.pdu().event_type == ruma::events::TimelineEventType::RoomCreate;
    events.iter().copied().filter(|event| names_create || !is_create(event)).collect()
}

/// Alice has 100, or all there is where creators have that by themselves.
fn power_levels(forge: &Forge, others: &[(&str, i64)]) -> Draft {
    let creator_is_named = !forge.rules.authorization.explicitly_privilege_room_creators;
    let mut users: BTreeMap<_, _> = others.iter().map(|(name, level)| (user(name), *level)).collect();
    if creator_is_named {
        users.insert(user("alice"), 100);
    }
    draft("m.room.power_levels", Some(""), &json!({ "users": users }))
}

fn topic(text: &str) -> Draft {
    draft("m.room.topic", Some(""), &json!({ "topic": text }))
}

fn member(of: &str, membership: &str, name: &str) -> Draft {
    draft("m.room.member", Some(user(of).as_str()), &json!({ "membership": membership, "displayname": name }))
}

#[tokio::test]
async fn both_orders_of_a_fork_come_to_one_state_in_every_version() {
    for version in SUPPORTED {
        let mut one = Room::new(version.clone(), &[("bob", 50)]).await;
        let [_, alice, power, rules] = one.base.clone().try_into().unwrap();
        let bob = one.send("bob", member("bob", "join", "bob"), &rules, &[&power, &rules]).await;
        let by_alice = one.send("alice", topic("alice's"), &bob, &[&alice, &power]).await;
        let by_bob = one.send("bob", topic("bob's"), &bob, &[&bob, &power]).await;
        let chosen = [&by_alice, &by_bob].into_iter().filter(|event| one.has(event)).count();
        assert_eq!(chosen, 1, "version {version}");

        let mut forge = Forge::new(version.clone());
        forge.room_id.clone_from(&one.forge.room_id);
        let other = Room::holding(forge, one.base.clone()).await;
        for event in [&bob, &by_bob, &by_alice] {
            assert_eq!(other.append(event).await.verdict, Verdict::Accepted, "version {version}");
        }
        assert_eq!(other.state(), one.state(), "version {version}");

        // An event after both ends joins them again.
        let names_create = [&one.base[0], &alice, &power];
        let healed =
            one.forge.event("alice", topic("both"), &[&by_alice, &by_bob], &auth_of(&one.forge, &names_create));
        assert_eq!(one.append(&healed).await.verdict, Verdict::Accepted, "version {version}");
        assert!(one.has(&healed), "version {version}");
        assert_eq!(one.read(|view| view.forward_extremities().len()), 1, "version {version}");
    }
}

#[tokio::test]
async fn a_ban_wins_over_what_the_banned_one_does_meanwhile() {
    for version in SUPPORTED {
        let mut room = Room::new(version.clone(), &[("bob", 50)]).await;
        let [_, alice, power, rules] = room.base.clone().try_into().unwrap();
        let bob = room.send("bob", member("bob", "join", "bob"), &rules, &[&power, &rules]).await;
        let ban = room.send("alice", member("bob", "ban", "bob"), &bob, &[&alice, &power, &bob]).await;
        let meanwhile = auth_of(&room.forge, &[&room.base[0], &bob, &power]);
        let topic = room.forge.event("bob", topic("too late"), &[&bob], &meanwhile);
        let verdict = room.append(&topic).await.verdict;
        assert!(matches!(verdict, Verdict::SoftFailed(_)), "version {version}: {verdict:?}");
        assert!(room.has(&ban) && !room.has(&topic), "version {version}");
        // What is soft-failed is no end of the graph, and no client sees it.
        let stored = room.read(|view| view.event_by_id(&topic.pdu().event_id).unwrap().unwrap());
        assert!(stored.flags.soft_failed && stored.room_pos == 0);
        assert_eq!(room.read(|view| view.forward_extremities().len()), 1, "version {version}");
    }
}

#[tokio::test]
async fn a_room_whose_rules_fall_back_raises_an_alarm_before_version_12() {
    for (version, is_told) in [(RoomVersionId::V1, true), (RoomVersionId::V11, true), (RoomVersionId::V12, false)] {
        let mut room = Room::new(version.clone(), &[("bob", 50)]).await;
        let [_, alice, power, rules] = room.base.clone().try_into().unwrap();
        let bob = room.send("bob", member("bob", "join", "bob"), &rules, &[&power, &rules]).await;
        let by_bob = draft("m.room.join_rules", Some(""), &json!({ "join_rule": "invite" }));
        let by_bob = room.send("bob", by_bob, &bob, &[&bob, &power]).await;
        assert!(room.has(&by_bob), "version {version}");
        let auth = auth_of(&room.forge, &[&room.base[0], &alice, &power]);
        let demoted = room.forge.event("alice", power_levels(&room.forge, &[]), &[&bob], &auth);
        let appended = room.append(&demoted).await;
        assert!(room.has(&demoted) && room.has(&rules), "version {version}: {:?}", room.state());
        let lost: Vec<_> = appended.resets.iter().map(|reset| (&*reset.event_type, &reset.lost)).collect();
        let expected = [("m.room.join_rules", &by_bob.pdu().event_id)];
        assert_eq!(lost, if is_told { &expected[..] } else { &[] }, "version {version}");
        assert_eq!(room.server.metrics.state_resets.load(Ordering::Relaxed), u64::from(is_told));
    }
}

#[tokio::test]
async fn a_topic_that_falls_back_and_a_rule_that_is_replaced_raise_no_alarm() {
    let mut room = Room::new(RoomVersionId::V11, &[("bob", 50)]).await;
    let [_, alice, power, rules] = room.base.clone().try_into().unwrap();
    let bob = room.send("bob", member("bob", "join", "bob"), &rules, &[&power, &rules]).await;
    room.send("bob", topic("bob's"), &bob, &[&bob, &power]).await;
    let auth = auth_of(&room.forge, &[&room.base[0], &alice, &power]);
    let demoted = room.forge.event("alice", power_levels(&room.forge, &[]), &[&bob], &auth);
    assert!(room.append(&demoted).await.resets.is_empty());
    let closed = draft("m.room.join_rules", Some(""), &json!({ "join_rule": "invite" }));
    let auth = auth_of(&room.forge, &[&room.base[0], &alice, &demoted]);
    let closed = room.forge.event("alice", closed, &[&demoted], &auth);
    assert!(room.append(&closed).await.resets.is_empty());
    assert!(room.has(&closed));
}

#[tokio::test]
async fn a_rejected_event_is_kept_and_changes_nothing() {
    let mut room = Room::new(RoomVersionId::V11, &[]).await;
    let [_, alice, power, rules] = room.base.clone().try_into().unwrap();
    let before = room.state();
    let auth = auth_of(&room.forge, &[&room.base[0], &power]);
    let stranger = room.forge.event("mallory", topic("mine"), &[&rules], &auth);
    let verdict = room.append(&stranger).await.verdict;
    assert!(matches!(verdict, Verdict::Rejected(_)), "{verdict:?}");
    assert_eq!(room.state(), before);

    // Naming a rejected event as what allows it rejects the next one too.
    let auth = auth_of(&room.forge, &[&room.base[0], &alice, &power]);
    let auth = [auth, vec![&stranger]].concat();
    let built_on_it = room.forge.event("alice", topic("hers"), &[&rules], &auth);
    assert!(matches!(room.append(&built_on_it).await.verdict, Verdict::Rejected(_)));
    assert_eq!(room.state(), before);
}

/// MSC4297, problem A: the admin makes a room invite-only and leaves. Whoever resolves from what is not in conflict, where
/// she has left already, finds her unable to have set any join rules.
async fn problem_a(version: RoomVersionId) -> (Room, Verified, Vec<OwnedEventId>) {
    let mut room = Room::new(version, &[]).await;
    let [create, alice, power, public] = room.base.clone().try_into().unwrap();
    let bob = room.send("bob", member("bob", "join", "bob"), &public, &[&power, &public]).await;
    let charlie = room.send("charlie", member("charlie", "join", "charlie"), &bob, &[&power, &public]).await;
    let invite = draft("m.room.join_rules", Some(""), &json!({ "join_rule": "invite" }));
    let invite = room.send("alice", invite, &charlie, &[&power, &alice]).await;
    let left = room.send("alice", member("alice", "leave", "alice"), &invite, &[&power, &alice]).await;
    let bob2 = room.send("bob", member("bob", "join", "bob++"), &left, &[&power, &bob, &invite]).await;
    let charlie2 =
        room.send("charlie", member("charlie", "join", "charlie++"), &left, &[&power, &charlie, &invite]).await;
    let resolved = room.resolve(
        &[&create, &power, &charlie, &invite, &left, &bob2],
        &[&create, &power, &public, &bob, &left, &charlie2],
    );
    (room, invite, resolved)
}

#[tokio::test]
async fn resolution_v2_loses_the_join_rules_of_problem_a_and_v2_1_does_not() {
    let (_room, invite, resolved) = problem_a(RoomVersionId::V11).await;
    assert!(!resolved.contains(&invite.pdu().event_id), "version 11 is specified to lose them");
    let (_room, invite, resolved) = problem_a(RoomVersionId::V12).await;
    assert!(resolved.contains(&invite.pdu().event_id));
}

/// MSC4297, problem B: one of the states still has the first power levels, although events in it were allowed by later
/// ones.
async fn problem_b(version: RoomVersionId) -> (Room, [Verified; 2], Vec<OwnedEventId>) {
    let mut room = Room::new(version, &[]).await;
    let [create, alice, power, public] = room.base.clone().try_into().unwrap();
    let bob = room.send("bob", member("bob", "join", "bob"), &public, &[&power, &public]).await;
    let charlie = room.send("charlie", member("charlie", "join", "charlie"), &bob, &[&power, &public]).await;
    let power1 = power_levels(&room.forge, &[("bob", 50)]);
    let power1 = room.send("alice", power1, &charlie, &[&power, &alice]).await;
    let power2 = power_levels(&room.forge, &[("bob", 50), ("charlie", 50)]);
    let power2 = room.send("bob", power2, &power1, &[&power1, &bob]).await;
    let zara = room.send("zara", member("zara", "join", "zara"), &power2, &[&power2, &public]).await;
    let eve = room.send("eve", member("eve", "join", "eve"), &power2, &[&power2, &public]).await;
    let eve2 = room.send("eve", member("eve", "join", "eve++"), &eve, &[&power2, &eve, &public]).await;
    let resolved = room.resolve(
        &[&create, &alice, &power, &public, &bob, &charlie, &eve2],
        &[&create, &alice, &public, &bob, &charlie, &power2, &zara],
    );
    (room, [power, power2], resolved)
}

#[tokio::test]
async fn resolution_v2_resets_the_power_levels_of_problem_b_and_v2_1_does_not() {
    let (_room, [first, last], resolved) = problem_b(RoomVersionId::V11).await;
    let has = |resolved: &[OwnedEventId], event: &Verified| resolved.contains(&event.pdu().event_id);
    assert!(has(&resolved, &first) && !has(&resolved, &last), "version 11 is specified to reset them");
    let (_room, [first, last], resolved) = problem_b(RoomVersionId::V12).await;
    assert!(has(&resolved, &last) && !has(&resolved, &first));
}
