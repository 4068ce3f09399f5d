//! Being told of events by push gateways: <https://spec.matrix.org/v1.19/client-server-api/#push-notifications>

use std::time::Duration;

use axum::{Router, routing::post};
use chappe::background;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::{
    receipts::read,
    support::{TestNetwork, TestServer, User, auth_of, listener::Listener, room::event_id},
};

const PATH: &str = "/_matrix/push/v1/notify";

async fn server() -> TestServer {
    let server = TestServer::with_network(|config| config.push.allow_http_gateways = true).await;
    background::start(server.inside());
    server
}

fn pusher(pushkey: &str, data: Value) -> Value {
    json!({
        "kind": "http", "app_id": "org.example.app", "pushkey": pushkey, "app_display_name": "App",
        "device_display_name": "Phone", "profile_tag": "tag", "lang": "fr", "data": data,
    })
}

async fn set(user: &User, body: Value) {
    user.post("/v3/pushers/set", body).await.ok();
}

async fn pushers(user: &User) -> Vec<Value> {
    user.get("/v3/pushers").await.ok()["pushers"].as_array().unwrap().clone()
}

fn at(gateway: &Listener) -> Value {
    json!({ "url": format!("http://{}{PATH}", gateway.address) })
}

/// The next notification that a gateway is told.
async fn next(gateway: &Listener) -> Value {
    let received = gateway.next().await;
    assert_eq!((received.method.as_str(), received.path.as_str()), ("POST", PATH));
    received.body["notification"].clone()
}

/// Bob, who has a pusher, and Alice talk with a third one in the room.
struct Chat {
    alice: User,
    bob: User,
    room: String,
}

impl Chat {
    async fn new(server: &TestServer) -> Self {
        let (alice, bob) = (server.user("alice").await, server.user("bob").await);
        let room = alice.create_room(json!({ "preset": "public_chat", "name": "Office" })).await;
        bob.join(&room).await;
        server.user("carol").await.join(&room).await;
        Self { alice, bob, room }
    }

    /// Alice speaks to bob.
    async fn mention(&self) -> (String, Value) {
        let content = json!({ "msgtype": "m.text", "body": "hello", "m.mentions": { "user_ids": [self.bob.id] } });
        (event_id(self.alice.send(&self.room, "m.room.message", content.clone()).await), content)
    }
}

#[tokio::test]
async fn pushers_are_set_listed_and_removed() {
    let server = server().await;
    let alice = server.user("alice").await;
    let url = format!("https://push.example{PATH}");
    let data = json!({ "url": url, "format": "event_id_only", "own": { "key": 1 } });
    set(&alice, pusher("key", data.clone())).await;
    let listed = pushers(&alice).await;
    assert_eq!(listed.len(), 1);
    for (name, value) in pusher("key", data.clone()).as_object().unwrap() {
        assert_eq!(&listed[0][name], value, "{name}");
    }
    assert_eq!(listed[0]["org.matrix.msc3881.device_id"], alice.device_id);
    let mut changed = pusher("key", data);
    changed["lang"] = json!("en");
    set(&alice, changed).await;
    assert_eq!(pushers(&alice).await[0]["lang"], "en");
    set(&alice, json!({ "kind": null, "app_id": "org.example.app", "pushkey": "other" })).await;
    assert_eq!(pushers(&alice).await.len(), 1);
    set(&alice, json!({ "kind": null, "app_id": "org.example.app", "pushkey": "key" })).await;
    assert!(pushers(&alice).await.is_empty());
}

