//! Figures for Prometheus, and the dashboard that shows them.

use std::{collections::BTreeSet, time::Duration};

use chappe::{
    config::Secret,
    federation::queue::{
        self,
        tables::{Backlog, Destinations, Item, Queue},
    },
    store::{self, Transaction},
};
use http::{Method, header};
use regex::Regex;
use ruma::ServerName;
use serde_json::{Value, json};

use crate::support::{Answer, HostedRoom, TestNetwork, TestServer};

const TOKEN: &str = "scraper's token";
const PATH: &str = "/_chappe/metrics";

async fn scrape(server: &TestServer) -> String {
    let answer = server.request(Method::GET, PATH, Some(TOKEN), None).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    text(answer)
}

fn text(answer: Answer) -> String {
    String::from_utf8(answer.bytes).unwrap()
}

/// The value of the line that begins so: a name with its labels.
#[track_caller]
fn value(text: &str, name: &str) -> f64 {
    let found = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    found.unwrap_or_else(|| panic!("{name} is not in\n{text}")).parse().unwrap()
}

fn with_token(config: &mut chappe::config::Config) {
    config.metrics.token = Some(Secret::new(TOKEN));
}

#[tokio::test]
async fn only_who_has_the_token_reads_them() {
    let server = TestServer::with(with_token).await;
    let alice = server.user("alice").await;
    for token in [None, Some(""), Some("scraper"), Some(&*alice.token)] {
        let answer = server.request(Method::GET, PATH, token, None).await;
        assert_eq!((answer.status.as_u16(), answer.bytes.len()), (401, 0), "{token:?}");
        assert_eq!(answer.headers[header::WWW_AUTHENTICATE], "Bearer");
    }
    let answer = server.request(Method::GET, PATH, Some(TOKEN), None).await;
    assert_eq!(answer.headers[header::CONTENT_TYPE], "text/plain; version=0.0.4; charset=utf-8");
    assert!(text(answer).contains("# TYPE chappe_http_requests_total counter"));
}

#[tokio::test]
async fn they_are_nowhere_unless_that_is_configured_and_in_one_place_if_it_is() {
    let off = TestServer::new().await;
    let elsewhere = TestServer::with(|config| {
        with_token(config);
        config.metrics.listen = Some("127.0.0.1:0".parse().unwrap());
    })
    .await;
    for server in [off, elsewhere] {
        for path in [PATH, "/metrics"] {
            let answer = server.request(Method::GET, path, Some(TOKEN), None).await;
            assert_eq!(answer.error(), (404, "M_UNRECOGNIZED"), "{path}");
        }
    }
}

