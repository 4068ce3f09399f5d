//! Making an event of another server part of a room, with all that is missing before it: its auth events, the events
//! between it and what we know, or the state there.
//!
//! <https://spec.matrix.org/v1.19/server-server-api/#backfilling-and-retrieving-missing-events>

use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream};
use ruma::{
    EventId, OwnedEventId, OwnedRoomId, OwnedServerName, UInt,
    api::{
        IncomingResponseExt, OutgoingRequest,
        error::Error as MatrixError,
        federation::{
            authentication::ServerSignatures,
            authorization::get_event_authorization,
            event::{get_event, get_missing_events, get_room_state, get_room_state_ids},
        },
        path_builder::SinglePath,
    },
    room_version_rules::RoomVersionRules,
};
use tracing::{debug, info};

use super::{backfill, events, policy_server, request::ordinary, request_within};
use crate::{
    Server,
    error::{Error, Result},
    event::Verified,
    outgoing::Limits,
    room::{
        View,
        append::{self, Incoming},
        gaps, outliers,
        policy_server::{self as policy, PolicyServer},
    },
    store::RoomNid,
};

/// How many events between one that came and what we know are asked for.
const MAX_MISSING: u32 = 50;

/// How many events are fetched one by one; where more are missing, the whole state is asked for.
const MAX_SINGLE: usize = 50;

/// How many auth events are fetched one by one for one event.
const MAX_AUTH: usize = 100;

/// How many requests for single events are under way at a time.
const AT_A_TIME: usize = 5;

/// The largest state that is believed to be one, in events, auth chain included.
const MAX_STATE: usize = 200_000;

/// How long the events of one server may keep their room waiting for what is missing before them, all of those together
/// that the room has to work on without a pause.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// A room, and who is asked about it.
pub struct Asker {
    pub server: Arc<Server>,
    pub room: RoomNid,
    pub room_id: OwnedRoomId,
    pub rules: &'static RoomVersionRules,
    pub asked: OwnedServerName,
    /// Of one request.
    pub limits: Limits,
}

/// A state that another server told.
pub struct Told {
    /// Its events, which are all known now.
    pub events: Vec<OwnedEventId>,
    /// How many more it has, which can't be had.
    pub missing: usize,
}

/// What we lack of what an event names, and of what the room wants of it.
struct Lacking {
    is_known: bool,
    /// It is old state that was told with something later.
    is_behind: bool,
    auth: Vec<OwnedEventId>,
    prev: Vec<OwnedEventId>,
    /// Whose signature it should have and has not.
    signature: Option<PolicyServer>,
}

/// Makes `event`, which the server that is asked sent, part of the room; `false` if it has to wait for its turn to ask, and did
/// so for `turn`. What is waited for after that is taken from `patience`. `Err` that is not internal: it could not be, because
/// what is missing before it can't be had.
pub async fn receive(asker: &Asker, event: Verified, turn: Duration, patience: &mut Duration) -> Result<bool> {
    let lacking = asker.lacking(&event).await?;
    if lacking.is_behind {
        // At the end of the room it would count again as the state of another branch, whoever sends it.
        if !event.pdu().prev_events.is_empty() && lacking.prev.is_empty() {
            backfill::put_aside(asker, vec![event]).await?;
        }
        return Ok(true);
    }
    if lacking.is_known || lacking.prev.is_empty() && lacking.auth.is_empty() {
        asker.take_in_next(event, lacking).await?;
        return Ok(true);
    }
    let late = || Error::not_found("What is missing before the event did not come in time");
    if patience.is_zero() {
        return Err(late());
    }
    let inbox = &asker.server.inbox;
    let turn = tokio::time::timeout(turn, async {
        (inbox.asked.take(asker.asked.clone()).await, inbox.asking.acquire().await)
    });
    let Ok(_turn) = turn.await else { return Ok(false) };
    let started = Instant::now();
    let done = tokio::time::timeout(*patience, asker.take_in(event)).await;
    *patience = patience.saturating_sub(started.elapsed());
    done.unwrap_or_else(|_| Err(late())).map(|()| true)
}