#[tokio::test]
async fn wrong_pushers_are_refused() {
    let server = TestServer::new().await; // as it is for everybody: only https
    let alice = server.user("alice").await;
    let url = format!("https://push.example{PATH}");
    let good = pusher("key", json!({ "url": url }));
    for missing in ["kind", "app_id", "pushkey", "app_display_name", "device_display_name", "lang", "data"] {
        let mut body = good.clone();
        body.as_object_mut().unwrap().remove(missing);
        assert_eq!(alice.post("/v3/pushers/set", body).await.error(), (400, "M_MISSING_PARAM"), "{missing}");
    }
    assert_eq!(alice.post("/v3/pushers/set", pusher("key", json!({}))).await.error(), (400, "M_MISSING_PARAM"));
    let wrong = [
        ("kind", json!("pigeon")),
        ("app_id", json!("x".repeat(65))),
        ("pushkey", json!("x".repeat(513))),
        ("data", json!({ "url": "https://push.example/elsewhere" })),
        ("data", json!({ "url": format!("http://push.example{PATH}") })),
        ("data", json!({ "url": format!("file://{PATH}") })),
        ("data", json!({ "url": "nonsense" })),
    ];
    for (name, value) in wrong {
        let mut body = good.clone();
        body[name] = value.clone();
        assert_eq!(alice.post("/v3/pushers/set", body).await.error(), (400, "M_INVALID_PARAM"), "{name} {value}");
    }
    assert_eq!(alice.post("/v3/pushers/set", json!({ "kind": 1 })).await.errcode(), "M_MISSING_PARAM");
    assert!(pushers(&alice).await.is_empty());
}

#[tokio::test]
async fn a_pusher_goes_with_its_device() {
    let server = server().await;
    let alice = server.user("alice").await;
    let (phone, tablet) = (server.log_in("alice").await, server.log_in("alice").await);
    let data = || json!({ "url": format!("https://push.example{PATH}") });
    for (device, key) in [(&alice, "a"), (&phone, "p"), (&tablet, "t")] {
        set(device, pusher(key, data())).await;
    }
    let mut switched = pusher("p", data());
    switched["org.matrix.msc3881.enabled"] = json!(false);
    set(&alice, switched).await;
    let of_phone = pushers(&alice).await.into_iter().find(|pusher| pusher["pushkey"] == "p").unwrap();
    assert_eq!(of_phone["org.matrix.msc3881.enabled"], false);
    assert_eq!(of_phone["org.matrix.msc3881.device_id"], phone.device_id, "whoever switches it");
    phone.post("/v3/logout", json!({})).await.ok();
    let keys =
        |pushers: Vec<Value>| pushers.iter().map(|p| p["pushkey"].as_str().unwrap().to_owned()).collect::<Vec<_>>();
    assert_eq!(keys(pushers(&alice).await), ["a", "t"]);
    let change = json!({ "new_password": "another one", "auth": auth_of("alice") });
    alice.post("/v3/account/password", change).await.ok();
    assert_eq!(keys(pushers(&alice).await), ["a"], "that of the device that changed it stays");
}

#[tokio::test]
async fn a_pushkey_has_one_user_unless_they_share_it() {
    let server = server().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let data = || json!({ "url": format!("https://push.example{PATH}") });
    set(&alice, pusher("key", data())).await;
    let mut shared = pusher("key", data());
    shared["append"] = json!(true);
    set(&bob, shared).await;
    assert_eq!((pushers(&alice).await.len(), pushers(&bob).await.len()), (1, 1));
    set(&bob, pusher("key", data())).await;
    assert_eq!((pushers(&alice).await.len(), pushers(&bob).await.len()), (0, 1));
}

