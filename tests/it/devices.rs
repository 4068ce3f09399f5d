use std::{net::SocketAddr, time::Duration};

use chappe::http::peer::Peer;
use serde_json::{Value, json};

use vodozemac::{Curve25519PublicKey, Curve25519SecretKey, Ed25519Keypair};

use crate::support::{TestServer, User, auth_of, query};

async fn device_ids(user: &User) -> Vec<String> {
    let answer = user.get("/v3/devices").await.ok();
    let devices = answer["devices"].as_array().unwrap().iter();
    devices.map(|device| device["device_id"].as_str().unwrap().to_owned()).collect()
}

async fn log_in_as(server: &TestServer, device_id: &str, display_name: &str) -> User {
    let mut body = auth_of("alice");
    body["device_id"] = json!(device_id);
    body["initial_device_display_name"] = json!(display_name);
    User::new(server.clone(), &server.post("/v3/login", body).await.ok())
}

#[tokio::test]
async fn a_user_sees_and_names_his_devices() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    server.user("bob").await;
    log_in_as(&server, "PHONE", "My phone").await;
    let mut expected = vec![alice.device_id.clone(), "PHONE".to_owned()];
    expected.sort();
    assert_eq!(device_ids(&alice).await, expected);
    let phone = alice.get("/v3/devices/PHONE").await.ok();
    assert_eq!((&phone["device_id"], &phone["display_name"]), (&json!("PHONE"), &json!("My phone")));
    alice.put("/v3/devices/PHONE", json!({"display_name": "Old phone"})).await.ok();
    alice.put("/v3/devices/PHONE", json!({})).await.ok();
    assert_eq!(alice.get("/v3/devices/PHONE").await.ok()["display_name"], "Old phone");
}

#[tokio::test]
async fn other_peoples_devices_are_unknown() {
    let server = TestServer::new().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let path = format!("/v3/devices/{}", alice.device_id);
    assert_eq!(bob.get(&path).await.error(), (404, "M_NOT_FOUND"));
    assert_eq!(bob.put(&path, json!({"display_name": "mine"})).await.error(), (404, "M_NOT_FOUND"));
    assert_eq!(bob.put("/v3/devices/NONE", json!({})).await.error(), (404, "M_NOT_FOUND"));
    let body = json!({"devices": [alice.device_id], "auth": auth_of("bob")});
    bob.post("/v3/delete_devices", body).await.ok();
    alice.get("/v3/account/whoami").await.ok();
}

#[tokio::test]
async fn names_and_ids_have_a_limit() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let path = format!("/v3/devices/{}", alice.device_id);
    alice.put(&path, json!({"display_name": "x".repeat(255)})).await.ok();
    let long = alice.put(&path, json!({"display_name": "x".repeat(256)})).await;
    assert_eq!(long.error(), (400, "M_INVALID_PARAM"));
    for device_id in [String::new(), "x".repeat(256)] {
        let mut body = auth_of("alice");
        body["device_id"] = json!(device_id);
        assert_eq!(server.post("/v3/login", body).await.error(), (400, "M_INVALID_PARAM"));
    }
}

#[tokio::test]
async fn a_new_log_in_on_a_known_device_keeps_its_name_and_ends_its_old_token() {
    let server = TestServer::new().await;
    server.user("alice").await;
    let before = log_in_as(&server, "PHONE", "My phone").await;
    let after = log_in_as(&server, "PHONE", "Something else").await;
    assert_eq!(before.get("/v3/account/whoami").await.error(), (401, "M_UNKNOWN_TOKEN"));
    assert_eq!(after.get("/v3/devices/PHONE").await.ok()["display_name"], "My phone");
    assert_eq!(device_ids(&after).await.len(), 2);
}

#[tokio::test]
async fn many_devices_are_deleted_at_once() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let mut gone = Vec::new();
    for device_id in ["A", "B", "C"] {
        gone.push(log_in_as(&server, device_id, "x").await);
    }
    let body = json!({"devices": ["A", "B", "B", "unknown"], "auth": auth_of("alice")});
    alice.post("/v3/delete_devices", body).await.ok();
    assert_eq!(gone[0].get("/v3/account/whoami").await.error(), (401, "M_UNKNOWN_TOKEN"));
    assert_eq!(gone[1].get("/v3/account/whoami").await.error(), (401, "M_UNKNOWN_TOKEN"));
    gone[2].get("/v3/account/whoami").await.ok();
    assert_eq!(alice.get("/v3/devices/A").await.error(), (404, "M_NOT_FOUND"));
    assert_eq!(device_ids(&alice).await.len(), 2);
}

