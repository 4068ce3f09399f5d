//! Messages, state and redactions.

use serde_json::{Value, json};

use super::support::{
    TestServer, User,
    room::{event_id, path},
};

const FORBIDDEN: (u16, &str) = (403, "M_FORBIDDEN");
const BAD_JSON: (u16, &str) = (400, "M_BAD_JSON");

/// Two users in a room, and one who is not.
async fn room() -> (User, User, User, String) {
    let server = TestServer::new().await;
    let (alice, bob, carol) = (server.user("alice").await, server.user("bob").await, server.user("carol").await);
    let room = alice.create_room(json!({ "invite": [bob.id] })).await;
    bob.try_join(&room).await.ok();
    (alice, bob, carol, room)
}

#[tokio::test]
async fn what_is_sent_is_there_as_it_was_sent() {
    let (alice, bob, carol, room) = room().await;
    let content = json!({ "algorithm": "m.megolm.v1.aes-sha2", "ciphertext": "…", "x": { "y": [1, null, true, -5] } });
    let sent = event_id(alice.send(&room, "m.room.encrypted", content.clone()).await);
    let event = bob.event(&room, &sent).await.ok();
    assert_eq!((&event["content"], &event["type"]), (&content, &json!("m.room.encrypted")));
    assert_eq!((&event["sender"], &event["room_id"]), (&json!(alice.id), &json!(room)));
    assert_eq!(carol.try_say(&room, "let me in").await.error(), FORBIDDEN);
    assert_eq!(carol.try_say("!no:example.org", "hello?").await.error(), FORBIDDEN, "as for a room that there is");
}

#[tokio::test]
async fn a_type_stays_as_it_is_where_ruma_takes_it_for_another() {
    const TYPE: &str = "org.matrix.call.sdp_stream_metadata_changed";
    let (alice, bob, _, room) = room().await;
    let sent = event_id(alice.put(&format!("/v3/rooms/{room}/send/{TYPE}/1"), json!({})).await);
    assert_eq!(bob.event(&room, &sent).await.ok()["type"], TYPE);
    alice.set_state(&room, TYPE, "", json!({ "x": 1 })).await.ok();
    assert_eq!(bob.state(&room, TYPE, "").await.ok(), json!({ "x": 1 }));
    assert_eq!(bob.state(&room, "m.call.sdp_stream_metadata_changed", "").await.error(), (404, "M_NOT_FOUND"));
    let content = json!({ "m.relates_to": { "rel_type": "x", "event_id": sent } });
    let related = event_id(alice.put(&format!("/v3/rooms/{room}/send/{TYPE}/2"), content).await);
    let found = bob.get(&format!("/v1/rooms/{room}/relations/{}/x/{TYPE}", path(&sent))).await.ok();
    assert_eq!(found["chunk"][0]["event_id"], related);
}

#[tokio::test]
async fn a_repeated_transaction_of_a_device_is_one_event() {
    let (alice, bob, _, room) = room().await;
    let long = format!("/v3/rooms/{room}/send/m.room.message/{}", "x".repeat(256));
    assert_eq!(alice.put(&long, json!({ "body": "x" })).await.error(), (400, "M_INVALID_PARAM"));
    let send = async |user: &User, kind: &str, body: &str| {
        event_id(user.put(&format!("/v3/rooms/{room}/send/{kind}/1"), json!({ "body": body })).await)
    };
    let first = send(&alice, "m.room.message", "one").await;
    assert_eq!(send(&alice, "m.room.message", "other content").await, first);
    assert_ne!(send(&alice, "x.other", "one").await, first);
    assert_ne!(send(&bob, "m.room.message", "one").await, first);
    let phone = alice.server.log_in("alice").await;
    assert_ne!(send(&phone, "m.room.message", "one").await, first);
    assert_eq!(alice.event(&room, &first).await.ok()["content"], json!({ "body": "one" }));
    assert_eq!(alice.event(&room, &first).await.ok()["unsigned"]["transaction_id"], "1");
    assert_eq!(phone.event(&room, &first).await.ok()["unsigned"].get("transaction_id"), None);
}

#[tokio::test]
async fn one_transaction_sent_many_times_at_once_is_one_event() {
    let (alice, _, _, room) = room().await;
    let mut sends = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let (alice, path) = (alice.clone(), format!("/v3/rooms/{room}/send/m.room.message/same"));
        sends.spawn(async move { event_id(alice.put(&path, json!({ "body": "once" })).await) });
    }
    let ids: std::collections::HashSet<_> = sends.join_all().await.into_iter().collect();
    assert_eq!(ids.len(), 1);
}

