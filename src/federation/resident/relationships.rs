//! Trees of replies, for other servers.
//!
//! <https://github.com/matrix-org/matrix-spec-proposals/pull/2836>

use std::sync::Arc;

use ruma::OwnedServerName;
use serde_json::json;

use super::{
    answer::{self, Output, Pieces},
    may_enter,
};
use crate::{
    Server,
    error::{Error, Result},
    event::StoredEvent,
    room::{
        View,
        read::Found,
        relationships::{
            told::Summary,
            walk::{self, MAX_LIMIT, Missing, Page, Query, Step, Viewer, Walk, WalkOrMissing},
        },
        state::auth_chain::{self, EventSet},
        tables::EventIds,
        visibility::is_shared_since,
        visibility_of_server::ServerSight,
    },
    store::EventNid,
};

/// The events around one in its tree of replies, as far as they are here, with what allows them. There are no further
/// pages: who wants more asks about another event.
///
/// Errors: `M_NOT_FOUND`, whether there is no such event or the server may not see it; `M_INVALID_PARAM`.
pub async fn tree(server: &Arc<Server>, origin: OwnedServerName, query: Query) -> Result<Pieces> {
    if !query.batch.is_empty() {
        return Err(Error::invalid_param("This `batch` was not given out here"));
    }
    if query.limit == 0 {
        return Err(Error::invalid_param("`limit` must be greater than zero"));
    }
    answer::stream(server, &origin.clone(), move |server, snapshot, out| {
        let unknown = || Error::not_found("There is no such event here");
        let place = snapshot.get::<EventIds>(&&*query.event_id)?.ok_or_else(unknown)?;
        let view = View::of(&server.rooms, snapshot, place.room)?;
        if !may_enter(&view, &origin)? {
            return Err(unknown());
        }
        let viewer = ServerViewer { sight: ServerSight::of(&view, &origin) };
        if !viewer.may_see(place.event, &view.event(place.event)?)? {
            return Err(unknown());
        }
        viewer.write(find(&viewer, query, place.event)?, out)
    })
    .await
}

fn find(viewer: &ServerViewer<'_, '_>, query: Query, start: EventNid) -> Result<Page> {
    let limit = usize::try_from(query.limit.min(MAX_LIMIT)).unwrap_or(usize::MAX);
    let missing = || Error::internal("something is missing where nothing is asked for");
    let WalkOrMissing::Walk(walk) = Walk::begin(viewer, query, start, Missing::All)? else { return Err(missing()) };
    match walk::page(viewer, *walk, limit, Missing::All)? {
        Step::Page(page) => Ok(page),
        Step::Missing(_) => Err(missing()),
    }
}

struct ServerViewer<'v, 's> {
    sight: ServerSight<'v, 's>,
}

impl ServerViewer<'_, '_> {
    fn write(&self, page: Page, out: &mut Output<'_>) -> Result<()> {
        let view = self.sight.view;
        let mut chain = [EventSet::default()];
        for ((nid, _), _) in &page.events {
            for id in &view.pdu(*nid)?.auth_events {
                let auth_event = view.event_nid(id)?;
                chain[0].insert(auth_event.ok_or_else(|| Error::internal(format!("the auth event {id} is missing")))?);
            }
        }
        auth_chain::extend(view, &mut chain)?;
        out.put(br#"{"auth_chain":"#)?;
        out.events(view, &chain[0].iter().collect::<Vec<_>>(), |event| Ok(self.sight.whole(event)))?;
        out.put(br#","events":"#)?;
        out.array(page.events, |out, (found, summary)| {
            out.extend(self.show(&found, &summary)?);
            Ok(())
        })?;
        out.put(json!({ "limited": page.is_limited }).to_string().replacen('{', ",", 1).as_bytes())
    }

    fn show(&self, (_, event): &Found, summary: &Summary) -> Result<Vec<u8>> {
        let mut json = self.sight.whole(event);
        let unsigned = serde_json::Map::from_iter(summary.fields().map(|(key, value)| (key.to_owned(), value)));
        json.pop(); // the brace at the end
        json.extend(br#","unsigned":"#);
        serde_json::to_writer(&mut json, &unsigned).map_err(Error::internal)?;
        json.push(b'}');
        Ok(json)
    }
}

impl Viewer for ServerViewer<'_, '_> {
    fn view(&self) -> &View<'_> {
        self.sight.view
    }

    fn may_see(&self, _: EventNid, event: &StoredEvent) -> Result<bool> {
        let has_place = !event.flags.rejected && !event.flags.soft_failed && !event.flags.outlier;
        Ok(has_place && !self.sight.view.has_expired(event)? && self.sight.sees_whole(event)?)
    }

    fn may_hear_of(&self, event: &StoredEvent) -> Result<bool> {
        is_shared_since(self.sight.view, event.depth)
    }
}
