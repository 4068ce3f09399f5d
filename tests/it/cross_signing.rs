//! Cross-signing keys, and the signatures that are added to keys.

use serde_json::{Value, json};

use crate::support::{Answer, Signer, TestServer, User};

const UPLOAD: &str = "/v3/keys/device_signing/upload";

/// A user's three keys.
struct Keys {
    master: Signer,
    self_signing: Signer,
    user_signing: Signer,
}

impl Keys {
    fn new() -> Self {
        let [master, self_signing, user_signing] = std::array::from_fn(|_| Signer::cross_signing());
        Self { master, self_signing, user_signing }
    }

    fn body(&self, user: &User) -> Value {
        json!({
            "master_key": self.master.as_cross_signing_key(user, "master"),
            "self_signing_key": self.signed(user, &self.self_signing, "self_signing"),
            "user_signing_key": self.signed(user, &self.user_signing, "user_signing"),
        })
    }

    fn signed(&self, user: &User, key: &Signer, usage: &str) -> Value {
        let mut key = key.as_cross_signing_key(user, usage);
        self.master.sign(user, &mut key);
        key
    }

    async fn upload(user: &User) -> Self {
        let keys = Self::new();
        user.post(UPLOAD, keys.body(user)).await.ok();
        keys
    }
}

async fn upload_device_keys(user: &User) -> (Signer, Value) {
    let signer = Signer::of_device(user);
    let keys = signer.device_keys(user);
    user.post("/v3/keys/upload", json!({ "device_keys": keys })).await.ok();
    (signer, keys)
}

async fn query(asker: &User, user: &User) -> Value {
    asker.post("/v3/keys/query", json!({ "device_keys": { &user.id: [] } })).await.ok()
}

async fn upload_signature(signer: &User, owner: &User, name: &str, object: &Value) -> Value {
    signer.post("/v3/keys/signatures/upload", json!({ &owner.id: { name: object } })).await.ok()
}

/// The errcode for one key of the answer to an upload of signatures.
fn failure<'a>(answer: &'a Value, owner: &User, name: &str) -> Option<&'a str> {
    answer["failures"][&owner.id][name]["errcode"].as_str()
}

/// Uploads with the user's password.
async fn upload_with_password(user: &User, name: &str, mut body: Value) -> Answer {
    let challenge = user.post(UPLOAD, body.clone()).await;
    assert_eq!(challenge.status, 401, "{}", challenge.body);
    assert!(challenge.body["flows"].is_array(), "{}", challenge.body);
    body["auth"] = json!({
        "type": "m.login.password",
        "identifier": { "type": "m.id.user", "user": user.id },
        "password": crate::support::password_of(name),
        "session": challenge.body["session"],
    });
    user.post(UPLOAD, body).await
}

#[tokio::test]
async fn the_first_keys_need_no_password_and_others_see_all_but_the_user_signing_key() {
    let server = TestServer::new().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let keys = Keys::new();
    let body = keys.body(&alice);
    alice.post(UPLOAD, body.clone()).await.ok();
    alice.post(UPLOAD, body.clone()).await.ok();

    let mut master = body["master_key"].clone();
    master["signatures"] = json!({});
    let own = query(&alice, &alice).await;
    assert_eq!(own["master_keys"], json!({ &alice.id: master }));
    assert_eq!(own["self_signing_keys"], json!({ &alice.id: body["self_signing_key"] }));
    assert_eq!(own["user_signing_keys"], json!({ &alice.id: body["user_signing_key"] }));
    let others = query(&bob, &alice).await;
    assert_eq!(others["master_keys"], own["master_keys"]);
    assert_eq!(others["self_signing_keys"], own["self_signing_keys"]);
    assert!(others["user_signing_keys"].get(&alice.id).is_none(), "{others}");
}

#[tokio::test]
async fn keys_are_replaced_or_added_only_with_the_password() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let first = Keys::new();
    let master_only = json!({ "master_key": first.master.as_cross_signing_key(&alice, "master") });
    alice.post(UPLOAD, master_only.clone()).await.ok();
    alice.post(UPLOAD, master_only).await.ok();

    let addition = json!({ "self_signing_key": first.signed(&alice, &first.self_signing, "self_signing") });
    upload_with_password(&alice, "alice", addition.clone()).await.ok();
    alice.post(UPLOAD, addition).await.ok();

    let second = Keys::new();
    let replacement = json!({ "master_key": second.master.as_cross_signing_key(&alice, "master") });
    assert_eq!(alice.post(UPLOAD, replacement.clone()).await.status, 401);
    let answer = query(&alice, &alice).await;
    assert!(answer["master_keys"][&alice.id]["keys"][first.master.key_id()].is_string(), "nothing was replaced");
    upload_with_password(&alice, "alice", replacement).await.ok();
    let answer = query(&alice, &alice).await;
    assert!(answer["master_keys"][&alice.id]["keys"][second.master.key_id()].is_string());
    assert!(answer["self_signing_keys"].get(&alice.id).is_none(), "what the old master key signed is gone: {answer}");
}

