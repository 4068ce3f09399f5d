use std::{fs, time::Duration};

use axum::body::Body;
use bytes::Bytes;
use chappe::{config::ByteSize, media};
use futures_util::{StreamExt, future, stream};
use http::{Method, header};
use tokio::sync::oneshot;

use super::{check, count_files, download, send, try_upload, upload};
use crate::support::TestServer;

#[tokio::test]
async fn what_was_uploaded_is_downloaded_and_counted() {
    let server = TestServer::new().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let large: Vec<u8> = (0..300_000_u32).flat_map(u32::to_le_bytes).collect();
    for content in [b"".as_slice(), b"hello", &large] {
        let address = upload(&alice, content, "application/x-any; v=1").await;
        assert!(address.starts_with("example.org/") && address.len() >= "example.org/".len() + 24, "{address}");
        let answer = download(&bob, &address).await;
        assert_eq!((answer.status.as_u16(), answer.bytes.len()), (200, content.len()));
        assert!(answer.bytes == content);
        assert_eq!(answer.headers[header::CONTENT_TYPE], "application/x-any; v=1");
        assert_eq!(answer.headers[header::CONTENT_LENGTH], content.len().to_string());
    }
    let report = check(&server).await;
    assert!(report.is_clean() && report.notes.is_empty(), "{report:?}");
    assert_eq!(count_files(&server), 3);
}

#[tokio::test]
async fn both_config_endpoints_tell_the_largest_upload() {
    let server = TestServer::with(|config| config.media.max_upload_size = ByteSize::mib(7)).await;
    let alice = server.user("alice").await;
    for path in ["/v1/media/config", "/_matrix/media/v3/config"] {
        assert_eq!(alice.get(path).await.ok()["m.upload.size"], 7 << 20);
        assert_eq!(server.get(path).await.error(), (401, "M_MISSING_TOKEN"));
    }
}

#[tokio::test]
async fn only_users_upload() {
    let server = TestServer::new().await;
    for (method, path) in [
        (Method::POST, "/_matrix/media/v3/upload"),
        (Method::POST, "/_matrix/media/v1/create"),
        (Method::PUT, "/_matrix/media/v3/upload/example.org/abc"),
    ] {
        assert_eq!(server.request_bytes(method, path, None, "text").await.error(), (401, "M_MISSING_TOKEN"), "{path}");
    }
}

#[tokio::test]
async fn an_upload_that_announces_too_much_is_refused_before_it_is_read() {
    let server = TestServer::with(|config| config.media.max_upload_size = ByteSize::mib(1)).await;
    let alice = server.user("alice").await;
    let unread = Body::from_stream(stream::poll_fn(|_| -> std::task::Poll<Option<Result<Bytes, std::io::Error>>> {
        panic!("the body was read")
    }));
    let headers = [(header::CONTENT_LENGTH, "1048577")];
    let answer = send(&alice, Method::POST, "/_matrix/media/v3/upload", &headers, unread).await;
    assert_eq!(answer.error(), (413, "M_TOO_LARGE"));
    assert_eq!(try_upload(&alice, &vec![0; 1 << 20], "a/b", None).await.status, 200);
}

#[tokio::test]
async fn an_upload_that_grows_too_large_is_given_up_and_leaves_nothing() {
    let server = TestServer::with(|config| config.media.max_upload_size = ByteSize::mib(1)).await;
    let alice = server.user("alice").await;
    let endless = Body::from_stream(stream::repeat_with(|| Ok::<_, std::io::Error>(Bytes::from(vec![0; 50_000]))));
    let answer = send(&alice, Method::POST, "/_matrix/media/v3/upload", &[], endless).await;
    assert_eq!(answer.error(), (413, "M_TOO_LARGE"));
    assert_eq!(count_files(&server), 0);
}

#[tokio::test]
async fn an_upload_that_breaks_off_leaves_nothing() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let parts = [Ok(Bytes::from_static(b"half")), Err(std::io::Error::other("gone"))];
    let answer =
        send(&alice, Method::POST, "/_matrix/media/v3/upload", &[], Body::from_stream(stream::iter(parts))).await;
    assert_eq!(answer.error(), (400, "M_UNKNOWN"));
    assert_eq!(count_files(&server), 0);
    assert!(check(&server).await.is_clean());
}

#[tokio::test]
async fn storage_can_be_limited_for_each_user() {
    let server = TestServer::with(|config| config.media.max_storage_per_user = Some(ByteSize::mib(1))).await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let half = vec![0; 600_000];
    upload(&alice, &half, "a/b").await;
    assert_eq!(try_upload(&alice, &half, "a/b", None).await.error(), (403, "M_FORBIDDEN"));
    upload(&alice, &half[..448_576], "a/b").await;
    assert_eq!(try_upload(&alice, b"more", "a/b", None).await.error(), (403, "M_FORBIDDEN"));
    upload(&bob, &half, "a/b").await;
    assert_eq!(count_files(&server), 3);
    assert!(check(&server).await.is_clean());
}

