//! Every endpoint gets what no honest client or server sends: those of the specification, built or not, and others. It may
//! refuse, in the specification's form; it must never fail.

use std::time::Duration;

use chappe::config::{Secret, ServerNotices};
use http::{Method, StatusCode};
use proptest::{prelude::*, strategy::ValueTree, test_runner::TestRunner};
use serde_json::{Map, Value, json};

use crate::support::{Answer, START_MS, Siege, TestServer, User};

const ENDPOINTS: &str = include_str!("endpoints.tsv");
/// Those of the server-server API that this server has.
const FEDERATION_ENDPOINTS: &str = include_str!("federation_endpoints.tsv");
/// Of the same, what is older than the specification, or newer.
const OTHER_FEDERATION_ENDPOINTS: &str = "\
PUT /_matrix/federation/v1/send_join/{roomId}/{eventId}
PUT /_matrix/federation/v1/send_leave/{roomId}/{eventId}
POST /_matrix/federation/unstable/event_relationships
GET /_matrix/key/v2/server/{keyId}";
/// What clients, browsers and administrators use beside the specification.
const OTHER_ENDPOINTS: &str = "\
GET /_chappe/account
GET /_chappe/login
GET /_chappe/oauth/authorize
POST /_chappe/oauth/clients
POST /_chappe/oauth/device
GET /_chappe/oauth/link
POST /_chappe/oauth/revoke
POST /_chappe/oauth/token
POST /_matrix/client/unstable/event_relationships
GET /_matrix/client/unstable/io.element.msc4306/rooms/{roomId}/thread/{eventId}/subscription
PUT /_matrix/client/unstable/io.element.msc4306/rooms/{roomId}/thread/{eventId}/subscription
DELETE /_matrix/client/unstable/io.element.msc4306/rooms/{roomId}/thread/{eventId}/subscription
GET /_matrix/client/unstable/io.element.msc4308/thread_subscriptions
GET /_matrix/client/unstable/io.element.msc4388/rendezvous
POST /_matrix/client/unstable/io.element.msc4388/rendezvous
GET /_matrix/client/unstable/io.element.msc4388/rendezvous/{id}
PUT /_matrix/client/unstable/io.element.msc4388/rendezvous/{id}
DELETE /_matrix/client/unstable/io.element.msc4388/rendezvous/{id}
GET /_matrix/client/unstable/org.matrix.msc1763/retention/configuration
GET /_matrix/client/unstable/org.matrix.msc2965/auth_issuer
DELETE /_matrix/client/unstable/org.matrix.msc3391/user/{userId}/account_data/{type}
DELETE /_matrix/client/unstable/org.matrix.msc3391/user/{userId}/rooms/{roomId}/account_data/{type}
GET /_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device
PUT /_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device
DELETE /_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device
GET /_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device/{deviceId}/events
POST /_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device/{deviceId}/events
POST /_matrix/client/unstable/org.matrix.msc4108/rendezvous
GET /_matrix/client/unstable/org.matrix.msc4108/rendezvous/{id}
PUT /_matrix/client/unstable/org.matrix.msc4108/rendezvous/{id}
DELETE /_matrix/client/unstable/org.matrix.msc4108/rendezvous/{id}
GET /_matrix/client/unstable/org.matrix.msc4140/delayed_events
GET /_matrix/client/unstable/org.matrix.msc4140/delayed_events/{delayId}
POST /_matrix/client/unstable/org.matrix.msc4140/delayed_events/{delayId}
POST /_matrix/client/unstable/org.matrix.msc4140/delayed_events/{delayId}/{action}
PUT /_matrix/client/unstable/org.matrix.msc4140/rooms/{roomId}/delayed_event/{eventType}/{txnId}
POST /_matrix/client/unstable/org.matrix.simplified_msc3575/sync
POST /_synapse/admin/v1/deactivate/{otherUserId}
GET /_synapse/admin/v1/event_reports
GET /_synapse/admin/v1/event_reports/{id}
GET /_synapse/admin/v1/federation/destinations
GET /_synapse/admin/v1/federation/destinations/{serverName}
POST /_synapse/admin/v1/federation/destinations/{serverName}/reset_connection
GET /_synapse/admin/v1/federation/destinations/{serverName}/rooms
GET /_synapse/admin/v1/register
POST /_synapse/admin/v1/register
GET /_synapse/admin/v1/room_reports
POST /_synapse/admin/v1/send_server_notice
PUT /_synapse/admin/v1/send_server_notice/{txnId}
GET /_synapse/admin/v1/user_reports";
/// How many requests of each kind an endpoint gets.
const CASES: usize = 6;

