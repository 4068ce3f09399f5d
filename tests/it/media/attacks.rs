use http::{Method, header};

use super::{address, count_files, download, send, try_upload, upload};
use crate::support::TestServer;

#[tokio::test]
async fn what_a_browser_could_run_is_a_download() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    for (content_type, content) in [
        ("text/html", "<script>alert(1)</script>"),
        ("TEXT/HTML; charset=utf-8", "<script>alert(1)</script>"),
        ("image/svg+xml", "<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>"),
        ("application/xhtml+xml", "<html/>"),
        ("application/pdf", "%PDF-1.7"),
        ("image/png, text/html", "<script>alert(1)</script>"),
        ("nonsense", ""),
    ] {
        let answer = download(&alice, &upload(&alice, content.as_bytes(), content_type).await).await;
        assert_eq!(answer.headers[header::CONTENT_DISPOSITION], "attachment", "{content_type}");
        assert_eq!(answer.headers[header::X_CONTENT_TYPE_OPTIONS], "nosniff");
        let policy = answer.headers[header::CONTENT_SECURITY_POLICY].to_str().unwrap();
        assert!(policy.starts_with("sandbox; default-src 'none'; script-src 'none';"), "{policy}");
    }
}

#[tokio::test]
async fn no_file_name_gets_out_of_its_header() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    for name in
        ["a\r\nSet-Cookie: b=c", "é\r\nSet-Cookie: b=c", "a\"; filename=b", "a\0b", "\u{202E}gnp.exe", "a\u{2028}b"]
    {
        let plain = address(&try_upload(&alice, b"x", "image/png", None).await.ok());
        let named = address(&try_upload(&alice, b"x", "image/png", Some(name)).await.ok());
        let encoded: String = name.bytes().map(|byte| format!("%{byte:02X}")).collect();
        for path in [format!("/v1/media/download/{named}"), format!("/v1/media/download/{plain}/{encoded}")] {
            let answer = alice.get(&path).await;
            assert_eq!(answer.status, 200, "{path}");
            assert!(!answer.headers.contains_key(header::SET_COOKIE));
            let disposition = answer.headers[header::CONTENT_DISPOSITION].as_bytes();
            assert!(disposition.starts_with(b"inline; filename"));
            assert!(disposition.iter().all(|byte| (0x20..0x7F).contains(byte)), "{name:?}");
        }
    }
}

#[tokio::test]
async fn ids_lead_nowhere_else() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let file = upload(&alice, b"x", "a/b").await;
    let id = file.strip_prefix("example.org/").unwrap();
    let marker = server.inside().store.path().join("chappe.json");
    assert!(marker.exists());
    for address in [
        "example.org/..%2F..%2Fchappe.json".to_owned(),
        "example.org/%2e%2e".to_owned(),
        "example.org/..%252Fchappe.json".to_owned(),
        "example.org/%00".to_owned(),
        format!("example.org/{id}%00"),
        format!("example.org/{id}%FF"),
        format!("example.org/.%2F{id}"),
        format!("example.org/{}", "a".repeat(20_000)),
        "example.org/%C0%AE%C0%AE%2Fchappe.json".to_owned(),
        format!("..%2F..%2F/{id}"),
        format!("example.org%2F..%2Fexample.org/{id}"),
        format!("example.org%00/{id}"),
        format!("%20/{id}"),
        format!("EXAMPLE.ORG/{id}"),
    ] {
        for path in [
            format!("/v1/media/download/{address}"),
            format!("/v1/media/download/{address}/name"),
            format!("/v1/media/thumbnail/{address}?width=32&height=32"),
        ] {
            let answer = alice.get(&path).await;
            assert!(matches!(answer.error(), (404, "M_NOT_FOUND") | (400, "M_INVALID_PARAM")), "{path}: {answer:?}");
        }
        let path = format!("/_matrix/media/v3/upload/{address}");
        let answer = send(&alice, Method::PUT, &path, &[], "evil".into()).await;
        assert!(matches!(answer.error(), (404, "M_NOT_FOUND") | (400, "M_INVALID_PARAM")), "{path}: {answer:?}");
    }
    assert_eq!(count_files(&server), 1);
}

#[tokio::test]
async fn wrong_headers_and_parameters_are_refused_and_not_believed() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let path = "/_matrix/media/v3/upload";
    for length in ["-1", "a", "18446744073709551616"] {
        let headers = [(header::CONTENT_LENGTH, length)];
        assert_eq!(send(&alice, Method::POST, path, &headers, "x".into()).await.status, 200, "{length}");
    }
    let headers = [(header::CONTENT_TYPE, "text/é")];
    assert!(send(&alice, Method::POST, path, &headers, "x".into()).await.status.is_client_error());
    let address = upload(&alice, b"x", "a/b").await;
    for timeout in ["-1", "a", "1e3"] {
        let answer = alice.get(&format!("/v1/media/download/{address}?timeout_ms={timeout}")).await;
        assert_eq!(answer.error(), (400, "M_INVALID_PARAM"), "{timeout}");
    }
    let long = alice.get(&format!("/v1/media/download/{address}?timeout_ms=9007199254740991")).await;
    assert_eq!(long.status, 200);
}
