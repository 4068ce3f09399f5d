//! Making rooms.

use serde_json::{Value, json};

use super::support::{TestServer, User, room::path};

const VERSIONS: [&str; 12] = ["1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12"];

async fn alice() -> User {
    TestServer::new().await.user("alice").await
}

/// Type and state key of every event of the room, oldest first.
async fn events(user: &User, room: &str) -> Vec<(String, String)> {
    let text = |event: &Value, key: &str| event[key].as_str().unwrap_or_default().to_owned();
    user.history(room).await.iter().map(|event| (text(event, "type"), text(event, "state_key"))).collect()
}

#[tokio::test]
async fn rooms_of_every_version_are_made_and_talked_in() {
    let server = TestServer::new().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    for version in VERSIONS {
        let room = alice.create_room(json!({ "room_version": version, "invite": [bob.id], "name": "n" })).await;
        bob.try_join(&room).await.ok();
        bob.try_say(&room, "hello").await.ok();
        alice.try_say(&room, "hi").await.ok();
        let create = bob.state(&room, "m.room.create", "").await.ok();
        assert_eq!(create["room_version"], version);
        let named = create.get("creator").and_then(Value::as_str);
        let is_named = version.parse::<u8>().unwrap() < 11;
        assert_eq!(named, is_named.then_some(alice.id.as_str()), "version {version}");
        assert_eq!(room.contains(':'), version != "12", "{room}");
        let said: Vec<_> = bob.history(&room).await.into_iter().filter(|e| e["type"] == "m.room.message").collect();
        assert_eq!(said.len(), 2, "version {version}");
    }
}

#[tokio::test]
async fn the_default_version_is_that_of_the_configuration() {
    let server = TestServer::with(|config| config.default_room_version = ruma::RoomVersionId::V11).await;
    let alice = server.user("alice").await;
    let room = alice.create_room(json!({})).await;
    assert_eq!(alice.state(&room, "m.room.create", "").await.ok()["room_version"], "11");
}

#[tokio::test]
async fn what_is_no_room_version_of_ours_is_refused() {
    let alice = alice().await;
    for (version, expected) in [
        (json!("13"), (400, "M_UNSUPPORTED_ROOM_VERSION")),
        (json!("nonsense"), (400, "M_UNSUPPORTED_ROOM_VERSION")),
        (json!("not_in_the_grammar"), (400, "M_UNSUPPORTED_ROOM_VERSION")),
        (json!(1), (400, "M_BAD_JSON")),
    ] {
        assert_eq!(alice.post("/v3/createRoom", json!({ "room_version": version })).await.error(), expected);
    }
}

#[tokio::test]
async fn the_first_events_come_in_the_order_of_the_specification() {
    let server = TestServer::new().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let room = alice
        .create_room(json!({
            "preset": "public_chat",
            "room_alias_name": "order",
            "name": "Name",
            "topic": "Topic",
            "invite": [bob.id],
            "initial_state": [
                { "type": "m.room.guest_access", "content": { "guest_access": "can_join" } },
                { "type": "x.first", "state_key": "1", "content": {} },
                { "type": "m.room.name", "state_key": "", "content": { "name": "overwritten" } },
                { "type": "x.second", "content": {} },
            ],
        }))
        .await;
    let expected = [
        ("m.room.create", ""),
        ("m.room.member", alice.id.as_str()),
        ("m.room.power_levels", ""),
        ("m.room.canonical_alias", ""),
        ("m.room.join_rules", ""),
        ("m.room.history_visibility", ""),
        ("m.room.guest_access", ""),
        ("x.first", "1"),
        ("x.second", ""),
        ("m.room.name", ""),
        ("m.room.topic", ""),
        ("m.room.member", bob.id.as_str()),
    ];
    let expected: Vec<_> = expected.iter().map(|(kind, key)| ((*kind).to_owned(), (*key).to_owned())).collect();
    assert_eq!(events(&alice, &room).await, expected);
    assert_eq!(alice.state(&room, "m.room.guest_access", "").await.ok()["guest_access"], "can_join");
    assert_eq!(alice.state(&room, "m.room.name", "").await.ok(), json!({ "name": "Name" }));
    let topic = json!({ "topic": "Topic", "m.topic": { "m.text": [{ "body": "Topic" }] } });
    assert_eq!(alice.state(&room, "m.room.topic", "").await.ok(), topic);
    assert_eq!(alice.state(&room, "m.room.canonical_alias", "").await.ok(), json!({ "alias": "#order:example.org" }));
}

