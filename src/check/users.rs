//! Accounts: each index by position has exactly the rows of its table.

use super::Checker;
use crate::{
    store::Result,
    user::tables::{AccountData, AccountDataChanges, KeyChanges, LastKeyChange},
};

pub fn check(checker: &mut Checker<'_>) {
    checker.run("account data", account_data);
    checker.run("key changes", key_changes);
}

fn account_data(checker: &mut Checker<'_>) -> Result<()> {
    let mut count = 0;
    for row in checker.snapshot.list::<AccountData>(&()) {
        let row = row?;
        let (user_id, room, event_type) = row.key()?;
        let index = (user_id, row.value.changed, room, event_type);
        let is_indexed = checker.snapshot.contains::<AccountDataChanges>(&index)?;
        checker.expect("account data", is_indexed, || format!("{:?} is not among the changes", row.key()));
        count += 1;
    }
    let indexed = checker.snapshot.list::<AccountDataChanges>(&()).count();
    checker.expect("account data", count == indexed, || format!("{count} rows have {indexed} rows of changes"));
    Ok(())
}

fn key_changes(checker: &mut Checker<'_>) -> Result<()> {
    let mut count = 0;
    for row in checker.snapshot.list::<LastKeyChange>(&()) {
        let row = row?;
        let user_id = row.key()?;
        let is_indexed = checker.snapshot.contains::<KeyChanges>(&(row.value, user_id))?;
        checker.expect("key changes", is_indexed, || format!("{user_id} is not among the changes"));
        count += 1;
    }
    let indexed = checker.snapshot.list::<KeyChanges>(&()).count();
    checker.expect("key changes", count == indexed, || format!("{count} users have {indexed} rows of changes"));
    Ok(())
}
