//! Server-side key backups.

use chappe::user::tables::Backups;
use serde_json::{Value, json};

use crate::support::{Answer, TestServer, User, curve25519_key};

const ALGORITHM: &str = "m.megolm_backup.v1.curve25519-aes-sha2";

fn description() -> Value {
    json!({ "algorithm": ALGORITHM, "auth_data": { "public_key": curve25519_key(), "signatures": {} } })
}

/// A new backup; its version.
async fn create(user: &User) -> String {
    user.post("/v3/room_keys/version", description()).await.ok()["version"].as_str().unwrap().to_owned()
}

fn key(is_verified: bool, first_message_index: u64, forwarded_count: u64) -> Value {
    json!({
        "is_verified": is_verified,
        "first_message_index": first_message_index,
        "forwarded_count": forwarded_count,
        "session_data": { "ephemeral": "a", "ciphertext": "b", "mac": "c" },
    })
}

async fn put(user: &User, version: &str, path: &str, body: Value) -> Answer {
    user.put(&format!("/v3/room_keys/keys{path}?version={version}"), body).await
}

async fn get(user: &User, version: &str, path: &str) -> Answer {
    user.get(&format!("/v3/room_keys/keys{path}?version={version}")).await
}

async fn delete(user: &User, version: &str, path: &str) -> Answer {
    user.delete(&format!("/v3/room_keys/keys{path}?version={version}")).await
}

#[tokio::test]
async fn a_backup_is_described_as_it_was_made() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    assert_eq!(alice.get("/v3/room_keys/version").await.error(), (404, "M_NOT_FOUND"));
    let mut expected = description();
    let version = alice.post("/v3/room_keys/version", expected.clone()).await.ok()["version"].clone();
    expected["version"] = version.clone();
    expected["count"] = json!(0);
    let version = version.as_str().unwrap();
    for path in ["/v3/room_keys/version".to_owned(), format!("/v3/room_keys/version/{version}")] {
        let mut answer = alice.get(&path).await.ok();
        assert!(answer.as_object_mut().unwrap().remove("etag").unwrap().is_string());
        assert_eq!(answer, expected);
    }
    let newer = create(&alice).await;
    assert_eq!(alice.get("/v3/room_keys/version").await.ok()["version"], newer);
    assert_eq!(alice.get(&format!("/v3/room_keys/version/{version}")).await.ok()["version"], version);
}

#[tokio::test]
async fn only_the_auth_data_can_be_changed() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let version = create(&alice).await;
    let path = format!("/v3/room_keys/version/{version}");
    let mut new = description();
    alice.put(&path, new.clone()).await.ok();
    assert_eq!(alice.get(&path).await.ok()["auth_data"], new["auth_data"]);
    new["version"] = json!(version);
    alice.put(&path, new.clone()).await.ok();
    new["version"] = json!("99");
    assert_eq!(alice.put(&path, new).await.error(), (400, "M_INVALID_PARAM"));
    let other = json!({ "algorithm": "m.other", "auth_data": {} });
    assert_eq!(alice.put(&path, other).await.error(), (400, "M_INVALID_PARAM"));
    assert_eq!(alice.put("/v3/room_keys/version/99", description()).await.error(), (404, "M_NOT_FOUND"));
    for body in [json!({}), json!({ "algorithm": ALGORITHM }), json!({ "algorithm": ALGORITHM, "auth_data": [] })] {
        assert_eq!(alice.put(&path, body.clone()).await.error(), (400, "M_BAD_JSON"), "{body}");
        assert_eq!(alice.post("/v3/room_keys/version", body.clone()).await.error(), (400, "M_BAD_JSON"), "{body}");
    }
}

#[tokio::test]
async fn a_deleted_version_is_gone_and_its_number_is_not_used_again() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let (first, second) = (create(&alice).await, create(&alice).await);
    put(&alice, &second, "/!r:x/s", key(true, 0, 0)).await.ok();
    let path = format!("/v3/room_keys/version/{second}");
    alice.delete(&path).await.ok();
    alice.delete(&path).await.ok();
    assert_eq!(alice.delete("/v3/room_keys/version/99").await.error(), (404, "M_NOT_FOUND"));
    assert_eq!(alice.get(&path).await.error(), (404, "M_NOT_FOUND"));
    assert_eq!(alice.put(&path, description()).await.error(), (404, "M_NOT_FOUND"));
    assert_eq!(get(&alice, &second, "").await.error(), (404, "M_NOT_FOUND"));
    assert_eq!(put(&alice, &second, "/!r:x/s", key(true, 0, 0)).await.error(), (404, "M_NOT_FOUND"));
    assert_eq!(alice.get("/v3/room_keys/version").await.ok()["version"], first);
    let third = create(&alice).await;
    assert!(third != first && third != second);
}

