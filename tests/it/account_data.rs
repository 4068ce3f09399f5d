//! Account data and tags.

use std::time::Duration;

use futures_util::FutureExt;
use serde_json::{Value, json};

use crate::support::{TestServer, User, room::path};

fn global(user: &User, event_type: &str) -> String {
    format!("/v3/user/{}/account_data/{event_type}", user.id)
}

fn of_room(user: &User, room: &str, event_type: &str) -> String {
    format!("/v3/user/{}/rooms/{room}/account_data/{event_type}", user.id)
}

fn tag(user: &User, room: &str, name: &str) -> String {
    format!("/v3/user/{}/rooms/{room}/tags/{}", user.id, path(name))
}

#[tokio::test]
async fn account_data_is_kept_and_told_to_the_clients_of_its_user() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let room = alice.create_room(json!({})).await;
    let token = alice.now().await;
    assert_eq!(alice.get(&global(&alice, "org.x")).await.error(), (404, "M_NOT_FOUND"));
    alice.put(&global(&alice, "org.x"), json!({ "a": 1.5 })).await.ok();
    alice.put(&global(&alice, "org.x"), json!({ "a": [2] })).await.ok();
    alice.put(&of_room(&alice, &room, "org.x"), json!({ "b": 1 })).await.ok();
    assert_eq!(alice.get(&global(&alice, "org.x")).await.ok(), json!({ "a": [2] }));
    assert_eq!(alice.get(&of_room(&alice, &room, "org.x")).await.ok(), json!({ "b": 1 }));
    let news = alice.sync(&token).await;
    assert_eq!(news["account_data"]["events"], json!([{ "type": "org.x", "content": { "a": [2] } }]));
    let of_room = &news["rooms"]["join"][&room]["account_data"]["events"];
    assert_eq!(of_room, &json!([{ "type": "org.x", "content": { "b": 1 } }]));
}

