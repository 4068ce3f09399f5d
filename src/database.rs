//! `chappe check` and `chappe inspect`: the database of a server that is not running.

use std::{
    io::{self, Write},
    path::Path,
};

use anyhow::{Context, bail};
use chappe::{
    check,
    store::{Options, Store},
    tables,
};
use ruma::OwnedServerName;

pub fn check(directory: &Path) -> anyhow::Result<()> {
    let (store, server_name) = open(directory)?;
    let report = check::check(&store, &server_name)?;
    for (name, count, told) in &report.problems {
        println!("{name}: {count} problems");
        told.iter().for_each(|problem| println!("  {problem}"));
        if *count > told.len() {
            println!("  … and {} more", count - told.len());
        }
    }
    if !report.is_clean() {
        bail!("the database of {server_name} contradicts itself: restore a backup, or report this as a bug");
    }
    report.notes.iter().for_each(|note| println!("{note}"));
    println!("{} rows of {server_name} were read and agree.", report.rows);
    Ok(())
}

pub fn inspect(directory: &Path, table: &str, text: &str) -> anyhow::Result<()> {
    let (store, _) = open(directory)?;
    let mut out = io::stdout().lock();
    check::inspect(&store, table, text, |key, value| {
        // A reader like `head` closes the pipe early; there is nobody left to tell.
        let _ = writeln!(out, "{key}\t{value}");
    })
}

fn open(directory: &Path) -> anyhow::Result<(Store, OwnedServerName)> {
    let server_name = Store::server_name_of(directory)?;
    let store = Store::open(&Options {
        path: directory.to_owned(),
        server_name: server_name.clone(),
        memory_bytes: 128 << 20,
        free_space_floor: 0,
        migrations: tables::MIGRATIONS,
    })?;
    let server_name = server_name.try_into().context("the server name in the data directory is none")?;
    Ok((store, server_name))
}
