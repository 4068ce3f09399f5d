//! What users say of themselves.
//!
//! <https://spec.matrix.org/v1.19/client-server-api/#profiles>

use std::sync::Arc;

use ruma::{OwnedUserId, UserId, api::error::ErrorKind, profile::ProfileFieldName};
use serde_json::{Map, Value};

use super::{account, directory, moderation, presence};
use crate::{
    Server,
    error::{Error, Result},
    federation::query,
    room::member_profile,
    store::{self, Family, Group, Json, Scan, Snapshot, StreamPos, Table, TableInfo, Transaction},
};

/// The profiles of our users, a row for each field.
pub struct Profiles;
impl Table for Profiles {
    const NAME: &'static str = "profiles";
    const FAMILY: Family = Family::User;
    const ID: u8 = 10;
    /// `displayname`, `avatar_url`, `m.tz`, or another field.
    type Key<'a> = (&'a UserId, &'a str);
    type Value = Json;
}

/// In which order fields changed: one row for each field that did since this was kept, removed ones included.
pub struct ProfileChanges;
impl Table for ProfileChanges {
    const NAME: &'static str = "profile_changes";
    const FAMILY: Family = Family::Queue;
    const ID: u8 = 222;
    type Key<'a> = (StreamPos, &'a UserId, &'a str);
    type Value = ();

    fn group(_: &Self::Key<'_>) -> Option<Group> {
        Some(Group::of(()))
    }
}

/// Where a field stands in [`ProfileChanges`].
pub struct LastProfileChanges;
impl Table for LastProfileChanges {
    const NAME: &'static str = "last_profile_changes";
    const FAMILY: Family = Family::User;
    const ID: u8 = 223;
    type Key<'a> = (&'a UserId, &'a str);
    type Value = StreamPos;
}

pub const CHANGES: [TableInfo; 2] = [TableInfo::of::<ProfileChanges>(), TableInfo::of::<LastProfileChanges>()];

/// How many removed fields of a profile are remembered, so that clients hear of it: the first is forgotten then. Source: our
/// choice.
const MAX_REMOVED: usize = 100;

pub const DISPLAY_NAME: &str = "displayname";
pub const AVATAR_URL: &str = "avatar_url";
const TIME_ZONE: &str = "m.tz";

/// Longest name of a field, and largest profile as JSON. Source: the specification.
const MAX_FIELD_BYTES: usize = 255;
const MAX_PROFILE_BYTES: usize = 64 << 10;

/// Longest texts of the fields that are copied into member events. Source: our choice, as Synapse has it.
const MAX_DISPLAY_NAME_CHARS: usize = 256;
const MAX_AVATAR_URL_CHARS: usize = 1_000;

/// One field of a profile; `None` if it is not set, or if we do not know the user.
pub fn get(snapshot: &Snapshot<'_>, user: &UserId, field: &str) -> store::Result<Option<Json>> {
    snapshot.get::<Profiles>(&(user, field))
}

/// All fields of a profile.
pub fn list(snapshot: &Snapshot<'_>, user: &UserId) -> Result<Map<String, Value>> {
    let rows = snapshot.list::<Profiles>(&user);
    rows.map(|row| {
        let row = row?;
        Ok((row.key()?.1.to_owned(), row.value.parse().map_err(Error::internal)?))
    })
    .collect()
}

/// The fields of our users that changed after `after`, in that order.
pub fn changed_after(
    snapshot: &Snapshot<'_>,
    after: StreamPos,
) -> impl Iterator<Item = store::Result<(OwnedUserId, String)>> {
    let rows = snapshot.scan::<ProfileChanges>(Scan::from::<ProfileChanges>(&after.next(), &()));
    rows.map(|row| row.and_then(|row| row.key().map(|(_, user, field)| (user.to_owned(), field.to_owned()))))
}