#[tokio::test]
async fn who_waits_hears_of_account_data_even_if_the_client_hangs_up() {
    let server = TestServer::new().await;
    let (alice, phone) = (server.user("alice").await, server.log_in("alice").await);
    let room = alice.create_room(json!({})).await;
    for path in [global(&alice, "org.x"), of_room(&alice, &room, "org.x"), tag(&alice, &room, "u.x")] {
        let (who, query) = (phone.clone(), format!("since={}&timeout=600000", phone.now().await));
        let waiting = tokio::spawn(async move { who.sync_with(&query).await });
        server.until_waiting(1).await;
        let set = alice.put(&path, json!({ "order": 0.5 })).now_or_never();
        assert!(set.is_none(), "{path}: the client hangs up before it is answered");
        let news = tokio::time::timeout(Duration::from_secs(20), waiting).await.expect("who waits is woken").unwrap();
        assert!(news.to_string().contains(r#"{"order":0.5}"#), "{path}: {news}");
    }
}

/// What clients keep with the server and share by it, which it gives back as it came: that a room is marked as unread
/// (MSC2867), packs of images (MSC2545), whether keys are backed up (MSC4287).
#[tokio::test]
async fn account_data_of_clients_comes_back_whole() {
    let server = TestServer::new().await;
    let (alice, phone) = (server.user("alice").await, server.log_in("alice").await);
    let room = alice.create_room(json!({})).await;
    let image = json!({ "url": "mxc://example.org/abc", "info": { "w": 1, "h": 1 }, "usage": ["sticker"] });
    let pack = json!({ "images": { "cat": image }, "pack": { "display_name": "Cats" } });
    for (path, content) in [
        (of_room(&alice, &room, "m.marked_unread"), json!({ "unread": true })),
        (global(&alice, "m.image_pack.rooms"), json!({ "rooms": { &room: { "cats": {} } } })),
        (global(&alice, "m.key_backup"), json!({ "enabled": false })),
    ] {
        let (token, event_type) = (phone.now().await, path.rsplit('/').next().unwrap());
        alice.put(&path, content.clone()).await.ok();
        assert_eq!(phone.get(&path).await.ok(), content);
        let news = phone.sync(&token).await;
        let told = if path.contains("/rooms/") { &news["rooms"]["join"][&room] } else { &news };
        let expected = json!([{ "type": event_type, "content": content }]);
        assert_eq!(told["account_data"]["events"], expected);
    }
    alice.set(&room, "m.room.image_pack", "cats", pack.clone()).await;
    assert_eq!(phone.state(&room, "m.room.image_pack", "cats").await.ok(), pack);
}

#[tokio::test]
async fn account_data_is_its_users_alone() {
    let server = TestServer::new().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let room = alice.create_room(json!({})).await;
    alice.put(&global(&alice, "org.x"), json!({})).await.ok();
    for path in [global(&alice, "org.x"), of_room(&alice, &room, "org.x"), tag(&alice, &room, "u.x")] {
        assert_eq!(bob.put(&path, json!({})).await.error(), (403, "M_FORBIDDEN"), "{path}");
    }
    for path in [global(&alice, "org.x"), of_room(&alice, &room, "org.x")] {
        assert_eq!(bob.get(&path).await.error(), (403, "M_FORBIDDEN"), "{path}");
    }
    // Whether a room exists can't be told from the answers.
    let unknown = bob.put(&of_room(&bob, "!nothing:example.org", "org.x"), json!({})).await;
    let strange = bob.put(&of_room(&bob, &room, "org.x"), json!({})).await;
    assert_eq!(unknown.error(), (404, "M_NOT_FOUND"));
    assert_eq!(strange.body, unknown.body);
}

#[tokio::test]
async fn account_data_is_an_object_that_the_server_does_not_keep_for_itself() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let room = alice.create_room(json!({})).await;
    for body in [json!([]), json!("x"), json!(null), json!(1)] {
        assert_eq!(alice.put(&global(&alice, "org.x"), body.clone()).await.error(), (400, "M_BAD_JSON"));
        assert_eq!(alice.put(&of_room(&alice, &room, "org.x"), body).await.error(), (400, "M_BAD_JSON"));
    }
    // A client could read none of its answers if this were in them.
    for body in [format!("{{\"a\":{}{}}}", "[".repeat(100), "]".repeat(100)), r#"{"a":"\ud800"}"#.to_owned()] {
        let path = global(&alice, "org.x");
        let answer = server.request_bytes(http::Method::PUT, &path, Some(&alice.token), body).await;
        assert_eq!(answer.error(), (400, "M_BAD_JSON"));
    }
    for event_type in ["m.fully_read", "m.push_rules"] {
        assert_eq!(alice.put(&global(&alice, event_type), json!({})).await.error(), (405, "M_BAD_JSON"));
        assert_eq!(alice.put(&of_room(&alice, &room, event_type), json!({})).await.error(), (405, "M_BAD_JSON"));
    }
    assert!(alice.get(&global(&alice, "m.push_rules")).await.ok()["global"]["override"].is_array());
    assert_eq!(alice.get(&of_room(&alice, &room, "m.fully_read")).await.error(), (404, "M_NOT_FOUND"));
    assert_eq!(alice.put(&of_room(&alice, "room", "org.x"), json!({})).await.error(), (400, "M_INVALID_PARAM"));
}

/// An empty object deletes, an empty body is a mistake.
#[tokio::test]
async fn nothing_is_no_account_data() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let room = alice.create_room(json!({})).await;
    for path in [global(&alice, "org.x"), of_room(&alice, &room, "org.x")] {
        alice.put(&path, json!({ "kept": true })).await.ok();
        assert_eq!(alice.request(http::Method::PUT, &path, None).await.error(), (400, "M_NOT_JSON"));
        assert_eq!(alice.get(&path).await.ok(), json!({ "kept": true }));
    }
}

