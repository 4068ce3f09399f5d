//! Guests: <https://spec.matrix.org/v1.19/client-server-api/#guest-access>

use std::time::Duration;

use chappe::{background, sweep};
use serde_json::{Value, json};

use crate::support::{Signer, TestServer, User};

async fn server() -> TestServer {
    TestServer::with(|config| config.allow_guest_access = true).await
}

async fn guest(server: &TestServer) -> User {
    User::new(server.clone(), &server.post("/v3/register?kind=guest", json!({})).await.ok())
}

/// A room of alice that lets guests in.
async fn open_room(alice: &User) -> String {
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    alice.set(&room, "m.room.guest_access", "", json!({ "guest_access": "can_join" })).await;
    room
}

#[tokio::test]
async fn there_are_none_unless_the_server_takes_them() {
    let server = TestServer::new().await;
    let refused = server.post("/v3/register?kind=guest", json!({})).await;
    assert_eq!(refused.error(), (403, "M_GUEST_ACCESS_FORBIDDEN"));
}

#[tokio::test]
async fn a_guest_needs_no_account_where_others_do() {
    let server = TestServer::with(|config| {
        config.allow_guest_access = true;
        config.allow_registration = false;
    })
    .await;
    let guest = guest(&server).await;
    let who = guest.get("/v3/account/whoami").await.ok();
    assert_eq!((&who["user_id"], &who["is_guest"]), (&json!(guest.id), &json!(true)));
    assert_eq!(server.post("/v3/register", json!({})).await.error(), (403, "M_FORBIDDEN"));
}

#[tokio::test]
async fn of_what_a_new_guest_says_only_the_name_of_his_device_counts() {
    let server = server().await;
    for kind in ["m.login.robot", "m.login.application_service"] {
        let body = json!({
            "type": kind, "username": "alice", "device_id": "X", "refresh_token": true, "inhibit_login": true,
            "initial_device_display_name": "A phone",
        });
        let made = server.post("/v3/register?kind=guest", body).await.ok();
        assert_eq!(made.get("refresh_token"), None);
        let guest = User::new(server.clone(), &made);
        assert!(guest.id.starts_with("@guest-") && guest.device_id != "X", "{made}");
        let device = guest.get(&format!("/v3/devices/{}", guest.device_id)).await.ok();
        assert_eq!(device["display_name"], "A phone");
    }
}

#[tokio::test]
async fn a_guest_gets_in_where_guests_are_let_in_and_does_what_guests_may() {
    let server = server().await;
    let alice = server.user("alice").await;
    let guest = guest(&server).await;
    let closed = alice.create_room(json!({ "preset": "public_chat" })).await;
    for path in [format!("/v3/rooms/{closed}/join"), format!("/v3/join/{closed}")] {
        assert_eq!(guest.post(&path, json!({})).await.error(), (403, "M_GUEST_ACCESS_FORBIDDEN"));
    }
    let by_state = format!("/v3/rooms/{closed}/state/m.room.member/{}", guest.id);
    let refused = guest.put(&by_state, json!({ "membership": "join" })).await;
    assert_eq!(refused.error(), (403, "M_GUEST_ACCESS_FORBIDDEN"));
    // Nor does an invite let him in.
    alice.invite(&closed, &guest).await;
    assert_eq!(
        guest.post(&format!("/v3/rooms/{closed}/join"), json!({})).await.error(),
        (403, "M_GUEST_ACCESS_FORBIDDEN")
    );
    let room = open_room(&alice).await;
    guest.join(&room).await;
    guest.say(&room, "hello").await;
    let name = format!("/v3/profile/{}/displayname", guest.id);
    guest.put(&name, json!({ "displayname": "Somebody" })).await.ok();
    guest.sync_with("").await;
    guest.get("/v3/devices").await.ok();
    guest.get(&format!("/v3/rooms/{room}/messages?dir=b")).await.ok();
    guest.post("/v3/keys/query", json!({ "device_keys": { &alice.id: [] } })).await.ok();
    let file = alice.post("/_matrix/media/v3/upload", json!({ "of": "alice" })).await.ok()["content_uri"].clone();
    let file = file.as_str().unwrap().strip_prefix("mxc://").unwrap();
    assert_eq!(guest.get(&format!("/v1/media/download/{file}")).await.ok(), json!({ "of": "alice" }));
    let avatar = format!("/v3/profile/{}/avatar_url", guest.id);
    let forbidden = [
        guest.put(&avatar, json!({ "avatar_url": "mxc://a/b" })).await,
        guest.post("/v3/createRoom", json!({})).await,
        guest.post(&format!("/v3/rooms/{room}/invite"), json!({ "user_id": alice.id })).await,
        guest.post("/v3/user_directory/search", json!({ "search_term": "a" })).await,
        guest.get("/v3/voip/turnServer").await,
        guest.get("/v3/joined_rooms").await,
        guest.get("/v3/events").await,
        guest.post("/v3/account/password", json!({ "new_password": "x" })).await,
        guest.post("/v3/account/deactivate", json!({})).await,
        guest.post("/_matrix/media/v3/upload", json!({})).await,
    ];
    for answer in forbidden {
        assert_eq!(answer.error(), (403, "M_GUEST_ACCESS_FORBIDDEN"));
    }
    let found = alice.post("/v3/user_directory/search", json!({ "search_term": "Somebody" })).await.ok();
    assert_eq!(found["results"], json!([]));
    guest.leave(&room).await;
}