#[tokio::test]
async fn presets_set_what_the_specification_says() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    for (body, join_rule, guest_access) in [
        (json!({}), "invite", Some("can_join")),
        (json!({ "preset": "private_chat" }), "invite", Some("can_join")),
        (json!({ "preset": "trusted_private_chat" }), "invite", Some("can_join")),
        (json!({ "preset": "public_chat" }), "public", None),
        (json!({ "visibility": "public" }), "public", None),
        (json!({ "visibility": "public", "preset": "private_chat" }), "invite", Some("can_join")),
    ] {
        let room = alice.create_room(body).await;
        assert_eq!(alice.state(&room, "m.room.join_rules", "").await.ok()["join_rule"], join_rule);
        let guests = alice.state(&room, "m.room.guest_access", "").await.body;
        assert_eq!(guests["guest_access"].as_str(), guest_access, "where nothing is said, guests are not let in");
        let visibility = alice.state(&room, "m.room.history_visibility", "").await.ok();
        assert_eq!(visibility["history_visibility"], "shared");
    }
    assert_eq!(alice.post("/v3/createRoom", json!({ "preset": "x" })).await.error(), (400, "M_INVALID_PARAM"));
}

#[tokio::test]
async fn in_a_trusted_chat_whoever_is_invited_has_the_power_of_the_creator() {
    let server = TestServer::new().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let body = |version| json!({ "preset": "trusted_private_chat", "room_version": version, "invite": [bob.id] });
    let old = alice.create_room(body("11")).await;
    let users = alice.state(&old, "m.room.power_levels", "").await.ok()["users"].clone();
    assert_eq!(users, json!({ alice.id.clone(): 100, bob.id.clone(): 100 }));

    let mut with_carol = body("12");
    with_carol["creation_content"] = json!({ "additional_creators": ["@carol:example.org"] });
    let new = alice.create_room(with_carol).await;
    let create = alice.state(&new, "m.room.create", "").await.ok();
    assert_eq!(create["additional_creators"], json!(["@carol:example.org", bob.id]));
    let levels = alice.state(&new, "m.room.power_levels", "").await.ok();
    assert_eq!(levels["users"], json!({}));
    assert_eq!(levels["events"]["m.room.tombstone"], 150);
    bob.try_join(&new).await.ok();
    bob.set_state(&new, "m.room.tombstone", "", json!({ "body": "b", "replacement_room": "!x:example.org" }))
        .await
        .ok();
}

#[tokio::test]
async fn the_clients_power_levels_go_on_top_of_the_default_ones() {
    let alice = alice().await;
    let levels = json!({ "users_default": 7, "events": { "m.room.name": 1 }, "notifications": { "room": 2 } });
    let room = alice.create_room(json!({ "power_level_content_override": levels })).await;
    let levels = alice.state(&room, "m.room.power_levels", "").await.ok();
    assert_eq!(
        (&levels["users_default"], &levels["ban"], &levels["state_default"]),
        (&json!(7), &json!(50), &json!(50))
    );
    // The version 12 rule about replacing the room stands all the same.
    assert_eq!(levels["events"], json!({ "m.room.name": 1, "m.room.tombstone": 150 }));
    let room = alice.create_room(json!({ "power_level_content_override": { "state_default": 150 } })).await;
    let levels = alice.state(&room, "m.room.power_levels", "").await.ok();
    assert_eq!(levels["events"]["m.room.tombstone"], 151);
}

