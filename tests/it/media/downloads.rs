use chappe::config::Config;
use http::{Method, header};
use ruma::http_headers::ContentDisposition;
use serde_json::json;

use super::{address, download, header_of, send, try_upload, upload};
use crate::support::{TestNetwork, TestServer, User, query};

const POLICY: &str = "sandbox; default-src 'none'; script-src 'none'; plugin-types application/pdf; \
                      style-src 'unsafe-inline'; object-src 'self';";

async fn name_of(user: &User, path: &str) -> Option<String> {
    let answer = user.get(path).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let disposition: ContentDisposition = header_of(&answer.headers, header::CONTENT_DISPOSITION).parse().unwrap();
    disposition.filename
}

#[tokio::test]
async fn the_headers_are_those_of_the_specification() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let address = upload(&alice, b"hello", "image/png").await;
    let headers = download(&alice, &address).await.headers;
    assert_eq!(headers[header::CONTENT_SECURITY_POLICY], POLICY);
    assert_eq!(headers["cross-origin-resource-policy"], "cross-origin");
    assert_eq!(headers[header::X_CONTENT_TYPE_OPTIONS], "nosniff");
    assert_eq!(headers[header::CONTENT_DISPOSITION], "inline");
    assert!(header_of(&headers, header::CACHE_CONTROL).starts_with("private"));
}

#[tokio::test]
async fn a_file_keeps_its_name_unless_the_path_gives_another() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    for name in
        ["cat.png", "name with spaces", "name;with;semicolons", "\"quoted\\\"", "été 🐔.png", "../../etc/passwd"]
    {
        let address = address(&try_upload(&alice, b"x", "image/png", Some(name)).await.ok());
        let path = format!("/v1/media/download/{address}");
        assert_eq!(name_of(&alice, &path).await.as_deref(), Some(name));
        assert_eq!(name_of(&alice, &format!("{path}/%E2%98%95.gif")).await.as_deref(), Some("☕.gif"));
        assert_eq!(name_of(&alice, &format!("{path}/a%2Fb")).await.as_deref(), Some("a/b"));
    }
    for name in [None, Some("")] {
        let address = address(&try_upload(&alice, b"x", "image/png", name).await.ok());
        assert_eq!(name_of(&alice, &format!("/v1/media/download/{address}")).await, None);
    }
    let long = "x".repeat(1_025);
    assert_eq!(try_upload(&alice, b"x", "a/b", Some(&long)).await.error(), (400, "M_INVALID_PARAM"));
}

#[tokio::test]
async fn an_unknown_type_is_bytes() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let none = send(&alice, Method::POST, "/_matrix/media/v3/upload", &[], "x".into()).await.ok();
    let long = try_upload(&alice, b"x", &"x".repeat(300), None).await.ok();
    for answer in [none, long] {
        let headers = download(&alice, &address(&answer)).await.headers;
        assert_eq!(headers[header::CONTENT_TYPE], "application/octet-stream");
        assert_eq!(headers[header::CONTENT_DISPOSITION], "attachment");
    }
}

#[tokio::test]
async fn a_part_of_a_file_can_be_asked_for() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let path = format!("/_matrix/client/v1/media/download/{}", upload(&alice, b"0123456789", "a/b").await);
    let get = async |headers: &[_]| send(&alice, Method::GET, &path, headers, "".into()).await;
    let part = get(&[(header::RANGE, "bytes=2-4")]).await;
    assert_eq!((part.status.as_u16(), part.bytes.as_slice()), (206, b"234".as_slice()));
    assert_eq!(part.headers[header::CONTENT_RANGE], "bytes 2-4/10");
    assert_eq!(part.headers[header::CONTENT_LENGTH], "3");
    assert_eq!(part.headers[header::CONTENT_SECURITY_POLICY], POLICY);
    assert_eq!(get(&[(header::RANGE, "bytes=-3")]).await.bytes, b"789");
    let beyond = get(&[(header::RANGE, "bytes=10-")]).await;
    assert_eq!((beyond.status.as_u16(), header_of(&beyond.headers, header::CONTENT_RANGE)), (416, "bytes */10"));
    assert_eq!(get(&[(header::RANGE, "bytes=0-1"), (header::IF_RANGE, "\"other\"")]).await.status, 200);
    assert_eq!(send(&alice, Method::HEAD, &path, &[], "".into()).await.headers[header::CONTENT_LENGTH], "10");
}

#[tokio::test]
async fn a_client_that_has_the_file_does_not_get_it_again() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let path = format!("/_matrix/client/v1/media/download/{}", upload(&alice, b"hello", "a/b").await);
    let tag = header_of(&send(&alice, Method::GET, &path, &[], "".into()).await.headers, header::ETAG).to_owned();
    let again = send(&alice, Method::GET, &path, &[(header::IF_NONE_MATCH, &tag)], "".into()).await;
    assert_eq!((again.status.as_u16(), again.bytes.len()), (304, 0));
    let others = format!("/_matrix/client/v1/media/download/{}", upload(&alice, b"other", "a/b").await);
    assert_eq!(send(&alice, Method::GET, &others, &[(header::IF_NONE_MATCH, &tag)], "".into()).await.status, 200);
}

