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
}

#[tokio::test]
async fn an_ignored_invite_is_sent_and_not_seen() {
    let server = TestServer::new().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let room = bob.create_room(json!({})).await;
    set(&alice, RULES, json!({ "ignored_users": [bob.id] })).await;
    bob.try_invite(&room, &alice).await.ok();
    assert!(alice.sync_with("").await["rooms"].get("invite").is_none());
    set(&alice, RULES, json!({})).await;
    assert!(alice.sync_with("").await["rooms"]["invite"].get(&room).is_some(), "it is there when it is wanted again");
    set(&alice, "m.invite_permission_config", json!({ "default_action": "block" })).await;
    assert!(alice.sync_with("").await["rooms"].get("invite").is_none());
}
