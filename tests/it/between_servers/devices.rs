use std::time::Duration;

use http::Method;
use serde_json::{Value, json};

use super::{Pair, Scripted, until, until_synced};
use crate::support::{HostedRoom, Peer, Signer, TestNetwork, User, auth_of};

const QUERY: &str = "/_matrix/federation/v1/user/keys/query";
const CLAIM: &str = "/_matrix/federation/v1/user/keys/claim";
const DEVICES: &str = "/_matrix/federation/v1/user/devices/";

async fn upload(user: &User) -> Signer {
    let signer = Signer::of_device(user);
    let one_time_keys = json!({
        "signed_curve25519:A": signer.one_time_key(user),
        "signed_curve25519:B": signer.one_time_key(user),
    });
    let body = json!({ "device_keys": signer.device_keys(user), "one_time_keys": one_time_keys });
    user.post("/v3/keys/upload", body).await.ok();
    signer
}

async fn query(asker: &User, user: &str) -> Value {
    asker.post("/v3/keys/query", json!({ "device_keys": { user: [] } })).await.ok()
}

/// Waits until `user` is told that the devices of `of` changed.
async fn until_changed(user: &User, since: &str, of: &str) {
    until_synced(user, since, "a change of devices", |answer| {
        answer["device_lists"]["changed"].as_array()?.iter().any(|changed| changed == of).then_some(())
    })
    .await;
}

#[tokio::test]
async fn devices_of_the_other_server_are_fetched_once_and_again_after_a_change() {
    let pair = Pair::new().await;
    let Pair { network, alice, bob, .. } = &pair;
    let since = alice.now().await;
    let signer = upload(bob).await;
    until_changed(alice, &since, &bob.id).await;
    for _ in 0..3 {
        let answer = query(alice, &bob.id).await;
        let keys = &answer["device_keys"][&bob.id][&bob.device_id];
        assert_eq!(keys["keys"][signer.key_id()], json!(signer.public_key()), "{answer}");
        assert!(keys["signatures"][&bob.id][signer.key_id()].is_string(), "{answer}");
    }
    assert_eq!(network.count("b.test", QUERY), 1, "while they share a room it is not asked again");
    let since = alice.now().await;
    let tablet = bob.server.log_in("bob").await;
    upload(&tablet).await;
    until_changed(alice, &since, &bob.id).await;
    until("the tablet is known", async || {
        let answer = query(alice, &bob.id).await;
        (answer["device_keys"][&bob.id].as_object()?.len() == 2).then_some(())
    })
    .await;
    let since = alice.now().await;
    tablet.post("/v3/logout", json!({})).await.ok();
    until_changed(alice, &since, &bob.id).await;
    until("the tablet is gone", async || {
        let answer = query(alice, &bob.id).await;
        (answer["device_keys"][&bob.id].as_object()?.len() == 1).then_some(())
    })
    .await;
    pair.check();
}

#[tokio::test]
async fn cross_signing_keys_reach_the_other_server_and_so_do_new_ones() {
    let pair = Pair::new().await;
    let Pair { network, alice, bob, .. } = &pair;
    let keys_of_bob = async || {
        let answer = query(alice, &bob.id).await;
        let key_of =
            |kind: &str| answer[kind][&bob.id]["keys"].as_object()?.values().next()?.as_str().map(str::to_owned);
        assert!(answer["user_signing_keys"].get(&bob.id).is_none(), "that one is his alone: {answer}");
        (key_of("master_keys"), key_of("self_signing_keys"))
    };
    let since = alice.now().await;
    upload(bob).await;
    until_changed(alice, &since, &bob.id).await;
    assert_eq!(keys_of_bob().await, (None, None));
    for auth in [Value::Null, auth_of("bob")] {
        let since = alice.now().await;
        let (master, self_signing) = (Signer::cross_signing(), Signer::cross_signing());
        let mut signed = self_signing.as_cross_signing_key(bob, "self_signing");
        master.sign(bob, &mut signed);
        let mut body = json!({ "master_key": master.as_cross_signing_key(bob, "master"), "self_signing_key": signed });
        if auth.is_object() {
            body["auth"] = auth;
        }
        bob.post("/v3/keys/device_signing/upload", body).await.ok();
        until_changed(alice, &since, &bob.id).await;
        let expected = (Some(master.public_key()), Some(self_signing.public_key()));
        until("the keys are known", async || (keys_of_bob().await == expected).then_some(())).await;
    }
    assert_eq!(network.count("b.test", QUERY), 1, "they are told, and not asked for");
    pair.check();
}

