//! What was before `/sync`: <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3events>

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{TestServer, User};

async fn events(user: &User, from: &str) -> Value {
    user.get(&format!("/v3/events?timeout=0&from={from}")).await.ok()
}

fn ids(events: &Value) -> Vec<&str> {
    events.as_array().unwrap().iter().map(|event| event["event_id"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn all_rooms_are_read_as_one_stream() {
    let server = TestServer::new().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let rooms = [alice.create_public_room("shared").await, alice.create_public_room("shared").await];
    bob.join(&rooms[0]).await;
    let start = bob.get("/v3/initialSync?limit=1").await.ok()["end"].as_str().unwrap().to_owned();
    let said =
        [alice.say(&rooms[0], "1").await, alice.say(&rooms[1], "not for bob").await, alice.say(&rooms[0], "2").await];
    let news = events(&bob, &start).await;
    assert_eq!(news["start"], start);
    assert_eq!(ids(&news["chunk"]), [&*said[0], &*said[2]]);
    assert_eq!(news["chunk"][0]["room_id"], rooms[0]);
    let end = news["end"].as_str().unwrap();
    assert_eq!(events(&bob, end).await["chunk"], json!([]));
    assert_eq!(ids(&events(&alice, &start).await["chunk"]), [&*said[0], &*said[1], &*said[2]]);

    // An invite and a kick are told, and nothing after that.
    alice.invite(&rooms[1], &bob).await;
    let kick = json!({ "user_id": bob.id });
    alice.post(&format!("/v3/rooms/{}/kick", rooms[0]), kick).await.ok();
    alice.say(&rooms[0], "3").await;
    let news = events(&bob, end).await;
    let memberships: Vec<_> =
        news["chunk"].as_array().unwrap().iter().map(|event| &event["content"]["membership"]).collect();
    assert_eq!(memberships, ["invite", "leave"], "{news}");
}

#[tokio::test]
async fn who_left_hears_of_a_later_invite_ban_and_its_end() {
    let server = TestServer::new().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let room = alice.create_public_room("shared").await;
    bob.join(&room).await;
    let seen = alice.say(&room, "seen").await;
    bob.leave(&room).await;
    let mut from = bob.get("/v3/initialSync").await.ok()["end"].as_str().unwrap().to_owned();
    alice.say(&room, "not for bob").await;
    for (action, membership) in [("invite", "invite"), ("ban", "ban"), ("unban", "leave")] {
        alice.post(&format!("/v3/rooms/{room}/{action}"), json!({ "user_id": bob.id })).await.ok();
        let news = events(&bob, &from).await;
        let chunk = news["chunk"].as_array().unwrap();
        assert_eq!(chunk.len(), 1, "{news}");
        assert_eq!((&chunk[0]["state_key"], &chunk[0]["content"]["membership"]), (&json!(bob.id), &json!(membership)));
        news["end"].as_str().unwrap().clone_into(&mut from);
        assert_eq!(events(&bob, &from).await["chunk"], json!([]));
    }
    alice.invite(&room, &bob).await;
    let answer = bob.get("/v3/initialSync?limit=2").await.ok();
    let shown = &answer["rooms"][0];
    assert_eq!((&shown["membership"], &shown["invite"]["state_key"]), (&json!("invite"), &json!(bob.id)));
    assert_eq!(shown["invite"]["content"]["membership"], "invite");
    assert_eq!(ids(&shown["messages"]["chunk"])[0], seen, "and what he saw before he left");
    let ignored = json!({ "ignored_users": { &alice.id: {} } });
    bob.put(&format!("/v3/user/{}/account_data/m.ignored_user_list", bob.id), ignored).await.ok();
    assert_eq!(events(&bob, &from).await["chunk"], json!([]));
}

#[tokio::test]
async fn much_news_comes_in_pages() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let rooms = [alice.create_room(json!({})).await, alice.create_room(json!({})).await];
    let mut from = alice.get("/v3/initialSync").await.ok()["end"].as_str().unwrap().to_owned();
    let mut said = Vec::new();
    for n in 0..130 {
        said.push(alice.say(&rooms[n % 2], "x").await);
    }
    let mut heard = Vec::new();
    for expected in [100, 30, 0] {
        let news = events(&alice, &from).await;
        let page = ids(&news["chunk"]);
        assert_eq!(page.len(), expected);
        heard.extend(page.into_iter().map(ToOwned::to_owned));
        news["end"].as_str().unwrap().clone_into(&mut from);
    }
    assert_eq!(heard, said);
}

#[tokio::test]
async fn who_listens_is_woken_and_wrong_questions_are_refused() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let room = alice.create_room(json!({})).await;
    let listening = {
        let alice = alice.clone();
        tokio::spawn(async move { alice.get("/v3/events?timeout=30000").await.ok() })
    };
    tokio::time::sleep(Duration::from_millis(50)).await;
    let said = alice.say(&room, "x").await;
    assert_eq!(ids(&listening.await.unwrap()["chunk"]), [said.as_str()]);
    for bad in ["from=nonsense", "timeout=-1", "room_id=nonsense"] {
        assert_eq!(alice.get(&format!("/v3/events?{bad}")).await.error(), (400, "M_INVALID_PARAM"), "{bad}");
    }
    let future = events(&alice, "t99999999999").await;
    assert_eq!(future["chunk"], json!([]));
    let unknown = alice.get("/v3/events?room_id=!x:example.org").await;
    assert_eq!(unknown.error(), (403, "M_FORBIDDEN"));
}

#[tokio::test]
async fn one_event_is_shown_to_those_who_may_see_it() {
    let server = TestServer::new().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let room = alice.create_room(json!({})).await;
    let said = alice.say(&room, "x").await;
    let shown = alice.get(&format!("/v3/events/{said}")).await.ok();
    assert_eq!((&shown["room_id"], &shown["content"]["body"]), (&json!(room), &json!("x")));
    let hidden = bob.get(&format!("/v3/events/{said}")).await;
    assert_eq!(hidden.error(), (404, "M_NOT_FOUND"));
    for unknown in ["$nothing", "nonsense"] {
        assert_eq!(bob.get(&format!("/v3/events/{unknown}")).await.body, hidden.body);
    }
}

#[tokio::test]
async fn the_first_answer_has_everything() {
    let server = TestServer::new().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let joined = alice.create_room(json!({ "name": "joined", "visibility": "public" })).await;
    let left = alice.create_room(json!({})).await;
    let invited = bob.create_room(json!({ "invite": [alice.id] })).await;
    let said = alice.say(&joined, "x").await;
    alice.leave(&left).await;
    alice.put(&format!("/v3/user/{}/account_data/org.x", alice.id), json!({ "a": 1 })).await.ok();
    alice.put(&format!("/v3/user/{}/rooms/{joined}/account_data/org.y", alice.id), json!({ "b": 1 })).await.ok();
    let answer = alice.get("/v3/initialSync?limit=1").await.ok();
    assert!(answer["presence"].is_array());
    assert!(answer["account_data"].as_array().unwrap().contains(&json!({ "type": "org.x", "content": { "a": 1 } })));
    let rooms = answer["rooms"].as_array().unwrap();
    assert_eq!(rooms.len(), 2);
    let room = |id: &str| rooms.iter().find(|room| room["room_id"] == id).unwrap();
    let shown = room(&joined);
    assert_eq!((&shown["membership"], &shown["visibility"]), (&json!("join"), &json!("public")));
    assert_eq!(ids(&shown["messages"]["chunk"]), [said.as_str()]);
    assert_eq!(shown["account_data"], json!([{ "type": "org.y", "content": { "b": 1 } }]));
    assert!(shown["state"].as_array().unwrap().iter().any(|event| event["type"] == "m.room.name"));
    let start = shown["messages"]["start"].as_str().unwrap();
    alice.get(&format!("/v3/rooms/{joined}/messages?dir=b&from={start}")).await.ok();
    let shown = room(&invited);
    assert_eq!((&shown["membership"], &shown["invite"]["sender"]), (&json!("invite"), &json!(bob.id)));
    assert_eq!(shown.get("state"), None);
    let all = alice.get("/v3/initialSync?archived=true").await.ok();
    let shown = all["rooms"].as_array().unwrap().iter().find(|room| room["room_id"] == left).unwrap().clone();
    assert_eq!(shown["membership"], "leave");
    assert!(!shown["state"].as_array().unwrap().is_empty());
}
