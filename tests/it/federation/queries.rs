use http::Method;
use serde_json::json;

use crate::support::{TestNetwork, TestServer, query};

const QUERY: &str = "/_matrix/federation/v1/query/profile";

#[tokio::test]
async fn profiles_are_seen_from_other_servers() {
    let network = TestNetwork::new();
    let (a, b) = (network.server("a.example").await, network.server("b.example").await);
    let (alice, bob) = (a.user("alice").await, b.user("bob").await);
    let path = format!("/v3/profile/{}", alice.id);
    alice.put(&format!("{path}/displayname"), json!({ "displayname": "Alice" })).await.ok();
    assert_eq!(bob.get(&path).await.ok(), json!({ "displayname": "Alice" }));
    assert_eq!(bob.get(&format!("{path}/displayname")).await.ok(), json!({ "displayname": "Alice" }));
    assert_eq!(bob.get(&format!("{path}/avatar_url")).await.error(), (404, "M_NOT_FOUND"));
    assert_eq!(bob.get("/v3/profile/@nobody:a.example").await.error(), (404, "M_NOT_FOUND"));
    alice.put(&format!("{path}/displayname"), json!({ "displayname": "Alicia" })).await.ok();
    assert_eq!(bob.get(&path).await.ok(), json!({ "displayname": "Alicia" }), "nothing old is told");
    assert_eq!(bob.get("/v3/profile/@nobody:gone.example").await.error(), (502, "M_UNKNOWN"));
}

#[tokio::test]
async fn what_another_server_refuses_is_told_but_nothing_that_logs_a_client_out() {
    let network = TestNetwork::new();
    let (server, peer) = (network.server("a.example").await, network.peer("b.example"));
    let alice = server.user("alice").await;
    for (status, errcode, told) in [
        (403, "M_FORBIDDEN", (403, "M_FORBIDDEN")),
        (404, "M_NOT_FOUND", (404, "M_NOT_FOUND")),
        (401, "M_UNKNOWN_TOKEN", (502, "M_UNKNOWN")),
        (403, "M_USER_DEACTIVATED", (502, "M_UNKNOWN")),
    ] {
        peer.refuse(Method::GET, QUERY, status, errcode);
        assert_eq!(alice.get("/v3/profile/@bob:b.example").await.error(), told, "{errcode}");
    }
}

#[tokio::test]
async fn a_field_that_must_be_a_text_and_is_none_is_not_set() {
    let network = TestNetwork::new();
    let (server, peer) = (network.server("a.example").await, network.peer("b.example"));
    let alice = server.user("alice").await;
    let kept = json!({ "org.example.job": null });
    let answer = json!({ "displayname": 5, "avatar_url": null, "m.tz": ["UTC"], "org.example.job": null });
    peer.on(Method::GET, QUERY, move |_| answer.clone());
    assert_eq!(alice.get("/v3/profile/@bob:b.example").await.ok(), kept);
    assert_eq!(alice.get("/v3/profile/@bob:b.example/org.example.job").await.ok(), kept);
    for field in ["displayname", "avatar_url", "m.tz"] {
        let answer = alice.get(&format!("/v3/profile/@bob:b.example/{field}")).await;
        assert_eq!(answer.error(), (404, "M_NOT_FOUND"), "{field}");
    }
}

#[tokio::test]
async fn aliases_are_found_from_other_servers() {
    let network = TestNetwork::new();
    let (a, b) = (network.server("a.example").await, network.server("b.example").await);
    let (alice, bob) = (a.user("alice").await, b.user("bob").await);
    let room = alice.create_room(json!({ "room_alias_name": "hall" })).await;
    let found = bob.get("/v3/directory/room/%23hall:a.example").await.ok();
    assert_eq!(found, json!({ "room_id": room, "servers": ["a.example"] }));
    assert_eq!(bob.get("/v3/directory/room/%23none:a.example").await.error(), (404, "M_NOT_FOUND"));
}

