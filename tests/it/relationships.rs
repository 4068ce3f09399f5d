//! Trees of replies: MSC2836.

use std::time::Duration;

use chappe::check;
use http::Method;
use ruma::{room_version_rules::RoomVersionRules, signatures::reference_hash};
use serde_json::{Value, json};

use crate::support::{Answer, HostedRoom, Peer, START_MS, TestNetwork, TestServer, User, room::event_id};

const CLIENT: &str = "/_matrix/client/unstable/event_relationships";
const SERVER: &str = "/_matrix/federation/unstable/event_relationships";

/// What a message says that replies to another.
fn reply(body: &str, parent: Option<&str>) -> Value {
    let mut content = json!({ "msgtype": "m.text", "body": body });
    if let Some(parent) = parent {
        content["m.relationship"] = json!({ "rel_type": "m.reference", "event_id": parent });
    }
    content
}

async fn say(user: &User, room: &str, body: &str, parent: Option<&str>) -> String {
    // The age of replies decides about their order.
    user.server.inside().clock.advance(Duration::from_secs(1));
    event_id(user.send(room, "m.room.message", reply(body, parent)).await)
}

/// A tree in a room of `user`:
/// ```text
///     a
///    / \
///   b   c
///  / \   \
/// d   e   f
/// ```
struct Tree {
    room: String,
    ids: [String; 6],
}

impl Tree {
    async fn new(user: &User) -> Self {
        let room = user.create_room(json!({ "preset": "public_chat" })).await;
        let a = say(user, &room, "a", None).await;
        let b = say(user, &room, "b", Some(&a)).await;
        let c = say(user, &room, "c", Some(&a)).await;
        let d = say(user, &room, "d", Some(&b)).await;
        let e = say(user, &room, "e", Some(&b)).await;
        let f = say(user, &room, "f", Some(&c)).await;
        Self { room, ids: [a, b, c, d, e, f] }
    }

    fn id(&self, name: &str) -> &str {
        &self.ids[usize::from(name.as_bytes()[0] - b'a')]
    }
}

fn bodies(answer: &Value) -> Vec<&str> {
    let events = answer["events"].as_array().unwrap();
    events.iter().map(|event| event["content"]["body"].as_str().unwrap_or("(redacted)")).collect()
}

async fn ask(user: &User, event: &str, more: Value) -> Value {
    try_ask(user, event, more).await.ok()
}

async fn try_ask(user: &User, event: &str, more: Value) -> Answer {
    let mut query = json!({ "event_id": event });
    query.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    user.post(CLIENT, query).await
}

fn check_store(server: &TestServer) {
    let report = check::check(&server.inside().store, server.inside().name()).unwrap();
    assert!(report.is_clean(), "{:#?}", report.problems);
}

#[tokio::test]
async fn a_walk_goes_where_it_is_asked_to() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let tree = Tree::new(&alice).await;
    let features = alice.get("/_matrix/client/versions").await.ok();
    assert_eq!(features["unstable_features"]["org.matrix.msc2836"], true);
    for (from, more, expected) in [
        ("a", json!({}), vec!["a", "c", "b", "f", "e", "d"]),
        ("a", json!({ "recent_first": false }), vec!["a", "b", "c", "d", "e", "f"]),
        ("a", json!({ "recent_first": false, "depth_first": true }), vec!["a", "b", "d", "e", "c", "f"]),
        ("a", json!({ "max_depth": 1 }), vec!["a", "c", "b"]),
        ("a", json!({ "max_depth": 0 }), vec!["a"]),
        ("a", json!({ "max_breadth": 1 }), vec!["a", "c", "f"]),
        ("a", json!({ "max_breadth": 1, "recent_first": false }), vec!["a", "b", "d"]),
        ("a", json!({ "max_breadth": -1, "max_depth": -1 }), vec!["a", "c", "b", "f", "e", "d"]),
        ("e", json!({ "direction": "up" }), vec!["e", "b", "a"]),
        ("e", json!({ "direction": "up", "max_depth": 1 }), vec!["e", "b"]),
        ("b", json!({ "direction": "up", "include_children": true }), vec!["b", "e", "d", "a"]),
        ("b", json!({ "include_parent": true }), vec!["b", "a", "e", "d"]),
        ("d", json!({}), vec!["d"]),
    ] {
        let answer = ask(&alice, tree.id(from), more.clone()).await;
        assert_eq!(bodies(&answer), expected, "{from} {more}");
        assert_eq!((&answer["limited"], answer.get("next_batch")), (&json!(false), None), "{from} {more}");
    }
    let answer = ask(&alice, tree.id("a"), json!({ "max_depth": 0 })).await;
    let event = &answer["events"][0];
    assert_eq!((&event["room_id"], &event["event_id"]), (&json!(tree.room), &json!(tree.id("a"))));
    assert_eq!(event["unsigned"]["children"], json!({ "m.reference": 2 }));
    assert!(event["unsigned"]["age"].is_i64(), "the rest is as anywhere: {event}");
    for wrong in [json!({ "limit": 0 }), json!({ "batch": "x" })] {
        assert_eq!(try_ask(&alice, tree.id("a"), wrong).await.error(), (400, "M_INVALID_PARAM"));
    }
    assert_eq!(try_ask(&alice, tree.id("a"), json!({ "direction": "left" })).await.error(), (400, "M_BAD_JSON"));
}

