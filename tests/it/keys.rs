//! Device keys, one-time and fallback keys.

use std::collections::HashSet;

use serde_json::{Value, json};

use crate::support::{Signer, TestServer, User, curve25519_key, limit};

async fn upload(user: &User, body: Value) -> crate::support::Answer {
    user.post("/v3/keys/upload", body).await
}

/// Uploads these one-time keys, in one request each.
async fn upload_one_time_keys(user: &User, signer: &Signer, names: &[&str]) {
    for name in names {
        let id = format!("signed_curve25519:{name}");
        upload(user, json!({ "one_time_keys": { id: signer.one_time_key(user) } })).await.ok();
    }
}

async fn query(asker: &User, user: &User) -> Value {
    asker.post("/v3/keys/query", json!({ "device_keys": { &user.id: [] } })).await.ok()
}

/// The id of the key that is given out, and the key.
async fn claim(claimer: &User, user: &User) -> Option<(String, Value)> {
    let body = json!({ "one_time_keys": { &user.id: { &user.device_id: "signed_curve25519" } } });
    let answer = claimer.post("/v3/keys/claim", body).await.ok();
    let keys = answer["one_time_keys"][&user.id][&user.device_id].as_object()?.clone();
    assert_eq!(keys.len(), 1, "{answer}");
    keys.into_iter().next()
}

async fn sync(user: &User, since: Option<&str>) -> Value {
    let since = since.map_or_else(String::new, |since| format!("&since={since}"));
    user.get(&format!("/v3/sync?timeout=0{since}")).await.ok()
}

fn next_batch(sync: &Value) -> String {
    sync["next_batch"].as_str().unwrap().to_owned()
}

async fn share_a_room(alice: &User, bob: &User) {
    let body = json!({ "preset": "public_chat" });
    let room = alice.post("/v3/createRoom", body).await.ok()["room_id"].as_str().unwrap().to_owned();
    bob.post(&format!("/v3/join/{room}"), json!({})).await.ok();
}

#[tokio::test]
async fn device_keys_can_be_queried_as_they_were_uploaded() {
    let server = TestServer::new().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let keys = Signer::of_device(&alice).device_keys(&alice);
    let mut with_unsigned = keys.clone();
    with_unsigned["unsigned"] = json!({ "device_display_name": "forged" });
    let counts = upload(&alice, json!({ "device_keys": with_unsigned })).await.ok();
    assert_eq!(counts, json!({ "one_time_key_counts": { "signed_curve25519": 0 } }));

    let renamed = json!({ "display_name": "Alice's phone" });
    alice.put(&format!("/v3/devices/{}", alice.device_id), renamed).await.ok();
    let answer = query(&bob, &alice).await;
    let mut expected = keys;
    expected["unsigned"] = json!({ "device_display_name": "Alice's phone" });
    assert_eq!(answer["device_keys"][&alice.id], json!({ &alice.device_id: expected }));

    let of = |devices: Value| json!({ "device_keys": { &alice.id: devices } });
    let named = bob.post("/v3/keys/query", of(json!([alice.device_id]))).await.ok();
    assert_eq!(named["device_keys"], answer["device_keys"]);
    let unknown = bob.post("/v3/keys/query", of(json!(["UNKNOWN"]))).await.ok();
    assert_eq!(unknown["device_keys"], json!({ &alice.id: {} }));
}

