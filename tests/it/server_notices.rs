//! Server notices: <https://spec.matrix.org/v1.19/client-server-api/#server-notices>

use chappe::config::ServerNotices;
use http::Method;
use serde_json::{Value, json};

use crate::support::{Answer, TestServer, User};

const PATH: &str = "/_synapse/admin/v1/send_server_notice";

async fn server() -> (TestServer, User, User) {
    let server = TestServer::with(|config| {
        config.server_notices = Some(ServerNotices {
            system_mxid_localpart: "_server".to_owned(),
            system_mxid_display_name: Some("The agency".to_owned()),
            system_mxid_avatar_url: None,
            room_name: "Notices".to_owned(),
        });
    })
    .await;
    chappe::user::account::create(server.inside(), "root", "password of root".to_owned(), true).await.unwrap();
    let (root, alice) = (server.log_in("root").await, server.user("alice").await);
    (server, root, alice)
}

fn notice(user: &User) -> Value {
    json!({ "user_id": user.id, "content": { "msgtype": "m.text", "body": "hello" } })
}

async fn send(root: &User, user: &User) -> String {
    root.post(PATH, notice(user)).await.ok()["event_id"].as_str().unwrap().to_owned()
}

async fn send_once(root: &User, user: &User, txn_id: &str) -> Answer {
    root.request(Method::PUT, &format!("{PATH}/{txn_id}"), Some(notice(user))).await
}

/// The room that the user is invited to.
async fn invite(user: &User) -> String {
    let sync = user.sync_with("").await;
    let (room, invite) = sync["rooms"]["invite"].as_object().unwrap().iter().next().unwrap();
    assert_eq!(invite["invite_state"]["events"][0]["sender"], "@_server:example.org");
    room.clone()
}

#[tokio::test]
async fn a_notice_comes_in_a_room_that_is_the_users_for_good() {
    let (_, root, alice) = server().await;
    let event = send(&root, &alice).await;
    let room = invite(&alice).await;
    assert_eq!(alice.try_leave(&room).await.error(), (403, "M_CANNOT_LEAVE_SERVER_NOTICE_ROOM"));
    let leave = json!({ "membership": "leave" });
    let refused = alice.set_state(&room, "m.room.member", &alice.id, leave).await;
    assert_eq!(refused.error(), (403, "M_CANNOT_LEAVE_SERVER_NOTICE_ROOM"));
    alice.join(&room).await;
    let shown = alice.event(&room, &event).await.ok();
    assert_eq!((&shown["content"]["body"], &shown["sender"]), (&json!("hello"), &json!("@_server:example.org")));
    assert_eq!(alice.state(&room, "m.room.name", "").await.ok()["name"], "Notices");
    let sender = alice.state(&room, "m.room.member", "@_server:example.org").await.ok();
    assert_eq!(sender["displayname"], "The agency");
    let tags = alice.get(&format!("/v3/user/{}/rooms/{room}/tags", alice.id)).await.ok();
    assert_eq!(tags["tags"], json!({ "m.server_notice": {} }));
    assert_eq!(alice.try_say(&room, "thanks").await.error(), (403, "M_FORBIDDEN"));
    alice.try_leave(&room).await.ok();
    send(&root, &alice).await;
    assert_eq!(invite(&alice).await, room);
    let first = send_once(&root, &alice, "1").await.ok();
    assert_eq!(send_once(&root, &alice, "1").await.ok(), first);
    assert_ne!(send_once(&root, &alice, "2").await.ok(), first);
}

#[tokio::test]
async fn only_administrators_send_notices_to_users_that_there_are() {
    let (server, root, alice) = server().await;
    assert_eq!(alice.request(Method::POST, PATH, None).await.error(), (403, "M_FORBIDDEN"));
    assert_eq!(server.post(PATH, notice(&alice)).await.error(), (401, "M_MISSING_TOKEN"));
    let to = |user: &str| json!({ "user_id": user, "content": {} });
    assert_eq!(root.post(PATH, to("@nobody:example.org")).await.error(), (404, "M_NOT_FOUND"));
    assert_eq!(root.post(PATH, to("@x:elsewhere.org")).await.error(), (400, "M_UNKNOWN"));
    assert_eq!(root.post(PATH, json!({ "user_id": alice.id })).await.error(), (400, "M_BAD_JSON"));
    let login = json!({ "type": "m.login.password", "user": "_server", "password": "" });
    send(&root, &alice).await;
    assert_eq!(server.post("/v3/login", login).await.error(), (403, "M_FORBIDDEN"));
    let plain = TestServer::new().await;
    chappe::user::account::create(plain.inside(), "root", "password of root".to_owned(), true).await.unwrap();
    let (root, alice) = (plain.log_in("root").await, plain.user("alice").await);
    assert_eq!(root.post(PATH, notice(&alice)).await.error(), (400, "M_UNKNOWN"));
}