#[tokio::test]
async fn a_wrong_password_replaces_nothing() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    Keys::upload(&alice).await;
    let before = query(&alice, &alice).await;
    let answer = upload_with_password(&alice, "bob", Keys::new().body(&alice)).await;
    assert_eq!(answer.error(), (401, "M_FORBIDDEN"));
    assert_eq!(query(&alice, &alice).await, before);
}

#[tokio::test]
async fn a_proof_for_some_keys_is_none_for_others() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    Keys::upload(&alice).await;
    let before = query(&alice, &alice).await;
    let asked = alice.post(UPLOAD, Keys::new().body(&alice)).await;
    let mut other = Keys::new().body(&alice);
    other["auth"] = json!({
        "type": "m.login.password",
        "identifier": { "type": "m.id.user", "user": alice.id },
        "password": crate::support::password_of("alice"),
        "session": asked.body["session"],
    });
    assert_eq!(alice.post(UPLOAD, other).await.error(), (403, "M_FORBIDDEN"));
    assert_eq!(query(&alice, &alice).await, before);
}

#[tokio::test]
async fn wrong_keys_are_refused() {
    let server = TestServer::new().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let (keys, others) = (Keys::new(), Keys::new());
    let good = keys.body(&alice);
    let with = |field: &str, value: Value| {
        let mut body = good.clone();
        body[field] = value;
        body
    };
    let without_master = json!({ "self_signing_key": good["self_signing_key"] });
    let mut unsigned = good["self_signing_key"].clone();
    unsigned["signatures"] = json!({});
    let mut changed = good["user_signing_key"].clone();
    changed["extra"] = json!(1);
    let wrong_usage = keys.signed(&alice, &keys.self_signing, "user_signing");
    let same_twice = keys.signed(&alice, &keys.user_signing, "self_signing");
    for (body, errcode) in [
        (json!({}), "M_MISSING_PARAM"),
        (without_master, "M_MISSING_PARAM"),
        (with("self_signing_key", unsigned), "M_INVALID_SIGNATURE"),
        (with("self_signing_key", others.signed(&alice, &keys.self_signing, "self_signing")), "M_INVALID_SIGNATURE"),
        (with("user_signing_key", changed), "M_INVALID_SIGNATURE"),
        (with("self_signing_key", wrong_usage), "M_INVALID_PARAM"),
        (with("self_signing_key", same_twice), "M_INVALID_PARAM"),
        (with("master_key", keys.master.as_cross_signing_key(&bob, "master")), "M_INVALID_PARAM"),
        (with("master_key", json!({ "user_id": alice.id, "usage": ["master"], "keys": {} })), "M_INVALID_PARAM"),
        (with("master_key", json!({ "user_id": alice.id })), "M_BAD_JSON"),
        (with("master_key", json!("text")), "M_BAD_JSON"),
    ] {
        assert_eq!(alice.post(UPLOAD, body.clone()).await.error(), (400, errcode), "{body}");
    }
    let answer = query(&alice, &alice).await;
    assert!(answer["master_keys"].get(&alice.id).is_none(), "{answer}");
}

#[tokio::test]
async fn no_device_has_the_name_of_a_key() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let keys = Keys::upload(&alice).await;
    let log_in = |device: &str| {
        json!({
            "type": "m.login.password",
            "identifier": { "type": "m.id.user", "user": "alice" },
            "password": crate::support::password_of("alice"),
            "device_id": device,
        })
    };
    let refused = server.post("/v3/login", log_in(&keys.self_signing.public_key())).await;
    assert_eq!(refused.error(), (403, "M_FORBIDDEN"));

    let new = Signer::cross_signing();
    server.post("/v3/login", log_in(&new.public_key())).await.ok();
    let body = json!({ "master_key": new.as_cross_signing_key(&alice, "master") });
    assert_eq!(alice.post(UPLOAD, body).await.error(), (403, "M_FORBIDDEN"));
}