#[tokio::test]
async fn whoever_asks_without_a_token_makes_this_server_read_little() {
    let network = TestNetwork::new();
    let (server, peer) = (network.server("a.example").await, network.peer("b.example"));
    let (profile, alias) = ("/v3/profile/@bob:b.example", "/v3/directory/room/%23hall:b.example");
    for (times, fits) in [(3, true), (4, false)] {
        peer.on(Method::GET, QUERY, move |_| json!({ "org.example.much": "x".repeat(times * 60_000) }));
        let answer = json!({ "room_id": "!hall:b.example", "servers": vec!["c.example"; times * 14_000] });
        peer.on(Method::GET, "/_matrix/federation/v1/query/directory", move |_| answer.clone());
        for path in [profile, alias] {
            let answer = server.get(path).await;
            if fits {
                answer.ok();
            } else {
                assert_eq!(answer.error(), (502, "M_UNKNOWN"), "{path}");
            }
        }
    }
}

#[tokio::test]
async fn a_room_is_known_by_its_aliases_on_other_servers() {
    let network = TestNetwork::new();
    let (a, b) = (network.server("a.example").await, network.server("b.example").await);
    let (alice, bob) = (a.user("alice").await, b.user("bob").await);
    let room = alice.create_room(json!({ "room_alias_name": "hall", "preset": "public_chat" })).await;
    bob.post("/v3/join/%23hall:a.example", json!({})).await.ok();
    let other = bob.create_room(json!({})).await;
    for (alias, room) in [("away", &room), ("other", &other)] {
        bob.put(&format!("/v3/directory/room/%23{alias}:b.example"), json!({ "room_id": room })).await.ok();
    }
    let named = async |alias: &str| {
        let content = json!({ "alias": "#hall:a.example", "alt_aliases": [alias] });
        alice.set_state(&room, "m.room.canonical_alias", "", content).await
    };
    for alias in ["#other:b.example", "#none:b.example", "#away:nowhere.example"] {
        assert_eq!(named(alias).await.error(), (400, "M_BAD_ALIAS"), "{alias}");
    }
    named("#away:b.example").await.ok();
}

#[tokio::test]
async fn a_room_is_summarized_by_its_alias_on_another_server() {
    let network = TestNetwork::new();
    let (a, b) = (network.server("a.example").await, network.server("b.example").await);
    let (alice, bob) = (a.user("alice").await, b.user("bob").await);
    let room = alice.create_room(json!({ "room_alias_name": "hall", "preset": "public_chat" })).await;
    let path = "/v1/room_summary/%23hall:a.example";
    assert_eq!(b.get(path).await.error(), (404, "M_NOT_FOUND"));
    assert_eq!(network.count("a.example", "/_matrix/federation/v1/query/"), 0, "nobody is asked for strangers");
    let summary = bob.get(path).await.ok();
    assert_eq!((&summary["room_id"], &summary["num_joined_members"]), (&json!(room), &json!(1)));
    alice.try_invite(&room, &bob).await.ok();
    assert_eq!(bob.get(path).await.ok()["membership"], "invite");
    assert_eq!(a.get(path).await.ok()["room_id"], *room);
    assert_eq!(bob.get("/v1/room_summary/%23none:a.example").await.error(), (404, "M_NOT_FOUND"));
}

