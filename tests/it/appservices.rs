//! Application services: <https://spec.matrix.org/v1.19/application-service-api/>

use std::{fs, time::Duration};

use chappe::{background, room::typing, user::presence};
use http::Method;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    devices::upload_keys,
    support::{
        Answer, HostedRoom, TestNetwork, TestServer, User,
        listener::{Listener, Received},
        room::{event_id, path},
    },
};

const TOKEN: &str = "token of the bridge";

/// A server with one service, `irc`, whose users begin with `_irc_` and whose aliases with `#irc_`. It looks after users
/// that begin with `shared_`, too.
struct Bridge {
    network: TestNetwork,
    server: TestServer,
    service: Listener,
    _folder: TempDir,
}

impl Bridge {
    async fn new() -> Self {
        Self::with("").await
    }

    /// `more`: further lines of the registration.
    async fn with(more: &str) -> Self {
        let service = Listener::new().await;
        let folder = tempfile::tempdir().unwrap();
        let registration = format!(
            "id: irc\nurl: http://{}\nas_token: {TOKEN}\nhs_token: token of the server\nsender_localpart: ircbot\n\
             protocols: [irc]\nnamespaces:\n  users:\n    - exclusive: true\n      regex: '@_irc_.*:example\\.org'\n    \
             - exclusive: false\n      regex: '@shared_.*:example\\.org'\n  \
             aliases:\n    - exclusive: true\n      regex: '#irc_.*:example\\.org'\n  rooms: []\n{more}",
            service.address,
        );
        fs::write(folder.path().join("irc.yaml"), registration).unwrap();
        let registrations = vec![folder.path().to_owned()];
        let network = TestNetwork::new();
        let server = network.server_with("example.org", |config| config.appservice_registrations = registrations);
        let server = server.await;
        background::start(server.inside());
        Self { network, server, service, _folder: folder }
    }

    async fn request(&self, method: Method, path: &str, body: Value) -> Answer {
        self.server.request(method, path, Some(TOKEN), Some(body)).await
    }

    async fn try_register(&self, name: &str) -> Answer {
        let body = json!({ "type": "m.login.application_service", "username": name, "inhibit_login": true });
        self.request(Method::POST, "/v3/register", body).await
    }

    /// A user of the service.
    async fn ghost(&self, name: &str) -> String {
        self.try_register(name).await.ok()["user_id"].as_str().unwrap().to_owned()
    }

    /// Something that the service does as one of its users.
    async fn act(&self, user: &str, method: Method, path: &str, body: Value) -> Answer {
        let sign = if path.contains('?') { '&' } else { '?' };
        self.request(method, &format!("{path}{sign}user_id={user}"), body).await
    }

    /// The next transaction with anything of this kind in it; what it holds of it.
    async fn told(&self, kind: &str) -> Vec<Value> {
        loop {
            let transaction = self.transaction().await;
            if let Some(told) = transaction.body[kind].as_array().filter(|told| !told.is_empty()) {
                return told.clone();
            }
        }
    }

    async fn transaction(&self) -> Received {
        let received = self.service.next().await;
        assert!(received.path.starts_with("/_matrix/app/v1/transactions/"), "{}", received.path);
        assert_eq!(received.token.as_deref(), Some("token of the server"));
        received
    }

    /// The next event of this type that the service is told.
    async fn event(&self, event_type: &str) -> Value {
        loop {
            let events = self.told("events").await;
            if let Some(event) = events.into_iter().find(|event| event["type"] == event_type) {
                return event;
            }
        }
    }
}

async fn room_with(bridge: &Bridge, alice: &User, ghost: &str) -> String {
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    bridge.act(ghost, Method::POST, &format!("/v3/join/{}", path(&room)), json!({})).await.ok();
    room
}

