//! Which endpoints there are: all rows of `endpoints.tsv`, which are those of the client-server API v1.19, and of
//! `federation_endpoints.tsv`, those of the server-server API.

use http::{Method, StatusCode};

use crate::support::TestServer;

#[tokio::test]
async fn nothing_of_the_specification_is_missing() {
    let server = TestServer::with(|config| {
        config.url_previews.allowed_domains = vec!["example.com".parse().unwrap()];
        config.well_known.client = Some("https://matrix.example.org".to_owned());
        let provider = serde_json::json!({
            "id": "something", "name": "Something", "issuer": "https://id.example.org", "client_id": "chappe",
        });
        config.identity_providers = vec![serde_json::from_value(provider).unwrap()];
    })
    .await;
    let lists = [include_str!("endpoints.tsv"), include_str!("federation_endpoints.tsv")];
    for row in lists.into_iter().flat_map(str::lines) {
        let (method, path) = row.split_once('\t').unwrap();
        let method: Method = method.parse().unwrap();
        // Without a token or signature nothing is done, and what is there says that one is missing, or more.
        let answer = server.request_bytes(method, &filled_in(path), None, "{}").await;
        let errcode = answer.body["errcode"].as_str().unwrap_or_default();
        // What never saw a handler is no row of the specification's, whatever else its answer says.
        let is_there = errcode != "M_UNRECOGNIZED" && answer.status != StatusCode::METHOD_NOT_ALLOWED;
        assert!(is_there, "{row}: {} {}", answer.status, answer.body);
    }
}

#[tokio::test]
async fn browsers_may_use_every_method() {
    let server = TestServer::new().await;
    let methods =
        [Method::GET, Method::POST, Method::PUT, Method::DELETE, Method::PATCH, Method::HEAD, Method::OPTIONS];
    for path in ["/_matrix/client/versions", "/_matrix/client/v3/sync", "/_matrix/media/v3/upload"] {
        let request = http::Request::options(path)
            .header("origin", "https://element.example")
            .header("access-control-request-method", "PATCH")
            .header("access-control-request-headers", "authorization");
        let answer = server.send(request.body(axum::body::Body::empty()).unwrap()).await;
        let allowed = |name: &str| answer.headers[name].to_str().unwrap();
        for method in &methods {
            let mut listed = allowed("access-control-allow-methods").split(',').map(str::trim);
            assert!(listed.any(|listed| listed == method.as_str()), "{path}: {method}");
        }
        assert_eq!(allowed("access-control-allow-origin"), "*", "{path}");
        assert!(allowed("access-control-allow-headers").contains("authorization"), "{path}");
    }
}

fn filled_in(path: &str) -> String {
    let part = |part: &str| match part {
        "{roomId}" | "{roomIdOrAlias}" => "!room:example.org".to_owned(),
        "{roomAlias}" => "%23alias:example.org".to_owned(),
        "{userId}" => "@user:example.org".to_owned(),
        "{eventId}" => "$event".to_owned(),
        "{serverName}" => "example.org".to_owned(),
        "{receiptType}" => "m.read".to_owned(),
        "{kind}" => "room".to_owned(),
        "{keyName}" => "displayname".to_owned(),
        name if name.starts_with('{') => "something".to_owned(),
        fixed => fixed.to_owned(),
    };
    path.split('/').map(part).collect::<Vec<_>>().join("/")
}
