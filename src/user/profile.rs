//! What users say of themselves.

use ruma::UserId;

use crate::store::{Family, Json, Result, Snapshot, Table};

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

/// One field of a profile; `None` if it is not set, or if we do not know the user.
pub fn get(snapshot: &Snapshot<'_>, user: &UserId, field: &str) -> Result<Option<Json>> {
    snapshot.get::<Profiles>(&(user, field))
}
