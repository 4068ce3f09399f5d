//! What the administrators of the server tell single users, each in a room of its own.
//!
//! <https://spec.matrix.org/v1.19/client-server-api/#server-notices>

use std::sync::Arc;

use ruma::{OwnedEventId, OwnedUserId, UserId, api::error::ErrorKind};
use serde_json::{Map, Value, json, value::RawValue};

use super::{
    Membership, View,
    append::{self, TransactionKey},
    create::{self, NewRoom, Preset},
    membership,
    tables::UserRooms,
    view::membership_in,
};
use crate::{
    Server,
    config::ServerNotices,
    error::{Error, Result},
    event::Draft,
    store::{self, Family, RoomNid, Snapshot, Table, Transaction},
    user::{
        account::{self, PreparedAccount},
        profile,
        tables::Accounts,
        tags,
    },
};

/// The tag by which clients know the room.
const TAG: &str = "m.server_notice";

/// The room in which each user gets his notices.
pub struct NoticeRooms;
impl Table for NoticeRooms {
    const NAME: &'static str = "notice_rooms";
    const FAMILY: Family = Family::User;
    const ID: u8 = 160;
    type Key<'a> = &'a UserId;
    type Value = RoomNid;
}

/// The room of `user`'s notices, if he ever got one.
pub fn room_of(snapshot: &Snapshot<'_>, user: &UserId) -> store::Result<Option<RoomNid>> {
    snapshot.get::<NoticeRooms>(&user)
}

/// A notice, as Synapse's admin API has it.
pub struct Notice {
    pub user_id: OwnedUserId,
    pub event_type: String,
    /// Of a state event.
    pub state_key: Option<String>,
    pub content: Box<RawValue>,
}

/// Sends a notice to one of our users, whom it invites to his room if he is not in it. The same transaction again is
/// answered with the same event.
///
/// Errors: `M_UNKNOWN` if the configuration has no `server_notices` or the user is not ours, `M_NOT_FOUND`.
pub async fn send(server: &Arc<Server>, notice: Notice, transaction: Option<TransactionKey>) -> Result<OwnedEventId> {
    let server = Arc::clone(server);
    // Whom it was sent to is not to be left without his room when a script hangs up.
    Server::detached(async move {
        let config = server.config.server_notices.as_ref();
        let unknown = |message: &'static str| Error::refused(ErrorKind::Unknown, message);
        let config = config.ok_or_else(|| unknown("Server notices are not enabled on this server"))?;
        if !server.is_ours(&notice.user_id) {
            return Err(unknown("Server notices can only be sent to local users"));
        }
        let account = account::get(&server.store.snapshot(), &notice.user_id)?;
        if account.is_none_or(|account| !account.is_active()) {
            return Err(Error::not_found("There is no such user"));
        }
        let room = {
            let _one_at_a_time = server.notices.lock().await; // else two first notices made two rooms
            let sender = sender(&server, config).await?;
            (room_for(&server, config, &sender, &notice.user_id).await?, sender)
        };
        let (room, sender) = room;
        let draft = Draft { state_key: notice.state_key, ..Draft::message(notice.event_type, notice.content) };
        append::send(&server, room, &sender, draft, transaction).await
    })
    .await
}

/// The user who sends the notices. He has no password, so nobody can log in as him.
async fn sender(server: &Arc<Server>, config: &ServerNotices) -> Result<OwnedUserId> {
    let user_id = account::new_user_id(server.name(), &config.system_mxid_localpart)?;
    match account::get(&server.store.snapshot(), &user_id)? {
        Some(account) if account.password_hash.is_some() => {
            let message = format!("{user_id} is somebody's account: choose another `system_mxid_localpart`");
            return Err(Error::refused(ErrorKind::Unknown, message));
        }
        Some(_) => {}
        None => {
            let account = PreparedAccount::without_password(server, user_id.clone());
            server.store.commit(move |tx| account.write(tx)).await?;
        }
    }
    let shown = [
        (profile::DISPLAY_NAME, &config.system_mxid_display_name),
        (profile::AVATAR_URL, &config.system_mxid_avatar_url),
    ];
    for (field, wanted) in shown {
        let Some(wanted) = wanted else { continue };
        let present = profile::get(&server.store.snapshot(), &user_id, field)?;
        if present.and_then(|value| value.parse::<String>().ok()).as_ref() != Some(wanted) {
            profile::set(server, &user_id, field, wanted.as_str().into()).await?;
        }
    }
    Ok(user_id)
}

/// The room of `user`, who is in it or invited when this returns.
async fn room_for(server: &Arc<Server>, config: &ServerNotices, sender: &UserId, user: &UserId) -> Result<RoomNid> {
    if let Some(room) = usable_room(server, sender, user)? {
        let snapshot_membership = server.store.snapshot().get::<UserRooms>(&(user, room))?.map(|row| row.membership);
        if !matches!(snapshot_membership, Some(Membership::Join | Membership::Invite)) {
            membership::invite(server, sender, user, room, None).await?;
        }
        return Ok(room);
    }
    let mut power_levels = Map::new();
    power_levels.insert("users_default".to_owned(), json!(-10)); // notices are answered by other ways
    let new = NewRoom {
        version: server.config.default_room_version.clone(),
        preset: Preset::PrivateChat,
        is_listed: false,
        alias: None,
        name: Some(config.room_name.clone()),
        topic: None,
        invite: vec![user.to_owned()],
        is_direct: false,
        initial_state: Vec::new(),
        creation_content: Map::new(),
        power_levels,
        replaces: None,
    };
    let room_id = create::create(server, sender, new).await?;
    let room = membership::known(server, &room_id)?;
    let owner = user.to_owned();
    let write = move |tx: &mut Transaction<'_>| {
        tx.put::<NoticeRooms>(&&*owner, &room);
        Ok::<_, Error>(())
    };
    server.store.commit(write).await?;
    tags::put(server, user, room, TAG.to_owned(), Value::Object(Map::new())).await?;
    Ok(room)
}

/// The room that the user has, if the sender is still in it.
fn usable_room(server: &Server, sender: &UserId, user: &UserId) -> Result<Option<RoomNid>> {
    let snapshot = server.store.snapshot();
    let Some(room) = room_of(&snapshot, user)? else { return Ok(None) };
    let row = snapshot.get::<UserRooms>(&(sender, room))?;
    Ok(row.is_some_and(|row| row.membership == Membership::Join).then_some(room))
}

/// Nobody rejects the invite to his notices: `M_CANNOT_LEAVE_SERVER_NOTICE_ROOM`. Once he is in the room he may leave it.
pub fn check_draft(view: &View<'_>, sender: &UserId, draft: &Draft) -> Result<()> {
    let is_leave = draft.event_type == "m.room.member"
        && draft.state_key.as_deref() == Some(sender.as_str())
        && membership_in(draft.content.get()) == Some(Membership::Leave);
    if !is_leave
        || room_of(view.snapshot, sender)? != Some(view.nid)
        || view.membership(view.current_state(), sender)? != Some(Membership::Invite)
        || view.snapshot.get::<Accounts>(&sender)?.is_none_or(|account| !account.is_active())
    {
        return Ok(());
    }
    Err(Error::refused(ErrorKind::CannotLeaveServerNoticeRoom, "You cannot reject this invite"))
}
