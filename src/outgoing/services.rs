//! The order in which the places are tried that service records name for a server.
//!
//! <https://www.rfc-editor.org/rfc/rfc2782>, "Usage rules"

use crate::random::Random;

/// What one service record says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    pub priority: u16,
    pub weight: u16,
    pub target: String,
    pub port: u16,
}

/// Those of a smaller priority number first; among equals each place is drawn by lot, with chances in proportion to the
/// weights.
pub fn in_order(mut services: Vec<Service>, random: &Random) -> Vec<Service> {
    // Those of weight 0 come first in the drum, so that they have a small chance beside others.
    services.sort_by_key(|service| (service.priority, service.weight));
    let mut ordered = Vec::with_capacity(services.len());
    while let Some(priority) = services.first().map(|service| service.priority) {
        let equals = services.partition_point(|service| service.priority == priority);
        let total: u64 = services[..equals].iter().map(|service| u64::from(service.weight)).sum();
        // Of 64 bits, so that the remainder favors nothing that anybody could notice.
        let drawn = u64::from_be_bytes(random.bytes()) % (total + 1);
        let mut sum = 0;
        let place = services[..equals].iter().position(|service| {
            sum += u64::from(service.weight);
            sum >= drawn
        });
        ordered.push(services.remove(place.unwrap_or_default()));
    }
    ordered
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn service(priority: u16, weight: u16, target: &str) -> Service {
        Service { priority, weight, target: target.to_owned(), port: 8448 }
    }

    fn targets(services: &[Service], random: &Random) -> Vec<String> {
        in_order(services.to_vec(), random).into_iter().map(|service| service.target).collect()
    }

    #[test]
    fn a_smaller_priority_number_always_comes_first() {
        let random = Random::from_seed(1);
        let services = [service(20, 65_535, "last"), service(10, 0, "first"), service(15, 1, "second")];
        for _ in 0..50 {
            assert_eq!(targets(&services, &random), ["first", "second", "last"]);
        }
        assert!(in_order(Vec::new(), &random).is_empty());
    }

    #[test]
    fn equals_are_first_as_often_as_their_weights_say() {
        let random = Random::from_seed(1);
        let services = [service(1, 60, "a"), service(1, 30, "b"), service(1, 10, "c"), service(1, 0, "d")];
        let mut firsts: BTreeMap<String, u32> = BTreeMap::new();
        for _ in 0..10_000 {
            let ordered = targets(&services, &random);
            assert_eq!(ordered.len(), 4);
            *firsts.entry(ordered[0].clone()).or_default() += 1;
        }
        let near = |target: &str, expected: u32| {
            assert!(firsts[target].abs_diff(expected) < 300, "{target}: {firsts:?}");
        };
        near("a", 5_940);
        near("b", 2_970);
        near("c", 990);
        assert!(firsts["d"] > 0, "weight 0 is chosen seldom, not never: {firsts:?}");
    }
}