#[tokio::test]
async fn versions_that_were_deleted_long_ago_are_forgotten() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let mut versions = Vec::new();
    for _ in 0..40 {
        let version = create(&alice).await;
        alice.delete(&format!("/v3/room_keys/version/{version}")).await.ok();
        versions.push(version);
    }
    versions.push(create(&alice).await);
    let rows = server.inside().store.snapshot().list::<Backups>(&()).count();
    assert!(rows < 40, "{rows} rows");
    for version in &versions {
        alice.delete(&format!("/v3/room_keys/version/{version}")).await.ok();
    }
    assert_eq!(alice.delete("/v3/room_keys/version/1000").await.status, 404);
    let newest = create(&alice).await;
    assert!(!versions.contains(&newest));
}

#[tokio::test]
async fn keys_come_back_by_session_room_and_all() {
    let server = TestServer::new().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let version = create(&alice).await;
    assert_eq!(get(&alice, &version, "").await.ok(), json!({ "rooms": {} }));
    assert_eq!(get(&alice, &version, "/!a:x").await.ok(), json!({ "sessions": {} }));
    assert_eq!(get(&alice, &version, "/!a:x/s").await.error(), (404, "M_NOT_FOUND"));

    let state = put(&alice, &version, "/!a:x/s1", key(true, 1, 0)).await.ok();
    assert_eq!(state["count"], 1);
    put(&alice, &version, "/!a:x", json!({ "sessions": { "s2": key(true, 2, 0) } })).await.ok();
    let rooms = json!({ "!b:x": { "sessions": { "s\"3": key(true, 3, 0), "s4": key(false, 4, 0) } }, "!c:x": { "sessions": {} } });
    let newer = put(&alice, &version, "", json!({ "rooms": rooms })).await.ok();
    assert_eq!(newer["count"], 4);
    assert_ne!(newer["etag"], state["etag"]);

    let of_a = json!({ "sessions": { "s1": key(true, 1, 0), "s2": key(true, 2, 0) } });
    assert_eq!(get(&alice, &version, "/!a:x/s1").await.ok(), key(true, 1, 0));
    assert_eq!(get(&alice, &version, "/!a:x").await.ok(), of_a);
    assert_eq!(get(&alice, &version, "").await.ok(), json!({ "rooms": { "!a:x": of_a, "!b:x": rooms["!b:x"] } }));
    assert_eq!(get(&bob, &version, "").await.error(), (404, "M_NOT_FOUND"), "backups belong to their user");

    let info = alice.get("/v3/room_keys/version").await.ok();
    assert_eq!((&info["count"], &info["etag"]), (&newer["count"], &newer["etag"]));
    let same = put(&alice, &version, "", json!({ "rooms": rooms })).await.ok();
    assert_eq!(same, newer, "the same keys change nothing");
}

#[tokio::test]
async fn keys_are_deleted_by_session_room_and_all() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let version = create(&alice).await;
    let sessions = json!({ "sessions": { "s1": key(true, 0, 0), "s2": key(true, 0, 0) } });
    let all = json!({ "rooms": { "!a:x": sessions, "!b:x": sessions } });
    let full = put(&alice, &version, "", all.clone()).await.ok();
    let state = delete(&alice, &version, "/!a:x/s1").await.ok();
    assert_eq!(state["count"], 3);
    assert_ne!(state["etag"], full["etag"]);
    assert_eq!(delete(&alice, &version, "/!a:x/s1").await.ok(), state, "nothing was left to delete");
    assert_eq!(delete(&alice, &version, "/!b:x").await.ok()["count"], 1);
    assert_eq!(
        get(&alice, &version, "").await.ok(),
        json!({ "rooms": { "!a:x": { "sessions": { "s2": key(true, 0, 0) } } } })
    );
    assert_eq!(delete(&alice, &version, "").await.ok()["count"], 0);
    assert_eq!(get(&alice, &version, "").await.ok(), json!({ "rooms": {} }));
    assert_eq!(delete(&alice, "99", "").await.error(), (404, "M_NOT_FOUND"));
}