#[tokio::test]
async fn what_has_come_of_an_upload_counts_for_the_storage_of_its_user() {
    let server = TestServer::with(|config| config.media.max_storage_per_user = Some(ByteSize::mib(1))).await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let half = vec![0_u8; 600_000];
    let (come, has_come) = oneshot::channel();
    let last = async move {
        come.send(()).unwrap();
        future::pending::<Result<Bytes, std::io::Error>>().await
    };
    let body = stream::iter([Ok(Bytes::from(half.clone()))]).chain(stream::once(last));
    let slow = async { send(&alice, Method::POST, "/_matrix/media/v3/upload", &[], Body::from_stream(body)).await };
    let meanwhile = async {
        has_come.await.unwrap();
        assert_eq!(try_upload(&alice, &half, "a/b", None).await.error(), (403, "M_FORBIDDEN"));
        upload(&bob, &half, "a/b").await;
    };
    tokio::select! {
        _ = slow => panic!("its end never comes"),
        () = meanwhile => {} // as when the client hangs up
    }
    upload(&alice, &half, "a/b").await;
}

#[tokio::test]
async fn who_has_used_up_his_storage_is_led_to_a_page_about_it() {
    for (page, support, expected) in [
        (Some("https://a.test/storage"), None, Some("https://a.test/storage")),
        (Some("https://a.test/storage"), Some("https://a.test/help"), Some("https://a.test/storage")),
        (None, Some("https://a.test/help"), Some("https://a.test/help")),
        (None, None, None),
    ] {
        let server = TestServer::with(|config| {
            config.media.max_storage_per_user = Some(ByteSize::mib(1));
            config.media.storage_info_page = page.map(str::to_owned);
            config.media.storage_can_be_raised = page.is_some();
            config.well_known.support = support.map(|page: &str| chappe::config::Support {
                support_page: Some(page.to_owned()),
                contacts: Vec::new(),
            });
        })
        .await;
        let alice = server.user("alice").await;
        let answer = try_upload(&alice, &vec![0; 1_100_000], "a/b", None).await;
        let expected_code = if expected.is_some() { "M_USER_LIMIT_EXCEEDED" } else { "M_FORBIDDEN" };
        assert_eq!(answer.error(), (403, expected_code));
        assert_eq!(answer.body["info_uri"].as_str(), expected);
        assert_eq!(answer.body["can_upgrade"].as_bool().unwrap_or_default(), page.is_some());
    }
}

#[tokio::test]
async fn uploads_are_rate_limited() {
    let server = TestServer::with(|config| config.rate_limits.enabled = true).await;
    let alice = server.user("alice").await;
    for _ in 0..100 {
        upload(&alice, b"", "a/b").await;
    }
    assert_eq!(try_upload(&alice, b"", "a/b", None).await.error(), (429, "M_LIMIT_EXCEEDED"));
    let announced = alice.post("/_matrix/media/v1/create", serde_json::json!({})).await;
    assert_eq!(announced.error(), (429, "M_LIMIT_EXCEEDED"));
    server.advance(Duration::from_secs(1));
    upload(&alice, b"", "a/b").await;
}

#[tokio::test]
async fn files_without_a_row_are_removed_and_others_are_not() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let address = upload(&alice, b"kept", "a/b").await;
    let folder = server.inside().store.path().join("media/content/ab/cd");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("abcd0000000000000000000000000007"), "lost").unwrap();
    fs::write(folder.join("README"), "of the administrator").unwrap();
    let report = check(&server).await;
    assert!(report.is_clean() && report.notes.len() == 1, "{report:?}");
    assert_eq!(media::remove_orphans(server.inside()).await.unwrap(), 1);
    assert_eq!(media::remove_orphans(server.inside()).await.unwrap(), 0);
    assert_eq!(count_files(&server), 2);
    assert_eq!(download(&alice, &address).await.bytes, b"kept");
}

#[tokio::test]
async fn the_check_finds_uploads_whose_file_is_gone_or_cut_off() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    upload(&alice, b"four", "a/b").await;
    let files = &server.inside().media.files;
    let mut ids = Vec::new();
    let add = |found| {
        ids.extend::<Vec<_>>(found);
        Ok::<_, std::io::Error>(())
    };
    files.for_each_folder(add).unwrap();
    let name = ids[0].to_string();
    let path = server.inside().store.path().join("media/content").join(&name[..2]).join(&name[2..4]).join(&name);
    fs::write(&path, "fou").unwrap();
    assert!(!check(&server).await.is_clean());
    fs::remove_file(&path).unwrap();
    assert!(!check(&server).await.is_clean());
}