/// Notes that a field changes, in the transaction that changes it.
fn note_change(tx: &mut Transaction<'_>, user: &UserId, field: &str) -> store::Result<()> {
    if let Some(last) = tx.get::<LastProfileChanges>(&(user, field))? {
        tx.delete::<ProfileChanges>(&(last, user, field));
    }
    let pos = tx.pos();
    tx.put::<ProfileChanges>(&(pos, user, field), &());
    tx.put::<LastProfileChanges>(&(user, field), &pos);
    Ok(())
}

/// Forgets the first of the removed fields, where they are many.
fn forget_removed(tx: &mut Transaction<'_>, user: &UserId) -> store::Result<()> {
    let mut removed = Vec::new();
    for row in tx.before().list::<LastProfileChanges>(&user) {
        let row = row?;
        let field = row.key()?.1;
        if !tx.before().contains::<Profiles>(&(user, field))? {
            removed.push((row.value, field.to_owned()));
        }
    }
    if removed.len() >= MAX_REMOVED
        && let Some((pos, field)) = removed.into_iter().min()
    {
        tx.delete::<ProfileChanges>(&(pos, user, &field));
        tx.delete::<LastProfileChanges>(&(user, &field));
    }
    Ok(())
}

/// Removes all that is kept of a user's profile.
pub(super) fn delete_user(tx: &mut Transaction<'_>, user: &UserId) -> store::Result<()> {
    let mut changes = Vec::new();
    for row in tx.before().list::<LastProfileChanges>(&user) {
        let row = row?;
        changes.push((row.value, row.key()?.1.to_owned()));
    }
    for (pos, field) in changes {
        tx.delete::<ProfileChanges>(&(pos, user, &field));
    }
    tx.delete_all::<LastProfileChanges>(&user);
    tx.delete_all::<Profiles>(&user);
    Ok(())
}

/// The profile of one of our users. Error: `M_NOT_FOUND`.
pub async fn of_ours(server: &Arc<Server>, user: &UserId) -> Result<Map<String, Value>> {
    let user = user.to_owned();
    let find = move |snapshot: &Snapshot<'_>| {
        if account::get(snapshot, &user)?.is_none_or(|account| !account.is_active()) {
            return Err(Error::not_found("There is no such user"));
        }
        list(snapshot, &user)
    };
    server.read(find).await
}

/// The profile of any user, or only one field of it: that of another server's user is asked for now.
pub async fn of_any(
    server: &Arc<Server>,
    user: &UserId,
    field: Option<ProfileFieldName>,
) -> Result<Map<String, Value>> {
    if server.is_ours(user) { of_ours(server, user).await } else { query::profile(server, user, field).await }
}

/// Sets a field of a user's profile. A new display name or avatar is in the member events of all his rooms when this
/// returns; an empty one is removed.
///
/// Errors: `M_INVALID_PARAM`, `M_KEY_TOO_LARGE`, `M_BAD_JSON`, `M_PROFILE_TOO_LARGE`.
pub async fn set(server: &Arc<Server>, user: &UserId, field: &str, value: Value) -> Result<()> {
    check_field(field)?;
    check_value(field, &value)?;
    moderation::check_not_suspended(&server.store.snapshot(), user)?;
    if is_in_member_events(field) && value == "" {
        return delete(server, user, field).await;
    }
    let (owner, name) = (user.to_owned(), field.to_owned());
    let put = move |tx: &mut store::Transaction<'_>| {
        let mut profile = list(tx.before(), &owner)?;
        let json = Json::of(&value);
        profile.insert(name.clone(), value);
        if serde_json::to_vec(&profile).map_err(Error::internal)?.len() > MAX_PROFILE_BYTES {
            let message = format!("A profile is at most {MAX_PROFILE_BYTES} bytes large");
            return Err(Error::refused(ErrorKind::ProfileTooLarge, message));
        }
        if is_in_member_events(&name) {
            directory::update(tx, &owner, &name, json.parse::<String>().ok().as_deref())?;
        }
        tx.put::<Profiles>(&(&owner, &name), &json);
        note_change(tx, &owner, &name)?;
        Ok(())
    };
    change(server, user, field, put).await
}