#[tokio::test]
async fn content_that_is_no_canonical_json_is_refused() {
    let (alice, _, _, room) = room().await;
    let send = async |body: &str| {
        let path = format!("/v3/rooms/{room}/send/x/{}", body.len());
        alice.server.request_bytes(http::Method::PUT, &path, Some(&alice.token), body.to_owned()).await
    };
    for body in [
        r#"{"n": 9007199254740992}"#,
        r#"{"n": -9007199254740992}"#,
        r#"{"n": 1.1}"#,
        r#"{"n": 1e400}"#,
        r#"[]"#,
        r#""text""#,
        r#"null"#,
        r#"{"same": 1, "same": 2}"#,
    ] {
        assert_eq!(send(body).await.error().0, 400, "{body}");
    }
    let deep = format!("{{\"a\": {}1{}}}", "[".repeat(200), "]".repeat(200));
    assert_eq!(send(&deep).await.error().0, 400);
    for broken in ["", "{", "{\"n\": NaN}", "{\"a\": \"\\ud800\"}"] {
        assert_eq!(send(broken).await.error().0, 400, "{broken}");
    }
}

#[tokio::test]
async fn what_is_too_large_is_refused_and_what_just_fits_is_sent() {
    let (alice, _, _, room) = room().await;
    let too_large = (413, "M_TOO_LARGE");
    assert_eq!(alice.try_say(&room, &"x".repeat(66_000)).await.error(), too_large);
    alice.try_say(&room, &"x".repeat(60_000)).await.ok();
    assert_eq!(alice.send(&room, &"t".repeat(256), json!({})).await.error(), too_large);
    alice.send(&room, &"t".repeat(255), json!({})).await.ok();
    assert_eq!(alice.set_state(&room, "x", &"k".repeat(256), json!({})).await.error(), too_large);
    // 128 letters of two bytes each are more than 255 bytes.
    assert_eq!(alice.set_state(&room, "x", &"ü".repeat(128), json!({})).await.error().0, 413);
    assert_eq!(alice.set_state(&room, "x", "", json!({ "body": "x".repeat(66_000) })).await.error(), too_large);
}

#[tokio::test]
async fn state_that_is_so_already_makes_no_new_event() {
    let (alice, bob, _, room) = room().await;
    let set = async |user: &User, value: u8| user.set_state(&room, "x.state", "", json!({ "v": value })).await;
    let first = event_id(set(&alice, 1).await);
    assert_eq!(event_id(set(&alice, 1).await), first);
    let second = event_id(set(&alice, 2).await);
    assert_ne!(second, first);
    assert_ne!(event_id(set(&alice, 1).await), first, "it was another in between");
    assert_eq!(set(&bob, 1).await.error(), FORBIDDEN, "may not set it, though it is so");
}

#[tokio::test]
async fn an_empty_state_key_may_be_left_out() {
    let (alice, _, _, room) = room().await;
    for (n, path) in ["state/x.a", "state/x.a/"].into_iter().enumerate() {
        for api in ["r0", "v3"] {
            alice.put(&format!("/_matrix/client/{api}/rooms/{room}/{path}"), json!({ "n": n, "api": api })).await.ok();
            assert_eq!(alice.state(&room, "x.a", "").await.ok(), json!({ "n": n, "api": api }));
        }
    }
}

#[tokio::test]
async fn state_keys_of_any_text_are_kept_apart() {
    let (alice, bob, _, room) = room().await;
    for key in ["a/b", "a%b", "ü", " ", "a?b#c"] {
        alice.set_state(&room, "x", key, json!({ "key": key })).await.ok();
    }
    assert_eq!(alice.state(&room, "x", "a/b").await.ok(), json!({ "key": "a/b" }));
    // A key that is a user's belongs to that user.
    let power = json!({ "state_default": 0, "events": {} });
    alice.set_state(&room, "m.room.power_levels", "", power).await.ok();
    bob.set_state(&room, "x", &bob.id, json!({})).await.ok();
    assert_eq!(bob.set_state(&room, "x", &alice.id, json!({})).await.error(), FORBIDDEN);
    assert_eq!(bob.set_state(&room, "x", "@else", json!({})).await.error(), FORBIDDEN);
}

#[tokio::test]
async fn a_room_is_created_once() {
    let (alice, _, _, room) = room().await;
    let again = json!({ "room_version": "11", "creator": alice.id });
    assert_eq!(alice.set_state(&room, "m.room.create", "", again).await.error(), (400, "M_INVALID_PARAM"));
}