#[tokio::test]
async fn own_signatures_are_verified_and_shown_to_all() {
    let server = TestServer::new().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let (device, mut device_keys) = upload_device_keys(&alice).await;
    let keys = Keys::upload(&alice).await;
    keys.self_signing.sign(&alice, &mut device_keys);
    let mut master = keys.master.as_cross_signing_key(&alice, "master");
    device.sign(&alice, &mut master);
    let body = json!({ &alice.id: { &alice.device_id: device_keys, keys.master.public_key(): master } });
    let answer = alice.post("/v3/keys/signatures/upload", body).await.ok();
    assert_eq!(answer.get("failures").cloned().unwrap_or(json!({})), json!({}));

    let shown = query(&bob, &alice).await;
    let mut shown_device = shown["device_keys"][&alice.id][&alice.device_id].clone();
    shown_device.as_object_mut().unwrap().remove("unsigned");
    assert_eq!(shown_device, device_keys);
    assert_eq!(shown["master_keys"][&alice.id], master);
}

#[tokio::test]
async fn forged_signatures_are_failures_and_are_not_stored() {
    let server = TestServer::new().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let (device, device_keys) = upload_device_keys(&alice).await;
    let (_, bobs_device_keys) = upload_device_keys(&bob).await;
    let (keys, bobs) = (Keys::upload(&alice).await, Keys::upload(&bob).await);
    let master = keys.master.as_cross_signing_key(&alice, "master");
    let bobs_master = bobs.master.as_cross_signing_key(&bob, "master");
    let signed_by = |signer: &Signer, object: &Value| {
        let mut object = object.clone();
        signer.sign(&alice, &mut object);
        object
    };
    let mut changed = device_keys.clone();
    changed["algorithms"] = json!(["m.evil"]);
    let mut tampered = signed_by(&keys.self_signing, &device_keys);
    tampered["signatures"][&alice.id][keys.self_signing.key_id()] =
        tampered["signatures"][&alice.id][device.key_id()].clone();
    let mut nobody = device_keys.clone();
    nobody["signatures"] = json!({});
    let mut malformed = device_keys.clone();
    malformed["signatures"] = json!({ &alice.id: [] });
    let (own, own_master) = (alice.device_id.clone(), keys.master.public_key());
    for (owner, name, object, errcode) in [
        (&alice, &own, signed_by(&keys.self_signing, &changed), "M_INVALID_SIGNATURE"),
        (&alice, &own, tampered, "M_INVALID_SIGNATURE"),
        (&alice, &own, nobody, "M_INVALID_SIGNATURE"),
        (&alice, &own, malformed, "M_BAD_JSON"),
        (&alice, &own, signed_by(&keys.master, &device_keys), "M_INVALID_SIGNATURE"),
        (&alice, &own, signed_by(&keys.user_signing, &device_keys), "M_INVALID_SIGNATURE"),
        (&alice, &own, signed_by(&Signer::cross_signing(), &device_keys), "M_INVALID_SIGNATURE"),
        (&alice, &own_master, signed_by(&keys.self_signing, &master), "M_INVALID_SIGNATURE"),
        (&alice, &own_master, signed_by(&keys.user_signing, &master), "M_INVALID_SIGNATURE"),
        (&alice, &"UNKNOWN".to_owned(), signed_by(&keys.self_signing, &device_keys), "M_NOT_FOUND"),
        (&bob, &bobs.master.public_key(), signed_by(&keys.self_signing, &bobs_master), "M_INVALID_SIGNATURE"),
        (&bob, &bobs.master.public_key(), signed_by(&device, &bobs_master), "M_INVALID_SIGNATURE"),
        (&bob, &bob.device_id.clone(), signed_by(&keys.user_signing, &bobs_device_keys), "M_NOT_FOUND"),
        (
            &bob,
            &bobs.self_signing.public_key(),
            signed_by(&keys.user_signing, &bobs.signed(&bob, &bobs.self_signing, "self_signing")),
            "M_NOT_FOUND",
        ),
        (&bob, &"UNKNOWN".to_owned(), signed_by(&keys.user_signing, &bobs_master), "M_NOT_FOUND"),
    ] {
        let answer = upload_signature(&alice, owner, name, &object).await;
        assert_eq!(failure(&answer, owner, name), Some(errcode), "{object}");
    }
    let own = query(&alice, &alice).await;
    let on_device = own["device_keys"][&alice.id][&alice.device_id]["signatures"][&alice.id].as_object().unwrap();
    assert_eq!(on_device.keys().collect::<Vec<_>>(), [&device.key_id()]);
    assert_eq!(own["master_keys"][&alice.id]["signatures"], json!({}));
    assert_eq!(query(&alice, &bob).await["master_keys"][&bob.id]["signatures"], json!({}));
}