#[tokio::test]
async fn a_service_acts_as_its_users() {
    let bridge = Bridge::new().await;
    let alice = bridge.server.user("alice").await;
    let who = bridge.request(Method::GET, "/v3/account/whoami", json!({})).await.ok();
    assert_eq!(who, json!({ "user_id": "@ircbot:example.org" }), "and on no device");
    let ghost = bridge.ghost("_irc_bob").await;
    let who = bridge.act(&ghost, Method::GET, "/v3/account/whoami", json!({})).await.ok();
    assert_eq!(who["user_id"], ghost);
    for other in [alice.id.as_str(), "@_irc_nobody:example.org", "@_irc_x:other.org"] {
        let refused = bridge.act(other, Method::GET, "/v3/account/whoami", json!({})).await;
        assert_eq!(refused.error(), (403, "M_FORBIDDEN"), "{other}");
    }
    let room = room_with(&bridge, &alice, &ghost).await;
    let message = json!({ "msgtype": "m.text", "body": "from IRC" });
    let send = format!("/v3/rooms/{room}/send/m.room.message/1");
    let sent = event_id(bridge.act(&ghost, Method::PUT, &send, message.clone()).await);
    assert_eq!(event_id(bridge.act(&ghost, Method::PUT, &send, message).await), sent, "the same transaction");
    assert_eq!(alice.event(&room, &sent).await.ok()["sender"], ghost);
    let members = format!("/v3/rooms/{}/joined_members", path(&room));
    let joined = bridge.request(Method::GET, &members, json!({})).await.ok()["joined"].clone();
    assert!(joined[&ghost].is_object(), "it is enough that one of its users is in the room");
    bridge.act(&ghost, Method::POST, &format!("/v3/rooms/{room}/leave"), json!({})).await.ok();
    assert_eq!(bridge.request(Method::GET, &members, json!({})).await.error(), (403, "M_FORBIDDEN"));
}

#[tokio::test]
async fn as_a_locked_user_a_service_can_only_log_out() {
    let bridge = Bridge::new().await;
    let root = bridge.server.administrator("root").await;
    let ghost = bridge.ghost("_irc_bob").await;
    let lock = format!("/v1/admin/lock/{ghost}");
    root.put(&lock, json!({ "locked": true })).await.ok();
    let who = async || bridge.act(&ghost, Method::GET, "/v3/account/whoami", json!({})).await;
    assert_eq!(who().await.error(), (401, "M_USER_LOCKED"));
    bridge.act(&ghost, Method::POST, "/v3/logout/all", json!({})).await.ok();
    root.put(&lock, json!({ "locked": false })).await.ok();
    assert_eq!(who().await.ok()["user_id"], ghost);
}

#[tokio::test]
async fn namespaces_are_kept() {
    let bridge = Bridge::new().await;
    assert_eq!(bridge.try_register("alice").await.error(), (400, "M_EXCLUSIVE"));
    bridge.ghost("_irc_bob").await;
    assert_eq!(bridge.try_register("_irc_bob").await.error(), (400, "M_USER_IN_USE"));
    let body = json!({ "username": "_irc_eve", "password": "x", "auth": { "type": "m.login.dummy" } });
    assert_eq!(bridge.server.post("/v3/register", body).await.error(), (400, "M_EXCLUSIVE"));
    let available = bridge.server.get("/v3/register/available?username=ircbot").await;
    assert_eq!(available.error(), (400, "M_USER_IN_USE"));
    assert_eq!(bridge.server.get("/v3/register/available?username=_irc_eve").await.error(), (400, "M_EXCLUSIVE"));
    let service = |token: Option<&'static str>| {
        let body = json!({ "type": "m.login.application_service", "username": "_irc_eve" });
        let server = bridge.server.clone();
        async move { server.request(Method::POST, "/v3/register", token, Some(body)).await }
    };
    assert_eq!(service(None).await.error(), (401, "M_MISSING_TOKEN"));
    assert_eq!(service(Some("another token")).await.error(), (401, "M_UNKNOWN_TOKEN"));
    let alice = bridge.server.user("alice").await;
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    let alias = |name: &str| format!("/v3/directory/room/{}", path(&format!("#{name}:example.org")));
    let body = json!({ "room_id": room });
    assert_eq!(alice.put(&alias("irc_office"), body.clone()).await.error(), (400, "M_EXCLUSIVE"));
    let create = json!({ "preset": "public_chat", "room_alias_name": "irc_office" });
    assert_eq!(alice.post("/v3/createRoom", create.clone()).await.error(), (400, "M_EXCLUSIVE"));
    let room = bridge.request(Method::POST, "/v3/createRoom", create).await.ok()["room_id"].clone();
    let body = json!({ "room_id": room });
    assert_eq!(bridge.request(Method::PUT, &alias("office"), body).await.error(), (400, "M_EXCLUSIVE"));
}

