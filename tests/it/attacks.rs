//! What a hostile server tries, and what comes of it: nothing. A file per section of the list of attacks; more of them are
//! with the subjects that they concern: `federation`, `foreign_rooms`, `resident`, `between_servers`.

mod devices;
mod exhaustion;
mod keys;
mod leaks;
mod outbound;
mod parsing;
mod signing;
mod state;

use crate::support::{HostedRoom, Peer, TestNetwork, TestServer, User, query};

/// bob on `home.test`, and a room of the hostile server's that he may join.
struct Abroad {
    network: TestNetwork,
    home: TestServer,
    bob: User,
    evil: Peer,
    room: HostedRoom,
}

impl Abroad {
    async fn new() -> Self {
        let network = TestNetwork::new();
        let home = network.server("home.test").await;
        let bob = home.user("bob").await;
        let evil = network.peer("evil.test");
        let room = HostedRoom::new(&evil);
        Self { network, home, bob, evil, room }
    }

    /// The same, and bob has joined.
    async fn joined() -> Self {
        let abroad = Self::new().await;
        abroad.try_join().await.ok();
        abroad
    }

    async fn try_join(&self) -> crate::support::Answer {
        let via = query(&[("via", self.evil.name().as_str())]);
        self.bob.post(&format!("/v3/join/{}{via}", self.room.id), serde_json::json!({})).await
    }

    fn check(&self) {
        let server = self.home.inside();
        let report = chappe::check::check(&server.store, server.name()).unwrap();
        assert!(report.is_clean(), "{:#?}", report.problems);
    }
}
