//! Who is in a room: joining, leaving, inviting, knocking, kicking, banning. What the rules of the room decide is left
//! to them; here is what they do not say.

use std::sync::Arc;

use ruma::{OwnedEventId, OwnedUserId, RoomId, UserId, api::error::ErrorKind, events::StateEventType};
use serde_json::{
    Map, Value,
    value::{RawValue, to_raw_value},
};

use super::{
    Membership, View,
    append::{self, Step},
    partial,
    restricted::{self, Admission},
    tables,
};
use crate::{
    Server,
    appservice::query,
    error::{Error, Result},
    event::Draft,
    federation::inviting,
    store::{RoomNid, Snapshot},
    user::{guests, invite_permission, profile},
};

/// The content of a member event.
pub type Content = Map<String, Value>;

/// The room of that id. Whoever is not in it does not learn whether there is one.
pub fn known(server: &Server, room_id: &RoomId) -> Result<RoomNid> {
    let found = server.store.snapshot().get::<tables::RoomIds>(&room_id)?;
    found.ok_or_else(not_joined)
}

/// What whoever is not in a room is answered, be there one or not.
pub(super) fn not_joined() -> Error {
    Error::forbidden("You are not in this room")
}

/// The room of that id, for those who ask to get in.
pub fn findable(server: &Server, room_id: &RoomId) -> Result<RoomNid> {
    let found = server.store.snapshot().get::<tables::RoomIds>(&room_id)?;
    found.ok_or_else(|| Error::not_found("This server knows no such room"))
}

/// Joins a room; whoever is in it already stays as he is. `extra` goes into the member event, `reason` for example.
///
/// <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3roomsroomidjoin>
pub async fn join(server: &Arc<Server>, user: &UserId, room: RoomNid, mut extra: Content) -> Result<()> {
    extra.remove("third_party_invite"); // which only a server can say
    change(server, user, user, room, Membership::Join, extra, |view, user| {
        Ok(match state_of(view, user)? {
            Some((Membership::Join, event_id)) => Some(event_id),
            _ => None,
        })
    })
    .await
}

/// <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3knockroomidoralias>
pub async fn knock(server: &Arc<Server>, user: &UserId, room: RoomNid, reason: Option<String>) -> Result<()> {
    change(server, user, user, room, Membership::Knock, because(reason), |_, _| Ok(None)).await
}

/// Leaves a room, rejects an invite or takes back a knock. Whoever has left already has left.
///
/// <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3roomsroomidleave>
pub async fn leave(server: &Arc<Server>, user: &UserId, room: RoomNid, reason: Option<String>) -> Result<()> {
    change(server, user, user, room, Membership::Leave, because(reason), |view, user| {
        Ok(match state_of(view, user)? {
            Some((Membership::Leave, event_id)) => Some(event_id),
            _ => None,
        })
    })
    .await
}

/// Invites `target`, who may have been invited before. One of another server is asked for its signature first.
///
/// <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3roomsroomidinvite>
pub async fn invite(
    server: &Arc<Server>,
    sender: &UserId,
    target: &UserId,
    room: RoomNid,
    reason: Option<String>,
) -> Result<()> {
    invite_as(server, sender, target, room, because(reason)).await
}

/// As [`invite`], with what the member event is to say beside the membership.
pub async fn invite_as(
    server: &Arc<Server>,
    sender: &UserId,
    target: &UserId,
    room: RoomNid,
    content: Content,
) -> Result<()> {
    if !server.is_ours(target) {
        inviting::invite(server, sender, target, room, content).await?;
        return Ok(());
    }
    query::user_exists(server, target).await?; // an application service may make him only now
    let inviter = sender.to_owned();
    change(server, sender, target, room, Membership::Invite, content, move |view, target| {
        is_invited(view, &inviter, target)
    })
    .await
}

/// The invite that `target` has. `M_FORBIDDEN` unless `inviter` is in the room.
fn is_invited(view: &View<'_>, inviter: &UserId, target: &UserId) -> Result<Option<OwnedEventId>> {
    check_in_room(view, inviter)?;
    Ok(match state_of(view, target)? {
        Some((Membership::Invite, event_id)) => Some(event_id),
        _ => None,
    })
}

