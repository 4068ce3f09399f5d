//! A server gets a new signing key, and others follow.

use std::time::Duration;

use chappe::{
    federation::{keys::own, queue},
    random::Random,
    store::{Options, Store},
    tables,
};
use serde_json::json;

use crate::support::{START_MS, TestNetwork, TestServer};

/// Stops a server, gives it a new key at that time, and starts it again.
async fn rotate(network: &TestNetwork, server: TestServer, at_ms: u64) -> (TestServer, own::Rotated) {
    let name = server.inside().name().to_string();
    let directory = server.stop(network).await;
    let mut options = Options::for_tests(&directory.path().join("data"));
    options.server_name.clone_from(&name);
    options.migrations = tables::MIGRATIONS;
    let rotate = move || own::rotate(&Store::open(&options).unwrap(), &Random::from_seed(7), at_ms);
    let rotated = tokio::task::spawn_blocking(rotate).await;
    let server = TestServer::of_directory(network.clone(), &name, directory, |_| {}).await;
    network.add(&name, server.router());
    queue::start(server.inside());
    (server, rotated.unwrap().unwrap())
}

#[tokio::test]
async fn another_server_follows_a_rotation_and_believes_what_the_old_key_signed_before() {
    let network = TestNetwork::new();
    let (a, b) = (network.server("a.test").await, network.server("b.test").await);
    let alice = a.user("alice").await;
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    alice.say(&room, "signed with the first key").await;
    drop(alice);
    let (a, rotated) = rotate(&network, a, START_MS + 1_000).await;
    assert_ne!(rotated.old, rotated.new);

    let published = a.get("/_matrix/key/v2/server").await.ok();
    assert_eq!(published["verify_keys"].as_object().unwrap().keys().collect::<Vec<_>>(), [&rotated.new]);
    assert_eq!(published["old_verify_keys"][&rotated.old]["expired_ts"], START_MS + 1_000);
    assert!(published["signatures"]["a.test"][&rotated.new].is_string());
    let valid_until = published["valid_until_ts"].as_u64().unwrap();
    assert!((START_MS + 60_000..=START_MS + 7 * 24 * 3_600_000).contains(&valid_until));

    a.advance(Duration::from_secs(2));
    let alice = a.log_in("alice").await;
    let bob = b.user("bob").await;
    bob.post(&format!("/v3/join/{room}?via=a.test"), json!({})).await.ok();
    let said = alice.say(&room, "signed with the second key").await;
    for _ in 0..500 {
        if bob.event(&room, &said).await.status == 200 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    bob.event(&room, &said).await.ok();
    let history = bob.get(&format!("/v3/rooms/{room}/messages?dir=b&limit=50")).await.ok();
    assert!(history.to_string().contains("signed with the first key"), "{history}");
}

#[tokio::test]
async fn after_two_rotations_the_server_itself_still_knows_its_first_events() {
    let network = TestNetwork::new();
    let a = network.server("a.test").await;
    let alice = a.user("alice").await;
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    drop(alice);
    let (a, first) = rotate(&network, a, START_MS + 1_000).await;
    let (a, second) = rotate(&network, a, START_MS + 2_000).await;
    let published = a.get("/_matrix/key/v2/server").await.ok();
    let old = published["old_verify_keys"].as_object().unwrap();
    assert_eq!(old.len(), 2);
    assert!(old.contains_key(&first.old) && old.contains_key(&second.old));
    // What another server sends back of our own events is verified with our old keys.
    let b = network.server("b.test").await;
    let bob = b.user("bob").await;
    bob.post(&format!("/v3/join/{room}?via=a.test"), json!({})).await.ok();
    let alice = a.log_in("alice").await;
    alice.post(&format!("/v3/rooms/{room}/leave"), json!({})).await.ok();
    for _ in 0..500 {
        let members = bob.get(&format!("/v3/rooms/{room}/joined_members")).await.ok();
        if members["joined"].as_object().unwrap().len() == 1 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    alice.post(&format!("/v3/join/{room}?via=b.test"), json!({})).await.ok();
    let state = alice.get(&format!("/v3/rooms/{room}/state/m.room.create?format=event")).await.ok();
    assert_eq!(state["sender"], "@alice:a.test");
}