#[tokio::test]
async fn the_better_key_is_kept() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let version = create(&alice).await;
    let ranked =
        [key(false, 11, 0), key(false, 10, 6), key(false, 10, 5), key(true, 11, 6), key(true, 10, 6), key(true, 10, 5)];
    for (n, better) in ranked.iter().enumerate() {
        put(&alice, &version, "/!r:x/s", better.clone()).await.ok();
        for worse in &ranked[..n] {
            let state = put(&alice, &version, "/!r:x/s", worse.clone()).await.ok();
            assert_eq!(state["count"], 1);
        }
        assert_eq!(get(&alice, &version, "/!r:x/s").await.ok(), *better);
    }
}

#[tokio::test]
async fn only_the_current_version_takes_keys() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    assert_eq!(put(&alice, "1", "/!r:x/s", key(true, 0, 0)).await.error(), (404, "M_NOT_FOUND"));
    let old = create(&alice).await;
    put(&alice, &old, "/!r:x/s", key(true, 0, 0)).await.ok();
    let new = create(&alice).await;
    for (path, body) in
        [("/!r:x/s", key(true, 0, 0)), ("/!r:x", json!({ "sessions": {} })), ("", json!({ "rooms": {} }))]
    {
        let answer = put(&alice, &old, path, body).await;
        assert_eq!(answer.error(), (403, "M_WRONG_ROOM_KEYS_VERSION"));
        assert_eq!(answer.body["current_version"], new);
    }
    assert_eq!(get(&alice, &old, "/!r:x/s").await.ok(), key(true, 0, 0), "old versions can be read");
    for version in ["01", "+1", "-1", "x", "99999999999999999999999"] {
        assert_eq!(get(&alice, version, "").await.error(), (404, "M_NOT_FOUND"), "{version}");
    }
}

#[tokio::test]
async fn malformed_keys_are_refused_and_nothing_of_their_request_is_stored() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let version = create(&alice).await;
    let mut large = key(true, 0, 0);
    large["session_data"]["ciphertext"] = json!("x".repeat(70_000));
    for (wrong, status, errcode) in [
        (json!({}), 400, "M_BAD_JSON"),
        (json!(1), 400, "M_BAD_JSON"),
        (
            json!({ "first_message_index": 0, "forwarded_count": 0, "is_verified": true, "session_data": 1 }),
            400,
            "M_BAD_JSON",
        ),
        (large, 413, "M_TOO_LARGE"),
    ] {
        let sessions = json!({ "sessions": { "good": key(true, 0, 0), "wrong": wrong } });
        let answer = put(&alice, &version, "/!r:x", sessions).await;
        assert_eq!(answer.error(), (status, errcode));
    }
    let long = format!("/!r:x/{}", "s".repeat(300));
    assert_eq!(put(&alice, &version, &long, key(true, 0, 0)).await.error(), (400, "M_INVALID_PARAM"));
    assert_eq!(alice.get("/v3/room_keys/keys").await.error(), (400, "M_MISSING_PARAM"));
    assert_eq!(get(&alice, &version, "").await.ok(), json!({ "rooms": {} }));
}

#[tokio::test]
async fn a_large_backup_comes_back_whole() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let version = create(&alice).await;
    let mut large = key(true, 0, 0);
    large["session_data"]["ciphertext"] = json!("x".repeat(1_000));
    let rooms: serde_json::Map<_, _> = (0..30)
        .map(|room| {
            let sessions: serde_json::Map<_, _> = (0..50).map(|n| (format!("s{n}"), large.clone())).collect();
            (format!("!room{room}:x"), json!({ "sessions": sessions }))
        })
        .collect();
    let rooms = json!({ "rooms": rooms });
    assert_eq!(put(&alice, &version, "", rooms.clone()).await.ok()["count"], 1_500);
    assert_eq!(get(&alice, &version, "").await.ok(), rooms);
    assert_eq!(get(&alice, &version, "/!room7:x").await.ok(), rooms["rooms"]["!room7:x"]);
    assert_eq!(delete(&alice, &version, "").await.ok()["count"], 0);
}

#[tokio::test]
async fn there_is_a_limit_to_backups() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    for _ in 0..32 {
        create(&alice).await;
    }
    assert_eq!(alice.post("/v3/room_keys/version", description()).await.error(), (403, "M_FORBIDDEN"));
    alice.delete("/v3/room_keys/version/1").await.ok();
    create(&alice).await;
}
