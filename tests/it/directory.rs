//! The directory of public rooms.

use serde_json::{Value, json};

use super::support::{TestServer, User};

fn ids(page: &Value) -> Vec<&str> {
    page["chunk"].as_array().unwrap().iter().map(|room| room["room_id"].as_str().unwrap()).collect()
}

/// Rooms with 3, 2 and 1 members, and one that is not listed; their ids, largest first.
async fn rooms(alice: &User) -> Vec<String> {
    let others = [alice.server.user("bob").await, alice.server.user("carol").await];
    let mut rooms = Vec::new();
    for joining in (0..=2).rev() {
        let room = alice.create_room(json!({ "visibility": "public", "name": format!("with {joining} others") })).await;
        for user in &others[..joining] {
            user.try_join(&room).await.ok();
        }
        rooms.push(room);
    }
    alice.create_room(json!({ "preset": "public_chat", "name": "unlisted" })).await;
    rooms
}

#[tokio::test]
async fn listed_rooms_are_described() {
    let alice = TestServer::new().await.user("alice").await;
    let body = json!({ "visibility": "public", "room_alias_name": "pub", "name": "Ünion", "topic": "All",
        "creation_content": { "type": "m.space" },
        "initial_state": [
            { "type": "m.room.history_visibility", "content": { "history_visibility": "world_readable" } },
            { "type": "m.room.guest_access", "content": { "guest_access": "can_join" } },
            { "type": "m.room.avatar", "content": { "url": "mxc://example.org/a" } },
        ] });
    let room = alice.create_room(body).await;
    let plain = alice.create_room(json!({ "visibility": "public", "preset": "private_chat" })).await;
    let page = alice.get("/v3/publicRooms").await.ok();
    let describe =
        |id: &str| page["chunk"].as_array().unwrap().iter().find(|found| found["room_id"] == id).unwrap().clone();
    assert_eq!(
        describe(&room),
        json!({ "room_id": room, "canonical_alias": "#pub:example.org", "name": "Ünion", "topic": "All",
            "num_joined_members": 1, "world_readable": true, "guest_can_join": true,
            "avatar_url": "mxc://example.org/a", "room_type": "m.space", "join_rule": "public" })
    );
    let expected = json!({ "room_id": plain, "num_joined_members": 1, "world_readable": false, "guest_can_join": true, "join_rule": "invite" });
    assert_eq!(describe(&plain), expected);
    assert_eq!(page["total_room_count_estimate"], 2);
    assert_eq!((page.get("next_batch"), page.get("prev_batch")), (None, None));
}

#[tokio::test]
async fn pages_go_forward_and_back_and_stay_whole_while_rooms_change() {
    let alice = TestServer::new().await.user("alice").await;
    let rooms = rooms(&alice).await;
    let page = async |query: &str| alice.get(&format!("/v3/publicRooms?limit=1{query}")).await.ok();
    let since = |page: &Value, key: &str| format!("&since={}", page[key].as_str().unwrap());
    let first = page("").await;
    assert_eq!((ids(&first), first.get("prev_batch")), (vec![rooms[0].as_str()], None));
    // The room that the page ended with goes, and another of the same size comes before.
    alice.put(&format!("/v3/directory/list/room/{}", rooms[0]), json!({ "visibility": "private" })).await.ok();
    let second = page(&since(&first, "next_batch")).await;
    assert_eq!(ids(&second), [&rooms[1]]);
    alice.put(&format!("/v3/directory/list/room/{}", rooms[0]), json!({})).await.ok();
    let third = page(&since(&second, "next_batch")).await;
    assert_eq!((ids(&third), third.get("next_batch")), (vec![rooms[2].as_str()], None));
    let back = page(&since(&third, "prev_batch")).await;
    assert_eq!(ids(&back), [&rooms[1]]);
    let back = page(&since(&back, "prev_batch")).await;
    assert_eq!((ids(&back), back.get("prev_batch")), (vec![rooms[0].as_str()], None));
    assert_eq!(ids(&page(&since(&back, "next_batch")).await), [&rooms[1]]);
}

#[tokio::test]
async fn tokens_that_are_not_ours_are_refused() {
    let alice = TestServer::new().await.user("alice").await;
    for token in ["x", "n!a:b", "n99999999999999999999!a:b", "p1", "1!a:b", "%C3%BC1!a:b"] {
        let answer = alice.get(&format!("/v3/publicRooms?since={token}")).await;
        assert_eq!(answer.error(), (400, "M_INVALID_PARAM"), "{token}");
    }
    assert_eq!(alice.get("/v3/publicRooms?limit=x").await.error().0, 400);
    assert_eq!(alice.get("/v3/publicRooms?limit=-1").await.error().0, 400);
    assert_eq!(ids(&alice.get("/v3/publicRooms?since=n5!a:b&limit=0").await.ok()), [""; 0]);
}

