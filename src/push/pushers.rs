//! Where a user wants to be told of events: a pusher for each app on each of his devices. A device takes its pushers
//! with it when it is logged out.
//!
//! <https://spec.matrix.org/v1.19/client-server-api/#push-notifications>

use std::sync::Arc;

use reqwest::Url;
use ruma::{DeviceId, OwnedDeviceId, OwnedUserId, UserId};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::queue;
use crate::{
    Server,
    error::{Error, Result},
    mail,
    store::{Family, Group, Record, Snapshot, Table, Transaction, unknown_version},
    user::{account, email, session, tables::Devices},
};

/// Longest names, in bytes. Source: the specification for these two, for the others our choice.
const MAX_APP_ID: usize = 64;
const MAX_PUSHKEY: usize = 512;
const MAX_TEXT: usize = 255;
const MAX_DATA: usize = 4_096;

/// How many pushers a user may have. Source: our choice; each of his messages costs as many requests.
const MAX_PUSHERS: usize = 50;

/// The app id of all pushers that tell by e-mail.
const EMAIL_APP: &str = "m.email";

/// The only path at which a push gateway may be.
const GATEWAY_PATH: &str = "/_matrix/push/v1/notify";

pub struct Pushers;
impl Table for Pushers {
    const NAME: &'static str = "pushers";
    const FAMILY: Family = Family::User;
    const ID: u8 = 180;
    /// The user, app id, pushkey.
    type Key<'a> = (&'a UserId, &'a str, &'a str);
    type Value = Pusher;

    fn group(_: &Self::Key<'_>) -> Option<Group> {
        Some(Group::of(Self::NAME))
    }
}

/// The rows of `Pushers` by app and pushkey.
pub struct PushersByKey;
impl Table for PushersByKey {
    const NAME: &'static str = "pushers_by_key";
    const FAMILY: Family = Family::Lookup;
    const ID: u8 = 180;
    type Key<'a> = (&'a str, &'a str, &'a UserId);
    type Value = ();
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pusher {
    pub kind: Kind,
    pub app_display_name: String,
    pub device_display_name: String,
    pub profile_tag: Option<String>,
    pub lang: String,
    /// A JSON object: with `url` for a gateway, and whatever the app wants its gateway to know.
    pub data: String,
    /// Whose log-out ends it; `None` for application services.
    pub device_id: Option<OwnedDeviceId>,
    /// False while the user wants to hear nothing there (MSC3881).
    pub is_enabled: bool,
    /// When it was set last, in milliseconds since the Unix epoch.
    pub set_at_ms: u64,
    /// The app counts what is unread by itself: its gateway is told no number (MSC4076).
    pub is_badge_count_disabled: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    Http,
    Email,
}

impl Record for Pusher {
    const VERSION: u8 = 2;

    fn upgrade(version: u8, body: &[u8]) -> Result<Self, String> {
        if version != 1 {
            return Err(unknown_version(version));
        }
        // Its last field came with version 2: false is a zero.
        postcard::from_bytes(&[body, &[0]].concat()).map_err(|error| error.to_string())
    }
}

impl Pusher {
    /// `data` as JSON.
    pub fn data(&self) -> Result<Map<String, Value>> {
        serde_json::from_str(&self.data).map_err(Error::internal)
    }
}

/// What names a pusher.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PusherKey {
    pub user: OwnedUserId,
    pub app_id: String,
    pub pushkey: String,
}

impl PusherKey {
    pub fn parts(&self) -> (&UserId, &str, &str) {
        (&self.user, &self.app_id, &self.pushkey)
    }
}

/// The pushers of `user`.
pub fn list(snapshot: &Snapshot<'_>, user: &UserId) -> Result<Vec<(PusherKey, Pusher)>> {
    let mut pushers = Vec::new();
    for row in snapshot.list::<Pushers>(&user) {
        let row = row?;
        let (_, app_id, pushkey) = row.key()?;
        let key = PusherKey { user: user.to_owned(), app_id: app_id.to_owned(), pushkey: pushkey.to_owned() };
        pushers.push((key, row.value));
    }
    Ok(pushers)
}