#[tokio::test]
async fn pages_of_a_walk_are_the_walk() {
    let server = TestServer::new().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let tree = Tree::new(&alice).await;
    bob.join(&tree.room).await;
    let whole = ask(&alice, tree.id("a"), json!({})).await;
    let whole = bodies(&whole);
    for limit in 1..=6 {
        let (mut found, mut batch) = (Vec::new(), String::new());
        loop {
            let answer = ask(&alice, tree.id("a"), json!({ "limit": limit, "batch": batch })).await;
            found.extend(bodies(&answer).into_iter().map(str::to_owned));
            assert_eq!(answer["limited"], json!(found.len() < whole.len()), "{limit}");
            match answer.get("next_batch") {
                Some(next) => batch = next.as_str().unwrap().to_owned(),
                None => break,
            }
        }
        assert_eq!(found, whole, "{limit}");
    }
    let first = ask(&alice, tree.id("a"), json!({ "limit": 2 })).await;
    let batch = &first["next_batch"];
    let next = ask(&alice, tree.id("a"), json!({ "limit": 2, "batch": batch })).await;
    let again = ask(&alice, tree.id("a"), json!({ "limit": 2, "batch": batch })).await;
    assert_eq!(bodies(&next), bodies(&again), "it can be asked for again");
    assert!(again["next_batch"].is_string());
    for (user, event, more) in [
        (&alice, "a", json!({ "batch": batch, "depth_first": true })),
        (&alice, "b", json!({ "batch": batch })),
        (&bob, "a", json!({ "batch": batch })),
    ] {
        assert_eq!(try_ask(user, tree.id(event), more).await.error(), (400, "M_INVALID_PARAM"));
    }
    for _ in 0..200 {
        ask(&bob, tree.id("a"), json!({ "limit": 2 })).await;
    }
    let still = ask(&alice, tree.id("a"), json!({ "limit": 2, "batch": batch })).await;
    assert_eq!(bodies(&next), bodies(&still), "the walks of others do not push it out");
}