#[tokio::test]
async fn users_without_keys_are_empty_and_unknown_ones_are_left_out() {
    let server = TestServer::new().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let body = json!({ "device_keys": { &bob.id: [], "@nobody:example.org": [], "@carol:other.org": [] } });
    let answer = alice.post("/v3/keys/query", body).await.ok();
    assert_eq!(answer["device_keys"], json!({ &bob.id: {} }));
    assert!(answer["failures"]["other.org"].is_object(), "{answer}");

    let device = json!({ "X": "signed_curve25519" });
    let wanted = json!({ &bob.id: device, "@nobody:example.org": device, "@carol:other.org": device });
    let answer = alice.post("/v3/keys/claim", json!({ "one_time_keys": wanted })).await.ok();
    assert_eq!(answer["one_time_keys"], json!({}));
    assert!(answer["failures"]["other.org"].is_object(), "{answer}");

    let answer = alice.post("/v3/keys/query", json!({ "device_keys": { "@nobody:example.org": [] } })).await.ok();
    assert_eq!(answer, json!({ "device_keys": {}, "failures": {} }), "both are there");
    let wanted = json!({ "one_time_keys": { "@nobody:example.org": device } });
    let answer = alice.post("/v3/keys/claim", wanted).await.ok();
    assert_eq!(answer, json!({ "failures": {}, "one_time_keys": {} }), "both are there");
}

#[tokio::test]
async fn malformed_uploads_are_refused_and_store_nothing() {
    let server = TestServer::new().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let signer = Signer::of_device(&alice);
    let keys = signer.device_keys(&alice);
    let otk = signer.one_time_key(&alice);
    let with = |field: &str, value: Value| {
        let mut keys = keys.clone();
        keys[field] = value;
        json!({ "device_keys": keys })
    };
    let with_otk = |id: &str, key: &Value| json!({ "device_keys": keys, "one_time_keys": { id: key } });
    let mut forged = keys.clone();
    forged["algorithms"] = json!([]);
    let too_many: serde_json::Map<_, _> = (0..501).map(|n| (format!("signed_curve25519:{n}"), otk.clone())).collect();
    let long_id = format!("signed_curve25519:{}", "a".repeat(300));
    for (body, status, errcode) in [
        (json!({ "device_keys": { "user_id": alice.id, "device_id": alice.device_id } }), 400, "M_BAD_JSON"),
        (with("user_id", json!(bob.id)), 400, "M_INVALID_PARAM"),
        (with("device_id", json!(bob.device_id)), 400, "M_INVALID_PARAM"),
        (with("algorithms", json!("x")), 400, "M_BAD_JSON"),
        (with("extra", json!(1.5)), 400, "M_BAD_JSON"),
        (with("extra", json!("x".repeat(20_000))), 413, "M_TOO_LARGE"),
        (with("keys", json!({ "ed25519:OTHER": curve25519_key() })), 400, "M_INVALID_PARAM"),
        (json!({ "device_keys": forged }), 400, "M_INVALID_SIGNATURE"),
        (json!({ "device_keys": 1 }), 400, "M_BAD_JSON"),
        (with_otk("no-colon", &otk), 400, "M_BAD_JSON"),
        (with_otk("signed_curve25519:", &otk), 400, "M_INVALID_PARAM"),
        (with_otk(&long_id, &otk), 400, "M_INVALID_PARAM"),
        (with_otk("signed_curve25519:A", &json!("text")), 400, "M_BAD_JSON"),
        (with_otk("signed_curve25519:A", &json!({ "key": "AAAA", "signatures": {} })), 400, "M_INVALID_PARAM"),
        (with_otk("signed_curve25519:A", &json!({ "key": curve25519_key() })), 400, "M_BAD_JSON"),
        (json!({ "one_time_keys": too_many }), 400, "M_INVALID_PARAM"),
        (
            json!({ "fallback_keys": { "signed_curve25519:A": otk, "signed_curve25519:B": otk } }),
            400,
            "M_INVALID_PARAM",
        ),
    ] {
        assert_eq!(upload(&alice, body.clone()).await.error(), (status, errcode), "{body}");
    }
    assert_eq!(query(&bob, &alice).await["device_keys"], json!({ &alice.id: {} }));
    assert_eq!(claim(&bob, &alice).await, None);
}

#[tokio::test]
async fn a_query_with_an_object_of_devices_is_refused() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let body = json!({ "device_keys": { &alice.id: { "X": true } } });
    assert_eq!(alice.post("/v3/keys/query", body).await.error(), (400, "M_BAD_JSON"));
}

