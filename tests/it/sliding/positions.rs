//! What a client knows, and how it goes on from there.

use std::time::Duration;

use chappe::{
    config::{ByteSize, Config},
    sync::sliding::tables::{Connections, SentRooms},
};
use serde_json::json;

use super::{Connection, bodies, pos, public, rooms, sorted};
use crate::support::{Answer, TestNetwork, TestServer, User};

fn kept(user: &User) -> (usize, usize) {
    let snapshot = user.server.inside().store.snapshot();
    let id: ruma::OwnedUserId = user.id.as_str().try_into().unwrap();
    (snapshot.list::<Connections>(&&*id).count(), snapshot.list::<SentRooms>(&&*id).count())
}

#[tokio::test]
async fn the_server_says_that_it_has_it() {
    let server = TestServer::new().await;
    let versions = server.get("/_matrix/client/versions").await.ok();
    assert_eq!(versions["unstable_features"]["org.matrix.simplified_msc3575"], true);
    assert_eq!(server.post(super::PATH, json!({})).await.error(), (401, "M_MISSING_TOKEN"));
}

#[tokio::test]
async fn a_client_is_told_what_changed_since_its_position() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let (one, two) = (public(&alice).await, public(&alice).await);
    alice.say(&one, "before").await;
    let mut client = Connection::with_list(&alice, [0, 9]);
    let first = client.next().await;
    assert_eq!(rooms(&first).len(), 2);
    assert_eq!(first["lists"]["all"]["count"], 2);
    assert_eq!(first["rooms"][&one]["initial"], true);
    assert!(rooms(&client.next().await).is_empty(), "nothing happened");
    alice.say(&two, "news").await;
    let second = client.next().await;
    assert_eq!(rooms(&second), [&two]);
    assert_eq!(bodies(&second["rooms"][&two]), ["news"]);
    assert_eq!(second["rooms"][&two].get("initial"), None);
    assert_eq!(second["rooms"][&two]["num_live"], 1);
    assert!(rooms(&client.next().await).is_empty());
}

#[tokio::test]
async fn a_request_that_is_repeated_is_answered_again() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let room = public(&alice).await;
    let mut client = Connection::with_list(&alice, [0, 9]);
    client.next().await;
    let seen = client.at().to_owned();
    alice.say(&room, "one").await;
    let other = public(&alice).await;
    // The first answer gets lost, and so does the second.
    for _ in 0..3 {
        let again = client.try_at(Some(&seen)).await.ok();
        assert_eq!(bodies(&again["rooms"][&room]), ["one"]);
        assert_eq!(again["rooms"][&other]["initial"], true);
        client.pos = Some(pos(&again));
    }
    assert!(rooms(&client.next().await).is_empty(), "the last of them arrived");
}

#[tokio::test]
async fn the_first_request_can_be_repeated_too() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let room = public(&alice).await;
    let mut client = Connection::with_list(&alice, [0, 9]);
    let lost = client.try_at(None).await.ok();
    assert_eq!(client.next().await["rooms"][&room]["initial"], true);
    assert_eq!(client.try_at(Some(&pos(&lost))).await.error(), (400, "M_UNKNOWN_POS"), "the connection began anew");
    assert!(rooms(&client.next().await).is_empty());
}

#[tokio::test]
async fn two_processes_of_a_client_may_share_a_connection_without_rooms() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let extensions = json!({ "to_device": { "enabled": true }, "e2ee": { "enabled": true } });
    let body = json!({ "conn_id": "encryption", "extensions": extensions });
    let (mut app, mut notifications) = (Connection::new(&alice, body.clone()), Connection::new(&alice, body));
    app.next().await;
    notifications.next().await;
    app.next().await;
    notifications.next().await;
    let shared = app.pos.clone();
    app.body["extensions"]["receipts"] = json!({ "enabled": true });
    app.pos = None;
    app.next().await;
    assert_eq!(app.try_at(shared.as_deref()).await.error(), (400, "M_UNKNOWN_POS"), "it began anew");
}

#[tokio::test]
async fn positions_that_are_too_old_or_of_others_are_unknown() {
    let server = TestServer::new().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let mut client = Connection::with_list(&alice, [0, 9]);
    let old = pos(&client.next().await);
    for _ in 0..2 {
        public(&alice).await;
        client.next().await;
    }
    let unknown = (400, "M_UNKNOWN_POS");
    assert_eq!(client.try_at(Some(&old)).await.error(), unknown);
    for wrong in ["", "1", "s1_2", "s1_2_c3", "s999999999_1_c1", "nonsense"] {
        assert_eq!(client.try_at(Some(wrong)).await.error(), unknown, "{wrong}");
    }
    let at = client.at().to_owned();
    assert_eq!(Connection::with_list(&bob, [0, 9]).try_at(Some(&at)).await.error(), unknown);
    let phone = server.log_in("alice").await;
    assert_eq!(Connection::with_list(&phone, [0, 9]).try_at(Some(&at)).await.error(), unknown);
    client.body["conn_id"] = json!("other");
    assert_eq!(client.try_at(Some(&at)).await.error(), unknown);
}

