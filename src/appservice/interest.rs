//! Which rooms and events a service is told of.

use ruma::{OwnedUserId, UserId};

use super::{Appservice, Interest, Running};
use crate::{
    Server,
    error::Result,
    event::StoredEvent,
    room::{
        Membership, View,
        aliases::RoomAliases,
        tables::{Members, Origin, StateChanges},
    },
    store::{self, Group, RoomNid, Scan, StreamPos},
};

/// How a room stood to a service at a moment. Kept in memory for each service, so that a message costs no look at the
/// members of its room, and a join a look at who has come. A registration that changes is read at a start, when nothing is
/// known yet.
#[derive(Clone, Debug)]
pub struct Known {
    as_of: StreamPos,
    /// A user of the service who is joined. There may be others: they are looked for when he goes.
    member: Option<OwnedUserId>,
    has_alias: bool,
}

/// Whether an event concerns a service: by its room, its sender or the member that it speaks of.
pub fn in_event(server: &Server, view: &View<'_>, event: &StoredEvent, service: &Running) -> Result<bool> {
    let registration = &service.registration;
    if registration.has_user(&event.sender) {
        return Ok(true);
    }
    if event.member().is_some_and(|member| registration.has_user(member)) {
        return Ok(true);
    }
    in_room(server, view, service)
}

/// Whether all of a room concerns a service: by its id, by one of its aliases, or by a member.
pub fn in_room(server: &Server, view: &View<'_>, service: &Running) -> Result<bool> {
    if service.registration.has_room(view.room_id()) {
        return Ok(true);
    }
    let known = match service.rooms.get(&view.nid) {
        Some(known) if !may_have_changed(server, view.nid, known.as_of) => known,
        before => {
            let known = Known::look(view, &service.registration, before)?;
            service.rooms.insert(view.nid, known.clone());
            known
        }
    };
    Ok(known.member.is_some() || known.has_alias)
}

fn may_have_changed(server: &Server, room: RoomNid, as_of: StreamPos) -> bool {
    let recent = server.store.recent();
    recent.may_have_changed::<Members>(Group::of(room), as_of)
        || recent.may_have_changed::<RoomAliases>(Group::of(room), as_of)
}

impl Known {
    fn look(view: &View<'_>, service: &Appservice, before: Option<Self>) -> store::Result<Self> {
        let member = match before {
            Some(Self { member: Some(member), .. }) if is_joined(view, &member)? => Some(member),
            Some(Self { member: None, as_of, .. }) => newcomer(view, service, as_of)?,
            _ => any_member(view, service)?,
        };
        let has_alias = service.has_aliases() && has_alias(view, service)?;
        Ok(Self { as_of: view.snapshot.pos()?, member, has_alias })
    }
}

fn is_joined(view: &View<'_>, user: &UserId) -> store::Result<bool> {
    view.snapshot.contains::<Members>(&(view.nid, Membership::Join, Origin::Local, user))
}

/// A user of the service who came after `as_of`, when there was none.
fn newcomer(view: &View<'_>, service: &Appservice, as_of: StreamPos) -> store::Result<Option<OwnedUserId>> {
    let changes = Scan::from::<StateChanges>(&(view.nid, as_of.next()), &view.nid);
    for row in view.snapshot.scan::<StateChanges>(changes) {
        let key = view.state_key_name(row?.key()?.2)?;
        let user = <&UserId>::try_from(&*key.state_key).ok().filter(|_| key.event_type == "m.room.member");
        if let Some(user) = user.filter(|user| service.has_user(user))
            && is_joined(view, user)?
        {
            return Ok(Some(user.to_owned()));
        }
    }
    Ok(None)
}

/// A user of the service who is joined to the room.
pub fn any_member(view: &View<'_>, service: &Appservice) -> store::Result<Option<OwnedUserId>> {
    for member in view.each_local_member() {
        let member = member?;
        if service.has_user(&member) {
            return Ok(Some(member));
        }
    }
    Ok(None)
}

