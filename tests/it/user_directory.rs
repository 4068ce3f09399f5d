//! The user directory: <https://spec.matrix.org/v1.19/client-server-api/#user-directory>

use std::{sync::Arc, time::Duration};

use chappe::{check, user::directory::remote};
use serde_json::{Value, json};

use crate::support::{TestNetwork, TestServer, User, query};

async fn search(user: &User, term: &str) -> Vec<String> {
    let found = user.post("/v3/user_directory/search", json!({ "search_term": term })).await.ok();
    assert_eq!(found["limited"], false);
    found["results"].as_array().unwrap().iter().map(|user| user["user_id"].as_str().unwrap().to_owned()).collect()
}

/// What a search finds once it finds somebody.
async fn until_found(user: &User, term: &str) -> Vec<String> {
    for _ in 0..1_000 {
        let found = search(user, term).await;
        if !found.is_empty() {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Vec::new()
}

async fn set_name(user: &User, name: &str) {
    let path = format!("/v3/profile/{}/displayname", user.id);
    user.put(&path, json!({ "displayname": name })).await.ok();
}

const NOBODY: [&str; 0] = [];

#[tokio::test]
async fn users_are_found_by_the_beginnings_of_their_words() {
    let server = TestServer::with(|config| config.user_directory.search_all_users = true).await;
    let (alice, bob) = (server.user("alice").await, server.user("jean_paul.martin-agent").await);
    set_name(&bob, "Éloïse Le-Goff").await;
    for term in [
        "elo",
        "ÉLO",
        "le goff",
        "GOFF éloïse",
        "martin",
        "jean p",
        "@jean_paul",
        "@jean_paul.martin-agent:ex",
        &bob.id,
    ] {
        assert_eq!(search(&alice, term).await, [bob.id.as_str()], "{term}");
    }
    for term in ["loise", "goff x", "@jean_paul:elsewhere", "", "!", "alice"] {
        assert_eq!(search(&alice, term).await, NOBODY, "{term}");
    }
    let shown = alice.post("/v3/user_directory/search", json!({ "search_term": "goff" })).await.ok();
    assert_eq!(shown["results"], json!([{ "user_id": bob.id, "display_name": "Éloïse Le-Goff" }]));
    set_name(&bob, "Yann").await;
    assert_eq!(search(&alice, "goff").await, NOBODY);
    assert_eq!(search(&alice, "yan").await, [bob.id.as_str()]);
    let report = check::check(&server.inside().store, server.inside().name()).unwrap();
    assert!(report.is_clean(), "{report:?}");
    let auth = crate::support::auth_of("jean_paul.martin-agent");
    bob.post("/v3/account/deactivate", json!({ "auth": auth })).await.ok();
    assert_eq!(search(&alice, "yann").await, NOBODY);
    assert_eq!(search(&alice, &bob.id).await, NOBODY);
    let report = check::check(&server.inside().store, server.inside().name()).unwrap();
    assert!(report.is_clean(), "{report:?}");
}

#[tokio::test]
async fn users_find_those_in_their_rooms_and_in_public_ones() {
    let server = TestServer::new().await;
    let (alice, bob, eve) = (server.user("alice").await, server.user("bob").await, server.user("eve").await);
    assert_eq!(search(&alice, "bob").await, NOBODY);
    assert_eq!(search(&alice, &bob.id).await, NOBODY);
    let room = alice.create_room(json!({ "invite": [bob.id] })).await;
    assert_eq!(search(&alice, "bob").await, NOBODY, "who is only invited is not there yet");
    bob.join(&room).await;
    assert_eq!(search(&alice, "bob").await, [bob.id.as_str()]);
    assert_eq!(search(&eve, "bob").await, NOBODY);
    bob.try_leave(&room).await.ok();
    assert_eq!(search(&alice, "bob").await, NOBODY);
    let open = bob.create_room(json!({ "preset": "public_chat" })).await;
    assert_eq!(search(&eve, "bob").await, [bob.id.as_str()]);
    assert_eq!(search(&bob, "bob").await, [bob.id.as_str()], "whom everybody finds finds himself");
    bob.set_state(&open, "m.room.join_rules", "", json!({ "join_rule": "invite" })).await.ok();
    assert_eq!(search(&eve, "bob").await, NOBODY);
    assert_eq!(search(&bob, "bob").await, NOBODY);
    let readable = json!({ "history_visibility": "world_readable" });
    bob.set_state(&open, "m.room.history_visibility", "", readable).await.ok();
    assert_eq!(search(&eve, "bob").await, [bob.id.as_str()]);
}

#[tokio::test]
async fn a_name_of_one_room_is_told_to_nobody() {
    let server = TestServer::new().await;
    let (alice, bob, eve) = (server.user("alice").await, server.user("bob").await, server.user("eve").await);
    set_name(&alice, "Alice Cooper").await;
    alice.create_room(json!({ "preset": "public_chat" })).await;
    let room = bob.create_room(json!({ "invite": [alice.id] })).await;
    alice.join(&room).await;
    let secret = json!({ "membership": "join", "displayname": "Freddy" });
    alice.set_state(&room, "m.room.member", &alice.id, secret).await.ok();
    for searcher in [&bob, &eve] {
        assert_eq!(search(searcher, "freddy").await, NOBODY);
        assert_eq!(search(searcher, "cooper alice").await, [alice.id.as_str()]);
    }
}

#[tokio::test]
async fn an_answer_says_whether_there_are_more() {
    let server = TestServer::with(|config| config.user_directory.search_all_users = true).await;
    let alice = server.user("alice").await;
    for number in 0..12 {
        server.user(&format!("user{number}")).await;
    }
    let limited = async |body: Value| {
        let found = alice.post("/v3/user_directory/search", body).await.ok();
        (found["results"].as_array().unwrap().len(), found["limited"].as_bool().unwrap())
    };
    assert_eq!(limited(json!({ "search_term": "user" })).await, (10, true));
    assert_eq!(limited(json!({ "search_term": "user", "limit": 12 })).await, (12, false));
    assert_eq!(limited(json!({ "search_term": "user", "limit": 0 })).await, (0, true));
    assert_eq!(limited(json!({ "search_term": "user", "limit": 9_007_199_254_740_991_u64 })).await, (12, false));
    assert_eq!(alice.post("/v3/user_directory/search", json!({})).await.error(), (400, "M_BAD_JSON"));
}

#[tokio::test]
async fn two_users_see_which_rooms_they_share() {
    let server = TestServer::new().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let mut shared = Vec::new();
    for _ in 0..3 {
        let room = alice.create_room(json!({ "preset": "public_chat" })).await;
        bob.join(&room).await;
        shared.push(room);
    }
    bob.try_leave(&shared.remove(1)).await.ok();
    alice.create_room(json!({ "preset": "public_chat", "invite": [bob.id] })).await;
    let with = |user: &str| format!("/v1/mutual_rooms{}", query(&[("user_id", user)]));
    assert_eq!(alice.get(&with(&bob.id)).await.ok(), json!({ "joined": shared, "count": 2 }));
    assert_eq!(alice.get(&with("@nobody:example.org")).await.ok(), json!({ "joined": [], "count": 0 }));
    let invalid = (400, "M_INVALID_PARAM");
    assert_eq!(alice.get(&with(&alice.id)).await.error(), invalid);
    assert_eq!(alice.get(&with("bob")).await.error(), invalid);
    assert_eq!(alice.get("/v1/mutual_rooms").await.error(), invalid);
    assert_eq!(alice.get(&format!("{}&from=x", with(&bob.id))).await.error(), invalid);
}

#[tokio::test]
async fn who_is_in_a_room_that_all_of_ours_left_is_not_found() {
    let network = TestNetwork::new();
    let (here, there) = (network.server("here").await, network.server("there").await);
    tokio::spawn(remote::run(Arc::clone(here.inside())));
    let (bob, carol, alice) = (here.user("bob").await, here.user("carol").await, there.user("alice").await);
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    bob.post(&format!("/v3/join/{room}{}", query(&[("via", "there")])), json!({})).await.ok();
    assert_eq!(until_found(&carol, "alice").await, [&*alice.id], "the room is public");
    bob.try_leave(&room).await.ok();
    assert!(search(&carol, "alice").await.is_empty(), "whether she is still there nobody knows");
}

#[tokio::test]
async fn who_is_in_a_room_that_becomes_public_is_found() {
    let network = TestNetwork::new();
    let (here, there) = (network.server("here").await, network.server("there").await);
    tokio::spawn(remote::run(Arc::clone(here.inside())));
    let (alice, carol) = (here.user("alice").await, here.user("carol").await);
    for (name, event_type, content) in [
        ("bob", "m.room.join_rules", json!({ "join_rule": "public" })),
        ("dave", "m.room.history_visibility", json!({ "history_visibility": "world_readable" })),
    ] {
        let member = there.user(name).await;
        let room = alice.create_room(json!({ "invite": [member.id] })).await;
        member.post(&format!("/v3/join/{room}{}", query(&[("via", "here")])), json!({})).await.ok();
        assert_eq!(until_found(&alice, name).await, [&*member.id]);
        assert_eq!(search(&carol, name).await, NOBODY);
        alice.set_state(&room, event_type, "", content).await.ok();
        assert_eq!(until_found(&carol, name).await, [&*member.id], "{event_type}");
    }
}
