//! The command line. What a command does is a function of the library or a module beside this file.

mod database;
mod serve;
mod users;

use std::{
    env,
    io::{self, ErrorKind::BrokenPipe, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use chappe::{
    config::{Config, ConfigError, ENV_CONFIG_PATH, Setting},
    http::listen::ListenError,
    store,
};
use clap::{Parser, Subcommand};
use rustix::{fs::Mode, process::umask};

use self::users::UserCommand;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Something failed that may work at the next attempt.
const FAILURE: u8 = 1;
/// `EX_CONFIG` of sysexits.h: a restart does not help, and the systemd unit does not try one.
const BAD_CONFIGURATION: u8 = 78;

/// A Matrix homeserver for small public agencies.
#[derive(Parser)]
#[command(version, arg_required_else_help = true, after_help = EXIT_CODES)]
struct Arguments {
    /// Configuration file [default: $CHAPPE_CONFIG if set ("" for none), else conduit.toml in this directory]
    #[arg(long, short, global = true, value_name = "PATH")]
    config: Option<PathBuf>,

    /// Override one key of the configuration, such as port=8008 or tls.port=8448; may be repeated
    #[arg(long = "set", global = true, value_name = "KEY=VALUE")]
    settings: Vec<Setting>,

    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the server, until SIGTERM or SIGINT; SIGHUP makes it read renewed certificates
    Serve,
    /// Print the configuration in effect, with *** for secrets
    Config,
    /// Make and list the accounts of a stopped server, and set their passwords
    #[command(subcommand)]
    User(UserCommand),
    /// Read the whole database of a stopped server and compare what must agree; exit code 1 if something does not
    Check {
        /// Data directory [default: `database_path` of the configuration]
        directory: Option<PathBuf>,
    },
    /// Print for each server that we send to what waits for it, when it last took something, and how it fails; the server
    /// may run. That one answers and takes nothing only the running server knows, which tells it to its administrators
    Destinations {
        /// Data directory [default: `database_path` of the configuration]
        directory: Option<PathBuf>,
    },
    /// Make a new signing key for a stopped server; the old one stays published, so that what it signed stays valid
    RotateKey {
        /// Data directory [default: `database_path` of the configuration]
        directory: Option<PathBuf>,
    },
    /// Say that the database of a stopped server was put back to an earlier state. Needed after the snapshot of a disk or of
    /// a whole machine was put back; that files were copied the server notices by itself
    Restored {
        /// Data directory [default: `database_path` of the configuration]
        directory: Option<PathBuf>,
    },
    /// Print the rows of a table of a stopped server's database
    Inspect {
        /// Such as `rooms`; a wrong one lists all
        table: String,
        /// Only rows whose printed key contains this
        #[arg(default_value = "")]
        text: String,
        /// Data directory [default: `database_path` of the configuration]
        #[arg(long)]
        directory: Option<PathBuf>,
    },
}

const EXIT_CODES: &str =
    "Exit codes: 0 done, 1 failed, 2 wrong arguments, 78 wrong configuration, or a data directory that can't be used.";

fn main() -> ExitCode {
    umask(Mode::RWXG | Mode::RWXO); // what we write, messages and keys, is for nobody else on this machine
    let arguments = Arguments::parse();
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever reads our output has seen enough, as in `chappe inspect … | head`.
        Err(error) if error.downcast_ref().is_some_and(|e: &io::Error| e.kind() == BrokenPipe) => ExitCode::SUCCESS,
        Err(error) if is_of_configuration(&error) => {
            eprintln!("The configuration is wrong.\n{error:#}");
            ExitCode::from(BAD_CONFIGURATION)
        }
        Err(error) => {
            eprintln!("chappe: {error:#}");
            ExitCode::from(if is_of_directory(&error) { BAD_CONFIGURATION } else { FAILURE })
        }
    }
}

/// Whether each attempt fails so, until somebody changes the configuration or the files that it names.
fn is_of_configuration(error: &anyhow::Error) -> bool {
    error.is::<ConfigError>() || matches!(error.downcast_ref::<ListenError>(), Some(ListenError::Tls(_)))
}

/// Whether each attempt fails so, until somebody changes the data directory or names another one.
fn is_of_directory(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref::<store::Error>(), Some(store::Error::Directory { .. }))
}

fn run(arguments: Arguments) -> anyhow::Result<()> {
    let config = || load(arguments.config.as_deref(), &arguments.settings);
    let in_directory = |given: Option<PathBuf>| given.map_or_else(|| config().map(|config| config.database_path), Ok);
    match arguments.command {
        Command::Serve => serve::run(config()?),
        Command::Config => print(&config()?),
        Command::User(command) => users::run(config()?, command),
        Command::Check { directory } => database::check(&in_directory(directory)?),
        Command::Destinations { directory } => database::destinations(&in_directory(directory)?),
        Command::RotateKey { directory } => database::rotate_key(&in_directory(directory)?),
        Command::Restored { directory } => database::restored(&in_directory(directory)?),
        Command::Inspect { table, text, directory } => database::inspect(&in_directory(directory)?, &table, &text),
    }
}

/// The effective configuration: file, then environment, then command line.
fn load(path: Option<&Path>, of_command_line: &[Setting]) -> Result<Config, ConfigError> {
    let path = path.map(Path::to_owned).or_else(|| env::var_os(ENV_CONFIG_PATH).map(PathBuf::from));
    let path = path.unwrap_or_else(|| PathBuf::from("conduit.toml"));
    let path = (!path.as_os_str().is_empty()).then_some(path);
    let mut settings = Setting::from_environment(env::vars_os());
    settings.extend_from_slice(of_command_line);
    Config::load(path.as_deref(), &settings)
}

fn print(config: &Config) -> anyhow::Result<()> {
    io::stdout().write_all(config.to_toml()?.as_bytes())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }
}