#[tokio::test]
async fn rooms_that_the_rules_do_not_allow_are_not_made_at_all() {
    let server = TestServer::new().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let invalid = (400, "M_INVALID_ROOM_STATE");
    for (body, expected) in [
        // The creator can't set the name any more.
        (json!({ "room_version": "11", "name": "n", "power_level_content_override": { "users": {} } }), invalid),
        // Creators have no power level since version 12.
        (json!({ "power_level_content_override": { "users": { alice.id.clone(): 100 } } }), invalid),
        (json!({ "power_level_content_override": { "users": "x" } }), invalid),
        (json!({ "power_level_content_override": { "ban": "50" } }), invalid),
        (json!({ "power_level_content_override": { "ban": 1.5 } }), (400, "M_BAD_JSON")),
        (json!({ "power_level_content_override": { "ban": 9_007_199_254_740_992_i64 } }), (400, "M_BAD_JSON")),
        (json!({ "creation_content": { "additional_creators": "x" } }), invalid),
        (json!({ "creation_content": { "additional_creators": ["@a:b", 42] } }), invalid),
        (json!({ "creation_content": { "additional_creators": ["@a:dom$ain$"] } }), invalid),
        (json!({ "creation_content": { "additional_creators": [format!("@{}:b", "x".repeat(253))] } }), invalid),
        (json!({ "creation_content": { "predecessor": "x" } }), (400, "M_BAD_JSON")),
        (json!({ "creation_content": { "type": 1 } }), (400, "M_BAD_JSON")),
        (json!({ "creation_content": [] }), (400, "M_BAD_JSON")),
        (json!({ "initial_state": [{ "type": "m.room.create", "content": {} }] }), (400, "M_BAD_JSON")),
        (json!({ "initial_state": [{ "type": "x", "state_key": "@bob:example.org", "content": {} }] }), invalid),
        (
            json!({ "initial_state": [{ "type": "m.room.member", "state_key": bob.id, "content": { "membership": "join" } }] }),
            invalid,
        ),
        (
            json!({ "initial_state": [{ "type": "m.room.member", "state_key": bob.id, "content": {} }] }),
            (400, "M_BAD_JSON"),
        ),
        (json!({ "initial_state": [{ "type": "x" }] }), (400, "M_BAD_JSON")),
        (json!({ "initial_state": [{ "type": "x", "content": "text" }] }), (400, "M_BAD_JSON")),
        (json!({ "invite": [alice.id] }), invalid),
        (json!({ "invite": ["bob"] }), (400, "M_BAD_JSON")),
        (json!({ "name": "x".repeat(70_000) }), (413, "M_TOO_LARGE")),
        (json!({ "initial_state": vec![json!({ "type": "x", "content": {} }); 5_001] }), (413, "M_TOO_LARGE")),
        (json!({ "visibility": "secret" }), (400, "M_INVALID_PARAM")),
        (
            json!({ "invite_3pid": [{ "id_server": "x", "id_access_token": "x", "medium": "email", "address": "a@b" }] }),
            (403, "M_SERVER_NOT_TRUSTED"),
        ),
    ] {
        let answer = alice.post("/v3/createRoom", body.clone()).await;
        assert_eq!(answer.error(), expected, "{body}: {}", answer.body);
    }
    assert_eq!(alice.get("/v3/joined_rooms").await.ok(), json!({ "joined_rooms": [] }));
}

#[tokio::test]
async fn clients_add_to_the_create_event_but_do_not_change_it() {
    let alice = alice().await;
    let content =
        json!({ "creator": "@eve:example.org", "room_version": "1", "m.federate": false, "type": "m.space", "x": 1 });
    for version in ["10", "11", "12"] {
        let room = alice.create_room(json!({ "room_version": version, "creation_content": content })).await;
        let mut expected = json!({ "room_version": version, "m.federate": false, "type": "m.space", "x": 1 });
        if version == "10" {
            expected["creator"] = alice.id.clone().into();
        }
        assert_eq!(alice.state(&room, "m.room.create", "").await.ok(), expected);
    }
}

#[tokio::test]
async fn two_rooms_cannot_have_one_alias_and_the_second_is_not_made() {
    let alice = alice().await;
    let room = alice.create_room(json!({ "room_alias_name": "pub" })).await;
    let again = alice.post("/v3/createRoom", json!({ "room_alias_name": "pub" })).await;
    assert_eq!(again.error(), (400, "M_ROOM_IN_USE"));
    for wrong in ["", "a:b", "a\0b"] {
        let answer = alice.post("/v3/createRoom", json!({ "room_alias_name": wrong })).await;
        assert_eq!(answer.error(), (400, "M_INVALID_PARAM"), "{wrong}");
    }
    assert_eq!(alice.get("/v3/joined_rooms").await.ok()["joined_rooms"], json!([room]));
    let found = alice.get(&format!("/v3/directory/room/{}", path("#pub:example.org"))).await.ok();
    assert_eq!(found, json!({ "room_id": room, "servers": ["example.org"] }));
}

#[tokio::test]
async fn invites_say_that_they_are_to_a_direct_chat() {
    let server = TestServer::new().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let room = alice.create_room(json!({ "is_direct": true, "invite": [bob.id, bob.id] })).await;
    let invite = alice.state(&room, "m.room.member", &bob.id).await.ok();
    assert_eq!((&invite["membership"], &invite["is_direct"]), (&json!("invite"), &json!(true)));
}

#[tokio::test]
async fn rooms_that_are_made_at_one_moment_are_different_rooms() {
    let alice = alice().await;
    let mut made = tokio::task::JoinSet::new();
    for _ in 0..10 {
        let alice = alice.clone();
        made.spawn(async move { alice.create_room(json!({})).await });
    }
    let rooms: std::collections::HashSet<_> = made.join_all().await.into_iter().collect();
    assert_eq!(rooms.len(), 10);
}
