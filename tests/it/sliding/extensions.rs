//! What comes beside rooms.

use serde_json::{Value, json};

use super::{Connection, public, rooms};
use crate::{
    profile_updates::{STATUS, say_of_oneself, take_back},
    support::{Signer, TestServer, User},
};

fn client(user: &User, extensions: Value) -> Connection {
    let list = json!({ "ranges": [[0, 9]], "timeline_limit": 1 });
    Connection::new(user, json!({ "lists": { "all": list }, "extensions": extensions }))
}

async fn send_to(sender: &User, receiver: &User, n: usize) {
    let messages = json!({ "messages": { &receiver.id: { &receiver.device_id: { "n": n } } } });
    sender.put(&format!("/v3/sendToDevice/org.test/{n}"), messages).await.ok();
}

fn numbers(answer: &Value) -> Vec<u64> {
    let events = answer["extensions"]["to_device"]["events"].as_array().cloned().unwrap_or_default();
    events.iter().map(|event| event["content"]["n"].as_u64().unwrap()).collect()
}

#[tokio::test]
async fn what_is_not_asked_for_is_not_told() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    public(&alice).await;
    assert_eq!(client(&alice, json!({})).next().await["extensions"], json!({}));
    let disabled = json!({ "to_device": { "enabled": false }, "e2ee": {}, "account_data": { "enabled": false } });
    assert_eq!(client(&alice, disabled).next().await["extensions"], json!({}));
}

#[tokio::test]
async fn to_device_messages_come_until_they_are_acknowledged() {
    let server = TestServer::new().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    for n in 0..3 {
        send_to(&bob, &alice, n).await;
    }
    let mut client = client(&alice, json!({ "to_device": { "enabled": true, "limit": 2 } }));
    let first = client.next().await;
    assert_eq!(numbers(&first), [0, 1]);
    assert_eq!(numbers(&client.next().await), [0, 1], "not acknowledged");
    client.body["extensions"]["to_device"]["since"] = first["extensions"]["to_device"]["next_batch"].clone();
    let second = client.next().await;
    assert_eq!(numbers(&second), [2]);
    client.body["extensions"]["to_device"]["since"] = json!("999999999");
    assert_eq!(numbers(&client.next().await), [2], "a token from nowhere acknowledges nothing");
    client.body["extensions"]["to_device"]["since"] = second["extensions"]["to_device"]["next_batch"].clone();
    let third = client.next().await;
    assert_eq!(numbers(&third), Vec::<u64>::new());
    assert!(third["extensions"]["to_device"]["next_batch"].is_string());
    client.body["extensions"]["to_device"].as_object_mut().unwrap().remove("since");
    assert_eq!(numbers(&client.next().await), Vec::<u64>::new(), "they are gone");
}

#[tokio::test]
async fn keys_are_counted_and_changed_devices_told() {
    let server = TestServer::new().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let signer = Signer::of_device(&alice);
    let keys = json!({ "one_time_keys": { "signed_curve25519:A": signer.one_time_key(&alice) },
        "fallback_keys": { "signed_curve25519:F": signer.one_time_key(&alice) } });
    alice.post("/v3/keys/upload", keys).await.ok();
    let room = public(&alice).await;
    let mut client = client(&alice, json!({ "e2ee": { "enabled": true } }));
    let e2ee = client.next().await["extensions"]["e2ee"].take();
    assert_eq!(e2ee["device_one_time_keys_count"], json!({ "signed_curve25519": 1 }));
    assert_eq!(e2ee["device_unused_fallback_key_types"], json!(["signed_curve25519"]));
    assert_eq!(e2ee.get("device_lists"), None);
    bob.join(&room).await;
    let bobs = Signer::of_device(&bob).device_keys(&bob);
    bob.post("/v3/keys/upload", json!({ "device_keys": bobs })).await.ok();
    assert_eq!(client.next().await["extensions"]["e2ee"]["device_lists"], json!({ "changed": [bob.id] }));
    bob.leave(&room).await;
    assert_eq!(client.next().await["extensions"]["e2ee"]["device_lists"], json!({ "left": [bob.id] }));
    assert_eq!(client.next().await["extensions"]["e2ee"].get("device_lists"), None);
}

