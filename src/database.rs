//! `chappe check`, `inspect`, `destinations`, `rotate-key` and `restored`: what is done with a database from outside the server.

use std::{
    io::{self, Write},
    path::Path,
    time::{Duration, UNIX_EPOCH},
};

use anyhow::{Context, bail};
use chappe::{
    check,
    clock::Clock,
    config::LogFormat,
    federation::{
        keys::own,
        status::{self, Failures, Status},
    },
    logging,
    random::Random,
    restored,
    store::{Options, ReadOnly, Store},
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

/// Prints how it goes with each server that we send to, one per line, the failing ones first. The server may run.
pub fn destinations(directory: &Path) -> anyhow::Result<()> {
    let server_name = Store::server_name_of(directory)?;
    let database = ReadOnly::open(&options(directory, server_name))?;
    let mut all = status::list(&database.snapshot())?;
    all.sort_by_key(|status| status.failing.is_none());
    let mut out = io::stdout().lock();
    for status in all {
        let Status { server, waiting, delivered, failing } = status;
        let delivered = delivered.map_or_else(|| "never".to_owned(), |delivery| utc(delivery.at_ms));
        write!(out, "{server}\twaiting: {waiting}\tdelivered: {delivered}")?;
        match failing {
            None => writeln!(out, "\tok")?,
            Some(Failures { since_ms, tried_ms: _, retry_at_ms, count, reason }) => {
                let (since, retry_at) = (utc(since_ms), utc(retry_at_ms));
                writeln!(out, "\tfailing since: {since}\ttries: {count}\tnext: {retry_at}\tbecause: {reason:?}")?;
            }
        }
    }
    Ok(())
}

/// Gives the server a new signing key.
pub fn rotate_key(directory: &Path) -> anyhow::Result<()> {
    let (store, server_name) = open(directory)?;
    let rotated = own::rotate(&store, &Random::from_system(), Clock::System.now_ms())?;
    println!(
        "{server_name} signs with {} from its next start on; {} stays known as its old key.",
        rotated.new, rotated.old
    );
    Ok(())
}

/// Has the server begin anew where its database was put back to an earlier state.
pub fn restored(directory: &Path) -> anyhow::Result<()> {
    let server_name = Store::server_name_of(directory)?;
    let options = Options { is_restored: true, ..options(directory, server_name.clone()) };
    drop(Store::open(&options)?);
    println!(
        "{server_name} begins anew from here: clients that know a later state start over, all one-time keys are removed, \
         and other servers ask for all devices again."
    );
    Ok(())
}

fn utc(ms: u64) -> String {
    httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_millis(ms))
}

fn options(directory: &Path, server_name: String) -> Options {
    Options {
        path: directory.to_owned(),
        server_name,
        memory_bytes: 128 << 20,
        free_space_floor: 0,
        counts: false,
        migrations: tables::MIGRATIONS,
        now_ms: Clock::System.now_ms(),
        is_restored: false,
        on_restore: restored::begin_anew,
    }
}

fn open(directory: &Path) -> anyhow::Result<(Store, OwnedServerName)> {
    logging::start("warn", LogFormat::Readable)?; // whoever opens it first after a restore is the one who is told
    let server_name = Store::server_name_of(directory)?;
    let store = Store::open(&options(directory, server_name.clone()))?;
    let server_name = server_name.try_into().context("the server name in the data directory is none")?;
    Ok((store, server_name))
}