#[tokio::test]
async fn rooms_are_found_by_text_and_by_type() {
    let alice = TestServer::new().await.user("alice").await;
    let room = |body: Value| {
        let mut body = body;
        body["visibility"] = json!("public");
        let alice = alice.clone();
        async move { alice.create_room(body).await }
    };
    let named = room(json!({ "name": "Préfecture" })).await;
    let topical = room(json!({ "topic": "the PRÉFECTURE" })).await;
    let aliased = room(json!({ "room_alias_name": "embassy" })).await;
    let space = room(json!({ "name": "s", "creation_content": { "type": "m.space" } })).await;
    let search = async |filter: Value| {
        let page = alice.post("/v3/publicRooms", json!({ "filter": filter })).await.ok();
        let mut found: Vec<_> = ids(&page).into_iter().map(str::to_owned).collect();
        assert_eq!(page["total_room_count_estimate"], found.len());
        found.sort();
        found
    };
    let sorted = |rooms: &[&String]| {
        let mut rooms: Vec<_> = rooms.iter().map(|room| (*room).clone()).collect();
        rooms.sort();
        rooms
    };
    assert_eq!(search(json!({ "generic_search_term": "préfecture" })).await, sorted(&[&named, &topical]));
    assert_eq!(search(json!({ "generic_search_term": "EMBASS" })).await, sorted(&[&aliased]));
    assert_eq!(search(json!({ "generic_search_term": "nothing" })).await, sorted(&[]));
    assert_eq!(search(json!({ "room_types": ["m.space"] })).await, sorted(&[&space]));
    assert_eq!(search(json!({ "room_types": [null] })).await, sorted(&[&named, &topical, &aliased]));
    assert_eq!(search(json!({ "room_types": [null, "m.space"] })).await, sorted(&[&named, &topical, &aliased, &space]));
    assert_eq!(search(json!({})).await, sorted(&[&named, &topical, &aliased, &space]));
    let network = json!({ "third_party_instance_id": "irc" });
    assert_eq!(alice.post("/v3/publicRooms", network).await.ok()["chunk"], json!([]));
    let both = json!({ "third_party_instance_id": "irc", "include_all_networks": true });
    assert_eq!(alice.post("/v3/publicRooms", both).await.error().0, 400);
    assert_eq!(alice.post("/v3/publicRooms?server=elsewhere.org", json!({})).await.error(), (502, "M_UNKNOWN"));
}

#[tokio::test]
async fn only_who_has_power_over_a_room_lists_it() {
    let server = TestServer::new().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    bob.try_join(&room).await.ok();
    let at = format!("/v3/directory/list/room/{room}");
    assert_eq!(server.get(&at).await.ok(), json!({ "visibility": "private" }));
    assert_eq!(bob.put(&at, json!({ "visibility": "public" })).await.error(), (403, "M_FORBIDDEN"));
    alice.put(&at, json!({})).await.ok();
    assert_eq!(server.get(&at).await.ok(), json!({ "visibility": "public" }));
    assert_eq!(alice.put(&at, json!({ "visibility": "x" })).await.error(), (400, "M_INVALID_PARAM"));
    alice.try_leave(&room).await.ok();
    assert_eq!(alice.put(&at, json!({ "visibility": "private" })).await.error(), (403, "M_FORBIDDEN"));
    bob.try_leave(&room).await.ok();
    assert_eq!(server.get("/v3/publicRooms").await.ok()["chunk"], json!([]), "nobody is left");
    let unknown = "/v3/directory/list/room/!no:example.org";
    assert_eq!(server.get(unknown).await.error(), (404, "M_NOT_FOUND"));
    assert_eq!(alice.put(unknown, json!({})).await.error(), (404, "M_NOT_FOUND"));
}

#[tokio::test]
async fn a_server_may_ask_for_a_token_before_it_shows_its_directory() {
    let server = TestServer::with(|config| config.allow_public_room_directory_without_auth = false).await;
    assert_eq!(server.get("/v3/publicRooms").await.error(), (401, "M_MISSING_TOKEN"));
    server.user("alice").await.get("/v3/publicRooms").await.ok();
}
