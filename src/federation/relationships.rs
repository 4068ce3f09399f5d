//! What is missing of a tree of replies: other servers of the room are asked for it.
//!
//! <https://github.com/matrix-org/matrix-spec-proposals/pull/2836>

use std::{collections::HashMap, sync::Arc, time::Duration};

use ruma::{EventId, OwnedEventId, OwnedServerName, ServerName};
use serde::Deserialize;
use serde_json::value::RawValue;
use tracing::info;

use super::{events, missing::Asker, request::request_json};
use crate::{
    Server,
    error::{Error, Result},
    event::format,
    room::{
        View, outliers,
        relationships::{
            told::{self, Summary},
            walk::{Direction, MAX_LIMIT, Query},
        },
        remote,
        tables::EventIds,
    },
    store::{RoomNid, Transaction},
};

/// Where servers are asked; the proposal has no other path that is in use.
pub const PATH: &str = "/_matrix/federation/unstable/event_relationships";

/// How many servers are asked until one of them answers.
const MAX_ASKED: usize = 3;

/// How long a client waits for them.
const PATIENCE: Duration = Duration::from_secs(15);

/// How many events of an auth chain are looked at.
const MAX_CHAIN: usize = 20_000;

/// Asks the servers of a room for an event, what it replies to and the replies to it. The events get no place in the room.
/// Error: only if something is wrong here.
pub async fn fetch(server: &Arc<Server>, room: RoomNid, event_id: &EventId) -> Result<()> {
    let (server, event_id) = (Arc::clone(server), event_id.to_owned());
    let fetching = Server::detached(async move {
        let find = move |server: &Server| {
            let snapshot = server.store.snapshot();
            let view = View::of(&server.rooms, &snapshot, room)?;
            if view.is_resident()? { Ok(remote::servers(&view, server.name())?) } else { Ok(Vec::new()) }
        };
        let _turn = server.inbox.backfills.take(room).await;
        for asked in server.blocking(find).await?.into_iter().take(MAX_ASKED) {
            match fetch_from(&server, room, &event_id, asked.clone()).await {
                Ok(()) => break,
                Err(error @ Error::Internal(_)) => return Err(error),
                Err(error) => info!(server = %asked, "this server does not tell a tree of replies: {error:?}"),
            }
        }
        // Whatever came of it: whoever looks at the event again asks for nothing that can't be had.
        let note = move |tx: &mut Transaction<'_>| match tx.get::<EventIds>(&&*event_id)? {
            Some(place) if place.room == room => Ok(told::explored(tx, room, place.event)?),
            _ => Ok::<_, Error>(()),
        };
        server.store.write(note).await?;
        Ok(())
    });
    // Who waits no longer finds it the next time: it goes on meanwhile.
    tokio::time::timeout(PATIENCE, fetching).await.unwrap_or(Ok(()))
}

/// What a server tells of a tree.
#[derive(Deserialize)]
struct Told {
    events: Vec<Box<RawValue>>,
    #[serde(default)]
    auth_chain: Vec<Box<RawValue>>,
}

async fn fetch_from(server: &Arc<Server>, room: RoomNid, event_id: &EventId, asked: OwnedServerName) -> Result<()> {
    let asker = Asker::open(server, room, asked).await?;
    let told = ask(server, &asker.asked, event_id).await?;
    let chain = told.auth_chain.into_iter().take(MAX_CHAIN);
    let events: Vec<_> = told.events.into_iter().take(usize::try_from(MAX_LIMIT).unwrap_or(usize::MAX)).collect();
    let mut summaries: HashMap<OwnedEventId, Summary> = HashMap::new();
    for event in &events {
        // Whether it is an event at all is found out with its signatures.
        if let Ok(received) = format::parse(event.get().as_bytes(), asker.rules)
            && let Some(summary) = told::unsigned_of(event)
        {
            summaries.insert(received.pdu().event_id.clone(), summary);
        }
    }
    let all = chain.chain(events).collect();
    let checked = events::check(server, asker.rules, &asker.room_id, all).await?;
    outliers::store(server, room, checked).await?;
    let hear = move |tx: &mut Transaction<'_>| {
        for (event_id, summary) in summaries {
            match tx.get::<EventIds>(&&*event_id)? {
                Some(place) if place.room == room => told::hear(tx, room, place.event, summary)?,
                _ => {} // it is none of the room's, or nothing allows it
            }
        }
        Ok::<_, Error>(())
    };
    server.store.write(hear).await?;
    Ok(())
}

async fn ask(server: &Arc<Server>, asked: &ServerName, event_id: &EventId) -> Result<Told> {
    let query = Query {
        event_id: event_id.to_owned(),
        room_id: None,
        max_depth: 3,
        max_breadth: 10,
        limit: MAX_LIMIT,
        depth_first: false,
        recent_first: true,
        include_parent: true,
        include_children: true,
        direction: Direction::Down,
        batch: String::new(),
    };
    request_json(server, asked, http::Method::POST, PATH, &query).await
}