#[tokio::test]
async fn keys_without_a_signature_are_taken_but_show_none() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let mut keys = Signer::of_device(&alice).device_keys(&alice);
    keys["signatures"] = json!({});
    upload(&alice, json!({ "device_keys": keys })).await.ok();
    assert_eq!(query(&alice, &alice).await["device_keys"][&alice.id][&alice.device_id]["signatures"], json!({}));
}

#[tokio::test]
async fn one_time_keys_are_given_out_in_the_order_of_their_uploads() {
    let server = TestServer::new().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let signer = Signer::of_device(&alice);
    upload_one_time_keys(&alice, &signer, &["2", "0", "1"]).await;
    for name in ["2", "0", "1"] {
        assert_eq!(claim(&bob, &alice).await.unwrap().0, format!("signed_curve25519:{name}"));
    }
    assert_eq!(claim(&bob, &alice).await, None);
}

#[tokio::test]
async fn the_same_upload_again_changes_nothing_and_another_key_of_the_same_id_is_refused() {
    let server = TestServer::new().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let signer = Signer::of_device(&alice);
    let (a, b) = (signer.one_time_key(&alice), signer.one_time_key(&alice));
    let body = json!({ "one_time_keys": { "signed_curve25519:A": a } });
    for _ in 0..3 {
        let counts = upload(&alice, body.clone()).await.ok();
        assert_eq!(counts["one_time_key_counts"]["signed_curve25519"], 1);
    }
    let other = json!({ "one_time_keys": { "signed_curve25519:A": b, "signed_curve25519:B": b } });
    assert_eq!(upload(&alice, other).await.error(), (400, "M_INVALID_PARAM"));
    assert_eq!(claim(&bob, &alice).await, Some(("signed_curve25519:A".to_owned(), a)));
    assert_eq!(claim(&bob, &alice).await, None, "nothing of the refused upload is there");
}

#[tokio::test]
async fn a_key_that_was_given_out_is_not_given_out_again_when_its_upload_is_repeated() {
    let server = TestServer::new().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let signer = Signer::of_device(&alice);
    let body = json!({ "one_time_keys": { "signed_curve25519:A": signer.one_time_key(&alice) } });
    upload(&alice, body.clone()).await.ok();
    assert!(claim(&bob, &alice).await.is_some());
    let counts = upload(&alice, body).await.ok();
    assert_eq!(counts["one_time_key_counts"]["signed_curve25519"], 0);
    assert_eq!(claim(&bob, &alice).await, None);
}

