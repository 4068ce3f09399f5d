//! A database that was put back to an earlier state: what happened after its backup is known to others, and not to it.

use std::{path::Path, process::Command};

use chappe::federation::queue;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{Answer, Signer, TestNetwork, TestServer, User, curve25519_key};

const SLIDING: &str = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync";

/// A user's log-in, without the server, which is another one after each start.
struct LogIn {
    id: String,
    device_id: String,
    token: String,
}

impl LogIn {
    fn of(user: User) -> Self {
        let User { id, device_id, token, .. } = user;
        Self { id, device_id, token }
    }

    fn on(&self, server: &TestServer) -> User {
        let Self { id, device_id, token } = self;
        User { server: server.clone(), id: id.clone(), device_id: device_id.clone(), token: token.clone() }
    }
}

/// A server that is stopped, copied and started again, as an administrator makes a backup.
struct Machine {
    network: TestNetwork,
    name: &'static str,
}

impl Machine {
    async fn new(name: &'static str) -> (Self, TestServer) {
        let network = TestNetwork::new();
        let server = network.server(name).await;
        (Self { network, name }, server)
    }

    async fn start(&self, directory: TempDir) -> TestServer {
        let server = TestServer::of_directory(self.network.clone(), self.name, directory, |_| {}).await;
        self.network.add(self.name, server.router());
        queue::start(server.inside());
        server
    }

    /// The server goes on; what it was until now.
    async fn back_up(&self, server: TestServer) -> (TestServer, TempDir) {
        let directory = server.stop(&self.network).await;
        let backup = tempfile::tempdir().unwrap();
        copy(directory.path(), backup.path());
        (self.start(directory).await, backup)
    }

    /// Throws away what happened since the backup.
    async fn restore(&self, server: TestServer, backup: TempDir) -> TestServer {
        drop(server.stop(&self.network).await);
        self.start(backup).await
    }
}

fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-a").arg(from.join(".")).arg(to).status().unwrap();
    assert!(copied.success(), "{from:?} can't be copied");
}

async fn sliding(user: &User, pos: Option<&str>) -> Answer {
    let query = pos.map(|pos| format!("?pos={pos}")).unwrap_or_default();
    let body = json!({ "lists": { "all": { "ranges": [[0, 9]], "timeline_limit": 20 } } });
    user.post(&format!("{SLIDING}{query}"), body).await
}

/// What messages among these events say.
fn bodies(events: &Value) -> Vec<&str> {
    events.as_array().into_iter().flatten().filter_map(|event| event["content"]["body"].as_str()).collect()
}

fn text(answer: &Value, key: &str) -> String {
    answer[key].as_str().unwrap_or_else(|| panic!("no {key}: {answer}")).to_owned()
}

#[tokio::test]
async fn clients_that_know_a_lost_future_begin_anew_and_others_go_on() {
    let (machine, server) = Machine::new("example.org").await;
    let alice = server.user("alice").await;
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    alice.try_say(&room, "kept").await.ok();
    let (known, pos) = (alice.now().await, text(&sliding(&alice, None).await.ok(), "pos"));
    let log_in = LogIn::of(alice);
    let (server, backup) = machine.back_up(server).await;
    let alice = log_in.on(&server);
    for _ in 0..5 {
        alice.try_say(&room, "lost").await.ok();
    }
    let lost = alice.now().await;
    let lost_pos = text(&sliding(&alice, Some(&pos)).await.ok(), "pos");
    drop(alice);
    let server = machine.restore(server, backup).await;

    let alice = log_in.on(&server);
    for _ in 0..7 {
        alice.try_say(&room, "new").await.ok(); // more than happened in the future that was lost
    }
    let answer = alice.sync(&lost).await;
    let told = &answer["rooms"]["join"][&room];
    assert_eq!(bodies(&told["timeline"]["events"]), [&["kept"][..], &["new"; 7]].concat(), "{told}");
    assert!(!told["state"]["events"].as_array().unwrap().is_empty(), "the room is told as a new one: {told}");
    assert_eq!(answer["device_lists"]["changed"], json!([alice.id]), "whose devices changed nobody knows");
    let answer = alice.sync(&known).await;
    assert_eq!(bodies(&answer["rooms"]["join"][&room]["timeline"]["events"]), ["new"; 7]);

    assert_eq!(sliding(&alice, Some(&lost_pos)).await.error(), (400, "M_UNKNOWN_POS"));
    let answer = sliding(&alice, Some(&pos)).await.ok();
    assert_eq!(bodies(&answer["rooms"][&room]["timeline"]), ["new"; 7]);

    let changes = alice.get(&format!("/v3/keys/changes?from={lost}&to={known}")).await.ok();
    assert_eq!(changes["changed"], json!([alice.id]));
    let again = alice.now().await;
    alice.try_say(&room, "later").await.ok();
    let answer = alice.sync(&again).await;
    assert_eq!(bodies(&answer["rooms"]["join"][&room]["timeline"]["events"]), ["later"], "and then all is as always");
}

