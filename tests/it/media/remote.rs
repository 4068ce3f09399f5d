//! Files of other servers.

use std::{convert::Infallible, time::Duration};

use axum::body::Body;
use futures_util::{StreamExt, stream};
use http::{Method, Response, StatusCode, header};
use serde_json::json;
use tokio::{task::JoinSet, time::timeout};

use super::{check, count_files, download, header_of, thumbnails::png, try_upload, upload};
use crate::support::{Peer, TestNetwork};

const DOWNLOAD: &str = "/_matrix/federation/v1/media/download/";

/// Answers as a server that has a file of `content`.
fn serve(peer: &Peer, id: &str, content_type: &'static str, content: Vec<u8>) {
    peer.on_response(Method::GET, &format!("{DOWNLOAD}{id}"), move |_| {
        let mut body =
            format!("--x\r\nContent-Type: application/json\r\n\r\n{{}}\r\n--x\r\nContent-Type: {content_type}\r\n\r\n")
                .into_bytes();
        body.extend(&content);
        body.extend(b"\r\n--x--");
        let response = Response::builder().header(header::CONTENT_TYPE, "multipart/mixed; boundary=x");
        response.body(Body::from(body)).unwrap()
    });
}

#[tokio::test]
async fn a_file_comes_from_its_server_once_as_it_was_uploaded() {
    let network = TestNetwork::new();
    let (a, b) = (network.server("a.example").await, network.server("b.example").await);
    let (alice, bob) = (a.user("alice").await, b.user("bob").await);
    let content: Vec<u8> = (0..300_000_u32).map(|n| n.to_le_bytes()[0] ^ 13).collect();
    let uploaded = try_upload(&alice, &content, "image/png", Some("été.png")).await.ok();
    let address = super::address(&uploaded);
    for _ in 0..2 {
        let answer = download(&bob, &address).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        assert_eq!(answer.bytes, content);
        assert_eq!(answer.headers[header::CONTENT_TYPE], "image/png");
        assert_eq!(
            header_of(&answer.headers, header::CONTENT_DISPOSITION),
            "inline; filename*=utf-8''%C3%A9t%C3%A9.png"
        );
    }
    assert_eq!(network.count("a.example", DOWNLOAD), 1);
    assert_eq!(download(&bob, "a.example/nothing").await.error(), (404, "M_NOT_FOUND"));
    assert!(check(&b).await.is_clean());
}

#[tokio::test]
async fn files_go_to_servers_only_if_they_sign_and_ask_for_ours() {
    let network = TestNetwork::new();
    let (server, peer) = (network.server("a.example").await, network.peer("b.example"));
    let alice = server.user("alice").await;
    let address = upload(&alice, b"hello", "text/plain").await;
    let id = address.split_once('/').unwrap().1;
    let path = format!("{DOWNLOAD}{id}");
    assert_eq!(server.get(&path).await.error(), (401, "M_UNAUTHORIZED"));
    let answer = peer.get(&server, &path).await;
    assert!(answer.headers[header::CONTENT_TYPE].to_str().unwrap().starts_with("multipart/mixed; boundary="));
    assert!(
        String::from_utf8(answer.bytes)
            .unwrap()
            .contains("text/plain\r\nContent-Disposition: inline\r\n\r\nhello\r\n--")
    );
    serve(&peer, "theirs", "text/plain", b"theirs".to_vec());
    assert_eq!(download(&alice, "b.example/theirs").await.bytes, b"theirs");
    assert_eq!(peer.get(&server, &format!("{DOWNLOAD}theirs")).await.error(), (404, "M_NOT_FOUND"));
}

#[tokio::test]
async fn an_older_server_is_asked_at_the_old_endpoint() {
    let network = TestNetwork::new();
    let (server, peer) = (network.server("a.example").await, network.peer("b.example"));
    let alice = server.user("alice").await;
    peer.on_response(Method::GET, "/_matrix/media/v3/download/b.example/old", |_| {
        Response::builder().header(header::CONTENT_TYPE, "text/plain").body(Body::from("old")).unwrap()
    });
    assert_eq!(download(&alice, "b.example/old").await.bytes, b"old");
    peer.on_response(Method::GET, DOWNLOAD, |_| {
        Response::builder().status(404).body(Body::from("nothing that Matrix knows")).unwrap()
    });
    assert_eq!(download(&alice, "b.example/older").await.bytes, b"old");
    let asked = peer.asked("/_matrix/media/v3/").remove(0);
    assert!(asked.uri.contains("allow_remote=false") && !asked.headers.contains_key(header::AUTHORIZATION));
}