/// Removes a field of a user's profile, if it is there.
pub async fn delete(server: &Arc<Server>, user: &UserId, field: &str) -> Result<()> {
    check_field(field)?;
    moderation::check_not_suspended(&server.store.snapshot(), user)?;
    let (owner, name) = (user.to_owned(), field.to_owned());
    change(server, user, field, move |tx| {
        if is_in_member_events(&name) {
            directory::update(tx, &owner, &name, None)?;
        }
        if tx.before().contains::<Profiles>(&(&owner, &name))? {
            forget_removed(tx, &owner)?;
            note_change(tx, &owner, &name)?;
            tx.delete::<Profiles>(&(&owner, &name));
        }
        Ok(())
    })
    .await
}

/// Writes a change of a field and tells the user's rooms of it, even if the client hangs up: nobody else would.
async fn change(
    server: &Arc<Server>,
    user: &UserId,
    field: &str,
    write: impl FnOnce(&mut Transaction<'_>) -> Result<()> + Send + 'static,
) -> Result<()> {
    let (server, user) = (Arc::clone(server), user.to_owned());
    let is_shown = is_in_member_events(field);
    Server::detached(async move {
        server.store.commit(write).await?;
        server.wakers.room_mates(&server, &user);
        if is_shown {
            presence::profile_changed(&server, &user);
            member_profile::propagate(&server, &user).await?;
        }
        Ok(())
    })
    .await
}

fn is_in_member_events(field: &str) -> bool {
    matches!(field, DISPLAY_NAME | AVATAR_URL)
}

/// Whether the value of a field has to be a text: all others may have any value.
pub fn is_text(field: &str) -> bool {
    matches!(field, DISPLAY_NAME | AVATAR_URL | TIME_ZONE)
}

/// <https://spec.matrix.org/v1.19/appendices/#common-namespaced-identifier-grammar>
fn check_field(field: &str) -> Result<()> {
    if field.len() > MAX_FIELD_BYTES {
        let message = format!("The name of a profile field is at most {MAX_FIELD_BYTES} bytes long");
        return Err(Error::refused(ErrorKind::KeyTooLarge, message));
    }
    let is_allowed = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.');
    if !field.starts_with(|first: char| first.is_ascii_lowercase()) || !field.bytes().all(is_allowed) {
        return Err(Error::invalid_param("Invalid profile key"));
    }
    Ok(())
}

fn check_value(field: &str, value: &Value) -> Result<()> {
    let max_chars = match field {
        DISPLAY_NAME => MAX_DISPLAY_NAME_CHARS,
        AVATAR_URL => MAX_AVATAR_URL_CHARS,
        TIME_ZONE => MAX_FIELD_BYTES,
        _ => return Ok(()),
    };
    let text = value.as_str().ok_or_else(|| Error::bad_json(format!("{field} must be a string")))?;
    if text.chars().count() > max_chars {
        return Err(Error::invalid_param(format!("{field} is longer than {max_chars} characters")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn field_names_are_of_the_common_grammar() {
        for good in ["displayname", "avatar_url", "m.tz", "org.example.job-title", "a", &"a".repeat(255)] {
            check_field(good).unwrap();
        }
        for bad in ["", "Displayname", "1a", ".a", "_a", "a b", "a/b", "é", "a\0", &"a".repeat(256)] {
            check_field(bad).unwrap_err();
        }
    }

    #[test]
    fn the_fields_of_the_specification_are_texts() {
        for field in [DISPLAY_NAME, AVATAR_URL, TIME_ZONE] {
            check_value(field, &json!("text")).unwrap();
            for bad in [json!(null), json!(1), json!({}), json!("x".repeat(1_001))] {
                check_value(field, &bad).unwrap_err();
            }
        }
        check_value("org.example.any", &json!(null)).unwrap();
    }
}
