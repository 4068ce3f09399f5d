//! Rooms of other servers: getting in and out, what comes in from there, and what is fetched.

use std::{sync::Arc, time::Duration};

use chappe::{
    check,
    federation::inbox::{ReceivedTransactions, TRANSACTIONS_KEPT},
    room::tables::{RoomIds, Rooms},
};
use http::Method;
use ruma::{RoomId, RoomVersionId};
use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::support::{
    HostedRoom, Peer, TestNetwork, TestServer, User, hosted::id_of, query, room::path, siege::until_worked_on,
};

const INVITE: &str = "/_matrix/federation/v2/invite/";
const SEND_LEAVE: &str = "/_matrix/federation/v2/send_leave/";

struct World {
    network: TestNetwork,
    here: TestServer,
    bob: User,
    peer: Peer,
    room: HostedRoom,
}

/// `here`, where bob is, and a room of a peer's.
async fn world() -> World {
    let network = TestNetwork::new();
    let here = network.server("here").await;
    let bob = here.user("bob").await;
    let peer = network.peer("there");
    let room = HostedRoom::new(&peer);
    World { network, here, bob, peer, room }
}

/// The same, and bob has joined the room.
async fn joined() -> World {
    let world = world().await;
    world.join(&["there"]).await;
    world
}

/// The same, and so many messages, which begin with `word`, were said there before: their ids.
async fn joined_after(word: &str, count: usize) -> (World, Vec<String>) {
    let world = world().await;
    let said = (0..count).map(|number| world.room.say(&format!("{word} {number}"))).collect();
    world.join(&["there"]).await;
    (world, said)
}

impl World {
    async fn join(&self, via: &[&str]) {
        self.try_join(via).await.ok();
    }

    async fn try_join(&self, via: &[&str]) -> crate::support::Answer {
        let pairs: Vec<_> = via.iter().map(|server| ("via", *server)).collect();
        self.bob.post(&format!("/v3/join/{}{}", self.room.id, query(&pairs)), json!({})).await
    }

    /// The bodies and types of the room's timeline as bob reads it, oldest first.
    async fn history(&self) -> Vec<String> {
        self.bob.history(&self.room.id).await.iter().map(what).collect()
    }

