//! Rooms in which state belongs to the user whose id its key begins with: MSC3757.

use std::time::Duration;

use chappe::federation::queue;
use serde_json::{Value, json};

use crate::support::{TestNetwork, TestServer, User, room::event_id};

const TYPE: &str = "com.example.test";

async fn room_of(creator: &User, others: &[&User], version: &str) -> String {
    let levels = json!({ "events": { TYPE: 0 } });
    let room = json!({ "preset": "public_chat", "room_version": version, "power_level_content_override": levels });
    let room = creator.create_room(room).await;
    for user in others {
        user.join(&room).await;
    }
    room
}

#[tokio::test]
async fn who_may_change_state_that_is_somebodys() {
    let server = TestServer::new().await;
    let (alice, bob, carol) = (server.user("alice").await, server.user("bob").await, server.user("carol").await);
    let capabilities = alice.get("/v3/capabilities").await.ok();
    for version in ["org.matrix.msc3757.10", "org.matrix.msc3757.11"] {
        assert_eq!(capabilities["capabilities"]["m.room_versions"]["available"][version], "unstable");
        let room = room_of(&alice, &[&bob, &carol], version).await;
        let set = async |user: &User, key: &str, value: Value| user.set_state(&room, TYPE, key, value).await;
        let phone = format!("{}_phone:!@#$1", bob.id);
        set(&bob, &phone, json!({ "n": 1 })).await.ok();
        set(&alice, &phone, json!({ "n": 2 })).await.ok();
        set(&alice, &bob.id, json!({})).await.ok();
        set(&alice, "@nobody:elsewhere_x", json!({})).await.ok();
        for key in [
            &alice.id,
            &carol.id,
            &format!("{}_phone", carol.id),
            &format!("{}.evil_x", bob.id),
            &format!("@x_{phone}"),
        ] {
            assert_eq!(set(&bob, key, json!({})).await.error(), (403, "M_FORBIDDEN"), "{key}");
        }
        for malformed in ["@oops".to_owned(), format!("{}@_x", alice.id)] {
            assert_eq!(set(&alice, &malformed, json!({})).await.error(), (400, "M_BAD_JSON"), "{malformed}");
        }
        assert_eq!(alice.state(&room, TYPE, &phone).await.ok(), json!({ "n": 2 }));
    }
}

#[tokio::test]
async fn in_other_rooms_a_key_that_begins_with_an_id_is_nobodys_to_set() {
    let server = TestServer::new().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let room = room_of(&alice, &[&bob], "10").await;
    bob.set_state(&room, TYPE, &bob.id, json!({})).await.ok();
    for (user, key) in [(&alice, format!("{}_x", alice.id)), (&alice, bob.id.clone()), (&alice, "@oops".to_owned())] {
        assert_eq!(user.set_state(&room, TYPE, &key, json!({})).await.error(), (403, "M_FORBIDDEN"), "{key}");
    }
}

#[tokio::test]
async fn servers_agree_about_such_a_room() {
    let network = TestNetwork::new();
    let (a, b) = (network.server("a.test").await, network.server("b.test").await);
    [&a, &b].into_iter().for_each(|server| queue::start(server.inside()));
    let (alice, bob) = (a.user("alice").await, b.user("bob").await);
    let room = room_of(&alice, &[], "org.matrix.msc3757.11").await;
    bob.post(&format!("/v3/join/{room}?via=a.test"), json!({})).await.ok();
    let phone = format!("{}_phone", bob.id);
    let set = event_id(bob.set_state(&room, TYPE, &phone, json!({ "n": 1 })).await);
    // alice's server takes the event, and what she makes of it is bob's server's to take.
    until_seen(&alice, &room, &set).await;
    let changed = event_id(alice.set_state(&room, TYPE, &phone, json!({ "n": 2 })).await);
    until_seen(&bob, &room, &changed).await;
    assert_eq!(bob.state(&room, TYPE, &phone).await.ok(), json!({ "n": 2 }));
}

/// Waits until `user` sees the event.
async fn until_seen(user: &User, room: &str, event_id: &str) {
    for _ in 0..1_000 {
        if user.event(room, event_id).await.status == 200 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{} never saw {event_id}", user.id);
}
