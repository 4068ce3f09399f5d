//! From whom users accept invites: <https://spec.matrix.org/v1.19/client-server-api/#invite-permission>

use serde_json::{Value, json};

use crate::support::{TestServer, User};

async fn set(user: &User, event_type: &str, content: Value) {
    user.put(&format!("/v3/user/{}/account_data/{event_type}", user.id), content).await.ok();
}

const RULES: &str = "org.matrix.msc4155.invite_permission_config";
const BLOCKED: (u16, &str) = (403, "M_INVITE_BLOCKED");

#[tokio::test]
async fn invites_are_blocked_by_user_and_by_server() {
    let server = TestServer::new().await;
    let (alice, bob, carol) = (server.user("alice").await, server.user("bob").await, server.user("carol").await);
    let (room, other) = (bob.create_room(json!({})).await, carol.create_room(json!({})).await);
    set(&alice, RULES, json!({ "blocked_users": ["@b*:example.org"] })).await;
    assert_eq!(bob.try_invite(&room, &alice).await.error(), BLOCKED);
    let invite = json!({ "membership": "invite" });
    assert_eq!(bob.set_state(&room, "m.room.member", &alice.id, invite).await.error(), BLOCKED);
    assert_eq!(bob.post("/v3/createRoom", json!({ "invite": [alice.id] })).await.error(), BLOCKED);
    carol.try_invite(&other, &alice).await.ok();
    set(&alice, RULES, json!({ "blocked_servers": ["example.*"], "allowed_users": [bob.id] })).await;
    bob.try_invite(&room, &alice).await.ok();
    let next = carol.create_room(json!({})).await;
    assert_eq!(carol.try_invite(&next, &alice).await.error(), BLOCKED);
    set(&alice, RULES, json!({ "blocked_servers": null })).await;
    set(&alice, "m.invite_permission_config", json!({ "default_action": "block" })).await;
    assert_eq!(carol.try_invite(&next, &alice).await.error(), BLOCKED);
    set(&alice, RULES, json!({ "enabled": false, "blocked_servers": ["*"] })).await;
    assert_eq!(carol.try_invite(&next, &alice).await.error(), BLOCKED, "the switch is that of these lists only");
    set(&alice, "m.invite_permission_config", json!({})).await;
    carol.try_invite(&next, &alice).await.ok();
}

/// Whether the user is told of a room by `/sync`, sliding sync, `/events` and `/initialSync`.
async fn told(user: &User, room: &str) -> [bool; 4] {
    let asked = json!({
        "lists": { "all": { "ranges": [[0, 9]], "timeline_limit": 1 } },
        "room_subscriptions": { room: { "timeline_limit": 1, "required_state": [] } },
    });
    let sync = user.sync_with("").await;
    let sliding = user.post("/_matrix/client/unstable/org.matrix.simplified_msc3575/sync", asked).await.ok();
    let events = user.get("/v3/events?timeout=0&from=t0").await.ok();
    let first = user.get("/v3/initialSync").await.ok();
    let is_in = |list: &Value| list.as_array().unwrap().iter().any(|told| told["room_id"] == room);
    let has_invite = sync["rooms"]["invite"].get(room).is_some();
    [has_invite, sliding["rooms"].get(room).is_some(), is_in(&events["chunk"]), is_in(&first["rooms"])]
}

#[tokio::test]
async fn an_ignored_invite_is_sent_and_not_seen() {
    let server = TestServer::new().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let room = bob.create_room(json!({})).await;
    set(&alice, RULES, json!({ "ignored_users": [bob.id] })).await;
    bob.try_invite(&room, &alice).await.ok();
    assert_eq!(told(&alice, &room).await, [false; 4]);
    set(&alice, RULES, json!({})).await;
    assert_eq!(told(&alice, &room).await, [true; 4], "it is there when it is wanted again");
    set(&alice, "m.invite_permission_config", json!({ "default_action": "block" })).await;
    assert_eq!(told(&alice, &room).await, [false; 4]);
    set(&alice, "m.invite_permission_config", json!({})).await;
    set(&alice, "m.ignored_user_list", json!({ "ignored_users": { &bob.id: {} } })).await;
    assert_eq!(told(&alice, &room).await, [false; 4]);
}
