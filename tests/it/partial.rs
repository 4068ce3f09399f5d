//! Rooms of other servers that are joined before their members are known.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use chappe::{
    check,
    federation::{completing, introducing, queue},
    room::{
        delayed,
        partial::{self, Partial, tables::Introductions},
        remote,
    },
    store::Transaction,
    user::directory,
};
use http::{Method, StatusCode};
use ruma::{OwnedEventId, OwnedRoomId, RoomVersionId, user_id};
use serde_json::{Value, json};

use crate::{
    sliding::Connection,
    support::{HostedRoom, Peer, TestNetwork, TestServer, User, hosted::id_of, peer::reply, query, room::path},
};

const STATE_IDS: &str = "/_matrix/federation/v1/state_ids/";
const SEND: &str = "/_matrix/federation/v1/send/";
const QUERY: &str = "/_matrix/federation/v1/user/keys/query";
const LAZY: &str = r#"{"room":{"state":{"lazy_load_members":true}}}"#;

/// `here`, where bob has joined a room of the peer's, alice and charlie in it, whose members he was not told.
struct World {
    network: TestNetwork,
    here: TestServer,
    bob: User,
    peer: Peer,
    /// Another server that is said to be in the room.
    other: Peer,
    room: HostedRoom,
    /// The peer tells the state of the room when it is set.
    tells: Arc<AtomicBool>,
}

async fn joined() -> World {
    joined_after(|_| {}).await
}

/// As [`joined`]; `before` prepares the room before bob comes.
async fn joined_after(before: impl FnOnce(&HostedRoom)) -> World {
    let network = TestNetwork::new();
    let here = network.server("here").await;
    let bob = here.user("bob").await;
    let peer = network.peer("there");
    let other = network.peer("other");
    for server in [&peer, &other] {
        server.on(Method::PUT, SEND, |_| json!({ "pdus": {} }));
    }
    let room = HostedRoom::new(&peer);
    join_event(&room, "charlie");
    before(&room);
    room.omit_members(&["there", "other", "here"]);
    let tells = Arc::new(AtomicBool::new(false));
    hold_back(&room, &tells);
    let world = World { network, here, bob, peer, other, room, tells };
    world.join().await;
    world
}

/// Has the room's server refuse to tell its state until `tells` is set.
fn hold_back(room: &HostedRoom, tells: &Arc<AtomicBool>) {
    let (told, tells) = (room.clone(), Arc::clone(tells));
    room.peer.on_response(Method::GET, STATE_IDS, move |asked| match tells.load(Ordering::Relaxed) {
        true => reply(StatusCode::OK, &told.state_ids(asked)),
        false => reply(StatusCode::NOT_FOUND, &json!({ "errcode": "M_NOT_FOUND", "error": "not yet" })),
    });
}

fn join_event(room: &HostedRoom, localpart: &str) -> String {
    let user = room.peer.user(localpart);
    room.add(&user, "m.room.member", Some(&user), json!({ "membership": "join" }))
}

impl World {
    async fn join(&self) {
        self.bob.post(&format!("/v3/join/{}?via=there", self.room.id), json!({})).await.ok();
    }

    fn tell(&self) {
        self.tells.store(true, Ordering::Relaxed);
    }

    async fn until_whole(&self) {
        self.tell();
        self.bob.get(&format!("/v3/rooms/{}/members", self.room.id)).await.ok();
    }

    async fn lazy(&self, since: Option<&str>) -> Value {
        let mut pairs = vec![("filter", LAZY)];
        pairs.extend(since.map(|since| ("since", since)));
        self.bob.get(&format!("/v3/sync{}", query(&pairs))).await.ok()
    }