/// What inviting a user of another server comes to, apart from what that server says.
pub fn invite_step(view: &View<'_>, inviter: &UserId, target: &UserId, mut content: Content) -> Result<Step> {
    if let Some(event_id) = is_invited(view, inviter, target)? {
        return Ok(Step::Done(event_id));
    }
    content.insert("membership".to_owned(), Membership::Invite.to_state().as_str().into());
    content.remove("join_authorised_via_users_server");
    let content = to_raw_value(&content).expect("a JSON object serializes");
    Ok(Step::Send(Draft::state(StateEventType::RoomMember, target.as_str(), content)))
}

/// The content of a member event by which `user` becomes `to` in a room of another server.
pub async fn own_content(server: &Arc<Server>, user: &UserId, to: Membership, mut content: Content) -> Result<Content> {
    let user = user.to_owned();
    content.remove("join_authorised_via_users_server");
    content.remove("third_party_invite");
    content.insert("membership".to_owned(), to.to_state().as_str().into());
    server
        .read(move |snapshot| {
            add_profile(snapshot, &user, &mut content)?;
            Ok(content)
        })
        .await
}

/// The user of another server whom a client invites by a state event of this content, with that content.
pub fn invited_elsewhere(server: &Server, state_key: &str, content: &RawValue) -> Option<(OwnedUserId, Content)> {
    let target = UserId::parse(state_key).ok().filter(|target| !server.is_ours(target))?;
    let mut content: Content = serde_json::from_str(content.get()).ok()?;
    content.remove("third_party_invite");
    (membership_of(&content).ok()? == Membership::Invite).then_some((target, content))
}

/// <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3roomsroomidkick>
pub async fn kick(
    server: &Arc<Server>,
    sender: &UserId,
    target: &UserId,
    room: RoomNid,
    reason: Option<String>,
) -> Result<()> {
    let kicker = sender.to_owned();
    change(server, sender, target, room, Membership::Leave, because(reason), move |view, target| {
        check_in_room(view, &kicker)?;
        match view.membership(view.current_state(), target)? {
            Some(Membership::Join | Membership::Invite | Membership::Knock) => Ok(None),
            _ => Err(Error::forbidden("That user is not in this room")),
        }
    })
    .await
}

/// <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3roomsroomidban>
pub async fn ban(
    server: &Arc<Server>,
    sender: &UserId,
    target: &UserId,
    room: RoomNid,
    reason: Option<String>,
) -> Result<()> {
    let banning = sender.to_owned();
    change(server, sender, target, room, Membership::Ban, because(reason), move |view, _| {
        check_in_room(view, &banning)?;
        Ok(None)
    })
    .await
}

/// <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3roomsroomidunban>
pub async fn unban(
    server: &Arc<Server>,
    sender: &UserId,
    target: &UserId,
    room: RoomNid,
    reason: Option<String>,
) -> Result<()> {
    let forgiving = sender.to_owned();
    change(server, sender, target, room, Membership::Leave, because(reason), move |view, target| {
        check_in_room(view, &forgiving)?;
        match view.membership(view.current_state(), target)? {
            Some(Membership::Ban) => Ok(None),
            _ => Err(Error::forbidden("That user is not banned from this room")),
        }
    })
    .await
}

/// Whoever is not in the room does not learn who is, or is banned, nor that there is one: this is asked before anything
/// else of it.
pub(super) fn check_in_room(view: &View<'_>, user: &UserId) -> Result<()> {
    match view.membership(view.current_state(), user)? {
        Some(Membership::Join) => Ok(()),
        _ => Err(not_joined()),
    }
}

