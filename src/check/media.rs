//! The content repository: each upload has its file and its index rows, and the counts are right.

use std::collections::BTreeMap;

use super::Checker;
use crate::{
    media::{
        files::Files,
        list_orphans,
        remote::{
            self,
            tables::{RemoteFiles, RemoteMedia, RemoteUse},
        },
        tables::{Media, MediaFiles, MediaUsage, PendingOfUser, PendingUploads, Usage},
    },
    store::{Result, Store},
};

pub fn check(checker: &mut Checker<'_>, store: &Store) {
    let files = Files::of(store.path());
    checker.run("media", |checker| uploads(checker, &files));
    checker.run("pending uploads", pending);
    checker.run("remote media", |checker| remote(checker, &files));
    match list_orphans(&files, store) {
        Ok(orphans) if orphans.is_empty() => {}
        Ok(orphans) => checker.report.notes.push(format!(
            "{} files are left from uploads that a crash interrupted; the next start removes them.",
            orphans.len()
        )),
        Err(error) => checker.report.add("media", error),
    }
}

fn uploads(checker: &mut Checker<'_>, files: &Files) -> Result<()> {
    let mut count = 0;
    let mut usage = BTreeMap::<_, Usage>::new();
    for row in checker.snapshot.list::<Media>(&()) {
        let row = row?;
        let (id, item) = (row.key()?, &row.value);
        let size = files.content_size(item.file);
        let is_whole = matches!(size, Ok(Some(size)) if size == item.size);
        checker.expect("media", is_whole, || format!("{id}: of {} bytes, the file has: {size:?}", item.size));
        let indexed = checker.snapshot.get::<MediaFiles>(&item.file.to_bytes())?;
        checker.expect("media", indexed.as_deref() == Some(id), || format!("{id}: its file is {indexed:?}'s"));
        let usage = usage.entry(item.uploader.clone()).or_default();
        usage.files += 1;
        usage.bytes += item.size;
        count += 1;
    }
    let indexed = checker.snapshot.list::<MediaFiles>(&()).count();
    checker.expect("media", count == indexed, || format!("{count} uploads have {indexed} rows of files"));
    let counted: Vec<_> = checker.snapshot.list::<MediaUsage>(&()).collect::<Result<_>>()?;
    checker
        .expect("media", counted.len() == usage.len(), || "the users who uploaded are others than counted".to_owned());
    for row in counted {
        let true_usage = usage.get(row.key()?).copied().unwrap_or_default();
        let is_right = row.value == true_usage;
        checker.expect("media", is_right, || format!("{:?}: {:?}, truly {true_usage:?}", row.key(), row.value));
    }
    Ok(())
}

fn remote(checker: &mut Checker<'_>, files: &Files) -> Result<()> {
    let mut usage = Usage::default();
    for row in checker.snapshot.list::<RemoteMedia>(&()) {
        let row = row?;
        let ((server, id), stored) = (row.key()?, &row.value.stored);
        let size = files.content_size(stored.file);
        let is_whole = matches!(size, Ok(Some(size)) if size == stored.size);
        checker.expect("remote media", is_whole, || {
            format!("{server}/{id}: of {} bytes, the file has: {size:?}", stored.size)
        });
        let file = stored.file.to_bytes();
        let indexed = checker.snapshot.get::<RemoteFiles>(&file)?;
        let is_indexed = indexed.as_ref().is_some_and(|(of, name)| (of.as_str(), name.as_str()) == (server, id));
        checker.expect("remote media", is_indexed, || format!("{server}/{id}: its file is {indexed:?}'s"));
        let is_in_order = checker.snapshot.contains::<RemoteUse>(&(row.value.used_at_ms, file))?;
        checker.expect("remote media", is_in_order, || format!("{server}/{id}: it is not in the order of use"));
        usage.files += 1;
        usage.bytes += stored.size;
    }
    let counts = (
        checker.snapshot.list::<RemoteFiles>(&()).count() as u64,
        checker.snapshot.list::<RemoteUse>(&()).count() as u64,
    );
    let files = usage.files;
    checker.expect("remote media", counts == (files, files), || format!("{files} files have {counts:?} index rows"));
    let counted = remote::usage(checker.snapshot)?;
    checker.expect("remote media", counted == usage, || format!("counted as {counted:?}, truly {usage:?}"));
    Ok(())
}

fn pending(checker: &mut Checker<'_>) -> Result<()> {
    let mut count = 0;
    for row in checker.snapshot.list::<PendingUploads>(&()) {
        let row = row?;
        let id = row.key()?;
        let of_user = checker.snapshot.get::<PendingOfUser>(&(&row.value.user, id))?;
        let is_indexed = of_user == Some(row.value.expires_at_ms);
        checker.expect("pending uploads", is_indexed, || format!("{id} is not among those of {}", row.value.user));
        let has_content = checker.snapshot.contains::<Media>(&id)?;
        checker.expect("pending uploads", !has_content, || format!("{id} has content"));
        count += 1;
    }
    let indexed = checker.snapshot.list::<PendingOfUser>(&()).count();
    checker.expect("pending uploads", count == indexed, || format!("{count} uploads have {indexed} rows of users"));
    Ok(())
}
