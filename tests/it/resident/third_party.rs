use http::Method;
use ruma::{
    CanonicalJsonObject,
    serde::{Base64, base64::Standard},
    signatures::{Ed25519KeyPair, sign_json},
};
use serde_json::{Value, json};

use super::{Scene, is_signed_by};
use crate::support::{Answer, room::path};

type Change = fn(&mut Value);

/// The key of an identity server.
fn identity_key() -> Ed25519KeyPair {
    Ed25519KeyPair::from_der(&Ed25519KeyPair::generate(), "0".to_owned()).unwrap()
}

/// A scene with an invite of alice's for an address, and the server of whom it turns out to be for signs invites.
async fn scene(key: &Ed25519KeyPair) -> Scene {
    let scene = Scene::with("11", json!({ "preset": "private_chat" })).await;
    let public = Base64::<Standard>::new(key.public_key().to_vec());
    let content = json!({
        "display_name": "b...@example.org", "key_validity_url": "https://id.test/valid", "public_key": public,
        "public_keys": [{ "public_key": public }],
    });
    scene.alice.set(&scene.room, "m.room.third_party_invite", "token", content).await;
    let peer = scene.peer.clone();
    scene.peer.on(Method::PUT, "/_matrix/federation/v2/invite/", move |asked| {
        let mut event = asked.body["event"].clone();
        let mut redacted: CanonicalJsonObject = ruma::canonical_json::redact(
            serde_json::from_value(event.clone()).unwrap(),
            &ruma::room_version_rules::RedactionRules::V11,
            None,
        )
        .unwrap();
        redacted.remove("unsigned");
        let mut signed = serde_json::to_value(redacted).unwrap();
        peer.sign(&mut signed);
        event["signatures"] = signed["signatures"].clone();
        json!({ "event": event })
    });
    scene
}

fn signed(key: &Ed25519KeyPair, mxid: &str, token: &str) -> Value {
    let mut signed: CanonicalJsonObject = serde_json::from_value(json!({ "mxid": mxid, "token": token })).unwrap();
    sign_json("id.test", key, &mut signed).unwrap();
    serde_json::to_value(signed).unwrap()
}

async fn exchange(scene: &Scene, room: &str, change: impl FnOnce(&mut Value), signed: Value) -> Answer {
    let mut event = json!({
        "type": "m.room.member", "room_id": scene.room, "sender": scene.alice.id, "state_key": scene.bob(),
        "content": { "membership": "invite", "displayname": "Evil", "third_party_invite": { "signed": signed } },
    });
    change(&mut event);
    scene.peer.put(&scene.server, &format!("/v1/exchange_third_party_invite/{}", path(room)), event).await
}

#[tokio::test]
async fn an_invite_by_address_becomes_one_of_the_user_whose_address_it_is() {
    let key = identity_key();
    let scene = scene(&key).await;
    exchange(&scene, &scene.room, |_| {}, signed(&key, &scene.bob(), "token")).await.ok();
    let content = scene.alice.state(&scene.room, "m.room.member", &scene.bob()).await.ok();
    assert_eq!(content["membership"], "invite");
    assert_eq!(content["third_party_invite"]["display_name"], "b...@example.org");
    assert!(content.get("displayname").is_none(), "nothing but what was checked is taken over");
    let asked = scene.peer.asked("/_matrix/federation/v2/invite/");
    assert!(is_signed_by(&asked[0].body["event"], "resident.test"));
}

#[tokio::test]
async fn no_other_invite_is_made_for_the_asking() {
    let key = identity_key();
    let scene = scene(&key).await;
    let bob = scene.bob();
    let good = || signed(&key, &bob, "token");
    let changes: [(&str, Change); 6] = [
        ("type", |event| event["type"] = "m.room.power_levels".into()),
        ("membership", |event| event["content"]["membership"] = "join".into()),
        ("sender", |event| event["sender"] = "@carol:resident.test".into()),
        ("sender of theirs", |event| event["sender"] = "@bob:peer.test".into()),
        ("user", |event| event["state_key"] = "@dan:peer.test".into()),
        ("room", |event| event["room_id"] = "!other:resident.test".into()),
    ];
    for (what, change) in changes {
        exchange(&scene, &scene.room, change, good()).await.errcode();
        assert!(scene.peer.asked("/_matrix/federation/v2/invite/").is_empty(), "{what}");
    }
    let stranger = identity_key();
    for (what, signed) in [
        ("another key", signed(&stranger, &bob, "token")),
        ("another token", signed(&key, &bob, "other")),
        ("another user", signed(&key, "@dan:peer.test", "token")),
        ("no signature", json!({ "mxid": bob, "token": "token", "signatures": {} })),
    ] {
        let answer = exchange(&scene, &scene.room, |_| {}, signed).await;
        assert_eq!(answer.error(), (403, "M_FORBIDDEN"), "{what}");
        assert!(scene.peer.asked("/_matrix/federation/v2/invite/").is_empty(), "{what}");
    }
    assert_eq!(scene.membership(&bob).await, None);
}
