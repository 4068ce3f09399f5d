//! `chappe user …`: the accounts of a server that is not running.

use std::{
    io::{self, Write},
    sync::Arc,
};

use anyhow::{Context, anyhow};
use chappe::{Server, clock::Clock, config::Config, error::Error, logging, random::Random, user::account};
use clap::Subcommand;
use tokio::runtime::Runtime;

/// Length of a generated password: nearly 120 bits of chance.
const PASSWORD_LENGTH: usize = 20;

#[derive(Subcommand)]
pub enum UserCommand {
    /// Make an account and print its id, and its password if that was generated
    Create {
        /// The first part of the user id: `alice` for @alice:example.org
        name: String,
        /// Give the account the rights of a server administrator
        #[arg(long)]
        admin: bool,
        /// Read the password, one line, from standard input instead of generating one
        #[arg(long)]
        password_stdin: bool,
    },
    /// Print all accounts, one per line: user id, then `admin` or `user`, then `deactivated` where that is so
    List,
}

pub fn run(config: Config, command: UserCommand) -> anyhow::Result<()> {
    logging::start(&Config { log: "warn".to_owned(), ..config.clone() })?;
    let server = Server::open(config, Clock::System, Random::from_system())
        .context("cannot open `database_path`; a running server must be stopped first")?;
    match command {
        UserCommand::Create { name, admin, password_stdin } => {
            let runtime = Runtime::new().context("cannot start threads")?;
            runtime.block_on(create(&server, &name, admin, password_stdin))
        }
        UserCommand::List => list(&server),
    }
}

async fn create(server: &Arc<Server>, name: &str, is_admin: bool, from_stdin: bool) -> anyhow::Result<()> {
    let given = if from_stdin { Some(read_password()?) } else { None };
    let password = given.clone().unwrap_or_else(|| server.random.text(PASSWORD_LENGTH));
    let user_id = account::create(server, name, password.clone(), is_admin).await.map_err(on_terminal)?;
    let mut out = io::stdout();
    writeln!(out, "user      {user_id}")?;
    if given.is_none() {
        writeln!(out, "password  {password}")?;
    }
    Ok(())
}

fn read_password() -> anyhow::Result<String> {
    let mut line = String::new();
    io::stdin().read_line(&mut line).context("cannot read the password from standard input")?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

fn list(server: &Server) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    for (user_id, account) in account::list(&server.store.snapshot()).map_err(on_terminal)? {
        let role = if account.is_admin { "admin" } else { "user" };
        let end = if account.deactivated.is_some() { "\tdeactivated" } else { "" };
        writeln!(out, "{user_id}\t{role}{end}")?;
    }
    Ok(())
}

/// What a refusal says to a person; errcodes are for clients.
fn on_terminal(error: Error) -> anyhow::Error {
    match error {
        Error::Refused { message, .. } => anyhow!("{message}"),
        Error::AuthRequired(_) => anyhow!("this needs a client to confirm who asks"),
        Error::Internal(cause) => cause,
    }
}
