//! TURN: <https://spec.matrix.org/v1.19/client-server-api/#voice-over-ip>

use std::time::Duration;

use chappe::config::{Secret, Turn};
use serde_json::json;

use crate::support::TestServer;

const PATH: &str = "/v3/voip/turnServer";

fn turn() -> Turn {
    Turn {
        uris: vec!["turns:turn.example.org".to_owned()],
        secret: Some(Secret::new("secret")),
        secret_file: None,
        username: None,
        password: None,
        ttl: Duration::from_secs(3_600),
    }
}

#[tokio::test]
async fn users_get_a_password_of_their_own_that_ends() {
    let server = TestServer::with(|config| config.turn = Some(turn())).await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let given = alice.get(PATH).await.ok();
    assert_eq!((&given["uris"], &given["ttl"]), (&json!(["turns:turn.example.org"]), &json!(3_600)));
    assert_eq!(given["username"], "1767229200:@alice:example.org");
    assert_ne!(bob.get(PATH).await.ok()["password"], given["password"]);
    assert_eq!(server.get(PATH).await.error(), (401, "M_MISSING_TOKEN"));
}

#[tokio::test]
async fn without_a_turn_server_there_is_nothing_to_tell() {
    let server = TestServer::new().await;
    assert_eq!(server.user("alice").await.get(PATH).await.ok(), json!({}));
    let one_for_all =
        Turn { secret: None, username: Some("all".to_owned()), password: Some(Secret::new("same")), ..turn() };
    let server = TestServer::with(|config| config.turn = Some(one_for_all)).await;
    let given = server.user("alice").await.get(PATH).await.ok();
    assert_eq!((&given["username"], &given["password"]), (&json!("all"), &json!("same")));
}

#[tokio::test]
async fn clients_learn_what_calls_of_groups_go_through() {
    let transport = json!({ "type": "livekit", "livekit_service_url": "https://livekit.example.org" });
    let server = TestServer::with(|config| {
        config.well_known.client = Some("https://example.org".to_owned());
        config.well_known.rtc_transports = vec![serde_json::from_value(transport.clone()).unwrap()];
    })
    .await;
    let known = server.get("/.well-known/matrix/client").await.ok();
    assert_eq!(known["org.matrix.msc4143.rtc_foci"], json!([transport]));
    assert_eq!(known["m.homeserver"], json!({ "base_url": "https://example.org" }));
    let path = "/_matrix/client/unstable/org.matrix.msc4143/rtc/transports";
    assert_eq!(server.user("alice").await.get(path).await.ok(), json!({ "rtc_transports": [transport] }));
    assert_eq!(server.get(path).await.error(), (401, "M_MISSING_TOKEN"));
}