#[tokio::test]
async fn a_service_logs_its_users_in() {
    let bridge = Bridge::new().await;
    let alice = bridge.server.user("alice").await;
    bridge.ghost("_irc_bob").await;
    let body = |name: &str| {
        let identifier = json!({ "type": "m.id.user", "user": name });
        json!({ "type": "m.login.application_service", "identifier": identifier })
    };
    let log_in = async |name: &str| bridge.request(Method::POST, "/v3/login", body(name)).await;
    let bob = User::new(bridge.server.clone(), &log_in("_irc_bob").await.ok());
    assert_eq!(bob.get("/v3/account/whoami").await.ok()["device_id"], bob.device_id);
    assert_eq!(log_in("alice").await.error(), (400, "M_EXCLUSIVE"));
    assert_eq!(log_in("_irc_eve").await.error(), (403, "M_FORBIDDEN"));
    for (token, expected) in [
        (None, (401, "M_MISSING_TOKEN")),
        (Some("another token"), (403, "M_FORBIDDEN")),
        (Some(alice.token.as_str()), (403, "M_FORBIDDEN")),
    ] {
        let refused = bridge.server.request(Method::POST, "/v3/login", token, Some(body("_irc_bob"))).await;
        assert_eq!(refused.error(), expected, "{token:?}");
    }
    let flows = bridge.server.get("/v3/login").await.ok()["flows"].clone();
    assert!(flows.as_array().unwrap().contains(&json!({ "type": "m.login.application_service" })), "{flows}");
}

#[tokio::test]
async fn events_come_in_order_until_they_are_taken() {
    let bridge = Bridge::new().await;
    let alice = bridge.server.user("alice").await;
    let elsewhere = alice.create_room(json!({ "preset": "private_chat" })).await;
    let ghost = bridge.ghost("_irc_bob").await;
    let room = room_with(&bridge, &alice, &ghost).await;
    let member = bridge.event("m.room.member").await;
    assert_eq!((&member["room_id"], &member["sender"]), (&json!(room), &json!(ghost)));
    assert!(member["unsigned"]["age"].is_number() && member["event_id"].is_string(), "{member}");
    bridge.service.answers(|_| (500, json!({})));
    alice.say(&elsewhere, "not for the bridge").await;
    alice.send(&room, "org.matrix.dummy_event", json!({})).await.ok();
    let first = alice.say(&room, "one").await;
    let failed = bridge.transaction().await;
    assert_eq!(failed.body["events"][0]["event_id"], first);
    let second = alice.say(&room, "two").await;
    bridge.service.answers(|_| (200, json!({})));
    let mut again = bridge.transaction().await;
    assert_eq!((&again.path, &again.body), (&failed.path, &failed.body), "nothing is added when it is repeated");
    // It may have been repeated once more before it was answered otherwise.
    while again.path == failed.path {
        again = bridge.transaction().await;
    }
    let events = again.body["events"].as_array().unwrap();
    assert_eq!((events.len(), &events[0]["event_id"]), (1, &json!(second)));
}

#[tokio::test]
async fn what_it_did_not_ask_for_a_service_is_not_told() {
    let bridge = Bridge::new().await;
    let alice = bridge.server.user("alice").await;
    let ghost = bridge.ghost("_irc_bob").await;
    let room = room_with(&bridge, &alice, &ghost).await;
    alice.put(&format!("/v3/rooms/{room}/typing/{}", alice.id), json!({ "typing": true })).await.ok();
    alice.say(&room, "one").await;
    loop {
        let transaction = bridge.transaction().await;
        assert!(transaction.body.get("ephemeral").is_none(), "{}", transaction.body);
        if transaction.body["events"][0]["content"]["body"] == "one" {
            break;
        }
    }
}