#[tokio::test]
async fn claims_of_one_user_are_limited() {
    let server = TestServer::with(|config| limit(config, "key_claim = { burst = 2, every = '1 s' }")).await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let wanted = json!({ "one_time_keys": { &alice.id: { &alice.device_id: "signed_curve25519" } } });
    for _ in 0..2 {
        bob.post("/v3/keys/claim", wanted.clone()).await.ok();
    }
    assert_eq!(bob.post("/v3/keys/claim", wanted.clone()).await.error(), (429, "M_LIMIT_EXCEEDED"));
    alice.post("/v3/keys/claim", wanted).await.ok();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_who_claim_at_once_get_a_key_each() {
    const KEYS: usize = 60;
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let signer = Signer::of_device(&alice);
    let keys: serde_json::Map<_, _> =
        (0..KEYS).map(|n| (format!("signed_curve25519:{n}"), signer.one_time_key(&alice))).collect();
    upload(&alice, json!({ "one_time_keys": keys })).await.ok();
    let claims: Vec<_> = (0..KEYS + 20)
        .map(|_| {
            let alice = alice.clone();
            tokio::spawn(async move { claim(&alice, &alice).await })
        })
        .collect();
    let mut given = Vec::new();
    for claim in claims {
        given.extend(claim.await.unwrap().map(|(id, _)| id));
    }
    assert_eq!(given.len(), KEYS);
    assert_eq!(given.iter().collect::<HashSet<_>>().len(), KEYS, "each was given out once");
    let counts = upload(&alice, json!({})).await.ok();
    assert_eq!(counts["one_time_key_counts"]["signed_curve25519"], 0);
}

#[tokio::test]
async fn the_fallback_key_is_given_out_when_there_is_no_other() {
    let server = TestServer::new().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let signer = Signer::of_device(&alice);
    let unused = async || sync(&alice, None).await["device_unused_fallback_key_types"].clone();
    assert_eq!(unused().await, json!([]));
    let fallback =
        |name: &str| json!({ "fallback_keys": { format!("signed_curve25519:{name}"): signer.one_time_key(&alice) } });
    let first = fallback("F1");
    upload(&alice, first.clone()).await.ok();
    upload_one_time_keys(&alice, &signer, &["A"]).await;
    assert_eq!(unused().await, json!(["signed_curve25519"]));
    let counts = sync(&alice, None).await["device_one_time_keys_count"].clone();
    assert_eq!(counts, json!({ "signed_curve25519": 1 }), "fallback keys do not count");

    assert_eq!(claim(&bob, &alice).await.unwrap().0, "signed_curve25519:A");
    assert_eq!(unused().await, json!(["signed_curve25519"]));
    let counts = sync(&alice, None).await["device_one_time_keys_count"].clone();
    assert_eq!(counts, json!({ "signed_curve25519": 0 }), "clients go by the last count that they were told");
    for _ in 0..2 {
        assert_eq!(claim(&bob, &alice).await.unwrap().0, "signed_curve25519:F1");
        assert_eq!(unused().await, json!([]));
    }
    upload(&alice, first).await.ok();
    assert_eq!(unused().await, json!([]), "the same key stays used");
    upload(&alice, fallback("F2")).await.ok();
    assert_eq!(unused().await, json!(["signed_curve25519"]));
    assert_eq!(claim(&bob, &alice).await.unwrap().0, "signed_curve25519:F2");
}

#[tokio::test]
async fn a_new_identity_has_none_of_the_old_keys() {
    let server = TestServer::new().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let old = Signer::of_device(&alice);
    let keys = old.device_keys(&alice);
    upload(&alice, json!({ "device_keys": keys })).await.ok();
    upload_one_time_keys(&alice, &old, &["A", "B"]).await;
    let fallback = json!({ "signed_curve25519:F": old.one_time_key(&alice) });
    upload(&alice, json!({ "fallback_keys": fallback })).await.ok();
    upload(&alice, json!({ "device_keys": keys })).await.ok();
    assert!(claim(&bob, &alice).await.is_some(), "the same identity keeps its keys");

    let new = Signer::of_device(&alice);
    let one_time_keys = json!({ "signed_curve25519:A": new.one_time_key(&alice) });
    let body = json!({ "device_keys": new.device_keys(&alice), "one_time_keys": one_time_keys });
    assert_eq!(upload(&alice, body).await.ok()["one_time_key_counts"]["signed_curve25519"], 1);
    let shown = &query(&bob, &alice).await["device_keys"][&alice.id][&alice.device_id];
    assert_eq!(shown["keys"][new.key_id()], new.public_key());
    assert_eq!(shown["signatures"][&alice.id].as_object().unwrap().len(), 1);
    assert_eq!(claim(&bob, &alice).await.unwrap().1, one_time_keys["signed_curve25519:A"]);
    assert_eq!(claim(&bob, &alice).await, None);
}

#[tokio::test]
async fn a_device_that_is_deleted_has_no_keys_left() {
    let server = TestServer::new().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let signer = Signer::of_device(&alice);
    upload(&alice, json!({ "device_keys": signer.device_keys(&alice) })).await.ok();
    upload_one_time_keys(&alice, &signer, &["A"]).await;
    share_a_room(&alice, &bob).await;
    let before = next_batch(&sync(&bob, None).await);
    alice.post("/v3/logout", json!({})).await.ok();
    assert_eq!(query(&bob, &alice).await["device_keys"], json!({ &alice.id: {} }));
    assert_eq!(claim(&bob, &alice).await, None);
    assert_eq!(sync(&bob, Some(&before)).await["device_lists"]["changed"], json!([alice.id]));
}

#[tokio::test]
async fn a_device_that_comes_back_is_told_that_it_has_no_keys() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let signer = Signer::of_device(&alice);
    let fallback = json!({ "signed_curve25519:F": signer.one_time_key(&alice) });
    upload(&alice, json!({ "fallback_keys": fallback })).await.ok();
    upload_one_time_keys(&alice, &signer, &["A"]).await;
    let told = async |user: &User| {
        let answer = sync(user, None).await;
        [answer["device_one_time_keys_count"].clone(), answer["device_unused_fallback_key_types"].clone()]
    };
    assert_eq!(told(&alice).await, [json!({ "signed_curve25519": 1 }), json!(["signed_curve25519"])]);
    alice.post("/v3/logout", json!({})).await.ok();
    let again = server.log_in_on("alice", &alice.device_id).await;
    assert_eq!(told(&again).await, [json!({ "signed_curve25519": 0 }), json!([])]);
}

