//! Who is in a room.

use std::{collections::BTreeMap, sync::Arc};

use axum::{Router, extract::State};
use ruma::{
    OwnedMxcUri, OwnedUserId,
    api::client::membership::{get_member_events, joined_members},
    events::room::member::MembershipState,
};
use serde::Serialize;

use crate::{
    Server,
    error::{Error, Result},
    http::{
        endpoint,
        extract::{Client, GuestClient, Json, Matrix},
    },
    room::{
        Membership, history, partial,
        read::{self, Profile},
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
    GuestClient { sender, body, .. }: GuestClient<get_member_events::v3::Request>,
) -> Result<Matrix<get_member_events::v3::Response>> {
    let at = body.at.as_deref().map(str::parse::<TimelineToken>).transpose()?.map(|token| token.0);
    let (wanted, unwanted) = (membership(body.membership.as_ref())?, membership(body.not_membership.as_ref())?);
    let wants = move |membership| match (wanted, unwanted) {
        (None, None) => true,
        (Some(wanted), None) => membership == wanted,
        (None, Some(unwanted)) => membership != unwanted,
        (Some(wanted), Some(unwanted)) => membership == wanted || membership != unwanted,
    };
    partial::until_whole(&server, &sender.user_id, &body.room_id).await?;
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
) -> Result<Json<Joined>> {
    partial::until_whole(&server, &sender.user_id, &body.room_id).await?;
    let answer = history::read(&server, sender, body.room_id, |reader, _| match reader.sight.standing {
        Standing::Joined => {
            let members = read::joined(reader.view())?.into_iter();
            let member = |Profile { displayname, avatar_url }| Member { display_name: displayname, avatar_url };
            Ok(Joined { joined: members.map(|(user_id, profile)| (user_id, member(profile))).collect() })
        }
        Standing::Left(_) => Err(Error::forbidden("You are not in this room any more")),
        Standing::Stranger => Err(not_in_room()),
    });
    answer.await?.map(Json).ok_or_else(not_in_room)
}

#[derive(Serialize)]
struct Joined {
    joined: BTreeMap<OwnedUserId, Member>,
}

/// NOTSPEC: what a user has not set is `null` and not left out, as ruma's type has it: Complement wants both members.
#[derive(Serialize)]
struct Member {
    display_name: Option<String>,
    avatar_url: Option<OwnedMxcUri>,
}