#[tokio::test]
async fn account_data_comes_whole_and_then_as_it_changes() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let (a, b) = (public(&alice).await, public(&alice).await);
    let put = async |path: &str, content: Value| {
        alice.put(&format!("/v3/user/{}/{path}", alice.id), content).await.ok();
    };
    put("account_data/org.test", json!({ "n": 1 })).await;
    put(&format!("rooms/{a}/account_data/org.room"), json!({ "n": 1 })).await;
    let mut client = client(&alice, json!({ "account_data": { "enabled": true } }));
    let first = client.next().await["extensions"]["account_data"].take();
    let types: Vec<_> = first["global"].as_array().unwrap().iter().map(|event| &event["type"]).collect();
    assert_eq!(types, ["org.test", "m.push_rules"]);
    assert_eq!(first["rooms"], json!({ &a: [{ "type": "org.room", "content": { "n": 1 } }] }));
    assert_eq!(client.next().await["extensions"].get("account_data"), None);
    put("account_data/org.test", json!({ "n": 2 })).await;
    put(&format!("rooms/{b}/account_data/org.room"), json!({ "n": 2 })).await;
    let second = client.next().await;
    assert!(rooms(&second).is_empty());
    assert_eq!(
        second["extensions"]["account_data"],
        json!({
            "global": [{ "type": "org.test", "content": { "n": 2 } }],
            "rooms": { &b: [{ "type": "org.room", "content": { "n": 2 } }] },
        })
    );
}

#[tokio::test]
async fn an_extension_that_is_asked_for_later_begins_from_the_start() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let room = public(&alice).await;
    alice.put(&format!("/v3/user/{}/rooms/{room}/account_data/org.room", alice.id), json!({ "n": 1 })).await.ok();
    let event = alice.say(&room, "x").await;
    alice.post(&format!("/v3/rooms/{room}/receipt/m.read/{event}"), json!({})).await.ok();
    let mut client = client(&alice, json!({}));
    client.next().await;
    client.body["extensions"] = json!({ "account_data": { "enabled": true }, "receipts": { "enabled": true } });
    let later = client.next().await["extensions"].take();
    assert_eq!(later["account_data"]["rooms"][&room][0]["content"]["n"], 1);
    assert!(later["account_data"]["global"].is_array());
    assert!(later["receipts"]["rooms"][&room]["content"][&event]["m.read"][&alice.id].is_object());
    assert_eq!(client.next().await["extensions"], json!({}), "and goes on from there");
}

#[tokio::test]
async fn receipts_of_new_rooms_are_the_own_ones_and_those_of_the_timeline() {
    let server = TestServer::new().await;
    let (alice, bob, carol) = (server.user("alice").await, server.user("bob").await, server.user("carol").await);
    let room = public(&alice).await;
    bob.join(&room).await;
    carol.join(&room).await;
    let (old, new) = (alice.say(&room, "old").await, alice.say(&room, "new").await);
    let read = async |user: &User, event: &str, kind: &str| {
        user.post(&format!("/v3/rooms/{room}/receipt/{kind}/{event}"), json!({})).await.ok();
    };
    read(&alice, &old, "m.read").await;
    read(&bob, &old, "m.read").await;
    read(&carol, &new, "m.read").await;
    let mut client = client(&alice, json!({ "receipts": { "enabled": true } }));
    let first = client.next().await["extensions"]["receipts"]["rooms"][&room].take();
    assert_eq!(first["type"], "m.receipt");
    let users =
        |event: &str| first["content"][event]["m.read"].as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!((users(&old), users(&new)), (vec![alice.id.clone()], vec![carol.id.clone()]));
    read(&bob, &new, "m.read").await;
    read(&carol, &new, "m.read.private").await;
    let second = client.next().await;
    let content = &second["extensions"]["receipts"]["rooms"][&room]["content"];
    assert_eq!(content[&new]["m.read"].as_object().unwrap().keys().collect::<Vec<_>>(), [&bob.id]);
    assert_eq!(content[&new].get("m.read.private"), None, "that is hers");
    assert!(rooms(&second).is_empty());
}

