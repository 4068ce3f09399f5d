//! Who is in a room.

use std::sync::Arc;

use axum::{Router, extract::State};
use ruma::{
    api::client::membership::{get_member_events, joined_members},
    events::room::member::MembershipState,
};

use crate::{
    Server,
    error::{Error, Result},
    http::{
        endpoint,
        extract::{Client, Matrix},
    },
    room::{
        Membership, history, read,
        visibility::{Standing, not_in_room},
    },
    sync::token::TimelineToken,
};

pub fn router() -> Router<Arc<Server>> {
    Router::new().merge(endpoint::<get_member_events::v3::Request, _, _>(members)).merge(endpoint::<
        joined_members::v3::Request,
        _,
        _,
    >(joined))
}

/// `GET /rooms/{roomId}/members`
/// <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3roomsroomidmembers>
async fn members(
    State(server): State<Arc<Server>>,
    Client { sender, body, .. }: Client<get_member_events::v3::Request>,
) -> Result<Matrix<get_member_events::v3::Response>> {
    let at = body.at.as_deref().map(str::parse::<TimelineToken>).transpose()?.map(|token| token.0);
    let (wanted, unwanted) = (membership(body.membership.as_ref())?, membership(body.not_membership.as_ref())?);
    let wants = move |membership| match (wanted, unwanted) {
        (None, None) => true,
        (Some(wanted), None) => membership == wanted,
        (None, Some(unwanted)) => membership != unwanted,
        (Some(wanted), Some(unwanted)) => membership == wanted || membership != unwanted,
    };
    let answer = history::read(&server, sender, body.room_id, move |reader, newest| {
        let state = history::state_at(reader, newest, at)?;
        let events = read::members(reader.view(), state, wants)?;
        Ok(get_member_events::v3::Response::new(reader.raw_events(&events)?))
    });
    answer.await?.map(Matrix).ok_or_else(not_in_room)
}

fn membership(asked: Option<&MembershipState>) -> Result<Option<Membership>> {
    let known = |state| Membership::of(state).ok_or_else(|| Error::invalid_param("That is no membership"));
    asked.map(known).transpose()
}

/// `GET /rooms/{roomId}/joined_members`
/// <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3roomsroomidjoined_members>
async fn joined(
    State(server): State<Arc<Server>>,
    Client { sender, body, .. }: Client<joined_members::v3::Request>,
) -> Result<Matrix<joined_members::v3::Response>> {
    let answer = history::read(&server, sender, body.room_id, |reader, _| {
        match reader.sight.standing {
            Standing::Joined => {}
            Standing::Left(_) => return Err(Error::forbidden("You are not in this room any more")),
            Standing::Stranger => return Err(not_in_room()),
        }
        let joined = read::joined(reader.view())?.into_iter().map(|(user_id, profile)| {
            let mut member = joined_members::v3::RoomMember::new();
            (member.display_name, member.avatar_url) = (profile.displayname, profile.avatar_url);
            (user_id, member)
        });
        Ok(joined_members::v3::Response::new(joined.collect()))
    });
    answer.await?.map(Matrix).ok_or_else(not_in_room)
}