#[tokio::test]
async fn ones_own_signature_is_among_keys_that_are_not_kept() {
    const SIGNING_KEYS: &str = "/v3/keys/device_signing/upload";
    let pair = Pair::new().await;
    let Pair { alice, bob, room, .. } = &pair;
    let [of_bob, of_alice, user_signing] = [(); 3].map(|()| Signer::cross_signing());
    upload(bob).await;
    let master = of_bob.as_cross_signing_key(bob, "master");
    bob.post(SIGNING_KEYS, json!({ "master_key": master })).await.ok();
    let mut signed = user_signing.as_cross_signing_key(alice, "user_signing");
    of_alice.sign(alice, &mut signed);
    let body = json!({ "master_key": of_alice.as_cross_signing_key(alice, "master"), "user_signing_key": signed });
    alice.post(SIGNING_KEYS, body).await.ok();
    until("the key is known", async || query(alice, &bob.id).await["master_keys"].get(&bob.id).is_some().then_some(()))
        .await;
    let mut signed = master.clone();
    user_signing.sign(alice, &mut signed);
    let body = json!({ &bob.id: { of_bob.public_key(): signed } });
    // What was asked for while it changed is told, and kept only when it is asked for anew.
    until("the signature is taken", async || {
        query(alice, &bob.id).await;
        let answer = alice.post("/v3/keys/signatures/upload", body.clone()).await.ok();
        answer["failures"].as_object().is_none_or(serde_json::Map::is_empty).then_some(())
    })
    .await;
    let is_signed = async || {
        let answer = query(alice, &bob.id).await;
        answer["master_keys"][&bob.id]["signatures"][&alice.id][user_signing.key_id()].is_string()
    };
    assert!(is_signed().await);
    bob.leave(room).await;
    until("no room is shared", async || {
        let members = alice.get(&format!("/v3/rooms/{room}/joined_members")).await.ok();
        members["joined"].get(&bob.id).is_none().then_some(())
    })
    .await;
    assert!(is_signed().await);
    pair.check();
}

#[tokio::test]
async fn names_of_devices_stay_at_home() {
    let pair = Pair::new().await;
    let Pair { alice, bob, .. } = &pair;
    upload(bob).await;
    bob.put(&format!("/v3/devices/{}", bob.device_id), json!({ "display_name": "Bob's secret phone" })).await.ok();
    let answer = query(alice, &bob.id).await;
    assert!(answer["device_keys"][&bob.id][&bob.device_id].is_object(), "{answer}");
    assert!(!answer.to_string().contains("secret"), "{answer}");
}

#[tokio::test]
async fn names_of_devices_are_told_where_the_configuration_says_so() {
    let network = TestNetwork::new();
    let open = network.server_with("open", |config| config.allow_device_name_federation = true).await;
    let here = network.server("here").await;
    let (alice, bob) = (open.user("alice").await, here.user("bob").await);
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    upload(&alice).await;
    alice.put(&format!("/v3/devices/{}", alice.device_id), json!({ "display_name": "Phone" })).await.ok();
    let name = async || {
        let answer = query(&bob, &alice.id).await;
        answer["device_keys"][&alice.id][&alice.device_id]["unsigned"]["device_display_name"].clone()
    };
    assert_eq!(name().await, "Phone", "of somebody with whom no room is shared, whose keys are not kept");
    super::join(&bob, &room, "open").await;
    assert_eq!((name().await, name().await), (json!("Phone"), json!("Phone")));
    assert_eq!(network.count("open", QUERY), 2);
    let devices = network.peer("other").get(&open, &format!("/v1/user/devices/{}", alice.id)).await.ok();
    assert_eq!(devices["devices"][0]["device_display_name"], "Phone", "Synapse looks for it here");
}

