//! `chappe check` and `chappe inspect`: the whole database, read for people.

mod federation;
mod graph;
mod indexes;
mod media;
mod partial;
mod push;
mod rooms;
mod users;

use std::collections::HashMap;

use indicatif::{ProgressBar, ProgressStyle};

use crate::{
    room::Rooms,
    store::{Error, Family, Result, Snapshot, Store, TableInfo},
    tables,
};

/// How many problems of one kind are told in full.
const TOLD: usize = 20;

/// What is wrong with a database.
#[derive(Debug, Default)]
pub struct Report {
    pub rows: u64,
    /// By what was checked: how often, and the first few in words.
    pub problems: Vec<(&'static str, usize, Vec<String>)>,
    /// What is worth telling, but is as it should be.
    pub notes: Vec<String>,
}

impl Report {
    pub fn is_clean(&self) -> bool {
        self.problems.is_empty()
    }

    fn add(&mut self, check: &'static str, problem: impl ToString) {
        let known = self.problems.iter_mut().find(|(name, ..)| *name == check);
        let (_, count, told) = match known {
            Some(known) => known,
            None => self.problems.push_mut((check, 0, Vec::new())),
        };
        *count += 1;
        if told.len() < TOLD {
            told.push(problem.to_string());
        }
    }
}

/// What the checks of one subject need.
struct Checker<'s> {
    snapshot: &'s Snapshot<'s>,
    rooms: &'s Rooms,
    server_name: &'s ruma::ServerName,
    report: Report,
    progress: ProgressBar,
}

impl Checker<'_> {
    fn expect(&mut self, check: &'static str, holds: bool, problem: impl FnOnce() -> String) {
        if !holds {
            self.report.add(check, problem());
        }
    }

    /// Runs one check and shows that it does; a row that can't be read is a problem like others.
    fn run(&mut self, check: &'static str, work: impl FnOnce(&mut Self) -> Result<()>) {
        self.progress.set_message(check);
        if let Err(error) = work(self) {
            self.report.add(check, error);
        }
    }
}

/// Reads every row of the database and compares those that must agree. Shows a progress bar on a terminal.
pub fn check(store: &Store, server_name: &ruma::ServerName) -> Result<Report> {
    let rooms = Rooms::open(store)?;
    let snapshot = store.snapshot();
    let rows = Family::ALL.into_iter().map(|family| store.estimate_rows(family)).sum();
    let progress = ProgressBar::new(rows).with_style(
        ProgressStyle::with_template("{elapsed:>4} {wide_bar} {pos}/{len} rows  {msg}").expect("the template is right"),
    );
    let mut checker = Checker { snapshot: &snapshot, rooms: &rooms, server_name, report: Report::default(), progress };
    decode_everything(store, &mut checker);
    rooms::check(&mut checker);
    graph::check(&mut checker);
    indexes::check(&mut checker);
    push::check(&mut checker);
    users::check(&mut checker);
    federation::check(&mut checker);
    partial::check(&mut checker);
    media::check(&mut checker, store);
    checker.progress.finish_and_clear();
    Ok(checker.report)
}

fn decode_everything(store: &Store, checker: &mut Checker<'_>) {
    let name = "rows can be read";
    let known: HashMap<_, &TableInfo> = tables::all().map(|table| ((table.family, table.id), table)).collect();
    for family in Family::ALL {
        checker.progress.set_message(name);
        let read = store.for_each_row(family, |key, value| {
            checker.report.rows += 1;
            if checker.report.rows.is_multiple_of(1024) {
                checker.progress.set_position(checker.report.rows);
            }
            let table = key.first().and_then(|id| known.get(&(family, *id)));
            let shown = match table {
                Some(table) => (table.show)(key, value).map(drop),
                None => Err(Error::corrupt(family.name(), key, "no table has keys like this")),
            };
            if let Err(error) = shown {
                checker.report.add(name, error);
            }
            Ok(())
        });
        // Of a damaged block RocksDB tells no row, nor what comes after it.
        if let Err(error) = read {
            checker.report.add(name, format!("not all of `{}`: {error}", family.name()));
        }
    }
}

/// Tells `visit` the rows of a table whose keys, as they are printed, contain `text`.
///
/// The error is for people: it lists the tables if there is none of that name.
pub fn inspect(store: &Store, table: &str, text: &str, mut visit: impl FnMut(&str, &str)) -> anyhow::Result<()> {
    let names = || tables::all().map(|table| table.name).collect::<Vec<_>>().join(", ");
    let found = tables::all().find(|known| known.name == table);
    let table = found.ok_or_else(|| anyhow::anyhow!("there is no table `{table}`; there are: {}", names()))?;
    store.for_each_row_of(table, |key, value| {
        match (table.show)(key, value) {
            Ok((key, value)) if key.contains(text) => visit(&key, &value),
            Ok(_) => {}
            Err(error) => visit("unreadable", &error.to_string()),
        }
        Ok(())
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use ruma::{ServerName, user_id};

    use super::*;
    use crate::{
        store::{Options, RoomNid, Transaction},
        user::tables::{AccountData, AccountDatum},
    };

    #[test]
    fn a_damaged_block_is_told_and_keeps_nothing_else_from_being_checked() {
        const CONTENT: &str = r#"{"x":"what no other row says"}"#;
        let directory = tempfile::tempdir().unwrap();
        let options = Options::for_tests(directory.path());
        let write = |tx: &mut Transaction<'_>| {
            let datum = AccountDatum { changed: tx.pos(), content: CONTENT.to_owned() };
            tx.put::<AccountData>(&(user_id!("@alice:test"), RoomNid(0), "x"), &datum);
            Ok::<_, Error>(())
        };
        Store::open(&options).unwrap().commit_blocking(write).unwrap();
        drop(Store::open(&options).unwrap()); // which writes into a file of its own what is in the log
        let mut damaged = 0;
        for file in fs::read_dir(directory.path().join("db")).unwrap() {
            let path = file.unwrap().path();
            let mut bytes = fs::read(&path).unwrap();
            let found = bytes.windows(CONTENT.len()).position(|part| part == CONTENT.as_bytes());
            if let Some(at) = found.filter(|_| path.extension().is_some_and(|extension| extension == "sst")) {
                bytes[at] ^= 1;
                fs::write(&path, bytes).unwrap();
                damaged += 1;
            }
        }
        assert_eq!(damaged, 1);

        let store = Store::open(&options).unwrap();
        let snapshot = store.snapshot();
        assert_eq!(snapshot.list::<AccountData>(&()).count(), 1, "the error, once");
        let Some(Err(Error::RocksDb(cause))) = snapshot.list::<AccountData>(&()).next() else { panic!("it is read") };
        let stopped = Error::Stopped(cause).to_string();
        assert!(stopped.contains("restore a backup"), "{stopped}");
        let report = check(&store, <&ServerName>::try_from("test").unwrap()).unwrap();
        let told = |check: &str| report.problems.iter().find(|(name, ..)| *name == check).map(|(_, _, told)| told);
        let unread = told("rows can be read").unwrap();
        assert!(unread.len() == 1 && unread[0].contains("`user`"), "{unread:?}");
        assert!(unread[0].contains("restore a backup"), "{unread:?}");
        assert!(told("account data").is_some(), "{:?}", report.problems);
        assert!(report.rows > 0, "other families are read");
    }
}
