//! What waiting clients cost. How long answers take is measured: `cargo bench --bench sync`.

use futures_util::FutureExt;
use serde_json::json;

use super::{Connection, public};
use crate::support::TestServer;

#[tokio::test]
async fn who_waits_is_woken_by_news_of_his_own_only() {
    let server = TestServer::new().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let mut rooms = Vec::new();
    for _ in 0..50 {
        rooms.push(public(&alice).await);
    }
    let elsewhere = public(&bob).await;
    bob.join(&rooms[0]).await;
    let mut client = Connection::with_list(&alice, [0, 99]);
    client.body["extensions"] = json!({ "receipts": { "enabled": true }, "typing": { "enabled": true } });
    client.next().await;

    let alices = ruma::OwnedUserId::try_from(alice.id.as_str()).unwrap();
    let mut news = server.inside().wakers.subscribe(server.inside(), &alices);
    let act = async |room: &str| {
        let event = bob.say(room, "x").await;
        bob.post(&format!("/v3/rooms/{room}/receipt/m.read/{event}"), json!({})).await.ok();
        bob.put(&format!("/v3/rooms/{room}/typing/{}", bob.id), json!({ "typing": true, "timeout": 1000 })).await.ok();
    };
    act(&elsewhere).await;
    bob.put(&format!("/v3/user/{}/account_data/org.test", bob.id), json!({})).await.ok();
    assert!(news.changed().now_or_never().is_none(), "nothing of hers happened, so nothing is done for her");
    act(&rooms[0]).await;
    news.changed().now_or_never().expect("she is woken");
    assert_eq!(super::rooms(&client.next().await), [&*rooms[0]]);
    assert!(news.changed().now_or_never().is_none(), "an answer wakes nobody");
}
