//! The user directory, and the rooms that two users share.

use std::sync::Arc;

use axum::{Router, extract::State};
use ruma::api::{
    client::{membership::get_mutual_rooms, user_directory::search_users},
    error::ErrorKind,
};

use crate::{
    Server,
    error::{Error, Result},
    http::{
        endpoint,
        extract::{Client, Loose, Matrix},
    },
    room::mutual,
    user::directory,
};

pub fn router() -> Router<Arc<Server>> {
    Router::new().merge(endpoint::<search_users::v3::Request, _, _>(search)).merge(endpoint::<
        Loose<get_mutual_rooms::v1::Request>,
        _,
        _,
    >(mutual_rooms))
}

/// `POST /user_directory/search`
/// <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3user_directorysearch>
async fn search(
    State(server): State<Arc<Server>>,
    Client { sender, body, .. }: Client<search_users::v3::Request>,
) -> Result<Matrix<search_users::v3::Response>> {
    if !server.config.user_directory.enabled {
        return Ok(Matrix(search_users::v3::Response::new(Vec::new(), false)));
    }
    let _permit = server.user_searches.acquire(&sender.user_id).await?;
    let limit = usize::try_from(u64::from(body.limit)).unwrap_or(usize::MAX);
    let find = move |server: &Server| directory::search(server, &sender.user_id, &body.search_term, limit);
    let (found, is_limited) = server.blocking(find).await?;
    let shown = |found: directory::Found| {
        let mut user = search_users::v3::User::new(found.user_id);
        (user.display_name, user.avatar_url) = (found.display_name, found.avatar_url);
        user
    };
    Ok(Matrix(search_users::v3::Response::new(found.into_iter().map(shown).collect(), is_limited)))
}

/// `GET /mutual_rooms`
/// <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1mutual_rooms>
async fn mutual_rooms(
    State(server): State<Arc<Server>>,
    Client { sender, body, .. }: Client<Loose<get_mutual_rooms::v1::Request>>,
) -> Result<Matrix<get_mutual_rooms::v1::Response>> {
    let invalid = |_: Error| Error::refused(ErrorKind::InvalidParam, "`user_id` is missing or no user id");
    let request = body.with_body(b"").map_err(invalid)?;
    let page = move |server: &Server| mutual::page(server, &sender.user_id, &request.user_id, request.from.as_deref());
    let page = server.blocking(page).await?;
    let mut response = get_mutual_rooms::v1::Response::new(page.count, page.rooms);
    response.next_batch = page.next_batch;
    Ok(Matrix(response))
}
