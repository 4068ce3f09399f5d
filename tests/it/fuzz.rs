//! Every endpoint of the specification, built or not, gets what no honest client sends. It may refuse, in the
//! specification's form; it must never fail.

use std::time::Duration;

use http::{Method, StatusCode};
use proptest::{prelude::*, strategy::ValueTree, test_runner::TestRunner};
use serde_json::{Map, Value, json};

use crate::support::{TestServer, User};

const ENDPOINTS: &str = include_str!("endpoints.tsv");
/// How many requests of each kind an endpoint gets.
const CASES: usize = 6;

/// Names that mean something somewhere: random ones would be ignored everywhere.
const KEYS: [&str; 64] = [
    "algorithm",
    "algorithms",
    "alias",
    "aliases",
    "auth",
    "auth_data",
    "content",
    "creation_content",
    "default",
    "device_id",
    "device_keys",
    "devices",
    "dir",
    "displayname",
    "erase",
    "event",
    "event_fields",
    "event_format",
    "events",
    "fallback_keys",
    "filter",
    "from",
    "identifier",
    "include_leave",
    "initial_state",
    "invite",
    "invite_3pid",
    "is_direct",
    "keys",
    "lazy_load_members",
    "limit",
    "m.fully_read",
    "m.read",
    "m.relates_to",
    "master_key",
    "membership",
    "messages",
    "new_password",
    "not_types",
    "one_time_keys",
    "order",
    "password",
    "pattern",
    "power_level_content_override",
    "preset",
    "presence",
    "reason",
    "room",
    "room_alias_name",
    "room_id",
    "room_version",
    "rooms",
    "self_signing_key",
    "sessions",
    "signatures",
    "since",
    "state",
    "timeline",
    "timeout",
    "timeouts",
    "topic",
    "type",
    "user_id",
    "username",
];

