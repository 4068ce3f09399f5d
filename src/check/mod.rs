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
    decode_everything(store, &mut checker)?;
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

fn decode_everything(store: &Store, checker: &mut Checker<'_>) -> Result<()> {
    let known: HashMap<_, &TableInfo> = tables::all().map(|table| ((table.family, table.id), table)).collect();
    for family in Family::ALL {
        checker.progress.set_message("rows can be read");
        store.for_each_row(family, |key, value| {
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
                checker.report.add("rows can be read", error);
            }
            Ok(())
        })?;
    }
    Ok(())
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