#[tokio::test]
async fn connections_do_not_know_of_each_other() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let room = public(&alice).await;
    let mut one = Connection::with_list(&alice, [0, 9]);
    let mut two = Connection::with_list(&alice, [0, 9]);
    (one.body["conn_id"], two.body["conn_id"]) = (json!("one"), json!("two"));
    assert_eq!(rooms(&one.next().await), [&room]);
    alice.say(&room, "hi").await;
    assert_eq!(two.next().await["rooms"][&room]["initial"], true);
    assert_eq!(bodies(&one.next().await["rooms"][&room]), ["hi"]);
    assert_eq!(kept(&alice), (2, 2));
}

#[tokio::test]
async fn answers_without_a_new_room_write_nothing() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let room = public(&alice).await;
    let mut client = Connection::with_list(&alice, [0, 9]);
    client.body["extensions"] = json!({ "account_data": { "enabled": true }, "receipts": { "enabled": true } });
    client.next().await;
    alice.say(&room, "hi").await;
    let before = server.inside().store.snapshot().pos().unwrap();
    assert_eq!(bodies(&client.next().await["rooms"][&room]), ["hi"]);
    client.next().await;
    assert_eq!(server.inside().store.snapshot().pos().unwrap(), before);
}

#[tokio::test]
async fn a_full_disk_keeps_nobody_from_reading() {
    let network = TestNetwork::new();
    let server = network.server("example.org").await;
    let alice = server.user("alice").await;
    let (one, two) = (public(&alice).await, public(&alice).await);
    let mut client = Connection::with_list(&alice, [0, 0]);
    assert_eq!(rooms(&client.next().await), [&two]);
    let seen = client.pos.take();
    let log_in = json!({ "user_id": alice.id, "device_id": alice.device_id, "access_token": alice.token });
    drop((client, alice));
    let directory = server.stop(&network).await;
    let fill = |config: &mut Config| config.free_space_floor = ByteSize::mib(100 << 20);
    let server = TestServer::of_directory(network, "example.org", directory, fill).await;
    let alice = User::new(server, &log_in);
    let topic = alice.put(&format!("/v3/rooms/{one}/state/m.room.topic"), json!({ "topic": "tea" })).await;
    assert_eq!(topic.error(), (503, "M_UNKNOWN"));
    let mut client = Connection { pos: seen, ..Connection::with_list(&alice, [0, 9]) };
    assert_eq!(rooms(&client.next().await), [&one], "what was not told before");
    assert!(rooms(&client.next().await).is_empty(), "and it is kept that it was");
    client.pos = None;
    assert_eq!(rooms(&client.next().await), sorted([&one, &two]));

    assert_ne!(kept(&alice), (0, 0));
    alice.server.advance(Duration::from_secs(60 * 24 * 60 * 60));
    chappe::sweep::once(alice.server.inside()).await.unwrap();
    assert_eq!(kept(&alice), (0, 0), "nor what is old from making room");
}

#[tokio::test]
async fn a_request_waits_for_news_and_the_next_one_ends_it() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let room = public(&alice).await;
    let mut client = Connection::with_list(&alice, [0, 9]);
    client.next().await;
    let first = ask(&client);
    server.until_waiting(1).await;
    let second = ask(&client);
    assert_eq!(first.await.unwrap().error(), (400, "M_UNKNOWN_POS"), "its client has given it up");
    assert!(!second.is_finished());
    alice.say(&room, "here").await;
    assert_eq!(bodies(&second.await.unwrap().ok()["rooms"][&room]), ["here"]);
}

#[tokio::test]
async fn a_device_that_is_logged_out_leaves_no_connection() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    public(&alice).await;
    let phone = server.log_in("alice").await;
    let mut client = Connection::with_list(&phone, [0, 9]);
    client.next().await;
    assert_eq!(kept(&alice), (1, 1));
    phone.post("/v3/logout", json!({})).await.ok();
    assert_eq!(kept(&alice), (0, 0));
    assert_eq!(client.try_at(None).await.error(), (401, "M_UNKNOWN_TOKEN"));
}

#[tokio::test]
async fn a_device_has_a_bounded_number_of_connections() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    public(&alice).await;
    let mut first = Connection::with_list(&alice, [0, 9]);
    first.next().await;
    for n in 0..20 {
        let mut other = Connection::with_list(&alice, [0, 9]);
        other.body["conn_id"] = json!(n.to_string());
        other.next().await;
    }
    assert_eq!(kept(&alice), (16, 16));
    assert_eq!(first.try_at(first.pos.as_deref()).await.error(), (400, "M_UNKNOWN_POS"), "it made room");
}

#[tokio::test]
async fn connections_that_are_not_used_are_forgotten() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    public(&alice).await;
    let mut used = Connection::with_list(&alice, [0, 9]);
    let mut unused = Connection::with_list(&alice, [0, 9]);
    unused.body["conn_id"] = json!("unused");
    used.next().await;
    unused.next().await;
    for _ in 0..4 {
        server.advance(Duration::from_secs(10 * 24 * 60 * 60));
        used.next().await;
        chappe::sweep::once(server.inside()).await.unwrap();
    }
    assert_eq!(kept(&alice), (1, 1));
    assert!(rooms(&used.next().await).is_empty());
}

