//! Dehydrated devices: <https://github.com/matrix-org/matrix-spec-proposals/pull/3814>

use chappe::user::{
    dehydrated::{self, New},
    keys::Upload,
    session::Caller,
    tables::Devices,
};
use ruma::OwnedUserId;
use serde_json::{Value, json};

use crate::support::{Signer, TestServer, User, auth_of};

const PATH: &str = "/_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device";

/// The body that makes `name` a dehydrated device of `user`.
fn device(user: &User, name: &str) -> Value {
    let user = User { device_id: name.to_owned(), ..user.clone() };
    let signer = Signer::of_device(&user);
    json!({
        "device_id": name,
        "initial_device_display_name": "asleep",
        "device_data": { "algorithm": "org.matrix.msc3814.v2", "device_pickle": "secret", "nonce": "n" },
        "device_keys": signer.device_keys(&user),
        "one_time_keys": { "signed_curve25519:A": signer.one_time_key(&user) },
        "fallback_keys": { "signed_curve25519:F": signer.one_time_key(&user) },
    })
}

async fn send(from: &User, to: &User, device: &str, number: usize) {
    let body = json!({ "messages": { &to.id: { device: { "number": number } } } });
    let path = format!("/v3/sendToDevice/m.room.encrypted/{device}{number}");
    from.put(&path, body).await.ok();
}

fn numbers(page: &Value) -> Vec<u64> {
    page["events"].as_array().unwrap().iter().map(|event| event["content"]["number"].as_u64().unwrap()).collect()
}

#[tokio::test]
async fn a_device_that_sleeps_gets_keys_claimed_and_messages_kept() {
    let server = TestServer::new().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    assert_eq!(alice.get(PATH).await.error(), (404, "M_NOT_FOUND"));
    let body = device(&alice, "ASLEEP");
    assert_eq!(alice.put(PATH, body.clone()).await.ok(), json!({ "device_id": "ASLEEP" }));
    let kept = alice.get(PATH).await.ok();
    assert_eq!(kept, json!({ "device_id": "ASLEEP", "device_data": body["device_data"] }));
    assert_eq!(bob.get(PATH).await.error(), (404, "M_NOT_FOUND"));

    let found = bob.post("/v3/keys/query", json!({ "device_keys": { &alice.id: [] } })).await.ok();
    assert_eq!(found["device_keys"][&alice.id]["ASLEEP"]["keys"], body["device_keys"]["keys"]);
    let wanted = json!({ "one_time_keys": { &alice.id: { "ASLEEP": "signed_curve25519" } } });
    for id in ["signed_curve25519:A", "signed_curve25519:F"] {
        let claimed = bob.post("/v3/keys/claim", wanted.clone()).await.ok();
        assert!(claimed["one_time_keys"][&alice.id]["ASLEEP"][id].is_object(), "{claimed}");
    }

    for number in 0..3 {
        send(&bob, &alice, "ASLEEP", number).await;
    }
    let events = format!("{PATH}/ASLEEP/events");
    for _ in 0..2 {
        let first = alice.get(&format!("{events}?limit=2")).await.ok();
        assert_eq!(numbers(&first), [0, 1]);
        let next = first["next_batch"].as_str().unwrap();
        let last = alice.get(&format!("{events}?from={next}")).await.ok();
        assert_eq!((numbers(&last), last.get("next_batch")), (vec![2], None));
    }
    // Older clients ask until there is nothing.
    let first = alice.post(&events, json!({})).await.ok();
    assert_eq!(numbers(&first), [0, 1, 2]);
    let last = alice.post(&events, json!({ "next_batch": first["next_batch"] })).await.ok();
    assert_eq!((numbers(&last), &last["next_batch"]), (vec![], &first["next_batch"]));

    assert_eq!(alice.get(&format!("{PATH}/OTHER/events")).await.error(), (403, "M_FORBIDDEN"));
    assert_eq!(bob.get(&events).await.error(), (404, "M_NOT_FOUND"));
    for bad in ["x", "-1", "+1", "18446744073709551615"] {
        assert_eq!(alice.get(&format!("{events}?from={bad}")).await.error(), (400, "M_INVALID_PARAM"), "{bad}");
    }
}

