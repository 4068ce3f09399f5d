//! Room upgrades: <https://spec.matrix.org/v1.19/client-server-api/#room-upgrades>

use std::time::Duration;

use chappe::{
    federation::queue,
    log::{Log, LogReaders},
    room::upgrade::carry_over,
    store::Scan,
};
use http::Method;
use serde_json::{Value, json};

use crate::support::{Answer, TestNetwork, TestServer, User, query, room::path};

async fn try_upgrade(user: &User, room: &str, body: Value) -> Answer {
    user.post(&format!("/v3/rooms/{room}/upgrade"), body).await
}

async fn upgrade(user: &User, room: &str, version: &str) -> String {
    let answer = try_upgrade(user, room, json!({ "new_version": version })).await.ok();
    answer["replacement_room"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn the_new_room_has_what_the_old_one_had_and_the_old_one_is_closed() {
    let server = TestServer::new().await;
    let (alice, bob, eve) = (server.user("alice").await, server.user("bob").await, server.user("eve").await);
    let old = alice
        .create_room(json!({
            "room_version": "10", "preset": "public_chat", "visibility": "public", "room_alias_name": "here",
            "name": "Name", "topic": "Topic", "creation_content": { "type": "m.space", "m.federate": false },
        }))
        .await;
    let states = [
        ("m.room.encryption", "", json!({ "algorithm": "m.megolm.v1.aes-sha2" })),
        ("m.room.server_acl", "", json!({ "allow": ["*"], "deny": ["evil.org"] })),
        ("m.room.guest_access", "", json!({ "guest_access": "can_join" })),
        ("m.room.history_visibility", "", json!({ "history_visibility": "joined" })),
        ("m.space.child", "!child:example.org", json!({ "via": ["example.org"] })),
    ];
    for (event_type, key, content) in &states {
        alice.set_state(&old, event_type, key, content.clone()).await.ok();
    }
    alice.set_state(&old, "org.example.own", "", json!({ "a": 1 })).await.ok();
    let levels =
        json!({ "users": { &alice.id: 100, &bob.id: 75 }, "users_default": 5, "events": { "m.room.name": 60 } });
    alice.set_state(&old, "m.room.power_levels", "", levels.clone()).await.ok();
    bob.join(&old).await;
    alice.act(&old, "ban", json!({ "user_id": eve.id, "reason": "rude" })).await.ok();

    let new = upgrade(&alice, &old, "11").await;
    let create = alice.state(&new, "m.room.create", "").await.ok();
    assert_eq!((&create["type"], &create["m.federate"]), (&json!("m.space"), &json!(false)));
    assert_eq!((&create["room_version"], &create["predecessor"]["room_id"]), (&json!("11"), &json!(old)));
    assert!(create["predecessor"]["event_id"].is_string());
    for (event_type, key, content) in &states {
        assert_eq!(alice.state(&new, event_type, key).await.ok(), *content, "{event_type}");
    }
    assert_eq!(alice.state(&new, "m.room.name", "").await.ok()["name"], "Name");
    assert_eq!(alice.state(&new, "m.room.topic", "").await.ok()["topic"], "Topic");
    assert_eq!(alice.state(&new, "m.room.join_rules", "").await.ok()["join_rule"], "public");
    assert_eq!(alice.state(&new, "org.example.own", "").await.error(), (404, "M_NOT_FOUND"));
    assert_eq!(alice.state(&new, "m.room.member", &bob.id).await.error(), (404, "M_NOT_FOUND"));
    let banned = json!({ "membership": "ban", "reason": "rude" });
    assert_eq!(alice.state(&new, "m.room.member", &eve.id).await.ok(), banned);
    let kept = alice.state(&new, "m.room.power_levels", "").await.ok();
    assert_eq!((&kept["users"], &kept["users_default"]), (&levels["users"], &json!(5)));
    assert_eq!((&kept["events"], &kept["invite"]), (&levels["events"], &json!(0)));

    let tombstone = alice.state(&old, "m.room.tombstone", "").await.ok();
    assert_eq!(tombstone["replacement_room"], *new);
    let alias = format!("/v3/directory/room/{}", path("#here:example.org"));
    assert_eq!(server.get(&alias).await.ok()["room_id"], *new);
    assert_eq!(alice.state(&new, "m.room.canonical_alias", "").await.ok()["alias"], "#here:example.org");
    assert_eq!(alice.state(&old, "m.room.canonical_alias", "").await.ok(), json!({}));
    let listing = |room: &str| format!("/v3/directory/list/room/{room}");
    assert_eq!(server.get(&listing(&new)).await.ok()["visibility"], "public");
    assert_eq!(server.get(&listing(&old)).await.ok()["visibility"], "private");
    assert_eq!(eve.try_join(&new).await.error(), (403, "M_FORBIDDEN"));
    bob.join(&new).await;
    let closed = alice.state(&old, "m.room.power_levels", "").await.ok();
    assert_eq!((&closed["events_default"], &closed["invite"]), (&json!(50), &json!(50)));
}

#[tokio::test]
async fn who_may_not_replace_a_room_does_not() {
    let server = TestServer::new().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let old = alice.create_room(json!({ "preset": "public_chat", "room_version": "10" })).await;
    let forbidden = (403, "M_FORBIDDEN");
    assert_eq!(try_upgrade(&bob, &old, json!({ "new_version": "11" })).await.error(), forbidden);
    bob.join(&old).await;
    assert_eq!(try_upgrade(&bob, &old, json!({ "new_version": "11" })).await.error(), forbidden);
    assert_eq!(try_upgrade(&alice, "!no:example.org", json!({ "new_version": "11" })).await.error(), forbidden);
    let unsupported = (400, "M_UNSUPPORTED_ROOM_VERSION");
    assert_eq!(try_upgrade(&alice, &old, json!({ "new_version": "org.unknown" })).await.error(), unsupported);
    assert_eq!(try_upgrade(&alice, &old, json!({ "new_version": "not_in_the_grammar" })).await.error(), unsupported);
    assert_eq!(try_upgrade(&alice, &old, json!({})).await.error(), (400, "M_BAD_JSON"));
    assert_eq!(alice.state(&old, "m.room.tombstone", "").await.error(), (404, "M_NOT_FOUND"));
}

#[tokio::test]
async fn creators_of_the_new_version_have_no_power_level() {
    let server = TestServer::new().await;
    let (alice, bob, carol) = (server.user("alice").await, server.user("bob").await, server.user("carol").await);
    let old = alice.create_room(json!({ "preset": "public_chat", "room_version": "11" })).await;
    let levels = json!({ "users": { &alice.id: 100, &bob.id: 100, &carol.id: 50 } });
    alice.set_state(&old, "m.room.power_levels", "", levels).await.ok();
    let body = json!({ "new_version": "12", "additional_creators": [bob.id, alice.id] });
    let new = try_upgrade(&alice, &old, body).await.ok();
    let new = new["replacement_room"].as_str().unwrap();
    let create = alice.state(new, "m.room.create", "").await.ok();
    assert_eq!(create["additional_creators"], json!([bob.id]));
    assert_eq!(create["predecessor"], json!({ "room_id": old }));
    let levels = alice.state(new, "m.room.power_levels", "").await.ok();
    assert_eq!(levels["users"], json!({ &carol.id: 50 }));
    // Creators stay what they were only if they are named again, and have a number where that is needed.
    let next = upgrade(&alice, new, "12").await;
    assert!(alice.state(&next, "m.room.create", "").await.ok().get("additional_creators").is_none());
    let back = upgrade(&alice, &next, "11").await;
    let levels = alice.state(&back, "m.room.power_levels", "").await.ok();
    assert_eq!((&levels["users"][&alice.id], &levels["events"]["m.room.tombstone"]), (&json!(100), &json!(100)));
    upgrade(&alice, &back, "11").await;
}

#[tokio::test]
async fn levels_that_are_strings_are_integers_in_the_new_room() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let strings = json!({
        "state_default": " 50", "users": { &alice.id: "100" }, "events": { "m.room.topic": "+75" },
        "notifications": { "room": "20" },
    });
    let old = alice.create_room(json!({ "room_version": "9", "power_level_content_override": strings })).await;
    let new = upgrade(&alice, &old, "11").await;
    let kept = alice.state(&new, "m.room.power_levels", "").await.ok();
    assert_eq!((&kept["state_default"], &kept["users"]), (&json!(50), &json!({ &alice.id: 100 })));
    assert_eq!((&kept["events"], &kept["notifications"]), (&json!({ "m.room.topic": 75 }), &json!({ "room": 20 })));
}

#[tokio::test]
async fn whoever_upgrades_keeps_no_more_power_than_he_had() {
    let server = TestServer::new().await;
    let (alice, bob, carol) = (server.user("alice").await, server.user("bob").await, server.user("carol").await);
    let old = alice.create_room(json!({ "preset": "public_chat", "room_version": "10" })).await;
    bob.join(&old).await;
    alice.act(&old, "ban", json!({ "user_id": carol.id })).await.ok();
    alice.set_state(&old, "m.space.child", &alice.id, json!({ "via": ["example.org"] })).await.ok();
    let levels = json!({
        "users": { &alice.id: 100, &bob.id: 50, &carol.id: 100 },
        "events": { "m.room.tombstone": 50, "m.room.server_acl": 100 }, "state_default": 50,
    });
    alice.set_state(&old, "m.room.server_acl", "", json!({ "allow": ["*"] })).await.ok();
    alice.set_state(&old, "m.room.power_levels", "", levels.clone()).await.ok();
    let new = upgrade(&bob, &old, "11").await;
    assert_eq!(bob.state(&new, "m.room.server_acl", "").await.ok(), json!({ "allow": ["*"] }));
    assert_eq!(bob.state(&new, "m.room.power_levels", "").await.ok()["users"], levels["users"]);
    for (event_type, user) in [("m.space.child", &alice), ("m.room.member", &carol)] {
        let answer = bob.state(&new, event_type, &user.id).await;
        assert_eq!(answer.error(), (404, "M_NOT_FOUND"), "bob may not set that, and it stops nothing: {event_type}");
    }
}

/// Waits until the reader has done all that was sent so far.
async fn caught_up(server: &TestServer) {
    let store = &server.inside().store;
    let now = store.snapshot().scan::<Log>(Scan::prefix::<Log>(&()).backward()).next();
    let last = now.map(|row| row.unwrap().key().unwrap().0).unwrap_or_default();
    while store.snapshot().get::<LogReaders>(&"room_upgrades").unwrap().is_none_or(|pos| pos < last) {
        tokio::task::yield_now().await;
    }
}

/// Runs the reader, which has begun when this ends.
async fn carrying_over(server: &TestServer) -> tokio::task::JoinHandle<()> {
    let reader = tokio::spawn(carry_over::run(std::sync::Arc::clone(server.inside())));
    caught_up(server).await;
    reader
}

#[tokio::test]
async fn push_rules_tags_and_direct_chats_go_with_their_users() {
    let server = TestServer::new().await;
    let reader = carrying_over(&server).await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let old = alice.create_room(json!({ "preset": "public_chat", "room_version": "10" })).await;
    bob.join(&old).await;
    for user in [&alice, &bob] {
        let rule = json!({ "actions": ["dont_notify"] });
        user.put(&format!("/v3/pushrules/global/room/{}", path(&old)), rule).await.ok();
        let room = format!("/v3/user/{}/rooms/{old}", user.id);
        user.put(&format!("{room}/tags/m.favourite"), json!({ "order": 0.5 })).await.ok();
        let direct = json!({ "@x:example.org": [old], "@y:example.org": [], "odd": 1 });
        user.put(&format!("/v3/user/{}/account_data/m.direct", user.id), direct).await.ok();
    }
    let new = upgrade(&alice, &old, "11").await;
    bob.join(&new).await;
    caught_up(&server).await;
    for user in [&alice, &bob] {
        let direct = user.get(&format!("/v3/user/{}/account_data/m.direct", user.id)).await.ok();
        assert_eq!(direct, json!({ "@x:example.org": [old, new], "@y:example.org": [], "odd": 1 }));
        let rule = user.get(&format!("/v3/pushrules/global/room/{}", path(&new))).await.ok();
        assert_eq!((&rule["actions"], &rule["enabled"]), (&json!(["dont_notify"]), &json!(true)));
        let tags = user.get(&format!("/v3/user/{}/rooms/{new}/tags", user.id)).await.ok();
        assert_eq!(tags["tags"], json!({ "m.favourite": { "order": 0.5 } }));
    }
    // What he takes away afterwards does not come back with his next name.
    let favourite = format!("/v3/user/{}/rooms/{new}/tags/m.favourite", bob.id);
    bob.request(Method::DELETE, &favourite, None).await.ok();
    let named = json!({ "membership": "join", "displayname": "Bob" });
    bob.set_state(&new, "m.room.member", &bob.id, named).await.ok();
    caught_up(&server).await;
    let tags = bob.get(&format!("/v3/user/{}/rooms/{new}/tags", bob.id)).await.ok();
    assert_eq!(tags["tags"], json!({}));
    // A room that only claims to replace another gets nothing.
    let creation = json!({ "predecessor": { "room_id": new, "event_id": "$x" } });
    let false_heir = alice.create_room(json!({ "creation_content": creation })).await;
    caught_up(&server).await;
    let tags = alice.get(&format!("/v3/user/{}/rooms/{false_heir}/tags", alice.id)).await.ok();
    assert_eq!(tags["tags"], json!({}));
    reader.abort();
}

#[tokio::test]
async fn our_names_of_a_room_go_to_the_one_that_replaced_it_without_our_doing() {
    let server = TestServer::new().await;
    let reader = carrying_over(&server).await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let public = json!({ "preset": "public_chat", "visibility": "public", "room_alias_name": "here" });
    let old = alice.create_room(public).await;
    bob.join(&old).await;
    let heir =
        json!({ "preset": "public_chat", "creation_content": { "predecessor": { "room_id": old, "event_id": "$x" } } });
    let (new, false_heir) = (alice.create_room(heir.clone()).await, bob.create_room(heir).await);
    let named = async |room: &str| {
        caught_up(&server).await;
        let alias = server.get(&format!("/v3/directory/room/{}", path("#here:example.org"))).await.ok();
        let listing = server.get(&format!("/v3/directory/list/room/{room}")).await.ok();
        (alias["room_id"] == *room, listing["visibility"] == "public")
    };
    assert_eq!(named(&old).await, (true, true), "nobody but the new room says that it replaces the old one");
    alice.set_state(&old, "m.room.tombstone", "", json!({ "body": "", "replacement_room": new })).await.ok();
    assert_eq!(named(&new).await, (true, true));
    assert_eq!(named(&old).await, (false, false));
    alice.join(&false_heir).await;
    assert_eq!(named(&new).await, (true, true));
    // What the old room is given back stays there, whoever joins the new one later.
    let alias = format!("/v3/directory/room/{}", path("#here:example.org"));
    alice.delete(&alias).await.ok();
    alice.put(&alias, json!({ "room_id": old })).await.ok();
    alice.put(&format!("/v3/directory/list/room/{old}"), json!({ "visibility": "public" })).await.ok();
    bob.join(&new).await;
    assert_eq!(named(&old).await, (true, true));
    reader.abort();
}

#[tokio::test]
async fn the_first_of_ours_in_the_new_room_of_another_server_brings_our_names() {
    let network = TestNetwork::new();
    let (here, there) = (network.server("here").await, network.server("there").await);
    let reader = carrying_over(&here).await;
    let (alice, bob, carol) = (there.user("alice").await, here.user("bob").await, here.user("carol").await);
    let join = async |user: &User, room: &str| {
        user.post(&format!("/v3/join/{room}{}", query(&[("via", "there")])), json!({})).await.ok();
    };
    let old = alice.create_room(json!({ "preset": "public_chat" })).await;
    join(&bob, &old).await;
    queue::start(there.inside());
    queue::until_sent(there.inside(), &[]).await.unwrap();
    let alias = format!("/v3/directory/room/{}", path("#ours:here"));
    bob.put(&alias, json!({ "room_id": old })).await.ok();
    let new = upgrade(&alice, &old, "11").await;
    while bob.state(&old, "m.room.tombstone", "").await.status != 200 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let named = async || {
        caught_up(&here).await;
        here.get(&alias).await.ok()["room_id"].clone()
    };
    assert_eq!(named().await, *old);
    join(&carol, &new).await;
    assert_eq!(named().await, *new, "also if she was never in the old room");
    bob.delete(&alias).await.ok();
    bob.put(&alias, json!({ "room_id": old })).await.ok();
    join(&bob, &new).await;
    assert_eq!(named().await, *old, "it was given back");
    reader.abort();
}