#[tokio::test]
async fn typing_receipts_and_presence_come_if_asked_for() {
    let bridge = Bridge::with("receive_ephemeral: true\n").await;
    let alice = bridge.server.user("alice").await;
    let ghost = bridge.ghost("_irc_bob").await;
    let room = room_with(&bridge, &alice, &ghost).await;
    let message = alice.say(&room, "one").await;
    let next = async |event_type: &str| loop {
        let found = bridge.told("ephemeral").await.into_iter().find(|event| event["type"] == event_type);
        if let Some(event) = found {
            return event;
        }
    };
    alice.put(&format!("/v3/rooms/{room}/typing/{}", alice.id), json!({ "typing": true })).await.ok();
    let typing = next("m.typing").await;
    assert_eq!(typing, json!({ "type": "m.typing", "room_id": room, "content": { "user_ids": [alice.id] } }));
    let receipt = async |kind: &str, event: &str| {
        alice.post(&format!("/v3/rooms/{room}/receipt/{kind}/{}", path(event)), json!({})).await.ok();
    };
    receipt("m.read.private", &message).await;
    receipt("m.read", &message).await;
    let public = next("m.receipt").await;
    assert!(
        public["content"][&message]["m.read"][&alice.id]["ts"].is_number(),
        "the private one is not told: {public}"
    );
    assert_eq!(public["room_id"], room);
    let status = json!({ "presence": "online", "status_msg": "here" });
    alice.put(&format!("/v3/presence/{}/status", alice.id), status).await.ok();
    let presence = next("m.presence").await;
    assert_eq!((&presence["sender"], &presence["content"]["status_msg"]), (&json!(alice.id), &json!("here")));

    bridge.server.advance(Duration::from_secs(31));
    presence::expire(bridge.server.inside());
    alice.sync_with("set_presence=offline").await; // which finds first that she no longer types
    typing::expire(bridge.server.inside()).await;
    let (mut gone, mut typing) = (None, None); // in any order: others look who stopped, too
    while gone.is_none() || typing.is_none() {
        for event in bridge.told("ephemeral").await {
            let of_type = match event["type"].as_str().unwrap() {
                "m.presence" => &mut gone,
                "m.typing" => &mut typing,
                _ => continue,
            };
            of_type.get_or_insert(event);
        }
    }
    let (gone, typing) = (gone.unwrap(), typing.unwrap());
    assert_eq!((&gone["sender"], &gone["content"]["presence"]), (&json!(alice.id), &json!("offline")));
    assert_eq!(typing["content"]["user_ids"], json!([]));
}

#[tokio::test]
async fn who_types_and_reads_elsewhere_is_told_too() {
    let bridge = Bridge::with("receive_ephemeral: true\n").await;
    let ghost = bridge.ghost("_irc_bob").await;
    let peer = bridge.network.peer("there");
    let room = HostedRoom::new(&peer);
    let alice = peer.user("alice");
    bridge.act(&ghost, Method::POST, &format!("/v3/join/{}?via=there", path(&room.id)), json!({})).await.ok();
    let read = room.say("read");
    room.send(&bridge.server, vec![room.event(&read)]).await.ok();
    let edus = json!([
        { "edu_type": "m.typing", "content": { "room_id": room.id, "user_id": alice, "typing": true } },
        { "edu_type": "m.receipt", "content": { &room.id: { "m.read": {
            &alice: { "data": { "ts": 5 }, "event_ids": [read] },
        } } } },
        { "edu_type": "m.presence", "content": { "push": [{ "user_id": alice, "presence": "online" }] } },
    ]);
    let body = json!({ "origin": "there", "origin_server_ts": 1, "pdus": [], "edus": edus });
    peer.put(&bridge.server, "/v1/send/edus", body).await.ok();
    let is_meant = |event: &Value| event["type"] != "m.presence" || event["sender"] == alice;
    let mut told = Vec::new();
    while told.len() < 3 {
        told.extend(bridge.told("ephemeral").await.into_iter().filter(is_meant));
    }
    let of_type = |event_type: &str| told.iter().find(|event| event["type"] == event_type).unwrap();
    assert_eq!(of_type("m.typing")["content"], json!({ "user_ids": [alice] }));
    assert_eq!(of_type("m.receipt")["content"], json!({ &read: { "m.read": { &alice: { "ts": 5 } } } }));
    assert_ne!(of_type("m.presence")["content"]["presence"], "offline");
    bridge.server.advance(Duration::from_secs(30 * 60));
    presence::expire(bridge.server.inside());
    let gone = loop {
        let told = bridge.told("ephemeral").await;
        if let Some(event) = told.into_iter().find(|event| event["sender"] == alice) {
            break event;
        }
    };
    assert_eq!(gone["content"]["presence"], "offline");
}

