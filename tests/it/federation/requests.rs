use std::time::Duration;

use axum::body::Body;
use chappe::{
    error::{Error, RemoteError},
    federation,
};
use http::{Method, Request, StatusCode, header};
use ruma::api::federation::query::get_profile_information;
use serde_json::json;

use crate::support::{Peer, START_MS, TestNetwork, TestServer, reply};

/// A federation endpoint that every server answers when the signature is right.
const SIGNED: &str = "/v1/query/profile?user_id=@nobody:a.example";

async fn ask(server: &TestServer, of: &str) -> Result<get_profile_information::v1::Response, Error> {
    let user = format!("@user:{of}").as_str().try_into().unwrap();
    let request = get_profile_information::v1::Request::new(user);
    federation::request(server.inside(), of.try_into().unwrap(), request).await
}

#[tokio::test]
async fn a_request_is_signed_for_its_destination() {
    let network = TestNetwork::new();
    let (server, peer) = (network.server("a.example").await, network.peer("b.example"));
    peer.on(Method::GET, "/_matrix/federation/v1/query/profile", |_| json!({ "displayname": "Bob" }));
    assert_eq!(ask(&server, "b.example").await.unwrap().get("displayname").unwrap(), "Bob");
    let asked = peer.asked("/_matrix/federation/v1/query/profile").remove(0);
    let signature = asked.headers[header::AUTHORIZATION].to_str().unwrap();
    assert!(signature.starts_with("X-Matrix ") && signature.contains("destination=b.example"), "{signature}");
    assert_eq!(asked.headers[header::HOST], "b.example");
}

#[tokio::test]
async fn a_request_with_a_right_signature_comes_in() {
    let network = TestNetwork::new();
    let (server, peer) = (network.server("a.example").await, network.peer("b.example"));
    assert_eq!(peer.get(&server, SIGNED).await.error(), (404, "M_NOT_FOUND"));
}

#[tokio::test]
async fn a_request_without_a_right_signature_stays_out() {
    let network = TestNetwork::new();
    let (server, peer) = (network.server("a.example").await, network.peer("b.example"));
    let here = server.inside().name();
    let path = format!("/_matrix/federation{SIGNED}");
    let unsigned = Request::get(&path).body(Body::empty()).unwrap();
    let for_another = peer.request("c.example".try_into().unwrap(), Method::GET, SIGNED, None);
    let mut other_path = peer.request(here, Method::GET, "/v1/query/profile?user_id=@a:a.example", None);
    *other_path.uri_mut() = path.parse().unwrap();
    let mut other_method = peer.request(here, Method::PUT, SIGNED, None);
    *other_method.method_mut() = Method::GET;
    let mut with_body = peer.request(here, Method::GET, SIGNED, None);
    *with_body.body_mut() = Body::from("{\"a\":1}");
    let thief = Peer::with_key("b.example", "of_b_example").request(here, Method::GET, SIGNED, None);
    let from_us = Peer::new("a.example").request(here, Method::GET, SIGNED, None);
    let mut garbage = Request::get(&path).body(Body::empty()).unwrap();
    garbage.headers_mut().insert(header::AUTHORIZATION, "X-Matrix origin=b.example,,,\"".parse().unwrap());
    let all = [unsigned, for_another, other_path, other_method, with_body, thief, from_us, garbage];
    for (place, request) in all.into_iter().enumerate() {
        assert_eq!(server.send(request).await.error(), (401, "M_UNAUTHORIZED"), "{place}");
    }
}

#[tokio::test]
async fn a_request_that_is_signed_with_a_key_that_ran_out_stays_out() {
    let network = TestNetwork::new();
    let (server, peer) = (network.server("a.example").await, network.peer("b.example"));
    assert_eq!(peer.get(&server, SIGNED).await.error(), (404, "M_NOT_FOUND"));
    server.advance(Duration::from_secs(2 * 24 * 60 * 60));
    assert_eq!(peer.get(&server, SIGNED).await.error(), (401, "M_UNAUTHORIZED"));
    assert_eq!(peer.asked("/_matrix/key/v2/server").len(), 2, "it is asked again, and says nothing new");
}

#[tokio::test]
async fn a_request_that_is_signed_with_a_key_that_was_replaced_stays_out() {
    let network = TestNetwork::new();
    let server = network.server("a.example").await;
    let (old, new) = (Peer::with_key("b.example", "old"), Peer::with_key("b.example", "new"));
    network.add("b.example", old.router());
    assert_eq!(old.get(&server, SIGNED).await.error(), (404, "M_NOT_FOUND"));
    let mut keys = new.keys();
    let key = old.keys()["verify_keys"][old.key_id()]["key"].clone();
    keys["old_verify_keys"] = json!({ old.key_id(): { "key": key, "expired_ts": START_MS + 1_000 } });
    keys["signatures"] = json!({});
    new.sign(&mut keys);
    old.on(Method::GET, "/_matrix/key/v2/server", move |_| keys.clone());
    server.advance(Duration::from_secs(61));
    assert_eq!(new.get(&server, SIGNED).await.error(), (404, "M_NOT_FOUND"));
    assert_eq!(old.get(&server, SIGNED).await.error(), (401, "M_UNAUTHORIZED"), "it was valid until tomorrow");
}