#[tokio::test]
async fn those_who_share_a_room_hear_of_new_keys_and_others_do_not() {
    let server = TestServer::new().await;
    let (alice, bob, carol) = (server.user("alice").await, server.user("bob").await, server.user("carol").await);
    share_a_room(&alice, &bob).await;
    let [of_alice, of_bob, of_carol] = [
        next_batch(&sync(&alice, None).await),
        next_batch(&sync(&bob, None).await),
        next_batch(&sync(&carol, None).await),
    ];
    let keys = Signer::of_device(&alice).device_keys(&alice);
    upload(&alice, json!({ "device_keys": keys })).await.ok();

    let news = sync(&bob, Some(&of_bob)).await;
    assert_eq!(news["device_lists"]["changed"], json!([alice.id]));
    assert_eq!(sync(&alice, Some(&of_alice)).await["device_lists"]["changed"], json!([alice.id]));
    assert!(sync(&carol, Some(&of_carol)).await["device_lists"].is_null());
    let now = next_batch(&news);
    let changes = bob.get(&format!("/v3/keys/changes?from={of_bob}&to={now}")).await.ok();
    assert_eq!(changes, json!({ "changed": [alice.id], "left": [] }));

    upload(&alice, json!({ "device_keys": keys })).await.ok();
    upload_one_time_keys(&alice, &Signer::of_device(&alice), &["A"]).await;
    assert!(sync(&bob, Some(&now)).await["device_lists"].is_null(), "nothing that others see has changed");
    let changes = bob.get(&format!("/v3/keys/changes?from={now}&to={now}")).await.ok();
    assert_eq!(changes, json!({ "changed": [], "left": [] }));
}

#[tokio::test]
async fn tokens_that_are_none_of_ours_are_refused() {
    let server = TestServer::new().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    share_a_room(&alice, &bob).await;
    for query in ["from=x&to=s1_0", "from=s1_0&to=x", "from=s72594_4483_1934&to=s1_0"] {
        let path = format!("/v3/keys/changes?{query}");
        assert_eq!(alice.get(&path).await.error(), (400, "M_INVALID_PARAM"), "{query}");
    }
    assert_eq!(alice.get("/v3/keys/changes?from=s1_0").await.error(), (400, "M_MISSING_PARAM"));
    // A token from before a restored backup: the client has to ask for everybody.
    let changes = alice.get("/v3/keys/changes?from=s999999_0&to=s999999_0").await.ok();
    assert_eq!(changes["changed"], json!([alice.id, bob.id]));
}
