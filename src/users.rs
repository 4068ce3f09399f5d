//! `chappe user …`: the accounts of a server that is not running.

use std::{
    io::{self, Write},
    sync::Arc,
};

use anyhow::{Context, anyhow};
use chappe::{
    Server,
    clock::Clock,
    config::Config,
    error::Error,
    logging,
    random::Random,
    user::{account, device::Selection, password},
};
use clap::Subcommand;
use ruma::UserId;
use tokio::runtime::Runtime;

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
    /// Give an account another password, log all its devices out, and print what `create` prints
    SetPassword {
        /// The user id, or its first part
        name: String,
        /// As for `create`
        #[arg(long)]
        password_stdin: bool,
    },
}

pub fn run(config: Config, command: UserCommand) -> anyhow::Result<()> {
    logging::start("warn", config.log_format)?;
    let server = Server::open(config, Clock::System, Random::from_system())?;
    match command {
        UserCommand::Create { name, admin, password_stdin } => {
            runtime()?.block_on(create(&server, &name, admin, password_stdin))
        }
        UserCommand::List => list(&server),
        UserCommand::SetPassword { name, password_stdin } => {
            runtime()?.block_on(set_password(&server, &name, password_stdin))
        }
    }
}

fn runtime() -> anyhow::Result<Runtime> {
    Runtime::new().context("cannot start threads")
}

async fn create(server: &Arc<Server>, name: &str, is_admin: bool, from_stdin: bool) -> anyhow::Result<()> {
    let password = Password::choose(server, from_stdin)?;
    let user_id = account::create(server, name, password.text.clone(), is_admin).await.map_err(on_terminal)?;
    password.print_for(&user_id)
}

async fn set_password(server: &Arc<Server>, name: &str, from_stdin: bool) -> anyhow::Result<()> {
    let user_id = account::of_name(server.name(), name).context("no account of this server can have this name")?;
    let password = Password::choose(server, from_stdin)?;
    let set = account::set_password(Arc::clone(server), user_id.clone(), password.text.clone(), Selection::All);
    set.await.map_err(on_terminal)?;
    password.print_for(&user_id)
}

struct Password {
    text: String,
    is_generated: bool,
}

impl Password {
    fn choose(server: &Server, from_stdin: bool) -> anyhow::Result<Self> {
        let text = if from_stdin {
            read_password()?
        } else {
            password::generate(&server.config.password_policy, &server.random)
        };
        Ok(Self { text, is_generated: !from_stdin })
    }

    fn print_for(&self, user_id: &UserId) -> anyhow::Result<()> {
        let mut out = io::stdout();
        writeln!(out, "user      {user_id}")?;
        if self.is_generated {
            writeln!(out, "password  {}", self.text)?;
        }
        Ok(())
    }
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
        let end = if account.is_active() { "" } else { "\tdeactivated" };
        writeln!(out, "{user_id}\t{role}{end}")?;
    }
    Ok(())
}

/// What a refusal says to a person; errcodes are for clients.
fn on_terminal(error: Error) -> anyhow::Error {
    match error {
        Error::Refused { message, .. } => anyhow!("{message}"),
        Error::AuthRequired(_) => anyhow!("this needs a client to confirm who asks"),
        Error::Remote { server, source } => anyhow!("{server} failed: {source}"),
        Error::Internal(cause) => cause,
    }
}