impl Asker {
    pub async fn open(server: &Arc<Server>, room: RoomNid, asked: OwnedServerName) -> Result<Self> {
        let (room_id, rules) = server
            .blocking(move |server| {
                let snapshot = server.store.snapshot();
                let view = View::of(&server.rooms, &snapshot, room)?;
                Ok((view.room_id().to_owned(), view.rules))
            })
            .await?;
        Ok(Self::new(server, room, room_id, rules, asked))
    }

    /// As [`Self::open`], of a room whose id and rules are at hand.
    pub fn new(
        server: &Arc<Server>,
        room: RoomNid,
        room_id: OwnedRoomId,
        rules: &'static RoomVersionRules,
        asked: OwnedServerName,
    ) -> Self {
        Self { server: Arc::clone(server), room, room_id, rules, asked, limits: ordinary(server) }
    }

    async fn request<R>(&self, request: R) -> Result<R::IncomingResponse>
    where
        R: OutgoingRequest<
                Authentication = ServerSignatures,
                PathBuilder = SinglePath,
                EndpointError = MatrixError,
                IncomingResponse: IncomingResponseExt<EndpointError = MatrixError>,
            >,
    {
        request_within(&self.server, &self.asked, request, self.limits).await
    }

    async fn view<R: Send + 'static>(&self, work: impl FnOnce(&View<'_>) -> Result<R> + Send + 'static) -> Result<R> {
        let room = self.room;
        self.server
            .blocking(move |server| {
                let snapshot = server.store.snapshot();
                work(&View::of(&server.rooms, &snapshot, room)?)
            })
            .await
    }

    async fn take_in(&self, event: Verified) -> Result<()> {
        let mut lacking = self.lacking(&event).await?;
        if !lacking.is_known && !lacking.prev.is_empty() {
            let earlier = self.missing_events(&event).await?;
            // Those of the earlier events come with them.
            for earlier in backfill::put_aside(self, earlier).await? {
                let (id, lacking) = (earlier.pdu().event_id.clone(), self.lacking(&earlier).await?);
                if let Err(error) = self.take_in_next(earlier, lacking).await {
                    if matches!(error, Error::Internal(_)) {
                        return Err(error);
                    }
                    debug!(%id, "an earlier event can't be part of the room: {error:?}");
                }
            }
            // Whoever sends an event and keeps back what was before it could else say what the room is like there. An
            // earlier event does no such harm: what it follows on is resolved together with the room as we know it.
            lacking = self.lacking(&event).await?;
            if let Some(missing) = lacking.prev.first() {
                return Err(Error::not_found(format!("Its previous event {missing} can't be had")));
            }
        }
        self.take_in_next(event, lacking).await
    }

    /// Makes an event part of the room. The state after those of its previous events that are not there is asked for.
    async fn take_in_next(&self, mut event: Verified, lacking: Lacking) -> Result<()> {
        if lacking.is_known || lacking.is_behind {
            return Ok(());
        }
        let mut given = Vec::with_capacity(lacking.prev.len());
        let mut is_incomplete = false;
        for missing in &lacking.prev {
            let told = self.state_after(missing).await?;
            is_incomplete |= told.missing > 0;
            given.push(told.events.into());
        }
        if !lacking.auth.is_empty() {
            self.complete_auth_events(&event).await?;
        }
        if let Some(asked) = &lacking.signature {
            event = policy_server::sign_if_it_will(&self.server, self.rules, event, asked).await?;
        }
        let incoming = Incoming { given, is_incomplete, ..Incoming::live(event) };
        let _permit = self.server.inbox.permits.acquire().await;
        append::take_in(&self.server, self.room, vec![incoming]).await?;
        Ok(())
    }

    async fn lacking(&self, event: &Verified) -> Result<Lacking> {
        let event = event.clone();
        self.view(move |view| {
            let pdu = event.pdu();
            let known = gaps::known(view, &pdu.event_id)?;
            let mut lacking = Lacking {
                is_known: known.as_ref().is_some_and(|(_, known)| !known.flags.outlier),
                is_behind: match &known {
                    Some((nid, known)) => gaps::is_behind(view, *nid, known)?,
                    None => false,
                },
                auth: Vec::new(),
                prev: Vec::new(),
                signature: policy::lacking(view, &event)?,
            };
            for id in &pdu.auth_events {
                if outliers::is_in_auth_graph(view, id)? {
                    continue;
                }
                // What names an event of another room is rejected, and what follows on it may be fine.
                let is_elsewhere = view.is_elsewhere(id)? && !view.takes_id_away(id)?;
                if !is_elsewhere {
                    lacking.auth.push(id.clone());
                }
            }
            for id in &pdu.prev_events {
                if gaps::placed(view, id)?.is_none() {
                    lacking.prev.push(id.clone());
                }
            }
            Ok(lacking)
        })
        .await
    }

    /// The events between the room's ends and `event`, each after those before it.
    async fn missing_events(&self, event: &Verified) -> Result<Vec<Verified>> {
        let ends = self.view(|view| {
            Ok(view
                .forward_extremities()
                .iter()
                .map(|&end| view.event_id(end))
                .collect::<crate::store::Result<Vec<_>>>()?)
        });
        let latest = vec![event.pdu().event_id.clone()];
        let mut ask = get_missing_events::v1::Request::new(self.room_id.clone(), ends.await?, latest);
        ask.limit = UInt::from(MAX_MISSING);
        let mut answer = match self.request(ask).await {
            Ok(answer) => answer.events,
            Err(error @ Error::Internal(_)) => return Err(error),
            Err(error) => {
                info!(room_id = %self.room_id, server = %self.asked, "missing events are not told: {error:?}");
                return Ok(Vec::new());
            }
        };
        answer.truncate(MAX_MISSING as usize);
        let events = events::check(&self.server, self.rules, &self.room_id, answer).await?;
        Ok(outliers::in_order(events, |pdu| &pdu.prev_events))
    }

    /// Fetches what is missing of the auth events of `event`, and of theirs.
    pub async fn complete_auth_events(&self, event: &Verified) -> Result<()> {
        if self.lacking(event).await?.auth.is_empty() {
            return Ok(());
        }
        let ask = get_event_authorization::v1::Request::new(self.room_id.clone(), event.pdu().event_id.clone());
        match self.request(ask).await {
            Ok(answer) => {
                let chain = events::check(&self.server, self.rules, &self.room_id, answer.auth_chain).await?;
                outliers::store(&self.server, self.room, chain).await?;
            }
            Err(error @ Error::Internal(_)) => return Err(error),
            Err(error) => debug!(server = %self.asked, "an auth chain is not told: {error:?}"),
        }
        self.fetch_auth_events(event).await?;
        match self.lacking(event).await?.auth.first() {
            None => Ok(()),
            Some(missing) => Err(Error::not_found(format!("The auth event {missing} can't be had"))),
        }
    }

    /// Fetches the missing auth events of `event` one by one, and theirs.
    async fn fetch_auth_events(&self, event: &Verified) -> Result<()> {
        let mut wanted: VecDeque<OwnedEventId> = self.lacking(event).await?.auth.into();
        let mut asked: HashSet<OwnedEventId> = wanted.iter().cloned().collect();
        let mut fetched = Vec::new();
        while let Some(id) = wanted.pop_front() {
            let Some(found) = self.event(&id).await? else { continue };
            for id in self.lacking(&found).await?.auth {
                if asked.len() < MAX_AUTH && asked.insert(id.clone()) {
                    wanted.push_back(id);
                }
            }
            fetched.push(found);
        }
        outliers::store(&self.server, self.room, fetched).await
    }

    /// One event of the room, with the right signatures; `None` if it can't be had.
    pub async fn event(&self, id: &EventId) -> Result<Option<Verified>> {
        let answer = match self.request(get_event::v1::Request::new(id.to_owned())).await {
            Ok(answer) => answer.pdu,
            Err(error @ Error::Internal(_)) => return Err(error),
            Err(error) => {
                debug!(%id, server = %self.asked, "an event can't be fetched: {error:?}");
                return Ok(None);
            }
        };
        let checked = events::check(&self.server, self.rules, &self.room_id, vec![answer]).await?;
        Ok(checked.into_iter().find(|event| event.pdu().event_id == *id))
    }

    /// The events of the state after `event`, which we do not have, as far as they can be had.
    pub async fn state_after(&self, event: &EventId) -> Result<Told> {
        let mut state = self.told_before(event, true).await?;
        let id = event.to_owned();
        // Later entries of the same key count more than earlier ones.
        let after = self.view(move |view| Ok(view.event_nid(&id)?.map(|_| id))).await?;
        state.missing += usize::from(after.is_none());
        state.events.extend(after);
        Ok(state)
    }

    /// The events of the state before `event`, and `event` itself if that is wanted, as outliers.
    pub async fn told_before(&self, event: &EventId, with_event: bool) -> Result<Told> {
        let ask = get_room_state_ids::v1::Request::new(event.to_owned(), self.room_id.clone());
        let told = self.request(ask).await?;
        if told.pdu_ids.len() + told.auth_chain_ids.len() > MAX_STATE {
            return Err(Error::too_large("That is no state of a room"));
        }
        let mut wanted = told.pdu_ids.clone();
        wanted.extend(told.auth_chain_ids);
        wanted.extend(with_event.then(|| event.to_owned()));
        let unknown = self.unknown(wanted).await?;
        let mut fetched = Vec::new();
        if unknown.len() > MAX_SINGLE {
            let ask = get_room_state::v1::Request::new(event.to_owned(), self.room_id.clone());
            let answer = self.request(ask).await?;
            let all = answer.pdus.into_iter().chain(answer.auth_chain).collect();
            fetched = events::check(&self.server, self.rules, &self.room_id, all).await?;
            if unknown.iter().any(|id| id == event) {
                fetched.extend(self.event(event).await?);
            }
        } else {
            let ask = |id: OwnedEventId| async move { self.event(&id).await };
            let mut answers = stream::iter(unknown).map(ask).buffer_unordered(AT_A_TIME);
            while let Some(answer) = answers.next().await {
                fetched.extend(answer?);
            }
        }
        outliers::store(&self.server, self.room, fetched).await?;
        let unknown: HashSet<OwnedEventId> = self.unknown(told.pdu_ids.clone()).await?.into_iter().collect();
        if !unknown.is_empty() {
            info!(room_id = %self.room_id, missing = unknown.len(), "parts of a state can't be had");
        }
        let events = told.pdu_ids.into_iter().filter(|id| !unknown.contains(id)).collect();
        Ok(Told { events, missing: unknown.len() })
    }

    async fn unknown(&self, ids: Vec<OwnedEventId>) -> Result<Vec<OwnedEventId>> {
        self.view(move |view| {
            let mut unknown = Vec::new();
            let mut seen = HashSet::new();
            for id in ids {
                if seen.insert(id.clone()) && !outliers::is_in_auth_graph(view, &id)? {
                    unknown.push(id);
                }
            }
            Ok(unknown)
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use ruma::server_name;
    use serde_json::json;

    use super::*;
    use crate::room::testing::TestRoom;

    #[test]
    fn who_gets_no_turn_to_ask_is_told_so_and_loses_no_patience() {
        let room = TestRoom::new();
        let inbox = &room.server.inbox;
        room.block_on(async {
            let asker = Asker::open(&room.server, room.nid, server_name!("b.test").to_owned()).await.unwrap();
            let event = json!({
                "type": "m.room.message", "room_id": asker.room_id, "sender": "@bob:b.test", "origin_server_ts": 1,
                "content": {}, "depth": 5, "prev_events": ["$not_there"], "auth_events": [],
            });
            let event = Verified::kept(event.to_string().as_bytes(), asker.rules).unwrap();
            let all = u32::try_from(inbox.asking.available_permits()).unwrap();
            let _held = inbox.asking.acquire_many(all).await.unwrap();
            let mut patience = PATIENCE;
            let received = receive(&asker, event, Duration::from_millis(50), &mut patience);
            let received = tokio::time::timeout(Duration::from_secs(20), received).await;
            assert!(!received.expect("it waits no longer than it may").unwrap());
            assert_eq!(patience, PATIENCE);
        });
    }
}