#[tokio::test]
async fn one_wrong_key_does_not_keep_the_others_out() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let (_, mut device_keys) = upload_device_keys(&alice).await;
    let keys = Keys::upload(&alice).await;
    keys.self_signing.sign(&alice, &mut device_keys);
    let body = json!({ &alice.id: { &alice.device_id: device_keys, "UNKNOWN": device_keys } });
    let answer = alice.post("/v3/keys/signatures/upload", body).await.ok();
    assert_eq!(answer["failures"][&alice.id].as_object().unwrap().len(), 1);
    assert_eq!(failure(&answer, &alice, "UNKNOWN"), Some("M_NOT_FOUND"));
    let shown = query(&alice, &alice).await;
    let signatures = &shown["device_keys"][&alice.id][&alice.device_id]["signatures"][&alice.id];
    assert!(signatures[keys.self_signing.key_id()].is_string(), "{shown}");
}

#[tokio::test]
async fn only_the_signer_sees_whom_he_verified() {
    let server = TestServer::new().await;
    let (alice, bob, carol) = (server.user("alice").await, server.user("bob").await, server.user("carol").await);
    let (keys, bobs) = (Keys::upload(&alice).await, Keys::upload(&bob).await);
    let other_device = server.log_in("alice").await;
    let since = other_device.get("/v3/sync?timeout=0").await.ok()["next_batch"].as_str().unwrap().to_owned();
    let mut master = bobs.master.as_cross_signing_key(&bob, "master");
    keys.user_signing.sign(&alice, &mut master);
    let answer = upload_signature(&alice, &bob, &bobs.master.public_key(), &master).await;
    assert_eq!(failure(&answer, &bob, &bobs.master.public_key()), None, "{answer}");

    let path = format!("/v3/sync?timeout=0&since={since}");
    assert_eq!(other_device.get(&path).await.ok()["device_lists"]["changed"], json!([bob.id]));
    assert_eq!(query(&other_device, &bob).await["master_keys"][&bob.id], master);
    for other in [&bob, &carol] {
        assert_eq!(query(other, &bob).await["master_keys"][&bob.id]["signatures"], json!({}));
    }

    // Another key of either of them makes the signature void.
    upload_with_password(&bob, "bob", Keys::new().body(&bob)).await.ok();
    assert_eq!(query(&alice, &bob).await["master_keys"][&bob.id]["signatures"], json!({}));
    upload_with_password(&bob, "bob", bobs.body(&bob)).await.ok();
    assert_eq!(query(&alice, &bob).await["master_keys"][&bob.id], master);
    upload_with_password(&alice, "alice", Keys::new().body(&alice)).await.ok();
    assert_eq!(query(&alice, &bob).await["master_keys"][&bob.id]["signatures"], json!({}));
}

#[tokio::test]
async fn signatures_of_a_replaced_self_signing_key_are_gone() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let (device, mut device_keys) = upload_device_keys(&alice).await;
    let keys = Keys::upload(&alice).await;
    keys.self_signing.sign(&alice, &mut device_keys);
    upload_signature(&alice, &alice, &alice.device_id, &device_keys).await;
    upload_with_password(&alice, "alice", Keys::new().body(&alice)).await.ok();
    let shown = query(&alice, &alice).await;
    let signatures = shown["device_keys"][&alice.id][&alice.device_id]["signatures"][&alice.id].as_object().unwrap();
    assert_eq!(signatures.keys().collect::<Vec<_>>(), [&device.key_id()]);
}

#[tokio::test]
async fn a_device_that_comes_with_the_signature_of_the_self_signing_key_keeps_it() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let keys = Keys::upload(&alice).await;
    let mut device_keys = Signer::of_device(&alice).device_keys(&alice);
    keys.self_signing.sign(&alice, &mut device_keys);
    Signer::cross_signing().sign(&alice, &mut device_keys); // of nobody: left out
    alice.post("/v3/keys/upload", json!({ "device_keys": device_keys })).await.ok();
    let shown = query(&alice, &alice).await;
    let signatures = shown["device_keys"][&alice.id][&alice.device_id]["signatures"][&alice.id].as_object().unwrap();
    assert_eq!(signatures.len(), 2, "{shown}");
    assert!(signatures.contains_key(&keys.self_signing.key_id()));
}