#[tokio::test]
async fn a_devices_last_use_is_known_to_the_minute() {
    let server = TestServer::with(|config| config.trusted_proxies = vec!["10.0.0.1".parse().unwrap()]).await;
    let alice = server.user("alice").await;
    let seen = async |forwarded_for: &str| -> Value {
        let peer: SocketAddr = "10.0.0.1:4711".parse().unwrap();
        let request = http::Request::get(format!("/_matrix/client/v3/devices/{}", alice.device_id))
            .header("authorization", format!("Bearer {}", alice.token))
            .header("x-forwarded-for", forwarded_for)
            .extension(Peer::Tcp(peer));
        server.send(request.body(axum::body::Body::empty()).unwrap()).await.ok()
    };
    let first = seen("192.0.2.1").await;
    assert_eq!(first["last_seen_ip"], "192.0.2.1");
    server.advance(Duration::from_secs(59));
    let soon = seen("192.0.2.2").await;
    assert_eq!((&soon["last_seen_ip"], &soon["last_seen_ts"]), (&first["last_seen_ip"], &first["last_seen_ts"]));
    server.advance(Duration::from_secs(1));
    let later = seen("192.0.2.2").await;
    assert_eq!(later["last_seen_ip"], "192.0.2.2");
    assert_eq!(later["last_seen_ts"].as_u64().unwrap() - first["last_seen_ts"].as_u64().unwrap(), 60_000);
}

/// Uploads the identity keys of a device.
pub async fn upload_keys(user: &User) {
    let keypair = Ed25519Keypair::new();
    let ids = ["ed25519", "curve25519"].map(|algorithm| format!("{algorithm}:{}", user.device_id));
    let mut keys = json!({
        "user_id": user.id,
        "device_id": user.device_id,
        "algorithms": ["m.olm.v1.curve25519-aes-sha2"],
        "keys": {&ids[0]: keypair.public_key().to_base64(), &ids[1]: Curve25519PublicKey::from(&Curve25519SecretKey::new()).to_base64()},
    });
    let canonical: ruma::CanonicalJsonObject = serde_json::from_value(keys.clone()).unwrap();
    let signature = keypair.sign(serde_json::to_string(&canonical).unwrap().as_bytes()).to_base64();
    keys["signatures"] = json!({&user.id: {&ids[0]: signature}});
    user.post("/v3/keys/upload", json!({"device_keys": keys})).await.ok();
}

/// Who changed keys since `since`, for this user.
async fn changed_since(user: &User, since: &Value) -> Value {
    let path = format!("/v3/sync{}", query(&[("since", since.as_str().unwrap())]));
    user.get(&path).await.ok()["device_lists"]["changed"].clone()
}

#[tokio::test]
async fn room_mates_hear_of_devices_that_are_renamed_or_gone() {
    let server = TestServer::new().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let room = alice.create_room(json!({"preset": "public_chat"})).await;
    bob.join(&room).await;
    let phone = log_in_as(&server, "PHONE", "My phone").await;
    upload_keys(&phone).await;
    let now = async || bob.get("/v3/sync").await.ok()["next_batch"].clone();
    let since = now().await;
    assert_eq!(changed_since(&bob, &since).await, Value::Null);
    alice.put("/v3/devices/PHONE", json!({"display_name": "Old phone"})).await.ok();
    assert_eq!(changed_since(&bob, &since).await, json!([alice.id]));
    let since = now().await;
    phone.post("/v3/logout", json!({})).await.ok();
    assert_eq!(changed_since(&bob, &since).await, json!([alice.id]));
    let keys = bob.post("/v3/keys/query", json!({"device_keys": {&alice.id: []}})).await.ok();
    assert_eq!(keys["device_keys"][&alice.id].get("PHONE"), None);
}