#[tokio::test]
async fn devices_of_ghosts_are_managed_and_get_messages() {
    let bridge = Bridge::with("receive_ephemeral: true\norg.matrix.msc3202: true\n").await;
    let alice = bridge.server.user("alice").await;
    let ghost = bridge.ghost("_irc_bob").await;
    let device = "/v3/devices/BRIDGE";
    let made = bridge.act(&ghost, Method::PUT, device, json!({ "display_name": "Bridge" })).await;
    assert_eq!(made.status, 201);
    assert_eq!(bridge.act(&ghost, Method::PUT, device, json!({ "display_name": "B" })).await.status, 200);
    assert_eq!(alice.put(device, json!({ "display_name": "x" })).await.error(), (404, "M_NOT_FOUND"));
    let who = bridge.act(&ghost, Method::GET, "/v3/account/whoami?device_id=BRIDGE", json!({})).await.ok();
    assert_eq!(who["device_id"], "BRIDGE");
    let unknown = bridge.act(&ghost, Method::GET, "/v3/account/whoami?device_id=NONE", json!({})).await;
    assert_eq!(unknown.error(), (400, "M_UNKNOWN_DEVICE"));
    let no_device = bridge.act(&ghost, Method::POST, "/v3/keys/upload", json!({})).await;
    assert_eq!(no_device.error(), (400, "M_MISSING_PARAM"));
    let messages = json!({ "messages": { &ghost: { "BRIDGE": { "secret": 1 } } } });
    alice.put("/v3/sendToDevice/org.example.secret/1", messages).await.ok();
    let told = loop {
        let transaction = bridge.transaction().await;
        if transaction.body.get("de.sorunome.msc2409.to_device").is_some() {
            break transaction.body;
        }
    };
    let expected = json!([{
        "type": "org.example.secret", "sender": alice.id, "content": { "secret": 1 },
        "to_user_id": ghost, "to_device_id": "BRIDGE",
    }]);
    assert_eq!(told["de.sorunome.msc2409.to_device"], expected);
    let counts = &told["org.matrix.msc3202.device_one_time_keys_count"][&ghost]["BRIDGE"];
    assert_eq!(counts["signed_curve25519"], 0);
    let sync = bridge.act(&ghost, Method::GET, "/v3/sync?device_id=BRIDGE", json!({})).await.ok();
    assert!(sync.get("to_device").is_none_or(|to| to["events"].as_array().is_none_or(Vec::is_empty)), "told once");
    bridge.act(&ghost, Method::DELETE, device, json!({})).await.ok();
    let devices = bridge.act(&ghost, Method::GET, "/v3/devices", json!({})).await.ok();
    assert_eq!(devices["devices"], json!([]));
}

#[tokio::test]
async fn whom_a_service_shares_gets_his_messages_as_well() {
    let bridge = Bridge::with("receive_ephemeral: true\n").await;
    let (alice, carol) = (bridge.server.user("alice").await, bridge.server.user("shared_carol").await);
    let messages = json!({ "messages": { &carol.id: { "*": { "secret": 1 } } } });
    alice.put("/v3/sendToDevice/org.example.secret/1", messages).await.ok();
    let told = bridge.told("de.sorunome.msc2409.to_device").await;
    assert_eq!(told[0]["to_user_id"], carol.id);
    let events = carol.get("/v3/sync").await.ok()["to_device"]["events"].clone();
    assert_eq!(events[0]["content"], json!({ "secret": 1 }), "{events}");
}

