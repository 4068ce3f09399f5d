//! Events of a time of which this server has nothing: other servers know which they are.

use std::{sync::Arc, time::Duration};

use ruma::{MilliSecondsSinceUnixEpoch, OwnedServerName, UInt, api, api::federation::event::get_event_by_timestamp};
use tracing::info;

use super::{backfill, missing::Asker, request};
use crate::{
    Server,
    error::{Error, Result},
    room::{View, by_time::is_nearer, gaps, remote},
    store::{Direction, RoomNid},
};

/// How many servers are asked until one of them answers.
const MAX_ASKED: usize = 3;

/// How long a client waits for them.
const PATIENCE: Duration = Duration::from_secs(15);

/// What is looked for.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    pub room: RoomNid,
    /// Milliseconds since the Unix epoch.
    pub ts_ms: u64,
    pub direction: Direction,
    /// The time of the nearest event here.
    pub nearest_here: Option<u64>,
}

impl Wanted {
    /// Whether an event of this time is what is looked for rather than what is here.
    fn is_met_by(&self, ts_ms: u64) -> bool {
        is_nearer(self.direction, self.ts_ms, ts_ms, self.nearest_here)
    }
}

/// Asks the servers of a room whose history is not all here for the event nearest to a time, and makes it part of the
/// room. Whether there is a new one.
///
/// <https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1timestamp_to_eventroomid>
pub async fn fetch(server: &Arc<Server>, wanted: Wanted) -> Result<bool> {
    let server = Arc::clone(server);
    let fetching = Server::detached(async move {
        let find = move |server: &Server| {
            let snapshot = server.store.snapshot();
            let view = View::of(&server.rooms, &snapshot, wanted.room)?;
            let has_gaps = view.is_resident()? && gaps::newest_first(&view).next().transpose()?.is_some();
            if has_gaps { Ok(remote::servers(&view, server.name())?) } else { Ok(Vec::new()) }
        };
        for asked in server.blocking(find).await?.into_iter().take(MAX_ASKED) {
            match fetch_from(&server, wanted, asked.clone()).await {
                Ok(is_new) => return Ok(is_new),
                Err(error @ Error::Internal(_)) => return Err(error),
                Err(error) => info!(server = %asked, "this server knows no event of that time: {error:?}"),
            }
        }
        Ok(false)
    });
    // Who waits no longer finds it the next time: it goes on meanwhile.
    tokio::time::timeout(PATIENCE, fetching).await.unwrap_or(Ok(false))
}

async fn fetch_from(server: &Arc<Server>, wanted: Wanted, asked: OwnedServerName) -> Result<bool> {
    let asker = Asker::open(server, wanted.room, asked).await?;
    let ts = MilliSecondsSinceUnixEpoch(UInt::new_saturating(wanted.ts_ms));
    let direction = match wanted.direction {
        Direction::Forward => api::Direction::Forward,
        Direction::Backward => api::Direction::Backward,
    };
    let ask = get_event_by_timestamp::v1::Request::new(asker.room_id.clone(), ts, direction);
    let told = request(server, &asker.asked, ask).await?;
    if !wanted.is_met_by(told.origin_server_ts.get().into()) {
        return Ok(false);
    }
    let Some(event) = asker.event(&told.event_id).await? else { return Ok(false) };
    let ts_ms = event.pdu().origin_server_ts.get().into();
    if !wanted.is_met_by(ts_ms) {
        return Ok(false);
    }
    let _turn = server.inbox.backfills.take(wanted.room).await;
    let event_id = told.event_id;
    let place = server.blocking(move |server| {
        let snapshot = server.store.snapshot();
        let view = View::of(&server.rooms, &snapshot, wanted.room)?;
        if gaps::placed(&view, &event_id)?.is_some() { Ok(None) } else { Ok(gaps::place_for(&view, ts_ms)?) }
    });
    match place.await? {
        Some(pos) => backfill::take_in(&asker, event, pos).await,
        None => Ok(false),
    }
}
