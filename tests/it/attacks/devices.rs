//! D9: devices, keys, to-device messages.

use http::Method;
use serde_json::{Value, json};

use super::Abroad;
use crate::support::{Siege, TestNetwork};

fn to_device(sender: &str, id: &str, messages: Value) -> Value {
    let content = json!({ "sender": sender, "type": "my.type", "message_id": id, "messages": messages });
    json!({ "edu_type": "m.direct_to_device", "content": content })
}

#[tokio::test]
async fn messages_for_nobody_are_kept_for_nobody() {
    use chappe::user::tables::ToDevice;
    let siege = Siege::new().await;
    let gone = siege.home.user("gone").await;
    let auth = json!({ "auth": crate::support::auth_of("gone") });
    gone.post("/v3/account/deactivate", auth).await.ok();
    let all = json!({
        &gone.id: { "*": {}, &gone.device_id: {} },
        "@nobody:home.test": { "*": {}, "D": {} },
        "@alice:elsewhere.test": { "D": {} },
        &siege.alice.id: { "NO_SUCH_DEVICE": {} },
    });
    siege.send_edus(vec![to_device(&siege.mallory, "m1", all)]).await;
    let snapshot = siege.home.inside().store.snapshot();
    assert_eq!(snapshot.list::<ToDevice>(&()).count(), 0);
}

#[tokio::test]
async fn a_message_that_would_spoil_a_sync_is_left_out() {
    let siege = Siege::new().await;
    let nested = (0..105).fold(json!({}), |inner, _| json!({ "a": inner }));
    let (alice, device) = (siege.alice.id.clone(), siege.alice.device_id.clone());
    let to = |content: Value| json!({ &alice: { &device: content } });
    siege
        .send_edus(vec![
            to_device(&siege.mallory, "large", to(json!({ "x": "x".repeat(70_000) }))),
            to_device(&siege.mallory, "text", to(json!("x"))),
            to_device(&siege.mallory, "list", to(json!([]))),
            to_device(&siege.mallory, "deep", to(nested)),
            to_device(&siege.mallory, &"long id".repeat(100), to(json!({}))),
            to_device(&siege.evil.user(&"x".repeat(250)), "long sender", to(json!({}))),
        ])
        .await;
    siege.send_edus(vec![to_device(&siege.mallory, "good", to(json!({ "n": 1 })))]).await;
    let sync = siege.alice.sync_with("").await;
    assert_eq!(
        sync["to_device"]["events"],
        json!([{ "type": "my.type", "sender": siege.mallory, "content": { "n": 1 } }])
    );
}

#[tokio::test]
async fn no_messages_wait_for_whom_nobody_can_be() {
    use chappe::federation::queue::tables::{Item, Queue};
    let siege = Siege::new().await;
    siege.network.cut_off("evil.test");
    let long = "x".repeat(300);
    let messages = json!({
        siege.evil.user(&long): { "D": {} },
        &siege.mallory: { &long: {}, "D": {} },
    });
    siege.alice.put("/v3/sendToDevice/my.type/1", json!({ "messages": messages })).await.ok();
    let snapshot = siege.home.inside().store.snapshot();
    let waiting = snapshot.list::<Queue>(&()).filter_map(|row| match row.unwrap().value {
        Item::ToDevice { content } => Some(serde_json::from_str::<Value>(&content).unwrap()["messages"].clone()),
        _ => None,
    });
    assert_eq!(waiting.collect::<Vec<_>>(), [json!({ &siege.mallory: { "D": {} } })]);
}

#[tokio::test]
async fn one_message_id_counts_for_each_server_by_itself() {
    let siege = Siege::new().await;
    let good = siege.network.peer("good.test");
    let to = json!({ &siege.alice.id: { &siege.alice.device_id: { "n": 1 } } });
    siege.send_edus(vec![to_device(&siege.mallory, "same", to.clone())]).await;
    siege.send_edus(vec![to_device(&siege.mallory, "same", to.clone())]).await;
    // Whoever guesses the id of somebody else's message does not keep that from coming.
    let edu = to_device("@carol:good.test", "same", to);
    siege.try_send(&good, Vec::new(), vec![edu]).await.ok();
    let sync = siege.alice.sync_with("").await;
    let senders: Vec<_> =
        sync["to_device"]["events"].as_array().unwrap().iter().map(|event| &event["sender"]).collect();
    assert_eq!(senders, [&json!(siege.mallory), &json!("@carol:good.test")]);
}

#[tokio::test]
async fn device_lists_without_end_are_not_kept() {
    let abroad = Abroad::joined().await;
    let alice = "@alice:evil.test";
    abroad.evil.on(Method::POST, "/_matrix/federation/v1/user/keys/query", move |_| {
        let keys = |device: &str| {
            json!({
                "user_id": alice, "device_id": device, "algorithms": [], "signatures": {},
                "keys": { format!("ed25519:{device}"): "x" },
            })
        };
        let devices: serde_json::Map<_, _> =
            (0..20_000).map(|number| format!("D{number}")).map(|device| (device.clone(), keys(&device))).collect();
        json!({ "device_keys": { alice: devices } })
    });
    let query = json!({ "device_keys": { alice: [] } });
    let answer = abroad.bob.post("/v3/keys/query", query).await.ok();
    let known = answer["device_keys"][alice].as_object().map_or(0, serde_json::Map::len);
    assert!(known <= 2_000, "{known}");
}

