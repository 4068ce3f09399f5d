//! Answers as a notary: what we know of other servers' keys, with our signature.
//!
//! <https://spec.matrix.org/v1.19/server-server-api/#querying-keys-through-another-server>

use std::{collections::BTreeMap, sync::Arc};

use ruma::{OwnedServerName, api::federation::discovery::ServerSigningKeys, serde::Raw};
use serde::{Deserialize, de::IgnoredAny};

use super::{Wanted, document::believed_until_ms, fetch, publish};
use crate::{
    Server,
    error::Result,
    federation::tables::{KeyDocument, KeyDocuments},
};

/// For how many servers one request is answered, and how many of them are asked for their keys because of it.
const MAX_SERVERS: usize = 200;
const MAX_ASKED: usize = 20;

/// The keys of the servers in `asked`. Those that are not valid at the time that is wanted, lack a key that is, or have
/// been here for half of the time that they are believed for, are asked for anew; if there are no others, the answer has
/// them all the same.
pub async fn answer(
    server: &Arc<Server>,
    asked: BTreeMap<OwnedServerName, Wanted>,
) -> Result<Vec<Raw<ServerSigningKeys>>> {
    let now_ms = server.clock.now_ms();
    let asked: Vec<_> = asked.into_iter().take(MAX_SERVERS).collect();
    let known = documents(server, asked.iter().map(|(other, _)| other.clone()).collect()).await?;
    let is_wanting = |(other, wanted): &&(OwnedServerName, Wanted)| {
        other != server.name() && known.get(other).is_none_or(|document| !has(document, wanted, now_ms))
    };
    let wanting: Vec<_> = asked.iter().filter(is_wanting).map(|(other, _)| other.clone()).take(MAX_ASKED).collect();
    let mut answer = Vec::new();
    if asked.iter().any(|(other, _)| other == server.name()) {
        answer.push(publish::publish(server)?);
    }
    let known = if wanting.is_empty() {
        known
    } else {
        fetch::refresh(server, wanting).await?;
        documents(server, asked.into_iter().map(|(other, _)| other).collect()).await?
    };
    for document in known.into_values() {
        answer.push(publish::signed(server, &document.json)?);
    }
    Ok(answer)
}

fn has(document: &KeyDocument, wanted: &Wanted, now_ms: u64) -> bool {
    #[derive(Deserialize)]
    struct Keys {
        verify_keys: BTreeMap<String, IgnoredAny>,
        #[serde(default)]
        old_verify_keys: BTreeMap<String, IgnoredAny>,
    }
    let until_ms = believed_until_ms(document.valid_until_ms, document.fetched_ms);
    until_ms >= wanted.valid_at_ms
        && now_ms <= document.fetched_ms.midpoint(until_ms)
        && serde_json::from_str(&document.json).is_ok_and(|Keys { verify_keys, old_verify_keys }| {
            wanted.key_ids.iter().all(|id| verify_keys.contains_key(id) || old_verify_keys.contains_key(id))
        })
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::room::testing::TestRoom;

    #[test]
    fn a_document_is_enough_while_it_is_valid_and_has_the_keys_that_are_wanted() {
        let json = r#"{"verify_keys":{"ed25519:new":{"key":"x"}},"old_verify_keys":{"ed25519:old":{"key":"y"}}}"#;
        let document = KeyDocument { json: json.to_owned(), fetched_ms: 0, valid_until_ms: 10 };
        let wanted = |at, ids: &[&str]| Wanted {
            key_ids: ids.iter().map(ToString::to_string).collect(),
            valid_at_ms: at,
            is_calling: false,
        };
        assert!(has(&document, &wanted(10, &[]), 0));
        assert!(has(&document, &wanted(10, &["ed25519:old", "ed25519:new"]), 5));
        assert!(!has(&document, &wanted(10, &["ed25519:old", "ed25519:new"]), 6));
        assert!(!has(&document, &wanted(11, &["ed25519:new"]), 0));
        assert!(!has(&document, &wanted(10, &["ed25519:newer"]), 0));
    }

    #[test]
    fn one_query_is_answered_for_so_many_servers_only() {
        let room = TestRoom::new();
        let name = |number: usize| OwnedServerName::try_from(format!("s{number}.test")).unwrap();
        let names: Vec<_> = (0..=MAX_SERVERS).map(name).collect();
        let (known, now) = (names.clone(), room.server.clock.now_ms());
        room.change(move |tx| {
            let json = r#"{"verify_keys":{}}"#.to_owned();
            let document = KeyDocument { json, fetched_ms: now, valid_until_ms: now + 1_000 };
            for name in &known {
                tx.put::<KeyDocuments>(&name.as_str(), &document);
            }
        });
        let asked = names.into_iter().map(|name| (name, Wanted::default())).collect();
        assert_eq!(room.block_on(answer(&room.server, asked)).unwrap().len(), MAX_SERVERS);
    }
}