/// Whether a pusher is to tell anything now. Who can't use his account gets nothing of it by other ways either.
pub fn may_tell(snapshot: &Snapshot<'_>, key: &PusherKey, pusher: &Pusher) -> Result<bool> {
    let is_locked = account::get(snapshot, &key.user)?.is_some_and(|account| account.is_locked);
    Ok(pusher.is_enabled && !is_locked)
}

/// Makes a pusher, or changes the one of that key. Unless `append` is set, others lose theirs of the same app and
/// pushkey: the device has a new user.
///
/// Errors: `M_INVALID_PARAM`; `M_UNKNOWN_TOKEN` and the like if the device was logged out meanwhile.
pub async fn set(server: &Arc<Server>, key: PusherKey, mut pusher: Pusher, append: bool) -> Result<()> {
    check(server, &key, &pusher)?;
    let write = move |tx: &mut Transaction<'_>| {
        // Logged out meanwhile, or the account was given up: a pusher that came now would outlive that.
        session::check_in_use(tx.before(), &key.user)?;
        if let Some(device) = &pusher.device_id {
            session::check_device_in(tx.before(), &key.user, device)?;
        }
        if !append {
            for other in owners(tx.before(), &key)?.into_iter().filter(|other| *other != key.user) {
                delete(tx, &PusherKey { user: other, ..key.clone() });
            }
        }
        let known = tx.get::<Pushers>(&key.parts())?;
        if known.is_none() && tx.before().list::<Pushers>(&&*key.user).count() >= MAX_PUSHERS {
            return Err(Error::invalid_param(format!("A user has at most {MAX_PUSHERS} pushers")));
        }
        // One device may switch the pusher of another, and does not become its owner by that (MSC3881).
        if let Some(maker) = known.and_then(|known| known.device_id)
            && tx.before().contains::<Devices>(&(&key.user, &maker))?
        {
            pusher.device_id = Some(maker);
        }
        tx.put::<Pushers>(&key.parts(), &pusher);
        tx.put::<PushersByKey>(&(&key.app_id, &key.pushkey, &key.user), &());
        Ok(())
    };
    server.store.commit(write).await
}

/// Removes a pusher, if it is there.
pub async fn remove(server: &Server, key: PusherKey) -> Result<()> {
    let write = move |tx: &mut Transaction<'_>| {
        delete(tx, &key);
        Ok(())
    };
    server.store.commit(write).await
}

/// Removes the pushers that a device made, as part of a transaction.
pub fn delete_device(tx: &mut Transaction<'_>, user: &UserId, device: &DeviceId) -> Result<()> {
    for (key, pusher) in list(tx.before(), user)? {
        if pusher.device_id.as_deref() == Some(device) {
            delete(tx, &key);
        }
    }
    Ok(())
}

/// Removes all pushers of a user, as part of a transaction.
pub fn delete_user(tx: &mut Transaction<'_>, user: &UserId) -> Result<()> {
    list(tx.before(), user)?.iter().for_each(|(key, _)| delete(tx, key));
    Ok(())
}

/// Removes the pushers that tell by letters to an address, as part of a transaction.
pub fn delete_email(tx: &mut Transaction<'_>, user: &UserId, address: &str) -> Result<()> {
    for (key, pusher) in list(tx.before(), user)? {
        if pusher.kind == Kind::Email && mail::address(&key.pushkey).as_deref() == Some(address) {
            delete(tx, &key);
        }
    }
    Ok(())
}

/// Removes a pusher and what waits for it.
pub fn delete(tx: &mut Transaction<'_>, key: &PusherKey) {
    tx.delete::<Pushers>(&key.parts());
    tx.delete::<PushersByKey>(&(&key.app_id, &key.pushkey, &key.user));
    queue::delete(tx, key);
}

/// The users who have a pusher of that app and pushkey.
fn owners(snapshot: &Snapshot<'_>, key: &PusherKey) -> Result<Vec<OwnedUserId>> {
    let rows = snapshot.list::<PushersByKey>(&(&*key.app_id, &*key.pushkey));
    rows.map(|row| row.and_then(|row| Ok(row.key()?.2.to_owned())).map_err(Error::from)).collect()
}

