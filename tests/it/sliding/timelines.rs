//! The timelines of rooms.

use serde_json::json;

use super::{Connection, bodies, public, rooms};
use crate::support::{TestServer, User};

async fn say_all(user: &User, room: &str, texts: &[&str]) {
    for text in texts {
        user.say(room, text).await;
    }
}

#[tokio::test]
async fn a_timeline_has_the_newest_events_and_says_where_older_ones_are() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let room = public(&alice).await;
    say_all(&alice, &room, &["1", "2", "3"]).await;
    let mut client = Connection::with_list(&alice, [0, 9]);
    client.list()["timeline_limit"] = json!(2);
    let shown = client.next().await["rooms"][&room].take();
    assert_eq!((bodies(&shown), &shown["limited"], &shown["num_live"]), (vec!["2", "3"], &json!(true), &json!(0)));
    let from = shown["prev_batch"].as_str().unwrap();
    let older = alice.get(&format!("/v3/rooms/{room}/messages?dir=b&limit=1&from={from}")).await.ok();
    assert_eq!(older["chunk"][0]["content"]["body"], "1");
    say_all(&alice, &room, &["4"]).await;
    let shown = client.next().await["rooms"][&room].take();
    assert_eq!((bodies(&shown), &shown["limited"], &shown["num_live"]), (vec!["4"], &json!(false), &json!(1)));
    say_all(&alice, &room, &["5", "6", "7"]).await;
    let shown = client.next().await["rooms"][&room].take();
    assert_eq!((bodies(&shown), &shown["limited"], &shown["num_live"]), (vec!["6", "7"], &json!(true), &json!(2)));
}

#[tokio::test]
async fn who_raises_the_limit_gets_older_events_at_once() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let room = public(&alice).await;
    say_all(&alice, &room, &["1", "2", "3", "4"]).await;
    let mut client = Connection::with_list(&alice, [0, 9]);
    client.list()["timeline_limit"] = json!(1);
    assert_eq!(bodies(&client.next().await["rooms"][&room]), ["4"]);
    client.body["room_subscriptions"] = json!({ &room: { "timeline_limit": 3 } });
    let shown = client.next().await["rooms"][&room].take();
    assert_eq!(bodies(&shown), ["2", "3", "4"]);
    assert_eq!((&shown["unstable_expanded_timeline"], shown.get("initial")), (&json!(true), None));
    assert_eq!((&shown["num_live"], &shown["limited"]), (&json!(0), &json!(true)));
    assert!(rooms(&client.next().await).is_empty());
    // Less, and as much again: nothing was missed.
    client.body["room_subscriptions"] = json!({});
    say_all(&alice, &room, &["5"]).await;
    let shown = client.next().await["rooms"][&room].take();
    assert_eq!((bodies(&shown), shown.get("unstable_expanded_timeline")), (vec!["5"], None));
    client.body["room_subscriptions"] = json!({ &room: { "timeline_limit": 3 } });
    assert!(rooms(&client.next().await).is_empty());
    // With a gap something was.
    client.body["room_subscriptions"] = json!({});
    say_all(&alice, &room, &["6", "7"]).await;
    assert_eq!(bodies(&client.next().await["rooms"][&room]), ["7"]);
    client.body["room_subscriptions"] = json!({ &room: { "timeline_limit": 3 } });
    assert_eq!(bodies(&client.next().await["rooms"][&room]), ["5", "6", "7"]);
}

#[tokio::test]
async fn an_event_that_brings_a_room_into_the_window_is_live_in_it() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let (a, b) = (public(&alice).await, public(&alice).await);
    say_all(&alice, &a, &["old"]).await;
    say_all(&alice, &b, &["x"]).await;
    let mut client = Connection::with_list(&alice, [0, 0]);
    assert_eq!(rooms(&client.next().await), [&b]);
    say_all(&alice, &a, &["new"]).await;
    let shown = client.next().await["rooms"][&a].take();
    assert_eq!((&shown["initial"], &shown["num_live"]), (&json!(true), &json!(1)));
    assert_eq!(bodies(&shown), ["old", "new"]);
}

#[tokio::test]
async fn the_bump_stamp_grows_with_messages_and_not_with_members() {
    let server = TestServer::new().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let room = public(&alice).await;
    alice.say(&room, "x").await;
    let mut client = Connection::with_list(&alice, [0, 9]);
    let stamp = |answer: &serde_json::Value| answer["rooms"][&room]["bump_stamp"].as_u64().unwrap();
    let first = stamp(&client.next().await);
    bob.join(&room).await;
    assert_eq!(stamp(&client.next().await), first);
    bob.say(&room, "y").await;
    assert!(stamp(&client.next().await) > first);
}

#[tokio::test]
async fn events_that_the_user_may_not_see_are_not_there() {
    let server = TestServer::new().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let room = alice.create_public_room("joined").await;
    alice.say(&room, "hidden").await;
    bob.join(&room).await;
    alice.say(&room, "seen").await;
    assert_eq!(bodies(&Connection::with_list(&bob, [0, 9]).next().await["rooms"][&room]), ["seen"]);
}

#[tokio::test]
async fn the_sender_finds_its_transaction_id() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let room = public(&alice).await;
    let mut client = Connection::with_list(&alice, [0, 9]);
    client.next().await;
    alice
        .put(&format!("/v3/rooms/{room}/send/m.room.message/t7"), json!({ "body": "x", "msgtype": "m.text" }))
        .await
        .ok();
    assert_eq!(client.next().await["rooms"][&room]["timeline"][0]["unsigned"]["transaction_id"], "t7");
}
