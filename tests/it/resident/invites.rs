use chappe::check;
use serde_json::{Value, json};

use super::{Scene, find, is_signed_by};
use crate::support::{Answer, START_MS, User, room::path};

const ROOM: &str = "!theirs:peer.test";

type Change = fn(&mut Value);

/// An invite of alice to a room of the other server, with what `change` makes of it, and its id.
fn invite(scene: &Scene, change: impl FnOnce(&mut Value)) -> (Value, String) {
    let reference = |id: &str| match scene.version.as_str() {
        "1" | "2" => json!([id, { "sha256": "hash" }]),
        _ => json!(id),
    };
    let mut event = json!({
        "type": "m.room.member", "room_id": ROOM, "sender": scene.bob(), "state_key": scene.alice.id,
        "content": { "membership": "invite", "displayname": "Alice" }, "origin_server_ts": START_MS, "depth": 5,
        "prev_events": [reference("$prev:peer.test")], "auth_events": [reference("$auth:peer.test")],
        "origin": "peer.test",
    });
    if matches!(scene.version.as_str(), "1" | "2") {
        event["event_id"] = "$invite:peer.test".into();
    }
    change(&mut event);
    scene.peer.sign_event(&mut event, scene.rules());
    let id = scene.id_of(&event);
    (event, id)
}

/// The state that comes with an invite, in the form of before.
fn stripped() -> Value {
    let event = |event_type: &str, content: Value| json!({ "type": event_type, "state_key": "", "sender": "@bob:peer.test", "content": content });
    json!([event("m.room.create", json!({ "room_version": "11" })), event("m.room.name", json!({ "name": "Theirs" }))])
}

async fn send(scene: &Scene, room: &str, id: &str, event: &Value, state: Value) -> Answer {
    let body = json!({ "room_version": scene.version, "event": event, "invite_room_state": state });
    scene.peer.put(&scene.server, &format!("/v2/invite/{}/{}", path(room), path(id)), body).await
}

/// What alice is shown of an invite.
async fn shown(scene: &Scene, room: &str) -> Value {
    scene.alice.sync_with("").await["rooms"]["invite"][room]["invite_state"]["events"].clone()
}

#[tokio::test]
async fn an_invite_is_signed_and_shown_with_what_is_told_of_the_room() {
    let scene = Scene::new("11").await;
    let (event, id) = invite(&scene, |_| {});
    let answer = send(&scene, ROOM, &id, &event, stripped()).await.ok();
    let signed = &answer["event"];
    assert!(is_signed_by(signed, "peer.test") && is_signed_by(signed, "resident.test"));
    for (field, value) in event.as_object().unwrap().iter().filter(|(field, _)| *field != "signatures") {
        assert_eq!(&signed[field], value);
    }
    let shown = shown(&scene, ROOM).await;
    assert_eq!(find(&shown, "m.room.name", "").unwrap()["content"]["name"], "Theirs");
    assert_eq!(find(&shown, "m.room.member", &scene.alice.id).unwrap()["sender"], scene.bob());
}

#[tokio::test]
async fn an_invite_that_is_sent_again_after_it_was_rejected_is_answered_and_not_shown() {
    let scene = Scene::new("11").await;
    let (event, id) = invite(&scene, |_| {});
    send(&scene, ROOM, &id, &event, stripped()).await.ok();
    scene.alice.leave(ROOM).await;
    let again = send(&scene, ROOM, &id, &event, stripped()).await.ok();
    assert!(is_signed_by(&again["event"], "resident.test"));
    assert_eq!(shown(&scene, ROOM).await, Value::Null);
    let (event, id) = invite(&scene, |event| event["content"]["reason"] = "please".into());
    send(&scene, ROOM, &id, &event, stripped()).await.ok();
    assert!(shown(&scene, ROOM).await.is_array(), "that is another one");
}