#[tokio::test]
async fn of_devices_a_service_hears_only_where_it_meets_their_user() {
    let bridge = Bridge::with("org.matrix.msc3202: true\n").await;
    let (alice, carol) = (bridge.server.user("alice").await, bridge.server.user("carol").await);
    let ghost = bridge.ghost("_irc_bob").await;
    let mut told = Vec::new();
    let mut until_told = async |user: &User| loop {
        let transaction = bridge.transaction().await;
        told = transaction.body["org.matrix.msc3202.device_lists"]["changed"].as_array().cloned().unwrap_or_default();
        assert!(!told.contains(&json!(carol.id)), "{told:?}");
        if told.contains(&json!(user.id)) {
            break;
        }
    };
    let room = room_with(&bridge, &alice, &ghost).await;
    upload_keys(&carol).await;
    upload_keys(&alice).await;
    until_told(&alice).await;
    // Of what changes while he is not there it does not hear, so it is told to look when he comes.
    let dan = bridge.server.user("dan").await;
    upload_keys(&dan).await;
    alice.act(&room, "invite", json!({ "user_id": dan.id })).await.ok();
    dan.act(&room, "join", json!({})).await.ok();
    until_told(&dan).await;
}

#[tokio::test]
async fn a_service_says_when_things_happened() {
    let bridge = Bridge::new().await;
    let alice = bridge.server.user("alice").await;
    let ghost = bridge.ghost("_irc_bob").await;
    let room = room_with(&bridge, &alice, &ghost).await;
    let message = json!({ "msgtype": "m.text", "body": "old" });
    let send = |txn: u8| format!("/v3/rooms/{room}/send/m.room.message/{txn}?ts=1000");
    let sent = event_id(bridge.act(&ghost, Method::PUT, &send(1), message.clone()).await);
    assert_eq!(alice.event(&room, &sent).await.ok()["origin_server_ts"], 1000);
    let sent = event_id(alice.put(&send(2), message).await);
    assert_ne!(alice.event(&room, &sent).await.ok()["origin_server_ts"], 1000, "users are not believed");
}

#[tokio::test]
async fn unknown_users_and_aliases_are_asked_for() {
    let bridge = Bridge::new().await;
    let alice = bridge.server.user("alice").await;
    bridge.service.answers(|_| (404, json!({})));
    let profile = alice.get("/v3/profile/@_irc_eve:example.org").await;
    assert_eq!(profile.error(), (404, "M_NOT_FOUND"));
    let asked = bridge.service.next().await;
    assert_eq!((asked.method, asked.path.as_str()), (Method::GET, "/_matrix/app/v1/users/@_irc_eve:example.org"));
    let alias = path("#irc_office:example.org");
    let peer = bridge.network.peer("there");
    let by_peer = format!("/v1/query/directory?room_alias={alias}");
    let answers = [
        alice.get(&format!("/v3/directory/room/{alias}")).await,
        alice.post(&format!("/v3/join/{alias}"), json!({})).await,
        alice.post(&format!("/v3/knock/{alias}"), json!({})).await,
        peer.get(&bridge.server, &by_peer).await,
    ];
    for answer in answers {
        assert_eq!(answer.error(), (404, "M_NOT_FOUND"));
        assert_eq!(bridge.service.next().await.path, format!("/_matrix/app/v1/rooms/{alias}"));
    }
}