#[tokio::test]
async fn a_tree_shows_what_the_reader_may_see() {
    let server = TestServer::new().await;
    let (alice, bob, carol) = (server.user("alice").await, server.user("bob").await, server.user("carol").await);
    let tree = Tree::new(&alice).await;
    assert_eq!(try_ask(&bob, tree.id("a"), json!({})).await.error(), (404, "M_NOT_FOUND"), "he is not in the room");
    let nothing = try_ask(&bob, "$nothing", json!({ "room_id": tree.room })).await;
    assert_eq!(nothing.error(), (404, "M_NOT_FOUND"));

    // What is said while only members of the time may read it is a wall for those who come later.
    alice.set(&tree.room, "m.room.history_visibility", "", json!({ "history_visibility": "joined" })).await;
    let hidden = say(&alice, &tree.room, "hidden", Some(tree.id("d"))).await;
    carol.join(&tree.room).await;
    bob.join(&tree.room).await;
    let seen = say(&alice, &tree.room, "seen", Some(&hidden)).await;
    let from_d = ask(&bob, tree.id("d"), json!({})).await;
    assert_eq!(bodies(&from_d), ["d"]);
    assert_eq!(from_d["events"][0]["unsigned"]["children"], json!({}));
    assert_eq!(bodies(&ask(&bob, &seen, json!({ "direction": "up" })).await), ["seen"]);
    assert_eq!(bodies(&ask(&alice, tree.id("d"), json!({})).await), ["d", "hidden", "seen"]);

    let ignored = say(&carol, &tree.room, "ignored", Some(&seen)).await;
    say(&alice, &tree.room, "below", Some(&ignored)).await;
    let ignore = json!({ "ignored_users": { &carol.id: {} } });
    bob.put(&format!("/v3/user/{}/account_data/m.ignored_user_list", bob.id), ignore).await.ok();
    assert_eq!(bodies(&ask(&bob, &seen, json!({})).await), ["seen"]);
    assert_eq!(bodies(&ask(&alice, &seen, json!({})).await), ["seen", "ignored", "below"]);
    check_store(&server);
}

#[tokio::test]
async fn a_redacted_event_stays_where_it_is_in_the_tree() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let tree = Tree::new(&alice).await;
    let mut of_another_type = reply("x", Some(tree.id("b")));
    of_another_type["m.relationship"]["rel_type"] = json!("custom");
    let custom = event_id(alice.send(&tree.room, "m.room.message", of_another_type).await);
    let children = async || {
        let answer = ask(&alice, tree.id("b"), json!({ "max_depth": 0 })).await;
        answer["events"][0]["unsigned"]["children"].clone()
    };
    assert_eq!(children().await, json!({ "m.reference": 2, "custom": 1 }));
    for id in [tree.id("b"), &custom] {
        alice.redact(&tree.room, id).await.ok();
    }
    assert_eq!(children().await, json!({ "m.reference": 2 }), "relationships of other types are not kept");
    let whole = ask(&alice, tree.id("a"), json!({ "recent_first": false, "depth_first": true })).await;
    assert_eq!(bodies(&whole), ["a", "(redacted)", "d", "e", "c", "f"]);
    assert_eq!(bodies(&ask(&alice, tree.id("d"), json!({ "direction": "up" })).await), ["d", "(redacted)", "a"]);
    check_store(&server);
}

#[tokio::test]
async fn users_reply_to_events_of_their_room_only() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let tree = Tree::new(&alice).await;
    let elsewhere = alice.create_room(json!({})).await;
    for (room, parent) in [(&tree.room, "$nothing"), (&elsewhere, tree.id("a"))] {
        let answer = alice.send(room, "m.room.message", reply("x", Some(parent))).await;
        assert_eq!(answer.error(), (400, "M_INVALID_PARAM"), "{parent}");
        let answer = alice.set_state(room, "com.example.x", "", reply("x", Some(parent))).await;
        assert_eq!(answer.error(), (400, "M_INVALID_PARAM"), "{parent}");
    }
}

#[tokio::test]
async fn what_is_missing_of_a_tree_comes_from_other_servers() {
    let network = TestNetwork::new();
    let (a, b) = (network.server("a.test").await, network.server("b.test").await);
    let (alice, bob) = (a.user("alice").await, b.user("bob").await);
    let tree = Tree::new(&alice).await;
    bob.post(&format!("/v3/join/{}?via=a.test", tree.room), json!({})).await.ok();

    let known = json!({ "room_id": tree.room, "include_parent": true, "recent_first": false });
    let answer = ask(&bob, tree.id("d"), known.clone()).await;
    assert_eq!((bodies(&answer), &answer["limited"]), (vec!["d", "b"], &json!(false)));
    assert_eq!(answer["events"][1]["unsigned"]["children"], json!({ "m.reference": 2 }), "e, too, which is not here");
    let asked = network.count("a.test", SERVER);
    assert_eq!(asked, 1);
    let answer = ask(&bob, tree.id("b"), known.clone()).await;
    assert_eq!(bodies(&answer), ["b", "a", "d", "e"]);
    assert_eq!(network.count("a.test", SERVER), asked + 1, "it has children that were not here");
    assert_eq!(answer, ask(&bob, tree.id("b"), known).await);
    assert_eq!(network.count("a.test", SERVER), asked + 1);
    let up = ask(&bob, tree.id("e"), json!({ "direction": "up" })).await;
    assert_eq!(bodies(&up), ["e", "b", "a"]);
    let whole = ask(&bob, tree.id("a"), json!({})).await;
    assert_eq!(bodies(&whole), ["a", "c", "b", "f", "e", "d"]);
    assert_eq!(network.count("a.test", SERVER), asked + 1, "all that came with the rest");

    // Nothing of that got into the timeline.
    assert_eq!(bob.event(&tree.room, tree.id("a")).await.error(), (404, "M_NOT_FOUND"));
    for server in [&a, &b] {
        check_store(server);
    }
}

