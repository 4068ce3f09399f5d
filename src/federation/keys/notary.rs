//! Answers as a notary: what we know of other servers' keys, with our signature.
//!
//! <https://spec.matrix.org/v1.19/server-server-api/#querying-keys-through-another-server>

use std::{collections::BTreeMap, sync::Arc};

use ruma::{OwnedServerName, api::federation::discovery::ServerSigningKeys, serde::Raw};

use super::{fetch, publish};
use crate::{
    Server,
    error::Result,
    federation::tables::{KeyDocument, KeyDocuments},
};

/// For how many servers one request is answered, and how many of them are asked for their keys because of it.
const MAX_SERVERS: usize = 200;
const MAX_ASKED: usize = 20;

/// The keys of the servers in `asked`, which must be valid at the time that stands with each, in milliseconds since the
/// Unix epoch; older ones if those servers have no others.
pub async fn answer(
    server: &Arc<Server>,
    asked: BTreeMap<OwnedServerName, u64>,
) -> Result<Vec<Raw<ServerSigningKeys>>> {
    let asked: Vec<_> = asked.into_iter().take(MAX_SERVERS).collect();
    let known = documents(server, asked.iter().map(|(other, _)| other.clone()).collect()).await?;
    let is_too_old = |(other, at): &&(OwnedServerName, u64)| {
        other != server.name() && known.get(other).is_none_or(|document| document.valid_until_ms < *at)
    };
    let outdated: Vec<_> = asked.iter().filter(is_too_old).map(|(other, _)| other.clone()).take(MAX_ASKED).collect();
    let mut answer = Vec::new();
    if asked.iter().any(|(other, _)| other == server.name()) {
        answer.push(publish::publish(server)?);
    }
    let known = if outdated.is_empty() {
        known
    } else {
        fetch::refresh(server, outdated).await?;
        documents(server, asked.into_iter().map(|(other, _)| other).collect()).await?
    };
    for document in known.into_values() {
        answer.push(publish::signed(server, &document.json)?);
    }
    Ok(answer)
}

async fn documents(
    server: &Arc<Server>,
    others: Vec<OwnedServerName>,
) -> Result<BTreeMap<OwnedServerName, KeyDocument>> {
    let read = move |snapshot: &crate::store::Snapshot<'_>| {
        let rows = snapshot.get_many::<KeyDocuments>(others.iter().map(|other| other.as_str()))?;
        Ok(others.into_iter().zip(rows).filter_map(|(other, row)| Some((other, row?))).collect())
    };
    server.read(read).await
}