/// Text that is wrong in some way, or right: of a type, an id, a number.
const TEXTS: [&str; 22] = [
    "",
    " ",
    "\0",
    "\u{feff}",
    "\u{202e}abc",
    "é\u{301}",
    "💥",
    "null",
    "true",
    "-1",
    "9007199254740993",
    "1e400",
    "@:",
    "@a:b:c:d",
    "!:",
    "#",
    "$",
    "ed25519:",
    "m.login.password",
    "m.room.message",
    "../../etc/passwd",
    "%00",
];

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        prop_oneof![any::<i64>(), Just(i64::MIN), Just(i64::MAX), -1i64..3].prop_map(Value::from),
        prop_oneof![Just(u64::MAX), Just(1 << 53)].prop_map(Value::from),
        prop_oneof![any::<f64>(), Just(-0.0), Just(1e308)].prop_map(|n| json!(n)),
        proptest::sample::select(&TEXTS[..]).prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        (200usize..3000).prop_map(|length| "x".repeat(length).into()),
    ];
    leaf.prop_recursive(4, 24, 5, |inner| {
        let key = prop_oneof![4 => proptest::sample::select(&KEYS[..]).prop_map(str::to_owned), 1 => any::<String>()];
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::vec((key, inner), 0..6)
                .prop_map(|entries| Value::Object(entries.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

/// A body that is no JSON, or one that a careless parser takes too far.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..60),
        Just(b"{\"a\":\"\xff\xfe\"}".to_vec()),
        Just(b"{\"a\":\"\\ud800\"}".to_vec()),
        Just(b"{\"user_id\":1,\"user_id\":2}".to_vec()),
        Just(b"{\"type\":".to_vec()),
        Just([b"{\"content\":".repeat(3000), b"1".to_vec(), b"}".repeat(3000)].concat()),
        Just(b"[".repeat(20_000)),
        Just(Vec::new()),
    ]
}

/// What is put in for the parameters of a path.
struct Names {
    user: User,
    room: String,
    event: String,
}

impl Names {
    /// The true value of a parameter, or one that is wrong.
    fn fill(&self, path: &str, wrong: Option<&str>) -> String {
        let part = |part: &str| match part.strip_prefix('{').and_then(|part| part.strip_suffix('}')) {
            None => part.to_owned(),
            Some(name) => wrong.map_or_else(|| self.right(name), str::to_owned),
        };
        path.split('/').map(part).collect::<Vec<_>>().join("/")
    }

    fn right(&self, parameter: &str) -> String {
        match parameter {
            "userId" => &self.user.id,
            "roomId" | "roomIdOrAlias" => &self.room,
            "eventId" => &self.event,
            "deviceId" => &self.user.device_id,
            "serverName" => "example.org",
            "eventType" => "m.room.message",
            "type" => "m.tag",
            "stateKey" => "",
            "keyName" => "displayname",
            "receiptType" => "m.read",
            "kind" => "content",
            "version" => "1",
            _ => "x",
        }
        .to_owned()
    }
}

/// Values of path parameters as they stand in a URL.
const WRONG_PARTS: [&str; 8] =
    ["%00", "%FF%FE", "%2F..%2F", "%F0%9F%92%A5", "@nobody:example.org", "!gone:example.org", "$", ""];

/// Queries of all endpoints; a long poll would only wait.
const QUERIES: [&str; 7] = [
    "?timeout=0",
    "?timeout=0&since=s1_2&filter=%7B&limit=-1&dir=x&from=garbage&at=garbage",
    "?timeout=0&limit=99999999999999999999&dir=b&from=t-9223372036854775808&width=-1&height=1e9&method=scale",
    "?timeout=0&filter=%7B%22room%22%3A%7B%22timeline%22%3A%7B%22limit%22%3A0%7D%7D%7D&full_state=true",
    "?timeout=0&filter=%7B%22room%22%3A7%7D&since=&set_presence=x&width=0&height=0&method=crop",
    "?timeout=0&dir=f&limit=0&from=&to=&membership=x&not_membership=&version=%00&via=%20&server_name=%FF",
    "?timeout=0&access_token=%FF&user_id=@other:example.org&since=s18446744073709551615_0",
];

async fn check(user: &mut User, method: &Method, path: &str, body: Vec<u8>) {
    let shown = String::from_utf8_lossy(&body[..body.len().min(400)]).into_owned();
    let server = user.server.clone();
    let request = server.request_bytes(method.clone(), path, Some(&user.token), body);
    let answer = tokio::time::timeout(Duration::from_secs(20), request).await;
    let answer = answer.unwrap_or_else(|_| panic!("{method} {path} does not end; body {shown}"));
    let is_failure = answer.status.is_server_error() && answer.status != StatusCode::GATEWAY_TIMEOUT;
    assert!(!is_failure, "{method} {path} failed: {} {}; body {shown}", answer.status, answer.body);
    if answer.status.is_client_error() {
        let is_specified = answer.body["errcode"].is_string() || answer.body["flows"].is_array();
        assert!(is_specified, "{method} {path} answered {} {:?}; body {shown}", answer.status, answer.bytes);
    }
    if answer.status == StatusCode::UNAUTHORIZED && answer.body["errcode"] == "M_UNKNOWN_TOKEN" {
        *user = server.log_in("alice").await; // that was a log-out
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_makes_an_endpoint_fail() {
    let server = TestServer::new().await;
    let mut alice = server.user("alice").await;
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    let event = alice.say(&room, "hello").await;
    let names = Names { user: alice.clone(), room, event };
    let mut random = TestRunner::deterministic();
    let mut take = |strategy: &BoxedStrategy<Vec<u8>>| strategy.new_tree(&mut random).expect("it has values").current();
    let values = value().prop_map(|value| value.to_string().into_bytes()).boxed();
    let bytes = bytes().boxed();
    let endpoints = ENDPOINTS.lines().filter(|line| !line.starts_with('#'));
    let mut count = 0;
    for (method, path) in endpoints.filter_map(|line| line.split_once('\t')) {
        let method: Method = method.parse().expect("the list names methods");
        let right = names.fill(path, None);
        let mut requests: Vec<(String, Vec<u8>)> = Vec::new();
        requests.extend(QUERIES.map(|query| (format!("{right}{query}"), b"{}".to_vec())));
        requests.extend(WRONG_PARTS.map(|part| (names.fill(path, Some(part)) + "?timeout=0", b"{}".to_vec())));
        for _ in 0..CASES {
            requests.push((format!("{right}?timeout=0"), take(&values)));
            requests.push((format!("{right}?timeout=0"), take(&bytes)));
        }
        for (path, body) in requests {
            check(&mut alice, &method, &path, body).await;
            count += 1;
        }
    }
    assert!(count > 3_000, "only {count} requests were made: is the list of endpoints there?");
    // It all went into a database that still agrees with itself, on a server that still works.
    alice.create_room(json!({ "name": "still here" })).await;
    let report = chappe::check::check(&server.inside().store, server.inside().name()).unwrap();
    assert!(report.is_clean(), "{:#?}", report.problems);
}
