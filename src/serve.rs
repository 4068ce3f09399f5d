//! `chappe serve`: from the configuration to a running server, and to its orderly end.

use std::{panic, sync::Arc, time::Duration};

use anyhow::Context;
use chappe::{
    Server, background,
    clock::Clock,
    config::Config,
    http::{self, listen::Listeners, tls::Certificates},
    logging,
    media::open_files::MAX_OPEN,
    random::Random,
    room::typing::Kept,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{
    runtime::Builder,
    signal::unix::{Signal, SignalKind, signal},
};
use tracing::{error, info, warn};

/// File descriptors that are left to the database and to media when all places for connections are taken.
const RESERVED_FILES: u64 = 1_024 + MAX_OPEN as u64;
/// How many threads read the disk and make answers at a time, each with what it has read in memory; other requests wait for
/// one. None of them waits for another, but up to sixteen for a server that reads a large answer slowly.
const MAX_BLOCKING: usize = 64;
/// Time for work that no request waits for any more, when the server ends.
const LAST_WORK: Duration = Duration::from_secs(5);

/// Runs the server until it is told to stop.
pub fn run(config: Config) -> anyhow::Result<()> {
    logging::start(&config.log, config.log_format)?;
    panic::set_hook(Box::new(|panic| error!("{panic}")));
    info!(version = env!("CARGO_PKG_VERSION"), server_name = %config.server_name, "starting");
    config.warnings().iter().for_each(|warning| warn!("{warning}"));
    let runtime = Builder::new_multi_thread().enable_all().max_blocking_threads(MAX_BLOCKING).build();
    let runtime = runtime.context("cannot start threads")?;
    runtime.block_on(serve(config))?;
    runtime.shutdown_timeout(LAST_WORK);
    info!("stopped");
    Ok(())
}

async fn serve(config: Config) -> anyhow::Result<()> {
    // The handlers of signals come first: from here on a signal ends the server in order.
    let (terminate, interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let hang_up = signal(SignalKind::hangup())?;
    let listeners = Listeners::bind(&config, raise_connection_limit())?;
    let for_metrics = Listeners::bind_metrics(&config)?;
    let opened = tokio::task::spawn_blocking(|| Server::open(config, Clock::System, Random::from_system()));
    let server = opened.await??;
    Kept::remove(&server.store).await;
    tokio::spawn(reload(hang_up, listeners.certificates()));
    background::start(&server);
    let shutdown = server.shutdown.clone();
    let stop = shutdown.clone();
    tokio::spawn(async move {
        first(terminate, interrupt).await;
        info!("stopping");
        stop.cancel();
    });
    let metrics = async {
        if let Some(listeners) = for_metrics {
            listeners.serve(http::metrics::router(Arc::clone(&server)), shutdown.clone()).await;
        }
    };
    tokio::join!(listeners.serve(http::router(Arc::clone(&server)), shutdown.clone()), metrics);
    if let Err(error) = server.typing.keep(&server.store).await {
        warn!(?error, "clients will not hear who stopped typing");
    }
    Ok(())
}

/// Waits for one of two signals.
async fn first(mut terminate: Signal, mut interrupt: Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

/// At each SIGHUP, reads the certificate again; without TLS the signal does nothing.
async fn reload(mut hang_up: Signal, certificates: Option<Arc<Certificates>>) {
    while hang_up.recv().await.is_some() {
        match certificates.as_ref().map(|certificates| certificates.reload()) {
            None => info!("nothing to reload: there is no [global.tls]"),
            Some(Ok(())) => info!("the certificate was read again"),
            Some(Err(error)) => error!("the old certificate stays in use: {:#}", anyhow::Error::from(error)),
        }
    }
}

/// Lets this process open as many files as the system allows, and gives how many of them may be connections.
fn raise_connection_limit() -> usize {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let files = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(error) => {
            warn!(%error, "cannot raise the limit of open files");
            limit.current
        }
    };
    let files = files.unwrap_or(u64::MAX); // `None` is "no limit"
    let connections = files.saturating_sub(RESERVED_FILES).max(files / 2);
    usize::try_from(connections).unwrap_or(usize::MAX)
}