#[tokio::test]
async fn requests_that_are_out_of_bounds_are_refused() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let list = json!({ "ranges": [[0, 1]], "timeline_limit": 1 });
    let many_lists: serde_json::Map<_, _> = (0..101).map(|n| (n.to_string(), list.clone())).collect();
    let room = json!({ "timeline_limit": 1 });
    let many_rooms: serde_json::Map<_, _> = (0..101).map(|n| (format!("!{n}:x"), room.clone())).collect();
    let required: Vec<_> = (0..2_000).map(|n| json!(["m.x", n.to_string()])).collect();
    let with_list = |list: serde_json::Value| json!({ "lists": { "all": list } });
    let long = "x".repeat(256);
    for (body, expected) in [
        (json!({ "lists": many_lists }), "M_INVALID_PARAM"),
        (json!({ "room_subscriptions": many_rooms }), "M_INVALID_PARAM"),
        (json!({ "conn_id": long }), "M_INVALID_PARAM"),
        (with_list(json!({ "ranges": [[2, 1]], "timeline_limit": 1 })), "M_INVALID_PARAM"),
        (with_list(json!({ "timeline_limit": 1, "required_state": required })), "M_INVALID_PARAM"),
        (with_list(json!({ "ranges": [[-1, 1]], "timeline_limit": 1 })), "M_BAD_JSON"),
        (with_list(json!({ "ranges": [[0, 1]] })), "M_BAD_JSON"),
        (with_list(json!({ "timeline_limit": -1 })), "M_BAD_JSON"),
        (json!({ "extensions": { "to_device": { "enabled": true, "since": "x" } } }), "M_INVALID_PARAM"),
        (json!([]), "M_BAD_JSON"),
    ] {
        assert_eq!(alice.post(super::PATH, body.clone()).await.error(), (400, expected), "{body}");
    }
    for query in ["timeout=x", "set_presence=weird"] {
        assert_eq!(alice.post(&format!("{}?{query}", super::PATH), json!({})).await.error(), (400, "M_INVALID_PARAM"));
    }
    let not_json = server.request_bytes(http::Method::POST, super::PATH, Some(&alice.token), "{").await;
    assert_eq!(not_json.error(), (400, "M_NOT_JSON"));
}

#[tokio::test]
async fn the_transaction_id_comes_back_and_a_position_is_a_place_in_timelines() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let room = public(&alice).await;
    alice.say(&room, "one").await;
    let mut client = Connection::with_list(&alice, [0, 9]);
    client.body["txn_id"] = json!("t1");
    assert_eq!(client.next().await["txn_id"], "t1");
    alice.say(&room, "two").await;
    let from = client.at();
    let older = alice.get(&format!("/v3/rooms/{room}/messages?dir=b&limit=1&from={from}")).await.ok();
    assert_eq!(older["chunk"][0]["content"]["body"], "one");
}

/// A request for what comes next, however long that takes.
fn ask(client: &Connection) -> tokio::task::JoinHandle<Answer> {
    let (user, body) = (client.user.clone(), client.body.clone());
    let path = format!("{}?pos={}&timeout=600000", super::PATH, client.at());
    tokio::spawn(async move { user.post(&path, body).await })
}

/// A request that waits for news, once it does.
async fn waiting(client: &Connection) -> tokio::task::JoinHandle<Answer> {
    let waiting = ask(client);
    client.user.server.until_waiting(1).await;
    tokio::time::sleep(Duration::from_millis(50)).await; // it has looked, and found nothing
    assert!(!waiting.is_finished());
    waiting
}

#[tokio::test]
async fn who_waits_and_is_logged_out_or_whose_token_is_replaced_is_told_nothing_more() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let room = public(&alice).await;
    let mut client = Connection::with_list(&alice, [0, 9]);
    client.next().await;
    let seen = client.at().to_owned();
    let old = waiting(&client).await;
    let body = json!({
        "type": "m.login.password", "identifier": { "type": "m.id.user", "user": "alice" }, "device_id": alice.device_id,
        "password": crate::support::password_of("alice"),
    });
    let alice = User::new(server.clone(), &server.post("/v3/login", body).await.ok());
    alice.say(&room, "not for a stolen token").await;
    let answer = tokio::time::timeout(Duration::from_secs(30), old).await.unwrap().unwrap().ok();
    assert_eq!(answer, json!({ "pos": seen, "lists": {}, "rooms": {}, "extensions": {} }));
    client.user = alice.clone();
    assert_eq!(bodies(&client.next().await["rooms"][&room]), ["not for a stolen token"]);

    let waiting = waiting(&client).await;
    alice.post("/v3/account/deactivate", json!({ "auth": crate::support::auth_of("alice") })).await.ok();
    let answer = tokio::time::timeout(Duration::from_secs(30), waiting).await.unwrap().unwrap();
    assert_eq!(answer.error(), (401, "M_UNKNOWN_TOKEN"));
}
