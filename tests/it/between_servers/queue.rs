use std::{io, time::Duration};

use axum::body::Body;
use bytes::Bytes;
use chappe::{
    federation::{
        queue::{
            self as outgoing, Additions,
            tables::{Destinations, Item},
        },
        tables::{Backoff, Backoffs},
    },
    store,
    user::keys::tables::{CrossSigningKey, CrossSigningKeys, Usage},
};
use futures_util::stream;
use http::{Method, Response, StatusCode};
use ruma::{UserId, server_name};
use serde_json::json;

use super::{Pair, SEND, Scripted, until, until_seen};
use crate::support::{TestNetwork, reply};

#[tokio::test]
async fn messages_reach_the_other_server_and_come_back() {
    let pair = Pair::new().await;
    let hello = pair.alice.say(&pair.room, "hello").await;
    until_seen(&pair.bob, &pair.room, &hello).await;
    let answer = pair.bob.say(&pair.room, "hello yourself").await;
    until_seen(&pair.alice, &pair.room, &answer).await;
    pair.check();
}

#[tokio::test]
async fn a_kick_reaches_the_server_of_whoever_is_kicked() {
    let pair = Pair::new().await;
    pair.alice.act(&pair.room, "kick", json!({ "user_id": pair.bob.id })).await.ok();
    until("bob hears of it", async || {
        let rooms = pair.bob.get("/v3/joined_rooms").await.ok();
        rooms["joined_rooms"].as_array().unwrap().is_empty().then_some(())
    })
    .await;
    pair.alice.say(&pair.room, "he is gone").await;
    until("nothing waits for his server", async || {
        (!outgoing::is_sending(pair.alice.server.inside(), "b.test".try_into().unwrap())).then_some(())
    })
    .await;
    pair.check();
}

#[tokio::test]
async fn what_waited_for_a_server_is_sent_once_it_is_heard_of_again() {
    let pair = Pair::new().await;
    pair.network.cut_off("b.test");
    let mut said = Vec::new();
    for n in 0..5 {
        said.push(pair.alice.say(&pair.room, &n.to_string()).await);
    }
    let waiting = || outgoing::is_sending(pair.alice.server.inside(), "b.test".try_into().unwrap());
    until("it was tried in vain", async || (pair.network.count("b.test", SEND) > 0).then_some(())).await;
    tokio::task::yield_now().await;
    assert!(waiting());
    pair.network.reconnect("b.test");
    let back = pair.bob.say(&pair.room, "back").await;
    until_seen(&pair.alice, &pair.room, &back).await;
    for event in &said {
        until_seen(&pair.bob, &pair.room, event).await;
    }
    until("nothing waits", async || (!waiting()).then_some(())).await;
    pair.check();
}