/// Changes the membership of `target`. `is_done` names the event that made it so already, or says why it can't be so.
async fn change(
    server: &Arc<Server>,
    sender: &UserId,
    target: &UserId,
    room: RoomNid,
    to: Membership,
    mut content: Content,
    is_done: impl FnOnce(&View<'_>, &UserId) -> Result<Option<OwnedEventId>> + Send + 'static,
) -> Result<()> {
    let (sender_id, target) = (sender.to_owned(), target.to_owned());
    if sender_id != target {
        // What he is to the room may not be known yet.
        partial::until_whole_for(server, sender, room).await?;
    }
    content.insert("membership".to_owned(), to.to_state().as_str().into());
    append::act(server, room, sender, None, move |server, view| match is_done(view, &target)? {
        Some(event_id) => Ok(Step::Done(event_id)),
        None => Ok(Step::Send(draft(server, view, &sender_id, &target, to, content)?)),
    })
    .await?;
    Ok(())
}

/// The member event that a client asks for as such.
///
/// Errors: `M_BAD_JSON` if that is no member event of the specification, and all those of the calls above.
pub fn by_state(
    server: &Server,
    view: &View<'_>,
    sender: &UserId,
    state_key: &str,
    content: &RawValue,
) -> Result<Draft> {
    let target =
        UserId::parse(state_key).map_err(|_| Error::bad_json("The state key of a member event is a user id"))?;
    let mut content: Content =
        serde_json::from_str(content.get()).map_err(|_| Error::bad_json("The content is no JSON object"))?;
    content.remove("third_party_invite"); // which only a server can say
    let to = membership_of(&content)?;
    draft(server, view, sender, &target, to, content)
}

/// Whether a new room may begin with this member event. Errors: as [`by_state`].
pub fn check_initial(
    server: &Server,
    snapshot: &Snapshot<'_>,
    sender: &UserId,
    state_key: &str,
    content: &RawValue,
) -> Result<()> {
    let target =
        UserId::parse(state_key).map_err(|_| Error::bad_json("The state key of a member event is a user id"))?;
    let content: Content =
        serde_json::from_str(content.get()).map_err(|_| Error::bad_json("The content is no JSON object"))?;
    match membership_of(&content)? {
        Membership::Invite => check_invite(server, snapshot, sender, &target),
        _ => Ok(()),
    }
}

fn membership_of(content: &Content) -> Result<Membership> {
    let membership = content.get("membership").and_then(Value::as_str);
    let known = membership.and_then(|membership| Membership::of(&membership.into()));
    known.ok_or_else(|| Error::bad_json("`membership` is missing or unknown"))
}

/// The member event for a change to `to`, with what we and not the client say in it.
fn draft(
    server: &Server,
    view: &View<'_>,
    sender: &UserId,
    target: &UserId,
    to: Membership,
    mut content: Content,
) -> Result<Draft> {
    content.remove("join_authorised_via_users_server");
    match to {
        Membership::Join => {
            guests::check_may_join(view, target)?;
            if let Some(authorizer) = join_authorizer(server, view, target)? {
                content.insert("join_authorised_via_users_server".to_owned(), authorizer.as_str().into());
            }
        }
        Membership::Invite => check_invite(server, view.snapshot, sender, target)?,
        Membership::Knock | Membership::Leave | Membership::Ban => {}
    }
    if matches!(to, Membership::Join | Membership::Invite | Membership::Knock) {
        add_profile(view.snapshot, target, &mut content)?;
    }
    let content = to_raw_value(&content).expect("a JSON object serializes");
    Ok(Draft::state(StateEventType::RoomMember, target.as_str(), content))
}

/// Who of ours vouches that `user` may join a restricted room. `None` if nobody need do that.
///
/// <https://spec.matrix.org/v1.19/client-server-api/#restricted-rooms>
fn join_authorizer(server: &Server, view: &View<'_>, user: &UserId) -> Result<Option<OwnedUserId>> {
    match restricted::admission(server, view, user)? {
        Admission::NotAsked => Ok(None),
        Admission::Vouched(authorizer) => Ok(Some(authorizer)),
        Admission::NoVoucher => Err(unable_to_authorize("None of this server's users in the room may let you in")),
        Admission::Undecidable => Err(unable_to_authorize(
            "You are in none of the rooms whose members may join this one, as far as is known here",
        )),
        Admission::Refused => Err(Error::forbidden("You are in none of the rooms whose members may join this one")),
    }
}

/// Other servers in the room may know or do what we can't.
fn unable_to_authorize(message: &'static str) -> Error {
    Error::refused(ErrorKind::UnableToAuthorizeJoin, message).with_status(http::StatusCode::FORBIDDEN)
}

/// Whether an invite can reach `target` and is wanted.
///
/// <https://spec.matrix.org/v1.19/client-server-api/#invite-permission>
pub fn check_invite(server: &Server, snapshot: &Snapshot<'_>, sender: &UserId, target: &UserId) -> Result<()> {
    if !server.is_ours(target) {
        let reason = format!("{target} is of another server, whose signature must be asked for first");
        return Err(Error::refused(ErrorKind::Unknown, reason));
    }
    invite_permission::check(snapshot, target, sender)
}

/// The content of a member event with the profile of `user`.
pub fn content_with_profile(snapshot: &Snapshot<'_>, user: &UserId, membership: &str) -> Result<Content> {
    let mut content = Content::new();
    content.insert("membership".to_owned(), membership.into());
    add_profile(snapshot, user, &mut content)?;
    Ok(content)
}

/// Adds what the profile of `user` says and `content` does not.
fn add_profile(snapshot: &Snapshot<'_>, user: &UserId, content: &mut Content) -> Result<()> {
    for field in ["avatar_url", "displayname"] {
        if content.contains_key(field) {
            continue;
        }
        let Some(value) = profile::get(snapshot, user, field)? else { continue };
        let value = value.parse().map_err(|e| Error::internal(format!("the {field} of {user} is no JSON: {e}")))?;
        content.insert(field.to_owned(), value);
    }
    Ok(())
}

pub fn because(reason: Option<String>) -> Content {
    reason.map(|reason| ("reason".to_owned(), reason.into())).into_iter().collect()
}

/// What `user`, who is one of ours, is to a room as he was told: of one that lives elsewhere the state may not say it.
pub fn of_own_user(view: &View<'_>, user: &UserId) -> Result<Option<Membership>> {
    match view.snapshot.get::<tables::UserRooms>(&(user, view.nid))? {
        Some(row) => Ok(Some(row.membership)),
        None => Ok(view.membership(view.current_state(), user)?),
    }
}

/// The current membership of `user` and the event that made it.
fn state_of(view: &View<'_>, user: &UserId) -> Result<Option<(Membership, OwnedEventId)>> {
    let event = view.state_pdu(view.current_state(), &StateEventType::RoomMember, user.as_str())?;
    let Some(event) = event else { return Ok(None) };
    let membership = super::view::membership_in(event.content.get());
    Ok(membership.map(|membership| (membership, event.event_id.clone())))
}

/// Leaves a room out of everything that the user is shown, until he gets into it again.
///
/// Errors: `M_UNKNOWN` if he has not left it, `M_NOT_FOUND` if he never was there.
///
/// <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3roomsroomidforget>
pub async fn forget(server: &Server, user: &UserId, room_id: &RoomId) -> Result<()> {
    let user = user.to_owned();
    let room = findable(server, room_id)?;
    let write = move |tx: &mut crate::store::Transaction<'_>| {
        let row = tx.get::<tables::UserRooms>(&(&user, room))?;
        let mut row = row.ok_or_else(|| Error::not_found("You never were in this room"))?;
        if !matches!(row.membership, Membership::Leave | Membership::Ban) {
            return Err(Error::refused(ErrorKind::Unknown, "You must leave the room before you can forget it"));
        }
        row.is_forgotten = true;
        tx.put::<tables::UserRooms>(&(&user, room), &row);
        Ok(())
    };
    server.store.commit(write).await
}

/// The rooms that `user` is joined to.
pub fn joined_rooms(snapshot: &Snapshot<'_>, user: &UserId) -> Result<Vec<ruma::OwnedRoomId>> {
    let mut joined = Vec::new();
    for row in snapshot.list::<tables::UserRooms>(&user) {
        let row = row?;
        if row.value.membership == Membership::Join {
            let room = snapshot.get::<tables::Rooms>(&row.key()?.1)?;
            joined.push(room.ok_or_else(|| Error::internal("a member of a room that is not there"))?.room_id);
        }
    }
    Ok(joined)
}