#[tokio::test]
async fn a_user_has_one_of_them_until_it_goes() {
    let server = TestServer::new().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let devices = async || {
        let listed = alice.get("/v3/devices").await.ok();
        let mut ids: Vec<_> = listed["devices"].as_array().unwrap().iter().map(|d| d["device_id"].clone()).collect();
        ids.retain(|id| *id != alice.device_id);
        ids
    };
    alice.put(PATH, device(&alice, "FIRST")).await.ok();
    send(&bob, &alice, "FIRST", 0).await;
    alice.put(PATH, device(&alice, "SECOND")).await.ok();
    assert_eq!(devices().await, ["SECOND"]);
    // The same again begins anew: its messages are gone, as its keys are.
    send(&bob, &alice, "SECOND", 1).await;
    alice.put(PATH, device(&alice, "SECOND")).await.ok();
    let page = alice.get(&format!("{PATH}/SECOND/events")).await.ok();
    assert_eq!(page, json!({ "events": [] }));
    assert_eq!(alice.delete(PATH).await.ok(), json!({ "device_id": "SECOND" }));
    assert_eq!(alice.delete(PATH).await.error(), (404, "M_NOT_FOUND"));
    assert_eq!(devices().await, [] as [Value; 0]);

    // Whoever logs in on it, or deletes it as a device, has woken it up.
    alice.put(PATH, device(&alice, "THIRD")).await.ok();
    let body = json!({
        "type": "m.login.password", "device_id": "THIRD", "password": "password of alice",
        "identifier": { "type": "m.id.user", "user": "alice" },
    });
    server.post("/v3/login", body).await.ok();
    assert_eq!(alice.get(PATH).await.error(), (404, "M_NOT_FOUND"));
    assert_eq!(alice.put(PATH, device(&alice, "THIRD")).await.error(), (400, "M_INVALID_PARAM"));
    alice.put(PATH, device(&alice, "FOURTH")).await.ok();
    alice.post("/v3/logout/all", json!({})).await.ok();
    assert_eq!(server.log_in("alice").await.get(PATH).await.error(), (404, "M_NOT_FOUND"));
}

#[tokio::test]
async fn what_is_no_device_is_refused_and_changes_nothing() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    alice.put(PATH, device(&alice, "ASLEEP")).await.ok();
    let with = |field: &str, value: Value| {
        let mut body = device(&alice, "NEW");
        body[field] = value;
        body
    };
    for (body, status, errcode) in [
        (with("device_id", json!(alice.device_id)), 400, "M_INVALID_PARAM"),
        (with("device_id", json!("")), 400, "M_INVALID_PARAM"),
        (with("device_data", json!({})), 400, "M_BAD_JSON"),
        (with("device_data", json!([])), 400, "M_BAD_JSON"),
        (with("device_data", json!({ "algorithm": "a", "x": "x".repeat(300_000) })), 413, "M_TOO_LARGE"),
        (with("device_keys", device(&alice, "OTHER")["device_keys"].clone()), 400, "M_INVALID_PARAM"),
        (with("one_time_keys", json!({ "signed_curve25519:A": "text" })), 400, "M_BAD_JSON"),
        (with("initial_device_display_name", json!("x".repeat(300))), 400, "M_INVALID_PARAM"),
    ] {
        assert_eq!(alice.put(PATH, body.clone()).await.error(), (status, errcode), "{body}");
    }
    assert_eq!(alice.get(PATH).await.ok()["device_id"], "ASLEEP");
    let empty = alice.get(&format!("{PATH}/ASLEEP/events")).await.ok();
    assert_eq!(empty, json!({ "events": [] }));
}

#[tokio::test]
async fn one_that_is_under_way_does_not_outlive_a_log_out_or_the_account() {
    let server = TestServer::new().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    alice.post("/v3/logout/all", json!({})).await.ok();
    bob.post("/v3/account/deactivate", json!({ "auth": auth_of("bob") })).await.ok();
    // By an application service bob acts on no device.
    for (user, device) in [(&alice, &*alice.device_id), (&bob, "")] {
        let user_id = OwnedUserId::try_from(user.id.as_str()).unwrap();
        let new = New {
            device_id: "ASLEEP".into(),
            display_name: None,
            data: json!({ "algorithm": "org.matrix.msc3814.v2" }).to_string(),
            keys: Upload { device_keys: None, one_time_keys: [].into(), fallback_keys: [].into() },
        };
        let caller = Caller::on_device(user_id.clone(), device.into());
        assert!(dehydrated::put(server.inside(), caller, new).await.is_err(), "{user_id}");
        assert_eq!(server.inside().store.snapshot().list::<Devices>(&&*user_id).count(), 0, "{user_id}");
    }
}
