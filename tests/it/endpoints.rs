//! Which endpoints of the client-server API there are: all rows of `endpoints.tsv`, which are those of v1.19, but these.

use http::Method;

use crate::support::TestServer;

/// What may answer `M_UNRECOGNIZED`. Whoever builds a row takes it out of this list; nothing ever comes in. Some stay:
/// `auth_metadata` says so that there is no OAuth.
const MISSING: &str = include_str!("endpoints_missing.tsv");

#[tokio::test]
async fn what_is_missing_of_the_specification_is_known() {
    let server = TestServer::new().await;
    let known: Vec<_> = MISSING.lines().collect();
    for row in include_str!("endpoints.tsv").lines() {
        let (method, path) = row.split_once('\t').unwrap();
        let method: Method = method.parse().unwrap();
        // Without a token nothing is done, and what is there says that one is missing, or more.
        let answer = server.request_bytes(method, &filled_in(path), None, "{}").await;
        let errcode = answer.body["errcode"].as_str().unwrap_or_default();
        let is_expected = errcode != "M_UNRECOGNIZED" || known.contains(&row);
        assert!(is_expected, "{row} is not there, and not in tests/it/endpoints_missing.tsv");
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
