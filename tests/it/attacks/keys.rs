//! D2: signatures, hashes, keys.

use axum::body::Body;
use http::{Method, Request, header};
use ruma::{
    room_version_rules::RoomVersionRules,
    serde::{Base64, base64::Standard},
};
use serde_json::{Value, json};

use crate::support::{Peer, Siege, TestNetwork, hosted::id_of};

/// A federation endpoint that every server answers when the signature is right.
const SIGNED: &str = "/v1/query/profile?user_id=@nobody:home.test";

/// The form in which ruma reads a private key.
fn private_key(bytes: [u8; 32]) -> Vec<u8> {
    let head = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
    head.into_iter().chain(bytes).collect()
}

#[tokio::test]
async fn a_server_with_a_key_that_everybody_has_is_nobody() {
    let network = TestNetwork::new();
    let home = network.server("home.test").await;
    let mut counting = [0_u8; 32];
    (0..).zip(&mut counting).for_each(|(number, byte)| *byte = number);
    for (name, private) in [("zero.test", [0; 32]), ("one.test", [1; 32]), ("counting.test", counting)] {
        let peer = Peer::with_private_key(name, "1", &private_key(private));
        network.add(name, peer.router());
        assert_eq!(peer.get(&home, SIGNED).await.error(), (401, "M_UNAUTHORIZED"), "{name}");
        let notary = home.get(&format!("/_matrix/key/v2/query/{name}")).await.ok();
        assert_eq!(notary["server_keys"], json!([]), "{name}: nor is it passed on");
    }
    let other = Peer::with_private_key("random.test", "1", &private_key([77; 32]));
    network.add("random.test", other.router());
    assert_eq!(other.get(&home, SIGNED).await.error(), (404, "M_NOT_FOUND"), "it is the key that was refused");
}

/// With a point of small order for a key, one signature holds for every text.
#[tokio::test]
async fn a_server_with_a_key_for_which_anybody_can_make_signatures_is_nobody() {
    let network = TestNetwork::new();
    let home = network.server("home.test").await;
    let evil = network.peer("evil.test");
    let mut point = [0_u8; 32];
    point[0] = 1;
    let key = Base64::<Standard>::new(point.to_vec()).encode();
    let signature = Base64::<Standard>::new([point, [0; 32]].concat()).encode();
    let document = json!({
        "server_name": "evil.test", "verify_keys": { "ed25519:x": { "key": key } }, "old_verify_keys": {},
        "valid_until_ts": crate::support::START_MS + 1_000_000,
        "signatures": { "evil.test": { "ed25519:x": signature } },
    });
    // By itself it would hold.
    let object: ruma::CanonicalJsonObject = serde_json::from_value(document.clone()).unwrap();
    let keys = [("ed25519:x".to_owned(), Base64::parse(&key).unwrap())].into();
    ruma::signatures::verify_json(&[("evil.test".to_owned(), keys)].into(), &object).unwrap();
    evil.on(Method::GET, "/_matrix/key/v2/server", move |_| document.clone());
    let request = Request::get(format!("/_matrix/federation{SIGNED}")).header(
        header::AUTHORIZATION,
        format!("X-Matrix origin=\"evil.test\",destination=\"home.test\",key=\"ed25519:x\",sig=\"{signature}\""),
    );
    let answer = home.send(request.body(Body::empty()).unwrap()).await;
    assert_eq!(answer.error(), (401, "M_UNAUTHORIZED"));
    assert_eq!(evil.asked("/_matrix/key/v2/server").len(), 1, "it was asked for its keys");
}

#[tokio::test]
async fn one_right_signature_is_enough_and_wrong_ones_beside_it_do_no_harm() {
    let siege = Siege::new().await;
    let mut event = siege.message("signed twice").await;
    event["signatures"]["evil.test"]["ed25519:unknown"] = "AAAA".into();
    event["signatures"]["nobody.test"] = json!({ "ed25519:1": "AAAA" });
    siege.send(vec![event.clone()]).await;
    assert!(siege.is_seen(&event).await);
    let mut unsigned = siege.message("signed by a key that is not there").await;
    unsigned["signatures"] = json!({ "evil.test": { "ed25519:unknown": "AAAA" } });
    let answer = siege.send(vec![unsigned.clone()]).await;
    assert!(answer["pdus"][id_of(&unsigned)]["error"].is_string(), "{answer}");
    siege.check().await;
}

#[tokio::test]
async fn content_that_does_not_have_its_hash_is_left_out_and_a_wrong_signature_costs_one_event() {
    let siege = Siege::new().await;
    let mut other_content = siege.message("as signed").await;
    other_content["content"]["body"] = "as changed on the way".into();
    let mut other_time = siege.message("changed").await;
    other_time["origin_server_ts"] = 1.into();
    let good = siege.message("good").await;
    let answer = siege.send(vec![other_time.clone(), other_content.clone(), good.clone()]).await;
    assert!(answer["pdus"][id_of(&other_time)]["error"].is_string(), "{answer}");
    assert!(siege.is_seen(&good).await);
    let shown = siege.alice.event(&siege.room, &id_of(&other_content)).await.ok();
    assert_eq!(shown["content"], json!({}));
    siege.check().await;
}

#[tokio::test]
async fn who_signs_with_his_own_key_in_the_name_of_another_server_is_not_believed() {
    let siege = Siege::new().await;
    let good = siege.network.peer("good.test");
    siege.let_in(&good, "@carol:good.test", &siege.room).await;
    let thief = Peer::with_key("good.test", &good.key_id().replace("ed25519:", ""));
    let mut forged = siege.message("in the name of carol").await;
    let member = siege.make("make_leave", &good, "@carol:good.test", &siege.room).await.ok();
    forged["auth_events"] = member["event"]["auth_events"].clone();
    forged["sender"] = "@carol:good.test".into();
    let fields = forged.as_object_mut().unwrap();
    fields.remove("signatures");
    fields.remove("hashes");
    let mut right = forged.clone();
    thief.sign_event(&mut forged, &RoomVersionRules::V11);
    right["content"]["body"] = "carol herself".into();
    good.sign_event(&mut right, &RoomVersionRules::V11);
    let answer = siege.send(vec![forged.clone(), right.clone()]).await;
    assert!(answer["pdus"][id_of(&forged)]["error"].is_string(), "{answer}");
    assert!(!siege.is_seen(&forged).await);
    assert!(siege.is_seen(&right).await, "who hands an event on does not matter");
    siege.check().await;
}

#[tokio::test]
async fn a_transaction_is_of_whoever_signed_the_request() {
    let siege = Siege::new().await;
    let event = siege.message("as somebody else").await;
    let body = json!({ "origin": "good.test", "origin_server_ts": 1, "pdus": [event], "edus": [] });
    let answer = siege.evil.put(&siege.home, "/v1/send/other", body).await;
    assert_eq!(answer.error(), (403, "M_FORBIDDEN"));
    assert!(!siege.is_seen(&event).await);
}

/// A request that was for another server, taken from there.
#[tokio::test]
async fn a_request_for_another_server_is_not_taken() {
    let siege = Siege::new().await;
    let event = siege.message("sent on").await;
    let body: Value = json!({ "origin": "evil.test", "origin_server_ts": 1, "pdus": [event], "edus": [] });
    let elsewhere = "elsewhere.test".try_into().unwrap();
    let request = siege.evil.request(elsewhere, Method::PUT, "/v1/send/replayed", Some(body));
    assert_eq!(siege.home.send(request).await.error(), (401, "M_UNAUTHORIZED"));
    assert!(!siege.is_seen(&event).await);
}