#[tokio::test]
async fn the_first_version_of_the_endpoint_takes_the_event_alone() {
    let scene = Scene::new("1").await;
    let (mut event, id) = invite(&scene, |_| {});
    event["unsigned"] = json!({ "invite_room_state": stripped() });
    let uri = format!("/v1/invite/{}/{}", path(ROOM), path(&id));
    let answer = scene.peer.put(&scene.server, &uri, event).await.ok();
    assert_eq!(answer[0], 200);
    assert!(is_signed_by(&answer[1]["event"], "resident.test"));
    assert!(find(&shown(&scene, ROOM).await, "m.room.name", "").is_some());
}

#[tokio::test]
async fn the_first_version_of_the_endpoint_is_for_known_rooms_of_version_2_too() {
    let scene = Scene::new("2").await;
    let carol = scene.server.user("carol").await;
    let (event, id) = invite(&scene, |event| {
        event["room_id"] = scene.room.as_str().into();
        event["state_key"] = carol.id.as_str().into();
    });
    let uri = format!("/v1/invite/{}/{}", path(&scene.room), path(&id));
    let answer = scene.peer.put(&scene.server, &uri, event).await.ok();
    assert!(is_signed_by(&answer[1]["event"], "resident.test"));
}

#[tokio::test]
async fn the_acl_of_a_room_that_we_left_keeps_no_invite_out() {
    let scene = Scene::new("11").await;
    let room = scene.room.as_str();
    scene.join(&scene.bob()).await;
    scene.alice.set(room, "m.room.server_acl", "", json!({ "allow": ["*"], "deny": ["peer.test"] })).await;
    let (event, id) = invite(&scene, |event| event["room_id"] = room.into());
    assert_eq!(send(&scene, room, &id, &event, stripped()).await.error(), (403, "M_FORBIDDEN"));
    scene.alice.leave(room).await;
    send(&scene, room, &id, &event, stripped()).await.ok();
    assert!(find(&shown(&scene, room).await, "m.room.name", "").is_some());
}

#[tokio::test]
async fn nothing_but_an_invite_of_ours_by_a_user_of_that_server_to_that_room_is_signed() {
    let scene = Scene::new("11").await;
    let changes: [(&str, Change); 10] = [
        ("message", |event| event["type"] = "m.room.message".into()),
        ("create", |event| event["type"] = "m.room.create".into()),
        ("join", |event| event["content"]["membership"] = "join".into()),
        ("leave", |event| event["content"]["membership"] = "leave".into()),
        ("no membership", |event| event["content"] = json!({})),
        ("of theirs", |event| event["state_key"] = "@dan:peer.test".into()),
        ("of no user", |event| event["state_key"] = "".into()),
        ("no state", |event| drop(event.as_object_mut().unwrap().remove("state_key"))),
        ("of another server", |event| event["sender"] = "@eve:elsewhere.test".into()),
        ("of ours", |event| event["sender"] = "@alice:resident.test".into()),
    ];
    for (what, change) in changes {
        let (event, id) = invite(&scene, change);
        let answer = send(&scene, ROOM, &id, &event, stripped()).await;
        assert_eq!(answer.error(), (400, "M_INVALID_PARAM"), "{what}");
        assert!(!answer.body.to_string().contains("ed25519"), "{what}");
    }
    let (event, id) = invite(&scene, |_| {});
    let invalid = (400, "M_INVALID_PARAM");
    assert_eq!(send(&scene, "!other:peer.test", &id, &event, stripped()).await.error(), invalid);
    assert_eq!(send(&scene, &scene.room, &id, &event, stripped()).await.error(), invalid);
    assert_eq!(send(&scene, ROOM, "$other", &event, stripped()).await.error(), invalid);
    let mut unsigned = event.clone();
    unsigned["signatures"] = json!({});
    assert_eq!(send(&scene, ROOM, &id, &unsigned, stripped()).await.error(), invalid);
    let mut not_theirs = event.clone();
    not_theirs["signatures"]["peer.test"] = json!({ scene.peer.key_id(): "AAAA" });
    assert_eq!(send(&scene, ROOM, &id, &not_theirs, stripped()).await.error(), invalid);
    assert_eq!(shown(&scene, ROOM).await, Value::Null);
}