#[tokio::test]
async fn a_dead_server_is_not_asked_again_and_again() {
    let pair = Pair::new().await;
    pair.network.cut_off("b.test");
    pair.alice.say(&pair.room, "first").await;
    until("it was tried", async || (pair.network.count("b.test", SEND) > 0).then_some(())).await;
    let before = pair.network.count("b.test", SEND);
    for n in 0..10 {
        pair.alice.say(&pair.room, &n.to_string()).await;
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(pair.network.count("b.test", SEND), before);
}

#[tokio::test]
async fn the_same_transaction_is_sent_again_under_the_same_id() {
    let scripted = Scripted::new().await;
    scripted.peer.refuse(Method::PUT, SEND, 503, "M_UNKNOWN");
    scripted.bob.say(&scripted.room.id, "hello").await;
    until("it was sent", async || (!scripted.peer.asked(SEND).is_empty()).then_some(())).await;
    scripted.bob.say(&scripted.room.id, "more").await;
    until("more waits", async || {
        let snapshot = scripted.here.inside().store.snapshot();
        let backlog = snapshot.get::<Destinations>(&server_name!("there")).unwrap();
        backlog.is_some_and(|backlog| backlog.rows > 1).then_some(())
    })
    .await;
    scripted.peer.on(Method::PUT, SEND, |_| json!({ "pdus": {} }));
    until("it was sent again", async || {
        scripted.send(json!([])).await; // the peer is alive
        (scripted.peer.asked(SEND).len() > 1).then_some(())
    })
    .await;
    let asked = scripted.peer.asked(SEND);
    assert_eq!(asked[0].uri, asked[1].uri);
    assert_eq!(asked[0].body["pdus"], asked[1].body["pdus"]);
    assert_eq!(scripted.pdus()[0]["content"]["body"], "hello");
    until("the rest follows", async || {
        let pdus = scripted.pdus();
        pdus.iter().any(|pdu| pdu["content"]["body"] == "more").then_some(())
    })
    .await;
}

/// An answer whose body does not come.
fn broken_off() -> Response<Body> {
    let broken = stream::iter([Err::<Bytes, _>(io::Error::other("broken off"))]);
    Response::new(Body::from_stream(broken))
}

#[tokio::test]
async fn a_server_that_is_there_and_takes_nothing_is_left_alone_although_it_sends_something() {
    let matrix = |errcode: &str| json!({ "errcode": errcode, "error": "no" });
    for (status, body) in [
        (429, Some(matrix("M_LIMIT_EXCEEDED"))),
        (404, Some(matrix("M_UNRECOGNIZED"))),
        (200, Some(json!("a website"))),
        (405, Some(json!("a website that can only be read"))),
        (400, Some(json!("a proxy"))),
        (200, None),
    ] {
        let scripted = Scripted::new().await;
        let status = StatusCode::from_u16(status).unwrap();
        scripted.peer.on_response(Method::PUT, SEND, move |_| match &body {
            Some(body) => reply(status, body),
            None => broken_off(),
        });
        let before = scripted.peer.asked(SEND).len();
        scripted.bob.say(&scripted.room.id, "hello").await;
        until("it was sent", async || (scripted.peer.asked(SEND).len() > before).then_some(())).await;
        for _ in 0..10 {
            scripted.send(json!([])).await; // the peer is alive
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(scripted.peer.asked(SEND).len(), before + 1, "{status}");
    }
}

#[tokio::test]
async fn what_a_server_always_refuses_does_not_hold_up_the_rest() {
    let scripted = Scripted::new().await;
    scripted.peer.on_response(Method::PUT, SEND, |asked| {
        let is_bad = asked.body["edus"].to_string().contains("poison");
        let status = if is_bad { StatusCode::BAD_REQUEST } else { StatusCode::OK };
        reply(status, &json!({ "pdus": {}, "errcode": "M_BAD_JSON", "error": "no" }))
    });
    let carol = scripted.peer.user("carol");
    for (txn, text) in [("1", "poison"), ("2", "good")] {
        let messages = json!({ &carol: { "D": { "text": text } } });
        scripted.bob.put(&format!("/v3/sendToDevice/my.type/{txn}"), json!({ "messages": messages })).await.ok();
    }
    until("the good one came alone", async || {
        scripted.send(json!([])).await; // ends the pauses between refusals
        scripted.edus("m.direct_to_device").iter().any(|edu| edu.to_string().contains("good")).then_some(())
    })
    .await;
    until("the queue is empty", async || {
        scripted.send(json!([])).await;
        (!outgoing::is_sending(scripted.here.inside(), "there".try_into().unwrap())).then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_cannot_be_signed_does_not_hold_up_the_rest() {
    let scripted = Scripted::new().await;
    let bob = UserId::parse(&scripted.bob.id).unwrap();
    let spoiled = CrossSigningKey { public_key: "k".to_owned(), body: r#"{"n":1.5}"#.to_owned() };
    let spoil = move |tx: &mut store::Transaction<'_>| {
        tx.put::<CrossSigningKeys>(&(&*bob, Usage::Master), &spoiled);
        let mut additions = Additions::default();
        additions.add(server_name!("there").to_owned(), Item::SigningKeys { user: bob.clone() });
        additions.write(tx).map(drop)
    };
    scripted.here.inside().store.commit(spoil).await.unwrap();
    scripted.bob.say(&scripted.room.id, "hello").await;
    until("the message came", async || {
        scripted.send(json!([])).await; // ends the pauses between refusals
        scripted.pdus().iter().any(|pdu| pdu["content"]["body"] == "hello").then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_event_that_came_in_is_not_sent_back() {
    let pair = Pair::new().await;
    let hello = pair.alice.say(&pair.room, "hello").await;
    until_seen(&pair.bob, &pair.room, &hello).await;
    assert_eq!(pair.network.count("a.test", SEND), 0);
}

#[tokio::test]
async fn a_server_that_is_never_there_is_given_up_in_the_end() {
    let scripted = Scripted::new().await;
    let nowhere = server_name!("nowhere");
    let store = &scripted.here.inside().store;
    let almost = Backoff { since_ms: 0, retry_at_ms: 0, failures: 29, reason: String::new() };
    let fail = move |tx: &mut store::Transaction<'_>| {
        tx.put::<Backoffs>(&nowhere.as_str(), &almost);
        Ok::<_, store::Error>(())
    };
    store.commit(fail).await.unwrap();
    let messages = json!({ "@alice:nowhere": { "D": {} } });
    scripted.bob.put("/v3/sendToDevice/my.type/1", json!({ "messages": messages })).await.ok();
    until("nothing waits for it", async || {
        let waits = store.snapshot().contains::<Destinations>(&nowhere).unwrap();
        (!waits && !outgoing::is_sending(scripted.here.inside(), nowhere)).then_some(())
    })
    .await;
    assert!(!store.snapshot().contains::<Backoffs>(&nowhere.as_str()).unwrap());
}

#[tokio::test]
async fn what_waits_for_a_server_that_may_not_be_told_anything_any_more_goes_on_waiting() {
    let network = TestNetwork::new();
    let here = network.server_with("here", |config| config.federation.allowed_servers = Vec::new()).await;
    let there = server_name!("there");
    let fill = move |tx: &mut store::Transaction<'_>| {
        let mut additions = Additions::default();
        additions.add(there.to_owned(), Item::ToDevice { content: "{}".to_owned() });
        additions.write(tx).map(drop)
    };
    here.inside().store.commit(fill).await.unwrap();
    outgoing::wake(here.inside(), there.to_owned());
    until("nothing is tried", async || (!outgoing::is_sending(here.inside(), there)).then_some(())).await;
    assert!(here.inside().store.snapshot().contains::<Destinations>(&there).unwrap());
}