/// bob on `here`, in a room of the scripted server `there`, which has a tree of replies: the ids of the replied and the
/// reply, of which `here` knows only the second.
struct Scripted {
    network: TestNetwork,
    here: TestServer,
    bob: User,
    peer: Peer,
    room: HostedRoom,
    parent: String,
    child: String,
}

impl Scripted {
    async fn new() -> Self {
        let network = TestNetwork::new();
        let here = network.server("here").await;
        let bob = here.user("bob").await;
        let peer = network.peer("there");
        let room = HostedRoom::new(&peer);
        let alice = peer.user("alice");
        let parent = room.add(&alice, "m.room.message", None, reply("parent", None));
        bob.post(&format!("/v3/join/{}?via=there", room.id), json!({})).await.ok();
        let child = room.add(&alice, "m.room.message", None, reply("child", Some(&parent)));
        room.send(&here, vec![room.event(&child)]).await.ok();
        let scripted = Self { network, here, bob, peer, room, parent, child };
        scripted.until_seen(&scripted.child).await;
        scripted
    }

    async fn until_seen(&self, event_id: &str) {
        for _ in 0..1_000 {
            if self.bob.event(&self.room.id, event_id).await.status == 200 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("bob never saw {event_id}");
    }

    /// From now on the other server tells these events of any tree.
    fn tell(&self, events: Vec<Value>) {
        self.peer.on(Method::POST, SERVER, move |_| json!({ "events": events, "limited": false, "auth_chain": [] }));
    }

    async fn up(&self) -> Vec<String> {
        let answer = ask(&self.bob, &self.child, json!({ "direction": "up" })).await;
        bodies(&answer).into_iter().map(str::to_owned).collect()
    }
}

#[tokio::test]
async fn only_events_that_are_signed_and_of_the_room_are_believed() {
    let scripted = Scripted::new().await;
    assert_eq!(scripted.up().await, ["child"], "nobody tells the rest");
    let mut forged = scripted.room.event(&scripted.parent);
    forged["origin_server_ts"] = json!(1);
    let mut elsewhere = scripted.room.event(&scripted.parent);
    elsewhere["room_id"] = json!("!elsewhere:there");
    scripted.room.sign(&mut elsewhere);
    scripted.tell(vec![forged, elsewhere, json!("nothing"), json!({})]);
    assert_eq!(scripted.up().await, ["child"]);
    scripted.tell(vec![scripted.room.event(&scripted.parent)]);
    assert_eq!(scripted.up().await, ["child", "parent"]);
    let asked = scripted.peer.asked(SERVER);
    assert_eq!(asked.last().unwrap().body["event_id"], scripted.parent);
    check_store(&scripted.here);
}

#[tokio::test]
async fn events_without_a_place_are_for_members_of_rooms_that_always_shared_their_history() {
    let scripted = Scripted::new().await;
    scripted.tell(vec![scripted.room.event(&scripted.parent)]);
    assert_eq!(scripted.up().await, ["child", "parent"]);
    let carol = scripted.here.user("carol").await;
    assert_eq!(try_ask(&carol, &scripted.parent, json!({})).await.error(), (404, "M_NOT_FOUND"), "she is no member");
    // From the rule of now nobody can tell what it was then.
    for visibility in ["joined", "shared"] {
        let content = json!({ "history_visibility": visibility });
        let set = scripted.room.add(&scripted.peer.user("alice"), "m.room.history_visibility", Some(""), content);
        scripted.room.send(&scripted.here, vec![scripted.room.event(&set)]).await.ok();
        scripted.until_seen(&set).await;
        assert_eq!(scripted.up().await, ["child"], "{visibility}");
    }
}

#[tokio::test]
async fn claims_about_children_are_looked_into_once() {
    let scripted = Scripted::new().await;
    let mut event = scripted.room.event(&scripted.parent);
    event["unsigned"] = json!({ "children": { "m.reference": 70 }, "children_hash": "A".repeat(43) });
    scripted.tell(vec![event]);
    let down = async || ask(&scripted.bob, &scripted.parent, json!({ "room_id": scripted.room.id })).await;
    let answer = down().await;
    assert_eq!(bodies(&answer), ["parent", "child"]);
    assert_eq!(answer["events"][0]["unsigned"]["children"], json!({ "m.reference": 70 }));
    let asked = scripted.network.count("there", SERVER);
    down().await;
    assert_eq!(scripted.network.count("there", SERVER), asked, "the other 69 can't be had");
}

#[tokio::test]
async fn other_servers_are_told_what_they_may_see() {
    let network = TestNetwork::new();
    let here = network.server("here").await;
    let alice = here.user("alice").await;
    let tree = Tree::new(&alice).await;
    let (member, stranger) = (network.peer("member.test"), network.peer("stranger.test"));
    alice.set(&tree.room, "m.room.history_visibility", "", json!({ "history_visibility": "joined" })).await;
    let hidden = say(&alice, &tree.room, "hidden", Some(tree.id("f"))).await;
    join(&here, &member, &tree.room).await;
    say(&alice, &tree.room, "seen", Some(tree.id("f"))).await;
    let query = |event: &str, more: Value| {
        let mut query = json!({ "event_id": event, "recent_first": false });
        query.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        query
    };
    let told = member.post(&here, SERVER, query(tree.id("c"), json!({ "include_parent": true }))).await.ok();
    assert_eq!((bodies(&told), &told["limited"]), (vec!["c", "a", "f", "seen"], &json!(false)));
    assert_eq!(told["events"][2]["unsigned"]["children"], json!({ "m.reference": 1 }));
    assert!(
        told["events"][0].get("event_id").is_none() && told["events"][0]["hashes"].is_object(),
        "the form of servers"
    );
    let chain: Vec<_> = told["auth_chain"].as_array().unwrap().iter().map(|event| event["type"].as_str()).collect();
    assert!(chain.contains(&Some("m.room.power_levels")) && chain.contains(&Some("m.room.member")), "{chain:?}");
    let limited = member.post(&here, SERVER, query(tree.id("a"), json!({ "limit": 2 }))).await.ok();
    assert_eq!((bodies(&limited), &limited["limited"]), (vec!["a", "b"], &json!(true)));
    assert!(limited.get("next_batch").is_none());
    for (peer, event) in [(&member, hidden.as_str()), (&member, "$nothing"), (&stranger, tree.id("a"))] {
        let refused = peer.post(&here, SERVER, query(event, json!({}))).await;
        assert_eq!(refused.error(), (404, "M_NOT_FOUND"), "{event}");
    }
    let batch = member.post(&here, SERVER, query(tree.id("a"), json!({ "batch": "x" }))).await;
    assert_eq!(batch.error(), (400, "M_INVALID_PARAM"));
}

/// Lets a user of the peer into the room.
async fn join(here: &TestServer, peer: &Peer, room: &str) {
    let user = peer.user("bob");
    let draft = peer.get(here, &format!("/v1/make_join/{room}/{user}?ver=12")).await.ok();
    let mut event = draft["event"].clone();
    event["origin_server_ts"] = json!(START_MS + 60_000);
    peer.sign_event(&mut event, &RoomVersionRules::V12);
    let object = serde_json::from_value(event.clone()).unwrap();
    let id = format!("${}", reference_hash(&object, &RoomVersionRules::V12).unwrap());
    peer.put(here, &format!("/v2/send_join/{room}/{id}"), event).await.ok();
}