/// Nobody may fill the disk with it, by size, number or names.
#[tokio::test]
async fn account_data_has_limits() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let room = alice.create_room(json!({})).await;
    let large = json!({ "x": "x".repeat(200 << 10) });
    alice.put(&of_room(&alice, &room, "org.x"), large.clone()).await.ok();
    alice.put(&of_room(&alice, &room, "org.x"), large.clone()).await.ok();
    assert_eq!(alice.put(&of_room(&alice, &room, "org.y"), large.clone()).await.error(), (413, "M_TOO_LARGE"));
    alice.put(&global(&alice, "org.y"), large).await.ok();
    let long = "x".repeat(256);
    assert_eq!(alice.put(&global(&alice, &long), json!({})).await.error(), (400, "M_INVALID_PARAM"));
    for n in 1..100 {
        alice.put(&of_room(&alice, &room, &format!("org.{n}")), json!({ "a": 1 })).await.ok();
    }
    assert_eq!(alice.put(&of_room(&alice, &room, "org.100"), json!({ "a": 1 })).await.error(), (413, "M_TOO_LARGE"));
    alice.put(&of_room(&alice, &room, "org.99"), json!({ "still": "changes" })).await.ok();
}

#[tokio::test]
async fn tags_are_account_data_of_their_room() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let room = alice.create_room(json!({})).await;
    let tags = format!("/v3/user/{}/rooms/{room}/tags", alice.id);
    assert_eq!(alice.get(&tags).await.ok(), json!({ "tags": {} }));
    let token = alice.now().await;
    alice.put(&tag(&alice, &room, "m.favourite"), json!({ "order": 0.25, "org.x": 1 })).await.ok();
    alice.put(&tag(&alice, &room, "u.Work / 2"), json!({})).await.ok();
    let expected = json!({ "tags": { "m.favourite": { "order": 0.25, "org.x": 1 }, "u.Work / 2": {} } });
    assert_eq!(alice.get(&tags).await.ok(), expected);
    let events = &alice.sync(&token).await["rooms"]["join"][&room]["account_data"]["events"];
    assert_eq!(events, &json!([{ "type": "m.tag", "content": expected }]));
    alice.delete(&tag(&alice, &room, "m.favourite")).await.ok();
    alice.delete(&tag(&alice, &room, "m.favourite")).await.ok();
    assert_eq!(alice.get(&tags).await.ok(), json!({ "tags": { "u.Work / 2": {} } }));
}

#[tokio::test]
async fn what_is_no_tag_is_refused() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let room = alice.create_room(json!({})).await;
    let put = async |name: &str, info: Value| alice.put(&tag(&alice, &room, name), info).await;
    assert_eq!(put("u.x", json!({ "order": 1.5 })).await.error(), (400, "M_INVALID_PARAM"));
    assert_eq!(put("u.x", json!({ "order": "first" })).await.error(), (400, "M_BAD_JSON"));
    assert_eq!(put("u.x", json!([])).await.error(), (400, "M_BAD_JSON"));
    assert_eq!(put(&"é".repeat(128), json!({})).await.error(), (400, "M_INVALID_PARAM"));
    put(&"é".repeat(127), json!({})).await.ok();
    // A client that wrote nonsense as account data can start anew.
    alice.put(&of_room(&alice, &room, "m.tag"), json!({ "tags": 7 })).await.ok();
    put("u.x", json!({})).await.ok();
    let tags = format!("/v3/user/{}/rooms/{room}/tags", alice.id);
    assert_eq!(alice.get(&tags).await.ok(), json!({ "tags": { "u.x": {} } }));
}

