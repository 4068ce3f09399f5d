use std::time::Duration;

use http::Method;
use serde_json::json;

use super::Scene;
use crate::sticky::stick;

const SEND: &str = "/_matrix/federation/v1/send/";

#[tokio::test]
async fn a_server_that_comes_in_is_sent_what_is_sticky() {
    let scene = Scene::new("11").await;
    chappe::federation::queue::start(scene.server.inside());
    scene.peer.on(Method::PUT, SEND, |_| json!({ "pdus": {} }));
    for (number, duration_ms) in [(1, 1_000), (2, 3_600_000), (3, 3_600_000)] {
        stick(&scene.alice, &scene.room, duration_ms, number).await;
    }
    scene.alice.say(&scene.room, "not sticky").await;
    scene.server.advance(Duration::from_secs(1));
    scene.join(&scene.bob()).await;
    let last = scene.alice.say(&scene.room, "after that").await;
    let mut sent = Vec::new();
    for _ in 0..500 {
        let transactions = scene.peer.asked(SEND);
        sent =
            transactions.iter().flat_map(|asked| asked.body["pdus"].as_array().cloned().unwrap_or_default()).collect();
        if sent.iter().any(|pdu| scene.id_of(pdu) == last) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let numbers: Vec<_> = sent.iter().filter_map(|pdu| pdu["content"]["n"].as_u64()).collect();
    assert_eq!(numbers, [2, 3], "what has ended is left out: {sent:?}");
}