#[tokio::test]
async fn power_levels_bind_everybody_but_creators() {
    let (alice, bob, _, room) = room().await;
    assert_eq!(bob.set_state(&room, "m.room.name", "", json!({ "name": "n" })).await.error(), FORBIDDEN);
    let levels = async |content: Value| alice.set_state(&room, "m.room.power_levels", "", content).await;
    assert_eq!(levels(json!({ "users": { alice.id.clone(): 100 } })).await.error(), BAD_JSON, "created the room");
    assert_eq!(levels(json!({ "users": { bob.id.clone(): 9_007_199_254_740_992_i64 } })).await.error(), BAD_JSON);
    assert_eq!(levels(json!({ "users": { bob.id.clone(): "50" } })).await.error().0, 403);
    levels(json!({ "users": { bob.id.clone(): 9_007_199_254_740_991_i64 } })).await.ok();
    bob.set_state(&room, "m.room.name", "", json!({ "name": "n" })).await.ok();
    let kick = json!({ "user_id": alice.id });
    assert_eq!(bob.act(&room, "kick", kick).await.error(), FORBIDDEN, "nobody is above a creator");
    alice.act(&room, "kick", json!({ "user_id": bob.id })).await.ok();
}

#[tokio::test]
async fn nobody_gives_away_more_power_than_he_has() {
    let server = TestServer::new().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let body = json!({ "room_version": "11", "preset": "public_chat",
        "power_level_content_override": { "users": { alice.id.clone(): 100, bob.id.clone(): 50 }, "events": { "m.room.power_levels": 50 } } });
    let room = alice.create_room(body).await;
    bob.try_join(&room).await.ok();
    let mut levels = bob.state(&room, "m.room.power_levels", "").await.ok();
    for (user, level) in [(&bob.id, 51), (&alice.id, 0)] {
        let mut changed = levels.clone();
        changed["users"][user] = json!(level);
        assert_eq!(bob.set_state(&room, "m.room.power_levels", "", changed).await.error(), FORBIDDEN);
    }
    levels["users"]["@carol:example.org"] = json!(50);
    bob.set_state(&room, "m.room.power_levels", "", levels).await.ok();
}

#[tokio::test]
async fn redactions_remove_content_in_every_version_and_by_both_ways() {
    let server = TestServer::new().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    for version in ["1", "3", "10", "11", "12"] {
        let room = alice.create_room(json!({ "room_version": version, "preset": "public_chat" })).await;
        bob.try_join(&room).await.ok();
        let by_path = event_id(bob.try_say(&room, "secret").await);
        let by_send = event_id(bob.try_say(&room, "secret").await);
        bob.redact(&room, &by_path).await.ok();
        alice.send(&room, "m.room.redaction", json!({ "redacts": by_send, "reason": "rude" })).await.ok();
        for id in [by_path, by_send] {
            let event = alice.event(&room, &id).await.ok();
            assert_eq!(event["content"], json!({}), "version {version}");
            let because = &event["unsigned"]["redacted_because"];
            assert_eq!(because["type"], "m.room.redaction", "version {version}: {event}");
        }
    }
}

#[tokio::test]
async fn only_ones_own_events_are_redacted_without_power() {
    let (alice, bob, carol, room) = room().await;
    let of_alice = event_id(alice.try_say(&room, "mine").await);
    assert_eq!(bob.redact(&room, &of_alice).await.error(), FORBIDDEN);
    assert_eq!(bob.send(&room, "m.room.redaction", json!({ "redacts": of_alice })).await.error(), FORBIDDEN);
    assert_eq!(carol.redact(&room, &of_alice).await.error(), FORBIDDEN);
    assert_eq!(bob.send(&room, "m.room.redaction", json!({})).await.error(), BAD_JSON);
    assert_eq!(bob.redact(&room, "$nothing").await.error(), (404, "M_NOT_FOUND"));
    event_id(alice.redact(&room, "$elsewhere").await); // other servers may have it
    assert_eq!(alice.event(&room, &of_alice).await.ok()["content"]["body"], "mine");

    let other_room = alice.create_room(json!({})).await;
    assert_eq!(alice.redact(&other_room, &of_alice).await.error(), (404, "M_NOT_FOUND"), "is of another room");
    let create = alice.history(&room).await[0]["event_id"].as_str().unwrap().to_owned();
    assert_eq!(alice.redact(&room, &create).await.error(), FORBIDDEN);
}

#[tokio::test]
async fn a_repeated_redaction_is_one_event() {
    let (alice, _, _, room) = room().await;
    let target = event_id(alice.try_say(&room, "x").await);
    let path = format!("/v3/rooms/{room}/redact/{}/7", path(&target));
    let first = event_id(alice.put(&path, json!({ "reason": "r" })).await);
    assert_eq!(event_id(alice.put(&path, json!({})).await), first);
    assert_eq!(alice.event(&room, &first).await.ok()["content"]["reason"], "r");
}

#[tokio::test]
async fn a_redacted_name_is_gone_at_once() {
    let (alice, _, _, room) = room().await;
    let name = event_id(alice.set_state(&room, "m.room.name", "", json!({ "name": "secret" })).await);
    alice.state(&room, "m.room.name", "").await.ok();
    alice.redact(&room, &name).await.ok();
    assert_eq!(alice.state(&room, "m.room.name", "").await.ok(), json!({}));
}

