//! Look-ups in the networks that services bridge to.
//!
//! <https://spec.matrix.org/v1.19/application-service-api/#third-party-networks>

use std::{collections::BTreeMap, sync::Arc};

use futures_util::future::join_all;
use serde_json::{Map, Value};
use tracing::debug;

use super::{Running, call};
use crate::{
    Server,
    error::{Error, Result},
};

/// All protocols of all services. Several services may speak one: then the instances of all are listed.
pub async fn protocols(server: &Server) -> Map<String, Value> {
    let asked = server
        .appservices
        .iter()
        .flat_map(|service| service.registration.protocols.iter().map(move |protocol| (service, protocol.as_str())));
    let asked: Vec<_> = asked.collect();
    let answers = join_all(asked.iter().map(|(service, protocol)| of_service(server, service, protocol))).await;
    let mut found: BTreeMap<String, Map<String, Value>> = BTreeMap::new();
    for ((_, protocol), answer) in asked.into_iter().zip(answers) {
        if let Some(answer) = answer {
            merge(found.entry(protocol.to_owned()).or_default(), answer);
        }
    }
    found.into_iter().map(|(protocol, answer)| (protocol, Value::Object(answer))).collect()
}

/// One protocol. `M_NOT_FOUND` if no service speaks it.
pub async fn protocol(server: &Server, protocol: &str) -> Result<Map<String, Value>> {
    let mut found = Map::new();
    for service in speaking(server, Some(protocol)) {
        if let Some(answer) = of_service(server, service, protocol).await {
            merge(&mut found, answer);
        }
    }
    if found.is_empty() { Err(Error::not_found("No application service speaks this protocol")) } else { Ok(found) }
}

/// What services list at `path` (`["user", "irc"]`) for a query; all that speak `protocol` are asked, or all at all.
pub async fn look_up(
    server: &Server,
    protocol: Option<&str>,
    path: &[&str],
    query: Vec<(String, String)>,
) -> Result<Vec<Value>> {
    let path: Vec<&str> = ["thirdparty"].into_iter().chain(path.iter().copied()).collect();
    let services: Vec<_> = speaking(server, protocol).collect();
    let client = &server.appservices.client;
    let asked = services.iter().map(|service| call::get_json(client, &service.registration, &path, &query));
    let mut found = Vec::new();
    for (service, answer) in services.iter().zip(join_all(asked).await) {
        match answer {
            Ok(answer) => found.extend::<Vec<Value>>(answer),
            Err(error) => debug!(service = service.registration.id, %error, "a look-up failed"),
        }
    }
    if found.is_empty() { Err(Error::not_found("Nothing was found")) } else { Ok(found) }
}

fn speaking<'s>(server: &'s Server, protocol: Option<&'s str>) -> impl Iterator<Item = &'s Arc<Running>> {
    server.appservices.iter().filter(move |service| {
        let protocols = &service.registration.protocols;
        protocol.map_or(!protocols.is_empty(), |protocol| protocols.iter().any(|other| other == protocol))
    })
}

async fn of_service(server: &Server, service: &Running, protocol: &str) -> Option<Map<String, Value>> {
    let client = &server.appservices.client;
    let path = ["thirdparty", "protocol", protocol];
    match call::get_json::<Map<String, Value>>(client, &service.registration, &path, &[]).await {
        Ok(mut answer) => {
            name_instances(&service.registration.id, &mut answer);
            Some(answer)
        }
        Err(error) => {
            debug!(service = service.registration.id, %error, "an application service does not describe a protocol");
            None
        }
    }
}

/// The name by which clients tell one network of one service from all others.
pub fn instance_id(service: &str, network_id: &str) -> String {
    format!("{service}|{network_id}")
}

/// Adds to each network of a protocol its name for clients, which services do not know.
fn name_instances(service: &str, protocol: &mut Map<String, Value>) {
    let instances = protocol.get_mut("instances").and_then(Value::as_array_mut);
    for instance in instances.into_iter().flatten().filter_map(Value::as_object_mut) {
        let network_id = instance.get("network_id").and_then(Value::as_str).unwrap_or_default();
        let id = instance_id(service, network_id);
        instance.insert("instance_id".to_owned(), id.into());
    }
}

/// Adds the instances of another service to what is known of a protocol.
fn merge(known: &mut Map<String, Value>, mut other: Map<String, Value>) {
    if known.is_empty() {
        *known = other;
        return;
    }
    if let (Some(Value::Array(known)), Some(Value::Array(more))) =
        (known.get_mut("instances"), other.get_mut("instances"))
    {
        known.append(more);
    }
}
