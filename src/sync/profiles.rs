//! What users say of themselves, for clients that want to hear of its changes. Only of users of this server: of others
//! nobody tells us.
//!
//! <https://github.com/matrix-org/matrix-spec-proposals/pull/4262>,
//! <https://github.com/matrix-org/matrix-spec-proposals/pull/4429>

use std::collections::{BTreeMap, BTreeSet};

use ruma::{OwnedUserId, UserId};

use super::{
    answer::Context,
    changes::{Changes, Room},
    company,
    json::Object,
};
use crate::{
    error::Result,
    room::View,
    store::{Group, Json, StreamPos},
    user::profile::{self, ProfileChanges, Profiles},
};

/// The name of this part of `/sync` while it is a proposal, MSC4429.
pub const USERS: &str = "org.matrix.msc4429.users";

/// The fields that a client wants; `None` for all.
pub type Wanted<'a> = Option<&'a [String]>;

/// What there is to tell.
#[derive(Default)]
pub struct News {
    /// Of each user, the fields, and their values where they were not removed.
    pub users: BTreeMap<OwnedUserId, BTreeMap<String, Option<Json>>>,
    /// Who shares no room with the user any more.
    pub left: BTreeSet<OwnedUserId>,
    /// Of whom all fields are among `users` that are wanted.
    whole: BTreeSet<OwnedUserId>,
}

impl News {
    pub fn is_empty(&self) -> bool {
        self.users.is_empty() && self.left.is_empty()
    }

    /// What changed since the client's token, and who parted from the user since.
    pub fn since(context: &Context<'_>, since: StreamPos, changes: &Changes, wanted: Wanted<'_>) -> Result<Self> {
        let mut news = Self::default();
        if context.may_have_changed::<ProfileChanges>(Group::of(()), since) {
            let mut changed: BTreeMap<OwnedUserId, BTreeSet<String>> = BTreeMap::new();
            for change in profile::changed_after(context.snapshot, since) {
                let (user, field) = change?;
                if wants(wanted, &field) {
                    changed.entry(user).or_default().insert(field);
                }
            }
            let sharing = company::sharing(context, changes, &changed.keys().cloned().collect())?;
            for (user, fields) in changed.into_iter().filter(|(user, _)| sharing.contains(user)) {
                let mut values = BTreeMap::new();
                for field in fields {
                    let value = profile::get(context.snapshot, &user, &field)?;
                    values.insert(field, value);
                }
                news.users.insert(user, values);
            }
        }
        let mut parted = company::parted(context, changes)?;
        parted.retain(|user| context.server.is_ours(user));
        let still_there = company::sharing(context, changes, &parted)?;
        news.left = parted.difference(&still_there).cloned().collect();
        Ok(news)
    }

    /// Adds what a user has said of himself.
    pub fn add(&mut self, context: &Context<'_>, user: &UserId, wanted: Wanted<'_>) -> Result<()> {
        if !self.whole.insert(user.to_owned()) {
            return Ok(()); // he is in several rooms
        }
        for row in context.snapshot.list::<Profiles>(&user) {
            let row = row?;
            let field = row.key()?.1.to_owned();
            if wants(wanted, &field) {
                self.users.entry(user.to_owned()).or_default().insert(field, Some(row.value));
            }
        }
        Ok(())
    }

    /// Adds those who came to share one of these rooms with the user since the client's token.
    pub fn add_met<'r>(
        &mut self,
        context: &Context<'_>,
        joined: impl IntoIterator<Item = &'r Room>,
        wanted: Wanted<'_>,
    ) -> Result<()> {
        for user in company::met(context, joined)?.iter().filter(|user| context.server.is_ours(user)) {
            self.add(context, user, wanted)?;
        }
        Ok(())
    }

    /// Adds all members of a room.
    pub fn add_members(&mut self, context: &Context<'_>, view: &View<'_>, wanted: Wanted<'_>) -> Result<()> {
        for user in view.each_local_member() {
            self.add(context, &user?, wanted)?;
        }
        Ok(())
    }
}

fn wants(wanted: Wanted<'_>, field: &str) -> bool {
    wanted.is_none_or(|wanted| wanted.iter().any(|name| name == field))
}

/// Writes what `/sync` has to tell to a client whose filter names fields; `false` if that is nothing.
pub fn write(context: &Context<'_>, changes: &Changes, out: &mut Vec<u8>) -> Result<bool> {
    let wanted = context.request.profile_fields.as_slice();
    if wanted.is_empty() {
        return Ok(false);
    }
    let news = match context.since.filter(|_| !context.request.full_state) {
        Some(since) => {
            let mut news = News::since(context, since, changes, Some(wanted))?;
            news.add_met(context, &changes.joined, Some(wanted))?;
            news
        }
        None => {
            let mut all = News::default();
            all.add(context, context.user_id(), Some(wanted))?;
            for room in changes.all_joined() {
                all.add_members(context, &context.view(room)?, Some(wanted))?;
            }
            all
        }
    };
    let mut users = Object::begin(out);
    for (user, fields) in &news.users {
        let mut entry = Object::begin(users.key(user.as_str()));
        let mut updates = Object::begin(entry.key("profile_updates"));
        for (field, value) in fields {
            updates.raw(field, value.as_ref().map_or("null", |value| value.0.get()));
        }
        updates.end();
        entry.end();
    }
    users.end();
    Ok(!news.users.is_empty())
}

/// Writes the extension of sliding sync; `false` if there is nothing to tell.
pub fn write_extension(news: &News, out: &mut Vec<u8>) -> bool {
    let mut object = Object::begin(out);
    let mut users = Object::begin(object.key("users"));
    for (user, fields) in &news.users {
        let mut entry = Object::begin(users.key(user.as_str()));
        let (updated, removed): (Vec<_>, Vec<_>) = fields.iter().partition(|(_, value)| value.is_some());
        if !updated.is_empty() {
            let mut object = Object::begin(entry.key("updated"));
            for (field, value) in updated {
                object.raw(field, value.as_ref().map_or("null", |value| value.0.get()));
            }
            object.end();
        }
        if !removed.is_empty() {
            let names: Vec<_> = removed.into_iter().map(|(field, _)| field).collect();
            entry.member("removed", &names);
        }
        entry.end();
    }
    for user in news.left.iter().filter(|user| !news.users.contains_key(*user)) {
        users.raw(user.as_str(), "null");
    }
    users.end();
    object.end();
    !news.is_empty()
}