fn has_alias(view: &View<'_>, service: &Appservice) -> store::Result<bool> {
    for row in view.snapshot.list::<RoomAliases>(&view.nid) {
        if service.alias(row?.key()?.1) > Interest::None {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use ruma::{room_alias_id, server_name};
    use serde_json::json;

    use super::*;
    use crate::{
        appservice::registration::TRIED,
        room::testing::{TestRoom, user},
        store::steps,
    };

    fn service(namespaces: &str) -> Running {
        let text = format!("id: s\nas_token: a\nhs_token: h\nsender_localpart: bot\nnamespaces:\n{namespaces}\n");
        Running::new(Appservice::parse(&text, server_name!("chappe.test")).unwrap())
    }

    fn ghosts() -> Running {
        service("  users:\n    - exclusive: true\n      regex: '@(a|z)_irc_.*'")
    }

    /// Whether the room concerns the service, and how many rows were stepped over and ids tried for that.
    fn ask(room: &TestRoom, service: &Running) -> (bool, u64) {
        let snapshot = room.server.store.snapshot();
        let view = View::of(&room.server.rooms, &snapshot, room.nid).unwrap();
        let before = TRIED.get();
        let (concerns, steps) = steps(|| in_room(&room.server, &view, service).unwrap());
        (concerns, steps + TRIED.get() - before)
    }

    #[test]
    fn a_room_concerns_a_service_while_one_of_its_users_is_there() {
        let (room, service) = (TestRoom::new(), ghosts());
        let asked = || ask(&room, &service).0;
        let join = |name: &str| room.member(name, name, "join");
        let leave = |name: &str| room.member(name, name, "leave");
        assert!(!asked());
        join("bob");
        assert!(!asked());
        join("a_irc_1");
        assert!(asked());
        join("z_irc_2");
        leave("a_irc_1");
        assert!(asked(), "another is there");
        leave("z_irc_2");
        assert!(!asked());
        leave("bob");
        assert!(!asked());
        join("a_irc_1");
        leave("a_irc_1");
        join("z_irc_2");
        leave("z_irc_2");
        join("z_irc_2");
        room.state("alice", "m.room.name", "", &json!({ "name": "x" }));
        assert!(asked(), "of all that happened since it was asked last the last counts");
    }

    #[test]
    fn what_was_known_before_a_start_with_another_registration_does_not_count() {
        let room = TestRoom::new();
        room.member("bob", "bob", "join");
        assert!(!ask(&room, &ghosts()).0);
        assert!(ask(&room, &service("  users:\n    - exclusive: false\n      regex: '@bob.*'")).0);
        assert!(!ask(&room, &ghosts()).0);
    }

    #[test]
    fn aliases_count_as_long_as_they_are_there() {
        let room = TestRoom::new();
        let service = service("  aliases:\n    - exclusive: false\n      regex: '#irc_.*'");
        let (nid, alias) = (room.nid, room_alias_id!("#irc_office:chappe.test"));
        assert!(!ask(&room, &service).0);
        room.change(move |tx| tx.put::<RoomAliases>(&(nid, alias), &()));
        assert!(ask(&room, &service).0);
        room.change(move |tx| tx.delete::<RoomAliases>(&(nid, alias)));
        assert!(!ask(&room, &service).0);
    }

    #[test]
    fn a_message_or_a_join_costs_the_same_however_many_members_there_are() {
        let room = TestRoom::new();
        let (with, without) = (ghosts(), service("  users: []"));
        for n in 0..200 {
            room.member(&format!("user{n}"), &format!("user{n}"), "join");
        }
        room.member("z_irc_1", "z_irc_1", "join");
        ask(&room, &with);
        ask(&room, &without);
        let cost = |what: &str| {
            for (service, expected) in [(&with, true), (&without, false)] {
                let (concerns, steps) = ask(&room, service);
                assert_eq!(concerns, expected, "{what}");
                assert!(steps < 20, "after {what} {steps} rows and ids were looked at");
            }
        };
        room.message("alice", "hello");
        cost("a message");
        room.member("carol", "carol", "join");
        cost("a join");
        room.member("user7", "user7", "leave");
        cost("a leave");
        assert!(!without.registration.has_user(&user("alice")));
    }
}