#[tokio::test]
async fn a_service_that_knows_older_paths_only_is_called_there() {
    const NEW: &str = "/_matrix/app/v1";
    let bridge = Bridge::new().await;
    let alice = bridge.server.user("alice").await;
    let ghost = bridge.ghost("_irc_bob").await;
    bridge.service.answers(|asked| match asked.path.as_str() {
        path if path.starts_with(NEW) => (404, json!({ "errcode": "M_UNRECOGNIZED" })),
        path if path.starts_with("/transactions/") => (200, json!({})),
        "/_matrix/app/unstable/thirdparty/user/irc" => (200, json!([{ "userid": "@_irc_bob:example.org" }])),
        _ => (404, json!({ "errcode": "M_NOT_FOUND" })),
    });
    let room = room_with(&bridge, &alice, &ghost).await;
    let said = alice.say(&room, "one").await;
    loop {
        let (new, old) = (bridge.transaction().await, bridge.service.next().await);
        assert_eq!((format!("{NEW}{}", old.path), &old.body), (new.path, &new.body));
        assert_eq!((new.query.as_str(), old.query.as_str()), ("", "access_token=token+of+the+server"));
        assert_eq!((old.method, old.token), (Method::PUT, new.token));
        if old.body["events"].as_array().unwrap().iter().any(|event| event["event_id"] == said) {
            break;
        }
    }
    let profile = alice.get("/v3/profile/@_irc_eve:example.org").await;
    assert_eq!(profile.error(), (404, "M_NOT_FOUND"));
    for prefix in [NEW, ""] {
        assert_eq!(bridge.service.next().await.path, format!("{prefix}/users/@_irc_eve:example.org"));
    }
    let users = alice.get("/v3/thirdparty/user/irc?nick=bob").await.ok();
    assert_eq!(users[0]["userid"], "@_irc_bob:example.org");
}

#[tokio::test]
async fn a_service_makes_aliases_of_rooms_that_it_is_not_in() {
    let bridge = Bridge::new().await;
    let alice = bridge.server.user("alice").await;
    let room = alice.create_room(json!({})).await;
    let alias = |name: &str| format!("/v3/directory/room/{}", path(&format!("#irc_{name}:example.org")));
    let made = bridge.request(Method::PUT, &alias("office"), json!({ "room_id": room })).await;
    assert_eq!(made.ok(), json!({}));
    assert_eq!(alice.get(&alias("office")).await.ok()["room_id"], *room);
    let unknown = bridge.request(Method::PUT, &alias("other"), json!({ "room_id": "!unknown:example.org" })).await;
    assert_eq!(unknown.error(), (403, "M_FORBIDDEN"));
}

#[tokio::test]
async fn a_service_is_asked_for_users_who_are_invited() {
    let bridge = Bridge::new().await;
    let alice = bridge.server.user("alice").await;
    bridge.service.answers(|_| (404, json!({})));
    let room = alice.create_room(json!({ "invite": ["@_irc_first:example.org"] })).await;
    alice.post(&format!("/v3/rooms/{room}/invite"), json!({ "user_id": "@_irc_later:example.org" })).await.ok();
    for name in ["first", "later"] {
        let mut asked = bridge.service.next().await;
        while asked.path.starts_with("/_matrix/app/v1/transactions/") {
            asked = bridge.service.next().await;
        }
        assert_eq!(asked.path, format!("/_matrix/app/v1/users/@_irc_{name}:example.org"));
    }
}

#[tokio::test]
async fn a_service_is_pinged() {
    let bridge = Bridge::new().await;
    let ping = async |id: &str| {
        let path = format!("/v1/appservice/{id}/ping");
        bridge.request(Method::POST, &path, json!({ "transaction_id": "meow" })).await
    };
    assert!(ping("irc").await.ok()["duration_ms"].is_u64());
    let pinged = bridge.service.next().await;
    assert_eq!((pinged.path.as_str(), &pinged.body), ("/_matrix/app/v1/ping", &json!({ "transaction_id": "meow" })));
    bridge.service.answers(|_| (403, json!({ "errcode": "M_FORBIDDEN" })));
    let refused = ping("irc").await;
    assert_eq!(refused.error(), (502, "M_BAD_STATUS"));
    assert_eq!(
        (&refused.body["status"], &refused.body["body"]),
        (&json!(403), &json!("{\"errcode\":\"M_FORBIDDEN\"}"))
    );
    assert_eq!(ping("other").await.error(), (403, "M_FORBIDDEN"));
    let alice = bridge.server.user("alice").await;
    for (token, expected) in [
        (None, (401, "M_MISSING_TOKEN")),
        (Some("another token"), (403, "M_FORBIDDEN")),
        (Some(alice.token.as_str()), (403, "M_FORBIDDEN")),
    ] {
        let refused = bridge.server.request(Method::POST, "/v1/appservice/irc/ping", token, Some(json!({}))).await;
        assert_eq!(refused.error(), expected, "{token:?}");
    }
}