#[tokio::test]
async fn names_of_devices_that_stand_beside_their_keys_are_shown() {
    let scripted = Scripted::new().await;
    let alice = scripted.peer.user("alice");
    scripted.peer.on(Method::POST, QUERY, |_| json!({ "device_keys": { "@alice:there": {} } }));
    query(&scripted.bob, &alice).await;
    let device = |name: &str, key: &str| json!({ "device_id": "D", "keys": keys_of("@alice:there", "D", key), "device_display_name": name });
    let devices = json!({ "user_id": alice, "stream_id": 1, "devices": [device("Phone", "a")] });
    scripted.peer.on(Method::GET, DEVICES, move |_| devices.clone());
    let mut update = device("New phone", "b");
    (update["user_id"], update["stream_id"], update["prev_id"]) = (json!(alice), json!(2), json!([1]));
    for (edu, name) in [(json!({ "user_id": alice, "device_id": "D", "stream_id": 1 }), "Phone"), (update, "New phone")]
    {
        scripted.send(json!([{ "edu_type": "m.device_list_update", "content": edu }])).await;
        until(name, async || {
            let keys = query(&scripted.bob, &alice).await["device_keys"][&alice]["D"].clone();
            (keys["unsigned"]["device_display_name"] == name).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn who_comes_to_a_room_is_introduced_to_the_servers_that_did_not_know_him() {
    let network = TestNetwork::new();
    let here = network.server("here").await;
    chappe::federation::queue::start(here.inside());
    let bob = here.user("bob").await;
    let (first, second) = (network.peer("first"), network.peer("second"));
    let told = |peer: &Peer| {
        let edus = peer.asked(super::SEND).into_iter().flat_map(|asked| asked.body["edus"].as_array().cloned());
        let edus = edus.flatten().filter(|edu| edu["edu_type"] == "m.device_list_update");
        edus.map(|edu| edu["content"]["device_id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    for peer in [&first, &second] {
        peer.on(Method::PUT, super::SEND, |_| json!({ "pdus": {} }));
        let room = HostedRoom::new(peer);
        super::join(&bob, &room.id, peer.name().as_str()).await;
        until("it was told", async || (!told(peer).is_empty()).then_some(())).await;
        assert_eq!(told(peer), [&*bob.device_id]);
    }
    assert_eq!(told(&first).len(), 1, "it knows him");
    let renamed = json!({ "display_name": "Phone" });
    bob.put(&format!("/v3/devices/{}", bob.device_id), renamed).await.ok();
    for peer in [&first, &second] {
        until("it was told of the new name", async || (told(peer).len() == 2).then_some(())).await;
    }
}

#[tokio::test]
async fn a_device_without_keys_is_no_news() {
    let scripted = Scripted::new().await;
    let alice = scripted.peer.user("alice");
    let since = scripted.bob.now().await;
    scripted.send(keyless(&alice, "D", 5, &[4])).await;
    assert!(scripted.bob.sync(&since).await["device_lists"].is_null());
    scripted.send(update(&alice, "D", 6, &[5], &keys_of(&alice, "D", "x"))).await;
    assert_eq!(scripted.bob.sync(&since).await["device_lists"]["changed"], json!([alice]));
}

#[tokio::test]
async fn updates_that_follow_on_nothing_are_no_repetitions() {
    let scripted = Scripted::new().await;
    let alice = scripted.peer.user("alice");
    // Conduit tells so of every change.
    let placeholder = || keyless("@alice:there", "placeholder", 1, &[]);
    let since = scripted.bob.now().await;
    scripted.send(placeholder()).await;
    until_changed(&scripted.bob, &since, &alice).await;
    scripted.peer.on(Method::POST, QUERY, |_| json!({ "device_keys": { "@alice:there": {} } }));
    query(&scripted.bob, &alice).await;
    for key in ["first", "second"] {
        let devices = json!([{ "device_id": "D", "keys": keys_of(&alice, "D", key) }]);
        let devices = json!({ "user_id": alice, "stream_id": 1, "devices": devices });
        scripted.peer.on(Method::GET, DEVICES, move |_| devices.clone());
        scripted.send(placeholder()).await;
        until(key, async || {
            let answer = query(&scripted.bob, &alice).await;
            (answer["device_keys"][&alice]["D"]["keys"]["ed25519:D"] == key).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn that_a_device_without_keys_is_gone_is_told() {
    let scripted = Scripted::new().await;
    let tablet = scripted.here.log_in("bob").await;
    tablet.post("/v3/logout", json!({})).await.ok();
    until("it is told", async || {
        let told = scripted.edus("m.device_list_update");
        told.iter().any(|edu| edu["device_id"] == *tablet.device_id && edu["deleted"] == true).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_message_from_an_unknown_device_has_the_devices_fetched_again_and_not_each_time() {
    let scripted = Scripted::new().await;
    let alice = scripted.peer.user("alice");
    let keys = |key: &str| json!({ "D": keys_of("@alice:there", "D", key) });
    let kept = keys("known");
    scripted.peer.on(Method::POST, QUERY, move |_| json!({ "device_keys": { "@alice:there": kept } }));
    let devices = json!([{ "device_id": "D", "keys": keys_of("@alice:there", "D", "new") }]);
    let devices = json!({ "user_id": &alice, "stream_id": 1, "devices": devices });
    scripted.peer.on(Method::GET, DEVICES, move |_| devices.clone());
    let send = async |id: &str, key: &str| {
        let content = json!({ "algorithm": "m.olm.v1.curve25519-aes-sha2", "sender_key": key, "ciphertext": {} });
        let messages = json!({ &scripted.bob.id: { &scripted.bob.device_id: content } });
        let content = json!({ "sender": &alice, "type": "m.room.encrypted", "message_id": id, "messages": messages });
        scripted.send(json!([{ "edu_type": "m.direct_to_device", "content": content }])).await;
    };
    send("1", "unknown").await;
    assert!(scripted.peer.asked(DEVICES).is_empty(), "nobody has asked for her devices");
    query(&scripted.bob, &alice).await;
    send("2", "known").await;
    assert!(scripted.peer.asked(DEVICES).is_empty());
    send("3", "unknown").await;
    until("they are fetched", async || (scripted.peer.asked(DEVICES).len() == 1).then_some(())).await;
    send("4", "unknown too").await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(scripted.peer.asked(DEVICES).len(), 1);
    // When they can't be fetched, it is for clients to ask for them, and the next doubt is another try.
    scripted.peer.refuse(Method::GET, DEVICES, 404, "M_NOT_FOUND");
    for (id, fetched) in [("5", 2), ("6", 3)] {
        scripted.here.advance(Duration::from_secs(10 * 60));
        let since = scripted.bob.now().await;
        send(id, "unknown").await;
        assert_eq!(scripted.bob.sync(&since).await["device_lists"]["changed"], json!([alice]));
        until("it is tried again", async || (scripted.peer.asked(DEVICES).len() == fetched).then_some(())).await;
    }
}

#[tokio::test]
async fn one_time_keys_are_claimed_across_servers_and_never_twice() {
    let pair = Pair::new().await;
    let Pair { alice, bob, .. } = &pair;
    upload(bob).await;
    let wanted = json!({ "one_time_keys": { &bob.id: { &bob.device_id: "signed_curve25519" } } });
    let mut ids = Vec::new();
    for _ in 0..2 {
        let answer = alice.post("/v3/keys/claim", wanted.clone()).await.ok();
        let keys = answer["one_time_keys"][&bob.id][&bob.device_id].as_object().unwrap().clone();
        ids.extend(keys.keys().cloned());
    }
    assert_eq!(ids, ["signed_curve25519:A", "signed_curve25519:B"]);
    let answer = alice.post("/v3/keys/claim", wanted).await.ok();
    assert!(answer["one_time_keys"].get(&bob.id).is_none_or(|keys| keys.as_object().unwrap().is_empty()), "{answer}");
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_among_the_failures() {
    let pair = Pair::new().await;
    let Pair { network, alice, bob, .. } = &pair;
    network.cut_off("b.test");
    let answer = query(alice, &bob.id).await;
    assert!(answer["failures"]["b.test"].is_object(), "{answer}");
    let wanted = json!({ "one_time_keys": { &bob.id: { &bob.device_id: "signed_curve25519" } } });
    let answer = alice.post("/v3/keys/claim", wanted).await.ok();
    assert!(answer["failures"]["b.test"].is_object(), "{answer}");
}

#[tokio::test]
async fn joining_a_room_brings_the_devices_of_who_is_there() {
    let pair = Pair::new().await;
    let Pair { alice, bob, .. } = &pair;
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    let dave = bob.server.user("dave").await;
    upload(&dave).await;
    let since = alice.now().await;
    super::join(&dave, &room, "a.test").await;
    until_changed(alice, &since, &dave.id).await;
    let since = alice.now().await;
    dave.leave(&room).await;
    until_synced(alice, &since, "dave left", |answer| {
        answer["device_lists"]["left"].as_array()?.iter().any(|left| left == dave.id.as_str()).then_some(())
    })
    .await;
}

/// Device keys of `user`, as his server gives them.
fn keys_of(user: &str, device: &str, key: &str) -> Value {
    json!({
        "user_id": user, "device_id": device, "algorithms": [], "signatures": {},
        "keys": { format!("ed25519:{device}"): key },
    })
}

fn update(user: &str, device: &str, stream_id: u64, prev_id: &[u64], keys: &Value) -> Value {
    let content = json!({
        "user_id": user, "device_id": device, "stream_id": stream_id, "prev_id": prev_id, "keys": keys,
    });
    json!([{ "edu_type": "m.device_list_update", "content": content }])
}

/// The same of a device without keys.
fn keyless(user: &str, device: &str, stream_id: u64, prev_id: &[u64]) -> Value {
    let mut told = update(user, device, stream_id, prev_id, &json!(null));
    told[0]["content"].as_object_mut().unwrap().remove("keys");
    told
}

#[tokio::test]
async fn an_update_that_follows_is_taken_and_after_a_gap_all_devices_are_fetched() {
    let scripted = Scripted::new().await;
    let alice = scripted.peer.user("alice");
    let devices = |stream_id: u64, key: &str| {
        let devices = json!([{ "device_id": "D", "keys": keys_of("@alice:there", "D", key) }]);
        json!({ "user_id": "@alice:there", "stream_id": stream_id, "devices": devices })
    };
    let first = devices(5, "first");
    scripted.peer.on(Method::GET, DEVICES, move |_| first.clone());
    scripted.peer.on(
        Method::POST,
        QUERY,
        |_| json!({ "device_keys": { "@alice:there": { "D": keys_of("@alice:there", "D", "zeroth") } } }),
    );
    let key = async || {
        let answer = query(&scripted.bob, &alice).await;
        answer["device_keys"][&alice]["D"]["keys"]["ed25519:D"].as_str().map(str::to_owned)
    };
    assert_eq!(key().await.as_deref(), Some("zeroth"));
    // From here on it is all devices that count, not what a query gives.
    scripted.peer.on(Method::POST, QUERY, |_| json!({ "device_keys": {} }));
    // It follows something that we have never seen.
    scripted.send(update(&alice, "D", 5, &[4], &keys_of(&alice, "D", "first"))).await;
    until("all devices are fetched", async || (key().await.as_deref() == Some("first")).then_some(())).await;
    assert_eq!(scripted.peer.asked(DEVICES).len(), 1);
    scripted.send(update(&alice, "D", 6, &[5], &keys_of(&alice, "D", "second"))).await;
    assert_eq!(key().await.as_deref(), Some("second"), "it follows");
    scripted.send(update(&alice, "D", 6, &[5], &keys_of(&alice, "D", "second"))).await;
    assert_eq!(key().await.as_deref(), Some("second"), "told twice");
    let since = scripted.bob.now().await;
    scripted.send(keyless(&alice, "D", 7, &[6])).await;
    assert_eq!(scripted.bob.sync(&since).await["device_lists"]["changed"], json!([alice]));
    assert_eq!(key().await, None, "it has no keys any more");
    // Keys that are not of that device are not taken, and the list is not trusted any more.
    let second = devices(9, "third");
    scripted.peer.on(Method::GET, DEVICES, move |_| second.clone());
    scripted.send(update(&alice, "D", 8, &[7], &keys_of("@bob:here", "D", "forged"))).await;
    until("all devices are fetched again", async || (key().await.as_deref() == Some("third")).then_some(())).await;
}

#[tokio::test]
async fn keys_of_others_than_were_asked_for_are_not_taken() {
    let scripted = Scripted::new().await;
    let alice = scripted.peer.user("alice");
    scripted.peer.on(Method::POST, QUERY, |_| {
        json!({
            "device_keys": {
                "@alice:there": { "D": keys_of("@bob:here", "D", "x"), "E": keys_of("@alice:there", "F", "x") },
                "@bob:here": { "D": keys_of("@bob:here", "D", "x") },
            },
            "master_keys": { "@bob:here": {}, "@alice:there": { "usage": "master" } },
        })
    });
    let answer = query(&scripted.bob, &alice).await;
    assert_eq!(answer["device_keys"], json!({ &alice: {} }), "{answer}");
    assert!(answer["master_keys"].as_object().is_none_or(serde_json::Map::is_empty), "{answer}");
    scripted.peer.on(Method::POST, CLAIM, |_| {
        json!({ "one_time_keys": {
            "@alice:there": { "D": { "other:A": "x" }, "E": { "signed_curve25519:A": {} } },
            "@bob:here": { "D": { "signed_curve25519:A": {} } },
        } })
    });
    let wanted = json!({ "one_time_keys": { &alice: { "D": "signed_curve25519" } } });
    let answer = scripted.bob.post("/v3/keys/claim", wanted).await.ok();
    assert_eq!(answer["one_time_keys"], json!({}), "{answer}");
}

#[tokio::test]
async fn a_server_that_drains_one_time_keys_is_slowed_down() {
    let network = TestNetwork::new();
    let here = network.server_with("here", |config| config.rate_limits.enabled = true).await;
    let bob = here.user("bob").await;
    upload(&bob).await;
    let peer = network.peer("there");
    let wanted = json!({ "one_time_keys": { &bob.id: { &bob.device_id: "signed_curve25519" } } });
    let many: serde_json::Map<_, _> = (0..5_000).map(|n| (n.to_string(), json!("signed_curve25519"))).collect();
    peer.post(&here, "/v1/user/keys/claim", json!({ "one_time_keys": { &bob.id: many } })).await.ok();
    let refused = peer.post(&here, "/v1/user/keys/claim", wanted.clone()).await;
    assert_eq!(refused.status, 429);
    here.advance(Duration::from_secs(10));
    peer.post(&here, "/v1/user/keys/claim", wanted).await.ok();
}

#[tokio::test]
async fn other_servers_get_the_keys_of_our_users_only() {
    let network = TestNetwork::new();
    let here = network.server("here").await;
    let bob = here.user("bob").await;
    let signer = upload(&bob).await;
    let peer = network.peer("there");
    let body = json!({ "device_keys": { &bob.id: [], "@nobody:here": [], "@alice:there": [] } });
    let answer = peer.post(&here, "/v1/user/keys/query", body).await.ok();
    assert_eq!(answer["device_keys"].as_object().unwrap().len(), 1, "{answer}");
    assert_eq!(answer["device_keys"][&bob.id][&bob.device_id]["keys"][signer.key_id()], json!(signer.public_key()));
    let devices = peer.get(&here, &format!("/v1/user/devices/{}", bob.id)).await.ok();
    assert_eq!(devices["devices"][0]["device_id"], json!(bob.device_id));
    assert!(devices["stream_id"].is_u64());
    for user in ["@nobody:here", "@alice:there"] {
        assert_eq!(peer.get(&here, &format!("/v1/user/devices/{user}")).await.status, 404, "{user}");
    }
}