#[tokio::test]
async fn the_directory_is_shown_to_other_servers_if_that_is_allowed() {
    let network = TestNetwork::new();
    let open = network.server_with("a.example", |config| config.allow_public_room_directory_over_federation = true);
    let (open, closed) = (open.await, network.server("c.example").await);
    let reader = network.server("b.example").await.user("bob").await;
    for server in [&open, &closed] {
        let user = server.user("alice").await;
        user.create_room(json!({ "visibility": "public", "name": "Town hall" })).await;
        user.create_room(json!({ "visibility": "public", "name": "Garden" })).await;
        user.create_room(json!({ "name": "Secret" })).await;
    }
    let listed = reader.get("/v3/publicRooms?server=a.example&limit=1").await.ok();
    assert_eq!(listed["total_room_count_estimate"], 2);
    let next = listed["next_batch"].as_str().unwrap();
    let rest = reader.get(&format!("/v3/publicRooms{}", query(&[("server", "a.example"), ("since", next)]))).await.ok();
    assert_eq!((listed["chunk"].as_array().unwrap().len(), rest["chunk"].as_array().unwrap().len()), (1, 1));
    let search = json!({ "filter": { "generic_search_term": "garden" } });
    let found = reader.post("/v3/publicRooms?server=a.example", search).await.ok();
    assert_eq!(found["chunk"][0]["name"], "Garden");
    let unlimited = network.peer("d.example").get(&open, "/v1/publicRooms?limit=0").await.ok();
    assert_eq!(unlimited["chunk"].as_array().unwrap().len(), 2);
    assert_eq!(reader.get("/v3/publicRooms?server=c.example").await.error(), (403, "M_FORBIDDEN"));
    let without_token = reader.server.get("/v3/publicRooms?server=a.example").await;
    assert_eq!(without_token.error(), (401, "M_MISSING_TOKEN"));
}

#[tokio::test]
async fn an_openid_token_tells_who_its_user_is_for_an_hour() {
    let server = TestNetwork::new().server("a.example").await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let path = format!("/v3/user/{}/openid/request_token", alice.id);
    assert_eq!(bob.post(&path, json!({})).await.error(), (403, "M_FORBIDDEN"));
    let answer = alice.post(&path, json!({})).await.ok();
    assert_eq!(answer["matrix_server_name"], "a.example");
    assert_eq!((&answer["token_type"], &answer["expires_in"]), (&json!("Bearer"), &json!(3_600)));
    let userinfo =
        format!("/_matrix/federation/v1/openid/userinfo?access_token={}", answer["access_token"].as_str().unwrap());
    assert_eq!(server.get(&userinfo).await.ok(), json!({ "sub": alice.id }));
    let without_token = server.get("/_matrix/federation/v1/openid/userinfo").await;
    assert_eq!(without_token.error(), (401, "M_MISSING_TOKEN"));
    let with_session = format!("/_matrix/federation/v1/openid/userinfo?access_token={}", alice.token);
    assert_eq!(server.get(&with_session).await.error(), (401, "M_UNKNOWN_TOKEN"));
    let root = server.administrator("root").await;
    let lock = format!("/v1/admin/lock/{}", alice.id);
    root.put(&lock, json!({ "locked": true })).await.ok();
    assert_eq!(server.get(&userinfo).await.error(), (401, "M_UNKNOWN_TOKEN"));
    root.put(&lock, json!({ "locked": false })).await.ok();
    server.get(&userinfo).await.ok();
    for _ in 0..100 {
        bob.post(&format!("/v3/user/{}/openid/request_token", bob.id), json!({})).await.ok();
    }
    server.get(&userinfo).await.ok();
    for _ in 0..100 {
        alice.post(&path, json!({})).await.ok();
    }
    assert_eq!(server.get(&userinfo).await.error(), (401, "M_UNKNOWN_TOKEN"), "a hundred of one user are good");
    let answer = alice.post(&path, json!({})).await.ok();
    let token = answer["access_token"].as_str().unwrap();
    let userinfo = format!("/_matrix/federation/v1/openid/userinfo?access_token={token}");
    server.get(&userinfo).await.ok();
    server.advance(std::time::Duration::from_secs(60 * 60));
    assert_eq!(server.get(&userinfo).await.error(), (401, "M_UNKNOWN_TOKEN"));
}

#[tokio::test]
async fn everybody_may_ask_what_this_server_is() {
    let server = TestServer::new().await;
    let version = json!({ "server": { "name": "Chappe", "version": env!("CARGO_PKG_VERSION") } });
    assert_eq!(server.get("/_matrix/federation/v1/version").await.ok(), version);
}
