use std::time::Duration;

use serde_json::json;

use crate::support::{START_MS, TestServer};

#[tokio::test]
async fn a_user_finds_the_event_of_a_time_that_he_may_see_and_no_other() {
    let server = TestServer::new().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let room = alice.create_public_room("joined").await;
    let mut said = Vec::new();
    for _ in 0..3 {
        server.advance(Duration::from_secs(10));
        said.push(alice.say(&room, "x").await);
    }
    let at = |seconds: u64, dir: &str| {
        format!("/v1/rooms/{room}/timestamp_to_event?ts={}&dir={dir}", START_MS + seconds * 1_000)
    };
    let found = alice.get(&at(15, "f")).await.ok();
    assert_eq!((&found["event_id"], &found["origin_server_ts"]), (&json!(said[1]), &json!(START_MS + 20_000)));
    assert_eq!(alice.get(&at(15, "b")).await.ok()["event_id"], json!(said[0]));
    assert_eq!(alice.get(&at(20, "f")).await.ok()["event_id"], json!(said[1]));
    assert_eq!(alice.get(&at(31, "f")).await.error(), (404, "M_NOT_FOUND"));
    assert_eq!(bob.get(&at(15, "f")).await.errcode(), "M_FORBIDDEN");
    server.advance(Duration::from_secs(10));
    bob.join(&room).await;
    let found = bob.get(&at(5, "f")).await.ok();
    assert_eq!(found["origin_server_ts"], json!(START_MS + 40_000), "nothing from before his time");
}