#[tokio::test]
async fn nobody_without_an_account_makes_the_server_fetch() {
    let network = TestNetwork::new();
    let server = network.server_with("a.example", |config| config.media.allow_legacy_media = true).await;
    let peer = network.peer("b.example");
    serve(&peer, "id", "text/plain", b"hello".to_vec());
    for path in ["download/b.example/id", "download/b.example/id/name", "thumbnail/b.example/id?width=32&height=32"] {
        assert_eq!(server.get(&format!("/_matrix/media/v3/{path}")).await.error(), (404, "M_NOT_FOUND"));
    }
    assert_eq!(server.get("/v1/media/download/b.example/id").await.error(), (401, "M_MISSING_TOKEN"));
    assert!(peer.asked("").is_empty());
    let alice = server.user("alice").await;
    let answer = alice.get("/_matrix/media/v3/download/b.example/id").await;
    assert_eq!((answer.status.as_u16(), &*answer.bytes), (200, &b"hello"[..]), "old clients may send their token");
}

#[tokio::test]
async fn files_are_kept_as_long_as_there_is_room_and_the_longest_unused_goes_first() {
    let network = TestNetwork::new();
    let change = |config: &mut chappe::config::Config| {
        config.media.max_remote_file_size = "1 MiB".parse().unwrap();
        config.media.remote_cache_size = "2 MiB".parse().unwrap();
    };
    let server = network.server_with("a.example", change).await;
    let (peer, alice) = (network.peer("b.example"), server.user("alice").await);
    for id in ["one", "two", "three"] {
        serve(&peer, id, "text/plain", vec![b'x'; 900 << 10]);
    }
    for id in ["one", "two", "one", "three"] {
        assert_eq!(download(&alice, &format!("b.example/{id}")).await.status, 200);
        server.advance(Duration::from_secs(2 * 60 * 60));
    }
    assert_eq!(count_files(&server), 2);
    assert!(check(&server).await.is_clean());
    assert_eq!(download(&alice, "b.example/one").await.status, 200);
    assert_eq!(peer.asked(&format!("{DOWNLOAD}one")).len(), 1);
    assert_eq!(download(&alice, "b.example/two").await.status, 200);
    assert_eq!(peer.asked(&format!("{DOWNLOAD}two")).len(), 2);
}

#[tokio::test]
async fn of_an_image_with_too_many_pixels_there_is_no_thumbnail_and_its_server_is_to_blame() {
    let network = TestNetwork::new();
    let server = network.server_with("a.example", |config| config.media.max_thumbnail_pixels = 10_000).await;
    let (peer, alice) = (network.peer("b.example"), server.user("alice").await);
    serve(&peer, "fits", "image/png", png(100, 100));
    serve(&peer, "large", "image/png", png(100, 101));
    let thumbnail = async |id: &str| alice.get(&format!("/v1/media/thumbnail/b.example/{id}?width=32&height=32")).await;
    assert_eq!(thumbnail("fits").await.status, 200);
    assert_eq!(thumbnail("large").await.error(), (502, "M_TOO_LARGE"));
}