#[tokio::test]
async fn guests_send_events_later() {
    const DELAYED: &str = "/_matrix/client/unstable/org.matrix.msc4140";
    let server = server().await;
    let alice = server.user("alice").await;
    let guest = guest(&server).await;
    let room = open_room(&alice).await;
    guest.join(&room).await;
    let later = json!({ "delay": 1_000, "content": { "msgtype": "m.text", "body": "later" } });
    let asked = guest.put(&format!("{DELAYED}/rooms/{room}/delayed_event/m.room.message/1"), later).await.ok();
    let id = asked["delay_id"].as_str().unwrap();
    let waiting = guest.get(&format!("{DELAYED}/delayed_events")).await.ok();
    assert_eq!(waiting["delayed_events"][0]["delay_id"], id);
    let one = format!("{DELAYED}/delayed_events/{id}");
    assert_eq!(guest.get(&one).await.ok()["delay_id"], id);
    guest.post(&one, json!({ "action": "send" })).await.ok();
    assert_eq!(alice.history(&room).await.last().unwrap()["content"]["body"], "later");
}

#[tokio::test]
async fn guests_look_into_rooms_that_everybody_may_read() {
    let server = server().await;
    let alice = server.user("alice").await;
    let guest = guest(&server).await;
    let room = alice.create_public_room("world_readable").await;
    let hidden = alice.create_public_room("shared").await;
    let first = guest.get(&format!("/v3/rooms/{room}/initialSync")).await.ok();
    let from = first["messages"]["end"].as_str().unwrap().to_owned();
    let listening = {
        let (guest, path) = (guest.clone(), format!("/v3/events?room_id={room}&from={from}&timeout=30000"));
        tokio::spawn(async move { guest.get(&path).await.ok() })
    };
    tokio::time::sleep(Duration::from_millis(50)).await;
    let said = alice.say(&room, "is anybody there?").await;
    let heard = listening.await.unwrap();
    assert_eq!(heard["chunk"][0]["event_id"], said);
    assert_eq!(guest.get(&format!("/v3/events?room_id={hidden}&timeout=0")).await.error(), (403, "M_FORBIDDEN"));
}

#[tokio::test]
async fn guests_leave_when_a_room_lets_them_in_no_longer() {
    let server = server().await;
    background::start(server.inside());
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let guest = guest(&server).await;
    let rooms = [open_room(&alice).await, open_room(&alice).await];
    for room in &rooms {
        guest.join(room).await;
        bob.join(room).await;
    }
    let mut news = server.inside().wakers.subscribe(server.inside(), (&*guest.id).try_into().unwrap());
    let opened = alice.get(&format!("/v3/rooms/{}/state/m.room.guest_access/?format=event", rooms[1])).await.ok();
    alice.set(&rooms[0], "m.room.guest_access", "", json!({ "guest_access": "forbidden" })).await;
    let redact = format!("/v3/rooms/{}/redact/{}/x", rooms[1], opened["event_id"].as_str().unwrap());
    alice.put(&redact, json!({})).await.ok();
    for room in &rooms {
        let path = format!("/v3/rooms/{room}/joined_members");
        tokio::time::timeout(Duration::from_secs(20), async {
            while alice.get(&path).await.ok()["joined"].get(&guest.id).is_some() {
                let _ = tokio::time::timeout(Duration::from_millis(200), news.changed()).await;
            }
        })
        .await
        .unwrap();
        assert!(alice.get(&path).await.ok()["joined"].get(&bob.id).is_some());
        let back = guest.post(&format!("/v3/rooms/{room}/join"), json!({})).await;
        assert_eq!(back.error(), (403, "M_GUEST_ACCESS_FORBIDDEN"));
    }
    server.inside().shutdown.cancel();
}

