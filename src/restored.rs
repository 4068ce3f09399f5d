//! What is done when the database was put back to an earlier state: clients and other servers remember a future that it
//! knows nothing of, and must neither be given its one-time keys a second time nor take new things for those of then.
//!
//! The store notices it (`store/place.rs`) and goes on with positions that the lost future did not use. So tokens of then
//! are known for what they are, and transactions to other servers, whose ids are made of positions, are new ones. What
//! positions do not mend is here; numbers that clients compare are raised where they are given out, by
//! [`Snapshot::restored_ms`](crate::store::Snapshot::restored_ms).

use crate::{
    appservice::tables::Cursors,
    federation::queue,
    store::{Result, Row, Transaction},
    user::keys::{one_time, remote},
};

/// Part of the transaction that notes the restore.
pub fn begin_anew(tx: &mut Transaction<'_>, now_ms: u64) -> Result<()> {
    one_time::forget_all(tx)?;
    remote::doubt_all(tx)?;
    queue::tell_devices_again(tx)?;
    // Services take a number that they have seen for a repeated transaction.
    let cursors: Vec<Row<Cursors>> = tx.before().list::<Cursors>(&()).collect::<Result<_>>()?;
    for mut row in cursors {
        row.value.transaction = row.value.transaction.max(now_ms);
        tx.put::<Cursors>(&row.key()?, &row.value);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        appservice::tables::{self, Cursor, Transactions},
        check,
        room::testing::TestRoom,
    };

    #[test]
    fn transactions_to_services_get_numbers_that_the_lost_future_cannot_have_used() {
        let room = TestRoom::new();
        room.change(|tx| {
            tx.put::<Cursors>(&"irc", &Cursor { transaction: 7, ..Cursor::default() });
            tx.put::<Transactions>(&"irc", &tables::Transaction { number: 7, body: "{}".to_owned() });
        });
        room.change(|tx| begin_anew(tx, 1_000_000).unwrap());
        let cursor = room.server.store.snapshot().get::<Cursors>(&"irc").unwrap().unwrap();
        assert_eq!(cursor.transaction, 1_000_000);
        room.change(|tx| begin_anew(tx, 5).unwrap());
        let cursor = room.server.store.snapshot().get::<Cursors>(&"irc").unwrap().unwrap();
        assert_eq!(cursor.transaction, 1_000_000, "a wrong clock takes none back");
        let report = check::check(&room.server.store, room.server.name()).unwrap();
        assert!(report.problems.iter().all(|(name, ..)| *name != "application services"), "{:#?}", report.problems);
    }
}