#[tokio::test]
async fn our_signature_is_not_the_one_that_an_id_of_ours_asks_for() {
    let scene = Scene::new("1").await;
    let (event, id) = invite(&scene, |event| event["event_id"] = "$invite:resident.test".into());
    let answer = send(&scene, ROOM, &id, &event, stripped()).await;
    assert_eq!(answer.error(), (400, "M_INVALID_PARAM"));
    assert!(!answer.body.to_string().contains("ed25519"));
}

#[tokio::test]
async fn nothing_is_signed_for_a_server_that_the_acl_of_our_room_bars() {
    let scene = Scene::new("1").await;
    let (room, carol) = (scene.room.as_str(), scene.server.user("carol").await);
    let (event, id) = invite(&scene, |event| {
        event["room_id"] = room.into();
        event["state_key"] = carol.id.as_str().into();
    });
    scene.alice.set(room, "m.room.server_acl", "", json!({ "allow": ["*"], "deny": ["peer.test"] })).await;
    let first_version = format!("/v1/invite/{}/{}", path(room), path(&id));
    let by_v1 = scene.peer.put(&scene.server, &first_version, event.clone()).await;
    let by_v2 = send(&scene, room, &id, &event, stripped()).await;
    for answer in [by_v1, by_v2] {
        assert_eq!(answer.error(), (403, "M_FORBIDDEN"));
        assert!(!answer.body.to_string().contains("ed25519"), "{}", answer.body);
    }
    scene.alice.set(room, "m.room.server_acl", "", json!({ "allow": ["*"] })).await;
    let answer = send(&scene, room, &id, &event, stripped()).await.ok();
    assert!(is_signed_by(&answer["event"], "resident.test"), "it was the ACL");
}

#[tokio::test]
async fn an_invite_to_a_room_of_a_version_that_nobody_knows_is_refused_with_that_version() {
    let scene = Scene::new("11").await;
    let (event, id) = invite(&scene, |_| {});
    let body = json!({ "room_version": "org.example.unknown", "event": event, "invite_room_state": stripped() });
    let uri = format!("/v2/invite/{}/{}", path(ROOM), path(&id));
    let answer = scene.peer.put(&scene.server, &uri, body).await;
    assert_eq!(answer.error(), (400, "M_INCOMPATIBLE_ROOM_VERSION"));
    assert_eq!(answer.body["room_version"], "org.example.unknown");
    let answer = scene.peer.put(&scene.server, &uri, json!({ "event": event })).await;
    assert_eq!(answer.error(), (400, "M_BAD_JSON"));
}

#[tokio::test]
async fn what_is_told_of_the_room_in_a_wrong_form_costs_no_more_than_itself() {
    let scene = Scene::new("11").await;
    for (number, state) in
        [json!(null), json!({}), json!("x"), json!([null, 5, { "type": 1 }]), json!([{ "type": "m.room.name" }])]
            .into_iter()
            .enumerate()
    {
        let room = format!("!room{number}:peer.test");
        let (event, id) = invite(&scene, |event| event["room_id"] = room.as_str().into());
        send(&scene, &room, &id, &event, state).await.ok();
        let shown = shown(&scene, &room).await;
        assert_eq!(shown.as_array().unwrap().len(), 1, "{shown}");
    }
}

#[tokio::test]
async fn who_does_not_want_invites_or_is_not_there_gets_none() {
    let scene = Scene::new("11").await;
    let account_data = format!("/v3/user/{}/account_data/m.invite_permission_config", scene.alice.id);
    scene.alice.put(&account_data, json!({ "default_action": "block" })).await.ok();
    let (event, id) = invite(&scene, |_| {});
    assert_eq!(send(&scene, ROOM, &id, &event, stripped()).await.error(), (403, "M_INVITE_BLOCKED"));
    assert_eq!(shown(&scene, ROOM).await, Value::Null);
    scene.alice.put(&account_data, json!({})).await.ok();
    send(&scene, ROOM, &id, &event, stripped()).await.ok();

    let (event, id) = invite(&scene, |event| event["state_key"] = "@nobody:resident.test".into());
    let answer = send(&scene, ROOM, &id, &event, stripped()).await;
    assert_eq!(answer.errcode(), "M_NOT_FOUND");
    assert!(!answer.body.to_string().contains("ed25519"));
}

