//! Whose device keys the client has to ask for again, and whose it need no longer follow.
//!
//! <https://spec.matrix.org/v1.19/client-server-api/#e2e-extensions-to-sync>

use std::collections::BTreeSet;

use ruma::OwnedUserId;

use super::{answer::Context, changes::Changes, company, json::Object, request::Request, token::Token};
use crate::{
    Server,
    error::Result,
    store::{Group, Scan, StreamPos},
    user::{
        keys::{self, tables::UserSignatureChanges},
        session::Caller,
        tables::KeyChanges,
    },
};

/// The users of both lists.
#[derive(Debug, Default)]
pub struct DeviceLists {
    pub changed: BTreeSet<OwnedUserId>,
    pub left: BTreeSet<OwnedUserId>,
}

impl DeviceLists {
    /// For `/keys/changes`: all since the moment of `from`, a token of the user's. The last change of each user is all
    /// that is kept, so changes after the end that the client names are in it too; it will only ask once too often.
    pub fn since(server: &Server, caller: Caller, from: Token) -> Result<Self> {
        let snapshot = server.store.snapshot();
        let request = Request::new(caller.user_id, caller.device_id, Some(from));
        let mut context = Context::open(server, &snapshot, &request)?;
        context.tells_partial = true;
        Self::read(&context, &Changes::find(&context)?)
    }

    fn read(context: &Context<'_>, changes: &Changes) -> Result<Self> {
        // A token from a future that was lost, with a restored backup: all may have changed.
        let lost = || context.request.since.map(|_| StreamPos::default());
        let Some(since) = context.since.or_else(lost) else { return Ok(Self::default()) };
        let met = company::met(context, &changes.joined)?;
        let parted = company::parted(context, changes)?;
        let mut changed = company::sharing(context, changes, &key_changes(context, since)?)?;
        if context.may_have_changed::<UserSignatureChanges>(Group::of(context.user_id()), since) {
            changed.extend(keys::users_signed(context.snapshot, context.user_id(), since, context.now)?);
        }
        changed.extend(met);
        let still_there = company::sharing(context, changes, &parted)?;
        let left = parted.difference(&still_there).cloned().collect();
        Ok(Self { changed, left })
    }
}

/// Writes both lists; `false` if they are empty, or it is an initial sync.
pub fn write(context: &Context<'_>, changes: &Changes, out: &mut Vec<u8>) -> Result<bool> {
    let DeviceLists { changed, left } = DeviceLists::read(context, changes)?;
    let mut object = Object::begin(out);
    if !changed.is_empty() {
        object.member("changed", &changed);
    }
    if !left.is_empty() {
        object.member("left", &left);
    }
    let has_news = !object.is_empty();
    object.end();
    Ok(has_news)
}

/// The users whose keys changed, wherever they are.
fn key_changes(context: &Context<'_>, since: StreamPos) -> Result<BTreeSet<OwnedUserId>> {
    if !context.may_have_changed::<KeyChanges>(Group::of(()), since) {
        return Ok(BTreeSet::new());
    }
    let rows = context.snapshot.scan::<KeyChanges>(Scan::from::<KeyChanges>(&since.next(), &()));
    rows.map(|row| Ok(row?.key()?.1.to_owned())).collect()
}