#[tokio::test]
async fn to_device_messages_are_not_lost_to_a_token_of_the_lost_future() {
    let (machine, server) = Machine::new("example.org").await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let (alice, bob) = (LogIn::of(alice), LogIn::of(bob));
    let send = async |server: &TestServer, to: &LogIn, n: u64| {
        let body = json!({ "messages": { &to.id: { &to.device_id: { "n": n } } } });
        alice.on(server).put(&format!("/v3/sendToDevice/x/{n}"), body).await.ok();
    };
    let (server, backup) = machine.back_up(server).await;
    for n in 0..10 {
        send(&server, &bob, n).await;
    }
    let lost = bob.on(&server).now().await;
    let server = machine.restore(server, backup).await;
    send(&server, &bob, 11).await;
    for n in 20..40 {
        send(&server, &alice, n).await; // more than happened in the future that was lost
    }
    for _ in 0..2 {
        let answer = bob.on(&server).sync(&lost).await;
        let told: Vec<_> = answer["to_device"]["events"].as_array().unwrap().iter().collect();
        assert_eq!(told.iter().map(|event| &event["content"]["n"]).collect::<Vec<_>>(), [11]);
    }
}

#[tokio::test]
async fn no_one_time_key_is_given_out_a_second_time() {
    let (machine, server) = Machine::new("example.org").await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let signer = Signer::of_device(&alice);
    let upload = json!({
        "device_keys": signer.device_keys(&alice),
        "one_time_keys": {
            "signed_curve25519:A": signer.one_time_key(&alice),
            "signed_curve25519:B": signer.one_time_key(&alice),
        },
        "fallback_keys": { "signed_curve25519:F": signer.one_time_key(&alice) },
    });
    alice.post("/v3/keys/upload", upload).await.ok();
    let known = alice.now().await;
    let (alice, bob) = (LogIn::of(alice), LogIn::of(bob));
    let claim = async |server: &TestServer| {
        let wanted = json!({ "one_time_keys": { &alice.id: { &alice.device_id: "signed_curve25519" } } });
        let answer = bob.on(server).post("/v3/keys/claim", wanted).await.ok();
        let keys = answer["one_time_keys"][&alice.id][&alice.device_id].as_object().cloned().unwrap_or_default();
        keys.into_iter().map(|(id, _)| id).collect::<Vec<_>>()
    };
    let (server, backup) = machine.back_up(server).await;
    assert_eq!(claim(&server).await, ["signed_curve25519:A"]);
    let server = machine.restore(server, backup).await;

    let answer = alice.on(&server).sync(&known).await;
    assert_eq!(
        answer["device_one_time_keys_count"],
        json!({ "signed_curve25519": 0 }),
        "so that new ones are uploaded"
    );
    assert_eq!(answer["device_unused_fallback_key_types"], json!([]), "so that it is replaced");
    assert_eq!(claim(&server).await, ["signed_curve25519:F"], "those who are seldom here can be reached all the same");
    let new = json!({ "one_time_keys": { "signed_curve25519:C": signer.one_time_key(&alice.on(&server)) } });
    let counts = alice.on(&server).post("/v3/keys/upload", new).await.ok();
    assert_eq!(counts["one_time_key_counts"]["signed_curve25519"], 1);
    assert_eq!(claim(&server).await, ["signed_curve25519:C"]);
}