/// Names that mean something somewhere: random ones would be ignored everywhere.
const KEYS: [&str; 83] = [
    "algorithm",
    "algorithms",
    "alias",
    "aliases",
    "auth",
    "auth_data",
    "auth_events",
    "conn_id",
    "content",
    "creation_content",
    "default",
    "delay",
    "depth",
    "device_id",
    "device_keys",
    "devices",
    "dir",
    "displayname",
    "edu_type",
    "edus",
    "erase",
    "event",
    "event_fields",
    "event_format",
    "events",
    "extensions",
    "fallback_keys",
    "filter",
    "from",
    "hashes",
    "identifier",
    "include_leave",
    "initial_state",
    "invite",
    "invite_3pid",
    "is_direct",
    "keys",
    "lazy_load_members",
    "limit",
    "lists",
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
    "origin",
    "origin_server_ts",
    "password",
    "pattern",
    "pdus",
    "power_level_content_override",
    "presence",
    "preset",
    "prev_events",
    "ranges",
    "reason",
    "required_state",
    "room",
    "room_alias_name",
    "room_id",
    "room_subscriptions",
    "room_version",
    "rooms",
    "self_signing_key",
    "sender",
    "sessions",
    "signatures",
    "since",
    "state",
    "state_key",
    "timeline",
    "timeline_limit",
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
    user_id: String,
    device_id: String,
    room: String,
    event: String,
    server: String,
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
            "userId" => &self.user_id,
            "otherUserId" => "@carol:example.org",
            "roomId" | "roomIdOrAlias" => &self.room,
            "eventId" => &self.event,
            "deviceId" => &self.device_id,
            "serverName" => &self.server,
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

/// What servers ask each other in queries.
const FEDERATION_QUERIES: [&str; 2] = [
    "?v=%24gone&limit=10&ver=11&user_id=@alice:home.test&room_alias=%23x:home.test&event_id=%24gone&ts=0&dir=f",
    "?v=%FF&limit=-1&ver=&ver=%00&user_id=@:&field=%00&room_alias=%23&event_id=%FF&ts=1e9&dir=x&omit_members=7\
     &minimum_valid_until_ts=-1&suggested_only=x&access_token=%00&timeout_ms=-1",
];

/// The EDUs that there are.
const EDU_TYPES: [&str; 6] =
    ["m.device_list_update", "m.direct_to_device", "m.presence", "m.receipt", "m.signing_key_update", "m.typing"];

/// Where all that is random comes from.
struct Inputs {
    random: TestRunner,
    values: BoxedStrategy<Value>,
    bytes: BoxedStrategy<Vec<u8>>,
}

impl Inputs {
    fn new() -> Self {
        Self { random: TestRunner::deterministic(), values: value().boxed(), bytes: bytes().boxed() }
    }

    fn value(&mut self) -> Value {
        self.values.new_tree(&mut self.random).expect("it has values").current()
    }

    fn bytes(&mut self) -> Vec<u8> {
        self.bytes.new_tree(&mut self.random).expect("it has values").current()
    }

    /// Paths and bodies of the requests that an endpoint gets.
    fn requests(&mut self, names: &Names, path: &str) -> Vec<(String, Vec<u8>)> {
        let right = names.fill(path, None);
        let mut requests: Vec<(String, Vec<u8>)> = Vec::new();
        requests.extend(QUERIES.map(|query| (format!("{right}{query}"), b"{}".to_vec())));
        requests.extend(WRONG_PARTS.map(|part| (names.fill(path, Some(part)) + "?timeout=0", b"{}".to_vec())));
        for _ in 0..CASES {
            requests.push((format!("{right}?timeout=0"), self.value().to_string().into_bytes()));
            requests.push((format!("{right}?timeout=0"), self.bytes()));
        }
        requests
    }
}

/// Methods and paths of a list.
fn rows(list: &str) -> impl Iterator<Item = (Method, &str)> {
    let rows = list.lines().filter_map(|line| line.split_once(['\t', ' ']));
    rows.map(|(method, path)| (method.parse::<Method>().expect("the list names methods"), path))
}

/// The answer to a request, which may be a refusal.
async fn answer(method: &Method, path: &str, shown: &[u8], request: impl Future<Output = Answer>) -> Answer {
    let shown = String::from_utf8_lossy(&shown[..shown.len().min(400)]);
    let answer = tokio::time::timeout(Duration::from_secs(20), request).await;
    let answer = answer.unwrap_or_else(|_| panic!("{method} {path} does not end; body {shown}"));
    let is_failure = answer.status.is_server_error() && answer.status != StatusCode::GATEWAY_TIMEOUT;
    assert!(!is_failure, "{method} {path} failed: {} {}; body {shown}", answer.status, answer.body);
    // OAuth has errors of its own, and pages have none.
    if answer.status.is_client_error() && !path.starts_with("/_chappe/") {
        let is_specified = answer.body["errcode"].is_string() || answer.body["flows"].is_array();
        assert!(is_specified, "{method} {path} answered {} {:?}; body {shown}", answer.status, answer.bytes);
    }
    answer
}

/// Sends a request with the token of the user `name`.
async fn check(user: &mut User, name: &str, method: &Method, path: &str, body: Vec<u8>) {
    let server = user.server.clone();
    let request = server.request_bytes(method.clone(), path, Some(&user.token), body.clone());
    let answer = answer(method, path, &body, request).await;
    if answer.status == StatusCode::UNAUTHORIZED && answer.body["errcode"] == "M_UNKNOWN_TOKEN" {
        *user = server.log_in(name).await; // that was a log-out
    }
}

/// Sends a request that is signed as far as it can be.
async fn check_signed(siege: &Siege, method: &Method, path: &str, body: Vec<u8>) {
    // What is JSON was written as canonical JSON has it.
    let signed = serde_json::from_slice::<Value>(&body).ok().and_then(|_| std::str::from_utf8(&body).ok());
    let request = siege.evil.send_bytes(&siege.home, method.clone(), path, body.clone(), signed.unwrap_or("{}"));
    answer(method, path, &body, request).await;
}

/// What came in went into a database that still agrees with itself, on a server that still works.
async fn check_server(user: &User) {
    user.create_room(json!({ "name": "still here" })).await;
    let server = user.server.inside();
    let report = chappe::check::check(&server.store, server.name()).unwrap();
    assert!(report.is_clean(), "{:#?}", report.problems);
}

async fn names_of(user: &User) -> Names {
    let room = user.create_room(json!({ "preset": "public_chat" })).await;
    let event = user.say(&room, "hello").await;
    let (user_id, device_id) = (user.id.clone(), user.device_id.clone());
    Names { user_id, device_id, room, event, server: "example.org".to_owned() }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_makes_an_endpoint_fail() {
    let server = TestServer::new().await;
    let mut alice = server.user("alice").await;
    let names = names_of(&alice).await;
    let mut inputs = Inputs::new();
    let mut count = 0;
    for (method, path) in rows(ENDPOINTS) {
        for (path, body) in inputs.requests(&names, path) {
            check(&mut alice, "alice", &method, &path, body).await;
            count += 1;
        }
    }
    assert!(count > 3_000, "only {count} requests were made: is the list of endpoints there?");
    check_server(&alice).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_makes_an_endpoint_beside_the_specification_fail() {
    let server = TestServer::with(|config| {
        config.well_known.client = Some("https://matrix.example.org".to_owned());
        config.registration_shared_secret = Some(Secret::new("complement"));
        config.server_notices = Some(ServerNotices {
            system_mxid_localpart: "_server".to_owned(),
            system_mxid_display_name: None,
            system_mxid_avatar_url: None,
            room_name: "Notices".to_owned(),
        });
    })
    .await;
    let mut alice = server.user("alice").await;
    let mut boss = server.administrator("boss").await;
    server.user("carol").await;
    let names = names_of(&alice).await;
    let mut inputs = Inputs::new();
    for (method, path) in rows(OTHER_ENDPOINTS) {
        for (filled, body) in inputs.requests(&names, path) {
            match path.starts_with("/_synapse/") {
                true => check(&mut boss, "boss", &method, &filled, body).await,
                false => check(&mut alice, "alice", &method, &filled, body).await,
            }
        }
    }
    check_server(&alice).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_of_another_server_makes_an_endpoint_fail() {
    let siege = Siege::new().await;
    let event = siege.alice.say(&siege.room, "hello").await;
    let names = |user_id: &str| Names {
        user_id: user_id.to_owned(),
        device_id: siege.alice.device_id.clone(),
        room: siege.room.clone(),
        event: event.clone(),
        server: siege.evil.name().to_string(),
    };
    let (ours, theirs) = (names(&siege.alice.id), names(&siege.mallory));
    let mut inputs = Inputs::new();
    let mut count = 0;
    for (method, path) in rows(FEDERATION_ENDPOINTS).chain(rows(OTHER_FEDERATION_ENDPOINTS)) {
        let names = if path.contains("/make_") { &theirs } else { &ours };
        let mut requests = inputs.requests(names, path);
        let right = names.fill(path, None);
        requests.extend(FEDERATION_QUERIES.map(|query| (format!("{right}{query}"), b"{}".to_vec())));
        if path.contains("/send/") {
            for edu_type in EDU_TYPES {
                let edu = json!({ "edu_type": edu_type, "content": inputs.value() });
                let transaction = json!({
                    "origin": siege.evil.name(),
                    "origin_server_ts": START_MS,
                    "pdus": [inputs.value()],
                    "edus": [edu, inputs.value()],
                });
                requests.push((right.clone(), transaction.to_string().into_bytes()));
            }
        }
        for (path, body) in requests {
            // A transaction that came before is not looked at.
            let path = path.replace("/send/x", &format!("/send/x{count}"));
            check_signed(&siege, &method, &path, body).await;
            count += 1;
        }
    }
    assert!(count > 900, "only {count} requests were made: is the list of endpoints there?");
    check_server(&siege.alice).await;
}
