//! D7: being made to connect where nobody should.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use chappe::{
    error::{Error, RemoteError},
    federation,
};
use http::Method;
use ruma::{OwnedServerName, api::federation::query::get_profile_information};
use serde_json::json;
use tokio::net::TcpListener;

use crate::support::TestServer;

/// Something that listens on this machine only; how many connections it got.
async fn internal_service() -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let connections = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&connections);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            counter.fetch_add(1, Ordering::Relaxed);
            drop(stream);
        }
    });
    (port, connections)
}

/// A server with a real network, and no exceptions from the networks that are denied.
async fn home() -> TestServer {
    TestServer::with_network(|config| config.ip_range_allowlist = Vec::new()).await
}

#[tokio::test]
async fn a_server_name_that_stands_for_a_private_address_is_not_connected_to() {
    let (port, connections) = internal_service().await;
    let home = home().await;
    for name in
        ["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[64:ff9b::7f00:1]", "0.0.0.0"]
    {
        let name = OwnedServerName::try_from(format!("{name}:{port}")).unwrap();
        let user = format!("@x:{name}").try_into().unwrap();
        let ask = get_profile_information::v1::Request::new(user);
        match federation::request(home.inside(), &name, ask).await {
            Err(Error::Remote { source: RemoteError::Unreachable(why), .. }) => {
                assert!(why.contains("to which this server does not connect"), "{name}: {why}");
            }
            other => panic!("{name}: {other:?}"),
        }
    }
    assert_eq!(connections.load(Ordering::Relaxed), 0);
}

/// Whatever clients and strangers can name makes no connection either.
#[tokio::test]
async fn no_request_of_a_client_or_stranger_leads_to_a_private_address() {
    let (port, connections) = internal_service().await;
    let home = home().await;
    let alice = home.user("alice").await;
    let there = format!("127.0.0.1:{port}");
    for (method, uri, body) in [
        (Method::GET, format!("/v3/profile/@x:{there}"), None),
        (Method::GET, format!("/v3/directory/room/%23x:{there}"), None),
        (Method::GET, format!("/v1/media/download/{there}/x"), None),
        (Method::GET, format!("/v1/media/thumbnail/{there}/x?width=32&height=32"), None),
        (Method::POST, format!("/v3/publicRooms?server={there}"), Some(json!({}))),
        (Method::POST, format!("/v3/join/!x:{there}?via={there}"), Some(json!({}))),
        (Method::POST, format!("/v3/knock/!x:{there}?via={there}"), Some(json!({}))),
        (Method::GET, format!("/v1/rooms/!x:{there}/hierarchy"), None),
        (Method::GET, format!("/v1/room_summary/!x:{there}?via={there}"), None),
        (Method::POST, "/v3/keys/query".to_owned(), Some(json!({ "device_keys": { format!("@x:{there}"): [] } }))),
        (
            Method::POST,
            "/v3/keys/claim".to_owned(),
            Some(json!({ "one_time_keys": { format!("@x:{there}"): { "D": "signed_curve25519" } } })),
        ),
    ] {
        alice.request(method, &uri, body).await;
    }
    let room = alice.create_room(json!({})).await;
    alice.act(&room, "invite", json!({ "user_id": format!("@x:{there}") })).await;
    let pusher = json!({
        "app_id": "a", "pushkey": "k", "kind": "http", "app_display_name": "A", "device_display_name": "D", "lang": "en",
        "data": { "url": format!("https://{there}/_matrix/push/v1/notify") },
    });
    alice.post("/v3/pushers/set", pusher).await;
    // Strangers: a notary's query, and a request that claims to come from there.
    home.get(&format!("/_matrix/key/v2/query/{there}")).await;
    let claimed = http::Request::get("/_matrix/federation/v1/query/profile?user_id=@alice:example.org").header(
        http::header::AUTHORIZATION,
        format!("X-Matrix origin=\"{there}\",destination=\"example.org\",key=\"ed25519:1\",sig=\"AAAA\""),
    );
    let answer = home.send(claimed.body(axum::body::Body::empty()).unwrap()).await;
    assert_eq!(answer.error(), (401, "M_UNAUTHORIZED"));
    let signed = json!({ "mxid": alice.id, "token": "t", "signatures": {} });
    let invite = json!({
        "medium": "email", "address": "x", "mxid": alice.id, "sender": format!("@x:{there}"), "room_id": "!x:y",
        "signed": signed,
    });
    let body = json!({ "medium": "email", "address": "x", "mxid": alice.id, "invites": [invite] });
    home.request(Method::PUT, "/_matrix/federation/v1/3pid/onbind", None, Some(body)).await.ok();
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    assert_eq!(connections.load(Ordering::Relaxed), 0);
}
