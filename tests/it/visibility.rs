//! Who may see what of a room, as the endpoints tell it: what is not somebody's to see is to him as if it were not there.

use chappe::{
    store::Transaction,
    user::{account, tables::Deactivated},
};
use http::Method;
use ruma::OwnedUserId;
use serde_json::json;

use crate::support::{Answer, TestServer, User, query, room::event_id};

async fn event(user: &User, room: &str, event: &str) -> (u16, Vec<u8>) {
    let answer = user.get(&format!("/v3/rooms/{room}/event/{event}")).await;
    (answer.status.as_u16(), answer.bytes)
}

async fn around(user: &User, room: &str, event: &str) -> Answer {
    user.get(&format!("/v3/rooms/{room}/context/{event}")).await
}

#[tokio::test]
async fn an_event_that_is_not_ones_to_see_is_answered_as_one_that_is_not_there() {
    let server = TestServer::new().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let room = alice.create_public_room("joined").await;
    let secret = alice.say(&room, "secret").await;
    let other_room = bob.create_room(json!({})).await;
    bob.join(&room).await;
    let (status, unknown) = event(&bob, &room, "$unknown").await;
    assert_eq!(status, 404);
    assert_eq!(event(&bob, &room, &secret).await, (404, unknown.clone()), "from before he joined");
    assert_eq!(event(&bob, &other_room, &secret).await, (404, unknown.clone()), "of another room");
    assert_eq!(event(&bob, "!nowhere", &secret).await, (404, unknown.clone()), "of a room that is not there");
    let stranger = server.user("stranger").await;
    assert_eq!(event(&stranger, &room, &secret).await, (404, unknown), "of a room that he is not in");
    for room in [&room, &other_room] {
        assert_eq!(around(&bob, room, &secret).await.error(), (404, "M_NOT_FOUND"));
    }
    assert_eq!(event(&alice, &room, &secret).await.0, 200);
}

#[tokio::test]
async fn a_room_that_one_is_not_in_is_answered_as_one_that_is_not_there() {
    let server = TestServer::new().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let room = alice.create_public_room("shared").await;
    let around = format!("context/{}", alice.say(&room, "secret").await);
    let paths = ["messages?dir=b", "state", "state/m.room.create", "members", "joined_members", "initialSync"];
    for path in paths.into_iter().chain(["context/$unknown", around.as_str()]) {
        let of_room = bob.get(&format!("/v3/rooms/{room}/{path}")).await;
        let of_none = bob.get(&format!("/v3/rooms/!nowhere/{path}")).await;
        assert_eq!(of_none.error(), (403, "M_FORBIDDEN"), "{path}");
        assert_eq!((of_room.status, of_room.body), (of_none.status, of_none.body), "{path}");
    }
}

#[tokio::test]
async fn what_a_stranger_sends_to_a_room_is_answered_as_for_one_that_is_not_there() {
    const DELAYED: &str = "/_matrix/client/unstable/org.matrix.msc4140";
    let server = TestServer::new().await;
    let (alice, mallory) = (server.user("alice").await, server.user("mallory").await);
    let room = alice.create_room(json!({ "room_version": "12" })).await;
    let root = alice.say(&room, "root").await;
    let thread = |root: &str| json!({ "m.relates_to": { "rel_type": "m.thread", "event_id": root } });
    let reply = event_id(alice.send(&room, "m.room.message", thread(&root)).await);
    let invite = json!({ "membership": "invite" });
    let requests = [
        (Method::PUT, "/v3", "send/m.room.message/1", json!({ "msgtype": "m.text", "body": "x" })),
        (Method::PUT, "/v3", "send/m.room.message/2", thread(&reply)),
        (Method::PUT, "/v3", "state/m.room.create/", json!({})),
        (Method::PUT, "/v3", "state/m.room.power_levels/", json!({ "users": { &alice.id: 100 } })),
        (Method::PUT, "/v3", "state/m.room.canonical_alias/", json!({ "alias": "#x:elsewhere.org" })),
        (Method::PUT, "/v3", "state/m.room.member/@alice:example.org", json!({ "membership": "unknown" })),
        (Method::PUT, "/v3", "state/m.room.member/@zoe:elsewhere.org", invite),
        (Method::POST, "/v3", "ban", json!({ "user_id": alice.id })),
        (Method::POST, "/v3", "invite", json!({ "user_id": alice.id })),
        (Method::POST, "/v3", "invite", json!({ "user_id": "@zoe:elsewhere.org" })),
        (Method::PUT, DELAYED, "delayed_event/m.x/1", json!({ "delay": 1_000, "content": {} })),
        (Method::PUT, DELAYED, "delayed_event/m.x/2", json!({ "delay": 1_000, "content": [] })),
    ];
    for (method, api, path, body) in requests {
        let ask = async |room: &str| {
            mallory.request(method.clone(), &format!("{api}/rooms/{room}/{path}"), Some(body.clone())).await
        };
        let (of_room, of_none) = (ask(&room).await, ask("!none:example.org").await);
        assert_eq!(of_none.error(), (403, "M_FORBIDDEN"), "{path}");
        assert_eq!((of_room.status, of_room.body), (of_none.status, of_none.body), "{path}");
    }
    let open = alice.create_public_room("shared").await;
    mallory.set_state(&open, "m.room.member", &mallory.id, json!({ "membership": "join" })).await.ok();
}