#[tokio::test]
async fn a_file_that_is_too_large_or_not_whole_leaves_nothing() {
    let network = TestNetwork::new();
    let change = |config: &mut chappe::config::Config| config.media.max_remote_file_size = "1 MiB".parse().unwrap();
    let server = network.server_with("a.example", change).await;
    let (peer, alice) = (network.peer("b.example"), server.user("alice").await);
    serve(&peer, "large", "text/plain", vec![b'x'; (1 << 20) + 1]);
    assert_eq!(download(&alice, "b.example/large").await.error(), (502, "M_TOO_LARGE"));
    serve(&peer, "huge", "text/plain", vec![b'x'; 3 << 20]);
    assert_eq!(download(&alice, "b.example/huge").await.error(), (502, "M_TOO_LARGE"));
    peer.on_response(Method::GET, &format!("{DOWNLOAD}half"), |_| {
        let body = "--x\r\n\r\n{}\r\n--x\r\nContent-Type: text/plain\r\n\r\nhalf";
        Response::builder().header(header::CONTENT_TYPE, "multipart/mixed; boundary=x").body(Body::from(body)).unwrap()
    });
    assert_eq!(download(&alice, "b.example/half").await.error(), (502, "M_UNKNOWN"));
    assert_eq!(count_files(&server), 0);
    assert!(check(&server).await.is_clean());
}

#[tokio::test]
async fn what_a_server_says_of_a_file_can_not_make_a_browser_run_it() {
    let network = TestNetwork::new();
    let (server, peer) = (network.server("a.example").await, network.peer("b.example"));
    let alice = server.user("alice").await;
    serve(&peer, "page", "text/html", b"<script>alert(1)</script>".to_vec());
    let headers = download(&alice, "b.example/page").await.headers;
    assert_eq!(headers[header::CONTENT_DISPOSITION], "attachment");
    assert_eq!(headers[header::X_CONTENT_TYPE_OPTIONS], "nosniff");
    assert!(header_of(&headers, header::CONTENT_SECURITY_POLICY).starts_with("sandbox;"));
}

#[tokio::test]
async fn one_user_can_not_fetch_without_end() {
    let network = TestNetwork::new();
    let change = |config: &mut chappe::config::Config| {
        config.rate_limits.enabled = true;
        config.media.remote_download_burst = "1 MiB".parse().unwrap();
        config.media.remote_download_per_hour = "1 MiB".parse().unwrap();
    };
    let server = network.server_with("a.example", change).await;
    let (peer, alice, bob) = (network.peer("b.example"), server.user("alice").await, server.user("bob").await);
    for id in ["one", "two", "three"] {
        serve(&peer, id, "text/plain", vec![b'x'; 1 << 20]);
    }
    assert_eq!(download(&alice, "b.example/one").await.status, 200);
    assert_eq!(download(&alice, "b.example/two").await.error(), (429, "M_LIMIT_EXCEEDED"));
    assert_eq!(download(&alice, "b.example/one").await.status, 200, "what is here costs nothing");
    assert_eq!(download(&bob, "b.example/two").await.status, 200);
    let carol = server.user("carol").await;
    peer.on_response(Method::GET, &format!("{DOWNLOAD}half"), |_| {
        let body = [b"--x\r\n\r\n{}\r\n--x\r\n\r\n".to_vec(), vec![b'x'; 2 << 20]].concat();
        Response::builder().header(header::CONTENT_TYPE, "multipart/mixed; boundary=x").body(Body::from(body)).unwrap()
    });
    assert_eq!(download(&carol, "b.example/half").await.error(), (502, "M_UNKNOWN"));
    let next = download(&carol, "b.example/three").await;
    assert_eq!(next.error(), (429, "M_LIMIT_EXCEEDED"), "what came counts, whole or not");
    server.advance(Duration::from_secs(60 * 60));
    assert_eq!(download(&alice, "b.example/three").await.status, 200);
}

#[tokio::test]
async fn servers_that_are_not_allowed_are_not_asked_for_files() {
    let network = TestNetwork::new();
    let change = |config: &mut chappe::config::Config| config.federation.allowed_servers = Vec::new();
    let server = network.server_with("a.example", change).await;
    let (peer, alice) = (network.peer("b.example"), server.user("alice").await);
    assert_eq!(download(&alice, "b.example/id").await.error(), (403, "M_FORBIDDEN"));
    assert!(peer.asked("").is_empty());
}