#[tokio::test]
async fn a_gateway_is_told_of_what_the_rules_say() {
    let server = server().await;
    let chat = Chat::new(&server).await;
    let gateway = Listener::new().await;
    let mut data = at(&gateway);
    data["own"] = json!({ "key": 1 });
    set(&chat.bob, pusher("key", data)).await;
    let name = format!("/v3/profile/{}/displayname", chat.alice.id);
    chat.alice.put(&name, json!({ "displayname": "Alice A." })).await.ok();
    chat.alice.set(&chat.room, "m.room.topic", "", json!({ "topic": "no notification" })).await;
    let (event_id, content) = chat.mention().await;
    let told = next(&gateway).await;
    assert_eq!(told["event_id"], event_id);
    assert_eq!(told["room_id"], chat.room);
    assert_eq!(told["type"], "m.room.message");
    assert_eq!(told["sender"], chat.alice.id);
    assert_eq!(told["sender_display_name"], "Alice A.");
    assert_eq!(told["room_name"], "Office");
    assert_eq!(told["content"], content);
    assert_eq!(told["counts"], json!({ "unread": 1 }));
    let device = &told["devices"][0];
    assert_eq!((&device["app_id"], &device["pushkey"]), (&json!("org.example.app"), &json!("key")));
    assert_eq!(device["data"], json!({ "own": { "key": 1 } }), "all but the address");
    assert_eq!(device["tweaks"], json!({ "sound": "default", "highlight": true }), "it names him");
    assert_eq!(device["pushkey_ts"], 1_767_225_600);
    chat.alice.say(&chat.room, "another").await;
    let told = next(&gateway).await;
    assert_eq!(told["counts"], json!({ "unread": 2 }));
    assert!(told["devices"][0]["tweaks"].get("highlight").is_none_or(|highlight| highlight == false));
    let rule = json!({ "pattern": "urgent", "actions": ["notify", { "set_tweak": "org.example.color" }] });
    chat.bob.put("/v3/pushrules/global/content/urgent", rule).await.ok();
    chat.alice.say(&chat.room, "an urgent one").await;
    let told = next(&gateway).await;
    assert_eq!(told["devices"][0]["tweaks"], json!({ "org.example.color": true }), "what has no value is true");
}

#[tokio::test]
async fn an_app_that_wants_ids_only_gets_no_more() {
    let server = server().await;
    let chat = Chat::new(&server).await;
    let gateway = Listener::new().await;
    let mut data = at(&gateway);
    data["format"] = json!("event_id_only");
    set(&chat.bob, pusher("key", data)).await;
    let event_id = chat.alice.say(&chat.room, "hello bob").await;
    let told = next(&gateway).await;
    assert_eq!(told["event_id"], event_id);
    for absent in ["content", "sender", "type", "room_name", "sender_display_name"] {
        assert!(told.get(absent).is_none(), "{absent}: {told}");
    }
    assert_eq!(told["devices"][0]["data"]["format"], "event_id_only");
}

#[tokio::test]
async fn an_invitation_is_told() {
    let server = server().await;
    let (alice, bob, carol) = (server.user("alice").await, server.user("bob").await, server.user("carol").await);
    let gateway = Listener::new().await;
    set(&bob, pusher("key", at(&gateway))).await;
    let rules = format!("/v3/user/{}/account_data/org.matrix.msc4155.invite_permission_config", bob.id);
    bob.put(&rules, json!({ "ignored_users": [carol.id] })).await.ok();
    carol.create_room(json!({ "preset": "private_chat", "invite": [bob.id] })).await; // of this he is told nothing
    let room = alice.create_room(json!({ "preset": "private_chat", "invite": [bob.id] })).await;
    let told = next(&gateway).await;
    assert_eq!((&told["type"], &told["room_id"]), (&json!("m.room.member"), &json!(room)));
    assert_eq!(told["user_is_target"], true);
}

/// What the gateway `push.example` is told.
fn gateway_in(network: &TestNetwork) -> mpsc::UnboundedReceiver<Value> {
    let (told, tell) = mpsc::unbounded_channel();
    let gateway = Router::new().route(
        PATH,
        post(async move |body: String| {
            let _ = told.send(serde_json::from_str::<Value>(&body).unwrap()["notification"].clone());
            "{}"
        }),
    );
    network.add("push.example", gateway);
    tell
}