fn check(server: &Server, key: &PusherKey, pusher: &Pusher) -> Result<()> {
    check_text("app_id", &key.app_id, MAX_APP_ID)?;
    check_text("pushkey", &key.pushkey, MAX_PUSHKEY)?;
    check_text("app_display_name", &pusher.app_display_name, MAX_TEXT)?;
    check_text("device_display_name", &pusher.device_display_name, MAX_TEXT)?;
    check_text("lang", &pusher.lang, MAX_TEXT)?;
    check_text("profile_tag", pusher.profile_tag.as_deref().unwrap_or_default(), MAX_TEXT)?;
    check_text("data", &pusher.data, MAX_DATA)?;
    match pusher.kind {
        Kind::Http => {
            let data = pusher.data()?;
            let url = data.get("url").and_then(Value::as_str);
            let url = url.ok_or_else(|| Error::missing_param("`data.url` is missing"))?;
            gateway_url(server, url).map(drop)
        }
        Kind::Email if server.config.mail.is_none() => Err(Error::invalid_param("This server sends no e-mail")),
        Kind::Email if key.app_id != EMAIL_APP => {
            Err(Error::invalid_param(format!("The app_id of an e-mail pusher is {EMAIL_APP}")))
        }
        Kind::Email => match email::named(&server.store.snapshot(), &key.pushkey)? {
            Some(owner) if owner == key.user => Ok(()),
            _ => Err(Error::invalid_param("`pushkey` is no confirmed address of your account")),
        },
    }
}

fn check_text(name: &str, text: &str, max_bytes: usize) -> Result<()> {
    match text.len() <= max_bytes {
        true => Ok(()),
        false => Err(Error::invalid_param(format!("`{name}` has at most {max_bytes} bytes"))),
    }
}

/// The address of a push gateway, if it is one that we may call.
pub fn gateway_url(server: &Server, url: &str) -> Result<Url> {
    let url = Url::parse(url).map_err(|e| Error::invalid_param(format!("`data.url` is no URL: {e}")))?;
    let is_allowed_scheme = url.scheme() == "https" || url.scheme() == "http" && server.config.push.allow_http_gateways;
    if !is_allowed_scheme {
        return Err(Error::invalid_param("`data.url` must begin with https://"));
    }
    if url.path() != GATEWAY_PATH || url.host().is_none() {
        return Err(Error::invalid_param(format!("The path of `data.url` must be {GATEWAY_PATH}")));
    }
    Ok(url)
}

#[cfg(test)]
pub(super) mod tests {
    use ruma::{api::error::ErrorKind, device_id};

    use super::*;
    use crate::{
        room::testing::{TestRoom, user},
        user::tables::{Account, Accounts, Device},
    };

    pub fn key() -> PusherKey {
        PusherKey { user: user("alice"), app_id: "app".to_owned(), pushkey: "key".to_owned() }
    }

    pub fn pusher() -> Pusher {
        Pusher {
            kind: Kind::Http,
            app_display_name: String::new(),
            device_display_name: String::new(),
            profile_tag: None,
            lang: "en".to_owned(),
            data: format!(r#"{{"url":"https://push.example{GATEWAY_PATH}"}}"#),
            device_id: Some("PHONE".into()),
            is_enabled: true,
            set_at_ms: 0,
            is_badge_count_disabled: false,
        }
    }

    #[test]
    fn a_row_of_the_first_version_tells_numbers() {
        let mut row = postcard::to_stdvec(&pusher()).unwrap();
        row.pop();
        assert_eq!(Pusher::upgrade(1, &row), Ok(pusher()));
    }

    #[test]
    fn a_pusher_does_not_outlive_the_log_out_that_it_raced() {
        let room = TestRoom::new();
        let set = || room.block_on(set(&room.server, key(), pusher(), false));
        let refused = |set: Result<()>| match set {
            Err(Error::Refused { kind, .. }) => kind,
            other => panic!("{other:?}"),
        };
        assert!(matches!(refused(set()), ErrorKind::UserDeactivated));
        let account = Account::without_password(0);
        room.change(move |tx| tx.put::<Accounts>(&&*user("alice"), &account));
        assert!(matches!(refused(set()), ErrorKind::UnknownToken(_)));
        let device = Device { display_name: None, last_seen: None };
        room.change(move |tx| tx.put::<Devices>(&(&user("alice"), device_id!("PHONE")), &device));
        set().unwrap();
        assert_eq!(list(&room.server.store.snapshot(), &user("alice")).unwrap().len(), 1);
    }
}