#[tokio::test]
async fn who_does_not_wait_for_keys_asks_no_more_servers_at_a_time() {
    let network = TestNetwork::new();
    let home = network.server("home.test").await;
    let bob = home.user("bob").await;
    let silent: Vec<_> = (0..200).map(|number| format!("s{number}.test")).collect();
    silent.iter().for_each(|name| network.swallow(name));
    let users: serde_json::Map<_, _> = silent.iter().map(|name| (format!("@x:{name}"), json!([]))).collect();
    for timeout_ms in [0, 100] {
        let query = json!({ "device_keys": users, "timeout": timeout_ms });
        let answer = bob.post("/v3/keys/query", query).await.ok();
        assert_eq!(answer["failures"].as_object().unwrap().len(), silent.len(), "{answer}");
    }
    let asked: usize = silent.iter().map(|name| network.count(name, "/")).sum();
    assert!((1..=50).contains(&asked), "{asked}");
}

#[tokio::test]
async fn no_keys_are_given_out_of_others_or_of_nobody() {
    let network = TestNetwork::new();
    let home = network.server("home.test").await;
    let bob = home.user("bob").await;
    let evil = network.peer("evil.test");
    let wanted = json!({ "one_time_keys": {
        "@bob:elsewhere.test": { "D": "signed_curve25519" }, "@nobody:home.test": { "D": "signed_curve25519" },
        &bob.id: { "NO_SUCH_DEVICE": "signed_curve25519" },
    } });
    let answer = evil.post(&home, "/v1/user/keys/claim", wanted).await.ok();
    let got: usize =
        answer["one_time_keys"].as_object().unwrap().values().map(|keys| keys.as_object().unwrap().len()).sum();
    assert_eq!(got, 0, "{answer}");
    let devices = evil.get(&home, "/v1/user/devices/@bob:elsewhere.test").await;
    assert!(devices.status.is_client_error(), "{}", devices.body);
}

#[tokio::test]
async fn updates_of_devices_and_keys_in_the_name_of_others_are_passed_over() {
    let siege = Siege::new().await;
    let since = siege.alice.now().await;
    let carol = "@carol:good.test";
    let keys =
        json!({ "user_id": carol, "device_id": "D", "algorithms": [], "signatures": {}, "keys": { "ed25519:D": "x" } });
    siege
        .send_edus(vec![
            json!({ "edu_type": "m.device_list_update", "content": {
                "user_id": carol, "device_id": "D", "stream_id": 1, "prev_id": [], "keys": keys } }),
            json!({ "edu_type": "m.device_list_update", "content": {
                "user_id": siege.alice.id, "device_id": siege.alice.device_id, "stream_id": 1, "deleted": true } }),
            json!({ "edu_type": "m.signing_key_update", "content": { "user_id": siege.alice.id, "master_key": {
                "user_id": siege.alice.id, "usage": ["master"], "keys": { "ed25519:x": "x" } } } }),
        ])
        .await;
    let news = siege.alice.sync(&since).await;
    assert!(news["device_lists"]["changed"].as_array().is_none_or(Vec::is_empty), "{news}");
    let query = json!({ "device_keys": { &siege.alice.id: [] } });
    let answer = siege.alice.post("/v3/keys/query", query).await.ok();
    assert!(answer["master_keys"].as_object().is_none_or(serde_json::Map::is_empty), "{answer}");
    assert_eq!(siege.alice.get("/v3/account/whoami").await.status, 200, "her session goes on");
}

#[tokio::test]
async fn updates_of_users_with_whom_nobody_here_shares_a_room_leave_nothing() {
    use chappe::user::tables::{KeyChanges, LastKeyChange};
    let siege = Siege::new().await;
    let rows = || {
        let snapshot = siege.home.inside().store.snapshot();
        (snapshot.list::<KeyChanges>(&()).count(), snapshot.list::<LastKeyChange>(&()).count())
    };
    let updates = |user: &str| {
        let device = json!({ "user_id": user, "device_id": "D", "stream_id": 1, "prev_id": [], "deleted": true });
        [
            json!({ "edu_type": "m.device_list_update", "content": device }),
            json!({ "edu_type": "m.signing_key_update", "content": { "user_id": user } }),
        ]
    };
    let (since, before) = (siege.alice.now().await, rows());
    let made_up = (0..20).flat_map(|number| updates(&siege.evil.user(&format!("nobody{number}"))));
    siege.send_edus(made_up.collect()).await;
    assert_eq!(rows(), before);
    siege.send_edus(updates(&siege.mallory).to_vec()).await;
    let news = siege.alice.sync(&since).await;
    assert_eq!(news["device_lists"]["changed"], json!([siege.mallory]));
}