#[tokio::test]
async fn an_invitation_of_another_server_is_told() {
    let network = TestNetwork::new();
    let (here, there) = (network.server("a.example").await, network.server("b.example").await);
    background::start(here.inside());
    let mut tell = gateway_in(&network);
    let (alice, bob) = (here.user("alice").await, there.user("bob").await);
    set(&alice, pusher("key", json!({ "url": format!("https://push.example{PATH}") }))).await;
    let room = bob.create_room(json!({ "preset": "private_chat" })).await;
    bob.try_invite(&room, &alice).await.ok();
    let notification = tokio::time::timeout(Duration::from_secs(20), tell.recv()).await.unwrap().unwrap();
    assert_eq!((&notification["room_id"], &notification["sender"]), (&json!(room), &json!(bob.id)));
    assert_eq!(notification["user_is_target"], true);
}

#[tokio::test]
async fn reading_changes_the_number_that_is_shown() {
    let server = server().await;
    let chat = Chat::new(&server).await;
    let gateway = Listener::new().await;
    set(&chat.bob, pusher("key", at(&gateway))).await;
    chat.alice.say(&chat.room, "one").await;
    assert_eq!(next(&gateway).await["counts"]["unread"], 1);
    let root = chat.alice.say(&chat.room, "two").await;
    assert_eq!(next(&gateway).await["counts"]["unread"], 2);
    let relation = json!({ "rel_type": "m.thread", "event_id": root });
    let in_thread = json!({ "msgtype": "m.text", "body": "three", "m.relates_to": relation });
    chat.alice.send(&chat.room, "m.room.message", in_thread).await.ok();
    assert_eq!(next(&gateway).await["counts"]["unread"], 3);
    read(&chat.bob, &chat.room, "m.read.private", &root, json!({ "thread_id": "main" })).await.ok();
    let told = next(&gateway).await;
    assert_eq!(told["counts"], json!({ "unread": 1 }), "the thread is not read");
    assert!(told.get("event_id").is_none());
    assert_eq!(told["prio"], "low");
    let relation = json!({ "rel_type": "m.thread", "event_id": root });
    let in_thread = json!({ "msgtype": "m.text", "body": "and here", "m.relates_to": relation });
    chat.bob.send(&chat.room, "m.room.message", in_thread).await.ok();
    assert_eq!(next(&gateway).await["counts"], json!({ "unread": 0 }), "none is left");
}

#[tokio::test]
async fn an_app_that_counts_by_itself_is_told_no_numbers() {
    let server = server().await;
    let chat = Chat::new(&server).await;
    let gateways = [Listener::new().await, Listener::new().await];
    let (mut beside, mut data) = (pusher("beside", at(&gateways[0])), at(&gateways[1]));
    for place in [&mut beside, &mut data] {
        place["org.matrix.msc4076.disable_badge_count"] = json!(true);
    }
    set(&chat.bob, beside).await;
    set(&chat.bob, pusher("in data", data)).await;
    for body in ["one", "two"] {
        let event_id = chat.alice.say(&chat.room, body).await;
        for gateway in &gateways {
            let told = next(gateway).await;
            assert_eq!((&told["event_id"], told.get("counts")), (&json!(event_id), None), "{told}");
        }
        read(&chat.bob, &chat.room, "m.read", &event_id, json!({})).await.ok();
    }
}

#[tokio::test]
async fn a_failing_gateway_is_told_again_and_holds_up_nobody() {
    let server = server().await;
    let chat = Chat::new(&server).await;
    let carol = server.log_in("carol").await;
    let (broken, working) = (Listener::new().await, Listener::new().await);
    broken.answers(|_| (500, json!({})));
    set(&chat.bob, pusher("b", at(&broken))).await;
    set(&carol, pusher("c", at(&working))).await;
    let first = chat.alice.say(&chat.room, "one").await;
    let second = chat.alice.say(&chat.room, "two").await;
    assert_eq!(next(&working).await["event_id"], first);
    assert_eq!(next(&working).await["event_id"], second);
    assert_eq!(next(&broken).await["event_id"], first);
    broken.answers(|_| (200, json!({ "rejected": [] })));
    assert_eq!(next(&broken).await["event_id"], first, "once more, since it failed");
    assert_eq!(next(&broken).await["event_id"], second, "in order");
    assert!(broken.is_quiet().await);
}