#[tokio::test]
async fn key_backups_use_no_version_or_etag_of_the_lost_future() {
    let (machine, server) = Machine::new("example.org").await;
    let alice = LogIn::of(server.user("alice").await);
    let version = json!({
        "algorithm": "m.megolm_backup.v1.curve25519-aes-sha2",
        "auth_data": { "public_key": curve25519_key(), "signatures": {} },
    });
    let create = async |server: &TestServer| {
        text(&alice.on(server).post("/v3/room_keys/version", version.clone()).await.ok(), "version")
    };
    let put = async |server: &TestServer, version: &str, session: &str| {
        let key = json!({ "first_message_index": 0, "forwarded_count": 0, "is_verified": false, "session_data": {} });
        let path = format!("/v3/room_keys/keys/!r:example.org/{session}?version={version}");
        text(&alice.on(server).put(&path, key).await.ok(), "etag")
    };
    let first = create(&server).await;
    put(&server, &first, "one").await;
    let (server, backup) = machine.back_up(server).await;
    let lost_etag = put(&server, &first, "lost").await;
    let lost_version = create(&server).await;
    let server = machine.restore(server, backup).await;
    assert_ne!(put(&server, &first, "new").await, lost_etag, "what is in it is something else");
    assert_ne!(create(&server).await, lost_version, "a client would add to it what only it can read");
}

async fn device_count(asker: &User, of: &str) -> usize {
    let answer = asker.post("/v3/keys/query", json!({ "device_keys": { of: [] } })).await.ok();
    answer["device_keys"][of].as_object().map_or(0, serde_json::Map::len)
}

async fn until_devices(asker: &User, of: &str, count: usize) {
    for _ in 0..1_000 {
        if device_count(asker, of).await == count {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("{of} does not have {count} devices for {}", asker.id);
}

async fn upload_keys(user: &User) {
    let keys = Signer::of_device(user).device_keys(user);
    user.post("/v3/keys/upload", json!({ "device_keys": keys })).await.ok();
}

#[tokio::test]
async fn both_sides_ask_again_for_the_devices_of_users_of_the_other() {
    let (machine, a) = Machine::new("a.test").await;
    let b = machine.network.server("b.test").await;
    queue::start(b.inside());
    let (alice, bob) = (a.user("alice").await, b.user("bob").await);
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    bob.post(&format!("/v3/join/{room}?via=a.test"), json!({})).await.ok();
    for user in [&alice, &bob] {
        upload_keys(user).await;
    }
    until_devices(&alice, &bob.id, 1).await;
    until_devices(&bob, &alice.id, 1).await;
    let known = alice.now().await;
    let alice = LogIn::of(alice);
    let (a, backup) = machine.back_up(a).await;

    upload_keys(&a.log_in("alice").await).await;
    upload_keys(&b.log_in("bob").await).await;
    until_devices(&bob, &alice.id, 2).await;
    until_devices(&alice.on(&a), &bob.id, 2).await;

    let a = machine.restore(a, backup).await;
    until_devices(&bob, &alice.id, 1).await;
    let alice = alice.on(&a);
    let told = alice.sync(&known).await["device_lists"]["changed"].clone();
    assert!(told.as_array().is_some_and(|users| users.iter().any(|user| *user == bob.id)), "{told}");
    until_devices(&alice, &bob.id, 2).await;
    // What changes from now on is told as always.
    upload_keys(&a.log_in("alice").await).await;
    until_devices(&bob, &alice.id, 2).await;
}