    /// Waits until bob sees `event_id`.
    async fn until_seen(&self, event_id: &str) {
        for _ in 0..500 {
            if self.sees(event_id).await {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{event_id} did not come");
    }

    async fn sees(&self, event_id: &str) -> bool {
        self.bob.event(&self.room.id, event_id).await.status == 200
    }

    /// Sends the newest event of the room, and waits until bob sees it.
    async fn deliver(&self, event_id: &str) {
        self.room.send(&self.here, vec![self.room.event(event_id)]).await.ok();
        self.until_seen(event_id).await;
    }

    async fn joined_members(&self) -> Vec<String> {
        let members = self.bob.get(&format!("/v3/rooms/{}/joined_members", self.room.id)).await.ok();
        members["joined"].as_object().unwrap().keys().cloned().collect()
    }

    /// Waits until everything that happened is sent to both servers.
    async fn until_sent(&self) {
        let destinations = [self.peer.name().to_owned(), self.other.name().to_owned()];
        queue::until_sent(self.here.inside(), &destinations).await.unwrap();
    }

    /// Has the servers in the room told of devices now.
    async fn introduce(&self) {
        let snapshot = self.here.inside().store.snapshot();
        let rooms: Vec<_> = snapshot.list::<Introductions>(&()).map(|row| row.unwrap().key().unwrap()).collect();
        assert_eq!(rooms.len(), 1);
        introducing::introduce(self.here.inside(), rooms[0]).await.unwrap();
        self.until_sent().await;
    }

    fn check(&self) {
        check(&self.here);
    }
}

/// Waits until nobody asks for the state of a room that nobody of `server` is in.
async fn until_given_up(server: &TestServer) {
    for _ in 0..1_000 {
        if server.inside().partial.at_work.lock().is_empty() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("somebody still asks for a state");
}

/// How many updates of a user's devices a server was sent.
fn device_updates(server: &Peer, user: &str) -> usize {
    let asked = server.asked(SEND);
    let edus = asked.iter().filter_map(|asked| asked.body["edus"].as_array()).flatten();
    edus.filter(|edu| edu["edu_type"] == "m.device_list_update" && edu["content"]["user_id"] == user).count()
}

fn check(server: &TestServer) {
    let server = server.inside();
    let report = check::check(&server.store, server.name()).unwrap();
    assert!(report.is_clean(), "{:#?}", report.problems);
}

fn joined_room<'a>(answer: &'a Value, room: &HostedRoom) -> &'a Value {
    &answer["rooms"]["join"][&room.id]
}

fn members_in(events: &Value) -> Vec<&str> {
    let events = events.as_array().map(Vec::as_slice).unwrap_or_default();
    let members = events.iter().filter(|event| event["type"] == "m.room.member");
    members.map(|event| event["state_key"].as_str().unwrap()).collect()
}

/// A client of sliding sync that wants this state of all rooms.
fn sliding(user: &User, conn_id: &str, required_state: &Value) -> Connection {
    let list = json!({ "ranges": [[0, 9]], "timeline_limit": 10, "required_state": required_state });
    Connection::new(user, json!({ "conn_id": conn_id, "lists": { "all": list } }))
}

#[tokio::test]
async fn a_room_is_read_and_written_before_its_members_are_known() {
    let world = joined().await;
    let World { bob, room, .. } = &world;
    let first = world.lazy(None).await;
    assert_eq!(joined_room(&first, room)["summary"]["m.joined_member_count"], 1, "{first}");
    assert!(joined_room(&bob.sync_with("").await, room).is_null(), "a client that wants all members sees it later");

    let said = room.say("hello");
    world.deliver(&said).await;
    let since = first["next_batch"].as_str().unwrap();
    let second = world.lazy(Some(since)).await;
    let told = joined_room(&second, room);
    assert_eq!(told["timeline"]["events"][0]["event_id"], said.as_str());
    assert_eq!(members_in(&told["state"]["events"]), ["@alice:there"], "who said something is known");
    bob.say(&room.id, "hi").await;
    assert!(joined_room(&bob.sync_with("").await, room).is_null());
    world.check();

    let eager_since = bob.now().await;
    world.until_whole().await;
    assert_eq!(world.joined_members().await, ["@alice:there", "@bob:here", "@charlie:there"]);
    let answer = bob.sync(&eager_since).await;
    let told = joined_room(&answer, room);
    assert_eq!(told["summary"]["m.joined_member_count"], 3, "{answer}");
    let mut members = members_in(&told["state"]["events"]);
    members.extend(members_in(&told["timeline"]["events"]));
    members.sort_unstable();
    assert_eq!(members, ["@alice:there", "@bob:here", "@charlie:there"]);
    assert!(joined_room(&bob.sync(answer["next_batch"].as_str().unwrap()).await, room).is_null(), "once is enough");

    let third = world.lazy(second["next_batch"].as_str()).await;
    let told = joined_room(&third, room);
    assert_eq!(told["summary"]["m.joined_member_count"], 3, "{third}");
    let members = members_in(&told["state"]["events"]);
    assert!(!members.contains(&"@charlie:there"), "a lazy client is not told who said nothing: {members:?}");
    world.check();
}

#[tokio::test]
async fn sliding_sync_tells_that_members_are_known_and_only_those_who_are_wanted() {
    let (alice, charlie) = ("@alice:there", "@charlie:there");
    let world = joined_after(|room| {
        room.add(alice, "m.room.name", Some(""), json!({ "name": "" }));
    })
    .await;
    let World { bob, room, .. } = &world;
    let named = json!([["m.room.member", "$LAZY"], ["m.room.member", charlie]]);
    let cases = [
        ("lazy", json!([["m.room.member", "$LAZY"]]), vec![], vec![alice]),
        ("named", named, vec![charlie], vec![alice, charlie]),
        ("all", json!([["m.room.member", "*"]]), vec![alice, charlie], vec![alice, charlie]),
    ];
    let mut clients: Vec<_> = cases.iter().map(|(name, state, ..)| sliding(bob, name, state)).collect();
    let mut away = sliding(bob, "away", &json!([]));
    for client in clients.iter_mut().chain([&mut away]) {
        let first = client.next().await;
        assert_eq!(first["rooms"][&room.id]["joined_count"], 1, "{first}");
    }
    let seen: Vec<_> = clients.iter().map(|client| client.pos.clone()).collect();
    world.until_whole().await;
    let told = async |client: &mut Connection| {
        let told = client.next().await["rooms"][&room.id].take();
        assert_eq!((&told["joined_count"], &told["limited"]), (&json!(3), &json!(false)), "{told}");
        let heroes = told["heroes"].as_array().unwrap().iter();
        let mut heroes: Vec<_> = heroes.map(|hero| hero["user_id"].as_str().unwrap()).collect();
        heroes.sort_unstable();
        assert_eq!(heroes, [alice, charlie]);
        let mut members: Vec<_> = members_in(&told["required_state"]).into_iter().map(ToOwned::to_owned).collect();
        members.sort_unstable();
        members
    };
    for (client, (name, _, members, _)) in clients.iter_mut().zip(&cases) {
        assert_eq!(told(client).await, *members, "{name}");
    }
    away.body["lists"]["all"]["ranges"] = json!([[5, 9]]);
    away.next().await;
    away.body["lists"]["all"]["ranges"] = json!([[0, 9]]);
    assert_eq!(told(&mut away).await, [""; 0], "who did not look meanwhile hears of it later");

    // Those answers got lost, and the next have a message as well.
    let said = room.say("hello");
    world.deliver(&said).await;
    for ((client, seen), (name, _, _, members)) in clients.iter_mut().zip(seen).zip(&cases) {
        client.pos = seen;
        assert_eq!(told(client).await, *members, "{name}");
        assert!(client.next().await["rooms"][&room.id].is_null(), "{name}: once is enough");
    }
}

#[tokio::test]
async fn who_asks_for_all_members_waits_for_them() {
    let world = joined().await;
    let World { bob, room, .. } = &world;
    let paths = ["members", "joined_members", "state", "state/m.room.member/@charlie:there"];
    let mut waiting = Vec::new();
    for path in paths {
        let (bob, path) = (bob.clone(), format!("/v3/rooms/{}/{path}", room.id));
        waiting.push(tokio::spawn(async move { bob.get(&path).await.ok() }));
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(waiting.iter().all(|waiting| !waiting.is_finished()));
    bob.state(&room.id, "m.room.name", "").await.ok();
    bob.state(&room.id, "m.room.member", &bob.id).await.ok();
    world.tell();
    for waiting in waiting {
        let answer = waiting.await.unwrap().to_string();
        assert!(answer.contains("charlie") || answer.contains(r#""membership":"join""#), "{answer}");
    }
    world.check();
}

#[tokio::test]
async fn another_server_of_the_room_is_asked_if_the_first_tells_nothing() {
    let world = joined().await;
    world.peer.on(Method::GET, STATE_IDS, |_| json!({}));
    world.room.share_states(&world.other);
    world.bob.get(&format!("/v3/rooms/{}/members", world.room.id)).await.ok();
    assert_eq!(world.joined_members().await, ["@alice:there", "@bob:here", "@charlie:there"]);
    assert!(!world.other.asked(STATE_IDS).is_empty());
    world.check();
}

#[tokio::test]
async fn another_server_of_the_room_is_asked_if_the_first_is_gone_or_tells_another_rooms_state() {
    let world = joined().await;
    let World { bob, room, peer, other, .. } = &world;
    // What this one tells has no create event.
    other.on(Method::GET, STATE_IDS, |_| json!({ "pdu_ids": [], "auth_chain_ids": [] }));
    peer.on_response(Method::GET, STATE_IDS, |_| reply(StatusCode::BAD_GATEWAY, &json!({})));
    let asked = other.asked(STATE_IDS).len();
    for _ in 0..500 {
        if other.asked(STATE_IDS).len() > asked {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(other.asked(STATE_IDS).len() > asked, "the first answers nothing");
    assert!(joined_room(&bob.sync_with("").await, room).is_null(), "that is no state of this room");
    room.share_states(other);
    bob.get(&format!("/v3/rooms/{}/members", room.id)).await.ok();
    assert_eq!(world.joined_members().await, ["@alice:there", "@bob:here", "@charlie:there"]);
    world.check();
}

#[tokio::test]
async fn a_state_that_is_none_is_not_taken() {
    let world = joined().await;
    world.peer.on(Method::GET, STATE_IDS, |_| json!({ "pdu_ids": [], "auth_chain_ids": [] }));
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert!(world.peer.asked(STATE_IDS).len() > 1);
    assert!(joined_room(&world.bob.sync_with("").await, &world.room).is_null());
    world.room.share_states(&world.peer);
    world.until_whole().await;
    assert_eq!(world.joined_members().await.len(), 3);
    world.check();
}

#[tokio::test]
async fn a_restart_goes_on_where_the_last_run_was() {
    let world = joined().await;
    let said = world.room.say("before");
    world.deliver(&said).await;
    let World { network, here, bob, room, tells, .. } = world;
    let token = bob.token.clone();
    drop(bob);
    let directory = here.stop(&network).await;
    let here = TestServer::of_directory(network.clone(), "here", directory, |_| {}).await;
    network.add("here", here.router());
    let bob = User { server: here.clone(), id: "@bob:here".to_owned(), device_id: String::new(), token };
    assert!(joined_room(&bob.sync_with("").await, &room).is_null(), "its state is not whole yet");
    completing::resume(Arc::clone(here.inside())).await;
    tells.store(true, Ordering::Relaxed);
    let members = bob.get(&format!("/v3/rooms/{}/joined_members", room.id)).await.ok();
    assert_eq!(members["joined"].as_object().unwrap().len(), 3);
    assert!(!joined_room(&bob.sync_with("").await, &room).is_null());
    check(&here);
}

#[tokio::test]
async fn what_was_accepted_for_lack_of_members_is_rejected_and_the_reverse() {
    let mut derek_in = String::new();
    let world = joined_after(|room| {
        let alice = room.peer.user("alice");
        let power = json!({ "users": { &alice: 100, "@derek:there": 100, "@elsie:there": 50 } });
        room.add(&alice, "m.room.power_levels", Some(""), power);
        derek_in = join_event(room, "derek");
        join_event(room, "elsie");
        room.add("@derek:there", "m.room.member", Some("@derek:there"), json!({ "membership": "leave" }));
    })
    .await;
    let World { room, bob, .. } = &world;
    // Derek has left, which this server does not know, and kicks elsie all the same.
    let join = id_of(&room.state_event("m.room.member", "@bob:here").unwrap());
    let mut kick =
        room.build("@derek:there", "m.room.member", Some("@elsie:there"), json!({ "membership": "leave" }), &[join]);
    let derek_out = id_of(&room.state_event("m.room.member", "@derek:there").unwrap());
    let auth_events = kick["auth_events"].as_array_mut().unwrap();
    *auth_events.iter_mut().find(|id| **id == json!(derek_out)).unwrap() = json!(derek_in);
    room.sign(&mut kick);
    let kick_id = room.keep_refused(kick.clone());
    room.send(&world.here, vec![kick]).await.ok();
    world.until_seen(&kick_id).await;
    let topic = room.add("@elsie:there", "m.room.topic", Some(""), json!({ "topic": "elsie's" }));
    let after = room.say("after");
    room.send(&world.here, room.events(&[topic.clone(), after.clone()])).await.ok();
    world.until_seen(&after).await;
    assert!(!world.sees(&topic).await, "elsie seems to be kicked");
    world.check();

    world.until_whole().await;
    assert!(!world.sees(&kick_id).await, "derek had left");
    assert!(world.sees(&topic).await, "elsie was never kicked");
    assert_eq!(bob.state(&room.id, "m.room.topic", "").await.ok(), json!({ "topic": "elsie's" }));
    assert!(world.joined_members().await.contains(&"@elsie:there".to_owned()));
    world.check();
}

#[tokio::test]
async fn whom_nobody_in_the_room_kicked_can_still_leave() {
    let mut derek_in = String::new();
    let world = joined_after(|room| {
        let alice = room.peer.user("alice");
        room.add(&alice, "m.room.power_levels", Some(""), json!({ "users": { &alice: 100, "@derek:there": 100 } }));
        derek_in = join_event(room, "derek");
        join_event(room, "elsie");
        room.add("@derek:there", "m.room.member", Some("@derek:there"), json!({ "membership": "leave" }));
    })
    .await;
    let World { room, .. } = &world;
    let join = id_of(&room.state_event("m.room.member", "@bob:here").unwrap());
    let mut kick =
        room.build("@derek:there", "m.room.member", Some("@elsie:there"), json!({ "membership": "leave" }), &[join]);
    let event = |event_type: &str| id_of(&room.state_event(event_type, "").unwrap());
    kick["auth_events"] = json!([event("m.room.create"), event("m.room.power_levels"), derek_in]);
    room.sign(&mut kick);
    let kick_id = room.keep_refused(kick.clone());
    room.send(&world.here, vec![kick]).await.ok();
    world.until_seen(&kick_id).await;
    // Her leave names her join, which nothing says that the kick came after.
    let leave = room.add("@elsie:there", "m.room.member", Some("@elsie:there"), json!({ "membership": "leave" }));
    world.deliver(&leave).await;
    world.check();

    world.until_whole().await;
    assert!(!world.sees(&kick_id).await && world.sees(&leave).await);
    assert_eq!(world.joined_members().await, ["@alice:there", "@bob:here", "@charlie:there"]);
    world.check();
}

#[tokio::test]
async fn servers_are_told_of_devices_once_it_is_known_which_are_in_the_room() {
    let world = joined().await;
    let World { here, room, peer, other, .. } = &world;
    queue::start(here.inside());
    let (carol, dan) = (here.user("carol").await, here.user("dan").await);
    for user in [&carol, &dan] {
        user.post(&format!("/v3/join/{}?via=there", room.id), json!({})).await.ok();
    }
    world.until_sent().await;
    assert_eq!(device_updates(peer, &carol.id) + device_updates(other, &carol.id), 0, "nobody knows who is there");
    world.until_whole().await;
    world.until_sent().await;
    assert_eq!(device_updates(peer, &carol.id), 0, "she may leave at once");
    dan.leave(&room.id).await;
    world.introduce().await;
    assert_eq!(device_updates(peer, &carol.id), 1);
    assert_eq!(device_updates(peer, &dan.id), 0, "he has left");
    assert_eq!(device_updates(other, &carol.id), 0, "that server is not there");
    let eve = here.user("eve").await;
    eve.join(&room.id).await;
    world.until_sent().await;
    assert_eq!(device_updates(peer, &eve.id), 1, "of a whole room it is known");
    world.check();
}

#[tokio::test]
async fn keys_of_members_are_kept_once_it_is_known_that_they_are_there() {
    let world = joined().await;
    let World { bob, peer, .. } = &world;
    peer.on(Method::POST, QUERY, |_| json!({ "device_keys": { "@charlie:there": {} }, "master_keys": null }));
    let ask = async || {
        bob.post("/v3/keys/query", json!({ "device_keys": { "@charlie:there": [] } })).await.ok();
        peer.asked(QUERY).len()
    };
    assert_eq!((ask().await, ask().await), (1, 2));
    world.until_whole().await;
    assert_eq!((ask().await, ask().await), (3, 3));
    world.check();
}

#[tokio::test]
async fn a_room_that_is_left_before_is_given_up_and_can_be_joined_anew() {
    let world = joined().await;
    let World { bob, room, here, .. } = &world;
    queue::start(here.inside());
    let since = world.lazy(None).await["next_batch"].as_str().unwrap().to_owned();
    bob.leave(&room.id).await;
    let answer = world.lazy(Some(&since)).await;
    assert!(!answer["rooms"]["leave"][&room.id].is_null(), "{answer}");
    until_given_up(here).await;
    world.check();
    room.say("meanwhile");
    world.join().await;
    world.check();
    world.until_whole().await;
    assert_eq!(world.joined_members().await, ["@alice:there", "@bob:here", "@charlie:there"]);
    world.check();
}

#[tokio::test]
async fn a_room_that_is_joined_anew_while_the_last_server_is_asked_is_not_given_up() {
    let world = joined().await;
    let World { network, bob, room, here, peer, .. } = &world;
    queue::start(here.inside());
    bob.leave(&room.id).await;
    let gate = network.hold("there", STATE_IDS);
    let asked = peer.asked(STATE_IDS).len();
    for _ in 0..1_000 {
        if peer.asked(STATE_IDS).len() > asked {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(peer.asked(STATE_IDS).len() > asked);
    room.say("meanwhile");
    world.join().await;
    gate.close();
    world.until_whole().await;
    assert_eq!(world.joined_members().await, ["@alice:there", "@bob:here", "@charlie:there"]);
    world.check();
}

#[tokio::test]
async fn who_is_invited_still_is_when_somebody_else_comes_back_before_the_members_are_known() {
    let world = joined().await;
    let World { here, bob, room, peer, tells, .. } = &world;
    world.until_whole().await;
    let (carol, dan) = (here.user("carol").await, here.user("dan").await);
    let invite = json!({ "membership": "invite" });
    let invite = bob.set(&room.id, "m.room.member", &carol.id, invite).await;
    let invite = peer.get(here, &format!("/v1/event/{}", path(&invite))).await.ok()["pdus"][0].take();
    room.keep(invite);
    dan.join(&room.id).await;
    dan.leave(&room.id).await;
    let since = [carol.now().await, dan.now().await];
    bob.leave(&room.id).await;
    tells.store(false, Ordering::Relaxed);
    world.join().await;
    let is_no_news = async || {
        for (user, since) in [&carol, &dan].into_iter().zip(&since) {
            let news = user.sync(since).await;
            assert!(news["rooms"]["leave"].is_null() && news["rooms"]["invite"].is_null(), "{news}");
        }
        carol.sync_with("").await["rooms"]["invite"][&room.id].is_object()
    };
    assert!(is_no_news().await);
    world.check();
    world.until_whole().await;
    assert!(is_no_news().await);
    world.check();
}

#[tokio::test]
async fn what_is_kept_for_a_join_is_not_given_up_while_it_is_under_way() {
    let network = TestNetwork::new();
    let here = network.server("here").await;
    let (inside, room_id) = (here.inside(), OwnedRoomId::try_from("!room:there").unwrap());
    let turn = inside.inbox.joins.take(room_id.clone()).await;
    let room = remote::claim(inside, room_id, RoomVersionId::V11).await.unwrap();
    let entry = OwnedEventId::try_from("$join:there").unwrap();
    partial::begin(inside, room, Partial { entry, servers: Vec::new(), failures: 0 }).await.unwrap();
    completing::start(inside, room);
    tokio::time::sleep(Duration::from_millis(200)).await;
    let is_partial = || partial::is_partial(&inside.store.snapshot(), room).unwrap();
    assert!(is_partial());
    drop(turn);
    until_given_up(&here).await;
    assert!(!is_partial(), "the join came to nothing");
}

#[tokio::test]
async fn whoever_joins_meanwhile_asks_the_other_server() {
    let world = joined().await;
    let World { here, room, peer, .. } = &world;
    let carol = here.user("carol").await;
    let join = json!({ "membership": "join" });
    let by_state = carol.set_state(&room.id, "m.room.member", &carol.id, join).await;
    assert_eq!(by_state.error(), (403, "M_FORBIDDEN"), "that asks nobody");
    carol.post(&format!("/v3/join/{}?via=there", room.id), json!({})).await.ok();
    assert_eq!(peer.asked("/_matrix/federation/v2/send_join/").len(), 2, "nobody here knows who is banned");
    let said = room.say("hello");
    world.deliver(&said).await;
    world.until_whole().await;
    assert_eq!(world.joined_members().await, ["@alice:there", "@bob:here", "@carol:here", "@charlie:there"]);
    world.check();
}

#[tokio::test]
async fn other_servers_are_let_in_and_told_of_the_state_by_those_who_know_it() {
    let world = joined().await;
    let World { network, here, room, peer, .. } = &world;
    let said = room.say("hello");
    world.deliver(&said).await;
    let stranger = network.peer("stranger");
    for endpoint in ["make_join", "make_knock", "make_leave"] {
        let user = path(&stranger.user("dave"));
        let answer = stranger.get(here, &format!("/v1/{endpoint}/{}/{user}?ver=11", room.id)).await;
        assert_eq!((answer.status.as_u16(), answer.errcode()), (404, "M_NOT_FOUND"), "{endpoint}");
    }
    let state = format!("/v1/state_ids/{}{}", room.id, query(&[("event_id", &said)]));
    assert_eq!(peer.get(here, &state).await.status, 403);
    world.until_whole().await;
    let told = peer.get(here, &state).await.ok();
    assert_eq!(told["pdu_ids"].as_array().unwrap().len(), 7, "{told}");
    let user = path(&stranger.user("dave"));
    stranger.get(here, &format!("/v1/make_join/{}/{user}?ver=11", room.id)).await.ok();
}

#[tokio::test]
async fn all_servers_in_the_room_are_told_and_may_tell() {
    let world = joined().await;
    let World { here, bob, room, peer, other, .. } = &world;
    queue::start(here.inside());
    let said = bob.say(&room.id, "to all").await;
    queue::until_sent(here.inside(), &[peer.name().to_owned(), other.name().to_owned()]).await.unwrap();
    for server in [peer, other] {
        let sent = server
            .asked(SEND)
            .iter()
            .any(|asked| asked.body["pdus"].as_array().is_some_and(|pdus| pdus.iter().any(|pdu| id_of(pdu) == said)));
        assert!(sent, "{} was not told", server.name());
    }

    let alias = path("#room:here");
    bob.put(&format!("/v3/directory/room/{alias}"), json!({ "room_id": room.id })).await.ok();
    let found = bob.get(&format!("/v3/directory/room/{alias}")).await.ok();
    let mut servers: Vec<_> = found["servers"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
    servers.sort_unstable();
    assert_eq!(servers, ["here", "other", "there"]);

    let since = world.lazy(None).await["next_batch"].as_str().unwrap().to_owned();
    let edus = json!([
        { "edu_type": "m.typing", "content": { "room_id": room.id, "user_id": "@charlie:there", "typing": true } },
        { "edu_type": "m.device_list_update", "content": { "user_id": "@charlie:there", "device_id": "D", "stream_id": 1, "keys": {} } },
    ]);
    let body = json!({ "origin": "there", "origin_server_ts": 1, "pdus": [], "edus": edus });
    peer.put(here, "/v1/send/edus", body).await.ok();
    let answer = world.lazy(Some(&since)).await;
    assert_eq!(joined_room(&answer, room)["ephemeral"]["events"][0]["content"]["user_ids"], json!(["@charlie:there"]));
    assert!(answer["device_lists"]["changed"].is_null(), "{answer}");
    world.until_whole().await;
    let answer = world.lazy(answer["next_batch"].as_str()).await;
    assert_eq!(answer["device_lists"]["changed"], json!(["@charlie:there"]));
    world.check();
}

#[tokio::test]
async fn members_are_found_whom_the_directory_lacks_after_a_restart() {
    let world = joined().await;
    let server = world.here.inside();
    let carol = world.here.user("carol").await;
    world.until_whole().await;
    let found = async || {
        for _ in 0..1_000 {
            let found = carol.post("/v3/user_directory/search", json!({ "search_term": "charlie" })).await.ok();
            if let Some(user) = found["results"][0]["user_id"].as_str() {
                return user.to_owned();
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("charlie was not found");
    };
    assert_eq!(found().await, "@charlie:there");
    // As if the server had stopped before it had written all of them.
    let lose = |tx: &mut Transaction<'_>| directory::remove(tx, user_id!("@charlie:there"));
    server.store.commit(lose).await.unwrap();
    introducing::resume(Arc::clone(server)).await;
    assert_eq!(found().await, "@charlie:there");
}

#[tokio::test]
async fn in_an_encrypted_room_all_members_are_met_when_they_become_known() {
    let world = joined_after(|room| {
        let content = json!({ "algorithm": "m.megolm.v1.aes-sha2" });
        room.add(&room.peer.user("alice"), "m.room.encryption", Some(""), content);
    })
    .await;
    let since = world.lazy(None).await["next_batch"].as_str().unwrap().to_owned();
    world.until_whole().await;
    let answer = world.lazy(Some(&since)).await;
    assert_eq!(answer["device_lists"]["changed"], json!(["@alice:there", "@bob:here", "@charlie:there"]));
}

#[tokio::test]
async fn members_that_nobody_omitted_are_known_at_once() {
    let network = TestNetwork::new();
    let here = network.server("here").await;
    let bob = here.user("bob").await;
    let room = HostedRoom::new(&network.peer("there"));
    bob.post(&format!("/v3/join/{}?via=there", room.id), json!({})).await.ok();
    assert!(!joined_room(&bob.sync_with("").await, &room).is_null());
    assert!(here.inside().partial.at_work.lock().is_empty());
    check(&here);
}

#[tokio::test]
async fn an_invite_of_later_that_waits_for_the_members_outlives_the_end_of_the_server() {
    let World { here, bob, room, .. } = &joined().await;
    let invite = format!("/v3/rooms/{}/state/m.room.member/@carol:other?org.matrix.msc4140.delay=1000", room.id);
    bob.put(&invite, json!({ "membership": "invite" })).await.ok();
    here.advance(Duration::from_secs(1));
    let end = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        here.inside().shutdown.cancel();
    };
    let (done, ()) = tokio::join!(delayed::send_due(here.inside()), end);
    done.unwrap();
    let waiting = bob.get("/_matrix/client/unstable/org.matrix.msc4140/delayed_events").await.ok();
    assert_eq!(waiting["delayed_events"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn what_one_does_to_others_by_a_state_event_waits_for_the_members() {
    let World { here, bob, room, .. } = &joined().await;
    let ban = bob.set_state(&room.id, "m.room.member", "@charlie:there", json!({ "membership": "ban" }));
    let end = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        here.inside().shutdown.cancel();
    };
    let (answer, ()) = tokio::join!(ban, end);
    assert_eq!(answer.error(), (503, "M_UNKNOWN"));
}
