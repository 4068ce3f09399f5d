use std::time::Duration;

use chappe::sweep;
use futures_util::future::join_all;
use http::{Method, header};
use serde_json::{Value, json};

use super::{address, check, count_files, download, send, upload};
use crate::support::{Answer, TestServer, User};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

async fn create(user: &User) -> Answer {
    user.post("/_matrix/media/v1/create", json!({})).await
}

async fn put(user: &User, address: &str, content: &'static str) -> Answer {
    let path = format!("/_matrix/media/v3/upload/{address}?filename=a.txt");
    send(user, Method::PUT, &path, &[(header::CONTENT_TYPE, "text/plain")], content.into()).await
}

async fn download_now(user: &User, address: &str) -> Answer {
    user.get(&format!("/v1/media/download/{address}?timeout_ms=0")).await
}

#[tokio::test]
async fn content_may_come_after_its_address() {
    let server = TestServer::new().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let created = create(&alice).await.ok();
    let expires = created["unused_expires_at"].as_u64().unwrap();
    assert_eq!(expires, server.inside().clock.now_ms() + 24 * 60 * 60 * 1000);
    let address = address(&created);
    assert_eq!(download_now(&bob, &address).await.error(), (504, "M_NOT_YET_UPLOADED"));
    assert!(check(&server).await.is_clean());
    assert_eq!(put(&alice, &address, "content").await.ok(), json!({}));
    let answer = download_now(&bob, &address).await;
    assert_eq!(answer.bytes, b"content");
    assert_eq!(answer.headers[header::CONTENT_TYPE], "text/plain");
    assert_eq!(answer.headers[header::CONTENT_DISPOSITION], "inline; filename=a.txt");
    assert!(check(&server).await.is_clean());
}

#[tokio::test]
async fn who_waits_gets_the_content_when_it_comes() {
    let server = TestServer::new().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let address = address(&create(&alice).await.ok());
    let upload = async {
        tokio::task::yield_now().await;
        put(&alice, &address, "content").await.ok()
    };
    let (answer, _) = tokio::join!(download(&bob, &address), upload);
    assert_eq!(answer.bytes, b"content");
}

#[tokio::test]
async fn only_the_creator_brings_the_content_and_only_once() {
    let server = TestServer::new().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let address = address(&create(&alice).await.ok());
    assert_eq!(put(&bob, &address, "bob's").await.error(), (403, "M_FORBIDDEN"));
    put(&alice, &address, "alice's").await.ok();
    assert_eq!(put(&alice, &address, "again").await.error(), (409, "M_CANNOT_OVERWRITE_MEDIA"));
    assert_eq!(put(&alice, &address, "").await.error(), (409, "M_CANNOT_OVERWRITE_MEDIA"));
    assert_eq!(put(&bob, &address, "bob's").await.error(), (403, "M_FORBIDDEN"));
    let uploaded = upload(&alice, b"at once", "a/b").await;
    assert_eq!(put(&alice, &uploaded, "again").await.error(), (409, "M_CANNOT_OVERWRITE_MEDIA"));
    assert_eq!(put(&alice, "example.org/madeup", "x").await.error(), (404, "M_NOT_FOUND"));
    assert_eq!(put(&alice, &address.replace("example", "elsewhere"), "x").await.error(), (404, "M_NOT_FOUND"));
    assert_eq!(download(&bob, &address).await.bytes, b"alice's");
    assert_eq!(count_files(&server), 2);
}

#[tokio::test]
async fn of_contents_that_come_at_the_same_time_one_wins() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let address = address(&create(&alice).await.ok());
    let contents = ["one", "two", "three", "four", "five", "six", "seven", "eight"];
    let answers = join_all(contents.map(|content| put(&alice, &address, content))).await;
    let winners: Vec<_> = (0..contents.len()).filter(|index| answers[*index].status == 200).collect();
    assert_eq!(winners.len(), 1);
    for answer in answers.iter().filter(|answer| answer.status != 200) {
        assert_eq!(answer.error(), (409, "M_CANNOT_OVERWRITE_MEDIA"));
    }
    assert_eq!(download(&alice, &address).await.bytes, contents[winners[0]].as_bytes());
    assert_eq!(count_files(&server), 1);
    let report = check(&server).await;
    assert!(report.is_clean() && report.notes.is_empty(), "{report:?}");
}

#[tokio::test]
async fn an_address_without_content_expires() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let (late, later) = (address(&create(&alice).await.ok()), address(&create(&alice).await.ok()));
    server.advance(DAY - Duration::from_millis(1));
    put(&alice, &late, "in time").await.ok();
    server.advance(Duration::from_millis(1));
    assert_eq!(put(&alice, &later, "too late").await.error(), (404, "M_NOT_FOUND"));
    assert_eq!(download_now(&alice, &later).await.error(), (404, "M_NOT_FOUND"));
    assert_eq!(sweep::once(server.inside()).await.unwrap(), 1);
    assert_eq!(put(&alice, &later, "too late").await.error(), (404, "M_NOT_FOUND"));
    assert_eq!(download(&alice, &late).await.bytes, b"in time");
    assert!(check(&server).await.is_clean());
}

#[tokio::test]
async fn a_user_has_only_so_many_addresses_without_content() {
    let server = TestServer::with(|config| config.media.max_pending_uploads = 3).await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let mut created = Vec::new();
    for _ in 0..3 {
        created.push(address(&create(&alice).await.ok()));
    }
    let refused = create(&alice).await;
    assert_eq!(refused.error(), (429, "M_LIMIT_EXCEEDED"));
    assert_eq!(refused.headers[header::RETRY_AFTER], (24 * 60 * 60).to_string());
    create(&bob).await.ok();
    put(&alice, &created[0], "content").await.ok();
    create(&alice).await.ok();
    assert_eq!(create(&alice).await.error(), (429, "M_LIMIT_EXCEEDED"));
    server.advance(DAY);
    create(&alice).await.ok();
}

#[tokio::test]
async fn announced_uploads_can_be_switched_off() {
    let server = TestServer::with(|config| config.media.max_pending_uploads = 0).await;
    assert_eq!(create(&server.user("alice").await).await.error(), (403, "M_FORBIDDEN"));
}

#[tokio::test]
async fn an_announcement_needs_no_body() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    for body in ["", "{}"] {
        let path = "/_matrix/media/v1/create";
        let created = server.request_bytes(Method::POST, path, Some(&alice.token), body).await.ok();
        assert!(matches!(created["content_uri"], Value::String(_)));
    }
}
