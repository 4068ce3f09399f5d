//! Answers with all of a room's state, or all of its members, read in parts while the client takes them: those of a large
//! room would fill the memory if a few clients asked for them at once.

use std::{sync::Arc, vec};

use bytes::Bytes;
use futures_util::{Stream, stream};
use ruma::OwnedRoomId;

use super::{history, show::Reader, view::BATCH, visibility::not_in_room};
use crate::{
    Server,
    error::Result,
    event::StoredEvent,
    store::{EventNid, RoomPos},
    user::session::Caller,
};

/// What an answer consists of.
#[derive(Clone, Copy)]
pub struct Form {
    pub begin: &'static str,
    /// Writes one event; there are commas between them.
    pub write: fn(&Reader<'_, '_>, &mut Vec<u8>, EventNid, &StoredEvent) -> Result<()>,
    pub end: &'static str,
}

/// An answer that is not all made yet. What is in it is of the moment when it was begun, but for redactions that came since.
pub struct StateList {
    server: Arc<Server>,
    caller: Caller,
    room_id: OwnedRoomId,
    form: Form,
    /// The next piece.
    made: Option<Bytes>,
    left: vec::IntoIter<EventNid>,
}

impl StateList {
    /// An answer with the events that `select` chooses, and makes sure that the caller may read.
    ///
    /// Error: `M_FORBIDDEN` if the server does not know the room.
    pub async fn open(
        server: &Arc<Server>,
        caller: Caller,
        room_id: OwnedRoomId,
        form: Form,
        select: impl FnOnce(&Reader<'_, '_>, RoomPos) -> Result<Vec<EventNid>> + Send + 'static,
    ) -> Result<Self> {
        let made = history::read(server, caller.clone(), room_id.clone(), move |reader, newest| {
            let mut left = select(reader, newest)?.into_iter();
            let mut piece = form.begin.as_bytes().to_vec();
            write(reader, form, &mut left, &mut piece)?;
            Ok((piece.into(), left))
        });
        let (piece, left) = made.await?.ok_or_else(not_in_room)?;
        Ok(Self { server: Arc::clone(server), caller, room_id, form, made: Some(piece), left })
    }

    /// The whole answer, if it is that already.
    pub fn take_whole(&mut self) -> Option<Bytes> {
        if self.left.len() == 0 { self.made.take() } else { None }
    }

    /// The pieces of the answer. After an error it can't be finished.
    pub fn into_stream(self) -> impl Stream<Item = Result<Bytes>> + Send + 'static {
        stream::unfold(self, async |mut list| Some((list.next().await?, list)))
    }

    async fn next(&mut self) -> Option<Result<Bytes>> {
        if let Some(piece) = self.made.take() {
            return Some(Ok(piece));
        }
        if self.left.len() == 0 {
            return None;
        }
        let _turn = match self.server.long_answers.turn().await {
            Ok(turn) => turn,
            Err(error) => return Some(Err(error)),
        };
        let mut left = std::mem::take(&mut self.left);
        let form = self.form;
        let made = history::read(&self.server, self.caller.clone(), self.room_id.clone(), move |reader, _| {
            let mut piece = vec![b','];
            write(reader, form, &mut left, &mut piece)?;
            Ok((piece.into(), left))
        });
        match made.await.and_then(|made| made.ok_or_else(not_in_room)) {
            Ok((piece, left)) => {
                self.left = left;
                Some(Ok(piece))
            }
            Err(error) => Some(Err(error)),
        }
    }
}

/// Writes the next events, and the end after the last of all.
fn write(reader: &Reader<'_, '_>, form: Form, left: &mut vec::IntoIter<EventNid>, out: &mut Vec<u8>) -> Result<()> {
    let nids: Vec<EventNid> = left.take(BATCH).collect();
    for (i, (nid, event)) in std::iter::zip(&nids, reader.view().events(&nids)?).enumerate() {
        if i > 0 {
            out.push(b',');
        }
        (form.write)(reader, out, *nid, &event)?;
    }
    if left.len() == 0 {
        out.extend_from_slice(form.end.as_bytes());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use futures_util::TryStreamExt;
    use serde_json::{Value, json};

    use super::*;
    use crate::room::{
        show::Format,
        testing::{TestRoom, user},
    };

    const FORM: Form = Form {
        begin: "[",
        write: |reader, out, nid, event| reader.write(out, nid, event, Format::WithRoomId),
        end: "]",
    };

    fn names(room: &TestRoom, count: usize) -> (bool, Vec<Value>) {
        let caller = Caller::on_device(user("alice"), "DEVICE".into());
        let select = move |reader: &Reader<'_, '_>, _| {
            let state = reader.view().state(reader.view().current_state())?;
            Ok(state.into_iter().map(|(_, nid)| nid).take(count).collect())
        };
        let mut list = room.block_on(StateList::open(&room.server, caller, room.room_id(), FORM, select)).unwrap();
        let (is_whole, bytes) = match list.take_whole() {
            Some(whole) => (true, whole.to_vec()),
            None => (false, room.block_on(list.into_stream().try_collect::<Vec<_>>()).unwrap().concat()),
        };
        (is_whole, serde_json::from_slice(&bytes).unwrap())
    }

    #[test]
    fn an_answer_of_any_length_has_every_event_once() {
        let room = TestRoom::new();
        for n in 0..2 * BATCH {
            room.state("alice", "org.example.entry", &n.to_string(), &json!({}));
        }
        for (count, fits) in [(0, true), (1, true), (BATCH, true), (BATCH + 1, false), (2 * BATCH, false)] {
            let (is_whole, events) = names(&room, count);
            assert_eq!((is_whole, events.len()), (fits, count));
            let ids: std::collections::BTreeSet<_> = events.iter().map(|event| event["event_id"].as_str()).collect();
            assert_eq!(ids.len(), count);
        }
    }
}