#[tokio::test]
async fn who_is_not_on_the_list_is_neither_asked_nor_heard() {
    let network = TestNetwork::new();
    let allowed = vec!["b.example".parse().unwrap(), "*.gouv.example".parse().unwrap()];
    let server = network.server_with("a.example", |config| config.federation.allowed_servers = allowed).await;
    let (friend, below) = (network.peer("b.example"), network.peer("x.gouv.example"));
    for peer in [&friend, &below] {
        peer.on(Method::GET, "/_matrix/federation/v1/query/profile", |_| json!({}));
        assert_eq!(peer.get(&server, SIGNED).await.errcode(), "M_NOT_FOUND");
        ask(&server, peer.name().as_str()).await.unwrap();
    }
    let stranger = network.peer("c.example");
    assert_eq!(stranger.get(&server, SIGNED).await.error(), (403, "M_FORBIDDEN"));
    assert!(matches!(ask(&server, "c.example").await, Err(Error::Refused { .. })));
    let query = server.get("/_matrix/key/v2/query/c.example").await.ok();
    assert_eq!(query["server_keys"], json!([]), "nor are its keys passed on");
    assert!(stranger.asked("").is_empty());
}

#[tokio::test]
async fn a_server_that_does_not_federate_answers_no_server() {
    let network = TestNetwork::new();
    let server = network.server_with("a.example", |config| config.allow_federation = false).await;
    let peer = network.peer("b.example");
    assert_eq!(peer.get(&server, SIGNED).await.error(), (403, "M_FORBIDDEN"));
    assert_eq!(server.get("/_matrix/key/v2/server").await.error(), (403, "M_FORBIDDEN"));
    assert!(ask(&server, "b.example").await.is_err());
    assert!(peer.asked("").is_empty());
}

#[tokio::test]
async fn a_server_that_fails_is_left_alone_for_a_while_and_longer_each_time() {
    let network = TestNetwork::new();
    let (server, peer) = (network.server("a.example").await, network.peer("b.example"));
    peer.on_response(Method::GET, "/", |_| reply(StatusCode::BAD_GATEWAY, &json!({})));
    let mut asked = 0;
    for pause in [5, 10, 20] {
        assert!(matches!(ask(&server, "b.example").await, Err(Error::Remote { source: RemoteError::Refused(_), .. })));
        asked += 1;
        server.advance(Duration::from_millis(pause * 1_000 - 1));
        let error = ask(&server, "b.example").await.unwrap_err();
        assert!(matches!(error, Error::Remote { source: RemoteError::BackingOff { .. }, .. }), "{error:?}");
        assert_eq!(network.count("b.example", "/"), asked);
        server.advance(Duration::from_millis(1));
    }
}

#[tokio::test]
async fn a_clock_that_was_set_back_keeps_no_server_out_of_reach() {
    let network = TestNetwork::new();
    let (server, peer) = (network.server("a.example").await, network.peer("b.example"));
    peer.on_response(Method::GET, "/", |_| reply(StatusCode::BAD_GATEWAY, &json!({})));
    for _ in 0..2 {
        let error = ask(&server, "b.example").await.unwrap_err();
        assert!(matches!(error, Error::Remote { source: RemoteError::Refused(_), .. }), "{error:?}");
        let error = ask(&server, "b.example").await.unwrap_err();
        assert!(matches!(error, Error::Remote { source: RemoteError::BackingOff { .. }, .. }), "{error:?}");
        server.inside().clock.set_back(Duration::from_secs(24 * 60 * 60));
    }
}

#[tokio::test]
async fn a_server_that_sends_something_is_asked_again_at_once() {
    let network = TestNetwork::new();
    let (server, peer) = (network.server("a.example").await, network.peer("b.example"));
    assert_eq!(peer.get(&server, SIGNED).await.errcode(), "M_NOT_FOUND");
    network.cut_off("b.example");
    assert!(matches!(ask(&server, "b.example").await, Err(Error::Remote { source: RemoteError::Unreachable(_), .. })));
    network.reconnect("b.example");
    assert!(matches!(
        ask(&server, "b.example").await,
        Err(Error::Remote { source: RemoteError::BackingOff { .. }, .. })
    ));
    assert_eq!(peer.get(&server, SIGNED).await.errcode(), "M_NOT_FOUND");
    assert!(matches!(ask(&server, "b.example").await, Err(Error::Remote { source: RemoteError::Refused(_), .. })));
}

#[tokio::test]
async fn a_server_that_was_away_until_its_keys_ran_out_is_heard_when_it_is_back() {
    let network = TestNetwork::new();
    let (server, peer) = (network.server("a.example").await, network.peer("b.example"));
    assert_eq!(peer.get(&server, SIGNED).await.errcode(), "M_NOT_FOUND");
    server.advance(Duration::from_secs(10 * 24 * 60 * 60));
    network.cut_off("b.example");
    assert!(matches!(ask(&server, "b.example").await, Err(Error::Remote { source: RemoteError::Unreachable(_), .. })));
    network.reconnect("b.example");
    peer.set_valid_until(START_MS + 11 * 24 * 60 * 60 * 1_000);
    assert_eq!(peer.get(&server, SIGNED).await.errcode(), "M_NOT_FOUND", "it is asked for its keys");
    assert!(matches!(ask(&server, "b.example").await, Err(Error::Remote { source: RemoteError::Refused(_), .. })));
}

#[tokio::test]
async fn an_answer_that_is_too_large_or_none_is_an_error_of_the_other_server() {
    let network = TestNetwork::new();
    let server =
        network.server_with("a.example", |config| config.federation.max_response_size = "1 MiB".parse().unwrap());
    let (server, peer) = (server.await, network.peer("b.example"));
    peer.on(Method::GET, "/", |_| json!({ "displayname": "x".repeat(2 << 20) }));
    assert!(matches!(ask(&server, "b.example").await, Err(Error::Remote { source: RemoteError::Malformed(_), .. })));
    peer.on_response(Method::GET, "/", |_| http::Response::new(Body::from("not JSON")));
    assert!(matches!(ask(&server, "b.example").await, Err(Error::Remote { source: RemoteError::Malformed(_), .. })));
}