#[tokio::test]
async fn nobody_reacts_twice_with_the_same_unless_the_first_is_redacted() {
    let (alice, bob, _, room) = room().await;
    let target = event_id(alice.try_say(&room, "like me").await);
    let reaction =
        |key: &str| json!({ "m.relates_to": { "rel_type": "m.annotation", "event_id": target, "key": key } });
    let first = event_id(bob.send(&room, "m.reaction", reaction("👍")).await);
    assert_eq!(bob.send(&room, "m.reaction", reaction("👍")).await.error(), (400, "M_DUPLICATE_ANNOTATION"));
    bob.send(&room, "m.reaction", reaction("👎")).await.ok();
    bob.send(&room, "x.reaction", reaction("👍")).await.ok();
    alice.send(&room, "m.reaction", reaction("👍")).await.ok();
    bob.redact(&room, &first).await.ok();
    bob.send(&room, "m.reaction", reaction("👍")).await.ok();
}

#[tokio::test]
async fn an_administrator_of_the_server_removes_what_its_users_said() {
    let (alice, bob, _, room) = room().await;
    let server = alice.server.inside();
    chappe::user::account::create(server, "root", "password of root".to_owned(), true).await.unwrap();
    let root = alice.server.log_in("root").await;
    let said = event_id(bob.try_say(&room, "unlawful").await);
    assert_eq!(root.redact(&room, &said).await.error(), FORBIDDEN, "is not in the room");
    alice.try_invite(&room, &root).await.ok();
    root.try_join(&room).await.ok();
    root.redact(&room, &said).await.ok();
    assert_eq!(bob.event(&room, &said).await.ok()["content"], json!({}));
}

#[tokio::test]
async fn the_database_agrees_with_itself_after_all_that_rooms_go_through() {
    let (alice, bob, carol, room) = room().await;
    let said = event_id(alice.try_say(&room, "hello").await);
    let relate =
        |rel_type: &str, key: &str| json!({ "m.relates_to": { "rel_type": rel_type, "event_id": said, "key": key } });
    let like = event_id(bob.send(&room, "m.reaction", relate("m.annotation", "👍")).await);
    bob.send(&room, "m.reaction", relate("m.annotation", "👎")).await.ok();
    bob.send(&room, "m.room.message", relate("m.thread", "")).await.ok();
    bob.redact(&room, &like).await.ok();
    alice.redact(&room, &said).await.ok();
    let version_1 =
        bob.create_room(json!({ "room_version": "1", "visibility": "public", "room_alias_name": "one" })).await;
    carol.try_join("#one:example.org").await.ok();
    bob.act(&version_1, "ban", json!({ "user_id": carol.id })).await.ok();
    bob.request(http::Method::DELETE, "/v3/directory/room/%23one:example.org", None).await.ok();
    alice.create_room(json!({ "room_alias_name": "one", "invite": [bob.id, carol.id] })).await;
    bob.try_leave(&room).await.ok();
    bob.act(&room, "forget", json!({})).await.ok();
    assert_eq!(alice.post("/v3/createRoom", json!({ "room_alias_name": "one" })).await.error().1, "M_ROOM_IN_USE");

    let server = alice.server.inside().clone();
    let check = move || chappe::check::check(&server.store, server.name()).unwrap();
    let report = tokio::task::spawn_blocking(check).await.unwrap();
    assert!(report.is_clean(), "{:?}", report.problems);
}

#[tokio::test]
async fn what_would_stop_those_who_read_it_is_refused() {
    let (alice, _, _, room) = room().await;
    for text in ["no JSON", "{}"] {
        let content = json!({ "body": "hi", "x": [{ "$serde_json::private::RawValue": text }] });
        assert_eq!(alice.send(&room, "m.room.message", content.clone()).await.status, 400);
        assert_eq!(alice.set_state(&room, "m.x", "", content).await.status, 400);
    }
}

#[tokio::test]
async fn nobody_redacts_what_he_may_not_by_calling_it_state() {
    let server = TestServer::new().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let levels = json!({ "redact": 100, "state_default": 0 });
    let room = alice.create_room(json!({ "preset": "public_chat", "power_level_content_override": levels })).await;
    bob.join(&room).await;
    let said = event_id(alice.try_say(&room, "hers").await);
    assert_eq!(bob.redact(&room, &said).await.error(), FORBIDDEN);
    let as_state = bob.set_state(&room, "m.room.redaction", "", json!({ "redacts": said })).await;
    assert_eq!(as_state.error(), (400, "M_INVALID_PARAM"));
    assert_eq!(bob.event(&room, &said).await.ok()["content"]["body"], "hers");
}
