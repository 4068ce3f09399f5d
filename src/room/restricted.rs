//! Restricted rooms: who may join because he is in another room, and who of ours vouches for that.
//!
//! <https://spec.matrix.org/v1.19/client-server-api/#restricted-rooms>

use ruma::{
    OwnedUserId, UserId,
    events::{
        StateEventType,
        room::join_rules::{AllowRule, JoinRule, RoomJoinRulesEventContent},
    },
};

use super::{Membership, View, partial, power_levels};
use crate::{
    Server,
    error::Result,
    store::{self, Snapshot},
};

/// What the conditions of a room come to for somebody who wants to join.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admission {
    /// No condition is looked at: the room has none, or he is invited or joined already.
    NotAsked,
    /// He meets a condition, and this user of ours, who may invite, vouches for it in the event.
    Vouched(OwnedUserId),
    /// He meets a condition, but none of our users may invite.
    NoVoucher,
    /// He meets none of those that we can judge; there are rooms among them that we are not in.
    Undecidable,
    /// He meets none.
    Refused,
}

/// Judges `user` by the room as it is now.
pub fn admission(server: &Server, view: &View<'_>, user: &UserId) -> Result<Admission> {
    let Some(allow) = conditions(view)? else { return Ok(Admission::NotAsked) };
    if let Some(Membership::Join | Membership::Invite) = view.membership(view.current_state(), user)? {
        return Ok(Admission::NotAsked);
    }
    match is_in_any(server, view.snapshot, user, &allow)? {
        Some(true) => Ok(who_may_invite(server, view)?.map_or(Admission::NoVoucher, Admission::Vouched)),
        Some(false) => Ok(Admission::Refused),
        None => Ok(Admission::Undecidable),
    }
}

/// The conditions for joining, if the room has any.
fn conditions(view: &View<'_>) -> Result<Option<Vec<AllowRule>>> {
    let rules = view.state_content(view.current_state(), &StateEventType::RoomJoinRules, "")?;
    Ok(match rules {
        Some(RoomJoinRulesEventContent { join_rule: JoinRule::Restricted(restricted), .. })
            if view.rules.authorization.restricted_join_rule =>
        {
            Some(restricted.allow)
        }
        Some(RoomJoinRulesEventContent { join_rule: JoinRule::KnockRestricted(restricted), .. })
            if view.rules.authorization.knock_restricted_join_rule =>
        {
            Some(restricted.allow)
        }
        _ => None,
    })
}

/// Whether `user` is joined to one of the rooms that `allow` names; `None` if he is joined to none that we are in, and
/// there are others. What we knew of a room before all of us left it proves nothing.
fn is_in_any(server: &Server, snapshot: &Snapshot<'_>, user: &UserId, allow: &[AllowRule]) -> Result<Option<bool>> {
    let mut are_all_known = true;
    for rule in allow {
        let AllowRule::RoomMembership(room) = rule else { continue };
        match View::open(&server.rooms, snapshot, &room.room_id)? {
            Some(view) if view.is_resident()? && knows_member(server, &view, user)? => {
                if view.membership(view.current_state(), user)? == Some(Membership::Join) {
                    return Ok(Some(true));
                }
            }
            _ => are_all_known = false,
        }
    }
    Ok(are_all_known.then_some(false))
}

/// Whether what we know of a user's membership is certain: where members are not known yet, it is that of our own.
fn knows_member(server: &Server, view: &View<'_>, user: &UserId) -> Result<bool> {
    Ok(server.is_ours(user) || !partial::is_partial(view.snapshot, view.nid)?)
}

/// One of our users who is joined and may invite others.
fn who_may_invite(server: &Server, view: &View<'_>) -> Result<Option<OwnedUserId>> {
    let levels = power_levels(view)?;
    // Few users have a power level of their own, and they are the likeliest to be able to invite.
    let privileged = levels.rules.privileged_creators.iter().flatten();
    for user in privileged.chain(levels.users.keys()).filter(|user| server.is_ours(user)) {
        if levels.user_can_invite(user) && view.membership(view.current_state(), user)? == Some(Membership::Join) {
            return Ok(Some(user.clone()));
        }
    }
    if levels.users_default < levels.invite {
        return Ok(None);
    }
    let may = |user: &store::Result<OwnedUserId>| user.as_ref().map_or(true, |user| levels.user_can_invite(user));
    Ok(view.each_local_member().find(may).transpose()?)
}