#[tokio::test]
async fn what_is_deleted_is_told_once_and_is_gone() {
    let server = TestServer::new().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let room = alice.create_room(json!({})).await;
    let unstable = |path: &str| path.replace("/v3/", "/_matrix/client/unstable/org.matrix.msc3391/");
    for path in [global(&alice, "org.x"), of_room(&alice, &room, "org.x")] {
        for by_put in [true, false] {
            alice.put(&path, json!({ "a": 1 })).await.ok();
            let token = alice.now().await;
            assert_eq!(bob.delete(&unstable(&path)).await.error(), (403, "M_FORBIDDEN"));
            match by_put {
                true => alice.put(&path, json!({})).await.ok(),
                false => alice.delete(&unstable(&path)).await.ok(),
            };
            assert_eq!(alice.get(&path).await.error(), (404, "M_NOT_FOUND"), "{path}");
            let deleted = json!([{ "type": "org.x", "content": {} }]);
            let told = alice.sync(&token).await;
            let of_room = &told["rooms"]["join"][&room]["account_data"]["events"];
            assert!(told["account_data"]["events"] == deleted || *of_room == deleted, "{told}");
            // Deleting it again is no news.
            let token = alice.now().await;
            alice.delete(&unstable(&path)).await.ok();
            assert_eq!(alice.sync(&token).await.get("account_data"), None);
            assert!(!alice.sync_with("").await.to_string().contains("org.x"));
            let first_look = alice.get(&format!("/v3/rooms/{room}/initialSync")).await.ok();
            assert!(!first_look.to_string().contains("org.x"));
        }
    }
    let rules = unstable(&global(&alice, "m.push_rules"));
    assert_eq!(alice.delete(&rules).await.error(), (405, "M_BAD_JSON"));
    let nowhere = unstable(&of_room(&alice, "!nothing:example.org", "org.x"));
    assert_eq!(alice.delete(&nowhere).await.error(), (404, "M_NOT_FOUND"));
    let strange = unstable(&global(&alice, "org.x")).replace(&alice.id, "nobody");
    assert_eq!(alice.delete(&strange).await.error(), (400, "M_INVALID_PARAM"));
}

/// A client that sets something waits until `/sync` tells it: Element Web ends secret storage that was never there.
#[tokio::test]
async fn nothing_that_is_set_is_told_even_if_nothing_was_there() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let room = alice.create_room(json!({})).await;
    for path in [global(&alice, "m.cross_signing.master"), of_room(&alice, &room, "org.x")] {
        let event_type = path.rsplit('/').next().unwrap();
        for _ in 0..2 {
            let token = alice.now().await;
            alice.put(&path, json!({})).await.ok();
            assert_eq!(alice.get(&path).await.error(), (404, "M_NOT_FOUND"), "{path}");
            let news = alice.sync(&token).await;
            let told = if path.contains("/rooms/") { &news["rooms"]["join"][&room] } else { &news };
            assert_eq!(told["account_data"]["events"], json!([{ "type": event_type, "content": {} }]));
        }
    }
}

#[tokio::test]
async fn deleted_account_data_makes_room_and_is_forgotten_in_the_end() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let token = alice.now().await;
    for n in 0..1_100 {
        alice.put(&global(&alice, &format!("org.x{n}")), json!({ "a": 1 })).await.ok();
        alice.put(&global(&alice, &format!("org.x{n}")), json!({})).await.ok();
    }
    let told = alice.sync(&token).await;
    let told = told["account_data"]["events"].as_array().unwrap();
    assert!(told.len() <= 101 && told.last().unwrap()["type"] == "org.x1099", "{}", told.len());
}

#[tokio::test]
async fn what_is_said_of_a_device_goes_with_it() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let other = server.log_in("alice").await;
    for name in ["m.local_notification_settings", "org.matrix.msc3890.local_notification_settings"] {
        for device in [&alice.device_id, &other.device_id] {
            alice.put(&global(&alice, &format!("{name}.{device}")), json!({ "is_silenced": true })).await.ok();
        }
    }
    let token = alice.now().await;
    other.post("/v3/logout", json!({})).await.ok();
    for name in ["m.local_notification_settings", "org.matrix.msc3890.local_notification_settings"] {
        let gone = format!("{name}.{}", other.device_id);
        assert_eq!(alice.get(&global(&alice, &gone)).await.error(), (404, "M_NOT_FOUND"));
        let told = alice.sync(&token).await;
        assert!(told["account_data"]["events"].as_array().unwrap().contains(&json!({ "type": gone, "content": {} })));
        alice.get(&global(&alice, &format!("{name}.{}", alice.device_id))).await.ok();
    }
}