const FROZEN: [&str; 2] = ["/_matrix/media/v3", "/_matrix/media/r0"];

#[tokio::test]
async fn the_endpoints_without_authentication_are_frozen() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let address = upload(&alice, b"secret", "image/png").await;
    let announced = super::address(&alice.post("/_matrix/media/v1/create", serde_json::json!({})).await.ok());
    let mut answers = Vec::new();
    for address in [address.as_str(), announced.as_str(), "example.org/nothing", "elsewhere.org/abc"] {
        for prefix in FROZEN {
            for path in [
                format!("{prefix}/download/{address}"),
                format!("{prefix}/download/{address}/name.png"),
                format!("{prefix}/thumbnail/{address}?width=32&height=32"),
            ] {
                for answer in [server.get(&path).await, alice.get(&path).await] {
                    assert_eq!(answer.error(), (404, "M_NOT_FOUND"), "{path}");
                    answers.push(answer.body);
                }
            }
        }
    }
    answers.dedup();
    assert_eq!(answers.len(), 1, "nobody learns what there is");
    assert_eq!(server.get(&format!("/v1/media/download/{address}")).await.error(), (401, "M_MISSING_TOKEN"));
    let thumbnail = format!("/v1/media/thumbnail/{address}?width=32&height=32");
    assert_eq!(server.get(&thumbnail).await.error(), (401, "M_MISSING_TOKEN"));
}

#[tokio::test]
async fn who_is_not_logged_in_sees_the_icons_of_identity_providers() {
    let network = TestNetwork::new();
    let server = network.server("example.org").await;
    let alice = server.user("alice").await;
    let image = super::thumbnails::png(40, 40);
    let (icon, other) = (upload(&alice, &image, "image/png").await, upload(&alice, &image, "image/png").await);
    drop(alice);
    let directory = server.stop(&network).await;
    let with_providers = |config: &mut Config| {
        let provider = |id: &str, icon: &str| {
            let provider = json!({ "id": id, "name": id, "issuer": "https://id.example", "client_id": "c",
                "icon": format!("mxc://{icon}") });
            serde_json::from_value(provider).unwrap()
        };
        config.well_known.client = Some("https://matrix.example.org".to_owned());
        config.identity_providers = vec![provider("here", &icon), provider("elsewhere", "elsewhere.org/abc")];
    };
    let server = TestServer::of_directory(network, "example.org", directory, with_providers).await;
    for prefix in FROZEN {
        let answer = server.get(&format!("{prefix}/download/{icon}")).await;
        assert_eq!((answer.status.as_u16(), &answer.bytes), (200, &image));
        assert_eq!(server.get(&format!("{prefix}/download/{icon}/a.png")).await.status, 200);
        assert_eq!(server.get(&format!("{prefix}/thumbnail/{icon}?width=32&height=32&method=crop")).await.status, 200);
        for address in [&*other, "elsewhere.org/abc"] {
            let answer = server.get(&format!("{prefix}/download/{address}")).await;
            assert_eq!(answer.error(), (404, "M_NOT_FOUND"), "{address}");
        }
    }
}

#[tokio::test]
async fn an_administrator_can_thaw_them() {
    let server = TestServer::with(|config| config.media.allow_legacy_media = true).await;
    let alice = server.user("alice").await;
    let image = super::thumbnails::png(40, 40);
    let address = upload(&alice, &image, "image/png").await;
    for prefix in FROZEN {
        let answer = server.get(&format!("{prefix}/download/{address}?allow_remote=false")).await;
        assert_eq!((answer.status.as_u16(), answer.bytes), (200, image.clone()));
        assert_eq!(answer.headers[header::CONTENT_SECURITY_POLICY], POLICY);
        assert_eq!(name_of(&alice, &format!("{prefix}/download/{address}/a.png")).await.as_deref(), Some("a.png"));
        let thumbnail = server.get(&format!("{prefix}/thumbnail/{address}?width=32&height=32&method=crop")).await;
        assert_eq!(thumbnail.status, 200);
    }
}

#[tokio::test]
async fn media_of_a_server_that_cannot_be_reached_is_an_error_of_that_server() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let id = upload(&alice, b"x", "a/b").await.replace("example.org/", "");
    assert_eq!(download(&alice, &format!("elsewhere.org/{id}")).await.error(), (502, "M_UNKNOWN"));
    assert_eq!(download(&alice, &format!("example.org:8448/{id}")).await.error(), (502, "M_UNKNOWN"));
    let thumbnail = format!("/v1/media/thumbnail/elsewhere.org/{id}{}", query(&[("width", "1"), ("height", "1")]));
    assert_eq!(alice.get(&thumbnail).await.error(), (502, "M_UNKNOWN"));
}