#[tokio::test]
async fn an_invitation_lets_nobody_read() {
    let server = TestServer::new().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let room = alice.create_public_room("invited").await;
    let before = alice.say(&room, "before").await;
    alice.invite(&room, &bob).await;
    let invited = alice.say(&room, "while invited").await;
    for path in ["messages?dir=b", "state", "members", "joined_members"] {
        assert_eq!(bob.get(&format!("/v3/rooms/{room}/{path}")).await.error(), (403, "M_FORBIDDEN"), "{path}");
    }
    assert_eq!(event(&bob, &room, &invited).await.0, 404);
    let invite = format!("/v3/rooms/{room}/state/m.room.member/{}?format=event", bob.id);
    let invite = alice.get(&invite).await.ok()["event_id"].as_str().unwrap().to_owned();
    assert_eq!(event(&bob, &room, &invite).await.0, 200);
    assert_eq!(around(&bob, &room, &invite).await.error(), (403, "M_FORBIDDEN"));
    bob.join(&room).await;
    around(&bob, &room, &invite).await.ok();
    assert_eq!(event(&bob, &room, &invited).await.0, 200);
    assert_eq!(event(&bob, &room, &before).await.0, 404);
}

#[tokio::test]
async fn a_knock_tells_nothing_of_the_room_that_it_is_for() {
    let server = TestServer::new().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let room = alice.create_public_room("shared").await;
    alice.set(&room, "m.room.join_rules", "", json!({ "join_rule": "knock" })).await;
    let knock = bob.set(&room, "m.room.member", &bob.id, json!({ "membership": "knock" })).await;
    assert_eq!(event(&bob, &room, &knock).await.0, 200);
    assert_eq!(around(&bob, &room, &knock).await.error(), (403, "M_FORBIDDEN"));
    let open = json!({ "history_visibility": "world_readable" });
    let opening = alice.set(&room, "m.room.history_visibility", "", open).await;
    around(&bob, &room, &opening).await.ok();
    let then = alice.get(&format!("/v3/rooms/{room}/context/{knock}?limit=0")).await.ok();
    let then = query(&[("at", then["end"].as_str().unwrap())]);
    alice.get(&format!("/v3/rooms/{room}/members{then}")).await.ok();
    assert_eq!(bob.get(&format!("/v3/rooms/{room}/members{then}")).await.error(), (403, "M_FORBIDDEN"));
}

#[tokio::test]
async fn anybody_may_read_what_the_world_may_read() {
    let server = TestServer::new().await;
    let (alice, stranger) = (server.user("alice").await, server.user("stranger").await);
    let room = alice.create_public_room("world_readable").await;
    let open = alice.say(&room, "open").await;
    for path in ["messages?dir=b", "state", "state/m.room.create", "members", "initialSync"] {
        stranger.get(&format!("/v3/rooms/{room}/{path}")).await.ok();
    }
    let joined = stranger.get(&format!("/v3/rooms/{room}/joined_members")).await;
    assert_eq!(joined.error(), (403, "M_FORBIDDEN"), "for which one must be in the room");
    let closing = alice.set(&room, "m.room.history_visibility", "", json!({ "history_visibility": "shared" })).await;
    let closed = alice.say(&room, "closed").await;
    assert_eq!(event(&stranger, &room, &open).await.0, 200);
    assert_eq!(event(&stranger, &room, &closing).await.0, 200);
    assert_eq!(event(&stranger, &room, &closed).await.0, 404);
    let around = around(&stranger, &room, &open).await.ok();
    assert_eq!(around["events_after"][0]["event_id"], closing.as_str());
    assert_eq!(around["events_after"].as_array().unwrap().len(), 1, "and not what was said later");
    assert_eq!(stranger.get(&format!("/v3/rooms/{room}/messages?dir=b")).await.error(), (403, "M_FORBIDDEN"));
}