#[tokio::test]
async fn requests_are_counted_by_the_pattern_of_their_path() {
    let server = TestServer::with(with_token).await;
    let alice = server.user("alice").await;
    let room = alice.create_room(json!({})).await;
    alice.say(&room, "hello").await;
    alice.say(&room, "hello again").await;
    server.get(&format!("/v3/rooms/{room}/state")).await.error();
    server.get("/s3cret/path").await.error();
    let text = scrape(&server).await;
    let send = "/_matrix/client/v3/rooms/{room_id}/send/{event_type}/{txn_id}";
    assert_eq!(
        value(&text, &format!(r#"chappe_http_requests_total{{method="PUT",route="{send}",status="200"}}"#)),
        2.0
    );
    let count = format!(r#"chappe_http_request_duration_seconds_count{{method="PUT",route="{send}"}}"#);
    assert_eq!(value(&text, &count), 2.0);
    let state = "/_matrix/client/v3/rooms/{room_id}/state";
    let refused = format!(r#"chappe_http_requests_total{{method="GET",route="{state}",status="401"}}"#);
    assert_eq!(value(&text, &refused), 1.0);
    assert_eq!(value(&text, r#"chappe_http_requests_total{method="GET",route="none",status="404"}"#), 1.0);
    assert_eq!(value(&text, "chappe_http_requests_in_flight"), 1.0, "that is the scraper's own");
    for private in [&*room, "s3cret", "alice"] {
        assert!(!text.contains(private), "{private} is told");
    }
}

#[tokio::test]
async fn what_waits_what_is_stored_and_how_it_is_written_is_told() {
    let server = TestServer::with(with_token).await;
    let alice = server.user("alice").await;
    let room = alice.create_room(json!({})).await;
    let upload =
        alice.server.request_bytes(Method::POST, "/_matrix/media/v3/upload", Some(&alice.token), "12345").await;
    upload.ok();
    let since = alice.now().await;
    let waits = {
        let alice = alice.clone();
        tokio::spawn(async move { alice.sync_with(&format!("since={since}&timeout=60000")).await })
    };
    let text = until(&server, "chappe_sync_waiting_requests", 1.0).await;
    assert_eq!(value(&text, r#"chappe_media_bytes{of="users"}"#), 5.0);
    assert_eq!(value(&text, r#"chappe_media_files{of="users"}"#), 1.0);
    assert_eq!(value(&text, r#"chappe_media_bytes{of="servers"}"#), 0.0);
    assert_eq!(value(&text, "chappe_federation_staged_events"), 0.0);
    let syncs = value(&text, "chappe_store_fsync_duration_seconds_count");
    assert!(syncs > 3.0 && value(&text, "chappe_store_commit_group_transactions_sum") >= syncs);
    assert!(value(&text, r#"chappe_rocksdb_written_bytes_total{by="log"}"#) > 1_000.0);
    assert!(value(&text, r#"chappe_rocksdb_memtable_bytes{family="event"}"#) > 1_000.0);
    assert_eq!(value(&text, "chappe_rocksdb_write_stopped"), 0.0);
    assert!(value(&text, "process_resident_memory_bytes") > 1e6);

    alice.say(&room, "hello").await;
    waits.await.unwrap();
    let later = scrape(&server).await;
    assert_eq!(value(&later, "chappe_sync_waiting_requests"), 0.0);
    assert!(value(&later, "chappe_store_fsync_duration_seconds_count") > syncs);
    let events = r#"chappe_cache_hits_total{cache="parsed_events"}"#;
    assert!(value(&later, events) > value(&text, events));
}

/// A server that can't reach `there`, with whom it shares a room.
async fn cut_off() -> (TestNetwork, TestServer) {
    let network = TestNetwork::new();
    let here = network.server_with("here", with_token).await;
    queue::start(here.inside());
    let boss = here.user("boss").await;
    let peer = network.peer("there");
    let room = HostedRoom::new(&peer);
    peer.on(Method::PUT, "/_matrix/federation/v1/send/", |_| json!({ "pdus": {} }));
    boss.post(&format!("/v3/join/{}?via=there", room.id), json!({})).await.ok();
    boss.say(&room.id, "hello").await;
    queue::until_sent(here.inside(), &["there".try_into().unwrap()]).await.unwrap();
    network.cut_off("there");
    boss.say(&room.id, "can you hear me?").await;
    (network, here)
}

async fn until(server: &TestServer, name: &str, expected: f64) -> String {
    let mut text = String::new();
    for _ in 0..1_000 {
        text = scrape(server).await;
        if text.lines().any(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ')))
            && value(&text, name) == expected
        {
            return text;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("{name} never was {expected}:\n{text}");
}

#[tokio::test]
async fn it_is_told_how_far_another_server_is_behind() {
    let (_network, here) = cut_off().await;
    until(&here, "chappe_federation_failing_servers", 1.0).await;
    here.advance(Duration::from_secs(90));
    let text = scrape(&here).await;
    assert_eq!(value(&text, r#"chappe_federation_lag_seconds{destination="there"}"#), 90.0);
    assert!(value(&text, r#"chappe_federation_lag_rows{destination="there"}"#) >= 1.0);
    assert_eq!(value(&text, "chappe_federation_waiting_servers"), 1.0);
    let reader = r#"chappe_log_reader_lag_events{reader="federation"}"#;
    assert_eq!(value(&text, reader), 0.0, "what waits is in the queue already");
}

#[tokio::test]
async fn of_many_servers_those_that_are_furthest_behind_are_named() {
    let server = TestServer::with(with_token).await;
    for n in (0..25).rev() {
        let write = move |tx: &mut Transaction<'_>| {
            let name = format!("peer{n}.test");
            let name: &ServerName = name.as_str().try_into().unwrap();
            tx.put::<Queue>(&(name, tx.pos(), 1), &Item::ToDevice { content: "{}".to_owned() });
            tx.put::<Destinations>(&name, &Backlog { rows: 2, shortened_at: 1_000, first: tx.pos() });
            Ok::<_, store::Error>(())
        };
        server.inside().store.commit(write).await.unwrap();
    }
    let text = scrape(&server).await;
    let named = |n: usize| text.contains(&format!(r#"chappe_federation_lag_seconds{{destination="peer{n}.test"}}"#));
    assert!((5..25).all(named) && !(0..5).any(named), "{text}");
    assert_eq!(value(&text, "chappe_federation_waiting_servers"), 25.0);
    assert_eq!(value(&text, "chappe_federation_queued_rows"), 50.0);
}

#[tokio::test]
async fn the_dashboard_shows_only_what_there_is() {
    let dashboard: Value = serde_json::from_str(include_str!("../../packaging/grafana.json")).unwrap();
    let (_network, here) = cut_off().await;
    let told = until(&here, "chappe_federation_failing_servers", 1.0).await;
    let told: BTreeSet<&str> = told.lines().filter_map(|line| line.split(['{', ' ']).next()).collect();
    let is_name = Regex::new(r"\b(chappe|process)_[a-z0-9_]+").unwrap();
    let panels: Vec<&Value> =
        dashboard["panels"].as_array().unwrap().iter().filter(|panel| panel["type"] != "row").collect();
    assert!(panels.len() > 20);
    let mut shown = BTreeSet::new();
    for panel in &panels {
        let targets = panel["targets"].as_array().unwrap();
        assert!(!targets.is_empty(), "{} shows nothing", panel["title"]);
        for target in targets {
            let query = target["expr"].as_str().unwrap();
            let names: Vec<_> = is_name.find_iter(query).map(|name| name.as_str()).collect();
            assert!(!names.is_empty(), "{query}");
            for name in names {
                assert!(told.contains(name), "{}: no server tells {name}", panel["title"]);
                shown.insert(name);
            }
        }
    }
    let ids: BTreeSet<_> = dashboard["panels"].as_array().unwrap().iter().map(|panel| panel["id"].as_u64()).collect();
    assert_eq!(ids.len(), dashboard["panels"].as_array().unwrap().len(), "each panel has an id of its own");
    // The other way round: what is told is worth a look. A histogram is shown by its buckets, or by its sum.
    let base =
        |name: &&str| name.trim_end_matches("_bucket").trim_end_matches("_sum").trim_end_matches("_count").to_owned();
    let shown: BTreeSet<_> = shown.iter().map(base).collect();
    let hidden = told.iter().filter(|name| is_name.is_match(name)).map(base).filter(|name| !shown.contains(name));
    assert_eq!(hidden.collect::<BTreeSet<_>>(), BTreeSet::from(["chappe_build_info".to_owned()]));
}

#[tokio::test]
async fn names_and_units_are_those_of_prometheus() {
    let (_network, here) = cut_off().await;
    let told = until(&here, "chappe_federation_failing_servers", 1.0).await;
    let types = told.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    let types: Vec<_> = types.collect();
    assert!(types.len() > 35, "{types:?}");
    let other_units = Regex::new("_(ms|millis|micros|kib|mib|kb|mb)(_|$)").unwrap();
    for (name, kind) in types {
        assert_eq!(name.ends_with("_total"), kind == "counter", "{name}");
        assert!(name.starts_with("chappe_") || name.starts_with("process_"), "{name}");
        assert!(!other_units.is_match(name), "{name} has no base unit");
        assert!(told.contains(&format!("# HELP {name} ")), "{name}");
    }
}
