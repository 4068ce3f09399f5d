use std::{collections::BTreeMap, time::Duration};

use chappe::{
    event::{format, rules::rules},
    federation::keys,
};
use http::Method;
use ruma::{CanonicalJsonObject, RoomVersionId, serde::Base64, signatures::verify_json};
use serde_json::{Value, json, value::to_raw_value};

use crate::support::{Peer, TestNetwork, TestServer};

/// When every test begins, in milliseconds.
const START: u64 = 1_767_225_600_000;
const DAY: u64 = 24 * 60 * 60 * 1_000;

/// An event of `peer`, made at `ts`.
fn event(peer: &Peer, version: &RoomVersionId, ts: u64) -> Value {
    let mut event = json!({
        "type": "m.room.message", "room_id": "!room:b.example", "sender": peer.user("bob"), "origin_server_ts": ts,
        "content": { "body": "hello" }, "depth": 5,
        "prev_events": ["$aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"], "auth_events": [],
    });
    peer.sign_event(&mut event, rules(version).unwrap());
    event
}

/// What of these events holds: the content of each, or nothing.
async fn verify(server: &TestServer, version: &RoomVersionId, events: &[Value]) -> Vec<Option<String>> {
    let events = events.iter().map(|event| to_raw_value(event).unwrap()).collect();
    let verified = keys::verify_all(server.inside(), rules(version).unwrap(), events, format::parse).await.unwrap();
    verified.into_iter().map(|event| event.ok().map(|event| event.pdu().content.get().to_owned())).collect()
}

async fn holds(server: &TestServer, event: &Value) -> bool {
    verify(server, &RoomVersionId::V11, std::slice::from_ref(event)).await[0].is_some()
}

/// Whether `document` is signed with that key.
fn is_signed(document: &Value, server: &str, key_id: &str, key: &str) -> bool {
    let mut object: CanonicalJsonObject = serde_json::from_value(document.clone()).unwrap();
    object.get_mut("signatures").unwrap().as_object_mut().unwrap().retain(|name, _| name == server);
    let keys = BTreeMap::from([(key_id.to_owned(), Base64::parse(key).unwrap())]);
    verify_json(&BTreeMap::from([(server.to_owned(), keys)]), &object).is_ok()
}

#[tokio::test]
async fn our_keys_are_published_with_our_signature() {
    let server = TestNetwork::new().server("a.example").await;
    let keys = server.get("/_matrix/key/v2/server").await.ok();
    assert_eq!(keys["server_name"], "a.example");
    assert_eq!(keys["valid_until_ts"], START + DAY);
    let (id, key) = keys["verify_keys"].as_object().unwrap().iter().next().unwrap();
    assert!(is_signed(&keys, "a.example", id, key["key"].as_str().unwrap()));
}