#[tokio::test]
async fn a_guest_becomes_a_user_and_keeps_his_name_and_rooms() {
    let server = server().await;
    let alice = server.user("alice").await;
    let (guest, other) = (guest(&server).await, guest(&server).await);
    let room = open_room(&alice).await;
    guest.join(&room).await;
    let name = guest.id.trim_start_matches('@').split(':').next().unwrap().to_owned();
    let body = |username: Option<&str>, token: &str| {
        let auth = json!({ "type": "m.login.dummy" });
        let mut body = json!({ "password": "secret", "guest_access_token": token, "auth": auth });
        body["username"] = username.map_or(Value::Null, Into::into);
        body
    };
    for (username, token, expected) in [
        (Some(&*name), "nonsense", (403, "M_FORBIDDEN")),
        (Some(&*name), &*alice.token, (403, "M_FORBIDDEN")),
        (Some(&*name), &*other.token, (400, "M_INVALID_PARAM")),
        (None, &*guest.token, (400, "M_MISSING_PARAM")),
    ] {
        let answer = server.post("/v3/register", body(username, token)).await;
        assert_eq!(answer.error(), expected, "{username:?}");
    }
    let device_keys = Signer::of_device(&guest).device_keys(&guest);
    guest.post("/v3/keys/upload", json!({ "device_keys": device_keys })).await.ok();
    let path = format!("/v3/sync?since={}&timeout=600000", alice.now().await);
    let waiting = tokio::spawn(async move { alice.get(&path).await.ok() });
    server.until_waiting(1).await;
    let user = User::new(server.clone(), &server.post("/v3/register", body(Some(&name), &guest.token)).await.ok());
    let news = tokio::time::timeout(Duration::from_secs(60), waiting).await.expect("alice still waits").unwrap();
    assert_eq!(news["device_lists"]["changed"], json!([guest.id]), "the guest's device is gone");
    assert_eq!(user.id, guest.id);
    assert_eq!(user.get("/v3/account/whoami").await.ok().get("is_guest"), None);
    assert_eq!(guest.get("/v3/account/whoami").await.error(), (401, "M_UNKNOWN_TOKEN"));
    assert_eq!(user.get("/v3/joined_rooms").await.ok(), json!({ "joined_rooms": [room] }));
    let login = json!({
        "type": "m.login.password", "password": "secret", "identifier": { "type": "m.id.user", "user": name },
    });
    server.post("/v3/login", login).await.ok();
    let again = server.post("/v3/register", body(Some(&name), &guest.token)).await;
    assert_eq!(again.error(), (403, "M_FORBIDDEN"));
}

#[tokio::test]
async fn guests_are_few_and_forgotten_when_they_stay_away() {
    let server = server().await;
    let alice = server.user("alice").await;
    let room = open_room(&alice).await;
    let gone = guest(&server).await;
    gone.join(&room).await;
    for _ in 1..1_000 {
        guest(&server).await;
    }
    let refused = server.post("/v3/register?kind=guest", json!({})).await;
    assert_eq!(refused.error(), (403, "M_GUEST_ACCESS_FORBIDDEN"));
    server.advance(Duration::from_secs(31 * 24 * 60 * 60));
    assert_eq!(sweep::once(server.inside()).await.unwrap() / 1_000, 1);
    assert_eq!(gone.get("/v3/account/whoami").await.error(), (401, "M_UNKNOWN_TOKEN"));
    let joined = alice.get(&format!("/v3/rooms/{room}/joined_members")).await.ok();
    assert_eq!(joined["joined"].as_object().unwrap().len(), 1);
    guest(&server).await;
}