#[tokio::test]
async fn who_was_banned_or_forgot_the_room_reads_no_news() {
    let server = TestServer::new().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let room = alice.create_public_room("shared").await;
    bob.join(&room).await;
    let then = alice.say(&room, "then").await;
    alice.post(&format!("/v3/rooms/{room}/ban"), json!({ "user_id": bob.id })).await.ok();
    let later = alice.say(&room, "later").await;
    assert_eq!((event(&bob, &room, &then).await.0, event(&bob, &room, &later).await.0), (200, 404));
    bob.get(&format!("/v3/rooms/{room}/state")).await.ok();
    bob.post(&format!("/v3/rooms/{room}/forget"), json!({})).await.ok();
    assert_eq!(event(&bob, &room, &then).await.0, 404);
    for path in ["messages?dir=b", "state", "members"] {
        assert_eq!(bob.get(&format!("/v3/rooms/{room}/{path}")).await.error(), (403, "M_FORBIDDEN"), "{path}");
    }
}

#[tokio::test]
async fn who_left_and_is_banned_later_is_told_the_state_of_when_he_left() {
    let server = TestServer::new().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let room = alice.create_public_room("shared").await;
    bob.join(&room).await;
    bob.leave(&room).await;
    alice.set(&room, "m.room.topic", "", json!({ "topic": "news" })).await;
    let ban = alice.set(&room, "m.room.member", &bob.id, json!({ "membership": "ban" })).await;
    let around = around(&bob, &room, &ban).await.ok();
    let state = around["state"].as_array().unwrap();
    assert!(state.iter().any(|event| event["content"]["membership"] == "leave"));
    assert!(state.iter().all(|event| event["type"] != "m.room.topic"), "{around}");
}

#[tokio::test]
async fn what_an_erased_user_said_is_gone_for_those_who_come_later() {
    let server = TestServer::new().await;
    let (alice, mallory) = (server.user("alice").await, server.user("mallory").await);
    let room = alice.create_public_room("shared").await;
    mallory.join(&room).await;
    let named = json!({ "membership": "join", "displayname": "Mallory" });
    mallory.set_state(&room, "m.room.member", &mallory.id, named).await.ok();
    let said = mallory.say(&room, "regretted").await;
    alice.say(&room, "remembered").await;
    let (user_id, deactivated) =
        (OwnedUserId::try_from(&*mallory.id).unwrap(), Deactivated { at_ms: 1, is_erased: true });
    let erase = move |tx: &mut Transaction<'_>| {
        account::update(tx, &user_id, |account| account.deactivated = Some(deactivated))
    };
    server.inside().store.commit(erase).await.unwrap();
    let late = server.user("late").await;
    late.join(&room).await;
    let content = async |user: &User| user.get(&format!("/v3/rooms/{room}/event/{said}")).await.ok()["content"].clone();
    assert_eq!(content(&late).await, json!({}));
    assert_eq!(content(&alice).await["body"], "regretted");
    let search = async |user: &User, term: &str| {
        let context = json!({ "before_limit": 1, "include_profile": true });
        let criteria = json!({ "search_term": term, "event_context": context });
        let body = json!({ "search_categories": { "room_events": criteria } });
        user.post("/v3/search", body).await.ok()["search_categories"]["room_events"].clone()
    };
    assert_eq!(search(&late, "regretted").await["count"], 0);
    assert_eq!(search(&alice, "regretted").await["count"], 1);
    for (user, profile) in [(&late, json!({})), (&alice, json!({ "displayname": "Mallory" }))] {
        let found = search(user, "remembered").await;
        assert_eq!(found["results"][0]["context"]["profile_info"][&mallory.id], profile);
    }
}