#[tokio::test]
async fn in_version_12_the_create_event_must_prove_which_room_it_is() {
    let scene = Scene::new("12").await;
    let mut create = json!({
        "type": "m.room.create", "state_key": "", "sender": scene.bob(), "content": { "room_version": "12" },
        "origin_server_ts": START_MS, "depth": 1, "prev_events": [], "auth_events": [],
    });
    scene.peer.sign_event(&mut create, scene.rules());
    let room = scene.id_of(&create).replacen('$', "!", 1);
    let (event, id) = invite(&scene, |event| event["room_id"] = room.as_str().into());
    let missing = (400, "M_MISSING_PARAM");
    assert_eq!(send(&scene, &room, &id, &event, json!([])).await.error(), missing);
    assert_eq!(send(&scene, &room, &id, &event, stripped()).await.error(), missing);
    let mut another = create.clone();
    another["origin_server_ts"] = (START_MS + 1).into();
    scene.peer.sign_event(&mut another, scene.rules());
    assert_eq!(send(&scene, &room, &id, &event, json!([another])).await.error(), missing);
    let name = stripped()[1].clone(); // Synapse tells everything but the create event in this form
    send(&scene, &room, &id, &event, json!([create, name])).await.ok();
    assert_eq!(find(&shown(&scene, &room).await, "m.room.name", "").unwrap()["content"]["name"], "Theirs");
}

#[tokio::test]
async fn of_a_room_that_we_are_in_only_invites_that_it_allows_are_shown() {
    let body = json!({ "preset": "public_chat", "power_level_content_override": { "invite": 0 } });
    let scene = Scene::with("11", body).await;
    let room = scene.room.as_str();
    let left = scene.server.user("left").await;
    let invited = scene.server.user("invited").await;
    let banned = scene.server.user("banned").await;
    left.join(room).await;
    let said = scene.alice.say(room, "to who was there").await;
    left.leave(room).await;
    scene.alice.invite(room, &invited).await;
    scene.alice.act(room, "ban", json!({ "user_id": banned.id })).await.ok();
    let invite_by_bob = async |user: &User| {
        let (event, id) = invite(&scene, |event| {
            event["room_id"] = room.into();
            event["state_key"] = user.id.as_str().into();
        });
        let answer = send(&scene, room, &id, &event, stripped()).await.ok();
        assert!(is_signed_by(&answer["event"], "resident.test"), "the room may know more than we do");
    };
    let inviter = async |user: &User| {
        let sync = user.sync_with("").await;
        let told = sync["rooms"]["invite"].get(room)?["invite_state"]["events"].clone();
        Some(find(&told, "m.room.member", &user.id).unwrap()["sender"].as_str().unwrap().to_owned())
    };
    for user in [&left, &invited, &banned] {
        invite_by_bob(user).await;
    }
    assert_eq!(inviter(&left).await, None);
    assert_eq!(inviter(&invited).await, Some(scene.alice.id.clone()));
    assert_eq!(inviter(&banned).await, None);
    assert_eq!(left.event(room, &said).await.status, 200);

    scene.join(&scene.bob()).await;
    for user in [&left, &invited, &banned] {
        invite_by_bob(user).await;
    }
    assert_eq!(inviter(&left).await, Some(scene.bob()), "an event of the room is to follow");
    assert_eq!(inviter(&banned).await, None);
    assert_eq!(left.event(room, &said).await.status, 200, "what he saw he sees still");
    left.leave(room).await;
    assert_eq!(left.event(room, &said).await.status, 200);
    invited.leave(room).await;
    assert_eq!(scene.membership(&invited.id).await.as_deref(), Some("leave"), "the room is told");
    let server = scene.server.inside();
    let report = check::check(&server.store, server.name()).unwrap();
    assert!(report.is_clean(), "{:#?}", report.problems);
}