#[tokio::test]
async fn a_server_that_has_no_file_is_not_an_error_of_ours() {
    let network = TestNetwork::new();
    let (server, peer) = (network.server("a.example").await, network.peer("b.example"));
    let alice = server.user("alice").await;
    for (id, status, errcode) in [
        ("later", StatusCode::GATEWAY_TIMEOUT, "M_NOT_YET_UPLOADED"),
        ("large", StatusCode::BAD_GATEWAY, "M_TOO_LARGE"),
    ] {
        peer.on_response(Method::GET, &format!("{DOWNLOAD}{id}"), move |_| {
            crate::support::reply(status, &json!({ "errcode": errcode, "error": "" }))
        });
        for _ in 0..2 {
            assert_eq!(download(&alice, &format!("b.example/{id}")).await.error(), (status.as_u16(), errcode));
        }
    }
    serve(&peer, "here", "text/plain", b"hello".to_vec());
    assert_eq!(download(&alice, "b.example/here").await.status, 200, "the server is not left alone");
}

#[tokio::test]
async fn a_server_that_does_not_begin_with_a_file_in_time_is_left_alone() {
    let network = TestNetwork::new();
    let change = |config: &mut chappe::config::Config| config.federation.request_timeout = Duration::from_millis(100);
    let server = network.server_with("a.example", change).await;
    let (peer, alice) = (network.peer("slow.example"), server.user("alice").await);
    network.swallow("silent.example");
    peer.on_response(Method::GET, DOWNLOAD, |_| {
        let begun = stream::iter([Ok::<_, Infallible>("--x\r\n\r\n{}\r\n--x\r\n")]).chain(stream::pending());
        let response = Response::builder().header(header::CONTENT_TYPE, "multipart/mixed; boundary=x");
        response.body(Body::from_stream(begun)).unwrap()
    });
    for name in ["silent.example", "slow.example"] {
        for id in ["one", "two"] {
            let address = format!("{name}/{id}?timeout_ms=0");
            let answer = timeout(Duration::from_secs(20), download(&alice, &address)).await.expect("an end");
            assert_eq!(answer.error(), (502, "M_UNKNOWN"), "{address}");
        }
        assert_eq!(network.count(name, DOWNLOAD), 1, "{name}");
    }
}

#[tokio::test]
async fn a_server_that_does_not_answer_holds_up_no_files_of_others() {
    let network = TestNetwork::new();
    let server = network.server("a.example").await;
    let (peer, alice) = (network.peer("b.example"), server.user("alice").await);
    serve(&peer, "id", "text/plain", b"hello".to_vec());
    network.swallow("silent.example");
    let mut waiting = JoinSet::new();
    for id in 0..32 {
        let alice = alice.clone();
        waiting.spawn(async move { download(&alice, &format!("silent.example/{id}")).await });
    }
    while network.count("silent.example", DOWNLOAD) < 8 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let answer = timeout(Duration::from_secs(20), download(&alice, "b.example/id")).await.expect("it waits for nobody");
    assert_eq!(answer.bytes, b"hello");
    assert_eq!(network.count("silent.example", DOWNLOAD), 8);
}

#[tokio::test]
async fn a_file_may_lie_elsewhere_where_nobody_is_shown_a_signature() {
    let network = TestNetwork::new();
    let (server, peer, store) =
        (network.server("a.example").await, network.peer("b.example"), network.peer("cdn.example"));
    let alice = server.user("alice").await;
    store.on_response(Method::GET, "/file", |_| {
        Response::builder().header(header::CONTENT_TYPE, "text/plain").body(Body::from("from there")).unwrap()
    });
    for (id, location) in [("safe", "https://cdn.example/file"), ("open", "http://cdn.example/file")] {
        peer.on_response(Method::GET, &format!("{DOWNLOAD}{id}"), move |_| {
            let body = format!("--x\r\n\r\n{{}}\r\n--x\r\nLocation: {location}\r\n\r\n\r\n--x--");
            let response = Response::builder().header(header::CONTENT_TYPE, "multipart/mixed; boundary=x");
            response.body(Body::from(body)).unwrap()
        });
    }
    assert_eq!(download(&alice, "b.example/safe").await.bytes, b"from there");
    assert!(!store.asked("/file").remove(0).headers.contains_key(header::AUTHORIZATION));
    assert_eq!(download(&alice, "b.example/open").await.error(), (502, "M_UNKNOWN"));
    assert_eq!(store.asked("/file").len(), 1);
}