#[tokio::test]
async fn receipts_come_with_the_older_events_that_they_are_for() {
    let server = TestServer::new().await;
    let (alice, bob, carol) = (server.user("alice").await, server.user("bob").await, server.user("carol").await);
    let room = public(&alice).await;
    bob.join(&room).await;
    carol.join(&room).await;
    let first = alice.say(&room, "first").await;
    let second = alice.say(&room, "second").await;
    alice.say(&room, "third").await;
    for (user, event) in [(&bob, &second), (&carol, &first)] {
        user.post(&format!("/v3/rooms/{room}/receipt/m.read/{event}"), json!({})).await.ok();
    }
    let mut client = client(&alice, json!({ "receipts": { "enabled": true } }));
    assert_eq!(client.next().await["extensions"], json!({}));
    client.list()["timeline_limit"] = json!(2);
    let content = client.next().await["extensions"]["receipts"]["rooms"][&room]["content"].take();
    assert!(content[&second]["m.read"][&bob.id].is_object(), "{content}");
    assert_eq!(content.get(&first), None, "its event is not there");
    assert_eq!(client.next().await["extensions"], json!({}));
}

#[tokio::test]
async fn who_types_is_told_and_when_it_ends() {
    let server = TestServer::new().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let room = public(&alice).await;
    bob.join(&room).await;
    let mut client = client(&alice, json!({ "typing": { "enabled": true } }));
    assert_eq!(client.next().await["extensions"], json!({}));
    let path = format!("/v3/rooms/{room}/typing/{}", bob.id);
    bob.put(&path, json!({ "typing": true, "timeout": 30_000 })).await.ok();
    let typing = client.next().await["extensions"]["typing"]["rooms"][&room].take();
    assert_eq!(typing, json!({ "type": "m.typing", "content": { "user_ids": [bob.id] } }));
    assert_eq!(client.next().await["extensions"], json!({}));
    bob.put(&path, json!({ "typing": false })).await.ok();
    let typing = client.next().await["extensions"]["typing"]["rooms"][&room].take();
    assert_eq!(typing["content"]["user_ids"], json!([]));
}

#[tokio::test]
async fn who_stopped_typing_while_the_room_was_not_wanted_is_told_when_it_is() {
    let server = TestServer::new().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let room = public(&alice).await;
    bob.join(&room).await;
    let newer = public(&alice).await;
    let mut client = client(&alice, json!({ "typing": { "enabled": true } }));
    client.next().await;
    let path = format!("/v3/rooms/{room}/typing/{}", bob.id);
    bob.put(&path, json!({ "typing": true, "timeout": 30_000 })).await.ok();
    let typing = client.next().await["extensions"]["typing"]["rooms"].take();
    assert_eq!(typing[&room]["content"]["user_ids"], json!([bob.id]));
    client.list()["ranges"] = json!([[0, 0]]);
    bob.put(&path, json!({ "typing": false })).await.ok();
    alice.say(&newer, "x").await;
    assert_eq!(client.next().await["extensions"], json!({}));
    client.list()["ranges"] = json!([[0, 9]]);
    let typing = client.next().await["extensions"]["typing"]["rooms"].take();
    assert_eq!(typing[&room]["content"]["user_ids"], json!([]));
    assert_eq!(client.next().await["extensions"], json!({}));
}

#[tokio::test]
async fn extensions_are_about_the_lists_and_rooms_that_they_name() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let (listed, subscribed) = (public(&alice).await, public(&alice).await);
    alice.put(&format!("/v3/user/{}/account_data/m.direct", alice.id), json!({ "@b:x": [&listed] })).await.ok();
    for room in [&listed, &subscribed] {
        alice.put(&format!("/v3/user/{}/rooms/{room}/account_data/org.room", alice.id), json!({ "a": 1 })).await.ok();
    }
    let ids = async |scope: Value| {
        let mut extension = json!({ "enabled": true });
        extension.as_object_mut().unwrap().extend(scope.as_object().unwrap().clone());
        let list = json!({ "ranges": [[0, 9]], "timeline_limit": 1, "filters": { "is_dm": true } });
        let body = json!({
            "lists": { "dms": list },
            "room_subscriptions": { &subscribed: { "timeline_limit": 1 } },
            "extensions": { "account_data": extension },
        });
        let answer = Connection::new(&alice, body).next().await;
        let rooms = answer["extensions"]["account_data"]["rooms"].as_object();
        rooms.map(|rooms| rooms.keys().cloned().collect::<Vec<_>>()).unwrap_or_default()
    };
    assert_eq!(ids(json!({})).await, super::sorted([&listed, &subscribed]));
    assert_eq!(ids(json!({ "lists": [] })).await, [subscribed.as_str()]);
    assert_eq!(ids(json!({ "lists": ["dms"], "rooms": [] })).await, [listed.as_str()]);
    assert_eq!(ids(json!({ "lists": ["*"], "rooms": ["*"] })).await.len(), 2);
    assert_eq!(ids(json!({ "lists": ["other"], "rooms": [&subscribed] })).await, [subscribed.as_str()]);
    assert_eq!(ids(json!({ "lists": ["other"], "rooms": [&listed] })).await, Vec::<String>::new());
}