#[tokio::test]
async fn gateways_that_never_answer_do_not_take_all_places() {
    let network = TestNetwork::new();
    let server = network.server("a.example").await;
    background::start(server.inside());
    let mut tell = gateway_in(&network);
    network.swallow("dead.example");
    let chat = Chat::new(&server).await;
    let (carol, dave) = (server.log_in("carol").await, server.user("dave").await);
    for user in [&chat.bob, &carol] {
        for number in 0..50 {
            let data = json!({ "url": format!("https://dead.example{PATH}") });
            set(user, pusher(&format!("{number} of {}", user.id), data)).await;
        }
    }
    let quiet = chat.alice.create_room(json!({ "preset": "public_chat" })).await;
    dave.join(&quiet).await;
    set(&dave, pusher("d", json!({ "url": format!("https://push.example{PATH}") }))).await;
    chat.alice.say(&chat.room, "one").await;
    while network.count("dead.example", PATH) == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let event_id = chat.alice.say(&quiet, "two").await;
    let told = tokio::time::timeout(Duration::from_secs(20), tell.recv()).await.unwrap().unwrap();
    assert_eq!(told["event_id"], event_id);
    assert!(network.count("dead.example", PATH) <= 4);
}

#[tokio::test]
async fn a_rejected_pushkey_is_forgotten() {
    let server = server().await;
    let chat = Chat::new(&server).await;
    let gateway = Listener::new().await;
    gateway.answers(|_| (200, json!({ "rejected": ["key"] })));
    set(&chat.bob, pusher("key", at(&gateway))).await;
    set(&chat.bob, pusher("other", at(&gateway))).await;
    chat.alice.say(&chat.room, "one").await;
    next(&gateway).await;
    next(&gateway).await;
    gateway.answers(|_| (200, json!({})));
    chat.alice.say(&chat.room, "two").await;
    // That of the other one comes when the first one's end has long been written.
    assert_eq!(next(&gateway).await["devices"][0]["pushkey"], "other");
    let left = pushers(&chat.bob).await;
    assert_eq!(left.len(), 1);
    assert_eq!(left[0]["pushkey"], "other");
}

#[tokio::test]
async fn what_was_said_is_listed_whether_read_or_not() {
    let server = server().await;
    let chat = Chat::new(&server).await;
    let first = chat.alice.say(&chat.room, "one").await;
    let (second, _) = chat.mention().await;
    chat.bob.say(&chat.room, "his own").await;
    let third = chat.alice.say(&chat.room, "three").await;
    read(&chat.bob, &chat.room, "m.read", &second, json!({})).await.ok();
    let list = async |query: &str| chat.bob.get(&format!("/v3/notifications{query}")).await.ok();
    let shown = |answer: &Value| {
        let all = answer["notifications"].as_array().unwrap().iter();
        all.map(|n| (n["event"]["event_id"].as_str().unwrap().to_owned(), n["read"].as_bool().unwrap()))
            .collect::<Vec<_>>()
    };
    let all = list("").await;
    assert_eq!(shown(&all), [(third.clone(), false), (second.clone(), true), (first.clone(), true)]);
    assert!(all.get("next_token").is_none());
    assert_eq!(all["notifications"][0]["room_id"], chat.room);
    assert_eq!(all["notifications"][0]["actions"][0], "notify");
    assert_eq!(shown(&list("?only=highlight").await), [(second.clone(), true)]);
    let page = list("?limit=2").await;
    assert_eq!(shown(&page), [(third.clone(), false), (second, true)]);
    let rest = list(&format!("?limit=2&from={}", page["next_token"].as_str().unwrap())).await;
    assert_eq!(shown(&rest), [(first, true)]);
    chat.bob.say(&chat.room, "his answer").await;
    assert_eq!(shown(&list("?limit=1").await), [(third, true)], "who answers has read");
    let wrong = chat.bob.get("/v3/notifications?from=nonsense").await;
    assert_eq!(wrong.error(), (400, "M_INVALID_PARAM"));
}