#[tokio::test]
async fn events_hold_by_the_keys_of_their_servers() {
    let network = TestNetwork::new();
    let server = network.server("a.example").await;
    let peers = ["b.example", "c.example"].map(|name| network.peer(name));
    let good: Vec<_> = peers.iter().map(|peer| event(peer, &RoomVersionId::V11, START)).collect();
    let mut changed = good[0].clone();
    changed["content"]["body"] = json!("something else");
    let mut stolen = good[0].clone();
    stolen["sender"] = json!("@carol:c.example");
    let forged = event(&Peer::with_key("b.example", "of_b_example"), &RoomVersionId::V11, START);
    let nobody = event(&Peer::new("nobody.example"), &RoomVersionId::V11, START);
    let mut events = good.clone();
    events.extend([changed, stolen, forged, nobody, json!({ "not": "an event" })]);
    let hello = Some(r#"{"body":"hello"}"#.to_owned());
    let redacted = Some("{}".to_owned());
    let expected = [hello.clone(), hello, redacted, None, None, None, None];
    assert_eq!(verify(&server, &RoomVersionId::V11, &events).await, expected);
    assert_eq!(verify(&server, &RoomVersionId::V11, &events).await, expected);
    for peer in &peers {
        assert_eq!(peer.asked("/_matrix/key").len(), 1, "keys are asked for once");
    }
}

#[tokio::test]
async fn a_server_that_does_not_answer_holds_up_nobody_who_calls() {
    let network = TestNetwork::new();
    let server = network.server("a.example").await;
    let (silent, calling) = (network.peer("b.example"), network.peer("c.example"));
    network.swallow("b.example");
    let events = [&silent, &calling].map(|peer| event(peer, &RoomVersionId::V11, START));
    let for_task = server.clone();
    let verifying = tokio::spawn(async move { verify(&for_task, &RoomVersionId::V11, &events).await });
    while network.count("b.example", "/_matrix/key") == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let call = calling.get(&server, "/v1/query/profile?user_id=@nobody:a.example");
    let answer = tokio::time::timeout(Duration::from_secs(5), call).await.expect("it has to wait for nobody else");
    assert_eq!(answer.errcode(), "M_NOT_FOUND");
    verifying.abort();
}

#[tokio::test]
async fn many_events_are_checked_in_their_order() {
    let network = TestNetwork::new();
    let (server, peer) = (network.server("a.example").await, network.peer("b.example"));
    let forger = Peer::with_key("b.example", "of_b_example");
    let signer = |n: u64| if n.is_multiple_of(3) { &forger } else { &peer };
    let events: Vec<_> = (0..100).map(|n| event(signer(n), &RoomVersionId::V11, START - n)).collect();
    let verified = verify(&server, &RoomVersionId::V11, &events).await;
    assert!(verified.iter().enumerate().all(|(n, event)| event.is_some() == (n % 3 != 0)));
    assert_eq!(peer.asked("/_matrix/key").len(), 1);
}

#[tokio::test]
async fn a_key_signs_events_of_its_time_only() {
    let network = TestNetwork::new();
    let (server, peer) = (network.server("a.example").await, network.peer("b.example"));
    peer.set_valid_until(START + DAY);
    assert!(holds(&server, &event(&peer, &RoomVersionId::V11, START + DAY)).await);
    assert!(!holds(&server, &event(&peer, &RoomVersionId::V11, START + DAY + 1)).await);
    let old = event(&peer, &RoomVersionId::V4, START + DAY + 1);
    assert!(verify(&server, &RoomVersionId::V4, &[old]).await[0].is_some(), "the first versions do not ask");
}

#[tokio::test]
async fn a_server_can_not_say_what_it_signs_with_in_years() {
    let network = TestNetwork::new();
    let (server, peer) = (network.server("a.example").await, network.peer("b.example"));
    peer.set_valid_until(START + 1_000 * DAY);
    assert!(holds(&server, &event(&peer, &RoomVersionId::V11, START + 7 * DAY)).await);
    assert!(!holds(&server, &event(&peer, &RoomVersionId::V11, START + 7 * DAY + 1)).await);
}

#[tokio::test]
async fn a_key_that_has_run_out_is_asked_for_again() {
    let network = TestNetwork::new();
    let (server, peer) = (network.server("a.example").await, network.peer("b.example"));
    peer.set_valid_until(START + DAY);
    assert!(holds(&server, &event(&peer, &RoomVersionId::V11, START)).await);
    server.advance(Duration::from_millis(2 * DAY));
    assert!(!holds(&server, &event(&peer, &RoomVersionId::V11, START + 2 * DAY)).await, "it says no more");
    peer.set_valid_until(START + 3 * DAY);
    server.advance(Duration::from_secs(61));
    assert!(holds(&server, &event(&peer, &RoomVersionId::V11, START + 2 * DAY)).await);
    assert_eq!(peer.asked("/_matrix/key").len(), 3);
}

#[tokio::test]
async fn an_old_key_signs_no_new_events_even_if_an_older_document_comes_again() {
    let network = TestNetwork::new();
    let server = network.server("a.example").await;
    let (old, new) = (Peer::with_key("b.example", "old"), Peer::with_key("b.example", "new"));
    let before = old.keys();
    let mut keys = new.keys();
    keys["old_verify_keys"] = json!({ "ed25519:old": {
        "key": before["verify_keys"]["ed25519:old"]["key"], "expired_ts": START - DAY,
    } });
    keys["signatures"] = json!({});
    new.sign(&mut keys);
    network.add("b.example", axum::Router::new());
    let published = network.peer("b.example");
    published.on(Method::GET, "/_matrix/key/v2/server", move |_| keys.clone());
    assert!(holds(&server, &event(&old, &RoomVersionId::V11, START - DAY)).await);
    assert!(!holds(&server, &event(&old, &RoomVersionId::V11, START)).await);
    assert!(holds(&server, &event(&new, &RoomVersionId::V11, START)).await);
    published.on(Method::GET, "/_matrix/key/v2/server", move |_| before.clone());
    server.advance(Duration::from_millis(2 * DAY));
    assert!(!holds(&server, &event(&new, &RoomVersionId::V11, START + 2 * DAY)).await);
    assert!(!holds(&server, &event(&old, &RoomVersionId::V11, START)).await);
}

#[tokio::test]
async fn an_old_key_is_over_when_we_hear_of_it_whatever_end_it_is_said_to_have() {
    let network = TestNetwork::new();
    let server = network.server("a.example").await;
    let (old, published) = (Peer::with_key("b.example", "old"), network.peer("b.example"));
    let mut keys = published.keys();
    let key = old.keys()["verify_keys"]["ed25519:old"]["key"].clone();
    keys["old_verify_keys"] = json!({ "ed25519:old": { "key": key, "expired_ts": (1_u64 << 53) - 1 } });
    keys["signatures"] = json!({});
    published.sign(&mut keys);
    published.on(Method::GET, "/_matrix/key/v2/server", move |_| keys.clone());
    assert!(holds(&server, &event(&old, &RoomVersionId::V11, START)).await);
    assert!(!holds(&server, &event(&old, &RoomVersionId::V11, START + 1)).await);
    let request = old.get(&server, "/v1/query/profile?user_id=@nobody:a.example");
    assert_eq!(request.await.error(), (401, "M_UNAUTHORIZED"), "it signs events only");
    server.advance(Duration::from_millis(2 * DAY));
    assert!(!holds(&server, &event(&published, &RoomVersionId::V11, START + 2 * DAY)).await);
    assert_eq!(published.asked("/_matrix/key").len(), 2, "it is told again");
    assert!(!holds(&server, &event(&old, &RoomVersionId::V11, START + 2 * DAY + 1)).await);
}

#[tokio::test]
async fn keys_that_their_server_did_not_sign_are_not_taken() {
    let network = TestNetwork::new();
    let (server, victim) = (network.server("a.example").await, Peer::new("b.example"));
    let liar = network.peer("b.example");
    let mut unsigned = victim.keys();
    unsigned["signatures"] = json!({});
    let mut other_key = victim.keys();
    let (id, of_liar) = (liar.key_id(), liar.keys()["verify_keys"][liar.key_id()].clone());
    other_key["verify_keys"][&id] = of_liar;
    let of_another = network.peer("c.example").keys();
    for keys in [unsigned, other_key, of_another] {
        liar.on(Method::GET, "/_matrix/key/v2/server", move |_| keys.clone());
        assert!(!holds(&server, &event(&liar, &RoomVersionId::V11, START)).await);
        server.advance(Duration::from_secs(61));
    }
}

#[tokio::test]
async fn notaries_are_asked_for_servers_that_do_not_answer_and_believed_only_with_both_signatures() {
    let network = TestNetwork::new();
    let trusted = vec!["notary.example".try_into().unwrap()];
    let server = network.server_with("a.example", |config| config.trusted_servers = trusted).await;
    let notary = network.peer("notary.example");
    let (gone, forged, unsigned) = (Peer::new("gone.example"), Peer::new("x.example"), Peer::new("y.example"));
    let mut good = gone.keys();
    notary.sign(&mut good);
    let mut invented = forged.keys();
    invented["signatures"] = json!({});
    notary.sign(&mut invented);
    let answer = json!({ "server_keys": [good, invented, unsigned.keys()] });
    notary.on(Method::POST, "/_matrix/key/v2/query", move |_| answer.clone());
    let events: Vec<_> =
        [&gone, &forged, &unsigned].iter().map(|peer| event(peer, &RoomVersionId::V11, START)).collect();
    let verified = verify(&server, &RoomVersionId::V11, &events).await;
    assert_eq!(verified.iter().map(Option::is_some).collect::<Vec<_>>(), [true, false, false]);
    let asked = notary.asked("/_matrix/key/v2/query");
    assert_eq!(asked.len(), 1, "all servers are asked for in one request");
    assert_eq!(asked[0].body["server_keys"].as_object().unwrap().len(), 3);
}

#[tokio::test]
async fn a_notary_that_has_a_new_key_is_asked_for_it() {
    let network = TestNetwork::new();
    let trusted = vec!["notary.example".try_into().unwrap()];
    let server = network.server_with("a.example", |config| config.trusted_servers = trusted).await;
    let [old, new] = ["old", "new"].map(|version| Peer::with_key("notary.example", version));
    for (notary, gone) in [(&old, Peer::new("b.example")), (&new, Peer::new("c.example"))] {
        let mut keys = gone.keys();
        notary.sign(&mut keys);
        notary.on(Method::POST, "/_matrix/key/v2/query", move |_| json!({ "server_keys": [keys] }));
        network.add("notary.example", notary.router());
        assert!(holds(&server, &event(&gone, &RoomVersionId::V11, START)).await);
    }
    assert_eq!([old, new].map(|notary| notary.asked("/_matrix/key/v2/server").len()), [1, 1]);
}

#[tokio::test]
async fn whoever_asks_us_for_keys_keeps_us_from_asking_no_notary() {
    let network = TestNetwork::new();
    let trusted = vec!["notary.example".try_into().unwrap()];
    let server = network.server_with("a.example", |config| config.trusted_servers = trusted).await;
    let (notary, gone) = (network.peer("notary.example"), Peer::new("gone.example"));
    let mut keys = gone.keys();
    notary.sign(&mut keys);
    notary.on(Method::POST, "/_matrix/key/v2/query", move |_| json!({ "server_keys": [keys] }));
    let told = server.get("/_matrix/key/v2/query/gone.example").await.ok();
    assert_eq!(told["server_keys"], json!([]), "only the server itself is asked for strangers");
    assert!(holds(&server, &event(&gone, &RoomVersionId::V11, START)).await);
}

#[tokio::test]
async fn a_notary_may_have_a_document_for_each_key_of_a_server() {
    let network = TestNetwork::new();
    let trusted = vec!["notary.example".try_into().unwrap()];
    let server = network.server_with("a.example", |config| config.trusted_servers = trusted).await;
    let notary = network.peer("notary.example");
    let (old, new) = (Peer::with_key("gone.example", "old"), Peer::with_key("gone.example", "new"));
    old.set_valid_until(START);
    let mut documents = [new.keys(), old.keys()];
    documents.iter_mut().for_each(|document| notary.sign(document));
    let answer = json!({ "server_keys": documents });
    notary.on(Method::POST, "/_matrix/key/v2/query", move |_| answer.clone());
    let events = [&old, &new].map(|peer| event(peer, &RoomVersionId::V11, START));
    let verified = verify(&server, &RoomVersionId::V11, &events).await;
    assert!(verified.iter().all(Option::is_some), "{verified:?}");
    let told = server.get("/_matrix/key/v2/query/gone.example").await.ok();
    assert_eq!(told["server_keys"][0]["valid_until_ts"], START + DAY, "the newer one is passed on");
}

#[tokio::test]
async fn what_is_said_to_be_valid_for_years_is_passed_on_for_some_days() {
    let network = TestNetwork::new();
    let (server, peer) = (network.server("a.example").await, network.peer("b.example"));
    let told = async || {
        let answer = server.get("/_matrix/key/v2/query/b.example").await.ok();
        answer["server_keys"][0]["valid_until_ts"].as_u64().unwrap()
    };
    peer.set_valid_until(START + 1_000 * DAY);
    assert_eq!(told().await, START + 1_000 * DAY);
    peer.set_valid_until(START + 5 * DAY);
    server.advance(Duration::from_millis(3 * DAY));
    assert_eq!(told().await, START + 1_000 * DAY, "for half of seven days");
    server.advance(Duration::from_millis(DAY));
    assert_eq!(told().await, START + 5 * DAY, "the server says so now");
}

#[tokio::test]
async fn as_a_notary_it_passes_on_what_servers_signed_with_its_own_signature() {
    let network = TestNetwork::new();
    let (server, peer) = (network.server("a.example").await, network.peer("b.example"));
    let own = server.get("/_matrix/key/v2/server").await.ok();
    let (id, key) = own["verify_keys"].as_object().unwrap().iter().next().unwrap();
    let one = server.get("/_matrix/key/v2/query/b.example").await.ok();
    let query = json!({ "server_keys": { "b.example": {}, "nobody.example": {}, "a.example": {} } });
    let many = server.post("/_matrix/key/v2/query", query).await.ok();
    assert_eq!(many["server_keys"].as_array().unwrap().len(), 2);
    assert_eq!(one["server_keys"].as_array().unwrap().len(), 1);
    let document = &one["server_keys"][0];
    assert_eq!(document["server_name"], "b.example");
    assert!(is_signed(document, "a.example", id, key["key"].as_str().unwrap()));
    let of_peer = peer.keys()["verify_keys"][peer.key_id()]["key"].as_str().unwrap().to_owned();
    assert!(is_signed(document, "b.example", &peer.key_id(), &of_peer));
    assert_eq!(peer.asked("/_matrix/key").len(), 1, "it asks once");
}

#[tokio::test]
async fn as_a_notary_it_asks_a_server_that_tells_no_keys_once_a_minute() {
    let network = TestNetwork::new();
    let (server, peer) = (network.server("a.example").await, network.peer("b.example"));
    peer.refuse(Method::GET, "/_matrix/key/v2/server", 404, "M_NOT_FOUND");
    for minute in 1..=2 {
        for _ in 0..50 {
            let answer = server.get("/_matrix/key/v2/query/b.example").await.ok();
            assert_eq!(answer["server_keys"], json!([]));
        }
        assert_eq!(peer.asked("/_matrix/key").len(), minute);
        server.advance(Duration::from_secs(61));
    }
}

#[tokio::test]
async fn as_a_notary_it_asks_only_a_few_of_the_servers_that_one_query_names() {
    let network = TestNetwork::new();
    let server = network.server("a.example").await;
    let names: Vec<_> = (0..300).map(|number| format!("s{number}.example")).collect();
    let wanted: serde_json::Map<_, _> = names.iter().map(|name| (name.clone(), json!({}))).collect();
    let answer = server.post("/_matrix/key/v2/query", json!({ "server_keys": wanted })).await.ok();
    assert_eq!(answer["server_keys"], json!([]));
    assert_eq!(names.iter().map(|name| network.count(name, "/")).sum::<usize>(), 20);
}