#[tokio::test]
async fn a_room_that_an_extension_comes_to_be_about_is_told_from_the_start() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let room = public(&alice).await;
    let put = async |n: usize| {
        let path = format!("/v3/user/{}/rooms/{room}/account_data/org.room", alice.id);
        alice.put(&path, json!({ "n": n })).await.ok();
    };
    put(1).await;
    let event = alice.say(&room, "x").await;
    alice.post(&format!("/v3/rooms/{room}/receipt/m.read/{event}"), json!({})).await.ok();
    let scope = json!({ "enabled": true, "lists": [], "rooms": ["*"] });
    let mut client = client(&alice, json!({ "account_data": scope, "receipts": scope }));
    let first = client.next().await["extensions"].take();
    assert_eq!((first["account_data"].get("rooms"), first.get("receipts")), (None, None));
    let (none, subscription) = (json!({}), json!({ &room: { "timeline_limit": 1 } }));
    client.body["room_subscriptions"] = subscription.clone();
    let before = client.pos.clone();
    for _ in 0..2 {
        client.pos = before.clone(); // the first answer gets lost
        let told = client.next().await["extensions"].take();
        assert_eq!(told["account_data"]["rooms"][&room][0]["content"]["n"], 1);
        assert!(told["receipts"]["rooms"][&room]["content"][&event]["m.read"][&alice.id].is_object(), "{told}");
    }
    for scope in [&subscription, &none, &subscription, &none] {
        client.body["room_subscriptions"] = scope.clone();
        assert_eq!(client.next().await["extensions"], json!({}), "nothing was missed");
    }
    put(2).await;
    assert_eq!(client.next().await["extensions"], json!({}));
    client.body["room_subscriptions"] = subscription;
    let told = client.next().await["extensions"].take();
    assert_eq!(told["account_data"]["rooms"][&room][0]["content"]["n"], 2);
    assert_eq!(told.get("receipts"), None);
    let pos = server.inside().store.snapshot().pos().unwrap();
    assert_eq!(client.next().await["extensions"], json!({}));
    assert_eq!(server.inside().store.snapshot().pos().unwrap(), pos, "nothing is written of it any more");
}

#[tokio::test]
async fn an_extension_wakes_who_waits() {
    let server = TestServer::new().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let body = json!({ "conn_id": "encryption", "extensions": { "to_device": { "enabled": true }, "e2ee": { "enabled": true } } });
    let mut client = Connection::new(&alice, body);
    client.next().await;
    let path = format!("{}?timeout=30000&pos={}", super::PATH, client.at());
    let (user, body) = (alice.clone(), client.body.clone());
    let waiting = tokio::spawn(async move { user.post(&path, body).await.ok() });
    server.until_waiting(1).await;
    send_to(&bob, &alice, 7).await;
    assert_eq!(numbers(&waiting.await.unwrap()), [7]);
}

