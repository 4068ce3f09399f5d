//! Filters that clients keep with the server.

use serde_json::{Value, json};

use crate::support::{TestServer, User};

async fn keep(user: &User, filter: Value) -> String {
    let answer = user.post(&format!("/v3/user/{}/filter", user.id), filter).await.ok();
    answer["filter_id"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_filter_comes_back_by_its_id_which_is_the_same_for_the_same_filter() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let filter = json!({
        "room": { "timeline": { "limit": 10, "types": ["m.room.*"] }, "state": { "lazy_load_members": true } },
        "event_fields": ["content.body"], "event_format": "federation",
    });
    let id = keep(&alice, filter.clone()).await;
    assert!(!id.starts_with('{'));
    assert_eq!(keep(&alice, filter.clone()).await, id);
    assert_ne!(keep(&alice, json!({})).await, id);
    assert_eq!(alice.get(&format!("/v3/user/{}/filter/{id}", alice.id)).await.ok(), filter);
}

#[tokio::test]
async fn filters_are_their_users_own() {
    let server = TestServer::new().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let id = keep(&alice, json!({ "room": { "include_leave": true } })).await;
    let of_alice = format!("/v3/user/{}/filter", alice.id);
    assert_eq!(bob.get(&format!("{of_alice}/{id}")).await.error(), (403, "M_FORBIDDEN"));
    assert_eq!(bob.post(&of_alice, json!({})).await.error(), (403, "M_FORBIDDEN"));
    assert_eq!(bob.get(&format!("/v3/user/{}/filter/{id}", bob.id)).await.error(), (404, "M_NOT_FOUND"));
}

#[tokio::test]
async fn filters_of_the_wrong_form_are_refused() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let path = format!("/v3/user/{}/filter", alice.id);
    for filter in [
        json!([]),
        json!({ "room": [] }),
        json!({ "room": { "timeline": { "limit": "10" } } }),
        json!({ "room": { "timeline": { "senders": ["alice"] } } }),
        json!({ "event_format": "xml" }),
    ] {
        assert_eq!(alice.post(&path, filter.clone()).await.error(), (400, "M_BAD_JSON"), "{filter}");
    }
    let large = json!({ "event_fields": vec!["content.body"; 5_000] });
    assert_eq!(alice.post(&path, large).await.error(), (413, "M_TOO_LARGE"));
}

#[tokio::test]
async fn a_user_keeps_no_more_filters_than_a_thousand() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    for limit in 0..1_000 {
        keep(&alice, json!({ "room": { "timeline": { "limit": limit + 1 } } })).await;
    }
    let path = format!("/v3/user/{}/filter", alice.id);
    let one_more = alice.post(&path, json!({ "room": { "timeline": { "limit": 9_999 } } })).await;
    assert_eq!(one_more.error(), (403, "M_FORBIDDEN"));
    keep(&alice, json!({ "room": { "timeline": { "limit": 7 } } })).await;
}