    /// Waits until the peer has let bob in.
    async fn until_let_in(&self) {
        for _ in 0..500 {
            let member = self.room.state_event("m.room.member", "@bob:here");
            if member.is_some_and(|member| member["content"]["membership"] == "join") {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("bob is not let in");
    }

    /// Waits until bob sees `event_id`.
    async fn until_seen(&self, event_id: &str) {
        for _ in 0..500 {
            if self.bob.event(&self.room.id, event_id).await.status == 200 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{event_id} did not come");
    }

    /// The peer signs every invite of one of its users from now on, and notifies when it is asked to.
    fn sign_invites(&self) -> Arc<Notify> {
        let (signer, asked_for) = (self.peer.clone(), Arc::new(Notify::new()));
        let notify = Arc::clone(&asked_for);
        self.peer.on(Method::PUT, INVITE, move |asked| {
            notify.notify_one();
            let mut event = asked.body["event"].clone();
            signer.sign_event(&mut event, &ruma::room_version_rules::RoomVersionRules::V12);
            json!({ "event": event })
        });
        asked_for
    }

    /// Waits until `user` is invited to a room of bob's.
    async fn until_invited(&self, room: &str, user: &str) {
        for _ in 0..500 {
            if self.bob.state(room, "m.room.member", user).await.body["membership"] == "invite" {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{user} is not invited");
    }

    fn check(&self) {
        let server = self.here.inside();
        let report = check::check(&server.store, server.name()).unwrap();
        assert!(report.is_clean(), "{:#?}", report.problems);
    }
}

fn what(event: &Value) -> String {
    match event["content"]["body"].as_str() {
        Some(body) => body.to_owned(),
        None => event["type"].as_str().unwrap().to_owned(),
    }
}

#[tokio::test]
async fn a_room_of_another_server_is_joined_with_its_state() {
    let world = joined().await;
    let World { bob, room, .. } = &world;
    assert_eq!(bob.state(&room.id, "m.room.name", "").await.ok(), json!({ "name": "Hosted" }));
    let members = bob.get(&format!("/v3/rooms/{}/joined_members", room.id)).await.ok();
    let members: Vec<_> = members["joined"].as_object().unwrap().keys().cloned().collect();
    assert_eq!(members, ["@alice:there", "@bob:here"]);
    let answer = bob.sync_with("").await;
    let joined = &answer["rooms"]["join"][&room.id];
    assert_eq!(joined["timeline"]["limited"], true, "there is more than this server has");
    assert_eq!(joined["timeline"]["events"].as_array().unwrap().len(), 1);
    let sent = room.state_event("m.room.member", "@bob:here").unwrap();
    assert_eq!(sent["content"]["membership"], "join");
    world.check();
}

#[tokio::test]
async fn state_of_an_older_branch_that_comes_late_is_told_before_a_first_timeline_that_lacks_the_younger_one() {
    let world = joined().await;
    let World { here, bob, peer, room, .. } = &world;
    let join = id_of(&room.state_event("m.room.member", "@bob:here").unwrap());
    let late = room.build(&peer.user("alice"), "m.room.name", Some(""), json!({ "name": "Late" }), &[join]);
    let (one, two, late_id) = (room.say("one"), room.say("two"), id_of(&late));
    room.send(here, vec![room.event(&one), room.event(&two)]).await.ok();
    world.until_seen(&two).await;
    let since = bob.now().await;
    room.send(here, vec![late]).await.ok();
    world.until_seen(&late_id).await;

    let ids = |events: &Value| -> Vec<String> {
        events["events"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|event| event["event_id"].as_str().unwrap().to_owned())
            .collect()
    };
    let first = async |limit: usize| {
        let filter = json!({ "room": { "timeline": { "limit": limit } } }).to_string();
        bob.get(&format!("/v3/sync{}", query(&[("filter", &filter)]))).await.ok()["rooms"]["join"][&room.id].take()
    };
    let told = first(1).await;
    assert_eq!(ids(&told["timeline"]), [&*late_id]);
    assert!(ids(&told["state"]).contains(&late_id), "{told}");
    let told = first(3).await;
    assert_eq!(ids(&told["timeline"]), [one, two, late_id.clone()]);
    assert!(!ids(&told["state"]).contains(&late_id), "{told}");
    // Who has seen the younger events goes on by the timeline.
    let told = bob.sync(&since).await["rooms"]["join"][&room.id].take();
    assert_eq!((ids(&told["timeline"]), ids(&told["state"])), (vec![late_id], vec![]));
    world.check();
}

#[tokio::test]
async fn a_draft_of_anything_but_the_join_is_not_signed() {
    let wrong = [
        ("type", json!("m.room.power_levels")),
        ("sender", json!("@other:here")),
        ("room_id", json!("!other:there")),
        ("content", json!({ "membership": "ban" })),
        // Who vouches has to be of the server that was asked: our own signature must not do.
        ("content", json!({ "membership": "join", "join_authorised_via_users_server": "@bob:here" })),
        ("content", json!({ "membership": "join", "join_authorised_via_users_server": "@carol:elsewhere" })),
    ];
    for (field, value) in wrong {
        let world = world().await;
        let mut draft = world.room.draft("@bob:here", "join");
        draft[field] = value;
        world.peer.on(
            Method::GET,
            "/_matrix/federation/v1/make_join/",
            move |_| json!({ "room_version": "11", "event": draft }),
        );
        assert!(!world.try_join(&["there"]).await.status.is_success(), "{field}");
        assert_eq!(world.network.count("there", "/_matrix/federation/v2/send_join/"), 0, "{field}");
        world.check();
    }
}

#[tokio::test]
async fn state_that_came_with_the_join_is_given_out_again_to_whom_its_ids_are_told() {
    let World { here, bob, peer, room, .. } = &joined().await;
    let content = async |event: &Value| {
        let answer = peer.get(here, &format!("/v1/event/{}", path(&id_of(event)))).await;
        answer.status.is_success().then(|| answer.body["pdus"][0]["content"].clone())
    };
    let joined = id_of(&room.state_event("m.room.member", &bob.id).unwrap());
    let ids = peer.get(here, &format!("/v1/state_ids/{}?event_id={}", path(&room.id), path(&joined))).await.ok();
    let (name, levels) = ("m.room.name", "m.room.power_levels");
    let [name, levels] = [name, levels].map(|event_type| room.state_event(event_type, "").unwrap());
    for event in [&name, &levels] {
        assert!(ids["pdu_ids"].as_array().unwrap().contains(&json!(id_of(event))), "{ids}");
        assert_eq!(content(event).await.as_ref(), Some(&event["content"]));
    }
    let renamed = room.add("@alice:there", "m.room.name", Some(""), json!({ "name": "Other" }));
    room.send(here, vec![room.event(&renamed)]).await.ok();
    until_worked_on(here).await;
    assert_eq!(content(&name).await, Some(json!({})), "of what was the state before, the rules need no more");
    assert_eq!(content(&levels).await.as_ref(), Some(&levels["content"]));
}

#[tokio::test]
async fn a_room_of_a_version_that_nobody_knows_is_not_joined_by_the_rules_of_another() {
    for version in [json!("99"), json!("org.example.own"), json!(11)] {
        let world = world().await;
        let draft = world.room.draft("@bob:here", "join");
        let told = json!({ "room_version": version, "event": draft });
        world.peer.on(Method::GET, "/_matrix/federation/v1/make_join/", move |_| told.clone());
        let answer = world.try_join(&["there"]).await;
        assert!(!answer.status.is_success(), "{version}");
        assert_eq!(world.network.count("there", "/_matrix/federation/v2/send_join/"), 0, "{version}");
        let asked = world.peer.asked("/_matrix/federation/v1/make_join/").remove(0);
        assert!(asked.uri.contains("ver=12") && !asked.uri.contains("ver=99"), "{}", asked.uri);
    }
}

#[tokio::test]
async fn the_content_of_the_join_is_ours_whatever_the_draft_says() {
    let world = world().await;
    let mut draft = world.room.draft("@bob:here", "join");
    draft["content"]["displayname"] = json!("Mallory");
    draft["content"]["third_party_invite"] = json!({ "signed": {} });
    draft["unsigned"] = json!({ "evil": 1 });
    draft["redacts"] = json!("$x");
    world.peer.on(
        Method::GET,
        "/_matrix/federation/v1/make_join/",
        move |_| json!({ "room_version": "11", "event": draft }),
    );
    world.join(&["there"]).await;
    let sent = world.room.state_event("m.room.member", "@bob:here").unwrap();
    assert_eq!(sent["content"], json!({ "membership": "join" }));
    assert!(sent.get("redacts").is_none() && sent.get("unsigned").is_none());
}

#[tokio::test]
async fn a_server_that_is_not_there_is_passed_over() {
    let world = world().await;
    let refusing = world.network.peer("refusing");
    refusing.refuse(Method::GET, "/_matrix/federation/v1/make_join/", 404, "M_NOT_FOUND");
    world.join(&["gone", "refusing", "there"]).await;
    assert_eq!(refusing.asked("/_matrix/federation/v1/make_join/").len(), 1);
    assert_eq!(world.bob.state(&world.room.id, "m.room.name", "").await.status, 200);
}

#[tokio::test]
async fn a_refusal_by_the_room_is_told_as_such() {
    let world = world().await;
    world.peer.refuse(Method::GET, "/_matrix/federation/v1/make_join/", 403, "M_FORBIDDEN");
    assert_eq!(world.try_join(&["gone", "there"]).await.error(), (403, "M_FORBIDDEN"));
    assert!(!world.bob.post("/v3/join/!unknown:nowhere", json!({})).await.status.is_success());
}

#[tokio::test]
async fn a_state_with_wrong_events_in_it_is_taken_without_them() {
    let world = world().await;
    let room = world.room.clone();
    let alice = world.peer.user("alice");
    let mut forged = room.build(&alice, "m.room.topic", Some(""), json!({ "topic": "forged" }), &[]);
    forged["sender"] = json!("@mallory:there");
    let mut too_deep = room.build(&alice, "m.room.avatar", Some(""), json!({}), &[]);
    too_deep["depth"] = json!(u64::MAX);
    let of_room = room.clone();
    world.peer.on(Method::PUT, "/_matrix/federation/v2/send_join/", move |asked| {
        let state: Vec<Value> = ["m.room.create", "m.room.power_levels", "m.room.join_rules", "m.room.name"]
            .into_iter()
            .filter_map(|event_type| of_room.state_event(event_type, ""))
            .chain(of_room.state_event("m.room.member", "@alice:there"))
            .collect();
        let wrong = [forged.clone(), too_deep.clone(), json!("no event"), json!({})];
        let answer: Vec<Value> = state.iter().cloned().chain(wrong).collect();
        of_room.keep(asked.body.clone());
        json!({ "state": answer, "auth_chain": state, "event": asked.body })
    });
    world.join(&["there"]).await;
    assert_eq!(world.bob.state(&room.id, "m.room.name", "").await.status, 200);
    assert_eq!(world.bob.state(&room.id, "m.room.topic", "").await.status, 404);
    world.check();
}

#[tokio::test]
async fn what_comes_in_is_shown_and_a_bad_event_costs_itself_only() {
    let world = joined().await;
    let room = &world.room;
    let good = room.say("good");
    let mut forged =
        room.build("@alice:there", "m.room.message", None, json!({ "body": "forged" }), std::slice::from_ref(&good));
    forged["origin_server_ts"] = json!(1);
    let mut deep = room.event(&good);
    deep["depth"] = json!(-1);
    let elsewhere = json!({ "room_id": "!unknown:there", "type": "x" });
    let answer = room.send(&world.here, vec![deep, forged.clone(), elsewhere, json!(1), room.event(&good)]).await.ok();
    assert_eq!(answer["pdus"][&good], json!({}));
    assert!(answer["pdus"][id_of(&forged)]["error"].is_string(), "{answer}");
    world.until_seen(&good).await;
    let history = world.history().await;
    assert_eq!(history.last().unwrap(), "good");
    assert!(!history.contains(&"forged".to_owned()));
    world.check();
}

#[tokio::test]
async fn a_transaction_that_is_sent_again_is_answered_with_the_same_and_done_once() {
    let world = joined().await;
    let room = &world.room;
    let message = room.say("once");
    let first = room.send_as(&world.here, "same", vec![room.event(&message)]).await.ok();
    let other = room.say("other");
    let second = room.send_as(&world.here, "same", vec![room.event(&other)]).await.ok();
    assert_eq!(first, second);
    world.until_seen(&message).await;
    assert_eq!(world.bob.event(&room.id, &other).await.status, 404);

    // Nor do several at once get in: a server has one on the way at a time.
    let events: Vec<Value> = (0..10).map(|number| room.event(&room.say(&number.to_string()))).collect();
    let send = |event: &Value| room.send_as(&world.here, "at-once", vec![event.clone()]);
    let answers = futures_util::future::join_all(events.iter().map(send)).await;
    let answers: Vec<Value> = answers.into_iter().map(crate::support::Answer::ok).collect();
    assert_eq!(answers[0]["pdus"].as_object().unwrap().len(), 1, "{}", answers[0]);
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
}

#[tokio::test]
async fn the_last_few_transactions_of_a_server_are_remembered_if_they_needed_an_answer() {
    let world = joined().await;
    let room = &world.room;
    let remembered = || {
        let snapshot = world.here.inside().store.snapshot();
        snapshot.list::<ReceivedTransactions>(&"there").count()
    };
    room.send_as(&world.here, "empty", Vec::new()).await.ok();
    assert_eq!(remembered(), 0);
    let message = room.event(&room.say("hi"));
    for number in 0..2 * TRANSACTIONS_KEPT {
        room.send_as(&world.here, &format!("number{number}"), vec![message.clone()]).await.ok();
    }
    assert_eq!(remembered(), TRANSACTIONS_KEPT);
}

#[tokio::test]
async fn a_transaction_with_too_many_events_or_too_long_an_id_is_refused() {
    let world = joined().await;
    let message = world.room.say("hi");
    let answer = world.room.send(&world.here, vec![world.room.event(&message); 51]).await;
    assert_eq!(answer.status, 400);
    let answer = world.room.send_as(&world.here, &"x".repeat(256), Vec::new()).await;
    assert_eq!(answer.error(), (400, "M_INVALID_PARAM"));
}

#[tokio::test]
async fn events_that_are_missing_are_asked_for_and_come_in_order() {
    let world = joined().await;
    let room = world.room.clone();
    let ids: Vec<String> = (0..5).map(|number| room.say(&format!("missing {number}"))).collect();
    let last = room.say("last");
    world.peer.tell_missing(room.events(&ids));
    room.send(&world.here, vec![room.event(&last)]).await.ok();
    world.until_seen(&last).await;
    let history = world.history().await;
    let tail: Vec<_> = history.iter().rev().take(6).rev().map(String::as_str).collect();
    assert_eq!(tail, ["missing 0", "missing 1", "missing 2", "missing 3", "missing 4", "last"]);
    assert_eq!(world.network.count("there", "/_matrix/federation/v1/state_ids/"), 0);
    let asked = &world.peer.asked("/_matrix/federation/v1/get_missing_events/")[0].body;
    assert_eq!(asked["latest_events"], json!([last]));
    world.check();
}

#[tokio::test]
async fn where_what_is_missing_can_not_be_had_the_state_is_asked_for_and_the_rest_when_somebody_reads_it() {
    let world = joined().await;
    let room = &world.room;
    for number in 0..3 {
        room.say(&format!("missed {number}"));
    }
    room.add("@alice:there", "m.room.topic", Some(""), json!({ "topic": "new" }));
    let told = room.say("told");
    let last = room.say("last");
    world.peer.tell_missing(room.events(std::slice::from_ref(&told)));
    room.send(&world.here, vec![room.event(&last)]).await.ok();
    world.until_seen(&last).await;
    assert_eq!(world.bob.event(&room.id, &told).await.status, 200);
    assert_eq!(world.bob.state(&room.id, "m.room.topic", "").await.ok(), json!({ "topic": "new" }));
    world.check();
}

#[tokio::test]
async fn what_was_before_the_join_and_comes_with_what_is_missing_is_no_news() {
    let (world, old) = joined_after("old", 3).await;
    let room = &world.room;
    let since = world.bob.now().await;
    let join = id_of(&room.state_event("m.room.member", "@bob:here").unwrap());
    // Said there before the join had come.
    let text = |text: &str| json!({ "msgtype": "m.text", "body": text });
    let beside = room.build("@alice:there", "m.room.message", None, text("beside"), &old[2..]);
    let beside = room.keep(beside);
    let next = room.build("@alice:there", "m.room.message", None, text("next"), &[beside.clone(), join]);
    let next = room.keep(next);
    // The walk back from there ends at the join only on the one side.
    let mut missing = room.events(&old);
    missing.push(room.event(&beside));
    world.peer.tell_missing(missing);
    room.send(&world.here, vec![room.event(&next)]).await.ok();
    world.until_seen(&next).await;
    let answer = world.bob.sync(&since).await;
    let timeline = &answer["rooms"]["join"][&room.id]["timeline"];
    let events: Vec<_> = timeline["events"].as_array().unwrap().iter().map(what).collect();
    assert_eq!((events, &timeline["limited"]), (vec!["beside".to_owned(), "next".to_owned()], &json!(false)));
    let history = world.history().await;
    let tail: Vec<_> = history.iter().rev().take(6).rev().map(String::as_str).collect();
    assert_eq!(tail, ["old 0", "old 1", "old 2", "m.room.member", "beside", "next"]);
    world.check();
}

#[tokio::test]
async fn old_events_come_into_the_gap_that_they_are_missing_in() {
    let (world, old) = joined_after("old", 3).await;
    let room = &world.room;
    for number in 0..2 {
        room.say(&format!("missed {number}"));
    }
    let (told, after) = (room.say("told"), room.say("after"));
    world.peer.tell_missing(room.events(std::slice::from_ref(&told)));
    room.send(&world.here, vec![room.event(&after)]).await.ok();
    world.until_seen(&after).await;
    // A branch of before the join.
    let text = |text: &str| json!({ "msgtype": "m.text", "body": text });
    let beside = room.build("@alice:there", "m.room.message", None, text("beside"), &old[2..]);
    let last = room.build("@alice:there", "m.room.message", None, text("last"), &[id_of(&beside), after]);
    world.peer.tell_missing([room.events(&old), vec![beside]].concat());
    room.send(&world.here, vec![last.clone()]).await.ok();
    world.until_seen(&id_of(&last)).await;
    let expected =
        ["old 0", "old 1", "old 2", "m.room.member", "missed 0", "missed 1", "told", "after", "beside", "last"];
    let mut history = Vec::new();
    for _ in 0..100 {
        history = world.history().await;
        if history.len() >= expected.len() + 5 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(history.iter().rev().take(10).rev().map(String::as_str).collect::<Vec<_>>(), expected);
    world.check();
}

#[tokio::test]
async fn old_state_that_is_sent_again_does_not_count_as_another_branch() {
    let world = world().await;
    let World { network, here, bob, peer, room } = &world;
    let alice = peer.user("alice");
    let old_levels = id_of(&room.state_event("m.room.power_levels", "").unwrap());
    let levels = json!({ "users": { &alice: 100 }, "events_default": 0, "state_default": 50 });
    room.add(&alice, "m.room.power_levels", Some(""), levels);
    world.join(&["there"]).await;
    let closed = room.add(&alice, "m.room.join_rules", Some(""), json!({ "join_rule": "invite" }));
    room.send(here, vec![room.event(&closed)]).await.ok();
    world.until_seen(&closed).await;
    let since = bob.now().await;
    // Judged anew from the beginning of the room, bob's join would not be allowed any more.
    let evil = network.peer("evil");
    let create = room.state_event("m.room.create", "").unwrap();
    for (number, event) in [create.clone(), room.event(&old_levels)].into_iter().enumerate() {
        let body = json!({ "origin": "evil", "origin_server_ts": 1, "pdus": [event] });
        evil.put(here, &format!("/v1/send/{number}"), body).await.ok();
        until_worked_on(here).await;
    }
    assert_eq!(evil.asked("/_matrix/federation/v1/get_missing_events/").len(), 0);
    room.send(here, vec![create]).await.ok();
    // Nor as what is missing before something else, whatever state is told of there.
    let junk = json!({ "body": "junk" });
    let mut junk = room.build(&evil.user("mallory"), "m.room.message", None, junk, std::slice::from_ref(&old_levels));
    for field in ["hashes", "signatures"] {
        junk.as_object_mut().unwrap().remove(field);
    }
    evil.sign_event(&mut junk, &ruma::room_version_rules::RoomVersionRules::V11);
    evil.tell_missing(vec![room.event(&old_levels)]);
    room.share_states(&evil);
    let body = json!({ "origin": "evil", "origin_server_ts": 1, "pdus": [junk] });
    evil.put(here, "/v1/send/junk", body).await.ok();
    until_worked_on(here).await;
    assert_eq!(evil.asked("/_matrix/federation/v1/get_missing_events/").len(), 1);
    let last = room.say("last");
    room.send(here, vec![room.event(&last)]).await.ok();
    world.until_seen(&last).await;
    let answer = bob.sync(&since).await;
    let timeline = &answer["rooms"]["join"][&room.id]["timeline"];
    assert_eq!(timeline["events"].as_array().unwrap().iter().map(what).collect::<Vec<_>>(), ["last"], "{answer}");
    assert_eq!(bob.state(&room.id, "m.room.member", &bob.id).await.ok()["membership"], "join");
    bob.say(&room.id, "still here").await;
    world.check();
}

#[tokio::test]
async fn what_a_state_with_parts_missing_does_not_allow_may_come_again() {
    let world = joined().await;
    let room = &world.room;
    let carol = world.peer.user("carol");
    let came = room.add(&carol, "m.room.member", Some(&carol), json!({ "membership": "join" }));
    room.say("missed");
    let hers = room.add(&carol, "m.room.message", None, json!({ "msgtype": "m.text", "body": "hers" }));
    let last = room.say("last");
    world.peer.tell_missing(room.events(std::slice::from_ref(&hers)));
    // Her join can't be had while the state is asked for.
    world.peer.refuse(Method::GET, &format!("/_matrix/federation/v1/event/{}", path(&came)), 429, "M_LIMIT_EXCEEDED");
    room.send(&world.here, vec![room.event(&last)]).await.ok();
    until_worked_on(&world.here).await;
    assert_eq!(world.bob.event(&room.id, &last).await.status, 404, "what is before it can't be had");
    room.share_states(&world.peer);
    room.send(&world.here, vec![room.event(&last)]).await.ok();
    world.until_seen(&last).await;
    assert_eq!(world.bob.event(&room.id, &hers).await.status, 200);
    world.check();
}

#[tokio::test]
async fn who_keeps_back_what_was_before_his_event_does_not_say_what_the_room_is_like() {
    let world = joined().await;
    let room = &world.room;
    room.add("@alice:there", "m.room.topic", Some(""), json!({ "topic": "kept back" }));
    let last = room.say("last");
    room.send(&world.here, vec![room.event(&last)]).await.ok();
    let sentinel = room.build(
        "@alice:there",
        "m.room.message",
        None,
        json!({ "body": "sentinel" }),
        &[id_of(&room.state_event("m.room.member", "@bob:here").unwrap())],
    );
    room.send(&world.here, vec![sentinel.clone()]).await.ok();
    world.until_seen(&id_of(&sentinel)).await;
    assert_eq!(world.bob.event(&room.id, &last).await.status, 404);
    assert_eq!(world.network.count("there", "/_matrix/federation/v1/state_ids/"), 0);
    assert_eq!(world.bob.state(&room.id, "m.room.topic", "").await.status, 404);
    world.check();
}

#[tokio::test]
async fn an_event_whose_past_can_not_be_had_is_left_out_and_may_come_again() {
    let world = joined().await;
    let room = &world.room;
    let missing = room.say("missing");
    let next = room.say("next");
    for endpoint in ["state_ids", "event", "state"] {
        world.peer.refuse(Method::GET, &format!("/_matrix/federation/v1/{endpoint}/"), 404, "M_NOT_FOUND");
    }
    room.send(&world.here, vec![room.event(&next)]).await.ok();
    room.send(&world.here, vec![room.event(&missing)]).await.ok();
    world.until_seen(&missing).await;
    assert_eq!(world.bob.event(&room.id, &next).await.status, 404);
    room.send(&world.here, vec![room.event(&next)]).await.ok();
    world.until_seen(&next).await;
    world.check();
}

#[tokio::test]
async fn history_from_before_the_join_is_fetched_when_it_is_read() {
    let (world, _) = joined_after("before", 5).await;
    assert_eq!(world.network.count("there", "/_matrix/federation/v1/backfill/"), 0);
    let history = world.history().await;
    let create_and_so_on =
        ["m.room.create", "m.room.member", "m.room.power_levels", "m.room.join_rules", "m.room.name"];
    assert_eq!(history[..5], create_and_so_on);
    assert_eq!(history[5..10], ["before 0", "before 1", "before 2", "before 3", "before 4"]);
    let sync = world.bob.sync_with("").await;
    let timeline = &sync["rooms"]["join"][&world.room.id]["timeline"];
    assert_ne!(timeline["events"].as_array().unwrap().len(), 0);
    let again = world.history().await;
    assert_eq!(again, history);
    assert_eq!(world.network.count("there", "/_matrix/federation/v1/backfill/"), 1, "nothing is missing any more");
    world.check();
}

#[tokio::test]
async fn an_old_event_that_names_more_events_than_one_may_today_does_not_end_the_past() {
    let world = world().await;
    let said: Vec<_> = (0..21).map(|number| world.room.say(&format!("before {number}"))).collect();
    let message = json!({ "msgtype": "m.text", "body": "follows on all" });
    world.room.keep(world.room.build("@alice:there", "m.room.message", None, message, &said));
    world.join(&["there"]).await;
    let history = world.history().await;
    assert_eq!(
        history[..6],
        ["m.room.create", "m.room.member", "m.room.power_levels", "m.room.join_rules", "m.room.name", "before 0"]
    );
    assert_eq!(history[26], "follows on all");
    world.check();
}

#[tokio::test]
async fn events_of_rooms_that_this_server_is_not_in_are_refused() {
    let world = joined().await;
    world.bob.leave(&world.room.id).await;
    let message = world.room.say("after");
    let answer = world.room.send(&world.here, vec![world.room.event(&message)]).await.ok();
    assert!(answer["pdus"][&message]["error"].is_string(), "{answer}");
    assert_eq!(world.bob.event(&world.room.id, &message).await.status, 404);
    let rejoin =
        world.room.build("@alice:there", "m.room.member", Some("@bob:here"), json!({ "membership": "join" }), &[]);
    world.room.send(&world.here, vec![rejoin]).await.ok();
    let rooms = world.bob.get("/v3/joined_rooms").await.ok();
    assert_eq!(rooms["joined_rooms"], json!([]));
    world.check();
}

#[tokio::test]
async fn who_is_kicked_while_he_is_being_let_in_is_out() {
    let world = world().await;
    let World { network, here, bob, room, .. } = &world;
    let gate = network.hold("there", "/_matrix/federation/v2/send_join/");
    let kicked = async {
        world.until_let_in().await;
        let kick = room.add("@alice:there", "m.room.member", Some("@bob:here"), json!({ "membership": "leave" }));
        let go_on = async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            gate.close();
        };
        let (answer, ()) = tokio::join!(room.send(here, vec![room.event(&kick)]), go_on);
        assert_eq!(answer.ok()["pdus"], json!({ kick: {} }));
    };
    tokio::join!(world.join(&["there"]), kicked);
    until_worked_on(here).await;
    assert_eq!(bob.get("/v3/joined_rooms").await.ok()["joined_rooms"], json!([]));
    world.check();
}

#[tokio::test]
async fn who_leaves_while_he_is_being_let_in_is_out() {
    let world = world().await;
    let World { network, here, bob, peer, room, .. } = &world;
    let invite = room.add("@alice:there", "m.room.member", Some(&bob.id), json!({ "membership": "invite" }));
    let body = json!({ "room_version": "11", "event": room.event(&invite), "invite_room_state": [] });
    peer.put(here, &format!("/v2/invite/{}/{}", path(&room.id), path(&invite)), body).await.ok();
    let hosted = room.clone();
    peer.on(
        Method::GET,
        "/_matrix/federation/v1/make_leave/",
        move |_| json!({ "room_version": "11", "event": hosted.draft("@bob:here", "leave") }),
    );
    let hosted = room.clone();
    peer.on(Method::PUT, SEND_LEAVE, move |asked| {
        hosted.keep(asked.body.clone());
        json!({})
    });
    let gate = network.hold("there", "/_matrix/federation/v2/send_join/");
    let left = async {
        world.until_let_in().await;
        let go_on = async {
            for _ in 0..500 {
                if !peer.asked(SEND_LEAVE).is_empty() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            gate.close();
        };
        tokio::join!(bob.leave(&room.id), go_on);
    };
    tokio::join!(world.join(&["there"]), left);
    assert_eq!(peer.asked(SEND_LEAVE).len(), 1);
    assert_eq!(bob.get("/v3/joined_rooms").await.ok()["joined_rooms"], json!([]));
    world.check();
}

#[tokio::test]
async fn a_room_that_was_left_can_be_joined_again() {
    let world = joined().await;
    let join = world.room.state_event("m.room.member", "@bob:here").unwrap();
    world.bob.leave(&world.room.id).await;
    let leave = world.room.build(
        "@alice:there",
        "m.room.member",
        Some("@bob:here"),
        json!({ "membership": "leave" }),
        &[id_of(&join)],
    );
    world.room.keep(leave);
    world.room.add("@alice:there", "m.room.topic", Some(""), json!({ "topic": "meanwhile" }));
    world.join(&["there"]).await;
    assert_eq!(world.bob.state(&world.room.id, "m.room.topic", "").await.ok(), json!({ "topic": "meanwhile" }));
    let message = world.room.say("welcome back");
    world.room.send(&world.here, vec![world.room.event(&message)]).await.ok();
    world.until_seen(&message).await;
    world.check();
}

#[tokio::test]
async fn an_invite_that_says_another_version_changes_no_room_that_is_being_joined() {
    let world = world().await;
    let World { here, bob, peer, room, .. } = &world;
    let carol = here.user("carol").await;
    let (alice, last) = (peer.user("alice"), id_of(&room.state_event("m.room.name", "").unwrap()));
    let event = room.build(&alice, "m.room.member", Some(&carol.id), json!({ "membership": "invite" }), &[last]);
    let path = format!("{INVITE}{}/{}", room.id, id_of(&event));
    let body = json!({ "room_version": "10", "event": event, "invite_room_state": [] });
    let invite = async || peer.put(here, &path, body.clone()).await;
    invite().await.ok();
    let room_id = RoomId::parse(&room.id).unwrap();
    let nid = here.inside().store.snapshot().get::<RoomIds>(&&*room_id).unwrap().unwrap();
    let version = || here.inside().store.snapshot().get::<Rooms>(&nid).unwrap().unwrap().version;
    assert_eq!(version(), RoomVersionId::V10);
    let writer = here.inside().rooms.lock(nid).await;
    let invite_meanwhile = async {
        while version() != RoomVersionId::V11 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let answer = tokio::time::timeout(Duration::from_secs(10), invite()).await.expect("it is refused at once");
        assert_eq!(answer.error(), (400, "M_INVALID_PARAM"));
        drop(writer);
    };
    tokio::join!(world.join(&["there"]), invite_meanwhile);
    assert_eq!(version(), RoomVersionId::V11);
    bob.say(&room.id, "hello").await;
    world.check();
}

#[tokio::test]
async fn inviting_somebody_elsewhere_asks_his_server_first() {
    let world = world().await;
    let room = world.bob.create_room(json!({ "name": "Mine" })).await;
    world.sign_invites();
    world.bob.act(&room, "invite", json!({ "user_id": "@carol:there" })).await.ok();
    let asked = world.peer.asked(INVITE);
    assert_eq!(asked.len(), 1);
    let told: Vec<_> =
        asked[0].body["invite_room_state"].as_array().unwrap().iter().map(|e| e["type"].clone()).collect();
    assert!(told.contains(&json!("m.room.create")) && told.contains(&json!("m.room.name")), "{told:?}");
    let member = world.bob.state(&room, "m.room.member", "@carol:there").await.ok();
    assert_eq!(member["membership"], "invite");

    world.peer.refuse(Method::PUT, INVITE, 403, "M_FORBIDDEN");
    let answer = world.bob.act(&room, "invite", json!({ "user_id": "@dave:there" })).await;
    assert_eq!(answer.error(), (403, "M_FORBIDDEN"));
    world.peer.refuse(Method::PUT, INVITE, 400, "M_INVALID_PARAM");
    let answer = world.bob.act(&room, "invite", json!({ "user_id": "@dave:there" })).await;
    assert_eq!(answer.error(), (502, "M_UNKNOWN"), "his request was right");
    assert_eq!(world.bob.state(&room, "m.room.member", "@dave:there").await.status, 404);
    world.check();
}

#[tokio::test]
async fn who_was_told_of_an_invite_is_invited_though_the_client_hangs_up() {
    let world = world().await;
    let room = world.bob.create_room(json!({})).await;
    let asked = world.sign_invites();
    tokio::select! {
        biased;
        () = asked.notified() => {}
        answer = world.bob.act(&room, "invite", json!({ "user_id": "@carol:there" })) => panic!("{answer:?}"),
    }
    world.until_invited(&room, "@carol:there").await;
    world.check();
}

#[tokio::test]
async fn all_whom_a_new_room_is_for_are_invited_though_a_server_is_silent_and_the_client_hangs_up() {
    let world = world().await;
    world.sign_invites();
    world.network.swallow("dead");
    let invited = ["@carol:there", "@dave:there"];
    let until_dead_is_asked = async {
        while world.network.count("dead", INVITE) == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::select! {
        () = until_dead_is_asked => {}
        answer = world.bob.post("/v3/createRoom", json!({ "invite": ["@alice:dead", invited[0], invited[1]] })) => {
            panic!("{answer:?}")
        }
    }
    let rooms = world.bob.get("/v3/joined_rooms").await.ok();
    let room = rooms["joined_rooms"][0].as_str().unwrap();
    for user in invited {
        world.until_invited(room, user).await;
    }
    world.check();
}

#[tokio::test]
async fn a_knock_is_shown_with_what_the_other_server_told() {
    let world = world().await;
    let draft = world.room.draft("@bob:here", "knock");
    world.peer.on(
        Method::GET,
        "/_matrix/federation/v1/make_knock/",
        move |_| json!({ "room_version": "11", "event": draft }),
    );
    let room = world.room.clone();
    world.peer.on(Method::PUT, "/_matrix/federation/v1/send_knock/", move |asked| {
        room.keep(asked.body.clone());
        json!({ "knock_room_state": [null, room.state_event("m.room.name", "").unwrap()] })
    });
    let path = format!("/v3/knock/{}{}", world.room.id, query(&[("via", "there")]));
    world.bob.post(&path, json!({ "reason": "please" })).await.ok();
    let answer = world.bob.sync_with("").await;
    let told = answer["rooms"]["knock"][&world.room.id]["knock_state"]["events"].as_array().unwrap().clone();
    assert_eq!(
        told[0],
        json!({
            "type": "m.room.name", "state_key": "", "sender": "@alice:there", "content": { "name": "Hosted" },
        })
    );
    world.check();

    // The server that the knock was for refuses it. What it refused before is another one.
    let refuse =
        || world.room.build("@alice:there", "m.room.member", Some("@bob:here"), json!({ "membership": "leave" }), &[]);
    let of_first = refuse();
    world.bob.post(&path, json!({})).await.ok();
    let since = world.bob.now().await;
    world.room.send(&world.here, vec![of_first]).await.ok();
    assert!(world.bob.sync(&since).await["rooms"]["leave"].is_null());
    world.room.send(&world.here, vec![refuse()]).await.ok();
    let next = world.bob.sync(&since).await;
    assert!(next["rooms"]["leave"][&world.room.id].is_object(), "{next}");
    world.check();
}

#[tokio::test]
async fn a_knock_is_taken_back_where_it_was_made() {
    let world = world().await;
    let World { bob, peer, room, .. } = &world;
    let other = world.network.peer("other");
    for (endpoint, membership) in [("make_knock", "knock"), ("make_leave", "leave")] {
        let (uri, draft) = (format!("/_matrix/federation/v1/{endpoint}/"), room.draft(&bob.id, membership));
        other.on(Method::GET, &uri, move |_| json!({ "room_version": "11", "event": draft }));
    }
    other.on(Method::PUT, "/_matrix/federation/v1/send_knock/", |_| json!({ "knock_room_state": [] }));
    other.on(Method::PUT, "/_matrix/federation/v2/send_leave/", |_| json!({}));
    bob.post(&format!("/v3/knock/{}?via=other", room.id), json!({})).await.ok();
    world.check();
    bob.leave(&room.id).await;
    assert_eq!(other.asked("/_matrix/federation/v2/send_leave/").len(), 1);
    // Since version 12, a room's id names no server.
    assert!(peer.asked("/_matrix/federation/v1/make_leave/").is_empty());
    world.check();
}

#[tokio::test]
async fn what_was_said_while_we_were_away_fits_between_what_we_have() {
    let world = joined().await;
    let room = &world.room;
    let first = room.say("first stay");
    room.send(&world.here, vec![room.event(&first)]).await.ok();
    world.until_seen(&first).await;
    world.bob.leave(&room.id).await;
    for number in 0..30 {
        room.say(&format!("missed {number}"));
    }
    world.join(&["there"]).await;
    let history = world.history().await;
    let missed: Vec<_> = history.iter().filter(|body| body.starts_with("missed")).collect();
    assert_eq!(missed.len(), 30, "{history:?}");
    let places: Vec<_> = ["first stay", "missed 0", "missed 29"]
        .iter()
        .map(|wanted| history.iter().position(|body| body == wanted).unwrap())
        .collect();
    assert!(places.is_sorted(), "{history:?}");
    world.check();
}

/// The same room, of which bob was not in for `missed` events, and the id of what was said before.
async fn away(missed: usize) -> (World, String) {
    let world = joined().await;
    let first = world.room.say("first stay");
    world.room.send(&world.here, vec![world.room.event(&first)]).await.ok();
    world.until_seen(&first).await;
    world.bob.leave(&world.room.id).await;
    for number in 0..missed {
        world.room.say(&format!("missed {number}"));
    }
    world.join(&["there"]).await;
    (world, first)
}

impl World {
    /// A page of the timeline: what is in it, and the token of the next.
    async fn page(&self, dir: &str, from: &Value, limit: usize) -> (Vec<String>, Value) {
        let mut pairs = vec![("dir", dir.to_owned()), ("limit", limit.to_string())];
        pairs.extend(from.as_str().map(|from| ("from", from.to_owned())));
        let pairs: Vec<_> = pairs.iter().map(|(key, value)| (*key, value.as_str())).collect();
        let page = self.bob.get(&format!("/v3/rooms/{}/messages{}", self.room.id, query(&pairs))).await.ok();
        (page["chunk"].as_array().unwrap().iter().map(what).collect(), page["end"].clone())
    }
}

#[tokio::test]
async fn the_page_after_one_that_ends_at_a_gap_begins_with_what_was_in_it() {
    let (world, _) = away(10).await;
    let (shown, end) = world.page("b", &Value::Null, 1).await;
    assert_eq!(shown, ["m.room.member"]);
    assert_eq!(world.network.count("there", "/_matrix/federation/v1/backfill/"), 0, "nobody has asked for it");
    let (shown, _) = world.page("b", &end, 3).await;
    assert_eq!(shown, ["missed 9", "missed 8", "missed 7"]);
    world.check();
}

#[tokio::test]
async fn a_page_read_forward_that_ends_at_a_gap_does_not_lead_beyond_it() {
    let (world, first) = away(10).await;
    let around = world.bob.get(&format!("/v3/rooms/{}/context/{}?limit=0", world.room.id, path(&first))).await.ok();
    let (shown, end) = world.page("f", &around["end"], 1).await;
    assert_eq!(shown, ["m.room.member"]);
    assert_eq!(world.page("f", &end, 2).await.0, ["missed 0", "missed 1"]);
    world.check();
}

#[tokio::test]
async fn what_is_around_an_event_has_tokens_that_step_over_no_gap() {
    let (world, _) = away(10).await;
    let join = id_of(&world.room.state_event("m.room.member", "@bob:here").unwrap());
    let around = world.bob.get(&format!("/v3/rooms/{}/context/{}?limit=0", world.room.id, path(&join))).await.ok();
    assert_eq!(world.page("b", &around["start"], 2).await.0, ["missed 9", "missed 8"]);
    world.check();
}

#[tokio::test]
async fn a_large_gap_is_read_page_by_page_without_leaving_anything_out() {
    let (world, _) = away(30).await;
    world.room.limit_backfill(4);
    let (mut history, mut from) = (Vec::new(), Value::Null);
    loop {
        let (shown, end) = world.page("b", &from, 100).await;
        history.extend(shown);
        from = end;
        if from.is_null() {
            break;
        }
    }
    let missed: Vec<_> = history.iter().filter(|body| body.starts_with("missed")).cloned().collect();
    let expected: Vec<_> = (0..30).rev().map(|number| format!("missed {number}")).collect();
    assert_eq!(missed, expected, "{history:?}");
    assert_eq!(history.last().unwrap(), "m.room.create");
    world.check();
}

#[tokio::test]
async fn what_can_not_be_had_now_is_still_ahead_when_it_can() {
    let (world, _) = away(5).await;
    world.peer.refuse(Method::GET, "/_matrix/federation/v1/backfill/", 403, "M_FORBIDDEN");
    let (shown, end) = world.page("b", &Value::Null, 100).await;
    assert_eq!(shown, ["m.room.member"]);
    // Who goes on all the same gets what there is beyond.
    assert!(world.page("b", &end, 100).await.0.contains(&"first stay".to_owned()));
    world.room.limit_backfill(100);
    world.here.advance(Duration::from_secs(61));
    assert_eq!(world.page("b", &end, 2).await.0, ["missed 4", "missed 3"]);
    world.check();
}

#[tokio::test]
async fn a_timeline_does_not_go_on_beyond_a_gap() {
    let world = joined().await;
    let room = &world.room;
    let since = world.bob.now().await;
    world.bob.say(&room.id, "before").await;
    for number in 0..3 {
        room.say(&format!("missed {number}"));
    }
    let told = room.say("told");
    let last = room.say("last");
    world.peer.tell_missing(room.events(std::slice::from_ref(&told)));
    room.send(&world.here, vec![room.event(&last)]).await.ok();
    world.until_seen(&last).await;
    for answer in [world.bob.sync(&since).await, world.bob.sync_with("").await] {
        let timeline = &answer["rooms"]["join"][&room.id]["timeline"];
        let events: Vec<_> = timeline["events"].as_array().unwrap().iter().map(what).collect();
        assert_eq!((events, &timeline["limited"]), (vec!["told".to_owned(), "last".to_owned()], &json!(true)));
    }
    world.check();
}

#[tokio::test]
async fn an_event_of_a_time_before_the_join_is_fetched_and_its_neighbours_with_it() {
    let (world, ids) = joined_after("before", 10).await;
    let room = &world.room;
    let (wanted, ts) = (ids[4].clone(), room.event(&ids[4])["origin_server_ts"].as_u64().unwrap());
    world.peer.on(
        Method::GET,
        "/_matrix/federation/v1/timestamp_to_event/",
        move |_| json!({ "event_id": wanted, "origin_server_ts": ts }),
    );
    let by_time = async |ts: u64, dir: &str| {
        let query = query(&[("ts", &ts.to_string()), ("dir", dir)]);
        world.bob.get(&format!("/v1/rooms/{}/timestamp_to_event{query}", room.id)).await.ok()["event_id"].clone()
    };
    assert_eq!(by_time(ts, "b").await, json!(ids[4]));
    assert_eq!(by_time(ts, "f").await, json!(ids[4]), "it is here now");
    let around = world.bob.get(&format!("/v3/rooms/{}/context/{}?limit=0", room.id, path(&ids[4]))).await.ok();
    let page = async |dir: &str, from: &Value| {
        let from = from.as_str().unwrap();
        let page = world.bob.get(&format!("/v3/rooms/{}/messages?dir={dir}&limit=3&from={from}", room.id)).await.ok();
        page["chunk"].as_array().unwrap().iter().map(what).collect::<Vec<_>>()
    };
    assert_eq!(page("b", &around["start"]).await, ["before 3", "before 2", "before 1"]);
    // What a server says is nearest and is not counts for nothing.
    let (liar, id) = (room.clone(), ids[0].clone());
    world.peer.on(
        Method::GET,
        "/_matrix/federation/v1/timestamp_to_event/",
        move |_| json!({ "event_id": id, "origin_server_ts": liar.event(&id)["origin_server_ts"] }),
    );
    assert_eq!(by_time(ts + 1, "b").await, json!(ids[4]));
    world.check();
}

#[tokio::test]
async fn what_is_before_an_event_that_came_into_the_middle_of_a_gap_is_put_before_it() {
    let (world, ids) = joined_after("before", 6).await;
    let room = &world.room;
    let (wanted, ts) = (ids[3].clone(), room.event(&ids[3])["origin_server_ts"].as_u64().unwrap());
    world.peer.on(
        Method::GET,
        "/_matrix/federation/v1/timestamp_to_event/",
        move |_| json!({ "event_id": wanted, "origin_server_ts": ts }),
    );
    let pairs = query(&[("ts", &ts.to_string()), ("dir", "b")]);
    world.bob.get(&format!("/v1/rooms/{}/timestamp_to_event{pairs}", room.id)).await.ok();
    // From the end on, where the gap above it is.
    let (mut history, mut from) = (Vec::new(), Value::Null);
    loop {
        let (shown, end) = world.page("b", &from, 2).await;
        history.extend(shown.into_iter().filter(|body| body.starts_with("before")));
        from = end;
        if from.is_null() {
            break;
        }
    }
    let expected: Vec<_> = (0..6).rev().map(|number| format!("before {number}")).collect();
    assert_eq!(history, expected);
    world.check();
}

#[tokio::test]
async fn servers_that_a_client_names_decide_unless_they_are_not_there() {
    let world = world().await;
    let named = world.network.peer("named");
    named.refuse(Method::GET, "/_matrix/federation/v1/make_join/", 403, "M_FORBIDDEN");
    assert_eq!(world.try_join(&["named"]).await.error(), (403, "M_FORBIDDEN"));
    assert_eq!(world.network.count("there", "/_matrix/federation/v1/make_join/"), 0);
    world.join(&["gone"]).await; // the room's id names a server, too
    assert_eq!(world.network.count("there", "/_matrix/federation/v1/make_join/"), 1);
}