#[tokio::test]
async fn profiles_come_with_new_rooms_and_then_as_they_change() {
    const PROFILES: &str = "org.matrix.msc4262.profiles";
    let server = TestServer::new().await;
    let (alice, bob, carol) = (server.user("alice").await, server.user("bob").await, server.user("carol").await);
    let features = alice.get("/_matrix/client/versions").await.ok();
    assert_eq!(features["unstable_features"]["org.matrix.msc4262"], true);
    let room = public(&alice).await;
    bob.join(&room).await;
    say_of_oneself(&alice, STATUS, json!({ "text": "here" })).await;
    say_of_oneself(&bob, "m.tz", json!("Europe/Berlin")).await;
    say_of_oneself(&carol, STATUS, json!("elsewhere")).await;

    let mut some = client(&bob, json!({ PROFILES: { "enabled": true, "fields": [STATUS] } }));
    some.body["conn_id"] = json!("some");
    let users = |answer: &Value| answer["extensions"][PROFILES]["users"].clone();
    let here = json!({ &alice.id: { "updated": { STATUS: { "text": "here" } } } });
    assert_eq!(users(&some.next().await), here);
    assert_eq!(users(&some.next().await), Value::Null);
    let mut all = client(&bob, json!({ PROFILES: { "enabled": true } }));
    all.body["conn_id"] = json!("all");
    let mut expected = here.clone();
    expected[&bob.id] = json!({ "updated": { "m.tz": "Europe/Berlin" } });
    assert_eq!(users(&all.next().await), expected, "his own is among them");

    say_of_oneself(&alice, "m.tz", json!("Europe/Paris")).await;
    take_back(&alice, STATUS).await;
    say_of_oneself(&carol, STATUS, json!("still elsewhere")).await;
    let before = some.pos.clone();
    assert_eq!(users(&some.next().await), json!({ &alice.id: { "removed": [STATUS] } }));
    some.pos = before;
    assert_eq!(users(&some.next().await), json!({ &alice.id: { "removed": [STATUS] } }), "the answer may get lost");
    let changed = json!({ "updated": { "m.tz": "Europe/Paris" }, "removed": [STATUS] });
    assert_eq!(users(&all.next().await), json!({ &alice.id: changed }));

    // Further fields are told from the start, and so are new users; of who parts no more need be kept.
    some.body["extensions"][PROFILES]["fields"] = json!([STATUS, "m.tz"]);
    let zones = json!({
        &alice.id: { "updated": { "m.tz": "Europe/Paris" } },
        &bob.id: { "updated": { "m.tz": "Europe/Berlin" } },
    });
    assert_eq!(users(&some.next().await), zones);
    carol.join(&room).await;
    assert_eq!(users(&some.next().await), json!({ &carol.id: { "updated": { STATUS: "still elsewhere" } } }));
    carol.leave(&room).await;
    assert_eq!(users(&some.next().await), json!({ &carol.id: null }));
    say_of_oneself(&carol, STATUS, json!("gone")).await;
    assert_eq!(users(&some.next().await), Value::Null);
}

#[tokio::test]
async fn where_members_come_lazily_so_do_their_profiles() {
    const PROFILES: &str = "org.matrix.msc4262.profiles";
    let server = TestServer::new().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let (carol, dave) = (server.user("carol").await, server.user("dave").await);
    for user in [&alice, &bob, &carol, &dave] {
        say_of_oneself(user, STATUS, json!(user.id)).await;
    }
    let hall = alice.create_room(json!({ "preset": "public_chat", "name": "Hall" })).await;
    for user in [&bob, &carol, &dave] {
        user.join(&hall).await;
    }
    alice.say(&hall, "hello").await;

    let mut client = client(&bob, json!({ PROFILES: { "enabled": true, "fields": [STATUS] } }));
    client.list()["required_state"] = json!([["m.room.member", "$LAZY"]]);
    let told = |answer: &Value| -> Vec<String> {
        let users = answer["extensions"][PROFILES]["users"].as_object();
        users.map(|users| users.keys().cloned().collect()).unwrap_or_default()
    };
    assert_eq!(told(&client.next().await), [&*alice.id, &*bob.id], "his own, and that of whom the timeline shows");
    carol.say(&hall, "hello").await;
    assert_eq!(told(&client.next().await), [&*carol.id]);
    alice.say(&hall, "how are you?").await;
    assert!(told(&client.next().await).is_empty(), "her he knows");
    client.body["extensions"][PROFILES]["fields"] = json!([STATUS, "m.tz"]);
    assert_eq!(told(&client.next().await), [&*alice.id, &*bob.id, &*carol.id], "those who said something");
    say_of_oneself(&dave, "m.tz", json!("Europe/Paris")).await;
    assert_eq!(told(&client.next().await), [&*dave.id], "changes are told of everybody");

    // A room that he comes into brings nobody who is not shown, unless he is called after them.
    let attic = carol.create_room(json!({ "preset": "public_chat", "name": "Attic" })).await;
    for user in [&dave, &bob] {
        user.join(&attic).await;
    }
    assert_eq!(told(&client.next().await), [&*bob.id]);
    let nameless = public(&dave).await;
    bob.join(&nameless).await;
    assert_eq!(told(&client.next().await), [&*bob.id, &*dave.id]);

    client.list()["required_state"] = json!([]);
    assert_eq!(told(&client.next().await), [&*alice.id, &*bob.id, &*carol.id, &*dave.id], "now all members are wanted");
    assert!(told(&client.next().await).is_empty());
}