#[tokio::test]
async fn other_networks_are_looked_up() {
    let bridge = Bridge::new().await;
    let alice = bridge.server.user("alice").await;
    let protocol =
        json!({ "user_fields": ["nick"], "location_fields": [], "icon": "", "field_types": {}, "instances": [] });
    let shown = protocol.clone();
    bridge.service.answers(move |asked| match asked.path.as_str() {
        "/_matrix/app/v1/thirdparty/protocol/irc" => (200, shown.clone()),
        "/_matrix/app/v1/thirdparty/user/irc" => {
            assert_eq!(asked.query, "nick=bob");
            (200, json!([{ "userid": "@_irc_bob:example.org", "protocol": "irc", "fields": {} }]))
        }
        _ => (404, json!({})),
    });
    assert_eq!(alice.get("/v3/thirdparty/protocols").await.ok(), json!({ "irc": protocol }));
    assert_eq!(alice.get("/v3/thirdparty/protocol/irc").await.ok(), protocol);
    assert_eq!(alice.get("/v3/thirdparty/protocol/xmpp").await.error(), (404, "M_NOT_FOUND"));
    let users = alice.get("/v3/thirdparty/user/irc?nick=bob").await.ok();
    assert_eq!(users[0]["userid"], "@_irc_bob:example.org");
    // Who asks is not what is asked for.
    let by_query = format!("/v3/thirdparty/user/irc?access_token={}&nick=bob", alice.token);
    assert_eq!(bridge.server.get(&by_query).await.ok(), users);
    let ghost = bridge.ghost("_irc_bob").await;
    assert_eq!(bridge.act(&ghost, Method::GET, "/v3/thirdparty/user/irc?nick=bob", json!({})).await.ok(), users);
    assert_eq!(alice.get("/v3/thirdparty/location/irc").await.error(), (404, "M_NOT_FOUND"));
}

#[tokio::test]
async fn a_service_lists_the_rooms_of_its_networks() {
    let bridge = Bridge::new().await;
    let alice = bridge.server.user("alice").await;
    let create = json!({ "preset": "public_chat", "name": "Bridged" });
    let room = bridge.request(Method::POST, "/v3/createRoom", create).await.ok()["room_id"].clone();
    let listed = json!({ "preset": "public_chat", "name": "Own", "visibility": "public" });
    let own = alice.create_room(listed).await;
    let list = format!("/v3/directory/list/appservice/libera/{}", path(room.as_str().unwrap()));
    let public = json!({ "visibility": "public" });
    assert_eq!(alice.put(&list, public.clone()).await.error(), (401, "M_UNKNOWN_TOKEN"));
    bridge.request(Method::PUT, &list, public).await.ok();
    let instances = json!([{ "network_id": "libera", "desc": "Libera", "fields": {} }]);
    bridge.service.answers(move |_| (200, json!({ "instances": instances })));
    let protocol = alice.get("/v3/thirdparty/protocol/irc").await.ok();
    let instance = protocol["instances"][0]["instance_id"].clone();
    let rooms = async |query: Value| {
        let found = alice.post("/v3/publicRooms", query).await.ok();
        let rooms = found["chunk"].as_array().unwrap().iter();
        rooms.map(|room| room["room_id"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(rooms(json!({})).await, [json!(own)]);
    assert_eq!(rooms(json!({ "third_party_instance_id": instance })).await, std::slice::from_ref(&room));
    assert!(rooms(json!({ "third_party_instance_id": "irc|other" })).await.is_empty());
    assert_eq!(rooms(json!({ "include_all_networks": true })).await.len(), 2);
    bridge.request(Method::PUT, &list, json!({ "visibility": "private" })).await.ok();
    assert!(rooms(json!({ "third_party_instance_id": instance })).await.is_empty());
}
